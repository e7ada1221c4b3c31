"""What the orchestrator shows of the database: facts that a restart does not change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.database import (
    Correction,
    CorrectionStatus,
    LedgerAction,
    LedgerEntry,
    LedgerOutcome,
    Model,
    Run,
    RunStatus,
    Stage,
    StageStatus,
    Transition,
    Trigger,
    engine,
    session,
)
from core.errors import Unavailable
from core.settings import settings
from core.storage import write_json
from pipeline.gauges import Gauges
from tests.support.gateway import add_model, promote

pytestmark = pytest.mark.usefixtures("emend_environment")

NOW = datetime.now(UTC).replace(microsecond=0)


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"emend_{name}", labels)


@pytest.fixture
def model() -> str:
    """A model of its own: the metrics of a process outlive a test."""
    settings().data_dir.mkdir(parents=True, exist_ok=True)
    name = f"model-{uuid4().hex[:8]}"
    add_model(engine(), name, versions=())
    return name


def add_run(model: str, status: RunStatus, **fields: Any) -> int:
    with session() as db:
        run = Run(model=model, trigger=Trigger.manual, requested_by="test", status=status, **fields)
        db.add(run)
        db.flush()
        return run.id


def put_live(db: Session, model: str, number: int) -> None:
    promote(db, model, number, [0, 1, 2])


def correct(db: Session, model: str, dataset_version: int, received_at: datetime) -> None:
    db.add(
        Correction(
            id=uuid4(),
            model=model,
            image_sha256=uuid4().hex * 2,
            category_id=0,
            label="cat",
            actor="ann",
            request_sha256="x",
            status=CorrectionStatus.merged,
            dataset_version=dataset_version,
            received_at=received_at,
        )
    )


def test_the_last_end_of_each_kind_is_shown(model: str) -> None:
    add_run(model, RunStatus.failed, finished_at=NOW - timedelta(hours=2))
    add_run(model, RunStatus.failed, finished_at=NOW - timedelta(hours=1))
    add_run(model, RunStatus.succeeded, finished_at=NOW)
    Gauges().refresh(NOW)
    failed = value("run_finished_timestamp_seconds", model=model, status="failed")
    assert failed == (NOW - timedelta(hours=1)).timestamp()
    assert value("run_finished_timestamp_seconds", model=model, status="succeeded") == NOW.timestamp()
    assert value("run_finished_timestamp_seconds", model=model, status="halted") is None
    assert value("runs_total", model=model, status="halted") == 0


def test_an_active_run_shows_when_it_was_last_heard_of_and_a_finished_one_does_not(model: str) -> None:
    run_id = add_run(model, RunStatus.running, started_at=NOW)
    heard = NOW - timedelta(minutes=7)
    with session() as db:
        db.add(Transition(run_id=run_id, model=model, stage="train", status="epoch", at=heard))
    gauges = Gauges()
    gauges.refresh(NOW)
    assert value("run_active_timestamp_seconds", model=model, status="running") == heard.timestamp()
    with session() as db:
        run = db.get_one(Run, run_id)
        run.status, run.finished_at = RunStatus.failed, NOW
    gauges.refresh(NOW)
    assert value("run_active_timestamp_seconds", model=model, status="running") is None


def test_a_stage_shows_how_long_it_took_last(model: str) -> None:
    for seconds in (3.0, 5.0):
        run_id = add_run(model, RunStatus.succeeded, finished_at=NOW)
        with session() as db:
            db.add(
                Stage(
                    run_id=run_id,
                    name="train",
                    position=4,
                    status=StageStatus.succeeded,
                    started_at=NOW,
                    duration_seconds=seconds,
                )
            )
    Gauges().refresh(NOW)
    assert value("stage_last_duration_seconds", model=model, stage="train") == 5.0


def test_a_firing_counts_from_when_the_expression_was_written(model: str) -> None:
    now = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

    def schedule(cron: str | None, seen_at: datetime) -> None:
        with session() as db:
            row = db.get_one(Model, model)
            row.params = {**row.params, "triggers": {"cron": cron, "corrections": None}}
            row.schedule_seen_at = seen_at
        Gauges().refresh(now)

    schedule("0 3 * * *", now - timedelta(days=3))
    three = now.replace(hour=3).timestamp()
    assert value("schedule_last_firing_timestamp_seconds", model=model) == three
    assert value("schedule_next_firing_timestamp_seconds", model=model) == three + 86400
    schedule("0 3 * * *", now - timedelta(hours=1))
    assert value("schedule_last_firing_timestamp_seconds", model=model) is None
    schedule(None, now - timedelta(days=3))
    assert value("schedule_next_firing_timestamp_seconds", model=model) is None


def test_each_correction_is_timed_once_when_a_version_with_it_goes_live(model: str) -> None:
    gauges, now = (
        Gauges(),
        datetime.now(UTC),
    )  # not the module's: a version goes live at the database's present
    with session() as db:
        put_live(db, model, 1)
    gauges.refresh(now)
    assert value("correction_live_seconds_count", model=model) == 0
    with session() as db:
        for hours in (1, 2):
            correct(db, model, 2, now - timedelta(hours=hours))
        correct(db, model, 3, now)  # in a later dataset: not live yet
        put_live(db, model, 2)
    gauges.refresh(now)
    gauges.refresh(now)
    assert value("correction_live_seconds_count", model=model) == 2
    assert value("correction_live_seconds_sum", model=model) == pytest.approx(3 * 3600, abs=60)


def test_a_version_put_live_again_times_nothing_and_an_open_promotion_waits(model: str) -> None:
    gauges = Gauges()
    with session() as db:
        put_live(db, model, 1)
    gauges.refresh(NOW)
    with session() as db:
        correct(db, model, 2, NOW - timedelta(hours=1))
        put_live(db, model, 2)
    gauges.refresh(NOW)
    with session() as db:
        for action, version, outcome in (
            (LedgerAction.rollback, 1, LedgerOutcome.done),
            (LedgerAction.promote, 2, None),
        ):
            entry = LedgerEntry(
                model=model, action=action, version=version, actor="test", reason="test", outcome=outcome
            )
            entry.closed_at = NOW if outcome else None
            db.add(entry)
            db.flush()
    gauges.refresh(NOW)
    with session() as db:
        again = db.get_one(LedgerEntry, entry.id)
        again.outcome, again.closed_at = LedgerOutcome.done, NOW
    gauges.refresh(NOW)
    assert value("correction_live_seconds_count", model=model) == 1


def test_the_mix_is_what_the_live_versions_own_run_counted(model: str) -> None:
    with session() as db:
        put_live(db, model, 1)
        run_id = db.scalar(select(Run.id).where(Run.model == model))
    counts = [{"id": number, "train_images": images} for number, images in enumerate((10, 30, 60))]
    folder = settings().data_dir / model / "runs" / str(run_id)
    folder.mkdir(parents=True)
    write_json(folder / "merge.json", {"data": {"categories": counts}})
    gauges = Gauges()
    gauges.refresh(NOW)
    shares = [value("training_category_ratio", model=model, category=c) for c in ("cat", "dog", "fish")]
    assert shares == [0.1, 0.3, 0.6]


def test_the_mix_is_the_latest_datasets_when_the_runs_folder_is_gone(model: str) -> None:
    with session() as db:
        put_live(db, model, 1)
    Gauges().refresh(NOW)
    assert value("training_category_ratio", model=model, category="dog") == pytest.approx(1 / 3)


def test_accuracies_of_versions_that_were_live_are_shown_and_the_pause(model: str) -> None:
    with session() as db:
        put_live(db, model, 1)
        db.get_one(Model, model).promotion_paused_at = NOW
    Gauges().refresh(NOW)
    assert value("version_accuracy", model=model, version="1", slice="holdout") == 0.9
    assert value("version_accuracy", model=model, version="1", slice="generated") is None
    assert value("promotion_paused", model=model) == 1


def test_disk_and_the_age_of_the_figures_are_shown(model: str) -> None:
    Gauges().refresh(NOW)
    assert value("state_read_timestamp_seconds") == NOW.timestamp()
    free, size = value("data_disk_free_bytes"), value("data_disk_size_bytes")
    assert free is not None
    assert size is not None
    assert 0 <= free <= size


def test_without_the_database_the_last_figures_stay(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Gauges().refresh(NOW)
    engine().dispose()
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
    settings.cache_clear()
    engine.cache_clear()
    with pytest.raises(Unavailable):
        Gauges().refresh(NOW + timedelta(minutes=5))
    assert value("state_read_timestamp_seconds") == NOW.timestamp()
    assert value("promotion_paused", model=model) == 0
