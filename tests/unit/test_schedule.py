"""When runs start by themselves: cron firings around clock changes, claims, and the threshold."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from uuid_utils.compat import uuid7

from core.database import (
    Category,
    CategoryState,
    Correction,
    CorrectionStatus,
    Model,
    Run,
    RunStatus,
    session,
)
from core.settings import settings
from pipeline import runs, schedule

BERLIN = "Europe/Berlin"
NIGHTLY = "30 2 * * *"
HOURLY = "30 * * * *"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def firings(cron: str, start: str, end: str) -> list[str]:
    """What a clock that looks every minute fires, in UTC."""
    now, seen_at, fired = utc(start), utc(start), []
    while now <= utc(end):
        firing = schedule.due(cron, seen_at, now, BERLIN)
        if firing is not None:
            assert firing == now, "a clock that looks every minute is never late"
            fired.append(f"{firing:%d %H:%M}")
            seen_at = firing
        now += timedelta(minutes=1)
    return fired


def test_a_firing_is_due_from_its_minute_on_and_once() -> None:
    seen_at = utc("2026-01-10T12:00")
    assert schedule.due("0 3 * * *", seen_at, utc("2026-01-11T02:59:59"), "UTC") is None
    assert schedule.due("0 3 * * *", seen_at, utc("2026-01-11T03:00"), "UTC") == utc("2026-01-11T03:00")
    assert schedule.due("0 3 * * *", seen_at, utc("2026-01-11T17:00"), "UTC") == utc("2026-01-11T03:00")
    assert schedule.due("0 3 * * *", utc("2026-01-11T03:00"), utc("2026-01-11T17:00"), "UTC") is None


def test_many_missed_firings_are_one() -> None:
    latest = schedule.due("0 3 * * *", utc("2026-01-01T12:00"), utc("2026-01-20T12:00"), "UTC")
    assert latest == utc("2026-01-20T03:00")
    assert schedule.due("0 3 * * *", utc("2026-01-20T03:00"), utc("2026-01-20T12:00"), "UTC") is None


def test_the_expression_is_read_on_the_wall_clock_of_the_time_zone() -> None:
    assert schedule.next_firing("0 3 * * *", utc("2026-01-10T12:00"), BERLIN) == utc("2026-01-11T02:00")
    assert schedule.next_firing("0 3 * * *", utc("2026-07-10T12:00"), BERLIN) == utc("2026-07-11T01:00")


def test_a_time_skipped_in_spring_fires_at_the_change() -> None:
    # 29 March 2026, 01:00 UTC: 02:00 becomes 03:00.
    assert firings(NIGHTLY, "2026-03-28T22:00", "2026-03-30T03:00") == ["29 01:00", "30 00:30"]


def test_an_hourly_schedule_has_no_gap_in_spring() -> None:
    assert firings(HOURLY, "2026-03-28T23:45", "2026-03-29T03:00") == ["29 00:30", "29 01:30", "29 02:30"]


def test_a_time_that_comes_twice_in_autumn_fires_the_first_time() -> None:
    # 25 October 2026, 01:00 UTC: 03:00 becomes 02:00.
    assert firings(NIGHTLY, "2026-10-24T22:00", "2026-10-26T03:00") == ["25 00:30", "26 01:30"]


def test_an_hourly_schedule_goes_on_through_the_hour_that_comes_twice() -> None:
    assert firings(HOURLY, "2026-10-24T23:45", "2026-10-25T03:00") == ["25 00:30", "25 01:30", "25 02:30"]


def test_a_firing_missed_in_autumn_is_found_from_within_the_second_passage() -> None:
    just_back = utc("2026-10-25T01:10")  # 02:10 for the second time
    assert schedule.due(NIGHTLY, utc("2026-10-24T12:00"), just_back, BERLIN) == utc("2026-10-25T00:30")


@pytest.mark.parametrize("cron", [NIGHTLY, HOURLY, "*/20 2,3 * * *"])
@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_next_firing_agrees_with_due(cron: str, day: str) -> None:
    end = utc(day) + timedelta(hours=5)
    now, foreseen = utc(day) - timedelta(hours=2), []
    while (following := schedule.next_firing(cron, now, BERLIN)) is not None and following <= end:
        foreseen.append(f"{following:%d %H:%M}")
        now = following
    assert foreseen == firings(
        cron, f"{utc(day) - timedelta(hours=2):%Y-%m-%dT%H:%M}", f"{end:%Y-%m-%dT%H:%M}"
    )


def test_a_date_that_never_comes_never_fires() -> None:
    assert schedule.due("0 0 30 2 *", utc("2020-01-01"), utc("2026-01-01"), "UTC") is None
    assert schedule.next_firing("0 0 30 2 *", utc("2026-01-01"), "UTC") is None


# From here on: against the database.


def make_model(triggers: dict[str, Any], seen_at: str = "2026-01-10T12:00", name: str = "doodles") -> None:
    with session() as db:
        db.add(Model(name=name, params={"triggers": triggers}, schedule_seen_at=utc(seen_at)))
        db.flush()
        db.add(Category(model=name, id=0, name="cat", key="cat", state=CategoryState.active))


def add_corrections(count: int, at: datetime, status: CorrectionStatus = CorrectionStatus.accepted) -> None:
    with session() as db:
        for _ in range(count):
            correction = Correction(
                id=uuid7(),
                model="doodles",
                image_sha256="0" * 64,
                category_id=0,
                label="cat",
                actor="test",
                request_sha256="0" * 64,
                status=status,
                received_at=at,
            )
            db.add(correction)


def end_run(run_id: int, status: RunStatus, started_at: datetime | None = None) -> None:
    with session() as db:
        run = db.get_one(Run, run_id)
        run.status, run.started_at = status, started_at


def seen_at(name: str = "doodles") -> datetime:
    with session() as db:
        return db.get_one(Model, name).schedule_seen_at


@pytest.mark.usefixtures("emend_environment")
class TestTick:
    def test_a_due_firing_queues_one_run_and_says_why(self) -> None:
        make_model({"cron": "0 3 * * *"})
        assert schedule.tick(utc("2026-01-11T02:59")) == []
        (run_id,) = schedule.tick(utc("2026-01-13T08:00"))
        run = runs.show_run(run_id)
        assert (run["trigger"], run["status"]) == ("schedule", "queued")
        assert run["requested_by"] == "cron '0 3 * * *' at 2026-01-13T03:00Z"
        end_run(run_id, RunStatus.halted)
        assert schedule.tick(utc("2026-01-13T08:01")) == [], "three missed firings are one run"

    def test_the_schedule_follows_the_time_zone_of_the_settings(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SCHEDULE_TZ", BERLIN)
        settings.cache_clear()
        make_model({"cron": "0 3 * * *"})
        assert schedule.tick(utc("2026-01-11T01:59")) == []
        assert len(schedule.tick(utc("2026-01-11T02:00"))) == 1

    def test_two_orchestrators_fire_once(self) -> None:
        make_model({"cron": "0 3 * * *"})
        now, start = utc("2026-01-11T03:00"), threading.Barrier(4)

        def orchestrator() -> list[int]:
            start.wait()
            fired = schedule.tick(now)
            for run_id in fired:
                end_run(run_id, RunStatus.succeeded)  # so that only the claim can stop the others
            return fired

        with ThreadPoolExecutor(4) as pool:
            fired = [future.result() for future in [pool.submit(orchestrator) for _ in range(4)]]
        assert sum(len(run_ids) for run_ids in fired) == 1

    def test_a_firing_during_a_run_is_postponed_to_its_end(self) -> None:
        make_model({"cron": "0 3 * * *"})
        active = runs.request_run("doodles", requested_by="test")
        assert schedule.tick(utc("2026-01-11T03:00")) == []
        assert seen_at() == utc("2026-01-10T12:00")
        end_run(active, RunStatus.failed)
        assert len(schedule.tick(utc("2026-01-11T05:00"))) == 1
        assert seen_at() == utc("2026-01-11T03:00")

    def test_a_new_expression_counts_from_now(self) -> None:
        make_model({"cron": None}, seen_at="2026-01-01T00:00")
        with session() as db:
            schedule.follow_params(
                db.get_one(Model, "doodles"), {"triggers": {"cron": "0 3 * * *"}}, utc("2026-01-11T12:00")
            )
        assert schedule.tick(utc("2026-01-11T12:01")) == []
        assert len(schedule.tick(utc("2026-01-12T03:00"))) == 1

    def test_the_same_expression_keeps_a_missed_firing(self) -> None:
        make_model({"cron": "0 3 * * *"})
        with session() as db:
            model = db.get_one(Model, "doodles")
            schedule.follow_params(
                model, {"triggers": {"cron": "0 3 * * *", "corrections": 5}}, utc("2026-01-11T12:00")
            )
        assert len(schedule.tick(utc("2026-01-11T12:01"))) == 1

    def test_enough_waiting_corrections_start_a_run(self) -> None:
        make_model({"corrections": 3})
        now = datetime.now(UTC)
        add_corrections(2, now)
        add_corrections(5, now, CorrectionStatus.quarantined)
        assert schedule.tick(now) == []
        add_corrections(1, now)
        (run_id,) = schedule.tick(now)
        assert runs.show_run(run_id)["trigger"] == "threshold"
        assert schedule.tick(now) == [], "a run is active"

    @pytest.mark.parametrize("outcome", ["rejected", "halted", "failed", "cancelled", "interrupted"])
    def test_the_same_corrections_are_not_tried_again(self, outcome: str) -> None:
        make_model({"corrections": 3})
        now = datetime.now(UTC)
        add_corrections(4, now - timedelta(minutes=5))
        (run_id,) = schedule.tick(now)
        end_run(run_id, RunStatus(outcome), started_at=now)
        assert schedule.tick(now + timedelta(days=1)) == []
        add_corrections(2, now + timedelta(minutes=1))
        assert schedule.tick(now + timedelta(days=1)) == []
        add_corrections(1, now + timedelta(minutes=2))
        assert len(schedule.tick(now + timedelta(days=1))) == 1

    def test_a_nightly_run_that_found_too_few_does_not_reset_the_count(self) -> None:
        make_model({"corrections": 3})
        now = datetime.now(UTC)
        add_corrections(2, now - timedelta(minutes=5))
        end_run(runs.request_run("doodles", requested_by="test"), RunStatus.halted, started_at=now)
        add_corrections(1, now + timedelta(minutes=1))
        assert len(schedule.tick(now + timedelta(minutes=2))) == 1

    def test_one_model_with_broken_triggers_does_not_stop_the_others(self) -> None:
        make_model({"corections": 3}, name="broken")
        make_model({"cron": "0 3 * * *"})
        assert len(schedule.tick(utc("2026-01-11T03:00"))) == 1


def test_berlin_changes_its_clock_when_these_tests_say() -> None:
    zone = ZoneInfo(BERLIN)
    for before, after in (("2026-03-29T00:59", "2026-03-29T01:00"), ("2026-10-25T00:59", "2026-10-25T01:00")):
        assert utc(before).astimezone(zone).utcoffset() != utc(after).astimezone(zone).utcoffset()
