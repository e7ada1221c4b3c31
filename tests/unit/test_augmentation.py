from __future__ import annotations

import pytest
import torch

from pipeline.training.augmentation import Kind, augment, drawing, photo
from pipeline.training.networks import images_of
from tests.support.lines import lines


@pytest.mark.parametrize("kind", ["none", "drawing", "photo"])
def test_augmentation_keeps_shape_and_range_and_repeats_with_the_seed(kind: Kind) -> None:
    images = torch.rand(6, 3 if kind == "photo" else 1, 28, 32)
    mirrored = torch.arange(6) % 2 == 0
    first, again = (
        augment(images, kind, mirrored, torch.Generator().manual_seed(3), (28, 32)) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-6
    assert torch.equal(first, images) == (kind == "none")


def test_a_changed_drawing_still_fills_the_frame() -> None:
    images = images_of(torch.from_numpy(lines(50)[0]))
    changed = drawing(images, torch.Generator().manual_seed(0), (28, 28))
    for image in changed[:, 0]:
        y, x = torch.nonzero(image > 0.5, as_tuple=True)
        assert max(y.max() - y.min(), x.max() - x.min()) + 1 in range(24, 29)
    assert not drawing(torch.zeros(2, 1, 28, 28), torch.Generator(), (28, 28)).any()


def test_photos_are_mirrored_where_told() -> None:
    images = torch.rand(2, 3, 8, 8)
    changed = photo(images, torch.tensor([False, True]), torch.Generator(), shift=0, cutout=0)
    assert torch.equal(changed, torch.stack([images[0], images[1].flip(2)]))
