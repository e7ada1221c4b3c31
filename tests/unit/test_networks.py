from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipeline.training.networks import Network, misfit, start_from, whitening
from pipeline.training.optimizer import orthogonal


def test_a_stem_whitens_the_patches_of_the_images_it_was_made_for() -> None:
    images = F.avg_pool2d(torch.rand(200, 3, 36, 36, generator=torch.Generator().manual_seed(0)), 3, 1)
    stem = whitening([images[:100], images[100:]], 3, 20)
    assert torch.equal(stem[:10], -stem[10:])
    seen = F.conv2d(images, stem[:10], stride=2).permute(1, 0, 2, 3).flatten(1)
    power = seen @ seen.T / seen.shape[1]
    assert (power.diag() > 0.5).all()
    assert (power.diag() < 1.1).all()
    assert (power - power.diag().diag()).abs().max() < 0.05


def test_perturbed_filters_are_that_much_random_and_as_long_as_they_were() -> None:
    base, network = Network(1, (8, 16), 2), Network(1, (8, 16), 2)
    known, random = (n.state_dict()["blocks.0.conv1.weight"].clone() for n in (base, network))
    start_from(network, base.state_dict(), perturb=0.25)
    mixed = network.state_dict()["blocks.0.conv1.weight"]
    assert torch.allclose(mixed, 0.75 * known + 0.25 * random * known.norm() / random.norm())
    assert torch.equal(network.output.weight, base.output.weight)


def test_a_grown_network_keeps_the_rows_of_known_outputs_and_new_ones_win_nowhere() -> None:
    base, grown = Network(1, (8, 16), 2).eval(), Network(1, (8, 16), 4).eval()
    assert misfit(grown, base.state_dict()) is None
    start_from(grown, base.state_dict())
    assert torch.equal(grown.output.weight[:2], base.output.weight)
    assert torch.equal(grown.output.bias[:2], base.output.bias)
    assert torch.equal(grown.stem.weight, base.stem.weight)
    images = torch.rand(50, 1, 28, 28)
    assert torch.equal(grown(images).argmax(1), base(images).argmax(1))


@pytest.mark.parametrize(
    ("base", "why"),
    [
        (Network(1, (8, 24), 2), "its blocks.0.conv1.weight is (24, 8, 3, 3), this network's (16, 8, 3, 3)"),
        (Network(3, (8, 16), 2), "its stem.weight is (8, 3, 5, 5), this network's (8, 1, 5, 5)"),
        (Network(1, (8, 16, 16), 2), "it has 28 tensors where this network has 16"),
        (Network(1, (8, 16), 4), "it has 4 outputs, this network only 3"),
    ],
)
def test_a_base_that_does_not_fit_is_named(base: Network, why: str) -> None:
    assert misfit(Network(1, (8, 16), 3), base.state_dict()) == why


def test_orthogonal_keeps_directions_and_levels_their_strength() -> None:
    torch.manual_seed(0)
    for shape in ((8, 40), (40, 8)):
        matrix = torch.randn(shape)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        inside = left.T @ orthogonal(matrix) @ right.T
        assert (inside.diag() > 0.5).all()
        assert (inside.diag() < 1.5).all()
        assert (inside - inside.diag().diag()).abs().max() < 1e-3
