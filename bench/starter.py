"""How well a model trained on made-up doodles alone knows what real people draw.

    python -m bench.starter [--count 1200] [--epochs 8] [--threads 1] [--seed 1]

Draws `--count` starter doodles a category, trains on all of them as version 1 is trained, and asks the model about
rows 1000 to 2999 of each file of the real drawings, which neither the generator nor anything else was tuned on
(`--tuning` asks about rows 0 to 999 instead, and prints the confusion matrix). The last line is JSON.

The figures are in docs/starter.md, one run each on one thread of two busy cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.starter import CATEGORIES, generate
from pipeline.training.classifier import Classifier, best_device
from pipeline.training.config import TrainingConfig
from pipeline.training.networks import ImageNetwork, images_of
from pipeline.training.trainer import TrainingData

REAL = Path(__file__).parents[2] / "shared" / "data" / "quickdraw10"
TUNING, REPORTING = slice(0, 1000), slice(1000, 3000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--real", type=Path, default=REAL, help="the folder of <category>.npy bitmaps")
    parser.add_argument("--count", type=int, default=1200, help="drawings of each category")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tuning", action="store_true", help="rows 0 to 999, and the confusion matrix")
    arguments = parser.parse_args()
    params = TrainingConfig(
        augmentation="drawing", epochs=arguments.epochs, threads=arguments.threads, seed=arguments.seed
    )
    rows = TUNING if arguments.tuning else REPORTING
    print(json.dumps(measure(arguments.real, rows, arguments.count, params, say=arguments.tuning)))


def measure(real: Path, rows: slice, count: int, params: TrainingConfig, *, say: bool) -> dict[str, object]:
    started = time.perf_counter()
    pixels, labels = generate(count, params.seed)
    generated = time.perf_counter()
    network = trained(pixels, np.array([CATEGORIES.index(label) for label in labels]), params)
    finished = time.perf_counter()
    answers = np.stack([counts_of(network, np.load(real / f"{name}.npy")[rows]) for name in CATEGORIES])
    if say:
        print_confusion(answers)
    recall = np.diag(answers) / answers.sum(axis=1)
    return {
        "real_accuracy": round(float(np.diag(answers).sum() / answers.sum()), 4),
        "per_category": {
            name: round(float(share), 4) for name, share in zip(CATEGORIES, recall, strict=True)
        },
        "real_images": int(answers.sum()),
        "generated_images": len(pixels),
        "generate_seconds": round(generated - started, 1),
        "train_seconds": round(finished - generated, 1),
        "epochs": params.epochs,
        "seed": params.seed,
        "device": best_device().type,
        "threads": params.threads,
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def trained(pixels: NDArray[np.uint8], targets: NDArray[np.int64], params: TrainingConfig) -> ImageNetwork:
    data = TrainingData(
        pixels,
        targets,
        np.ones(len(pixels), np.float32),
        np.zeros((0, 28, 28), np.uint8),
        np.zeros(0, np.int64),
    )
    trainer = Classifier(params)
    trainer.fit(data, len(CATEGORIES))
    return trainer.network.cpu()


@torch.inference_mode()
def counts_of(network: ImageNetwork, bitmaps: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many of the bitmaps (N, 784) got each answer."""
    logits = network(images_of(torch.from_numpy(bitmaps.reshape(-1, 28, 28))))
    return np.bincount(logits.argmax(1).numpy(), minlength=len(CATEGORIES))


def print_confusion(answers: NDArray[np.int64]) -> None:
    print("drawn \\ said ", *(name[:7].rjust(7) for name in CATEGORIES))
    for name, row in zip(CATEGORIES, answers, strict=True):
        print(name.ljust(12), *(str(count).rjust(7) for count in row))


if __name__ == "__main__":
    main()
