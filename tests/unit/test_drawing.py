"""The stroke renderer against a brute-force reference, the data set's own extents, and awkward strokes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from core.drawing import Drawing, Stroke, render, render_many, strokes_of_quickdraw
from core.errors import InvalidImage


def sampled(strokes: Drawing, samples: int = 64, size: int = 28) -> NDArray[np.float64]:
    """The definition, the slow way: the share of samples x samples points of each pixel that lie in the ink."""
    points = np.concatenate(strokes)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = 255 / (high - low).max() if (high - low).max() > 0 else 1
    axis = (np.arange(size * samples) + 0.5) / samples * 304 / size - 152
    x, y = np.meshgrid(axis, axis)
    ink = np.zeros(x.shape, bool)
    for stroke in strokes:
        placed = (stroke - (low + high) / 2) * scale
        for a, b in zip(placed, placed[1:] if len(placed) > 1 else placed, strict=False):
            dx, dy = b - a
            t = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
            ink |= (x - a[0] - t * dx) ** 2 + (y - a[1] - t * dy) ** 2 <= 8**2
    share: NDArray[np.float64] = ink.reshape(size, samples, size, samples).mean(axis=(1, 3))
    return share * 255


def line(*points: tuple[float, float]) -> Stroke:
    return np.array(points, np.float64)


def scrawl(rng: np.random.Generator) -> list[Stroke]:
    return [rng.normal(0, 30, (rng.integers(1, 9), 2)).cumsum(axis=0) for _ in range(rng.integers(1, 5))]


CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 60)), np.sin(np.linspace(0, 2 * np.pi, 60))], axis=1)
SQUARE = line((0, 0), (255, 0), (255, 255), (0, 255), (0, 0))


@pytest.mark.parametrize(
    "strokes",
    [
        [SQUARE],
        [CIRCLE],
        [line((3, 7))],
        [line((0, 0), (255, 31))],
        [line((0, 0), (10, 10)), line((0, 10), (10, 0))],
    ],
    ids=["square", "circle", "dot", "slanted line", "cross"],
)
def test_shapes_are_drawn_with_their_area(strokes: list[Stroke]) -> None:
    error = np.abs(render(strokes) - sampled(strokes))
    assert error.max() <= 2.5  # half a step of rounding, and the reference's own 1/128 of a pixel
    assert error.mean() < 0.5


def test_scrawls_with_many_crossings_are_drawn_with_their_area() -> None:
    rng = np.random.default_rng(0)
    errors = np.stack(
        [np.abs(render(strokes) - sampled(strokes)) for strokes in (scrawl(rng) for _ in range(8))]
    )
    assert errors.max() <= 1.5
    assert errors.mean() < 0.15


def test_the_ink_of_a_line_is_its_area() -> None:
    radius = 8 * 56 / 304
    for angle in np.linspace(0, np.pi, 17):
        bitmap = render([line((0, 0), (np.cos(angle), np.sin(angle)))], size=56)
        longer = max(abs(np.cos(angle)), abs(np.sin(angle)))
        length = 255 * 56 / 304 / longer
        # 0.29 is the spread of one rounding.
        spread = 4 * 0.29 * np.sqrt(np.count_nonzero(bitmap))
        assert bitmap.sum() / 255 == pytest.approx(
            2 * radius * length + np.pi * radius**2, abs=spread / 255 + 0.02
        )


@pytest.mark.parametrize("far", [1.0, 3.0, 200.0])
def test_lines_upon_lines_are_drawn_once(far: float) -> None:
    there = line((0, 0), (far, far / 3))
    for strokes in (
        [there, there],
        [there, there[::-1]],
        [line((0, 0), (far, far / 3), (0, 0), (far, far / 3))],
    ):
        assert np.abs(render(strokes).astype(int) - render([there])).max() <= 1


def test_the_longer_side_spans_26_pixels_as_in_the_data_set() -> None:
    rng = np.random.default_rng(1)
    for bitmap in render_many([[rng.uniform(0, 100, (6, 2))] for _ in range(50)]):
        rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 26


def test_size_and_place_of_the_strokes_do_not_matter() -> None:
    strokes = scrawl(np.random.default_rng(2))
    moved = [stroke * 0.125 + [1024, -512] for stroke in strokes]
    assert np.abs(render(moved).astype(int) - render(strokes)).max() <= 1


def test_a_mirrored_drawing_gives_a_mirrored_bitmap() -> None:
    strokes = scrawl(np.random.default_rng(3))
    bitmap = render(strokes).astype(int)
    assert np.abs(render([stroke * [-1, 1] for stroke in strokes]) - bitmap[:, ::-1]).max() <= 1
    assert np.abs(render([stroke[:, ::-1] for stroke in strokes]) - bitmap.T).max() <= 1


def test_overlapping_ink_counts_once() -> None:
    assert np.array_equal(render([SQUARE, SQUARE]), render([SQUARE]))


def test_points_on_the_way_change_nothing() -> None:
    there = np.linspace([0, 0], [200, 90], 41)
    assert np.abs(render([there]).astype(int) - render([there[[0, -1]]])).max() <= 1


def test_many_drawings_are_drawn_as_each_alone() -> None:
    rng = np.random.default_rng(4)
    drawings = [scrawl(rng) for _ in range(40)]
    drawings[7] = []
    assert np.array_equal(render_many(drawings), np.stack([render(strokes) for strokes in drawings]))


def test_nothing_drawn_is_all_paper() -> None:
    assert not render([]).any()
    assert not render([np.zeros((0, 2))]).any()
    assert render_many([]).shape == (0, 28, 28)
    assert render([]).dtype == np.uint8


def test_a_dot_is_a_disc_in_the_middle() -> None:
    for strokes in ([line((5, 5))], [line((5, 5), (5, 5), (5, 5))]):
        bitmap = render(strokes)
        assert bitmap.sum() == pytest.approx(255 * np.pi * (8 * 28 / 304) ** 2, rel=0.01)
        assert np.count_nonzero(bitmap) == 4


def test_a_line_of_no_height_is_drawn() -> None:
    bitmap = render([line((0, 3), (9, 3))])
    assert np.flatnonzero(bitmap.any(axis=1)).tolist() == [13, 14]


def test_another_size_holds_the_same_ink() -> None:
    assert int(render([CIRCLE], size=56).sum()) == pytest.approx(4 * int(render([CIRCLE]).sum()), rel=0.001)


@pytest.mark.parametrize(
    "stroke", [np.zeros(4), np.zeros((3, 3)), line((0, 0), (np.nan, 1)), line((0, np.inf))]
)
def test_strokes_that_are_no_points_are_refused(stroke: Stroke) -> None:
    with pytest.raises(InvalidImage):
        render([stroke])


def test_quickdraw_strokes_with_and_without_times() -> None:
    simplified = strokes_of_quickdraw([[[0, 255], [0, 17]], [[4], [5]]])
    assert [stroke.tolist() for stroke in simplified] == [[[0, 0], [255, 17]], [[4, 5]]]
    raw = strokes_of_quickdraw([[[0.5, 2.5], [1, 2], [0, 140]]])
    assert raw[0].tolist() == [[0.5, 1], [2.5, 2]]
    assert strokes_of_quickdraw([]) == []


@pytest.mark.parametrize(
    ("drawing", "said"),
    [
        ("cat", "list of strokes"),
        (None, "list of strokes"),
        ([[[0, 1]]], "stroke 1 is not"),
        ([[[0], [1]], 7], "stroke 2 is not"),
        ([[[0, 1], [0]]], "as many xs as ys"),
        ([[[], []]], "at least one"),
        ([["ab", "cd"]], "as many xs as ys"),
        ([[[0, "1"], [0, 1]]], "not a number"),
        ([[[0, None], [0, 1]]], "not a number"),
        ([[[0, float("nan")], [0, 1]]], "not finite"),
        ([[[0, 10**400], [0, 1]]], "not finite"),
    ],
)
def test_malformed_quickdraw_strokes_are_refused_by_name(drawing: object, said: str) -> None:
    with pytest.raises(InvalidImage, match=said):
        strokes_of_quickdraw(drawing)
