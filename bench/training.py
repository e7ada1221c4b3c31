"""How good and how fast training is, on real drawings or photos.

    python -m bench.training ../shared/data/quickdraw10 --baseline --epochs 2 4 8
    python -m bench.training ../shared/data/cifar10-train.tar --preset photos --epochs 4

Splits the images by hash as the product does (80/10/10), trains on the first part with the preset's parameters,
and reports the accuracy on the last, which nothing was tuned on. The last line is JSON.

2 cores of an AMD EPYC with avx512_bf16 that nothing else used, torch 2.15, Python 3.11, 24,029 drawings, seed 1 alone,
so half a point is noise; in one run:

    bench/baseline.py, 8 epochs       91.3 %   128 s
    widths 32 64 128, 8 epochs        92.5 %    53 s   2.4 times as fast

In another run: batches in two parts on two threads (pipeline/training/gradients.py) 62 s, as one part on one thread, as
it was before, 103 s. Deterministic algorithms and optimizers that do not import torch's compiler save 4 s of it.
Earlier, on busy cores: AdamW alone 91.3 % where Muon had 92.2 %; cifar10-train.tar 78.9 % after 8 epochs of 32 64 128.

Chosen on rows 0 to 999 of each file of drawings (trained on 750, asked about 250, one run each, so about half a
point is noise): Muon 90.2 % against AdamW's 88.0 %, peak 0.24 (0.1: 89.1, 0.5: 89.6); batches of 128 no better (89.8);
20 epochs for 12 are worth 0.6; weaker augmentation costs 1.5.

Two threads inside each operation took up to fifty times as long as one on busy cores: they wait for each other.

Gentle training after 99 corrections of a champion at 89.5 % (7,000 drawings; asked about 2,000 others), 3 epochs:

    peak    correction weight    corrections fixed    accuracy    answers that turned right or wrong
    0.01                    3                 57 %      89.8 %                                 2.1 %
    0.02                    3                 71 %      89.9 %                                 3.2 %
    0.02                    8                 84 %      89.7 %                                 3.4 %
    0.04                    3                 83 %      89.6 %                                 4.0 %
    0.04                    8                 92 %      89.3 %                                 4.3 %
    0.08                    3                 86 %      89.0 %                                 5.3 %
    0.24 (4 epochs)         3                 80 %      89.2 %                                 7.2 %

The exported graph answers one drawing in 0.2 ms (ONNX Runtime 1.31, one thread).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import t as student

from bench.baseline import accuracy as baseline_accuracy
from bench.baseline import train_baseline
from core.images import name_of, split_of
from pipeline.params import parse
from pipeline.training.classifier import Classifier
from pipeline.training.config import TrainingConfig
from pipeline.training.trainer import TrainingData
from pipeline.workspace import PRESETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "source", type=Path, help="a folder of <category>.npy bitmaps, or a tar of <category>/<image>"
    )
    parser.add_argument("--preset", default="doodles", choices=["doodles", "photos"])
    parser.add_argument("--epochs", type=int, nargs="*", help="other than the preset's; several are compared")
    parser.add_argument("--seeds", type=int, default=5, help="each is trained with so many")
    parser.add_argument("--baseline", action="store_true", help="beside the training of bench/baseline.py")
    parser.add_argument(
        "--without", action="store_true", help="beside trainings that each lack one technique"
    )
    parser.add_argument("--threads", type=int, help="other than the preset's")
    parser.add_argument("--widths", type=int, nargs="*", help="other than the preset's")
    parser.add_argument("--limit", type=int, help="images of each category; all unless told")
    given = parser.parse_args()
    read = read_tar if given.source.suffix == ".tar" else read_bitmaps
    pixels, targets, names = read(given.source, given.limit)
    config = preset(given.preset)
    if given.threads is not None:
        config = config.model_copy(update={"threads": given.threads})
    if given.widths:
        config = config.model_copy(update={"widths": tuple(given.widths)})
    recipes: dict[str, Recipe] = {}
    if given.baseline:
        recipes["baseline"] = partial(measure_baseline, outputs=len(names))
    for epochs in given.epochs or [config.epochs]:
        ours = config.model_copy(update={"epochs": epochs})
        recipes[f"{epochs} epochs"] = partial(measure, outputs=len(names), config=ours)
    if given.without:
        recipes |= {
            f"without {name}": partial(measure, outputs=len(names), config=config.model_copy(update=change))
            for name, change in WITHOUT.items()
        }
    found = compare(split_by_hash(pixels, targets), recipes, given.seeds)
    print(
        json.dumps(
            {
                "bench": "training",
                "source": given.source.name,
                "recipes": found,
                "seeds": given.seeds,
                "load_average": round(os.getloadavg()[0], 1),
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
        )
    )


# Each technique's share, by leaving it out.
WITHOUT: dict[str, dict[str, Any]] = {
    "low resolution first": {"low_resolution_share": 0.0},
    "random changes": {"augmentation": "none"},
    "mirror images": {"mirror": False},
    "label smoothing": {"label_smoothing": 0.0},
    "the second thread": {"threads": 1},
}


@dataclass(frozen=True)
class Split:
    """data: what is trained on. pixels, targets: the holdout."""

    data: TrainingData
    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]


Recipe = Callable[[Split, int], tuple[float, float]]  # to accuracy (0..1) and seconds, by seed


def split_by_hash(pixels: NDArray[np.uint8], targets: NDArray[np.int64]) -> Split:
    split = np.array([split_of(name_of(image)) for image in pixels])
    training, validation, holdout = (split == name for name in ("train", "validation", "holdout"))
    data = TrainingData(
        pixels[training],
        targets[training],
        np.ones(int(training.sum()), np.float32),
        pixels[validation],
        targets[validation],
    )
    return Split(data, pixels[holdout], targets[holdout])


def compare(images: Split, recipes: Mapping[str, Recipe], seeds: int) -> dict[str, dict[str, float]]:
    """One seed of each after another, so that each meets much the same machine."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in recipes}
    for seed in range(1, seeds + 1):
        for name, recipe in recipes.items():
            found[name].append(recipe(images, seed))
            accuracy, seconds = found[name][-1]
            print(f"{name}, seed {seed}: {100 * accuracy:.2f} % after {seconds:.1f} s", flush=True)
    baseline = np.median([seconds for _, seconds in next(iter(found.values()))])
    return {
        name: {
            "accuracy_percent": round(100 * float(np.mean([a for a, _ in runs])), 2),
            "interval_points": round(100 * interval([a for a, _ in runs]), 2),
            "seconds": round(float(np.median([s for _, s in runs])), 1),
            "times_as_fast": round(float(baseline / np.median([s for _, s in runs])), 2),
        }
        for name, runs in found.items()
    }


def interval(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean, over seeds; 0 of one."""
    if len(values) < 2:
        return 0.0
    return float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def measure(images: Split, seed: int, *, outputs: int, config: TrainingConfig) -> tuple[float, float]:
    trainer = Classifier(config.model_copy(update={"seed": seed}), say=lambda line: None)
    started = time.perf_counter()
    trainer.fit(images.data, outputs)
    seconds = time.perf_counter() - started
    accuracy = trainer.measure(images.pixels, images.targets)[1]
    assert accuracy is not None
    return accuracy, seconds


def measure_baseline(images: Split, seed: int, *, outputs: int) -> tuple[float, float]:
    network, seconds = train_baseline(np.asarray(images.data.pixels[:]), images.data.targets, outputs, seed)
    return baseline_accuracy(network, images.pixels, images.targets), seconds


def preset(name: str) -> TrainingConfig:
    path = PRESETS[name]
    return parse(yaml.safe_load(path.read_text()), str(path)).train


def read_bitmaps(folder: Path, limit: int | None) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    files = sorted(folder.glob("*.npy"))
    parts = [np.load(file)[:limit].reshape(-1, 28, 28) for file in files]
    targets = np.repeat(np.arange(len(files)), [len(part) for part in parts])
    return np.concatenate(parts), targets, [file.stem for file in files]


def read_tar(path: Path, limit: int | None) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    by_category: dict[str, list[NDArray[np.uint8]]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            images = (
                by_category.setdefault(PurePosixPath(member.name).parent.name, [])
                if member.isfile()
                else None
            )
            if (
                images is not None
                and (limit is None or len(images) < limit)
                and (file := tar.extractfile(member))
            ):
                images.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"), np.uint8))
    names = sorted(by_category)
    targets = np.repeat(np.arange(len(names)), [len(by_category[name]) for name in names])
    return np.stack([image for name in names for image in by_category[name]]), targets, names


if __name__ == "__main__":
    main()
