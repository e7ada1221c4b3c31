"""How good and how fast training is, on real drawings or photos.

    python -m bench.training ../shared/data/quickdraw10
    python -m bench.training ../shared/data/cifar10-train.tar --preset photos --epochs 4

Splits the images by hash as the product does (80/10/10), trains on the first part with the preset's parameters,
and reports the accuracy on the last, which nothing was tuned on. The last line is JSON.

2 cores of an AMD EPYC with avx512_bf16 that nothing else used, torch 2.15, Python 3.11, one run each, seed 1:

    source        widths      epochs   train images   holdout accuracy   seconds   images/s
    quickdraw10   32 64 128        8         24,029             92.0 %        62      3,289
    the same, as one part on one thread                         92.2 %       103      2,040

Both in one run; the second is what it was before batches were worked on in two parts (pipeline/training/gradients.py).
Deterministic algorithms and optimizers that do not import torch's compiler save 4 s before the first step.
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
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from core.images import name_of, split_of
from pipeline.params import TrainParams, parse
from pipeline.training.loop import Schedule, TrainingData, balanced, best_device, train, validate
from pipeline.workspace import PRESETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "source", type=Path, help="a folder of <category>.npy bitmaps, or a tar of <category>/<image>"
    )
    parser.add_argument("--preset", default="doodles", choices=["doodles", "photos"])
    parser.add_argument("--epochs", type=int, help="other than the preset's")
    parser.add_argument("--threads", type=int, help="other than the preset's")
    parser.add_argument("--limit", type=int, help="images of each category; all unless told")
    arguments = parser.parse_args()
    pixels, targets, names = (read_tar if arguments.source.suffix == ".tar" else read_bitmaps)(
        arguments.source, arguments.limit
    )
    params = preset(arguments.preset).model_copy(
        update={k: v for k in ("epochs", "threads") if (v := getattr(arguments, k)) is not None}
    )
    print(json.dumps(measure(pixels, targets, len(names), params)))


def measure(
    pixels: NDArray[np.uint8], targets: NDArray[np.int64], classes: int, params: TrainParams
) -> dict[str, object]:
    split = np.array([split_of(name_of(image)) for image in pixels])
    training, validation, holdout = (split == name for name in ("train", "validation", "holdout"))
    data = TrainingData(
        pixels[training],
        targets[training],
        balanced(targets[training], params.balance),
        pixels[validation],
        targets[validation],
    )
    rates: list[float] = []

    def report(figures: dict[str, Any]) -> None:
        print(figures, flush=True)
        rates.append(figures["images_per_second"])

    device = best_device()
    started = time.perf_counter()
    network = train(
        data,
        params,
        Schedule(params.epochs, params.learning_rate),
        classes,
        report=report,
        device=device,
    )
    seconds = time.perf_counter() - started
    held_out = replace(data, validation_pixels=pixels[holdout], validation_targets=targets[holdout])
    _, accuracy = validate(network, held_out, device)
    return {
        "holdout_accuracy": accuracy,
        "holdout_images": int(holdout.sum()),
        "train_images": int(training.sum()),
        "seconds": round(seconds, 1),
        "images_per_second": round(float(np.median(rates))),
        "epochs": params.epochs,
        "threads": params.threads,
        "device": device.type,
        "load_average": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def preset(name: str) -> TrainParams:
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
