"""What people write first: the training that ours is measured against (bench/training.py).

Three convolutions (32, 64, 128; batch norm, ReLU, max-pool) in float32, AdamW with one cycle to 6e-3, batches of 256,
eight epochs, random flip and a shift of up to two pixels. Nothing in it is slow on purpose.
"""

from __future__ import annotations

import os
import time
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

EPOCHS = 8
BATCH = 256
PEAK = 6e-3
SHIFT = 2


class Plain(nn.Module):
    def __init__(self, channels: int, height: int, width: int, outputs: int) -> None:
        super().__init__()
        widths = (channels, 32, 64, 128)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)
                )
                for a, b in pairwise(widths)
            )
        )
        self.output = nn.Linear(128 * (height // 8) * (width // 8), outputs)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.output(self.stages(images).flatten(1))
        return logits


def train_baseline(
    pixels: NDArray[np.uint8], targets: NDArray[np.int64], outputs: int, seed: int
) -> tuple[Plain, float]:
    """The network, and how many seconds its training took. On the CPU, with all its cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(seed)
    started = time.perf_counter()
    images, labels = images_of(pixels), torch.from_numpy(targets)
    network = Plain(images.shape[1], images.shape[2], images.shape[3], outputs)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=EPOCHS * steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))
        for chosen in torch.split(order[: steps * BATCH], BATCH):
            loss = F.cross_entropy(network(changed(images[chosen])), labels[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return network.eval(), time.perf_counter() - started


def changed(images: Tensor) -> Tensor:
    """Each mirrored or not; all shifted alike."""
    mirrored = torch.rand(len(images)) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    down, right = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
    height, width = images.shape[2:]
    return F.pad(images, (SHIFT,) * 4)[:, :, down : down + height, right : right + width]


@torch.inference_mode()
def accuracy(network: Plain, pixels: NDArray[np.uint8], targets: NDArray[np.int64]) -> float:
    answers = torch.cat([network(batch).argmax(1) for batch in torch.split(images_of(pixels), 500)])
    return (answers == torch.from_numpy(targets)).float().mean().item()


def images_of(pixels: NDArray[np.uint8]) -> Tensor:
    planes = torch.from_numpy(pixels)
    planes = planes.unsqueeze(1) if planes.ndim == 3 else planes.permute(0, 3, 1, 2)
    return planes.float() / 255
