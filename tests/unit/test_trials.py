"""Trials: what is counted, when a canary goes back, and what becomes of one when the champion moves."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from sqlalchemy import select

from core import trials
from core.database import LedgerEntry, Model, Trial, TrialKind, TrialOutcome, session
from core.trials import Counted
from tests.support.gateway import params
from tests.support.trials import begin_trial


def counted(
    images: int,
    *,
    errors: int = 0,
    champion_errors: int = 0,
    ms: float = 3,
    champion_ms: float = 3,
    disagreed: int = 0,
) -> Counted:
    """Of images of which either version failed some, never the same ones."""
    made = Counted()
    for number in range(images):
        failed, champion_failed = number < errors, errors <= number < errors + champion_errors
        agrees = not (failed or champion_failed or number >= images - disagreed)
        made.count(None if failed else ms, None if champion_failed else champion_ms, agrees=agrees)
    return made


def canary(*flushes: Counted, kind: TrialKind = TrialKind.canary) -> Trial:
    """That has counted those, one after the other."""
    trial = Trial(kind=kind, version=7, champion=6, latest=[], latencies=[], champion_latencies=[])
    for name in ("images", "compared", "agreed", "errors", "champion_errors", "skipped"):
        setattr(trial, name, 0)
    for each in flushes:
        trials.add_to(trial, each)
    return trial


# Bounds


@pytest.mark.parametrize(
    ("errors", "champion_errors", "images", "goes_back"),
    [
        (4, 0, 4, False),  # too few to say anything
        (5, 0, 5, True),
        (5, 0, 249, True),
        (5, 0, 250, False),  # two in a hundred, not more
        (6, 0, 250, True),
        (20, 15, 250, False),
        (21, 15, 250, True),
        (0, 100, 250, False),
    ],
)
def test_a_canary_goes_back_when_it_fails_more_often_by_two_in_a_hundred_and_not_by_accident(
    errors: int, champion_errors: int, images: int, goes_back: bool
) -> None:
    said = trials.beyond_bounds(canary(counted(images, errors=errors, champion_errors=champion_errors)))
    assert (said is not None) is goes_back
    if said is not None:
        assert said == (
            f"{errors} of the latest {images} answers failed, of version 6 {champion_errors}: "
            "more than 2 % of difference"
        )


@pytest.mark.parametrize(
    ("ms", "champion_ms", "images", "goes_back"),
    [
        (32, 4, 199, False),  # too few to tell
        (32, 4, 200, True),
        (16, 3, 200, False),  # twice as much and 10 ms more, not beyond that
        (17, 3, 200, True),
        (4, 3, 200, False),
        (3, 100, 200, False),
    ],
)
def test_a_canary_goes_back_when_its_slowest_twentieth_takes_twice_as_long_and_10_ms_more(
    ms: float, champion_ms: float, images: int, goes_back: bool
) -> None:
    said = trials.beyond_bounds(canary(counted(images, ms=ms, champion_ms=champion_ms)))
    assert (said is not None) is goes_back


def test_the_sentence_says_within_what_time_answers_came() -> None:
    slowest = counted(190, ms=20).merge(counted(10, ms=3_000))
    assert trials.beyond_bounds(canary(slowest)) == (
        "19 of 20 of the latest 200 answers came within 24 ms, of version 6 within 3 ms: "
        "more than 2 times and 10 ms more"
    )


def test_failed_answers_are_not_among_those_that_tell_how_fast_it_is() -> None:
    assert trials.beyond_bounds(canary(counted(203, errors=4, ms=100))) is None
    assert trials.beyond_bounds(canary(counted(204, errors=4, ms=100))) is not None


def test_a_shadow_never_goes_back_by_itself() -> None:
    assert trials.beyond_bounds(canary(counted(500, errors=500), kind=TrialKind.shadow)) is None


def test_nothing_counted_is_within_the_bounds() -> None:
    assert trials.beyond_bounds(canary()) is None


GOOD_ONES = [counted(500)] * 200  # a hundred thousand images


@pytest.mark.parametrize("turned", [{"errors": 50}, {"ms": 300}])
def test_one_that_goes_wrong_late_goes_back_as_soon_as_one_that_was_wrong_soon(
    turned: dict[str, int],
) -> None:
    good = canary(*GOOD_ONES)
    assert trials.beyond_bounds(good) is None
    said = []
    for _ in range(3):  # of two thousand images one in twenty is slow then, and two in a hundred have failed
        trials.add_to(good, counted(50, **turned))
        said.append(trials.beyond_bounds(good))
    assert said[-1] is not None


def test_the_latest_images_are_one_to_two_thousand_and_all_are_counted() -> None:
    trial = canary()
    for number in range(1, 41):
        trials.add_to(trial, counted(100))
        images = trials.latest(trial).images
        assert images == number * 100 if number <= 10 else 1_000 <= images < 2_000
    assert trial.images == 4_000
    assert len(trial.latest) == 2


# Counting


@pytest.mark.parametrize(
    ("latencies", "share", "within"),
    [
        ([], 0.5, None),
        ([0.2], 0.5, 1),
        ([1.0], 0.5, 1),  # the bound itself is within
        ([1.01], 0.5, 1.5),
        ([3] * 19 + [100], 0.95, 3),
        ([3] * 18 + [100] * 2, 0.95, 128),
        ([3, 100], 0.5, 3),
        ([50_000], 0.5, 20_000),  # beyond the last
    ],
)
def test_percentiles_are_upper_ends(latencies: list[float], share: float, within: float | None) -> None:
    made = Counted()
    for each in latencies:
        made.count(each, each, agrees=True)
    assert trials.percentile_ms(made.latencies, share) == within


def test_what_was_not_written_is_counted_with_what_came_later() -> None:
    first = counted(10, errors=2, champion_errors=1, disagreed=3)
    later = counted(4, ms=50)
    first.skipped, later.skipped = 1, 2
    both = first.merge(later)
    assert (both.images, both.compared, both.agreed) == (14, 11, 8)
    assert (both.errors, both.champion_errors, both.skipped) == (2, 1, 3)
    assert (sum(both.latencies), sum(both.champion_latencies)) == (12, 13)


def test_agreement_is_of_the_images_that_both_answered() -> None:
    trial = canary(counted(10, errors=2, champion_errors=3, disagreed=1))
    assert (trial.compared, trial.agreed) == (5, 4)


# In the database


@pytest.fixture
def model(emend_environment: dict[str, str]) -> str:
    with session() as db:
        db.add(Model(name="doodles", params=params()))
    return "doodles"


def read(trial_id: int) -> Trial:
    with session() as db:
        return db.get_one(Trial, trial_id)


def test_what_several_gateways_count_comes_together(model: str) -> None:
    trial_id = begin_trial(model)
    flushes = [counted(600, errors=3, disagreed=6), counted(900, ms=20, champion_errors=4), counted(40)]
    for each in flushes:
        with session() as db:
            assert trials.add(db, trial_id, each) is not None
    found = read(trial_id)
    told = trials.as_json(found)
    assert (told["images"], told["errors"], told["champion_errors"]) == (1_540, 3, 4)
    assert told["agreement"] == pytest.approx((1_540 - 3 - 4 - 6) / (1_540 - 3 - 4), abs=1e-4)
    assert (told["p50_ms"], told["champion_p50_ms"]) == (24, 3)
    assert told["latest"] == {
        "images": 1_540,
        "errors": 3,
        "champion_errors": 4,
        "p95_ms": 24,
        "champion_p95_ms": 3,
    }
    together = flushes[0].merge(flushes[1])
    assert found.latest == [asdict(together), asdict(flushes[2])]


def test_what_comes_after_the_end_is_not_counted(model: str) -> None:
    trial_id = begin_trial(model)
    with session() as db:
        trials.end(db, db.get_one(Trial, trial_id), TrialOutcome.ended, "seen enough", actor="ann")
    with session() as db:
        assert trials.add(db, trial_id, counted(5)) is None
    assert read(trial_id).images == 0


@pytest.mark.parametrize(
    ("champion", "outcome", "because", "entries"),
    [
        (7, TrialOutcome.promoted, "version 7 was promoted", 0),
        (8, TrialOutcome.ended, "version 8 became champion meanwhile", 1),
    ],
)
def test_it_is_over_when_the_champion_moves(
    model: str, champion: int, outcome: TrialOutcome, because: str, entries: int
) -> None:
    trial_id = begin_trial(model)
    with session() as db:
        trials.champion_moved(db, model, champion, actor="run 3")
    found = read(trial_id)
    assert (found.outcome, found.ended_because) == (outcome, because)
    with session() as db:
        assert len(db.scalars(select(LedgerEntry)).all()) == entries  # a promotion has one already
