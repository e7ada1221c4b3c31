"""Trains the challenger on the home's dataset and writes `model/`.

    python -m pipeline.stages.train --home data/doodles --run 12

Reads only files of the home (params.yaml, dataset/, base/), so DVC can reproduce it without a run. base/ is the
champion: its outputs keep their places, newly active categories are appended, and its weights are where training
starts. Interrupted, it goes on from its last epoch; the weights are the same to the bit.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.duration import in_words
from core.labels import key_of
from pipeline.curve import read_curve
from pipeline.dataset import Category, Labelled, load, read_categories
from pipeline.stages import Result, StageError, StageRun, main, read_json
from pipeline.training.config import TrainingConfig
from pipeline.training.trainer import TrainingData, get_trainer, loss_weights


def warm_up() -> None:
    """torch and onnxruntime take 4 s to import."""
    # Threads that wait for each other must not spin: other processes of the system share the cores, and a spinning
    # thread then keeps the one it waits for from running.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import_module("pipeline.training.classifier")


def work(stage: StageRun) -> Result | None:
    """Trains the challenger on dataset/ (splits train and validation), from base/ when there is a champion."""
    warm_up()
    from pipeline.training.ranks import together

    of_run = [] if stage.run is None else ["--run", str(stage.run)]
    command = ["-m", "pipeline.stages.train", "--home", str(stage.home), *of_run]
    with together(stage.params.train.processes, command):
        return _train(stage)


def _train(stage: StageRun) -> Result | None:
    """None when another process of this training leads it."""
    from core.machine import FIGURES, Sampler
    from pipeline.training import ranks
    from pipeline.training.export import describe, pattern

    started = time.monotonic()
    config, spec = stage.params.train, stage.params.input.spec
    outputs = decide_outputs(read_categories(stage.home), _base_outputs(stage.home))
    images = load(stage.home, spec, ("train", "validation"))
    data = training_data(images, outputs, config, known_to_base(stage.home, images))
    leads = ranks.rank() == 0
    trainer = get_trainer(config.trainer, config, print if leads else lambda line: None)
    if ranks.count() > 1 and not trainer.trains_together:
        raise StageError(
            f"the trainer {config.trainer!r} trains in one process; set train.processes: 1 in params.yaml"
        )
    trainer.home = stage.home
    curve = Curve(None if stage.run is None else stage.folder / "metrics.jsonl")
    checkpoints = None if stage.run is None else stage.folder / "checkpoints"
    with Sampler(trainer.gpu_uuid) as sampler:
        trainer.fit(
            data,
            len(outputs),
            base=stage.home / "base" if _base_version(stage.home) is not None else None,
            checkpoints=checkpoints,
            report=lambda figures: curve.add(figures | sampler.take()),
        )
    if not leads:
        return None
    building = stage.home / "runs" / ".model"  # runs/ is in no version control, and on the same disk
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    example = next(iter(data.validation_pixels[:1]), pattern(spec.shape))
    trainer.export_model(building, example)
    describe(building, outputs, spec, example)
    _swap_in(building, stage.home / "model")
    if checkpoints is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)
    seconds = round(time.monotonic() - started, 1)
    print(f"trained and exported in {seconds} s")
    return Result(
        figures={
            "train images": len(data.targets),
            "validation images": len(data.validation_targets),
            "validation_accuracy": curve.last.get("validation_accuracy"),
            "epochs": trainer.epochs,
            "seconds": seconds,
            "device": trainer.device,
            **{name: curve.last[name] for name in FIGURES if name in curve.last},
        },
        data={
            "outputs": [{"id": category.id, "name": category.name} for category in outputs],
            "base_version": _base_version(stage.home) if trainer.starts_from_base else None,
        },
    )


def decide_outputs(categories: Sequence[Category], base: Sequence[Category]) -> list[Category]:
    """The base's outputs in their order, under their present names, then newly active categories in order of id.

    Retired categories keep their place. Raises StageError with fewer than two active ones.
    """
    active = [category for category in categories if category.state == "active"]
    if len(active) < 2:
        named = ", ".join(repr(category.name) for category in active) or "none"
        pending = ", ".join(repr(c.name) for c in categories if c.state == "pending") or "none"
        raise StageError(
            f"a classifier needs at least two active categories; active: {named}; pending: {pending}. Add images of "
            f"another category (`emend import`, or corrections) until it has merge.min_images, then run again"
        )
    present = {category.id: category for category in categories}
    known = [present.get(category.id, category) for category in base]
    known_ids = {category.id for category in base}
    return known + sorted((c for c in active if c.id not in known_ids), key=lambda c: c.id)


def training_data(
    images: Labelled,
    outputs: Sequence[Category],
    config: TrainingConfig,
    known: NDArray[np.bool_] | None = None,
) -> TrainingData:
    """Images of active categories as arrays. known: bool (N,), of `known_to_base`. Raises StageError when none are for
    training."""
    place = {category.id: index for index, category in enumerate(outputs) if category.state == "active"}
    targets = np.array([place.get(int(i), -1) for i in images.category_ids], np.int64)
    split = images.table["split"].to_numpy()
    training, validation = (np.flatnonzero((split == s) & (targets >= 0)) for s in ("train", "validation"))
    if len(training) == 0:
        raise StageError(
            "the dataset has no training images of an active category; import some (`emend import`), then run again"
        )
    source = images.table["source"].to_numpy()[training].astype(str)
    named = images.table["actor"].fill_null("nobody that is known").to_numpy(zero_copy_only=False)
    actors = named[training].astype(str)
    actors = np.where(source == "review", "", actors)  # a reviewer's word is the team's
    corrected = np.isin(source, ("correction", "review", "sample"))
    weights = loss_weights(targets[training], corrected, actors, config)
    return TrainingData(
        pixels=images.pixels.take(training),
        targets=targets[training],
        weights=weights,
        validation_pixels=images.pixels.take(validation),
        validation_targets=targets[validation],
        unmirrored=places_of(config.unmirrored, outputs),
        known=None if known is None else known[training],
    )


def known_to_base(home: Path, images: Labelled) -> NDArray[np.bool_] | None:
    """bool (N,): of which images the champion had learned the label they have now; None where base/ does not say.

    A label's shard is the dataset version that brought it. A category with too few images was not learned then.
    """
    about = _about_base(home)
    if about["version"] is None or "dataset_version" not in about:  # an older Emend's
        return None
    brought_by = images.table["dataset_version"].to_numpy()
    had = np.isin(images.category_ids, [category.id for category in _base_outputs(home)])
    return np.asarray(had & (brought_by <= (about["dataset_version"] or 0)), np.bool_)


def places_of(names: Sequence[str], outputs: Sequence[Category]) -> tuple[int, ...]:
    """Of some categories, by name or alias, among the outputs; one that is not learned yet has none."""
    keys = {key_of(name) for name in names}
    return tuple(
        place
        for place, category in enumerate(outputs)
        if not keys.isdisjoint(map(key_of, (category.name, *category.aliases)))
    )


class Curve:
    """`metrics.jsonl`, one object an epoch, only ever appended to; and a line for people.

    A resumed training repeats an epoch that was killed before its checkpoint: the last line of an epoch counts. `at`,
    when the epoch was over, makes a line unlike any other: whoever forwards one twice can tell.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        epochs: list[dict[str, Any]] = []
        if path is not None and path.exists():
            if not path.read_bytes().endswith(b"\n"):
                with path.open("a") as file:  # cut off by a crash: what follows begins a line of its own
                    file.write("\n")
            epochs = read_curve(path).epochs
        self.last: dict[str, Any] = epochs[-1] if epochs else {}

    def add(self, figures: dict[str, Any]) -> None:
        self.last = figures = {**figures, "at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        accuracy, left = figures["validation_accuracy"], figures["seconds_left"]
        validation = "no validation images" if accuracy is None else f"validation {accuracy:.2%}"
        print(
            f"epoch {figures['epoch']}/{figures['epochs']}: loss {figures['train_loss']:.3f}, {validation}, "
            f"{figures['images_per_second']:.0f} images/s, {figures['seconds']:.1f} s"
            + (f", {in_words(left)} left" if left else "")
        )
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(figures) + "\n")


def _about_base(home: Path) -> dict[str, Any]:
    path = home / "base" / "version.json"
    return read_json(path) if path.exists() else {"version": None}


def _base_version(home: Path) -> int | None:
    version: int | None = _about_base(home)["version"]
    return version


def _base_outputs(home: Path) -> list[Category]:
    if _base_version(home) is None:
        return []
    outputs = read_json(home / "base" / "categories.json")["outputs"]
    return [Category(output["id"], output["name"], "retired") for output in outputs]


def _swap_in(built: Path, target: Path) -> None:
    """Two renames; killed between them, the stage runs again and finds its last checkpoint."""
    old = built.with_name(".model.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    built.rename(target)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    main("train", work, warm_up, niceness=10)
