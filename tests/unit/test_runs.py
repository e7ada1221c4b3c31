"""Asking for runs, resuming and cancelling them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from core.database import Model, Run, RunStatus, Stage, StageStatus, Trigger, session
from core.errors import Conflict, NotFound
from pipeline import runs


@pytest.fixture
def doodles(emend_environment: dict[str, str]) -> str:
    with session() as db:
        db.add(Model(name="doodles", params={}))
    return "doodles"


def _end(run_id: int, status: RunStatus) -> None:
    with session() as db:
        run = db.get(Run, run_id)
        assert run is not None
        run.status = status


def test_a_second_run_is_refused_with_the_id_of_the_active_one(doodles: str) -> None:
    first = runs.request_run(doodles, requested_by="test")
    with pytest.raises(runs.RunActive, match=f"run {first} of doodles is active") as refused:
        runs.request_run(doodles, requested_by="test")
    assert refused.value.as_json()["run_id"] == first
    _end(first, RunStatus.succeeded)
    assert runs.request_run(doodles, requested_by="test") > first


def test_a_run_of_an_unknown_model_is_refused(emend_environment: dict[str, str]) -> None:
    with pytest.raises(NotFound, match="no model 'cats'"):
        runs.request_run("cats", requested_by="test")


def test_only_runs_that_stopped_half_way_can_be_resumed(doodles: str) -> None:
    run_id = runs.request_run(doodles, requested_by="test")
    with pytest.raises(Conflict, match="is queued; only failed, interrupted and cancelled"):
        runs.request_resume(run_id, requested_by="test")
    _end(run_id, RunStatus.interrupted)
    runs.request_resume(run_id, requested_by="test")
    assert runs.show_run(run_id)["status"] == "queued"


def test_a_run_that_was_overtaken_is_not_resumed(doodles: str) -> None:
    old = runs.request_run(doodles, requested_by="test")
    _end(old, RunStatus.failed)
    new = runs.request_run(doodles, requested_by="test")
    _end(new, RunStatus.succeeded)
    with pytest.raises(Conflict, match=f"run {new} came after run {old}"):
        runs.request_resume(old, requested_by="test")


def test_a_finished_run_cannot_be_cancelled(doodles: str) -> None:
    run_id = runs.request_run(doodles, requested_by="test")
    runs.request_cancel(run_id, requested_by="test")
    _end(run_id, RunStatus.cancelled)
    with pytest.raises(Conflict, match="is cancelled; only queued and running"):
        runs.request_cancel(run_id, requested_by="test")


def test_runs_are_listed_newest_first_and_by_page(doodles: str) -> None:
    ids = []
    for _ in range(3):
        ids.append(runs.request_run(doodles, requested_by="test"))
        _end(ids[-1], RunStatus.halted)
    page = runs.list_runs(doodles, limit=2)
    assert [r["run_id"] for r in page] == [ids[2], ids[1]]
    assert [r["run_id"] for r in runs.list_runs(doodles, before=ids[1])] == [ids[0]]


def ended(model: str, status: RunStatus, **stages: float) -> None:
    """stages: how long each took, in seconds."""
    with session() as db:
        run = Run(model=model, trigger=Trigger.manual, requested_by="test", status=status)
        db.add(run)
        db.flush()
        for name, seconds in stages.items():
            stage = Stage(run_id=run.id, name=name, position=runs.STAGES.index(name))
            stage.status, stage.started_at = StageStatus.succeeded, datetime.now(UTC)
            stage.duration_seconds = seconds
            db.add(stage)


def test_a_runs_time_is_estimated_from_those_that_went_through(doodles: str) -> None:
    with session() as db:
        assert runs.estimate(db, doodles) is None
    ended(doodles, RunStatus.failed, ingest=1000)
    ended(doodles, RunStatus.halted, ingest=1000)
    with session() as db:
        assert runs.estimate(db, doodles) is None
    for train, status in ((40, RunStatus.succeeded), (60, RunStatus.rejected), (50, RunStatus.succeeded)):
        ended(doodles, status, train=train, ingest=1)
    with session() as db:
        found = runs.estimate(db, doodles)
    assert found == {"seconds": 51.0, "runs": 3, "stages": {"ingest": 1.0, "train": 50.0}}
    assert list(found["stages"]) == ["ingest", "train"]
    for _ in range(10):
        ended(doodles, RunStatus.succeeded, train=5)
    with session() as db:
        assert runs.estimate(db, doodles) == {"seconds": 5.0, "runs": 10, "stages": {"train": 5.0}}
