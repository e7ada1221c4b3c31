"""What people's corrections teach: the learning curve from made-up doodles to real drawings.

    python -m bench.learning [--seeds 5] [--plot docs/images/learning.svg]
    python -m bench.learning --seeds 2 --categories 3 --images 100 --epochs 1     a trial: half a minute

Trains a first version on the starter doodles alone, as a new deployment does. Then people draw, and correct 1, 5, 20
and 50 real drawings a category in all; after each of the four the model is trained again, and asked about 10,000 other
real drawings. Three ways:

    corrected   people correct what the version live at that time gets wrong; training goes on from its weights, and
                the result is the next version, whatever the gate would have said
    random      people label as many drawings of each category, right or wrong, in the order in which they come;
                otherwise the same
    scratch     the drawings of `corrected`, trained from new weights each time

All trainings have the starter doodles again, of which one that goes on from a version sees a share in each pass
(`train.replay`), and corrections with the product's weight; as in the product a tenth of each goes to validation and a
tenth to the exam, by hash, and is not trained on. A person corrects five drawings.
Where a version gets fewer than k drawings of a category wrong, fewer are corrected, and the table says how many.

Rows 1000 to 1999 of each file are what people draw, rows 2000 to 2999 what is asked; nothing was tuned on either. The
starter doodles are the same for all seeds, as they are for all deployments; the seed decides the first version, who
draws what when, and each training. Intervals are Student's, of the mean over seeds, 95 %. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from bench.starter import REAL
from bench.training import interval, preset
from core.images import name_of, split_of
from pipeline.starter import CATEGORIES, generate
from pipeline.training.classifier import best_device
from pipeline.training.config import TrainingConfig
from pipeline.training.trainer import TrainingData, get_trainer, in_batches, loss_weights

CORRECTIONS = (1, 5, 20, 50)  # of each category, in all
WAYS = ("corrected", "random", "scratch")
POOL, TEST = slice(1000, 2000), slice(2000, 3000)  # rows of each file
STARTER_DRAWINGS, STARTER_SEED = (
    1200,
    1,
)  # of a new deployment: EMEND_STARTER_DRAWINGS, pipeline/first_start.py
DRAWINGS_OF_A_PERSON = 5


@dataclass(frozen=True)
class Drawings:
    """pixels: uint8 (N, 28, 28); targets: int64 (N,), category indices."""

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]

    def of(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Drawings:
        return Drawings(self.pixels[chosen], self.targets[chosen])


@dataclass(frozen=True)
class Material:
    """What is the same for all seeds. starter: those to train on; validation: those not to. learnable: bool (N,), the
    pool's whose hash does not keep them out of training."""

    categories: int
    starter: Drawings
    validation: Drawings
    pool: Drawings
    learnable: NDArray[np.bool_]
    test: Drawings


@dataclass(frozen=True)
class Point:
    """One training. corrections: a category, asked for; given, learned: in all, so many people made and so many were
    trained on. right: the share of those learned that it gets right; accuracy: on the test drawings. Both 0..1."""

    seed: int
    way: str
    corrections: int
    given: int
    learned: int
    right: float
    accuracy: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--real", type=Path, default=REAL, help="the folder of <category>.npy bitmaps")
    parser.add_argument("--seeds", type=int, default=5, help="so many curves are measured")
    parser.add_argument("--plot", type=Path, help="writes the curve there, as SVG")
    parser.add_argument(
        "--categories", type=int, default=len(CATEGORIES), help="the first so many, for a trial"
    )
    parser.add_argument("--images", type=int, help="at most, of a category and of each kind, for a trial")
    parser.add_argument("--epochs", type=int, help="at most, of each training, for a trial")
    given = parser.parse_args()
    started = time.perf_counter()
    config = shortened(preset("doodles"), given.epochs, given.images)
    material = gather(given.real, given.categories, given.images)
    print(
        f"{len(material.starter.targets)} starter doodles to train on, {len(material.pool.targets)} real drawings to "
        f"correct, {len(material.test.targets)} to be asked about",
        flush=True,
    )
    points: list[Point] = []
    for seed in range(1, given.seeds + 1):
        with tempfile.TemporaryDirectory() as folder:
            points += curve(material, seed, config, Path(folder))
    found = summary(points)
    print_table(found)
    print(
        json.dumps(
            {
                "bench": "learning",
                **found,
                "categories": material.categories,
                "starter_images": len(material.starter.targets),
                "test_images": len(material.test.targets),
                "seeds": given.seeds,
                "seconds": round(time.perf_counter() - started, 1),
                "device": best_device().type,
                "load_average": round(os.getloadavg()[0], 1),
                "processors": os.cpu_count(),
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
        )
    )
    if given.plot is not None:
        plot(found, given.plot)


def gather(real: Path, categories: int, images: int | None) -> Material:
    names = CATEGORIES[:categories]
    pool, test = (read(real, names, rows, images) for rows in (POOL, TEST))
    each = min(images or STARTER_DRAWINGS, STARTER_DRAWINGS)
    pixels, labels = generate(each, STARTER_SEED)
    drawn = len(names) * each  # category after category
    starter = Drawings(pixels[:drawn], np.array([names.index(label) for label in labels[:drawn]], np.int64))
    split, learnable = splits(starter), splits(pool) == "train"
    training, validation = starter.of(split == "train"), starter.of(split == "validation")
    return Material(len(names), training, validation, pool, learnable, test)


def read(real: Path, names: Sequence[str], rows: slice, images: int | None) -> Drawings:
    parts = [
        np.load(real / f"{name}.npy", mmap_mode="r")[rows][:images].reshape(-1, 28, 28) for name in names
    ]
    return Drawings(np.concatenate(parts), np.repeat(np.arange(len(names)), [len(part) for part in parts]))


def splits(drawings: Drawings) -> NDArray[np.str_]:
    """Of each drawing, as the product decides it."""
    return np.array([split_of(name_of(image)) for image in drawings.pixels])


def curve(material: Material, seed: int, config: TrainingConfig, folder: Path) -> list[Point]:
    """One first version, and all that is trained after it. folder: where the versions are put."""
    order = np.random.default_rng(seed).permutation(len(material.pool.targets))
    nothing = np.zeros(0, np.int64)
    first = folder / "first"
    points = [trained("first", material, nothing, config_of("scratch", config, seed), None, first)]
    live = dict.fromkeys(("corrected", "random"), first)
    said = dict.fromkeys(WAYS, nothing)
    for corrections in CORRECTIONS:
        wrong = answers(live["corrected"], material.pool.pixels) != material.pool.targets
        wanted = np.full(material.categories, corrections)
        said["corrected"] = go_on(said["corrected"], wanted, material.pool.targets, order[wrong[order]])
        as_many = np.bincount(material.pool.targets[said["corrected"]], minlength=material.categories)
        said["random"] = go_on(said["random"], as_many, material.pool.targets, order)
        said["scratch"] = said["corrected"]
        for way in WAYS:
            told = config_of("scratch" if way == "scratch" else "retrain", config, seed)
            target = folder / f"{way}-{corrections}"
            points.append(trained(way, material, said[way], told, live.get(way), target, corrections))
            if way in live:
                live[way] = target
    return points


def go_on(
    said: NDArray[np.int64],
    wanted: NDArray[np.int64],
    targets: NDArray[np.int64],
    candidates: NDArray[np.int64],
) -> NDArray[np.int64]:
    """`said`, then the first candidates that it lacks, until `wanted` of each category are there or none is left.

    said, candidates: positions in the pool, in the order in which people come to them.
    """
    unsaid = candidates[~np.isin(candidates, said)]
    missing = wanted - np.bincount(targets[said], minlength=len(wanted))
    new = [unsaid[targets[unsaid] == category][: max(count, 0)] for category, count in enumerate(missing)]
    return np.concatenate([said, unsaid[np.isin(unsaid, np.concatenate(new))]])


def trained(
    way: str,
    material: Material,
    said: NDArray[np.int64],
    config: TrainingConfig,
    base: Path | None,
    folder: Path,
    corrections: int = 0,
) -> Point:
    """Trains and exports to `folder`, then asks what is there, as it would be served."""
    data = training_data(material, said, config)
    trainer = get_trainer(config.trainer, config, say=lambda line: None)
    started = time.perf_counter()
    trainer.fit(data, material.categories, base=base)
    seconds = time.perf_counter() - started
    trainer.export_model(folder, material.starter.pixels[0])
    learned = material.pool.of(said[material.learnable[said]])
    point = Point(
        config.seed,
        way,
        corrections,
        given=len(said),
        learned=len(learned.targets),
        right=share_right(folder, learned),
        accuracy=share_right(folder, material.test),
        seconds=seconds,
    )
    learnt = f", {100 * point.right:.0f} % of {point.learned} learned" if point.learned else ""
    print(
        f"seed {point.seed}, {corrections} a category, {way}: {100 * point.accuracy:.2f} %{learnt}; {trainer.epochs} "
        f"epochs in {seconds:.1f} s",
        flush=True,
    )
    return point


def shortened(config: TrainingConfig, epochs: int | None, images: int | None) -> TrainingConfig:
    """For a trial: so many epochs at most, and of fewer images as many steps fewer."""
    most, share = (
        epochs or config.epochs,
        min(images or STARTER_DRAWINGS, STARTER_DRAWINGS) / STARTER_DRAWINGS,
    )
    return config.model_copy(
        update={
            "epochs": min(config.epochs, most),
            "warm_epochs": min(config.warm_epochs, most),
            "min_steps": max(int(config.min_steps * share), 1),
        }
    )


def config_of(kind: Literal["scratch", "retrain"], config: TrainingConfig, seed: int) -> TrainingConfig:
    """retrain: as a run trains that finds a champion."""
    return config.model_copy(update={"seed": seed, "mode": "scratch" if kind == "scratch" else "auto"})


def training_data(material: Material, said: NDArray[np.int64], config: TrainingConfig) -> TrainingData:
    """The starter doodles, then what was said and may be learned."""
    learnable = material.learnable[said]
    learned, starter = material.pool.of(said[learnable]), material.starter
    targets = np.concatenate([starter.targets, learned.targets])
    actors = (np.arange(len(said)) // DRAWINGS_OF_A_PERSON).astype(str)
    return TrainingData(
        pixels=np.concatenate([starter.pixels, learned.pixels]),
        targets=targets,
        weights=loss_weights(
            targets,
            corrected=np.arange(len(targets)) >= len(starter.targets),
            actors=np.concatenate([np.full(len(starter.targets), ""), actors[learnable]]),
            config=config,
        ),
        validation_pixels=material.validation.pixels,
        validation_targets=material.validation.targets,
    )


def share_right(version: Path, drawings: Drawings) -> float:
    """0..1; 1 of none."""
    if len(drawings.targets) == 0:
        return 1.0
    return float(np.mean(answers(version, drawings.pixels) == drawings.targets))


def answers(version: Path, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        version / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    found = [
        session.run(["probabilities"], {"pixels": batch})[0].argmax(1) for batch in in_batches(pixels, 500)
    ]
    return np.concatenate(found)


def summary(points: Sequence[Point]) -> dict[str, dict[str, dict[str, Any]]]:
    """By way and corrections a category; `first` is at 0. What compares, compares within each seed."""
    curves: dict[tuple[str, int], list[Point]] = {}
    for point in points:
        curves.setdefault((point.way, point.corrections), []).append(point)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (way, corrections), of_seeds in curves.items():
        figures: dict[str, Any] = {
            **mean_of("accuracy_percent", [100 * p.accuracy for p in of_seeds]),
            "seeds_accuracy_percent": [round(100 * p.accuracy, 2) for p in of_seeds],
        }
        if way != "first":
            figures |= mean_of("gain_points", differences(of_seeds, curves["first", 0]))
            figures |= {
                "given": [p.given for p in of_seeds],
                "learned": [p.learned for p in of_seeds],
                "learned_right_percent": round(100 * float(np.mean([p.right for p in of_seeds])), 1),
            }
        if way in ("random", "scratch"):
            figures |= mean_of(
                "corrected_ahead_points", differences(curves["corrected", corrections], of_seeds)
            )
        figures["seconds"] = round(float(np.median([p.seconds for p in of_seeds])), 1)
        found.setdefault(way, {})[str(corrections)] = figures
    return found


def differences(better: Sequence[Point], worse: Sequence[Point]) -> list[float]:
    """Points of accuracy, seed by seed."""
    return [100 * (a.accuracy - b.accuracy) for a, b in zip(better, worse, strict=True)]


def mean_of(name: str, values: Sequence[float]) -> dict[str, float]:
    """And half of its interval, which one seed does not have."""
    found = {name: round(float(np.mean(values)), 2)}
    return found | ({f"{name}_interval": round(interval(values), 2)} if len(values) > 1 else {})


def print_table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    print(
        "\na category  way         given   learned  right         accuracy             gain  corrected ahead  "
        "seconds"
    )
    rows = sorted(
        (
            (int(corrections), way, figures)
            for way, by in found.items()
            for corrections, figures in by.items()
        ),
        key=lambda row: row[0],
    )
    for corrections, way, figures in rows:
        print(
            f"{corrections:>10}  {way:10}{_mean_count(figures, 'given'):>7}{_mean_count(figures, 'learned'):>10}"
            f"{_told(figures, 'learned_right_percent', '.0f', ' %'):>7}"
            f"{_told(figures, 'accuracy_percent', '.2f', ' %'):>17}{_told(figures, 'gain_points', '+.2f'):>17}"
            f"{_told(figures, 'corrected_ahead_points', '+.2f'):>17}{figures['seconds']:>9.1f}"
        )
    print()


def _mean_count(figures: Mapping[str, Any], name: str) -> str:
    return f"{np.mean(figures[name]):.0f}" if name in figures else ""


def _told(figures: Mapping[str, Any], name: str, form: str, unit: str = "") -> str:
    if name not in figures:
        return ""
    spread = f" ± {figures[f'{name}_interval']:.2f}" if f"{name}_interval" in figures else ""
    return f"{figures[name]:{form}}{spread}{unit}"


# Of middling lightness: there is no background, and the page's may be light or dark. Told apart by more than colour.
INK = "#7a828c"
STYLES: dict[str, dict[str, Any]] = {
    "corrected": {"color": "#2f81f7", "marker": "o", "linestyle": "-"},
    "random": {"color": "#d9730d", "marker": "s", "linestyle": "--"},
    "scratch": {"color": "#8a63d2", "marker": "^", "linestyle": ":"},
}
LABELS = {
    "corrected": "what the model gets wrong is corrected",
    "random": "as many drawings, whichever come",
    "scratch": "the corrected ones, trained from scratch",
}


def plot(found: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
    """The same figures give the same bytes."""
    import matplotlib  # mlflow's; half a second that only a plot takes

    matplotlib.use("svg")
    from matplotlib import pyplot

    style: dict[Any, Any] = {  # the keys' type is a list of all there are
        "svg.hashsalt": "emend",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(7.2, 4.0), layout="constrained")
        for number, way in enumerate(WAYS):
            points = [found["first"]["0"], *found[way].values()]
            axes.errorbar(
                np.arange(len(points)) + 0.05 * (number - 1),  # beside each other
                [figures["accuracy_percent"] for figures in points],
                yerr=[figures.get("accuracy_percent_interval", 0.0) for figures in points],
                label=LABELS[way],
                capsize=3,
                **STYLES[way],
            )
        axes.set_xticks(range(len(CORRECTIONS) + 1), [str(corrections) for corrections in (0, *CORRECTIONS)])
        axes.set_xlabel("real drawings corrected, a category")
        axes.set_ylabel("other real drawings recognised, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=INK, alpha=0.25)
        axes.legend(frameon=False, loc="best")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


if __name__ == "__main__":
    main()
