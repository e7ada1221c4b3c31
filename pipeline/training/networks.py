"""The network: a small plain CNN for any input size, strong for its arithmetic on two CPU cores.

A stem of filters that are worked out from the images and never trained, then for each further width a block of 3x3
convolution, halving, 3x3 convolution, each with batch norm and ReLU; the maximum over the positions left; one linear
layer. In the spirit of airbench (Jordan 2024, arXiv:2404.00498): few layers, wide enough, nothing that does not pay
for its time.

The stem costs no backward pass, so it can look at every position; trained, it had to skip every other one. That and
half the width of the blocks gave the same accuracy in half the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OUTPUT_ROWS = ("output.weight", "output.bias")
STEM_SIDE = 5
# Added to each direction's variance (of 0..1 pixels): weak ones are noise, and not to be made strong.
WHITENING_NOISE = 3e-3


class Block(nn.Module):
    """Halves the side."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.relu(self.norm2(self.conv2(x)))


class ImageNetwork(nn.Module):
    """Images (N, 1 or 3, H, W), float32 0..1, to logits (N, classes): a stem that is not trained, blocks, and one
    linear layer.

    mirrored: whether it is to be asked so, see `probabilities`.
    """

    stem: nn.Module
    blocks: nn.Module
    output: nn.Linear
    mirrored: Tensor


class Network(ImageNetwork):
    """The stem is to be set: see `whitening`."""

    stem: nn.Conv2d

    def __init__(self, channels: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], STEM_SIDE, padding=STEM_SIDE // 2, bias=False)
        self.stem.requires_grad_(False)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairwise(widths)))
        self.output = nn.Linear(widths[-1], classes)
        self.register_buffer("mirrored", torch.tensor(False))

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(F.relu(halved(self.stem(images))))
        logits: Tensor = self.output(x.amax((2, 3)))
        return logits


def halved(x: Tensor) -> Tensor:
    """max_pool2d(x, 2), in half the time without its positions, which only a backward pass needs."""
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    rows = torch.maximum(x[:, :, 0:height:2], x[:, :, 1:height:2])
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


def probabilities(network: ImageNetwork, images: Tensor, mirrored: bool) -> Tensor:
    """(N, classes). mirrored: the mean over each image and its mirror image."""
    answers: Tensor = network(images).softmax(1)
    return (answers + network(images.flip(3)).softmax(1)) / 2 if mirrored else answers


def whitening(batches: Iterable[Tensor], channels: int, filters: int) -> Tensor:
    """Filters (filters, C, 5, 5) for the stem: the strongest directions of the images' patches, each brought to a
    variance of 1, and their negatives, for ReLU lets one sign pass. batches: of images, float32 (N, C, H, W), some
    hundred in all.

    After airbench (source above), which whitens 2x2 patches.
    """
    size = channels * STEM_SIDE**2
    products, count = torch.zeros(size, size), 0
    for images in batches:
        patches = F.unfold(images, STEM_SIDE, stride=2).transpose(1, 2).flatten(0, 1)  # (P, C * 5 * 5)
        patches = patches[patches.amax(1) > 0]  # paper says nothing
        products += patches.T @ patches
        count += len(patches)
    variances, directions = torch.linalg.eigh(products / max(count, 1))  # ascending
    whole = (directions / (variances + WHITENING_NOISE).sqrt()).T.flip(0)
    half = whole[torch.arange((filters + 1) // 2) % len(whole)]
    return torch.cat([half, -half])[:filters].reshape(filters, channels, STEM_SIDE, STEM_SIDE)


def images_of(pixels: Tensor) -> Tensor:
    """uint8 (N, H, W) or (N, H, W, 3) to float32 (N, 1 or 3, H, W), 0..1: the one normalisation there is.

    Mean and spread are left to the first batch norm, so none can be wrong.
    """
    planes = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return planes.float() / 255


def misfit(network: ImageNetwork, base: Mapping[str, Tensor]) -> str | None:
    """Why `network` cannot start from `base`: another input, other widths, more outputs. None when it can."""
    own = network.state_dict()
    if set(base) != set(own):
        return f"it has {len(base)} tensors where this network has {len(own)}"
    for name, tensor in own.items():
        given = base[name]
        if name in OUTPUT_ROWS and len(given) > len(tensor):
            return f"it has {len(given)} outputs, this network only {len(tensor)}"
        if given.shape[1:] != tensor.shape[1:] or (name not in OUTPUT_ROWS and given.shape != tensor.shape):
            return f"its {name} is {tuple(given.shape)}, this network's {tuple(tensor.shape)}"
    return None


def start_from(network: ImageNetwork, base: Mapping[str, Tensor], perturb: float = 0.0) -> None:
    """Loads `base`, which may have fewer outputs: rows of known outputs are kept.

    A new output begins as the mean of the known ones, so it wins nowhere until it has learnt something; a random
    row wins at once where it should not, since all features are positive.

    perturb: share of the blocks' filters that stays as `network` has it, which is random (shrink and perturb: Ash and
    Adams 2020, arXiv:1910.08475). Both are taken at the base's length, so the share is one of direction.
    """
    state = dict(base) | {"mirrored": network.mirrored}
    for name in OUTPUT_ROWS:
        known = base[name]
        new = len(network.output.bias) - len(known)
        state[name] = torch.cat([known, known.mean(0, keepdim=True).expand(new, *known.shape[1:])])
    for name, own in network.blocks.state_dict(prefix="blocks.").items():
        if own.ndim == 4 and perturb > 0:
            state[name] = torch.lerp(base[name], own * (base[name].norm() / own.norm()), perturb)
    network.load_state_dict(state)
