"""What trains a model: the abstract `Trainer`, the images it is given, and how one is found by name.

    trainer = get_trainer("classifier", TrainingConfig(augmentation="drawing", epochs=4))
    trainer.fit(data, outputs=10, report=print)
    trainer.export_model(folder, example)

Imports neither torch nor anything of the services, and works in a notebook. The built-in trainers are in BUILT_IN;
another package offers its own through the entry point group `emend.trainers` (docs/trainers.md), and a model chooses
one with `train.trainer` in its params.yaml.
"""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.storage import replacing, write_json
from pipeline.pixels import Images
from pipeline.stages import StageError, read_json
from pipeline.training.config import TrainingConfig

GROUP = "emend.trainers"
BUILT_IN = {
    "classifier": "pipeline.training.classifier:Classifier",
    "backbone": "pipeline.training.backbone:Backbone",
}

Figures = dict[str, Any]
REQUIRED_FIGURES = ("train_loss", "validation_loss", "validation_accuracy")


class TrainingDiverged(StageError):
    """The loss is not a number any more."""


@dataclass(frozen=True)
class TrainingData:
    """pixels: uint8 (N, H, W[, 3]), in memory or on disk; targets: int64 (N,), output indices; weights: float32 (N,),
    how much each image counts; unmirrored: outputs of which no mirror image is to be made, see `train.unmirrored`;
    known: bool (N,), whether the champion was trained on an image as what it is now; None where nobody says."""

    pixels: NDArray[np.uint8] | Images
    targets: NDArray[np.int64]
    weights: NDArray[np.float32]
    validation_pixels: NDArray[np.uint8] | Images
    validation_targets: NDArray[np.int64]
    unmirrored: tuple[int, ...] = ()
    known: NDArray[np.bool_] | None = None

    @property
    def channels(self) -> int:
        return 1 if len(self.pixels.shape) == 3 else 3


class Trainer(ABC):
    """One training. `fit` calls the steps below, in their order; who writes a trainer writes those.

    epochs: how many there will be; a trainer that decides by itself sets it in `create_model`.
    home: the model's, which paths in the options are relative to; in a notebook the working directory.
    trains_together: whether several processes can be joined into one training (ranks.py).
    """

    trains_together = False

    def __init__(self, config: TrainingConfig, say: Callable[[str], None] = print) -> None:
        self.config = config
        self.say = say
        self.epochs = config.epochs
        self.home = Path()
        self.starts_from_base = False  # create_model says so when the champion's weights are where it starts
        self.starts_from = "new weights"  # in words; create_model says so when it is something else

    @abstractmethod
    def prepare_dataset(self, data: TrainingData) -> None:
        """Takes the images: the first thing that happens."""

    @abstractmethod
    def create_model(self, outputs: int, base: Path | None) -> None:
        """base: the champion's folder (its graph, its weights, `categories.json`), to start from what it knows. Its
        outputs come first and in their order; None without a champion."""

    @abstractmethod
    def train_epoch(self, epoch: int) -> Figures:
        """epoch: from 1. The figures' `train_loss` is a must. Raises TrainingDiverged."""

    @abstractmethod
    def validate(self) -> Figures:
        """`validation_loss` and `validation_accuracy` (0..1), as the model will be served; None without images."""

    @abstractmethod
    def save_checkpoint(self, path: Path) -> None:
        """Writes to `path`, a file that is not there yet, all that `load_checkpoint` needs to go on from here."""

    @abstractmethod
    def load_checkpoint(self, path: Path) -> None:
        """After `create_model`, in another process: the epochs that follow are those that would have followed."""

    @abstractmethod
    def export_model(self, folder: Path, example: NDArray[np.uint8]) -> None:
        """Writes `model.onnx`, uint8 `pixels` (images, H, W[, 3]) in, float32 `probabilities` (images, outputs) out;
        and `weights.safetensors`, which a later training may start from. The same weights give the same bytes.

        example: pixels of one image.
        """

    def share_of_time(self, epoch: int) -> float:
        """0..1: of the whole training's time, what its first so many epochs take. It tells how much is left."""
        return epoch / self.epochs

    @property
    def leads(self) -> bool:
        """Of several processes that train together one validates, reports and writes."""
        return True

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def gpu_uuid(self) -> str | None:
        """Of the NVIDIA GPU it trains on, as its driver has it: how busy it is, is recorded."""
        return None

    @property
    def rate_key(self) -> str:
        """What of params.yaml says how far a step goes: to be lowered when training diverges."""
        return "train.warm_learning_rate" if self.starts_from_base else "train.learning_rate"

    @property
    def made_with(self) -> str:
        """What decides the weights besides data and configuration: a checkpoint of another one is not taken up."""
        return ""

    def fit(
        self,
        data: TrainingData,
        outputs: int,
        *,
        base: Path | None = None,
        checkpoints: Path | None = None,
        report: Callable[[Figures], None] = lambda figures: None,
    ) -> None:
        """Trains all epochs. checkpoints: a folder in which an interrupted training leaves its last epoch, and from
        which this very training goes on. report: called once an epoch, when its checkpoint is still to be written."""
        self.prepare_dataset(data)
        self.create_model(outputs, base)
        start = "the champion's weights" if self.starts_from_base else self.starts_from
        self.say(
            f"{len(data.targets)} images to train on, {len(data.validation_targets)} to validate, {outputs} outputs; "
            f"{self.epochs} epochs on {self.device}, from {start}"
        )
        finished, identity = 0, ""
        if checkpoints is not None:
            identity = self._identity(data, outputs, base)
            finished = self._resume(checkpoints, identity)
        began = time.perf_counter()
        for epoch in range(finished + 1, self.epochs + 1):
            started = time.perf_counter()
            figures = self.train_epoch(epoch)
            rate = len(data.targets) / (time.perf_counter() - started)
            if not self.leads:
                continue
            figures = self._checked_figures(figures | self.validate(), epoch)
            now = time.perf_counter()
            before, done = self.share_of_time(finished) if finished else 0.0, self.share_of_time(epoch)
            left = (now - began) / (done - before) * (1 - done)
            report(
                {
                    "epoch": epoch,
                    "epochs": self.epochs,
                    "images_per_second": round(rate, 1),
                    **figures,
                    "seconds": round(now - started, 3),
                    "seconds_left": round(left, 1),
                    "device": self.device,
                }
            )
            if checkpoints is not None:
                self._keep(checkpoints, epoch, identity)

    def _checked_figures(self, figures: Figures, epoch: int) -> Figures:
        """As plain numbers. Raises StageError when one is left out or odd, TrainingDiverged when one is no number."""
        missing = [key for key in REQUIRED_FIGURES if key not in figures]
        if not missing and figures["train_loss"] is None:
            missing = ["train_loss"]
        if missing:
            raise StageError(
                f"the trainer {self.config.trainer!r} gave no {', '.join(missing)} of epoch {epoch}; it must return it "
                "from train_epoch or validate (None without validation images)"
            )
        plain = {
            key: value.item() if isinstance(value, np.generic) else value for key, value in figures.items()
        }
        odd = [f"{key} ({type(plain[key]).__name__})" for key in plain if not _survives_json(plain[key])]
        if odd:
            raise StageError(
                f"the trainer {self.config.trainer!r} gave figures of epoch {epoch} that are no plain numbers: "
                f"{', '.join(odd)}; it must return Python's or NumPy's"
            )
        wrong = [
            f"{key} {plain[key]}"
            for key in plain
            if isinstance(plain[key], float) and not isfinite(plain[key])
        ]
        if wrong:
            raise TrainingDiverged(
                f"after epoch {epoch} of {self.epochs}: {', '.join(wrong)}; lower {self.rate_key} in params.yaml and "
                "start a new run"
            )
        return plain

    def _keep(self, checkpoints: Path, epoch: int, identity: str) -> None:
        """The file first, then the note that names it: killed in between, the one before holds."""
        checkpoints.mkdir(parents=True, exist_ok=True)
        file = checkpoints / f"epoch-{epoch}"
        with replacing(file) as temporary:
            self.save_checkpoint(temporary)
        write_json(checkpoints / "last.json", {"epoch": epoch, "identity": identity})
        (checkpoints / f"epoch-{epoch - 1}").unlink(missing_ok=True)

    def _resume(self, checkpoints: Path, identity: str) -> int:
        """The epochs finished."""
        note = checkpoints / "last.json"
        if not note.exists():
            return 0
        last = read_json(note)
        if last["identity"] != identity:
            return 0
        self.load_checkpoint(checkpoints / f"epoch-{last['epoch']}")
        self.say(f"going on after epoch {last['epoch']} of {self.epochs}, from the checkpoint")
        return int(last["epoch"])

    def _identity(self, data: TrainingData, outputs: int, base: Path | None) -> str:
        """Names a training by all that decides its weights."""
        config = self.config.model_dump_json(exclude={"threads"})
        digest = hashlib.sha256(f"{config} {outputs} {self.epochs} {self.made_with}".encode())
        for pixels in in_batches(data.pixels, 10_000):
            digest.update(pixels.tobytes())
        for pixels in in_batches(data.validation_pixels, 10_000):
            digest.update(pixels.tobytes())
        for array in (data.targets, data.weights, data.validation_targets, data.known):
            if array is not None:
                digest.update(array.tobytes())
        if base is not None:
            digest.update((base / "model.onnx").read_bytes())
        return digest.hexdigest()


def _survives_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def in_batches(images: NDArray[np.uint8] | Images, size: int) -> Iterator[NDArray[np.uint8]]:
    return (images[start : start + size] for start in range(0, len(images), size))


def loss_weights(
    targets: NDArray[np.int64], corrected: NDArray[np.bool_], actors: NDArray[np.str_], config: TrainingConfig
) -> NDArray[np.float32]:
    """All (N,): how much each image counts. corrected: whether somebody said what it is. actors: who; "" where the word
    is the team's.

    Corrected images count more, but what one actor's count more comes to at most `actor_share` of an average category,
    and what all of them count more to no more than the images themselves: many need no lift.
    """
    plain = balanced(targets, config.balance)
    more = np.where(corrected, plain * (config.correction_weight - 1), 0)
    bound = config.actor_share * plain.sum() / len(np.unique(targets))
    names, whose = np.unique(actors, return_inverse=True)
    kept = np.minimum(1, bound / np.maximum(np.bincount(whose, more), 1e-9))
    kept[names == ""] = 1
    more *= kept[whose]
    more *= min(1, plain.sum() / max(more.sum(), 1e-9))
    return np.asarray(plain + more, np.float32)


def balanced(targets: NDArray[np.int64], exponent: float) -> NDArray[np.float32]:
    """Weights that lift rare outputs: (mean count / count) ** exponent, so 0 leaves all at 1."""
    counts = np.bincount(targets)
    mean = float(counts[counts > 0].mean())
    return np.asarray((mean / counts[targets]) ** exponent, np.float32)


def get_trainer(name: str, config: TrainingConfig, say: Callable[[str], None] = print) -> Trainer:
    """A built-in one, or one of another package. Raises StageError that says which there are, or who else offers it."""
    _check_unique(name)
    found: Any = _built_in(name) if name in BUILT_IN else _offered(name)
    trainer: Trainer = found(config, say)
    return trainer


def _check_unique(name: str) -> None:
    by = sorted(each.dist.name for each in entry_points(group=GROUP, name=name) if each.dist is not None)
    if name in BUILT_IN:
        by.insert(0, "Emend itself")
    if len(by) > 1:
        raise StageError(
            f"the trainer {name!r} is offered by more than one: {', '.join(by)}. Uninstall those that you do "
            "not want, or change train.trainer in params.yaml"
        )


def _built_in(name: str) -> type[Trainer]:
    module, _, attribute = BUILT_IN[name].partition(":")
    try:
        found: type[Trainer] = getattr(import_module(module), attribute)
    except (ImportError, OSError, RuntimeError) as exc:  # all three: a torchvision built for another torch
        raise StageError(
            f"the trainer {name!r} does not load: {exc}; install what requirements.lock names (`make setup`), torch "
            "and torchvision from one place (TORCH=cpu or TORCH=cuda)"
        ) from exc
    return found


def _offered(name: str) -> type[Trainer]:
    offered = {each.name: each for each in entry_points(group=GROUP)}
    if name not in offered:
        known = ", ".join(sorted({*BUILT_IN, *offered}))
        raise StageError(
            f"there is no trainer {name!r}; there are: {known}. Install the package that offers it (entry point group "
            f"{GROUP}), or change train.trainer in params.yaml"
        )
    return _loaded(offered[name])


def _loaded(entry: EntryPoint) -> type[Trainer]:
    where = f"the trainer {entry.name!r} ({entry.value})"
    try:
        found = entry.load()
    except Exception as exc:  # another package's code may raise anything
        raise StageError(f"{where} does not load: {type(exc).__name__}: {exc}") from exc
    if not (isinstance(found, type) and issubclass(found, Trainer)):
        raise StageError(f"{where} is no subclass of pipeline.training.trainer.Trainer")
    missing = sorted(found.__abstractmethods__)
    if missing:
        raise StageError(f"{where} lacks {', '.join(missing)}")
    return found
