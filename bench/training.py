"""How good and how fast training is, on real drawings or photos.

    python -m bench.training ../shared/data/quickdraw10 --baseline --epochs 2 4 8
    python -m bench.training ../shared/data/cifar10-train.tar --preset photos --epochs 4
    python -m bench.training ../shared/data/cifar10-train.tar --preset photos --airbench --seeds 20

Splits the images by hash as the product does (80/10/10), trains on the first part with the preset's parameters,
and reports the accuracy on the last. What was chosen, was chosen on rows 0 to 999. The last line is JSON.

On CUDA each recipe is first trained once on shuffled labels, which counts as its `cold_seconds` and in nothing else:
CUDA's kernels are loaded and chosen at their first use. The first recipe also loads what all of them share.

Results: docs/performance.md.

Chosen on rows 0 to 999 of each file of drawings (8,000 to train on, 2,000 to be asked about, four seeds, so 0.2 points
is noise; seconds of two cores, on which other work ran), 6 epochs, answers averaged over mirror images:

    widths 32 48 96, 20x20 for 0.6 of the steps        91.3 %    6.1 s
    the same with answers as they are                  90.6 %
    widths 32 32 96, 7 epochs                          91.1 %    5.6 s
    widths 32 32 64, 8 epochs                          91.1 %    6.1 s
    SiLU                                               91.4 %    6.8 s
    the mean over the positions instead of the maximum 91.5 %    7.6 s
    averaged weights (0.97)                            91.1 %    6.0 s
    peak 0.17                                          91.1 %    6.4 s
    peak 0.3, the mean, rising for 0.4 of the steps    91.1 %    7.5 s
    rising for 0.4 of the steps                        91.5 %    6.8 s
    batches of 512, peak 0.35                          90.9 %    6.7 s
    20x20 for 0.45 of the steps, 5.5 epochs            91.1 %    7.1 s
    18x18 for 0.6 of the steps, the mean, 0.4 rising   91.3 %    6.8 s
    16x16, then 22x22, then whole; not mirrored        89.8 %    5.7 s
    mirrored training images                           91.1 %    6.4 s
    0.7 of the random changes; not mirrored            90.3 %    6.2 s
    one convolution in the first block; not mirrored   90.0 %    5.8 s (two seeds)
    a trained stem that skips every other position,
      widths 24 48 96, 10 epochs; not mirrored         90.4 %   13.9 s (one seed)

Earlier: Muon 90.2 % against AdamW's 88.0 %, in the same time, and 89.8 % with batches of 128; strides instead of
halving 88.5 % where halving had 90.4 %.

The start of a run after corrections, of a champion of 9,600 generated drawings, 5 and 30 corrections a category (rows 0
to 599), asked about rows 600 to 999, seeds 1 and 2; `right`: of the corrections trained on:

    from                                        5 a category: accuracy, right    30 a category
    new weights, 4 epochs                       87.9  87.4 %    85   88 %        89.1  88.9 %    95   94 %
    the champion's, 1 epoch, peak 0.06          87.4  87.1 %    98   85 %        87.5  88.9 %   100   96 %
    peak 0.08                                   87.2  87.6 %    93   90 %        89.1  88.9 %    96   94 %
    peak 0.08, a fifth of the filters random    87.7  87.2 %    88  100 %        87.8  88.7 %   100   96 %
    peak 0.12, weight 32                        87.6  87.1 %    98   95 %        87.7  88.8 %   100   98 %

With a share of what the champion knows in each pass (one share for all passes here), 85 steps, 5 and 30 a category:

    new weights (seeds 1, 2, 3)                 86.7  87.3  87.8 %    90  100  100 %        88.8  88.8 %    97   97 %
    a quarter, peak 0.08                        87.2  87.5  86.8 %    93  100   97 %        88.8  88.6 %   100   98 %
      and seed 3, 30 a category: 88.7 %, 99 %
    a quarter, peak 0.06 (seeds 2, 3; 30: 2)          87.6  87.0 %         98   97 %              88.8 %         100 %
    a half, peak 0.08 (seed 1)                  87.0 %                95 %                  88.8 %          97 %
    a half, peak 0.12 (seed 1)                  86.8 %                95 %                  88.0 %          95 %
    an eighth, peak 0.08 (seeds 2, 3)                 87.1  86.9 %        100   97 %              88.2 %         99 %
    all of it, 100 steps (seed 1)               87.4 %                86 %                  88.7 %          94 %

The same with a larger loss instead of being seen more often (weight 8, seed 1): new weights 87.0 % and 93 % right, the
champion's at 0.04 88.8 % and 75 %. With low resolution in the first steps of a warm start: 59 % right.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import t as student

from bench import airbench
from bench.baseline import accuracy as baseline_accuracy
from bench.baseline import train_baseline
from core.images import name_of, split_of
from pipeline.params import parse
from pipeline.training import classifier, gradients
from pipeline.training.classifier import Classifier, best_device
from pipeline.training.config import TrainingConfig
from pipeline.training.networks import ImageNetwork, Network
from pipeline.training.optimizer import AdamW, Muon
from pipeline.training.trainer import TrainingData
from pipeline.workspace import PRESETS


def main() -> None:
    given = arguments()
    read = read_tar if given.source.suffix == ".tar" else read_bitmaps
    pixels, targets, names = read(given.source, given.limit)
    found = compare(split_by_hash(pixels, targets), chosen_recipes(given, len(names)), given.seeds)
    print(
        json.dumps(
            {
                "bench": "training",
                "source": given.source.name,
                "recipes": found,
                "seeds": given.seeds,
                "device": torch.cuda.get_device_name() if torch.cuda.is_available() else best_device().type,
                "load_average": round(os.getloadavg()[0], 1),
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
        )
    )


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """given: the command line's unless told."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "source", type=Path, help="a folder of <category>.npy bitmaps, or a tar of <category>/<image>"
    )
    parser.add_argument("--preset", default="doodles", choices=["doodles", "photos"])
    parser.add_argument("--epochs", type=int, nargs="*", help="other than the preset's; several are compared")
    parser.add_argument("--seeds", type=int, default=5, help="each is trained with so many")
    parser.add_argument("--baseline", action="store_true", help="beside the training of bench/baseline.py")
    parser.add_argument(
        "--airbench",
        type=float,
        nargs="?",
        const=airbench.EPOCHS,
        metavar="EPOCHS",
        help="beside the training of bench/airbench.py, of 9.9 epochs unless told",
    )
    parser.add_argument(
        "--without",
        nargs="*",
        choices=[*WITHOUT, *WITHOUT_STEP],
        help="beside trainings that each lack one technique: these, or all",
    )
    parser.add_argument("--threads", type=int, help="other than the preset's")
    parser.add_argument("--widths", type=int, nargs="*", help="other than the preset's")
    parser.add_argument("--limit", type=int, help="images of each category; all unless told")
    return parser.parse_args(given)


def chosen_recipes(given: argparse.Namespace, outputs: int) -> dict[str, Recipe]:
    """By name, in the order in which they are trained; the first is what others' speed is told in."""
    config = chosen_config(given)
    recipes: dict[str, Recipe] = {}
    if given.baseline:
        recipes["baseline"] = partial(measure_baseline, outputs=outputs)
    if given.airbench is not None:
        recipes[f"airbench, {given.airbench:g} epochs"] = partial(
            measure_airbench, outputs=outputs, epochs=given.airbench
        )
    for epochs in given.epochs or [config.epochs]:
        ours = config.model_copy(update={"epochs": epochs})
        recipes[f"{epochs} epochs"] = partial(measure, outputs=outputs, config=ours)
    # Of the last of ours that is compared.
    lacking = {name: (ours.model_copy(update=change), Classifier) for name, change in WITHOUT.items()}
    lacking |= {name: (ours, trainer) for name, trainer in WITHOUT_STEP.items()}
    for name in lacking if given.without == [] else given.without or ():
        changed, trainer = lacking[name]
        recipes[f"{ours.epochs} epochs without {name}"] = partial(
            measure, outputs=outputs, config=changed, trainer=trainer
        )
    return recipes


def chosen_config(given: argparse.Namespace) -> TrainingConfig:
    """The preset's, but for what was told."""
    config = preset(given.preset)
    if given.threads is not None:
        config = config.model_copy(update={"threads": given.threads})
    if given.widths:
        config = config.model_copy(update={"widths": tuple(given.widths)})
    return config


# Each technique's share, by leaving it out.
WITHOUT: dict[str, dict[str, Any]] = {
    "low resolution first": {"low_resolution_share": 0.0},
    "random changes": {"augmentation": "none"},
    "mirror images": {"mirror": False},
    "label smoothing": {"label_smoothing": 0.0},
    "the second thread": {"threads": 1},
}


class AdamWAlone(Classifier):
    def _new_optimizers(self) -> dict[str, Muon | AdamW]:
        filters = [p for p in self.network.parameters() if p.ndim > 1 and p.requires_grad]
        norms_and_biases = [p for p in self.network.parameters() if p.ndim == 1]
        return {
            "muon": AdamW([], [], 0.0),
            "adamw": AdamW(filters, norms_and_biases, self.config.weight_decay),
        }


class RandomStem(Classifier):
    """As it is made, and not trained either."""

    def _new_network(self, outputs: int, base: Path | None) -> ImageNetwork:
        network = super()._new_network(outputs, base)
        assert isinstance(network, Network)
        network.stem.reset_parameters()
        return network


class PlainLayout(Classifier):
    """Images and filters channel by channel."""

    def fit(self, *given: Any, **more: Any) -> Any:
        with (
            patch.object(gradients, "channels_last", torch.Tensor.contiguous),
            patch.object(classifier, "channels_last", torch.Tensor.contiguous),
        ):
            return super().fit(*given, **more)

    def _new_gradients(self) -> gradients.Gradients:
        self.network.to(memory_format=torch.contiguous_format)
        return super()._new_gradients()


class Float32(Classifier):
    def _new_gradients(self) -> gradients.Gradients:
        return gradients.Gradients(
            self.network, self._device, self._threads, self.config.label_smoothing, torch.float32
        )


WITHOUT_STEP: dict[str, type[Classifier]] = {
    "Muon": AdamWAlone,
    "whitening": RandomStem,
    "channels-last": PlainLayout,
    "bfloat16": Float32,  # the same as with it where the processor has none
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


def compare(
    images: Split, recipes: Mapping[str, Recipe], seeds: int, *, cold_start: bool | None = None
) -> dict[str, dict[str, float]]:
    """One seed of each after another, so that each meets much the same machine.

    cold_start: whether each recipe's first training is reported apart; on CUDA unless told otherwise.
    """
    cold = (
        cold_seconds(images, recipes)
        if cold_start or (cold_start is None and torch.cuda.is_available())
        else {}
    )
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in recipes}
    for seed in range(1, seeds + 1):
        for name, recipe in recipes.items():
            found[name].append(recipe(images, seed))
            accuracy, seconds = found[name][-1]
            print(f"{name}, seed {seed}: {100 * accuracy:.2f} % after {seconds:.2f} s", flush=True)
    baseline = np.median([seconds for _, seconds in next(iter(found.values()))])
    return {
        name: {
            "accuracy_percent": round(100 * float(np.mean([a for a, _ in runs])), 2),
            "interval_points": round(100 * interval([a for a, _ in runs]), 2),
            "seconds": round(float(np.median([s for _, s in runs])), 2),
            "mean_seconds": round(float(np.mean([s for _, s in runs])), 2),
            "times_as_fast": round(float(baseline / np.median([s for _, s in runs])), 2),
        }
        | ({"cold_seconds": round(cold[name], 2)} if name in cold else {})
        for name, runs in found.items()
    }


def cold_seconds(images: Split, recipes: Mapping[str, Recipe]) -> dict[str, float]:
    """Of a whole training of each, with shuffled labels, so that nothing is learnt before its turn."""
    shuffled = np.random.default_rng(0).permutation(images.data.targets)
    images = replace(images, data=replace(images.data, targets=shuffled))
    return {name: recipe(images, 0)[1] for name, recipe in recipes.items()}


def interval(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean, over seeds; 0 of one."""
    if len(values) < 2:
        return 0.0
    return float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def measure(
    images: Split,
    seed: int,
    *,
    outputs: int,
    config: TrainingConfig,
    trainer: type[Classifier] = Classifier,
) -> tuple[float, float]:
    trained = trainer(config.model_copy(update={"seed": seed}), say=lambda line: None)
    started = airbench.seconds_now()
    trained.fit(images.data, outputs)
    seconds = airbench.seconds_now() - started
    accuracy = trained.measure(images.pixels, images.targets)[1]
    assert accuracy is not None
    return accuracy, seconds


def measure_baseline(images: Split, seed: int, *, outputs: int) -> tuple[float, float]:
    network, seconds = train_baseline(np.asarray(images.data.pixels[:]), images.data.targets, outputs, seed)
    return baseline_accuracy(network, images.pixels, images.targets), seconds


def measure_airbench(images: Split, seed: int, *, outputs: int, epochs: float) -> tuple[float, float]:
    network, seconds = airbench.train_airbench(
        np.asarray(images.data.pixels[:]),
        images.data.targets,
        outputs,
        seed,
        epochs=epochs,
        device=best_device(),
    )
    return airbench.accuracy(network, images.pixels, images.targets), seconds


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
