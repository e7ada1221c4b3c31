"""The learning-curve benchmark: who corrects what, what is trained on, what is compared."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.learning import (
    CORRECTIONS,
    WAYS,
    Drawings,
    Material,
    Point,
    curve,
    go_on,
    plot,
    print_table,
    shortened,
    summary,
    training_data,
)
from bench.training import preset

CONFIG = preset("doodles")


def drawings(count: int, seed: int) -> Drawings:
    """Of category 0 the left half is inked, of category 1 the right half, at random."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    pixels = rng.integers(0, 256, (count, 28, 28), np.uint8)
    pixels[targets == 0, :, 14:] = 0
    pixels[targets == 1, :, :14] = 0
    return Drawings(pixels, targets)


@pytest.fixture
def material() -> Material:
    learnable = np.arange(120) % 5 != 0
    return Material(
        2, drawings(32, seed=1), drawings(8, seed=4), drawings(120, seed=2), learnable, drawings(40, seed=3)
    )


def said(*positions: int) -> NDArray[np.int64]:
    return np.array(positions, np.int64)


def test_people_correct_the_first_candidates_of_each_category_in_the_order_they_come_to_them() -> None:
    targets = np.array([0, 0, 0, 1, 1, 1])
    found = go_on(said(), np.array([2, 1]), targets, said(5, 2, 4, 0, 1, 3))
    assert found.tolist() == [5, 2, 0]


def test_what_was_said_counts_and_is_not_said_again() -> None:
    targets = np.array([0, 0, 0, 1, 1, 1])
    found = go_on(said(2, 5), np.array([2, 2]), targets, said(5, 2, 4, 0, 1, 3))
    assert found.tolist() == [2, 5, 4, 0]


def test_a_category_with_too_few_candidates_is_corrected_less() -> None:
    targets = np.array([0, 0, 0, 1, 1, 1])
    assert go_on(said(), np.array([3, 3]), targets, said(3, 1)).tolist() == [3, 1]


def test_only_what_its_hash_allows_is_learned_and_it_weighs_more(material: Material) -> None:
    data = training_data(material, said(5, 6, 7, 8), CONFIG)  # the hash of 5 keeps it out
    assert np.array_equal(data.pixels[32:], material.pool.pixels[[6, 7, 8]])
    assert data.targets[32:].tolist() == [0, 1, 0]
    assert (data.weights[32:] > 3).all()  # one person said them all, so not correction_weight
    assert data.weights[:32] == pytest.approx(1, rel=0.05)


def test_a_trial_is_never_longer_than_the_real_thing() -> None:
    assert shortened(CONFIG, None, None) == CONFIG
    assert shortened(CONFIG, 1000, 100_000) == CONFIG
    assert shortened(CONFIG, 1, 30).model_dump() == CONFIG.model_dump() | {
        "epochs": 1,
        "warm_epochs": 1,
        "min_steps": 2,
    }


def test_a_curve_has_a_first_version_and_one_of_each_way_at_each_number(
    material: Material, tmp_path: Path
) -> None:
    points = curve(material, 1, shortened(CONFIG, 1, 60), tmp_path)
    assert [(p.way, p.corrections) for p in points] == [
        ("first", 0),
        *((way, corrections) for corrections in CORRECTIONS for way in WAYS),
    ]
    by = {(p.way, p.corrections): p for p in points}
    for corrections in CORRECTIONS:
        assert len({by[way, corrections].given for way in WAYS}) == 1
        assert by["scratch", corrections].learned == by["corrected", corrections].learned
    assert all(0 <= p.accuracy <= 1 and p.learned <= p.given <= 2 * p.corrections for p in points)


def points_of(seed: int, first: float) -> list[Point]:
    """Corrected gains 2 points, random 1, scratch none, whatever the first version's accuracy."""
    gains = {"corrected": 0.02, "random": 0.01, "scratch": 0.0}
    start = Point(seed, "first", 0, given=0, learned=0, right=1.0, accuracy=first, seconds=1.0)
    return [
        start,
        *(
            replace(start, way=way, corrections=k, given=k, learned=k, accuracy=first + gain)
            for k in CORRECTIONS
            for way, gain in gains.items()
        ),
    ]


def test_gains_compare_within_a_seed() -> None:
    found = summary(points_of(1, 0.80) + points_of(2, 0.84))
    corrected, scratch = found["corrected"]["5"], found["scratch"]["5"]
    assert (corrected["accuracy_percent"], corrected["gain_points"]) == (84.0, 2.0)
    assert corrected["accuracy_percent_interval"] == pytest.approx(25.41)  # t(0.975, 1) = 12.71, times 2
    assert corrected["gain_points_interval"] == 0
    assert (scratch["corrected_ahead_points"], scratch["corrected_ahead_points_interval"]) == (2.0, 0.0)


def test_one_seed_has_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    found = summary(points_of(1, 0.80))
    assert "accuracy_percent_interval" not in found["first"]["0"]
    print_table(found)
    assert "±" not in capsys.readouterr().out


def test_the_same_figures_give_the_same_plot(tmp_path: Path) -> None:
    found = summary(points_of(1, 0.80) + points_of(2, 0.84))
    for name in ("one.svg", "two.svg"):
        plot(found, tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert "trained from scratch" in text
    assert "<dc:date>" not in text
