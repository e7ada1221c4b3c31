"""What a person decides of corrections that were set aside, or that wait: accept, relabel, reject.

What a person lets in is a new correction with the source `review`, which stands over everybody's labels when a run
merges it; the one that was looked at keeps its place and says what was decided. All decisions of a request or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from api import inbox
from api.catalogue import spec_of
from api.history import new_id
from core import categories, pictures
from core.database import Category, Correction, CorrectionStatus, Model, Review, session
from core.errors import Conflict, NotFound
from core.pictures import inbox_path, is_picture
from core.storage import write_durably
from core.withdrawal import REVIEW, SAMPLE

REJECTED = "rejected"  # folder in quarantine/, and what the reason begins with


_NewFile = tuple[str, str, Path]  # of which model and image


@dataclass(frozen=True)
class Decision:
    """label: normalised; of `relabel` alone."""

    correction_id: UUID
    action: Review
    label: str | None = None


@dataclass(frozen=True)
class Reviewer:
    """actor: its hash. name: as lists show it."""

    actor: str
    name: str


def decide(decisions: Sequence[Decision], reviewer: Reviewer, data_dir: Path) -> list[dict[str, Any]]:
    """In the order of `decisions`. Returns when rows and pictures would survive a power cut.

    Raises NotFound, Conflict, InvalidLabel, Unavailable, DiskFull; nothing is decided then.
    """
    with session() as db:
        found = db.scalars(
            select(Correction).where(Correction.id.in_([each.correction_id for each in decisions]))
        ).all()
    images = {row.image_sha256 for row in found}
    new_files: list[_NewFile] = []
    all_decided = False
    with inbox.images_locked(images):
        try:
            with session() as db:
                rows = {row.id: row for row in _locked(db, decisions)}
                results = [_decide(db, rows, each, reviewer, data_dir, new_files) for each in decisions]
                all_decided = True
        except BaseException:
            # Else the commit failed, or only its answer did not come: rows that may stand keep their files.
            if not all_decided:
                for model, sha256, path in new_files:
                    inbox.remove_unless_needed(model, sha256, [path])
            raise
    return results


def _locked(db: Session, decisions: Sequence[Decision]) -> Sequence[Correction]:
    return db.scalars(
        select(Correction)
        .where(Correction.id.in_([each.correction_id for each in decisions]))
        .order_by(Correction.id)
        .with_for_update()
    ).all()


def _decide(
    db: Session,
    rows: dict[UUID, Correction],
    decision: Decision,
    reviewer: Reviewer,
    data_dir: Path,
    new_files: list[_NewFile],
) -> dict[str, Any]:
    row = rows.get(decision.correction_id)
    if row is None:
        raise NotFound(f"there is no correction {decision.correction_id}")
    _refuse_undecidable(row, decision.action)
    row.review, row.reviewed_at, row.reviewed_by = decision.action, datetime.now(UTC), reviewer.name
    waits = row.status is CorrectionStatus.accepted
    follows = None
    if decision.action is Review.reject:
        if waits:
            row.status, row.reason = CorrectionStatus.quarantined, f"{REJECTED} by a reviewer"
            _set_aside(row, data_dir)
    else:
        category = _category(db, row, decision)
        follows = _let_in(db, row, category, reviewer, data_dir, new_files)
        if waits:
            row.status, row.reason = CorrectionStatus.superseded, f"a reviewer says it is {category.name}"
    db.flush()
    return {
        "correction_id": str(row.id),
        "status": row.status,
        "reason": row.reason,
        "new_correction_id": None if follows is None else str(follows.id),
    }


def _refuse_undecidable(row: Correction, action: Review) -> None:
    """Raises Conflict."""
    if row.reviewed_at is not None:
        raise Conflict(f"correction {row.id} was decided already ({row.review}); nothing was decided now")
    open_to = {CorrectionStatus.quarantined: tuple(Review), CorrectionStatus.accepted: tuple(Review)[1:]}
    if action not in open_to.get(row.status, ()):
        raise Conflict(
            f"correction {row.id} is {row.status}: it cannot be {_DONE[action]}; nothing was decided"
        )
    if row.source == SAMPLE and action is not Review.reject:
        raise Conflict(
            f"correction {row.id} is a sample: it can be rejected or withdrawn, not {_DONE[action]}; "
            "nothing was decided"
        )


_DONE = {Review.accept: "accepted", Review.relabel: "relabelled", Review.reject: "rejected"}


def _category(db: Session, row: Correction, decision: Decision) -> Category:
    label = decision.label
    if label is None:
        label = db.get_one(Category, (row.model, row.category_id)).name
    return categories.find_or_add(db, row.model, label)


def _let_in(
    db: Session,
    row: Correction,
    category: Category,
    reviewer: Reviewer,
    data_dir: Path,
    new_files: list[_NewFile],
) -> Correction:
    picture = _picture(db, row, data_dir)
    pictures.send(
        row.model, row.image_sha256, picture, None
    )  # one of before there was a store is not there yet
    if pictures.waits_on_disk(data_dir, row.model):
        path = inbox_path(data_dir, row.model, category.name, row.image_sha256)
        if not path.exists():
            new_files.append((row.model, row.image_sha256, path))
        write_durably(path, picture)  # also when it is there: a run's cleanup may be about to remove it
    follows = Correction(
        id=new_id(),
        model=row.model,
        image_sha256=row.image_sha256,
        category_id=category.id,
        label=category.name,
        actor=reviewer.actor,
        source=REVIEW,
        prediction_id=row.prediction_id,
        request_sha256=row.request_sha256,
        status=CorrectionStatus.accepted,
        review_of=row.id,
    )
    db.add(follows)
    return follows


def _picture(db: Session, row: Correction, data_dir: Path) -> bytes:
    """Raises Conflict when it is nowhere, or nowhere whole."""
    data = pictures.stored(row, data_dir) or inbox.image_in_history(row)
    if data is None or not is_picture(data, row.image_sha256):
        spec = spec_of(db.get_one(Model, row.model).params)
        data = pictures.from_original(data_dir, row.model, row.image_sha256, spec)
    if data is None or not is_picture(data, row.image_sha256):
        raise Conflict(
            f"the picture of correction {row.id} is gone or damaged: it can only be rejected; nothing was decided"
        )
    return data


def _set_aside(row: Correction, data_dir: Path) -> None:
    """A copy: the inbox keeps its file until the next run is done."""
    picture = pictures.stored(row, data_dir)
    if picture is not None and pictures.waits_on_disk(data_dir, row.model):
        write_durably(data_dir / row.model / "quarantine" / REJECTED / f"{row.image_sha256}.png", picture)
