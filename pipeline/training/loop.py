"""The training loop: read down the page.

Deterministic on the CPU: the same seed, data and kind of CPU give the same bits, on any number of threads. Order and
random changes come from generators seeded with (seed, epoch) and (seed, epoch, step, part), so there is no random
state to keep, and a training that was killed and goes on from its last checkpoint ends with the same bits as one that
was not.

Batch statistics are measured when an epoch is over, on images as they will be served: without random changes.

The last epoch's weights are kept: the learning rate has come down to zero by then, so they are settled, and picking
an epoch by its validation figure would fit the choice to those images.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from core.storage import write_atomically
from pipeline.params import TrainParams
from pipeline.pixels import Images
from pipeline.stages import StageError
from pipeline.training.augmentation import augment
from pipeline.training.gradients import Batch, Gradients, Part, Threads, channels_last, parts_of
from pipeline.training.networks import Network, images_of, start_from
from pipeline.training.optimizer import AdamW, Muon

WARM_UP = 0.25  # of all steps the learning rate rises, then falls to zero
ADAMW_SHARE = 1 / 80  # its learning rate as a share of Muon's, which is in other units: 0.003 beside 0.24
PROGRESS_SECONDS = 10.0
VALIDATION_BATCH = 500
SETTLED_BATCHES, SETTLED_IMAGES = 4, 256  # what batch statistics are measured on
CPU = torch.device("cpu")


class TrainingDiverged(StageError):
    """The loss is not a number any more."""


@dataclass(frozen=True)
class TrainingData:
    """pixels: uint8 (N, H, W[, 3]), in memory or on disk; targets: int64 (N,), output indices; weights: float32 (N,),
    loss weights."""

    pixels: NDArray[np.uint8] | Images
    targets: NDArray[np.int64]
    weights: NDArray[np.float32]
    validation_pixels: NDArray[np.uint8] | Images
    validation_targets: NDArray[np.int64]

    @property
    def channels(self) -> int:
        return 1 if len(self.pixels.shape) == 3 else 3


@dataclass(frozen=True)
class Schedule:
    epochs: int
    learning_rate: float


def best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def gpu_uuid(device: torch.device) -> str | None:
    """Of an NVIDIA GPU, as its driver has it; None for another device."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


def train(
    data: TrainingData,
    params: TrainParams,
    schedule: Schedule,
    classes: int,
    *,
    base: Mapping[str, Tensor] | None = None,
    checkpoint: Path | None = None,
    report: Callable[[dict[str, Any]], None] = lambda figures: None,
    say: Callable[[str], None] = print,
    device: torch.device = CPU,
) -> Network:
    """Trains and returns the network, on `device`, in evaluation mode.

    base: weights to start from, of a network that fits (see `networks.misfit`). checkpoint: a file, written after
    each epoch; training goes on from it when it is of this very training. report: called once an epoch. Sets
    torch's thread count, its global seed and, on the CPU, its deterministic algorithms.

    Raises TrainingDiverged.
    """
    threads = Threads(params.threads if device.type == "cpu" else 1)
    # Not use_deterministic_algorithms, which says the same and imports the compiler, in 2 s.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "default")
    torch.manual_seed(params.seed)
    network = Network(data.channels, params.widths, classes)
    if base is not None:
        start_from(network, base)
    # channels_last with bfloat16 is 2 times as fast as neither on an AVX-512 CPU, and the figure is the same.
    network.to(device).to(memory_format=torch.channels_last)
    gradients = Gradients(network, device, threads, params.label_smoothing)
    muon, adamw = _optimizers(network, threads, params.weight_decay)
    identity = _identity(data, params, schedule, classes, base)
    finished = _restore(checkpoint, identity, network, (muon, adamw))
    if finished:
        say(f"going on after epoch {finished} of {schedule.epochs}, from the checkpoint")

    pixels_of = _held(data.pixels, device)
    targets, weights = (torch.from_numpy(a).to(device) for a in (data.targets, data.weights))

    def batch_of(part: Part) -> Batch:
        generator = torch.Generator().manual_seed(part.seed)
        images = augment(images_of(pixels_of(part.chosen)), params.augmentation, generator)
        chosen = part.chosen.to(device)
        return Batch(images, targets[chosen], weights[chosen])

    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(params.seed))
    typical = order[: SETTLED_BATCHES * SETTLED_IMAGES].split(SETTLED_IMAGES)  # type: ignore[no-untyped-call]
    batch_size = min(params.batch_size, len(targets))
    steps = _steps(len(targets), batch_size, params.min_steps)
    for epoch in range(finished + 1, schedule.epochs + 1):
        generator = torch.Generator().manual_seed(params.seed * 1_000_003 + epoch)
        loss_sum = torch.zeros((), device=device)
        started = said = time.perf_counter()
        for step, chosen in enumerate(_batches(len(targets), batch_size, steps, generator)):
            share = ((epoch - 1) * steps + step) / (schedule.epochs * steps)
            learning_rate = schedule.learning_rate * _one_cycle(share)
            parts = parts_of(chosen, device, seed=(params.seed * 1_000_003 + epoch) * 1_000_003 + step)
            loss_sum += gradients.step(batch_of, parts, weights[chosen.to(device)].sum())
            muon.step(learning_rate)
            adamw.step(learning_rate * ADAMW_SHARE)
            if time.perf_counter() - said > PROGRESS_SECONDS:
                said = time.perf_counter()
                _check(loss_sum, epoch, schedule)
                say(
                    f"epoch {epoch}/{schedule.epochs}: step {step + 1} of {steps}, loss {loss_sum / (step + 1):.3f}"
                )
        _check(loss_sum, epoch, schedule)
        seconds = time.perf_counter() - started
        gradients.settle(images_of(pixels_of(chosen)) for chosen in typical)
        validation_loss, validation_accuracy = validate(network, data, device, threads)
        report(
            {
                "epoch": epoch,
                "epochs": schedule.epochs,
                "train_loss": round(loss_sum.item() / steps, 6),
                "validation_loss": validation_loss,
                "validation_accuracy": validation_accuracy,
                "learning_rate": round(learning_rate, 9),
                "images_per_second": round(steps * batch_size / seconds, 1),
                "seconds": round(time.perf_counter() - started, 3),
                "device": device.type,
            }
        )
        if checkpoint is not None:
            write_atomically(checkpoint, _snapshot(network, (muon, adamw), epoch, identity))
    network.eval()
    return network


def validate(
    network: Network, data: TrainingData, device: torch.device, threads: Threads | None = None
) -> tuple[float | None, float | None]:
    """Mean loss and accuracy on the validation images, in float32 as they will be served; None without any."""
    if len(data.validation_pixels) == 0:
        return None, None
    network.eval()

    @torch.inference_mode()
    def logits_of(batch: NDArray[np.uint8]) -> Tensor:
        found: Tensor = network(channels_last(images_of(torch.from_numpy(batch).to(device))))
        return found.cpu()

    batches = _in_batches(data.validation_pixels, VALIDATION_BATCH)
    logits = torch.cat(
        [logits_of(b) for b in batches] if threads is None else threads.map(logits_of, list(batches))
    )
    targets = torch.from_numpy(data.validation_targets)
    accuracy = (logits.argmax(1) == targets).float().mean().item()
    return round(F.cross_entropy(logits, targets).item(), 6), round(accuracy, 6)


def _held(images: NDArray[np.uint8] | Images, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Gives the images at some positions, on `device`: of all of them there, or, on the CPU, where they are."""
    if device.type == "cpu":
        return lambda chosen: torch.from_numpy(images[chosen.numpy()])
    whole = torch.cat([torch.from_numpy(batch).to(device) for batch in _in_batches(images, 10_000)])
    return lambda chosen: whole[chosen.to(device)]


def _in_batches(images: NDArray[np.uint8] | Images, size: int) -> Iterator[NDArray[np.uint8]]:
    return (images[start : start + size] for start in range(0, len(images), size))


def balanced(targets: NDArray[np.int64], exponent: float) -> NDArray[np.float32]:
    """Loss weights that lift rare outputs: (mean count / count) ** exponent, so 0 leaves all at 1."""
    counts = np.bincount(targets)
    mean = float(counts[counts > 0].mean())
    return np.asarray((mean / counts[targets]) ** exponent, np.float32)


def _steps(images: int, batch_size: int, min_steps: int) -> int:
    """Steps of an epoch; a small set is passed over several times."""
    return max(images // batch_size, min_steps)


def _batches(images: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`steps` batches of positions, in one random order after another; the remainder of an order is left out."""
    for step in range(steps):
        place = step % (images // batch_size)
        if place == 0:
            order = torch.randperm(images, generator=generator)
        yield order[place * batch_size : (place + 1) * batch_size]


def _one_cycle(share: float) -> float:
    """0 to 1 and back to 0, linearly."""
    return share / WARM_UP if share < WARM_UP else (1 - share) / (1 - WARM_UP)


def _optimizers(network: Network, threads: Threads, weight_decay: float) -> tuple[Muon, AdamW]:
    """Muon for the blocks' filters; AdamW for stem, norms and output, where norms and biases do not decay."""
    filters = [p for p in network.blocks.parameters() if p.ndim == 4]
    norms_and_biases = [p for p in network.parameters() if p.ndim == 1]
    return Muon(filters, threads), AdamW(
        [network.stem.weight, network.output.weight], norms_and_biases, weight_decay
    )


def _check(loss_sum: Tensor, epoch: int, schedule: Schedule) -> None:
    if not math.isfinite(loss_sum.item()):
        raise TrainingDiverged(
            f"the loss became {loss_sum.item()} in epoch {epoch} of {schedule.epochs}; lower train.learning_rate "
            f"(now {schedule.learning_rate:g}) in params.yaml and run again"
        )


def _identity(
    data: TrainingData,
    params: TrainParams,
    schedule: Schedule,
    classes: int,
    base: Mapping[str, Tensor] | None,
) -> str:
    """Names a training by all that decides its bits, so that a checkpoint of another one is not taken up."""
    decisive = params.model_dump_json(exclude={"threads"})
    digest = hashlib.sha256(f"{decisive} {schedule} {classes} {torch.__version__}".encode())
    for pixels in _in_batches(data.pixels, 10_000):
        digest.update(pixels.tobytes())
    for array in (data.targets, data.weights):
        digest.update(array.tobytes())
    for name, tensor in sorted((base or {}).items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _snapshot(network: Network, optimizers: Sequence[Muon | AdamW], epoch: int, identity: str) -> bytes:
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in optimizer.state.items()}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data: bytes = save(plain, {"training": json.dumps({"epoch": epoch, "identity": identity})})
    return data


def _restore(
    checkpoint: Path | None, identity: str, network: Network, optimizers: Sequence[Muon | AdamW]
) -> int:
    """Loads the checkpoint when it is of this training. Returns the epochs finished."""
    if checkpoint is None or not checkpoint.exists():
        return 0
    with safe_open(checkpoint, "pt") as file:
        header = json.loads(file.metadata()["training"])
        if header["identity"] != identity:
            return 0
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    network.load_state_dict(
        {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
    )
    for number, optimizer in enumerate(optimizers):
        for name, own in optimizer.state.items():
            own.copy_(tensors[f"optimizer.{number}.{name}"])
    return int(header["epoch"])
