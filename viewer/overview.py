"""What every model waits for, what is live, and whether anybody is there to work: the head of the runs page."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any

import httpx
from sqlalchemy import select
from sqlalchemy.orm import Session

from core import receipts, telemetry
from core.database import (
    ACTIVE_RUN,
    LedgerEntry,
    LedgerOutcome,
    Model,
    Run,
    Stage,
    Version,
    session,
)
from core.settings import settings
from pipeline import runs, schedule

ALIVE_SECONDS = 2.0  # the orchestrator is asked at most so often, however many pages look

_log = telemetry.get_logger("viewer.overview")


class Orchestrator:
    """Does it answer? Asked over HTTP, the answer kept for a moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked_at = -ALIVE_SECONDS
        self._alive = False

    def alive(self) -> bool:
        with self._lock:  # those who come meanwhile take the same answer
            if time.monotonic() - self._asked_at >= ALIVE_SECONDS:
                self._alive = _answers(f"{settings().orchestrator_url}/metrics")
                self._asked_at = time.monotonic()
            return self._alive


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def models(now: datetime | None = None) -> list[dict[str, Any]]:
    """One for each model, in the order they were made."""
    with session() as db:
        return [
            _model(db, model, now or datetime.now(UTC))
            for model in db.scalars(select(Model).order_by(Model.created_at, Model.name)).all()
        ]


def _model(db: Session, model: Model, now: datetime) -> dict[str, Any]:
    paused = model.promotion_paused_at
    return {
        "name": model.name,
        "champion": _champion(db, model.name),
        "previous": runs.previous_version(db, model.name),
        "promotion_paused_at": paused.isoformat() if paused else None,
        "waiting": receipts.waiting(db, model),
        "schedule": _schedule(model, now),
        "active_run": db.scalar(select(Run.id).where(Run.model == model.name, Run.status.in_(ACTIVE_RUN))),
        "last_run": _last_run(db, model.name),
        "run_estimate": runs.estimate(db, model.name),
        "quarantined": receipts.set_aside(db, model.name),
    }


def _champion(db: Session, model: str) -> dict[str, Any] | None:
    entry = db.scalar(
        select(LedgerEntry)
        .where(LedgerEntry.model == model, LedgerEntry.outcome == LedgerOutcome.done)
        .order_by(LedgerEntry.id.desc())
        .limit(1)
    )
    if entry is None:
        return None
    version = db.get(Version, (model, entry.version))
    return {
        "version": entry.version,
        "since": entry.closed_at.isoformat() if entry.closed_at else None,
        "holdout_accuracy": version.figures.get("holdout_accuracy") if version else None,
    }


def _last_run(db: Session, model: str) -> dict[str, Any] | None:
    run = db.scalar(select(Run).where(Run.model == model).order_by(Run.id.desc()).limit(1))
    if run is None:
        return None
    stages = db.scalars(select(Stage).where(Stage.run_id == run.id).order_by(Stage.position)).all()
    return runs.as_json(run, list(stages))


def _schedule(model: Model, now: datetime) -> dict[str, Any] | None:
    cron = model.params.get("triggers", {}).get("cron")
    if cron is None:
        return None
    timezone = settings().schedule_tz
    try:
        next_at = schedule.next_firing(cron, now, timezone)
    except (
        ValueError
    ) as exc:  # croniter's errors are ValueErrors; params.yaml is checked before it comes here
        _log.warning("unusable cron expression", model=model.name, cron=cron, reason=str(exc))
        next_at = None
    return {"cron": cron, "timezone": timezone, "next_at": next_at.isoformat() if next_at else None}
