"""Runs that start by themselves: at a cron expression's firings, and when enough corrections wait.

The orchestrator calls `tick` every few seconds. Time zones: the expression is read on the wall clock of
SCHEDULE_TZ.

- A time the clock skips in spring (02:30 where 02:00 becomes 03:00) fires at the moment of the change.
- A time that comes twice in autumn fires the first time only, unless the hour is a wildcard: `30 * * * *` goes
  on firing every hour.
- Firings missed while nothing ran count once: the latest one fires, late.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, croniter
from pydantic import ValidationError
from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core import telemetry
from core.database import ACTIVE_RUN, Correction, CorrectionStatus, Model, Run, RunStatus, Trigger, session
from core.settings import settings
from pipeline import runs
from pipeline.params import TriggerParams

_log = telemetry.get_logger("schedule")


def due(cron: str, seen_at: datetime, now: datetime, tz: str) -> datetime | None:
    """The latest firing after `seen_at` and not after `now`, in UTC. Both must know their time zone."""
    just_after = now + timedelta(microseconds=1)  # croniter looks strictly before
    for firing in _firings(cron, just_after, tz, forward=False):
        return firing if firing > seen_at else None
    return None


def next_firing(cron: str, now: datetime, tz: str) -> datetime | None:
    """The first firing after `now`, in UTC. None: never, e.g. 30 February."""
    return next(_firings(cron, now, tz, forward=True), None)


def _firings(cron: str, start: datetime, tz: str, *, forward: bool) -> Iterator[datetime]:
    expression = croniter(cron, start.astimezone(ZoneInfo(tz)))
    every_hour = expression.expressions[1].startswith("*")
    while True:
        try:
            firing = expression.get_next(datetime) if forward else expression.get_prev(datetime)
        except CroniterBadDateError:
            return
        if every_hour or not _comes_again(firing):
            yield firing.astimezone(UTC)


def _comes_again(local: datetime) -> bool:
    """Has the wall clock shown this already, an hour ago, before it was put back?"""
    return local.utcoffset() != local.replace(fold=0).utcoffset()


def follow_params(model: Model, params: dict[str, Any], now: datetime) -> None:
    """Stores the parameters. A new cron expression counts from now, not for firings it would have had before."""
    old, new = (p.get("triggers", {}).get("cron") for p in (model.params, params))
    if new != old:
        model.schedule_seen_at = now
    model.params = params


def tick(now: datetime) -> list[int]:
    """Queues what is due for any model; returns the new runs' ids. Safe to call from several processes at once.

    Raises Unavailable when the database is away: nothing is lost, a later tick finds it still due.
    """
    with session() as db:
        models = db.scalars(select(Model.name).order_by(Model.name)).all()
    return [run_id for name in models if (run_id := _tick_model(name, now)) is not None]


def _tick_model(name: str, now: datetime) -> int | None:
    """In one transaction: a firing is claimed and its run is queued, or neither."""
    try:
        with session() as db:
            # FOR NO KEY UPDATE: plain FOR UPDATE would also wait for whoever inserts rows that refer to the model.
            model = db.get_one(Model, name, with_for_update={"key_share": True})
            if db.scalar(select(Run.id).where(Run.model == name, Run.status.in_(ACTIVE_RUN))) is not None:
                # Postponed, not skipped: the active run may have taken its snapshot long before the firing, or fail.
                # When nothing has come since, the postponed run halts at once.
                return None
            triggers = TriggerParams.model_validate(model.params.get("triggers", {}))
            return _at_a_firing(db, model, triggers, now) or _at_the_threshold(db, name, triggers)
    except IntegrityError:
        _log.info("another run was asked for at the same moment; it goes first", model=name)
    except ValidationError as exc:
        _log.error(
            "triggers in params.yaml are unusable; this model starts no run", model=name, reason=str(exc)
        )
    return None


def _at_a_firing(db: Session, model: Model, triggers: TriggerParams, now: datetime) -> int | None:
    if triggers.cron is None:
        return None
    firing = due(triggers.cron, model.schedule_seen_at, now, settings().schedule_tz)
    if firing is None:
        return None
    model.schedule_seen_at = firing
    return _queue(db, model.name, Trigger.schedule, f"cron {triggers.cron!r} at {firing:%Y-%m-%dT%H:%MZ}")


def _at_the_threshold(db: Session, model: str, triggers: TriggerParams) -> int | None:
    if triggers.corrections is None:
        return None
    waiting = _waiting(db, model)
    if waiting < triggers.corrections:
        return None
    noun = "correction" if waiting == 1 else "corrections"
    return _queue(db, model, Trigger.threshold, f"{waiting} waiting {noun}")


def _waiting(db: Session, model: str) -> int:
    """Accepted corrections that came after the last attempt: when it failed, the same ones are not tried again."""
    last_attempt = (
        select(func.coalesce(Run.started_at, Run.requested_at))
        # A nightly run that halted was no attempt: it only found too few, and they still count.
        .where(Run.model == model, or_(Run.trigger == Trigger.threshold, Run.status != RunStatus.halted))
        .order_by(Run.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    counted = db.scalar(
        select(func.count())
        .select_from(Correction)
        .where(
            Correction.model == model,
            Correction.status == CorrectionStatus.accepted,
            Correction.received_at > func.coalesce(last_attempt, datetime.min.replace(tzinfo=UTC)),
        )
    )
    return counted or 0


def _queue(db: Session, model: str, trigger: Trigger, why: str) -> int:
    """In the transaction that claims the firing."""
    run_id = runs.queue(db, model, trigger=trigger, requested_by=why)
    _log.info("run queued", model=model, run_id=run_id, trigger=trigger, reason=why)
    return run_id
