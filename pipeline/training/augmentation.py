"""Random changes that keep the label, for whole batches, each image its own; torch only.

Random numbers are drawn on the CPU from the caller's generator, so the same seed gives the same images on any
device. Images are float32 (N, C, H, W), 0..1, and so is what comes back.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Kind = Literal["none", "drawing", "photo"]

MARGIN = 1 / 14  # of half the side: the data set's drawings reach to within 1 of 28 pixels of each edge


Size = tuple[int, int]  # height, width


def augment(images: Tensor, kind: Kind, mirrored: Tensor, generator: Generator, size: Size) -> Tensor:
    """mirrored: bool (N,), which photos are turned left to right. size: of what comes back."""
    if kind == "drawing":
        return drawing(images, generator, size)
    return resized(photo(images, mirrored, generator) if kind == "photo" else images, size)


def resized(images: Tensor, size: Size) -> Tensor:
    if size == images.shape[2:]:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


def drawing(
    images: Tensor,
    generator: Generator,
    size: Size,
    *,
    degrees: float = 15.0,
    aspect: float = 0.2,
    shear: float = 0.2,
) -> Tensor:
    """Turned, stretched and slanted, and fitted to the frame again as every drawing is.

    aspect: log of the largest stretch of width against height. Trained on generated drawings these changes are
    worth 3 points on real ones; twice as much of them, mirroring, bending and cutting out each lose some again.
    """
    n = len(images)
    linear = _turned_and_slanted(n, generator, degrees, aspect, shear).to(images.device)  # (N, 2, 2)
    scale, centre = _frame(images, torch.linalg.inv(linear))
    positions = _pixel_centres(*size).to(images.device)  # (H*W, 2)
    sampled = (positions * scale + centre) @ linear.transpose(1, 2)  # (N, H*W, 2)
    grid = sampled.view(n, *size, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def photo(
    images: Tensor, mirrored: Tensor, generator: Generator, *, shift: float = 0.125, cutout: float = 0.25
) -> Tensor:
    """Mirrored where told, shifted (edges reflected), and a square cut out. shift and cutout: shares of the side."""
    n, channels, height, width = images.shape
    device = images.device
    images = torch.where(mirrored.to(device)[:, None, None, None], images.flip(3), images)
    reach = round(shift * min(height, width))
    dy, dx = torch.randint(0, 2 * reach + 1, (2, n), generator=generator).to(device)
    rows = torch.arange(height, device=device) + dy[:, None]  # (N, H)
    columns = torch.arange(width, device=device) + dx[:, None]  # (N, W)
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    which = torch.arange(n, device=device)[:, None, None, None]
    planes = torch.arange(channels, device=device)[None, :, None, None]
    shifted = padded[which, planes, rows[:, None, :, None], columns[:, None, None, :]]
    middle = (
        torch.rand(2, n, 1, generator=generator).to(device)
        * torch.tensor([height, width], device=device)[:, None, None]
    )
    half = cutout * min(height, width) / 2
    cut_rows = (torch.arange(height, device=device) - middle[0]).abs() < half  # (N, H)
    cut_columns = (torch.arange(width, device=device) - middle[1]).abs() < half  # (N, W)
    return shifted * ~(cut_rows[:, None, :, None] & cut_columns[:, None, None, :])


def _turned_and_slanted(n: int, generator: Generator, degrees: float, aspect: float, shear: float) -> Tensor:
    """(N, 2, 2): from a position in the new image to where it is read from in the old one."""
    angle, stretch, slant = torch.rand(3, n, generator=generator) * 2 - 1
    angle, stretch, slant = angle * math.radians(degrees), torch.exp(stretch * aspect / 2), slant * shear
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(n)
    turned = torch.stack([cos, -sin, sin, cos], 1).view(n, 2, 2)
    return turned @ torch.stack([stretch, slant, zero, 1 / stretch], 1).view(n, 2, 2)


def _centres(count: int) -> Tensor:
    """Of pixels along a side, -1..1 across it."""
    return (torch.arange(count) * 2 + 1) / count - 1


def _pixel_centres(height: int, width: int) -> Tensor:
    """(H*W, 2), x then y."""
    y, x = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def _frame(images: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Scale (N, 1, 1) and centre (N, 1, 2) of each turned drawing's ink, so that it fills the frame again.

    Only the outermost ink of each row can touch the turned drawing's bounding box: 2 H points, not H*W.
    """
    _, _, height, width = images.shape
    ink = images[:, 0] > 0.3  # (N, H, W)
    x, y = _centres(width).to(images.device), _centres(height).to(images.device)
    left = x.expand_as(ink).masked_fill(~ink, 2.0).amin(2)  # (N, H)
    right = x.expand_as(ink).masked_fill(~ink, -2.0).amax(2)
    ends = torch.stack([torch.cat([left, right], 1), y.repeat(2).expand(len(ink), -1)], 1)  # (N, 2, 2 H)
    moved = inverse @ ends
    nothing = (left > 1).repeat(1, 2)[:, None]  # (N, 1, 2 H): rows without ink
    low = moved.masked_fill(nothing, 9.0).amin(2)
    high = moved.masked_fill(nothing, -9.0).amax(2)
    blank = nothing.all(2)
    low, high = low.masked_fill(blank, MARGIN - 1), high.masked_fill(blank, 1 - MARGIN)
    half_pixel = 1 / min(height, width)
    reach = ((high - low) / 2 + half_pixel).amax(1)
    return (reach / (1 - MARGIN))[:, None, None], ((high + low) / 2)[:, None]
