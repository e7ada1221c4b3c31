from __future__ import annotations

import os
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from bench import airbench
from bench.airbench import Airbench, accuracy, batches, train_airbench, whitening
from bench.training import WITHOUT, WITHOUT_STEP, Split, arguments, chosen_config, chosen_recipes, compare
from pipeline.training.trainer import TrainingData

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that share their cores with other tests wait for each other at every small operation."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def colours(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noise that is redder, greener or bluer, 16x16."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 150, (count, 16, 16, 3), np.uint8)
    targets = np.arange(count) % 3
    pixels[np.arange(count), :, :, targets] += 100
    return pixels, targets


def train(*, epochs: float = 20, drawings: bool = False) -> tuple[Airbench, float]:
    pixels, targets = colours(200, seed=1)
    return train_airbench(
        pixels[..., 0] if drawings else pixels,
        targets,
        3,
        1,
        epochs=epochs,
        widths=(16, 32, 32),
        batch_size=50,
        device=CPU,
    )


def test_it_learns() -> None:
    network, seconds = train()
    assert accuracy(network, *colours(60, seed=2)) > 0.9
    assert seconds > 0
    assert not network.training


def test_it_learns_in_bfloat16_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airbench, "fast_dtype", lambda device: torch.bfloat16)
    network, _ = train(epochs=8)  # few: it is emulated where the processor has none
    assert network.output.weight.dtype == torch.float32
    assert network(torch.zeros(1, 3, 16, 16)).dtype == torch.bfloat16
    assert accuracy(network, *colours(60, seed=2)) > 0.6


def test_drawings_have_one_channel() -> None:
    network, _ = train(epochs=0.5, drawings=True)
    pixels, targets = colours(60, seed=2)
    assert 0 <= accuracy(network, pixels[..., 0], targets) <= 1


def test_whitened_patches_have_unit_covariance() -> None:
    noise = torch.randn(400, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    images = F.avg_pool2d(noise, 2, stride=1)  # neighbours are alike
    assert (covariance(F.unfold(images, 2)) - torch.eye(12)).abs().max() > 0.5
    filters = whitening(images)
    whitened = F.conv2d(images, filters[:12])
    assert torch.allclose(covariance(whitened.flatten(2)), torch.eye(12), atol=0.05)
    assert torch.equal(filters[12:], -filters[:12])


def covariance(values: torch.Tensor) -> torch.Tensor:
    """(C, C). values: (N, C, L)."""
    return torch.cov(values.transpose(0, 1).flatten(1))


def test_the_first_layer_s_bias_is_trained_for_three_epochs() -> None:
    trained, _ = train(epochs=3)
    assert trained.bias.requires_grad
    assert bool(trained.bias.any())
    frozen, _ = train(epochs=3.5)
    assert not frozen.bias.requires_grad


def test_each_image_is_mirrored_in_one_of_two_epochs() -> None:
    images = torch.zeros(40, 1, 8, 8)
    images[..., 4:] = 1  # dark on the left, wherever it is shifted
    seen = torch.zeros(4, 40)
    for epoch, batch, numbers in islice(batches(images, torch.arange(40), 10), 16):
        seen[epoch, numbers] = (batch[:, 0, :, 0] > batch[:, 0, :, -1]).all(1).float()
    assert 0 < seen[0].sum() < 40
    assert torch.equal(seen[1], 1 - seen[0])
    assert torch.equal(seen[2:], seen[:2])


def test_images_are_shifted_by_up_to_two_pixels_over_reflected_edges() -> None:
    images = torch.arange(8.0).expand(200, 1, 8, 8)  # each column its number
    _, batch, _ = next(batches(images, torch.zeros(200), 200))
    rows = {tuple(row.int().tolist()) for row in batch[:, 0, 0]}
    shifted = {tuple(abs(7 - abs(7 - c)) for c in range(by, by + 8)) for by in range(-2, 3)}
    assert rows == shifted | {row[::-1] for row in shifted}


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [airbench.triangle(share) for share in (0, 0.23, 1)]
    assert rates == pytest.approx([0.2, 1, 0.07])


def test_the_first_filters_hand_their_input_on() -> None:
    images = torch.rand(2, 4, 6, 6)
    layer = airbench.convolution(4, 8)
    assert torch.allclose(layer(images)[:, :4], images)


def test_a_cold_start_is_reported_apart() -> None:
    pixels, targets = colours(30, seed=1)
    data = TrainingData(pixels, targets, np.ones(30, np.float32), pixels, targets)
    asked: list[tuple[int, bool]] = []

    def recipe(images: Split, seed: int) -> tuple[float, float]:
        asked.append((seed, bool((images.data.targets == targets).all())))
        return 0.5, 8.0 if len(asked) == 1 else 2.0

    found = compare(Split(data, pixels, targets), {"one": recipe}, seeds=2, cold_start=True)
    assert asked == [(0, False), (1, True), (2, True)]
    assert found["one"]["cold_seconds"] == 8.0
    assert found["one"]["seconds"] == found["one"]["mean_seconds"] == 2.0
    assert (
        "cold_seconds"
        not in compare(Split(data, pixels, targets), {"one": recipe}, 1, cold_start=False)["one"]
    )


def test_what_is_compared_is_what_was_asked_for() -> None:
    assert list(chosen_recipes(arguments(["drawings"]), 10)) == ["5 epochs"]
    given = arguments(
        ["photos.tar", "--preset", "photos", "--baseline", "--airbench", "--epochs", "2", "4", "--without"]
    )
    assert list(chosen_recipes(given, 10)) == [
        *("baseline", "airbench, 9.9 epochs", "2 epochs", "4 epochs"),
        *(f"4 epochs without {name}" for name in (*WITHOUT, *WITHOUT_STEP)),
    ]
    given = arguments(["drawings", "--without", "Muon", "mirror images"])
    names = ["5 epochs", "5 epochs without Muon", "5 epochs without mirror images"]
    assert list(chosen_recipes(given, 10)) == names
    config = chosen_config(arguments(["drawings", "--threads", "1", "--widths", "8", "16"]))
    assert (config.threads, config.widths, config.augmentation) == (1, (8, 16), "drawing")
