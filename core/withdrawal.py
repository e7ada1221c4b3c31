"""Taking corrections back.

One that waits is out at once; one that is in a dataset version leaves with the next run, which trains without it. A
statement that somebody else had made too, and that did not count because this one said it already, waits
again; so does what a review had overruled.
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

SAMPLE = "sample"  # the source of drawings that ship with a page
REVIEW = "review"  # of what a reviewer let in

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
    for row in rows:
        row.withdrawn_at = now
        if not row.leaving:
            row.status = CorrectionStatus.withdrawn
    leaving = [row for row in rows if row.leaving]
    db.flush()
    _bring_back(db, leaving, data_dir)
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


def bring_back(db: Session, model: str, data_dir: Path) -> None:
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
    _bring_back(db, leaving, data_dir)


def _bring_back(db: Session, leaving: Sequence[Correction], data_dir: Path) -> None:
    """What others said too, of the same images, waits again: the next run takes it in the place of what leaves."""
    if not leaving:
        return
    of_image: dict[tuple[str, str], list[Correction]] = defaultdict(list)
    for row in leaving:
        of_image[row.model, row.image_sha256].append(row)
    said = db.scalars(
        select(Correction)
        .where(Correction.model.in_({row.model for row in leaving}))
        .where(Correction.image_sha256.in_({row.image_sha256 for row in leaving}))
        .where(Correction.withdrawn_at.is_(None), Correction.reviewed_at.is_(None))
        .order_by(Correction.received_at, Correction.id)
        .with_for_update()
    ).all()
    latest = {(row.model, row.image_sha256, row.actor): row for row in said}
    for row in latest.values():
        gone = next(
            (each for each in of_image[row.model, row.image_sha256] if _stood_in_for(each, row)), None
        )
        if gone is None:
            continue
        picture = pictures.stored(gone, data_dir)
        if picture is None:
            log.warning("picture gone, so it cannot wait again", correction=str(row.id), model=row.model)
            continue
        write_durably(pictures.inbox_path(data_dir, row.model, row.label, row.image_sha256), picture)
        row.status, row.reason, row.dataset_version = CorrectionStatus.accepted, None, None


def _stood_in_for(gone: Correction, row: Correction) -> bool:
    """A person's correction stood in for who said the same; a review overruled everybody, and merge settles what they
    said differently."""
    return (
        row.status is CorrectionStatus.superseded
        and gone.actor != row.actor
        and (gone.source == REVIEW or gone.category_id == row.category_id)
    )
