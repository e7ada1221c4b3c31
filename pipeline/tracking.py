"""Training's curves on their way to MLflow, beside everything else that an orchestrator does.

    tracking = Tracking(settings().mlflow_tracking_uri, made=record)
    tracking.follow(TrackedRun(12, "doodles", folder, requested_at), mlflow_run_id=None)
    tracking.end(12, "FINISHED")        # MLflow hears it after the whole curve

One thread reads what each `metrics.jsonl` gains and sends it in batches, at most one a second. Nothing waits for it:
MLflow may be away, slow or hang, and what it does not have yet stays in the file. `tracked.json` beside it says how far
MLflow has it, so that an orchestrator started again goes on there; a line sent twice is the same point to MLflow, which
knows one by key, step, time and value.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from core import telemetry
from core.errors import EmendError, Unavailable
from core.registry import Metric, Registry, RegistryError, RunStatus
from core.storage import write_json
from pipeline.curve import read_curve

NOTE = "tracked.json"
BATCH_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 10.0
REQUEST_SECONDS = 30.0  # a slow server is not one that is away: nobody waits for this
NOT_SENT = ("epoch", "epochs", "seconds_left", "gpu_index", "memory_total_bytes", "gpu_memory_total_bytes")
# Names and units of MLflow's own monitors, by which its page for system metrics knows them:
# https://mlflow.org/docs/latest/ml/tracking/system-metrics. {gpu}: the card's number.
SYSTEM = {
    "cpu_utilisation": ("system/cpu_utilization_percentage", 100),
    "memory_bytes": ("system/system_memory_usage_megabytes", 1e-6),
    "gpu_utilisation": ("system/gpu_{gpu}_utilization_percentage", 100),
    "gpu_memory_bytes": ("system/gpu_{gpu}_memory_usage_megabytes", 1e-6),
    # Ours: MLflow tells of whole machines only.
    "process_cpu_utilisation": ("system/process_cpu_utilization_percentage", 100),
    "process_memory_bytes": ("system/process_memory_usage_megabytes", 1e-6),
}
SHARES = {
    "system/system_memory_usage_percentage": ("memory_bytes", "memory_total_bytes"),
    "system/gpu_{gpu}_memory_usage_percentage": ("gpu_memory_bytes", "gpu_memory_total_bytes"),
}

_log = telemetry.get_logger("tracking")


@dataclass(frozen=True)
class TrackedRun:
    """folder: `runs/<run>` of the home. requested_at: tells it from runs of other deployments with its number."""

    run_id: int
    model: str
    folder: Path
    requested_at: datetime


class Tracking:
    """The runs whose curves MLflow does not have in whole yet. Threads may share it.

    made: told of a run and its MLflow run once there is one; may raise Unavailable, and is then told again.
    """

    def __init__(
        self,
        tracking_uri: str,
        made: Callable[[int, str], None],
        *,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._tracking_uri = tracking_uri
        self._made = made
        self._request_seconds = request_seconds
        self._changed = threading.Condition()
        self._followed: dict[int, _Followed] = {}
        self._stopping = False
        self._thread: threading.Thread | None = None

    def follow(self, run: TrackedRun, mlflow_run_id: str | None) -> None:
        """From where MLflow has it to. mlflow_run_id: None while it has no run there, which is then made."""
        with self._changed:
            followed = self._followed.get(run.run_id) or _Followed(run)
            followed.go_on(mlflow_run_id)
            self._followed[run.run_id] = followed
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def trouble(self, run_id: int) -> EmendError | None:
        """Why MLflow does not have all of a run that is followed."""
        with self._changed:
            followed = self._followed.get(run_id)
            return None if followed is None else followed.trouble

    def end(self, run_id: int, status: RunStatus | None) -> None:
        """Sends what is left, then says so to MLflow, then forgets the run. None: it may go on, MLflow is not told."""
        with self._changed:
            if followed := self._followed.get(run_id):
                followed.end(status)
            self._changed.notify_all()

    def flush(self, run_id: int, seconds: float) -> bool:
        """True when MLflow has the curve as it is now; waits so long at most, and not where MLflow says no."""
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_sent(run_id) or self._is_refused(run_id), seconds)
            return self._is_sent(run_id)

    def take_up(self, data_dir: Path, is_active: Callable[[int], bool]) -> None:
        """What an orchestrator left that was stopped or killed; not of runs that somebody is at work on."""
        for note in sorted(data_dir.glob(f"*/runs/*/{NOTE}")):
            try:
                told = json.loads(note.read_text())
                requested_at = datetime.fromisoformat(told["requested_at"])
                run = TrackedRun(int(told["run_id"]), str(told["model"]), note.parent, requested_at)
                ending, sent_bytes = told["ending"], int(told["sent_bytes"])
                mlflow_run_id = told["mlflow_run_id"] if told["recorded"] else None
            except (OSError, ValueError, KeyError, TypeError) as exc:
                _log.warning("not taken up", file=str(note), reason=f"{type(exc).__name__}: {exc}")
                continue
            is_sent = ending is None and told["recorded"] and not _has_more(run, sent_bytes)
            if is_sent or run.run_id in self._followed or is_active(run.run_id):
                continue
            self.follow(run, mlflow_run_id)
            self.end(run.run_id, ending)

    def close(self) -> None:
        """Does not wait for MLflow: what it does not have yet is taken up by the next orchestrator."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(1.0)

    def _is_sent(self, run_id: int) -> bool:
        followed = self._followed.get(run_id)
        return followed is None or followed.is_sent()

    def _is_refused(self, run_id: int) -> bool:
        return self._followed[run_id].is_refused()

    def _work(self) -> None:
        with Registry(self._tracking_uri, timeout_seconds=self._request_seconds) as registry:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping or self._followed)
                    if self._stopping:
                        return
                    due = [each for each in self._followed.values() if each.is_due()]
                for followed in due:
                    followed.send(registry, self._made)
                with self._changed:
                    self._followed = {id_: f for id_, f in self._followed.items() if not f.is_done()}
                    self._changed.notify_all()
                    if not self._stopping:
                        self._changed.wait(BATCH_SECONDS)


class _Followed:
    """One run, and how far MLflow has it."""

    def __init__(self, run: TrackedRun) -> None:
        told = _read(run.folder / NOTE)
        self.trouble: EmendError | None = None
        self._run = run
        self._mlflow_run_id: str | None = told.get("mlflow_run_id")
        self._sent_bytes = int(told.get("sent_bytes", 0))
        self._noting = threading.Lock()
        self._is_recorded = bool(told.get("recorded"))
        self._has_ended = False
        self._ending: RunStatus | None = None
        self._retry_at = 0.0
        self._delay_seconds = BATCH_SECONDS

    def go_on(self, mlflow_run_id: str | None) -> None:
        if mlflow_run_id is not None and mlflow_run_id != self._mlflow_run_id:
            self._mlflow_run_id, self._sent_bytes = mlflow_run_id, 0
        self._is_recorded = self._is_recorded or mlflow_run_id is not None
        self._has_ended, self._ending, self._retry_at = False, None, 0.0
        self._keep()

    def end(self, status: RunStatus | None) -> None:
        self._has_ended, self._ending, self._retry_at = True, status, 0.0
        self._keep()

    def is_sent(self) -> bool:
        return self._mlflow_run_id is not None and not _has_more(self._run, self._sent_bytes)

    def is_refused(self) -> bool:
        return self.trouble is not None and not isinstance(self.trouble, Unavailable)

    def is_due(self) -> bool:
        has_work = not self._is_recorded or self._ending is not None or not self.is_sent()
        return has_work and time.monotonic() >= self._retry_at

    def is_done(self) -> bool:
        """It is over, and MLflow knows; or was refused, which the next orchestrator tries again; or is cleaned up."""
        knows = self._is_recorded and self._ending is None and self.is_sent()
        return self._has_ended and (knows or self.is_refused() or not self._run.folder.is_dir())

    def send(self, registry: Registry, made: Callable[[int, str], None]) -> None:
        """All there is to send, or it is tried again later."""
        try:
            self._send(registry, made)
        except EmendError as exc:
            self.trouble = exc
        except Exception as exc:  # noqa: BLE001 - one run's figures must not end the thread that sends all runs'
            _log.exception("training's figures cannot be sent", run_id=self._run.run_id)
            self.trouble = RegistryError(f"{type(exc).__name__}; see the orchestrator's log")
        else:
            self.trouble, self._delay_seconds = None, BATCH_SECONDS
            return
        _log.warning(
            "training's figures wait for MLflow", run_id=self._run.run_id, reason=self.trouble.message
        )
        self._retry_at = time.monotonic() + self._delay_seconds
        self._delay_seconds = min(LONGEST_DELAY_SECONDS, 2 * self._delay_seconds)

    def _send(self, registry: Registry, made: Callable[[int, str], None]) -> None:
        ending = self._ending
        if self._mlflow_run_id is None:
            self._mlflow_run_id = _mlflow_run_of(self._run, registry)
            self._keep()
        if not self._is_recorded:
            made(self._run.run_id, self._mlflow_run_id)
            self._is_recorded = True
            self._keep()
        curve = read_curve(_curve_path(self._run), self._sent_bytes)
        if curve.end_bytes > self._sent_bytes:
            metrics = [point for epoch in curve.epochs for point in points(epoch)]
            registry.log_batch(self._mlflow_run_id, metrics=metrics)
            self._sent_bytes = curve.end_bytes
            self._keep()
        if ending is not None:
            registry.finish_run(self._mlflow_run_id, ending)
            if self._ending == ending:  # else it was resumed meanwhile
                self._ending = None
                self._keep()

    def _keep(self) -> None:
        if not self._run.folder.is_dir():  # cleaned up
            return
        with self._noting:  # what is noted last is what holds last
            told = {
                "run_id": self._run.run_id,
                "model": self._run.model,
                "requested_at": self._run.requested_at.isoformat(),
                "mlflow_run_id": self._mlflow_run_id,
                "recorded": self._is_recorded,
                "sent_bytes": self._sent_bytes,
                "ending": self._ending,
            }
            write_json(self._run.folder / NOTE, told)


def points(epoch: Mapping[str, Any]) -> Iterable[Metric]:
    """An epoch's numbers as MLflow has them, at the moment when the epoch was over."""
    step, at = int(epoch["epoch"]), epoch.get("at")
    at_ms = round(1000 * datetime.fromisoformat(at).timestamp()) if isinstance(at, str) else None
    gpu = epoch.get("gpu_index", 0)
    for key, value in epoch.items():
        if key in NOT_SENT or not isinstance(value, int | float):
            continue
        name, scale = SYSTEM.get(key, (_allowed(key), 1))
        yield Metric(name.replace("{gpu}", str(gpu)), float(value) * scale, step, at_ms)
    for name, (part, whole) in SHARES.items():
        if part in epoch and epoch.get(whole):
            share = 100 * epoch[part] / epoch[whole]
            yield Metric(name.replace("{gpu}", str(gpu)), share, step, at_ms)


def _allowed(key: str) -> str:
    """A trainer's own figure may be named as MLflow refuses it, and with it the whole batch."""
    return re.sub(r"[^\w.\- :/]", "_", key)[:250]


def _mlflow_run_of(run: TrackedRun, registry: Registry) -> str:
    """An earlier attempt may have made it and not heard so."""
    experiment = registry.ensure_experiment(run.model)
    tags = {"emend.run": str(run.run_id), "emend.requested_at": run.requested_at.isoformat()}
    return registry.find_run(experiment, tags) or registry.create_run(experiment, f"run-{run.run_id}", tags)


def _curve_path(run: TrackedRun) -> Path:
    return run.folder / "metrics.jsonl"


def _has_more(run: TrackedRun, sent_bytes: int) -> bool:
    """Whole lines."""
    return read_curve(_curve_path(run), sent_bytes).end_bytes > sent_bytes


def _read(note: Path) -> dict[str, Any]:
    try:
        told = json.loads(note.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
