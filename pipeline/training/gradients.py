"""The gradients of one step, worked out by several threads; how many has no influence on the bits.

A batch is always cut into the same parts. Each part goes through a copy of the network by itself, with its own random
changes and its own batch statistics, and the parts' gradients are added in order. Threads that share one operation wait
for each other at every one of them; these wait once a step.

The copies compute in bfloat16 where the processor has it. Weights, sums of gradients and the optimizers' steps are
float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.training import ranks
from pipeline.training.networks import ImageNetwork

PARTS = 2  # of a batch of 256 on a CPU: with four, two cores take a sixth longer
MOST_PARTS = 4096
PART_IMAGES = 16  # at least, as long as there are as many
_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclass(frozen=True)
class Batch:
    """images: float32 (N, C, H, W), 0..1; targets: int64 (N,); weights: float32 (N,), of the images' losses."""

    images: Tensor
    targets: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Part:
    """chosen: positions of a batch's images, (N,). seed: of their random changes, the part's own."""

    chosen: Tensor
    seed: int


class Threads:
    """As many at once, each of which computes alone. `map` keeps the order. On a GPU one is enough."""

    def __init__(self, count: int) -> None:
        torch.set_num_threads(1)
        self.count = count
        self._pool = ThreadPoolExecutor(count, initializer=lambda: torch.set_num_threads(1))

    def map(self, work: Callable[[_T], _U], given: Sequence[_T]) -> list[_U]:
        return list(self._pool.map(work, given))


class Gradients:
    """Of `network`, whose weights may change between two steps. dtype: what convolutions compute in, the device's
    fastest unless told otherwise."""

    def __init__(
        self,
        network: ImageNetwork,
        device: torch.device,
        threads: Threads,
        label_smoothing: float,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._network = network
        self._threads = threads
        self._label_smoothing = label_smoothing
        self._dtype = dtype or fast_dtype(device)
        self._idle: SimpleQueue[ImageNetwork] = SimpleQueue()
        for _ in range(threads.count):
            self._idle.put(_lower(copy.deepcopy(network), self._dtype))

    def step(self, batch_of: Callable[[Part], Batch], parts: Sequence[Part], total_weight: Tensor) -> Tensor:
        """Sets the gradients of the network's parameters, and gives the weighted mean loss, both of all processes.

        batch_of: called on the thread that needs it. total_weight: of all the images' losses.
        """
        for copied in self._copies():
            _load(copied, self._network)

        def work(part: Part) -> tuple[Tensor, list[Tensor]]:
            copied = self._idle.get()
            try:
                return self._of_part(copied, batch_of(part), total_weight)
            finally:
                self._idle.put(copied)

        own = parts[ranks.rank() :: ranks.count()]
        found = self._threads.map(work, own)
        parameters = trained(self._network)
        totals = [torch.zeros_like(parameter) for parameter in parameters]
        loss = torch.zeros((), device=total_weight.device)
        for part_loss, gradients in found:
            loss += part_loss
            for total, gradient in zip(totals, gradients, strict=True):
                total += gradient
        ranks.add_up([loss, *totals])
        for parameter, total in zip(parameters, totals, strict=True):
            parameter.grad = total
        return loss

    def settle(self, batches: Iterable[Tensor]) -> None:
        """Sets the network's batch statistics to their means over some batches of images, as it is now."""
        copied = self._copies()[0]
        _load(copied, self._network)
        norms = [module for module in copied.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        with torch.no_grad():
            for batch in batches:
                copied(channels_last(batch.to(self._dtype)))
        own = [module for module in self._network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm, measured in zip(own, norms, strict=True):
            norm.load_state_dict(measured.state_dict())

    def _copies(self) -> list[ImageNetwork]:
        copies = [self._idle.get() for _ in range(self._threads.count)]
        for copied in copies:
            self._idle.put(copied)
        return copies

    def _of_part(
        self, copied: ImageNetwork, batch: Batch, total_weight: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        logits = copied(channels_last(batch.images.to(self._dtype)))
        losses = F.cross_entropy(
            logits.float(), batch.targets, label_smoothing=self._label_smoothing, reduction="none"
        )
        loss = (losses * batch.weights).sum() / total_weight
        return loss.detach(), list(torch.autograd.grad(loss, trained(copied)))


def trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def parts_of(chosen: Tensor, count: int, seed: int) -> list[Part]:
    """A batch's positions in `count` parts, or fewer when it is small."""
    count = max(1, min(count, len(chosen) // PART_IMAGES))
    return [
        Part(positions, (seed * MOST_PARTS + number) % 2**63)
        for number, positions in enumerate(chosen.tensor_split(count))
    ]


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it: elsewhere it is emulated, and slower than float32."""
    if device.type == "cuda":
        multiplied = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        multiplied = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if multiplied else torch.float32


def channels_last(images: Tensor) -> Tensor:
    """One channel has the same bytes in either layout; the strides say which is meant, and what follows keeps it."""
    n, channels, height, width = images.shape
    if channels == 1:
        return images.contiguous().as_strided((n, 1, height, width), (height * width, 1, width, 1))
    return images.contiguous(memory_format=torch.channels_last)


def _lower(network: ImageNetwork, dtype: torch.dtype) -> ImageNetwork:
    """Batch statistics stay float32."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
    return network.train()


@torch.no_grad()
def _load(copied: ImageNetwork, network: ImageNetwork) -> None:
    for own, given in zip(copied.parameters(), network.parameters(), strict=True):
        own.copy_(given)
