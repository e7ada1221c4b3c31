"""The starter doodles: repeatable, varied, inside the renderer's rules, ten categories of them."""

from __future__ import annotations

import numpy as np
import pytest

from core.drawing import render
from pipeline.starter import CATEGORIES, WAYS, animals, draw, generate, nature, objects
from pipeline.starter.hand import Hand
from pipeline.starter.shapes import curve, ellipse, mirrored, turned


def test_the_ten_categories_in_order() -> None:
    assert CATEGORIES == (
        "airplane", "banana", "bird", "book", "cat", "clock", "dog", "flower", "house", "rainbow",
    )  # fmt: skip


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_drawing_is_strokes_of_finite_points_and_leaves_ink(category: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        strokes = draw(category, rng)
        assert strokes
        for stroke in strokes:
            assert stroke.shape[1] == 2
            assert len(stroke) > 0
            assert np.isfinite(stroke).all()
        ink = np.count_nonzero(render(strokes)) / 784
        assert 0.03 < ink < 0.85


def test_the_same_seed_draws_the_same_with_any_number_of_processes() -> None:
    alone, labels = generate(4, seed=7, processes=1)
    together, labels_together = generate(4, seed=7, processes=2)
    assert np.array_equal(alone, together)
    assert labels == labels_together


def test_another_seed_draws_something_else() -> None:
    assert not np.array_equal(generate(2, seed=1, processes=1)[0], generate(2, seed=2, processes=1)[0])


def test_no_two_drawings_are_alike() -> None:
    pixels, labels = generate(12, seed=1, processes=1)
    assert pixels.shape == (120, 28, 28)
    assert pixels.dtype == np.uint8
    assert [labels.count(category) for category in CATEGORIES] == [12] * 10
    assert len({image.tobytes() for image in pixels}) == len(pixels)


def test_more_drawings_begin_with_the_same_ones() -> None:
    few, _ = generate(2, seed=5, processes=1)
    more, _ = generate(3, seed=5, processes=1)
    assert np.array_equal(few[:2], more[:2])


def test_every_way_of_drawing_is_taken_sooner_or_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that no weight leads to would be dead."""
    taken: set[str] = set()
    pick = Hand.pick

    def watched(self: Hand, options: list[tuple[float, object]]) -> object:
        chosen = pick(self, options)
        taken.add(getattr(chosen, "__name__", ""))
        return chosen

    monkeypatch.setattr(Hand, "pick", watched)
    rng = np.random.default_rng(0)
    for category in CATEGORIES:
        for _ in range(400):
            WAYS[category](Hand(rng))
    public = {
        name
        for module in (animals, nature, objects)
        for name, value in vars(module).items()
        if callable(value)
        and getattr(value, "__module__", "") == module.__name__
        and not name.startswith("_")
    }
    assert public - set(CATEGORIES) - taken == set()


def test_shapes_are_where_they_are_said_to_be() -> None:
    circle = ellipse(100, 50, 20, 10)
    assert circle.min(axis=0) == pytest.approx([80, 40], abs=0.5)
    assert circle.max(axis=0) == pytest.approx([120, 60], abs=0.5)
    assert circle[0] == pytest.approx(circle[-1])
    through = curve((0, 0), (50, 40), (100, 0))
    assert through[[0, 5, -1]].tolist() == [[0, 0], [50, 40], [100, 0]]
    assert turned([np.array([[228.0, 128.0]])], 90)[0] == pytest.approx(np.array([[128, 228]]))
    assert mirrored([np.array([[10.0, 20.0]])])[0].tolist() == [[246, 20]]
