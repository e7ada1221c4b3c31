"""Versions in memory: loading one, trying it on its example, swapping it in.

A swap is one assignment. A request holds the version it began with, so the old one finishes what it has
begun and is freed with its last request; nothing counts, nothing waits.
"""

from __future__ import annotations

import json
import math
import threading
import time
import weakref
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from core import telemetry
from serving import metrics
from serving.errors import BadRequest, NotReady, UnknownModel, VersionRejected
from serving.protocol import INPUT, OUTPUT, Pixels, Shape, parse_payload

# Where `mlflow.onnx.log_model(extra_files=…)` puts what is not MLflow's own.
EXTRA_FILES = "extra_files"
# What of a version is for others, and not fetched. Anything else may be the graph's own, as weights beside it are.
NOT_SERVED = (
    *("MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "registered_model_meta"),
    *("input_example.json", "input.json", "weights.safetensors"),
)

# The same graph answers within this on any CPU; a wrong preprocessing or a swapped class is far beyond it.
EXAMPLE_TOLERANCE = 1e-4
SUM_TOLERANCE = 1e-3

# Of one call, for large graphs. A small one answers sooner than threads can share it out: with 105,000 weights two took
# a tenth more of the processor and no less time.
_INTRA_OP_THREADS = 2
_SMALL_GRAPH_BYTES = 4_000_000
# Arena and memory pattern stay on, as they are by default. With bench/serving's network for drawings, on one thread:
# 0.26, 3.2 and 15.5 ms of processor time for 1, 16 and 64 images, and 25 MB more after 600 batches of 1 to 64 images.
# Without pattern 0.28, 3.9 and 16.2 ms, 10 MB (medians of three runs each, in turns); without arena 28 MB and no
# faster; an arena that shrinks after each call 344 MB.

log = telemetry.get_logger(__name__)


class LoadedVersion:
    """A version that may answer: its graph in memory, tried on its example. Threads may share it.

    seconds_an_image: how long it took when it was tried.
    """

    seconds_an_image = math.inf

    def __init__(self, name: str, identity: dict[str, Any], session: ort.InferenceSession) -> None:
        self.name = name
        self.version = int(identity["version"])
        self.identity = identity
        self.loaded_at = datetime.now(UTC)
        self.shape = _input_shape(session)
        self._session = session

    def probabilities(self, pixels: Pixels) -> NDArray[np.float32]:
        """(N, *shape) uint8 to (N, C) float32."""
        (answer,) = self._session.run([OUTPUT], {INPUT: pixels})
        return np.asarray(answer)


def load(directory: Path) -> LoadedVersion:
    """The version downloaded to `<model>/<version>/`. Raises VersionRejected, saying why."""
    identity = read_identity(directory)
    if identity is None:
        raise VersionRejected(f"{directory} is not a downloaded version: it has no usable version.json")
    loaded = LoadedVersion(str(identity["name"]), identity, _session(directory / "model.onnx"))
    _try_example(loaded, directory)
    return loaded


def read_identity(directory: Path) -> dict[str, Any] | None:
    """What `Registry.download` noted; None when it did not finish here, or the file is damaged."""
    try:
        identity = json.loads((directory / "version.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    is_whole = isinstance(identity, dict) and isinstance(identity.get("version"), int) and "name" in identity
    return identity if is_whole else None


def _session(graph: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    is_small = graph.exists() and graph.stat().st_size < _SMALL_GRAPH_BYTES
    options.intra_op_num_threads = 1 if is_small else _INTRA_OP_THREADS
    options.inter_op_num_threads = 1
    # Idle workers sleep at once instead of spinning: the cores are shared with every other service.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's errors share no root but Exception
        raise VersionRejected(f"the graph does not load: {_first_line(exc)}") from exc


def _input_shape(session: ort.InferenceSession) -> Shape:
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    if set(inputs) != {INPUT} or OUTPUT not in outputs:
        raise VersionRejected(
            f"the graph maps {sorted(inputs)} to {outputs}; it must map '{INPUT}' to '{OUTPUT}'"
        )
    batch, *image = inputs[INPUT].shape
    if isinstance(batch, int) or not image or not all(isinstance(side, int) and side > 0 for side in image):
        raise VersionRejected(f"'{INPUT}' has shape {inputs[INPUT].shape}; only the first may be open")
    if inputs[INPUT].type != "tensor(uint8)":
        raise VersionRejected(f"'{INPUT}' is {inputs[INPUT].type}; it must be tensor(uint8)")
    return tuple(image)


def _try_example(loaded: LoadedVersion, directory: Path) -> None:
    """Raises VersionRejected unless the example is answered with probabilities, the recorded ones if any."""
    example = _read_json(directory, "example_answer.json") or _read_json(
        directory, "serving_input_example.json"
    )
    example = example or {"inputs": np.zeros((1, *loaded.shape)).tolist()}
    expected = example.pop(OUTPUT, None)
    try:
        pixels = parse_payload(example, loaded.shape)
    except BadRequest as exc:
        raise VersionRejected(f"its input example does not fit its graph: {exc.message}") from exc
    try:
        answer = loaded.probabilities(pixels)
        loaded.seconds_an_image = _seconds(loaded, pixels) / max(len(pixels), 1)
    except Exception as exc:  # ONNX Runtime's errors share no root but Exception
        raise VersionRejected(f"it fails on its input example: {_first_line(exc)}") from exc
    _check_probabilities(answer, len(pixels))
    if expected is not None:
        _check_expected(answer, expected)
    categories = _read_json(directory, "categories.json")
    if categories is not None:
        _check_outputs(categories.get("outputs"), answer.shape[1])


def _seconds(loaded: LoadedVersion, pixels: Pixels) -> float:
    """The best of three: other work on the same cores is not the version's."""
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        loaded.probabilities(pixels)
        taken.append(time.perf_counter() - started)
    return min(taken)


def _check_outputs(named: object, count: int) -> None:
    if not isinstance(named, list):
        raise VersionRejected("categories.json has no list of outputs")
    if len(named) != count:
        raise VersionRejected(f"categories.json names {len(named)} outputs, the graph has {count}")


def _check_probabilities(answer: NDArray[np.float32], count: int) -> None:
    if answer.ndim != 2 or len(answer) != count:
        raise VersionRejected(
            f"it answers {count} images with shape {answer.shape}, not ({count}, categories)"
        )
    if not np.isfinite(answer).all():
        raise VersionRejected("it answers its input example with figures that are not finite")
    if (answer < 0).any() or (np.abs(answer.sum(axis=1) - 1) > SUM_TOLERANCE).any():
        raise VersionRejected(
            "its answers to its input example are no probabilities: negative, or not summing to 1"
        )


def _check_expected(answer: NDArray[np.float32], expected: object) -> None:
    try:
        wanted = np.array(expected, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as exc:
        raise VersionRejected("example_answer.json has no usable probabilities") from exc
    if wanted.shape != answer.shape:
        raise VersionRejected(
            f"it answers its input example with shape {answer.shape}, recorded was {wanted.shape}"
        )
    difference = float(np.abs(answer - wanted).max())
    if not difference <= EXAMPLE_TOLERANCE:
        raise VersionRejected(
            f"it answers its input example differently than recorded: by up to {difference:.2g}, "
            f"allowed is {EXAMPLE_TOLERANCE:g}"
        )


def _read_json(directory: Path, name: str) -> dict[str, Any] | None:
    for path in (directory / EXTRA_FILES / name, directory / name):
        if path.exists():
            try:
                content = json.loads(path.read_bytes())
            except (OSError, ValueError, RecursionError) as exc:
                raise VersionRejected(f"its {name} cannot be read: {_first_line(exc)}") from exc
            if not isinstance(content, dict):
                raise VersionRejected(f"its {name} is not a JSON object")
            return content
    return None


def _first_line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:300]


@dataclass
class _Model:
    live: LoadedVersion | None = None
    rejected: dict[int, str] = field(default_factory=dict)
    waiting: tuple[int, str] | None = None


class Versions:
    """Which version of each model answers now, and which were turned down and why."""

    def __init__(self, default_model: str) -> None:
        self.default_model = default_model
        self._models: dict[str, _Model] = {}
        self._writing = threading.Lock()

    def live(self, name: str) -> LoadedVersion:
        """Hold on to what this returns for the length of one request. Raises NotReady, UnknownModel."""
        loaded = self.peek(name)
        if loaded is None:
            if name == self.default_model or name in self._models:
                raise NotReady(f"no version of '{name}' is loaded yet; see /version for what it waits for")
            raise UnknownModel(f"no model '{name}' here; the ones here: {', '.join(self.ready()) or 'none'}")
        return loaded

    def peek(self, name: str) -> LoadedVersion | None:
        model = self._models.get(name)
        return None if model is None else model.live

    def ready(self) -> list[str]:
        return sorted(name for name, model in list(self._models.items()) if model.live is not None)

    def swap(self, loaded: LoadedVersion) -> None:
        """From here on this one answers new requests."""
        with self._writing:
            model = self._models.setdefault(loaded.name, _Model())
            old, model.live, model.waiting = model.live, loaded, None
            model.rejected.pop(loaded.version, None)
        metrics.live(loaded.name, loaded.version)
        log.info("version_live", model=loaded.name, version=loaded.version, replaced=old and old.version)
        if old is not None:
            weakref.finalize(
                old, log.info, "version_drained", model=old.name, version=old.version
            ).atexit = False

    def reject(self, name: str, version: int, reason: str) -> None:
        with self._writing:
            model = self._models.setdefault(name, _Model())
            model.rejected[version] = reason
            model.waiting = None
        metrics.REJECTED.labels(name).inc()
        log.error("version_rejected", model=name, version=version, reason=reason)

    def wait_for(self, name: str, version: int, reason: str) -> None:
        """The version cannot be had just now; it will be tried again."""
        with self._writing:
            self._models.setdefault(name, _Model()).waiting = (version, reason)
        log.warning("version_waiting", model=name, version=version, reason=reason)

    def forget_rejections(self, name: str, but: int) -> None:
        """Of versions the alias does not point at any more: pointed at again, they are tried again."""
        with self._writing:
            model = self._models.get(name)
            if model is not None:
                model.rejected = {version: why for version, why in model.rejected.items() if version == but}

    def settled(self, name: str) -> None:
        """The registry points at what answers already: nothing is waited for."""
        with self._writing:
            self._models.setdefault(name, _Model()).waiting = None

    def as_json(self) -> dict[str, Any]:
        with self._writing:
            return {"models": {name: _as_json(model) for name, model in sorted(self._models.items())}}


def _as_json(model: _Model) -> dict[str, Any]:
    live, waiting = model.live, model.waiting
    return {
        "version": live and live.version,
        "loaded_at": live and live.loaded_at.isoformat(timespec="milliseconds"),
        "rejected": {str(version): reason for version, reason in sorted(model.rejected.items())},
        "waiting": waiting and {"version": waiting[0], "reason": waiting[1]},
    }
