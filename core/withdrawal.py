"""Taking corrections back.

One that waits is out at once; one that is in a dataset version leaves with the next run, which trains without it. A
statement that somebody else had made too, and that did not count because this one said it already, waits
again; so does what a review had overruled, and the other side of a conflict.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from core import pictures, telemetry
from core.database import IN_DATASET, Correction, CorrectionStatus, Review
from core.storage import write_durably

SAMPLE = "sample"  # the source of what the drawing page makes of somebody's drawing
REVIEW = "review"  # of what a reviewer let in
CONFLICT = "conflict:"  # how merge's reason begins

log = telemetry.get_logger("withdrawal")


@dataclass(frozen=True)
class Withdrawn:
    """How many are out already, and how many the next run takes out."""

    at_once: int
    by_the_next_run: int


def withdraw(db: Session, correction_ids: Sequence[UUID], data_dir: Path) -> Withdrawn:
    """In the caller's transaction. Those withdrawn before stay as they are, and are not counted.

    What a reviewer accepted of one of them goes with it.
    """
    rows = db.scalars(
        select(Correction)
        .where(or_(Correction.id.in_(correction_ids), _accepted_reviews_of(correction_ids)))
        .where(Correction.withdrawn_at.is_(None))
        .order_by(Correction.id)
        .with_for_update()
    ).all()
    now = datetime.now(UTC)
    in_conflict = [row for row in rows if _in_conflict(row)]
    for row in rows:
        row.withdrawn_at = now
        if not row.leaving:
            row.status = CorrectionStatus.withdrawn
    leaving = [row for row in rows if row.leaving]
    db.flush()
    bring_back(db, [*leaving, *in_conflict], data_dir)
    return Withdrawn(len(rows) - len(leaving), len(leaving))


def withdraw_samples(db: Session, model: str, data_dir: Path) -> Withdrawn:
    """All sample corrections of the model."""
    samples = db.scalars(
        select(Correction.id).where(
            Correction.model == model, Correction.source == SAMPLE, Correction.withdrawn_at.is_(None)
        )
    ).all()
    return withdraw(db, samples, data_dir)


def _accepted_reviews_of(correction_ids: Sequence[UUID]) -> ColumnElement[bool]:
    accepted = select(Correction.id).where(
        Correction.id.in_(correction_ids), Correction.review == Review.accept
    )
    return Correction.review_of.in_(accepted)


def bring_back_for_leaving(db: Session, model: str, data_dir: Path) -> None:
    """For all that is leaving, before a run takes its snapshot: what withdraw() could not bring back, since it still
    waited when a run had it. What leaves because a reviewer refused or relabelled it makes room for nobody."""
    leaving = db.scalars(
        select(Correction)
        .where(
            Correction.model == model, Correction.withdrawn_at.is_not(None), Correction.status.in_(IN_DATASET)
        )
        .where(Correction.reviewed_at.is_(None))
        .order_by(Correction.id)
    ).all()
    bring_back(db, leaving, data_dir)


def bring_back(db: Session, gone: Sequence[Correction], data_dir: Path) -> None:
    """What others said of the same images waits again: the next run takes it in the place of what leaves.

    gone: leaving, or one side of a conflict that is out at once.
    """
    if not gone:
        return
    of_image: dict[tuple[str, str], list[Correction]] = defaultdict(list)
    for row in gone:
        of_image[row.model, row.image_sha256].append(row)
    said = db.scalars(
        select(Correction)
        .where(Correction.model.in_({row.model for row in gone}))
        .where(Correction.image_sha256.in_({row.image_sha256 for row in gone}))
        .where(Correction.withdrawn_at.is_(None), Correction.reviewed_at.is_(None))
        .order_by(Correction.received_at, Correction.id)
        .with_for_update()
    ).all()
    latest: dict[tuple[str, str, str], Correction] = {}
    for row in said:
        earlier = latest.get((row.model, row.image_sha256, row.actor))
        repeats = earlier is not None and earlier.category_id == row.category_id
        if not (repeats and row.status is CorrectionStatus.superseded):
            latest[row.model, row.image_sha256, row.actor] = row
    for row in latest.values():
        of_it = of_image[row.model, row.image_sha256]
        stood = next((each for each in of_it if _stood_in_for(each, row)), None)
        if stood is None:
            continue
        picture = pictures.stored(stood, data_dir)
        if picture is None:
            log.warning("picture gone, so it cannot wait again", correction_id=str(row.id), model=row.model)
            continue
        pictures.send(row.model, row.image_sha256, picture, None)
        if pictures.waits_on_disk(data_dir, row.model):
            write_durably(pictures.inbox_path(data_dir, row.model, row.label, row.image_sha256), picture)
        row.status, row.reason, row.dataset_version = CorrectionStatus.accepted, None, None


def _stood_in_for(gone: Correction, row: Correction) -> bool:
    """A person's correction stood in for who said the same, and against who said otherwise; a review overruled
    everybody, and merge settles what they said differently."""
    if gone.actor == row.actor:
        return False
    if row.status is CorrectionStatus.superseded:
        return gone.leaving and (gone.source == REVIEW or gone.category_id == row.category_id)
    return _in_conflict(row)


def _in_conflict(row: Correction) -> bool:
    return row.status is CorrectionStatus.quarantined and (row.reason or "").startswith(CONFLICT)
