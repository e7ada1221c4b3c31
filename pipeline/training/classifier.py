"""The built-in trainer: the small convolutional network of networks.py, on the CPU and on a GPU.

Deterministic on the CPU: the same seed, data and kind of CPU give the same bits, on any number of threads. Order and
random changes come from generators seeded with (seed, epoch) and (seed, epoch, step, part), so there is no random
state to keep, and a training that was killed and goes on from its last checkpoint ends with the same bits as one that
was not.

Batch statistics are measured when an epoch is over, on images as they will be served: without random changes.

The last epoch's weights are kept: the learning rate has come down to zero by then, so they are settled, and picking
an epoch by its validation figure would fit the choice to those images.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.pixels import Images
from pipeline.stages import StageError
from pipeline.training import ranks
from pipeline.training.augmentation import augment
from pipeline.training.config import TrainingConfig
from pipeline.training.export import export_network, read_weights
from pipeline.training.gradients import (
    PART_IMAGES,
    PARTS,
    Batch,
    Gradients,
    Part,
    Threads,
    channels_last,
    parts_of,
)
from pipeline.training.networks import (
    ImageNetwork,
    Network,
    images_of,
    misfit,
    probabilities,
    start_from,
    whitening,
)
from pipeline.training.optimizer import AdamW, Muon
from pipeline.training.trainer import Figures, Trainer, TrainingData, TrainingDiverged, in_batches

WARM_UP = 0.25  # of all steps the learning rate rises, then falls to zero
# Of `min_steps`, in a warm start: a quarter of the time of five epochs from new weights, whose first steps are cheaper.
# Fewer left more corrections wrong.
WARM_STEPS = 0.85
ADAMW_SHARE = 1 / 80  # its learning rate as a share of Muon's, which is in other units: 0.003 beside 0.24
PROGRESS_SECONDS = 10.0
VALIDATION_BATCH = 64  # more at once does not fit the processor's cache
SMALLEST_PROBABILITY = 1e-12  # of a right answer: none has an infinite loss
# Of validation accuracy. Labels that a mirror changes cost more than this; other models gain on images unlike those
# they were trained on, which validation images hardly show.
MIRROR_MARGIN = 0.005
HELD_AT_ONCE = 10_000  # images, on their way to a GPU
SETTLED_IMAGES = 1024  # what batch statistics are measured on


class Classifier(Trainer):
    """Sets torch's thread count, its global seed and, on the CPU, its deterministic algorithms."""

    trains_together = True
    settled_at_once = 256  # images
    memory_keys = "train.batch_size or train.widths"  # that say how much memory training takes

    def __init__(
        self,
        config: TrainingConfig,
        say: Callable[[str], None] = print,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(config, say)
        self._read_options()
        self._use(device or best_device())

    def _use(self, device: torch.device) -> None:
        self._device = device
        is_cpu = device.type == "cpu"
        self._parts = max(PARTS, ranks.count()) if is_cpu else ranks.count()
        self._threads = Threads(self.config.threads if is_cpu else 1)
        # Not use_deterministic_algorithms, which says the same and imports the compiler, in 2 s.
        torch.set_deterministic_debug_mode("error" if is_cpu else "default")
        # Nothing reads memory before it is written, and writing all of it once more costs an eighth of the time.
        torch._C._set_deterministic_fill_uninitialized_memory(False)

    def _read_options(self) -> None:
        if self.config.options:
            raise StageError(
                f"the built-in classifier has no options ({', '.join(sorted(self.config.options))}): leave "
                "train.options empty in params.yaml"
            )

    @property
    def leads(self) -> bool:
        return ranks.rank() == 0

    @property
    def device(self) -> str:
        return self._device.type

    @property
    def gpu_uuid(self) -> str | None:
        if self._device.type != "cuda":
            return None
        return str(torch.cuda.get_device_properties(self._device).uuid)

    @property
    def made_with(self) -> str:
        return f"torch {torch.__version__} {self._device.type}, batches in {self._parts} parts"

    def fit(self, data: TrainingData, outputs: int, **options: Any) -> None:
        self._epoch = 0
        try:
            super().fit(data, outputs, **options)
        except torch.OutOfMemoryError as exc:
            raise StageError(f"{_too_little_memory(exc)}; {self._smaller}") from exc
        except torch.AcceleratorError as exc:  # told when the device is next waited for, so anywhere
            raise StageError(
                f"the {self.device} device was lost in epoch {self._epoch} of {self.epochs}: {_first_line(exc)}. What "
                "the last epoch left is kept: `emend resume` goes on from there"
            ) from exc

    def prepare_dataset(self, data: TrainingData) -> None:
        self._data = data
        # One that weighs three times as much is passed over three times, with other random changes each time.
        self._times = torch.from_numpy(data.weights).long().clamp_min(1)
        self._may_mirror = torch.from_numpy(~np.isin(data.targets, data.unmirrored))
        self._begins_mirrored = torch.rand(len(data.targets), generator=self._generator(0)) < 0.5
        self._hold_images()
        height, width = self._full_size = data.pixels.shape[1], data.pixels.shape[2]
        low = round(height * self.config.low_resolution), round(width * self.config.low_resolution)
        self._low_size = low if min(low) >= self._least_side else self._full_size
        order = torch.randperm(len(data.targets), generator=self._generator(0))
        typical = order[:SETTLED_IMAGES]
        # Evenly: each batch counts the same, and of a single image there may be no statistics.
        self._typical = typical.tensor_split(-(-len(typical) // self.settled_at_once))

    @property
    def _smaller(self) -> str:
        return f"lower {self.memory_keys} in params.yaml and start a new run"

    @property
    def _least_side(self) -> int:
        return 1 << len(self.config.widths)  # each stage halves the side

    def _hold_images(self, *, on_device: bool = True) -> None:
        """On the device when they fit there; else, and on the CPU, they stay where they are and are read as needed."""
        whole = _on_device(self._data.pixels, self._device) if on_device else None
        self._holds_images = whole is not None
        self._pixels_of = _reader(self._data.pixels, whole, self._device)
        self._targets = torch.from_numpy(self._data.targets).to(self._device)
        self._weights = (torch.from_numpy(self._data.weights) / self._times).to(self._device)

    def create_model(self, outputs: int, base: Path | None) -> None:
        torch.manual_seed(self.config.seed)
        network = self._new_network(outputs, base)
        self.epochs, self._learning_rate = (
            (self.config.warm_epochs, self.config.warm_learning_rate)
            if self.starts_from_base
            else (self.config.epochs, self.config.learning_rate)
        )
        self._plan_passes()
        # What the champion knows, it knows of whole images: low resolution undoes more of it than it saves.
        self._low_share = 0.0 if self.starts_from_base else self.config.low_resolution_share
        # channels_last with bfloat16 is 2 times as fast as neither on an AVX-512 CPU, and the figure is the same.
        self.network = network.to(self._device).to(memory_format=torch.channels_last)
        self._gradients = self._new_gradients()
        self._optimizers = self._new_optimizers()

    def _plan_passes(self) -> None:
        """What is passed over each time, one image as often as it counts. Of what the champion was trained on and what
        counts once, a warm start sees another share each time: it is mostly about what is new."""
        positions = torch.arange(len(self._times))
        known = self._known_to_base & (self._times == 1)
        self._always = positions[~known].repeat_interleave(self._times[~known])
        self._known = positions[known]
        self._again = math.ceil(self.config.replay * len(self._known))
        images = len(self._always) + self._again
        self._batch_size = min(self.config.batch_size, images)
        self._steps_of_pass = images // self._batch_size
        least = self.config.min_steps * (WARM_STEPS if self.starts_from_base else 1.0)
        self._steps = max(self._steps_of_pass, math.ceil(least))

    def _positions_of_pass(self, generator: torch.Generator) -> Tensor:
        again = torch.randperm(len(self._known), generator=generator)[: self._again]
        return torch.cat([self._always, self._known[again]])

    def _batches(self, epoch: int) -> Iterator[Tensor]:
        """Of positions, in one random order after another; the remainder of an order is left out."""
        generator = self._generator(epoch)
        for step in range(self._steps):
            place = step % self._steps_of_pass
            if place == 0:
                positions = self._positions_of_pass(generator)
                order = positions[torch.randperm(len(positions), generator=generator)]
            yield order[place * self._batch_size : (place + 1) * self._batch_size]

    def _generator(self, epoch: int) -> torch.Generator:
        """epoch: 0 for what is the same in all of them."""
        return torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)

    def _new_network(self, outputs: int, base: Path | None) -> ImageNetwork:
        """With the weights that training starts from. Sets starts_from_base."""
        network = Network(self._data.channels, self.config.widths, outputs)
        self.starts_from_base = self._start_from(network, base)
        if not self.starts_from_base:
            seen = (images_of(self._pixels_of(chosen)).cpu() for chosen in self._typical)
            with torch.no_grad():
                network.stem.weight.copy_(whitening(seen, self._data.channels, self.config.widths[0]))
        return network

    def _new_gradients(self) -> Gradients:
        return Gradients(self.network, self._device, self._threads, self.config.label_smoothing)

    def _new_optimizers(self) -> dict[str, Muon | AdamW]:
        """Muon for the blocks' filters; AdamW for norms and output, where norms and biases do not decay."""
        filters = [p for p in self.network.blocks.parameters() if p.ndim == 4]
        norms_and_biases = [p for p in self.network.parameters() if p.ndim == 1]
        adamw = AdamW([self.network.output.weight], norms_and_biases, self.config.weight_decay)
        return {"muon": Muon(filters, self._threads), "adamw": adamw}

    def _start_from(self, network: ImageNetwork, base: Path | None) -> bool:
        """Whether it could, and should."""
        self._known_to_base = torch.zeros(len(self._data.targets), dtype=torch.bool)
        if base is None or self.config.mode == "scratch":
            return False
        weights, base_images = read_weights(base / "weights.safetensors")
        known = self._data.known
        if known is None:  # nobody says which: as many as it was trained on, those that come first
            known = np.arange(len(self._data.targets)) < base_images
        why = misfit(network, weights) or much_is_new(self.config, known)
        if why is not None:
            self.say(f"not from the champion's weights: {why}")
            return False
        start_from(network, weights, self.config.perturb)
        self._known_to_base = torch.from_numpy(known)
        return True

    def train_epoch(self, epoch: int) -> Figures:
        self._epoch = epoch
        loss_sum = torch.zeros((), device=self._device)
        started = said = time.perf_counter()
        passes = -(-self._steps // self._steps_of_pass)
        for step, chosen in enumerate(self._batches(epoch)):
            share = ((epoch - 1) * self._steps + step) / (self.epochs * self._steps)
            seed = (self.config.seed * 1_000_003 + epoch) * 1_000_003 + step
            self._pass = (epoch - 1) * passes + step // self._steps_of_pass
            self._size = self._low_size if share < self._low_share else self._full_size
            loss_sum += self._loss_and_gradients(chosen, seed).to(loss_sum.device)
            learning_rate = self._descend(share)
            if self.leads and time.perf_counter() - said > PROGRESS_SECONDS:
                said = time.perf_counter()
                mean_loss = self._checked(loss_sum, epoch) / (step + 1)
                self.say(
                    f"epoch {epoch}/{self.epochs}: step {step + 1} of {self._steps}, loss {mean_loss:.3f}"
                )
        train_loss = self._checked(loss_sum, epoch) / self._steps
        seconds = time.perf_counter() - started
        ranks.as_the_first([tensor for tensor in self._state().values() if tensor.is_floating_point()])
        self._gradients.settle(images_of(self._pixels_of(chosen)) for chosen in self._typical)
        return {
            "train_loss": round(train_loss, 6),
            "learning_rate": round(learning_rate, 9),
            "images_per_second": round(self._steps * self._batch_size / seconds, 1),
            "batch_parts": self._parts,
        }

    def share_of_time(self, epoch: int) -> float:
        low_cost = math.prod(self._low_size) / math.prod(self._full_size)

        def cost(share: float) -> float:
            return low_cost * min(share, self._low_share) + max(share - self._low_share, 0.0)

        return cost(epoch / self.epochs) / cost(1.0)

    def _descend(self, share: float) -> float:
        """A step of the optimizers. share: of all steps, those done. Gives the learning rate as the curve shows it."""
        learning_rate = self._learning_rate * one_cycle(share)
        self._optimizers["muon"].step(learning_rate)
        self._optimizers["adamw"].step(learning_rate * ADAMW_SHARE)
        return learning_rate

    def _loss_and_gradients(self, chosen: Tensor, seed: int) -> Tensor:
        """Of one batch: on a device that has not enough memory in more and more parts, and in the end on the CPU."""
        while True:
            total_weight = self._weights[chosen.to(self._device)].sum()
            parts = parts_of(chosen, self._parts, seed)
            try:
                return self._gradients.step(self._batch_of, parts, total_weight)
            except torch.OutOfMemoryError as exc:
                if ranks.count() > 1:
                    raise StageError(f"{_too_little_memory(exc)}; {self._smaller}") from exc
                self._need_less_memory(len(chosen) // (2 * len(parts)) < PART_IMAGES, exc)

    def _need_less_memory(self, in_smallest_parts: bool, exc: torch.OutOfMemoryError) -> None:
        if self._holds_images:
            self._hold_images(on_device=False)
            self.say(f"{_too_little_memory(exc)}: the images go back into the machine's memory")
        elif not in_smallest_parts:
            self._parts *= 2
            self.say(f"{_too_little_memory(exc)}: going on with each batch in {self._parts} parts")
        elif self._device.type != "cpu":
            self.say(f"{_too_little_memory(exc)}: going on on the CPU")
            self.move_to(torch.device("cpu"))
        else:
            raise StageError(f"{_too_little_memory(exc)}; {self._smaller}") from exc

    def move_to(self, device: torch.device) -> None:
        """Training goes on there, from where it is."""
        self._use(device)
        self.network.to(device)
        for optimizer in self._optimizers.values():
            optimizer.move_to(device, self._threads)
        self._gradients = self._new_gradients()
        self._hold_images()

    def _batch_of(self, part: Part) -> Batch:
        generator = torch.Generator().manual_seed(part.seed)
        pixels = images_of(self._pixels_of(part.chosen))
        images = augment(pixels, self.config.augmentation, self._mirrored(part.chosen), generator, self._size)
        chosen = part.chosen.to(self._device)
        return Batch(images, self._targets[chosen], self._weights[chosen])

    def _mirrored(self, chosen: Tensor) -> Tensor:
        """bool (N,): an image one way in one pass and the other way in the next; chance alone shows half of them
        twice the same (Jordan 2024, arXiv:2404.00498)."""
        return (self._begins_mirrored[chosen] ^ bool(self._pass % 2)) & self._may_mirror[chosen]

    def _checked(self, loss_sum: Tensor, epoch: int) -> float:
        total = loss_sum.item()
        if not math.isfinite(total):
            raise TrainingDiverged(
                f"the loss became {total} in epoch {epoch} of {self.epochs}; lower {self.rate_key} "
                f"(now {self._learning_rate:g}) in params.yaml and run again"
            )
        return total

    def validate(self) -> Figures:
        images, targets = self._data.validation_pixels, self._data.validation_targets
        self.network.mirrored.fill_(False)
        loss, accuracy = self.measure(images, targets)
        may_mirror = self.config.mirror and not self._data.unmirrored
        if self._epoch == self.epochs and may_mirror and loss is not None:
            self.network.mirrored.fill_(True)
            mirrored_loss, mirrored_accuracy = self.measure(images, targets)
            assert accuracy is not None
            assert mirrored_loss is not None
            assert mirrored_accuracy is not None
            if mirrored_loss < loss or mirrored_accuracy >= accuracy - MIRROR_MARGIN:
                loss, accuracy = mirrored_loss, mirrored_accuracy
            else:
                self.network.mirrored.fill_(False)
        return {"validation_loss": loss, "validation_accuracy": accuracy}

    def measure(
        self, pixels: NDArray[np.uint8] | Images, targets: NDArray[np.int64]
    ) -> tuple[float | None, float | None]:
        """Mean loss and accuracy (0..1) on some images, in float32 as they will be served; None without any."""
        if len(targets) == 0:
            return None, None
        self.network.eval()
        mirrored = bool(self.network.mirrored)

        @torch.inference_mode()
        def answers_from(start: int) -> Tensor:  # reads its images itself: all at once may not fit in memory
            images = images_of(torch.from_numpy(pixels[start : start + VALIDATION_BATCH]).to(self._device))
            return probabilities(self.network, channels_last(images), mirrored).cpu()

        answers = torch.cat(self._threads.map(answers_from, range(0, len(targets), VALIDATION_BATCH)))
        expected = torch.from_numpy(targets)
        accuracy = (answers.argmax(1) == expected).float().mean().item()
        loss = F.nll_loss(answers.clamp_min(SMALLEST_PROBABILITY).log(), expected)
        return round(loss.item(), 6), round(accuracy, 6)

    def save_checkpoint(self, path: Path) -> None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._state().items()}
        save_file(tensors, path)

    def load_checkpoint(self, path: Path) -> None:
        stored = load_file(path)
        with torch.no_grad():
            for name, own in self._state().items():
                own.copy_(stored[name])

    def _state(self) -> dict[str, Tensor]:
        """All that the next epoch depends on, by name; the tensors themselves."""
        state = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for which, optimizer in self._optimizers.items():
            state |= {f"{which}.{name}": tensor for name, tensor in optimizer.state.items()}
        return state

    def export_model(self, folder: Path, example: NDArray[np.uint8]) -> None:
        export_network(self.network, folder, example, train_images=len(self._data.targets))


def best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def much_is_new(config: TrainingConfig, known: NDArray[np.bool_]) -> str | None:
    """Why `auto` starts from new weights; None when the base has seen nearly all of the images."""
    new = np.count_nonzero(~known)
    if config.mode == "warm" or new <= config.warm_share * len(known):
        return None
    return f"{new} of {len(known)} images are new to it, more than train.warm_share ({config.warm_share:g})"


def _on_device(images: NDArray[np.uint8] | Images, device: torch.device) -> Tensor | None:
    """All of them; None on the CPU, and where they do not fit."""
    if device.type == "cpu":
        return None
    try:
        whole = torch.empty(images.shape, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        return None
    for number, batch in enumerate(in_batches(images, HELD_AT_ONCE)):
        whole[number * HELD_AT_ONCE :][: len(batch)] = torch.from_numpy(batch)
    return whole


def _reader(
    images: NDArray[np.uint8] | Images, whole: Tensor | None, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Gives the images at some positions, on `device`."""
    if whole is not None:
        return lambda chosen: whole[chosen.to(device)]
    return lambda chosen: torch.from_numpy(images[chosen.numpy()]).to(device)


def _too_little_memory(exc: torch.OutOfMemoryError) -> str:
    return f"not enough memory to train ({_first_line(exc)})"


def _first_line(exc: Exception) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]


def one_cycle(share: float) -> float:
    """0 to 1 and back to 0, linearly."""
    return share / WARM_UP if share < WARM_UP else (1 - share) / (1 - WARM_UP)
