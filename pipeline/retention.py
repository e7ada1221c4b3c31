"""What `cleanup` may remove, by the database: merged pictures and imports, and the weights of old runs.

The stage itself removes them (pipeline/stages/cleanup.py), and tells what became of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from core import trials
from core.database import (
    Correction,
    CorrectionStatus,
    Import,
    ImportStatus,
    LedgerAction,
    LedgerEntry,
    LedgerOutcome,
    Run,
    Stage,
    StageStatus,
)
from core.settings import settings
from pipeline.params import load

Manifest = dict[str, Any]


def may_go(db: Session, run: Run, _: Manifest) -> Manifest:
    """Files of the inbox and of imports, and runs by what becomes of their weights."""
    expired, kept = _runs_by_weights(db, run)
    return {
        "settled_files": _settled_files(db, run),
        "expired": [{"run": each.id, "version": each.version} for each in expired],
        "kept_runs": [each.id for each in kept],
    }


def _runs_by_weights(db: Session, run: Run) -> tuple[list[Run], list[Run]]:
    """(whose weights may go, whose stay). The newest `cleanup.keep_runs` versions stay, and as many of those promoted
    last: a rollback may go back to them. A shadow or canary stays, and a version that an alias names; the stage asks
    the registry."""
    keep_runs = load(settings().data_dir / run.model / "runs" / str(run.id)).cleanup.keep_runs
    runs = db.scalars(
        select(Run).where(Run.model == run.model, Run.weights_removed_at.is_(None)).order_by(Run.id.desc())
    ).all()
    versioned = [each for each in runs if each.version is not None]
    if len(versioned) <= keep_runs:
        return [], list(runs)
    promoted = db.scalars(
        select(LedgerEntry.version)
        .where(
            LedgerEntry.model == run.model,
            LedgerEntry.action == LedgerAction.promote,
            LedgerEntry.outcome == LedgerOutcome.done,
        )
        .group_by(LedgerEntry.version)
        .order_by(func.max(LedgerEntry.id).desc())
        .limit(keep_runs)
    ).all()
    trial = trials.open_trial(db, run.model)
    kept = {*promoted, *([trial.version] if trial is not None else [])}
    oldest = versioned[keep_runs - 1].id
    expired = [each for each in runs if each.id < oldest and each.version not in kept]
    return expired, [each for each in runs if each not in expired]


def gone(db: Session, _run: Run, _: Manifest, results: Mapping[str, Any]) -> None:
    """Records whose weights the stage has removed."""
    removed = results["cleanup"]["weights_removed"]
    db.execute(update(Run).where(Run.id.in_(removed)).values(weights_removed_at=datetime.now(UTC)))


def _settled_files(db: Session, run: Run) -> list[str]:
    """What may leave the home, since the last run that cleaned up: also what a run took in that nobody resumed.

    A picture that came again, and waits, stays.
    """
    cleaned_at = db.scalar(
        select(func.max(Run.started_at))
        .join(Stage, Stage.run_id == Run.id)
        .where(Run.model == run.model, Stage.name == "cleanup", Stage.status == StageStatus.succeeded)
    )
    # An hour: what was being received when that run began has an earlier time.
    since = datetime.min.replace(tzinfo=UTC) if cleaned_at is None else cleaned_at - timedelta(hours=1)
    waiting = Correction.status == CorrectionStatus.accepted
    wanted = set(_pictures(db, run.model, waiting))
    # What somebody else's withdrawal brought back had been received long before.
    brought_back = Correction.image_sha256.in_(
        select(Correction.image_sha256).where(Correction.model == run.model, Correction.withdrawn_at > since)
    )
    recent = or_(Correction.received_at > since, brought_back)
    settled = set(_pictures(db, run.model, ~waiting, recent))
    files = [f"inbox/{label}/{sha256}.png" for label, sha256 in sorted(settled - wanted)]
    merged = (Import.model == run.model, Import.status == ImportStatus.merged, Import.created_at > since)
    return files + list(db.scalars(select(Import.file).where(*merged)))


def _pictures(db: Session, model: str, *where: ColumnElement[bool]) -> Iterator[tuple[str, str]]:
    """(label, sha256) of corrections."""
    found = db.execute(
        select(Correction.label, Correction.image_sha256).where(Correction.model == model, *where)
    )
    return ((label, sha256) for label, sha256 in found)
