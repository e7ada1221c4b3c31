"""airbench94, the public recipe that training on a GPU is measured against (bench/training.py --airbench).

After Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv:2404.00498), the variant without Muon and
without torch.compile, of whose source nothing is copied. Its authors report 94.01 % of CIFAR-10's test photos after 9.9
epochs of all 50,000 training photos and 3.83 s of an A100.

Not as there: pixels are scaled by the mean and spread of the images at hand; images for the whitening filters are taken
from all over them, for ours are in order of category; each batch is shifted when its turn has come, not a whole epoch
at once; other sides than 32 and drawings work too. Seconds here begin with uint8 pixels in the machine's memory and end
with the trained network, as those of our training do, which validates after each epoch besides; there, they begin on
the device and include the answers to the test photos.

On CUDA half precision; elsewhere weights and sums are float32. It has been run on a CPU and not yet on a GPU.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from itertools import count, islice, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.training.gradients import channels_last, fast_dtype
from pipeline.training.networks import images_of

EPOCHS = 9.9
BATCH = 1024
# Both for 1024 images, and so that neither momentum nor, for the decay, the rate changes what they mean.
LEARNING_RATE = 11.5
WEIGHT_DECAY = 0.0153
MOMENTUM = 0.85
BIAS_SCALER = 64.0  # the rate of the norms' biases, in rates of all else
LABEL_SMOOTHING = 0.2
RATE_RISES = 0.23  # of all steps
RATE_AT_START, RATE_AT_END = 0.2, 0.07  # in peaks
WHITENED_IMAGES = 5000
WHITENING_NOISE = 5e-4  # added to each direction's variance
BIAS_EPOCHS = 3  # then the first layer's is frozen, and no backward pass comes to it
SHIFT = 2
LOOKAHEAD_STEPS = 5
LOOKAHEAD_KEPT = 0.95**LOOKAHEAD_STEPS  # at the end; less, by the cube of the share of steps done, before


class Group(nn.Module):
    """Halves the side."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = convolution(width_in, width_out), norm(width_out)
        self.conv2, self.norm2 = convolution(width_out, width_out), norm(width_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


def convolution(width_in: int, width_out: int) -> nn.Conv2d:
    """The first filters hand their input on as it is; the others, if any, are random."""
    layer = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight[:width_in])
    return layer


def norm(width: int) -> nn.BatchNorm2d:
    """Trains no scale. torch's momentum is the share that is new, the source's 0.6 the one that is kept."""
    layer = nn.BatchNorm2d(width, eps=1e-12, momentum=1 - 0.6)
    layer.weight.requires_grad_(False)
    return layer


class Airbench(nn.Module):
    """From what `normalised` gives to logits (N, outputs).

    images: those it will be trained on, float32 (N, C, H, W), 0..1, on the device to train on.
    """

    mean: Tensor
    spread: Tensor
    filters: Tensor

    def __init__(self, images: Tensor, widths: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        device = images.device
        self.dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.mixed = device.type != "cuda" and fast_dtype(device) == torch.bfloat16
        self.register_buffer("mean", images.mean((0, 2, 3), keepdim=True), persistent=False)
        self.register_buffer("spread", images.std((0, 2, 3), keepdim=True), persistent=False)
        seen = images[:: -(-len(images) // WHITENED_IMAGES)]
        filters = whitening((seen - self.mean) / self.spread).to(self.dtype)
        self.register_buffer("filters", filters, persistent=False)
        self.bias = nn.Parameter(torch.zeros(len(filters), dtype=self.dtype))
        self.groups = nn.Sequential(*(Group(a, b) for a, b in pairwise([len(filters), *widths])))
        self.output = nn.Linear(widths[-1], outputs, bias=False)
        for layer in (m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
            layer.to(self.dtype)  # norms stay float32
        self.to(device).to(memory_format=torch.channels_last)

    def normalised(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.spread).to(self.dtype)

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed):
            x = F.gelu(F.conv2d(channels_last(images), self.filters, self.bias))
            x = self.groups(x)  # of 32x32: (N, 256, 3, 3)
            logits: Tensor = self.output(F.max_pool2d(x, x.shape[2:]).flatten(1))
            return logits / 9


def whitening(images: Tensor) -> Tensor:
    """Filters (2 * C*2*2, C, 2, 2): all directions of the images' patches, each brought to a variance of 1, and their
    negatives."""
    patches = F.unfold(images, 2).transpose(1, 2).flatten(0, 1)  # (P, C*2*2)
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (directions / (variances + WHITENING_NOISE).sqrt()).T.reshape(-1, images.shape[1], 2, 2)
    return torch.cat([filters, -filters])


def train_airbench(
    pixels: NDArray[np.uint8],
    targets: NDArray[np.int64],
    outputs: int,
    seed: int,
    *,
    epochs: float = EPOCHS,
    widths: tuple[int, ...] = (64, 256, 256),
    batch_size: int = BATCH,
    device: torch.device,
) -> tuple[Airbench, float]:
    """The network, and how many seconds its training took. On the CPU, with all its cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(seed)
    started = seconds_now()
    images = images_of(torch.from_numpy(pixels).to(device))
    network = Airbench(images, widths, outputs)
    labels = torch.from_numpy(targets).to(device)
    # cuDNN may try which algorithm is fastest: the shapes are always the same.
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        learn(network, network.normalised(images), labels, epochs, min(batch_size, len(images)))
    return network.eval(), seconds_now() - started


def seconds_now() -> float:
    """Once a GPU has done all that it was told to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def learn(network: Airbench, images: Tensor, labels: Tensor, epochs: float, batch_size: int) -> None:
    total = math.ceil(len(images) // batch_size * epochs)
    optimizer = optimizer_of(network, batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: triangle(step / total))
    lookahead = Lookahead(network)
    for step, (epoch, batch, target) in enumerate(
        islice(batches(images, labels, batch_size), total), start=1
    ):
        network.bias.requires_grad_(epoch < BIAS_EPOCHS)
        logits = network(batch).float()
        loss = F.cross_entropy(logits, target, label_smoothing=LABEL_SMOOTHING, reduction="sum")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step % LOOKAHEAD_STEPS == 0:
            lookahead.meet(LOOKAHEAD_KEPT * (step / total) ** 3)
    lookahead.meet(1.0)


def optimizer_of(network: Airbench, batch_size: int) -> torch.optim.SGD:
    steps = 1024 * (
        1 + 1 / (1 - MOMENTUM)
    )  # how far Nesterov momentum carries a gradient that stays, for 1024
    rate, decay = LEARNING_RATE / steps, WEIGHT_DECAY * batch_size / steps
    biases = [m.bias for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    others = [p for name, p in network.named_parameters() if "norm" not in name and p.requires_grad]
    groups = [
        {"params": biases, "lr": rate * BIAS_SCALER, "weight_decay": decay / (rate * BIAS_SCALER)},
        {"params": others, "lr": rate, "weight_decay": decay / rate},
    ]
    return torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)


def triangle(share: float) -> float:
    """The learning rate, in peaks. share: of all steps, those done."""
    if share < RATE_RISES:
        return RATE_AT_START + (1 - RATE_AT_START) * share / RATE_RISES
    return RATE_AT_END + (1 - RATE_AT_END) * (1 - share) / (1 - RATE_RISES)


class Lookahead:
    """A running mean of weights and batch statistics, from which training goes on each time they meet."""

    def __init__(self, network: nn.Module) -> None:
        self._own = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
        self._mean = [tensor.clone() for tensor in self._own]

    def meet(self, kept: float) -> None:
        """kept: the share of the mean that stays; the rest is the network's."""
        for own, mean in zip(self._own, self._mean, strict=True):
            own.copy_(mean.lerp_(own, 1 - kept))


def batches(images: Tensor, labels: Tensor, batch_size: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Epoch, images and labels, without end; what is left of an epoch's order is left out.

    Half of the images are mirrored in even epochs, the others in odd ones. Each is shifted by up to two pixels.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (SHIFT,) * 4, mode="reflect")
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 5, 5, H, W), a view
    mirrored = torch.rand(len(images), device=images.device) < 0.5
    for epoch in count():
        order = torch.randperm(len(images), device=images.device)
        for chosen in torch.split(order[: len(order) // batch_size * batch_size], batch_size):
            down, right = torch.randint(0, 2 * SHIFT + 1, (2, batch_size), device=images.device)
            batch = windows[chosen, :, down, right]  # (B, C, H, W)
            batch = torch.where(mirrored[chosen, None, None, None], batch.flip(3), batch)
            yield epoch, batch, labels[chosen]
        mirrored = ~mirrored


@torch.inference_mode()
def accuracy(network: Airbench, pixels: NDArray[np.uint8], targets: NDArray[np.int64]) -> float:
    """Of the answers to six views of each image."""
    images = network.normalised(images_of(torch.from_numpy(pixels).to(network.mean.device)))
    answers = torch.cat([over_views(network, batch).argmax(1) for batch in torch.split(images, 2000)])
    return (answers.cpu() == torch.from_numpy(targets)).float().mean().item()


def over_views(network: Airbench, images: Tensor) -> Tensor:
    """Mean logits: half of the image itself, half of it moved by a pixel down and right, or up and left; each with its
    mirror image."""
    height, width = images.shape[2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    views = [(0.5, images), (0.25, padded[:, :, :height, :width]), (0.25, padded[:, :, 2:, 2:])]
    return torch.stack([share / 2 * (network(view) + network(view.flip(3))) for share, view in views]).sum(0)
