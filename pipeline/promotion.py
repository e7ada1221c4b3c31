"""The ledger of promotions, a person's promotion, and the rollback.

An intent row is written before the alias moves (pipeline/champion.py) and closed once after; `reconcile`
closes what a killed process left open.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select, text
from sqlalchemy.orm import Session

from core import telemetry, trials
from core.database import (
    LedgerAction,
    LedgerEntry,
    LedgerOutcome,
    Model,
    Run,
    TrialKind,
    TrialOutcome,
    dedicated_connection,
    session,
)
from core.errors import Conflict, NotFound
from core.registry import Registry, VersionNotFound
from core.settings import settings
from pipeline.champion import Aliases, NotServed, aliases_of, move_champion, set_aliases, version_of

_PROMOTION_LOCK = 7_305  # first key of the advisory lock; the second is the model's
_SERVED_WITHIN_SECONDS = 30.0
MOST_NAMED = 5  # versions in an error
_log = telemetry.get_logger("promotion")


def open_entry(
    db: Session,
    *,
    action: LedgerAction,
    model: str,
    version: int,
    replaced: int | None,
    actor: str,
    reason: str,
    run_id: int | None = None,
) -> int:
    """The intent row; one that an earlier attempt of the same run left open is taken up again."""
    left_open = entry_of(db, run_id, None) if run_id is not None else None
    if left_open is not None:
        return left_open
    entry = LedgerEntry(
        model=model,
        action=action,
        version=version,
        replaced_version=replaced,
        run_id=run_id,
        actor=actor,
        reason=reason,
    )
    db.add(entry)
    db.flush()
    return entry.id


def entry_of(db: Session, run_id: int, outcome: LedgerOutcome | None) -> int | None:
    """The run's latest promotion with that outcome; None: one that is open."""
    return db.scalar(
        select(LedgerEntry.id)
        .where(
            LedgerEntry.run_id == run_id,
            LedgerEntry.action == LedgerAction.promote,
            LedgerEntry.outcome == outcome,  # SQLAlchemy makes `is null` of None
        )
        .order_by(LedgerEntry.id.desc())
        .limit(1)
    )


def close_entry(db: Session, entry_id: int, outcome: LedgerOutcome) -> None:
    """Does nothing when it is closed already."""
    entry = db.get(LedgerEntry, entry_id, with_for_update=True)
    if entry is not None and entry.outcome is None:
        entry.outcome, entry.closed_at = outcome, datetime.now(UTC)
        if outcome is LedgerOutcome.done:
            trials.champion_moved(db, entry.model, entry.version, actor=entry.actor)


def rollback(model: str, *, actor: str, reason: str, version: int | None = None) -> dict[str, Any]:
    """Ends the shadow or canary that is under way, if any. Else puts `previous` back in one step and pauses automatic
    promotion until `resume_promotion`.

    version: what is to be taken back, tried out or live. Raises Conflict when it is neither any more.
    """
    ended = _end_trial(model, version, actor=actor, reason=reason)
    if ended is not None:
        return ended
    with promotion_lock(model), Registry(settings().mlflow_tracking_uri) as registry:
        for entry in _close_left_open(registry, model):
            if entry.action is LedgerAction.rollback and entry.outcome is LedgerOutcome.done:
                # Killed after champion moved, and asked for again: going back once more is not what was meant.
                return _rolled_back(model, entry.version, entry.replaced_version)
        ended = _end_trial(model, version, actor=actor, reason=reason)
        if ended is not None:
            return ended
        now = aliases_of(registry, model)
        champion, previous = now.champion, now.previous
        if version not in (None, champion):
            raise Conflict(
                f"version {version} of {model} is neither live nor tried out now; `emend promote VERSION --model "
                f"{model}` puts another one live",
                field="version",
            )
        if champion is None or previous is None:
            raise Conflict(
                f"{model} has no previous version to go back to; `emend promote VERSION --model {model}` puts another "
                "one live"
            )
        with session() as db:
            entry_id = open_entry(
                db,
                action=LedgerAction.rollback,
                model=model,
                version=previous,
                replaced=champion,
                actor=actor,
                reason=reason,
            )
            known_model(db, model).promotion_paused_at = datetime.now(UTC)
            older = _replaced_by(db, model, previous)
        _move(registry, model, entry_id, Aliases(previous, older), back_to=now)
    _log.info("rolled back", model=model, version=previous, replaced=champion, actor=actor)
    return _rolled_back(model, previous, champion)


def _end_trial(model: str, version: int | None, *, actor: str, reason: str) -> dict[str, Any] | None:
    """Needs no lock: a trial can be ended while something else of the model goes on for long.

    None without one, or while the ledger has an entry open: what is live is known once that is closed.
    """
    with session() as db:
        known = known_model(db, model)
        trial = trials.open_trial(db, model, for_update=True)
        if trial is None or version not in (None, trial.version) or _has_open_entry(db, model):
            return None
        trials.end(db, trial, TrialOutcome.ended, reason, actor=actor)
        paused = known.promotion_paused_at is not None
        return _rolled_back(model, trial.champion, trial.version, paused=paused, ended=trial.kind)


def _has_open_entry(db: Session, model: str) -> bool:
    query = select(LedgerEntry.id).where(LedgerEntry.model == model, LedgerEntry.outcome.is_(None))
    return db.scalar(query.limit(1)) is not None


def _rolled_back(
    model: str, version: int, replaced: int | None, *, paused: bool = True, ended: TrialKind | None = None
) -> dict[str, Any]:
    return _promoted(model, version, replaced, paused) | {"ended_trial": ended}


def promote(model: str, version: int, *, actor: str, reason: str) -> dict[str, Any]:
    """A person puts a version live, whatever the gate said of it. Automatic promotion stays as it is, paused or not.

    Raises NotFound when the version is not there or retention has removed it, Conflict when it is live already,
    NotServed when the model server does not answer with it: then nothing has changed.
    """
    with promotion_lock(model), Registry(settings().mlflow_tracking_uri) as registry:
        with session() as db:
            paused = known_model(db, model).promotion_paused_at is not None
            refuse_removed(db, model, version)
        for entry in _close_left_open(registry, model):
            by_a_person = entry.action is LedgerAction.promote and entry.run_id is None
            if by_a_person and entry.version == version and entry.outcome is LedgerOutcome.done:
                # Killed after champion moved, and asked for again: it is what was meant.
                return _promoted(model, version, entry.replaced_version, paused)
        require_version(registry, model, version)
        now = aliases_of(registry, model)
        if now.champion == version:
            raise Conflict(f"version {version} of {model} is live already", field="version")
        with session() as db:
            entry_id = open_entry(
                db,
                action=LedgerAction.promote,
                model=model,
                version=version,
                replaced=now.champion,
                actor=actor,
                reason=reason,
            )
        _move(registry, model, entry_id, Aliases(version, now.champion), back_to=now)
    _log.info("promoted by a person", model=model, version=version, replaced=now.champion, actor=actor)
    return _promoted(model, version, now.champion, paused)


def _promoted(model: str, version: int, replaced: int | None, paused: bool) -> dict[str, Any]:
    return {"model": model, "version": version, "replaced_version": replaced, "promotion_paused": paused}


def refuse_removed(db: Session, model: str, version: int) -> None:
    removed_at = db.scalar(select(Run.weights_removed_at).where(Run.model == model, Run.version == version))
    if removed_at is not None:
        raise NotFound(
            f"version {version} of {model} is gone: retention removed its weights on {removed_at:%Y-%m-%d}; "
            "cleanup.keep_runs in params.yaml says how many are kept",
            field="version",
        )


def require_version(registry: Registry, model: str, version: int) -> None:
    """Raises NotFound, with the newest there are."""
    try:
        registry.version(model, version)
    except VersionNotFound as exc:
        newest = [each.version for each in registry.versions(model)][: -MOST_NAMED - 1 : -1]
        there_are = (
            f"its versions, newest first: {', '.join(map(str, newest))}; `emend runs --model {model}` lists all"
            if newest
            else f"it has none yet; `emend run --model {model}` trains one"
        )
        raise NotFound(f"{model} has no version {version}; {there_are}", field="version") from exc


def _move(registry: Registry, model: str, entry_id: int, to: Aliases, *, back_to: Aliases) -> None:
    """Champion, and the ledger's entry with it. Raises NotServed when it moved back."""
    try:
        move_champion(
            registry,
            model,
            to,
            back_to=back_to,
            server_urls=settings().model_server_urls,
            timeout_seconds=_SERVED_WITHIN_SECONDS,
        )
    except NotServed:
        with session() as db:
            close_entry(db, entry_id, LedgerOutcome.reverted)
        raise
    with session() as db:
        close_entry(db, entry_id, LedgerOutcome.done)


def resume_promotion(model: str, *, actor: str) -> None:
    with session() as db:
        known_model(db, model).promotion_paused_at = None
    _log.info("automatic promotion resumed", model=model, actor=actor)


def ledger(model: str, limit: int = 100) -> list[dict[str, Any]]:
    """Newest first."""
    with session() as db:
        entries = db.scalars(
            select(LedgerEntry).where(LedgerEntry.model == model).order_by(LedgerEntry.id.desc()).limit(limit)
        )
        return [
            {
                "id": e.id,
                "action": e.action,
                "version": e.version,
                "replaced_version": e.replaced_version,
                "run_id": e.run_id,
                "actor": e.actor,
                "reason": e.reason,
                "opened_at": e.opened_at.isoformat(),
                "outcome": e.outcome,
                "closed_at": e.closed_at.isoformat() if e.closed_at else None,
            }
            for e in entries
        ]


def reconcile() -> list[str]:
    """Closes entries a killed process left open, by where the alias is. Returns what it did, in sentences.

    Entries of a promotion that goes on just now are left alone: it holds the model's lock.
    """
    with session() as db:
        models = set(db.scalars(select(LedgerEntry.model).where(LedgerEntry.outcome.is_(None))))
    said = []
    for model in sorted(models):
        try:
            with promotion_lock(model), Registry(settings().mlflow_tracking_uri) as registry:
                for entry in _close_left_open(registry, model):
                    said.append(f"{entry.action} of {model} to version {entry.version}: {entry.outcome}")
        except PromotionUnderWay:
            continue
    return said


def _close_left_open(registry: Registry, model: str) -> list[LedgerEntry]:
    """With the model's promotion lock held: nobody is at work on what is open.

    `previous` moves after `champion`, and may not have: it is set too.
    """
    champion = version_of(registry, model, "champion")
    with session() as db:
        query = select(LedgerEntry).where(LedgerEntry.model == model, LedgerEntry.outcome.is_(None))
        entries = list(db.scalars(query.order_by(LedgerEntry.id)))
        for entry in entries:
            moved = entry.version == champion
            close_entry(db, entry.id, LedgerOutcome.done if moved else LedgerOutcome.abandoned)
            if moved:
                set_aliases(registry, model, Aliases(champion, previous_version(db, model)))
    return entries


class PromotionUnderWay(Conflict):
    code = "promotion_under_way"


@contextmanager
def promotion_lock(model: str) -> Iterator[None]:
    """One promotion or rollback of a model at a time, held by the database. Raises PromotionUnderWay."""
    with dedicated_connection() as connection:
        take_promotion_lock(connection, model)
        yield


def take_promotion_lock(connection: Connection, model: str) -> None:
    """For as long as the connection lives. Raises PromotionUnderWay."""
    keys = {"kind": _PROMOTION_LOCK, "model": model}
    if not connection.scalar(text("select pg_try_advisory_lock(:kind, hashtext(:model))"), keys):
        raise PromotionUnderWay(f"{model} is being promoted or rolled back just now; try again in a moment")


def previous_version(db: Session, model: str) -> int | None:
    """What a rollback would put back, by the ledger: as the alias `previous` says, but without asking MLflow."""
    last = db.scalar(
        select(LedgerEntry)
        .where(LedgerEntry.model == model, LedgerEntry.outcome == LedgerOutcome.done)
        .order_by(LedgerEntry.id.desc())
        .limit(1)
    )
    if last is None or last.action is LedgerAction.promote:
        return None if last is None else last.replaced_version
    return _replaced_by(db, model, last.version)


def _replaced_by(db: Session, model: str, version: int) -> int | None:
    """What `version` itself replaced when it was promoted, if retention has left it."""
    return db.scalar(
        select(LedgerEntry.replaced_version)
        .outerjoin(Run, (Run.model == LedgerEntry.model) & (Run.version == LedgerEntry.replaced_version))
        .where(
            LedgerEntry.model == model,
            LedgerEntry.version == version,
            LedgerEntry.action == LedgerAction.promote,
            LedgerEntry.outcome == LedgerOutcome.done,
            Run.weights_removed_at.is_(None),
        )
        .order_by(LedgerEntry.id.desc())
        .limit(1)
    )


def known_model(db: Session, model: str) -> Model:
    found = db.get(Model, model)
    if found is None:
        raise NotFound(f"there is no model {model!r}", field="model")
    return found
