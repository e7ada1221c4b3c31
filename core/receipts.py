"""Receipts: what became of a correction, read from the database. The gateway's, the viewer's and `emend`'s.

receipt(correction_id)["sentence"]   # "Now right: version 4 was trained on it and gets it right."
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from core.database import (
    IN_DATASET,
    Category,
    CategoryState,
    Correction,
    CorrectionStatus,
    LedgerEntry,
    LedgerOutcome,
    Model,
    Outcome,
    Prediction,
    Review,
    Version,
    session,
)
from core.errors import NotFound
from core.images import NEAR_DUPLICATE, split_of

LEARNED = "learned"
EXAM_QUESTION = "exam question"


def champion_version(db: Session, model: str) -> int | None:
    """What the ledger's last successful entry put in place; None before the first promotion."""
    return db.scalar(
        select(LedgerEntry.version)
        .where(LedgerEntry.model == model, LedgerEntry.outcome == LedgerOutcome.done)
        .order_by(LedgerEntry.id.desc())
        .limit(1)
    )


def missing_images(category: Category, model: Model) -> int:
    """Training images that a pending category still needs to become active."""
    if category.state is not CategoryState.pending:
        return 0
    return max(0, int(model.params["merge"]["min_images"]) - category.train_images)


def waiting(db: Session, model: Model) -> dict[str, int | None]:
    """Corrections that wait; how many more a run needs to start by hand, and by itself (null: it never does).

    withdrawals: how many the next run takes out again; one is enough for a run.
    """
    count = db.scalar(
        select(func.count()).where(
            Correction.model == model.name, Correction.status == CorrectionStatus.accepted
        )
    )
    count = count or 0
    withdrawals = leaving(db, model.name)
    needed = 0 if withdrawals else int(model.params["ingest"]["min_new_images"])
    threshold = model.params["triggers"]["corrections"]
    return {
        "corrections": count,
        "withdrawals": withdrawals,
        "missing_for_a_run": max(0, needed - count),
        "missing_for_the_trigger": None if threshold is None else max(0, int(threshold) - count),
    }


def set_aside(db: Session, model: str) -> int:
    """Corrections in quarantine that nobody has looked at yet."""
    counted = db.scalar(
        select(func.count()).where(
            Correction.model == model,
            Correction.status == CorrectionStatus.quarantined,
            Correction.reviewed_at.is_(None),
        )
    )
    return counted or 0


def _waiting_of(db: Session, category: Category) -> int:
    counted = db.scalar(
        select(func.count()).where(
            Correction.model == category.model,
            Correction.category_id == category.id,
            Correction.status == CorrectionStatus.accepted,
        )
    )
    return counted or 0


def leaving(db: Session, model: str) -> int:
    """Withdrawn corrections that are in the dataset until the next run has taken them out."""
    counted = db.scalar(
        select(func.count()).where(
            Correction.model == model, Correction.withdrawn_at.is_not(None), Correction.status.in_(IN_DATASET)
        )
    )
    return counted or 0


def known_correction(db: Session, correction_id: UUID) -> Correction:
    """Raises NotFound."""
    found = db.get(Correction, correction_id)
    if found is None:
        raise NotFound(f"there is no correction {correction_id}")
    return found


def receipt(correction_id: UUID) -> dict[str, Any]:
    """Raises NotFound."""
    with session() as db:
        correction = known_correction(db, correction_id)
        category = db.get_one(Category, (correction.model, correction.category_id))
        model = db.get_one(Model, correction.model)
        standing = _standing(db, correction)
        outcomes = db.scalars(
            select(Outcome).where(Outcome.correction_id == standing.id).order_by(Outcome.version)
        ).all()
        live = champion_version(db, correction.model)
        trained = _trained_versions(db, standing)
        queue = None
        if correction.status is CorrectionStatus.accepted:
            queue = waiting(db, model) | {"of_its_category": _waiting_of(db, category)}
        prediction = _prediction(db, correction)
        relabelled = _reviewers_labels(db, [correction]).get(correction.id)
    missing = missing_images(category, model)
    tried = {outcome.version: outcome for outcome in outcomes}
    now = tried.get(live) if live is not None else None
    # What a run had when a reviewer decided is in the dataset, and leaves it like something taken back.
    reviewed_first = correction.withdrawn_at is None or correction.dataset_version is not None
    if correction.review is not None and reviewed_first:
        said = _reviewed_sentence(correction, standing, category, missing, trained, now, live, relabelled)
    elif standing is correction:
        said = sentence(correction, category, missing, trained, now, queue, live)
    else:
        said = duplicate_sentence(standing, category, missing, trained, now)
    if prediction is not None and prediction["label"].casefold() == correction.label.casefold():
        said = said.replace("Now right:", "Still right:", 1)
    if prediction is not None and now is not None and prediction["label"].casefold() != now.label.casefold():
        said = said.replace(" still says ", " says ", 1)
    return {
        **as_json(correction),
        "dataset_version": standing.dataset_version,
        "sentence": said,
        "category": {
            "id": category.id,
            "name": category.name,
            "state": category.state,
            "train_images": category.train_images,
            "missing": missing,
        },
        "split": _split(standing),
        "trained_versions": trained,
        "live": None if now is None else _outcome(now),
        "history": [_outcome(outcome) for outcome in outcomes],
        "prediction": prediction,
        "waiting": queue,
    }


def list_corrections(
    *,
    limit: int,
    before: UUID | None = None,
    model: str | None = None,
    status: CorrectionStatus | None = None,
    actor: str | None = None,
    sources: Sequence[str] | None = None,
    reason: str | None = None,
    label: str | None = None,
    reviewed: bool | None = None,
) -> list[dict[str, Any]]:
    """Newest first; with `reviewed`, the newest decision first. before: the last id of the page already seen.

    reason: how it begins.
    """
    query = select(Correction).limit(limit)
    if reviewed:
        query = query.where(Correction.reviewed_at.is_not(None))
        query = query.order_by(Correction.reviewed_at.desc(), Correction.id.desc())
        if before is not None:
            last = select(Correction.reviewed_at, Correction.id).where(Correction.id == before)
            query = query.where(tuple_(Correction.reviewed_at, Correction.id) < last.scalar_subquery())
    else:
        query = query.order_by(Correction.id.desc())
        if reviewed is False:
            query = query.where(Correction.reviewed_at.is_(None))
        if before is not None:
            query = query.where(Correction.id < before)
    if model is not None:
        query = query.where(Correction.model == model)
    if status is not None:
        query = query.where(Correction.status == status)
    if actor is not None:
        query = query.where(Correction.actor == actor)
    if sources:
        query = query.where(Correction.source.in_(sources))
    if reason is not None:
        query = query.where(Correction.reason.startswith(reason, autoescape=True))
    if label is not None:
        query = query.where(Correction.label == label)
    with session() as db:
        found = db.scalars(query).all()
        labels, live = _reviewers_labels(db, found), _live_outcomes(db, found)
    return [
        {**as_json(each), "reviewed_as": labels.get(each.id), "live": live.get(each.id)} for each in found
    ]


def _live_outcomes(db: Session, corrections: Sequence[Correction]) -> dict[UUID, dict[str, Any]]:
    """What the live version says of those of them that it was asked about."""
    kept = [each.id for each in corrections if each.status in IN_DATASET]
    lives = {name: champion_version(db, name) for name in {each.model for each in corrections}}
    query = select(Outcome).where(
        Outcome.correction_id.in_(kept), tuple_(Outcome.model, Outcome.version).in_(list(lives.items()))
    )
    return {outcome.correction_id: _outcome(outcome) for outcome in db.scalars(query)}


def _reviewers_labels(db: Session, corrections: Sequence[Correction]) -> dict[UUID | None, str]:
    """What those of them that a reviewer let in were let in as."""
    decided = [each.id for each in corrections if each.review in (Review.accept, Review.relabel)]
    if not decided:
        return {}
    query = select(Correction.review_of, Correction.label).where(Correction.review_of.in_(decided))
    return {row.review_of: row.label for row in db.execute(query)}


def as_json(correction: Correction) -> dict[str, Any]:
    return {
        "correction_id": str(correction.id),
        "model": correction.model,
        "image_sha256": correction.image_sha256,
        "label": correction.label,
        "source": correction.source,
        "status": correction.status,
        # Of one taken back it would be why it had been set aside before.
        "reason": None if correction.status is CorrectionStatus.withdrawn else correction.reason,
        "dataset_version": correction.dataset_version,
        "prediction_id": None if correction.prediction_id is None else str(correction.prediction_id),
        "received_at": correction.received_at.isoformat(timespec="milliseconds"),
        "withdrawn_at": _moment(correction.withdrawn_at),
        "reviewed_at": _moment(correction.reviewed_at),
        "reviewed_by": correction.reviewed_by,
        "review": correction.review,
        "receipt": f"/corrections/{correction.id}",
        "image": f"/corrections/{correction.id}/image",
    }


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")


def sentence(
    correction: Correction,
    category: Category,
    missing: int,
    trained: Sequence[int],
    live: Outcome | None,
    queue: dict[str, int | None] | None,
    champion: int | None = None,
) -> str:
    """What became of it, for the person who said it."""
    if correction.leaving:
        return (
            f"Taken back: it is in dataset version {correction.dataset_version} until the next run, "
            "which takes it out."
        )
    match correction.status:
        case CorrectionStatus.withdrawn:
            return _withdrawn_sentence(correction, trained, champion)
        case CorrectionStatus.accepted:
            words = _missing_words(category, missing, waiting=(queue or {}).get("of_its_category"))
            return f"Received: it waits for the next run{_queue_words(queue)}.{words}"
        case CorrectionStatus.quarantined:
            reason = (correction.reason or "no reason was recorded").removeprefix("conflict: ")
            return f"Set aside for a person to look at, and not trained on: {reason.rstrip('.')}."
        case CorrectionStatus.superseded:
            reason = correction.reason or "another correction says the same, or a later one says otherwise"
            return f"Not used by itself: {reason.rstrip('.')}."
        case CorrectionStatus.exam:
            return _exam_sentence(live)
        case CorrectionStatus.merged:
            if _is_kept_out(correction):
                return (
                    f"In dataset version {correction.dataset_version}, but no version is trained on it: it is nearly "
                    "the same as an exam question."
                )
            if missing:
                return f"In dataset version {correction.dataset_version}.{_missing_words(category, missing)}"
            if not trained:
                return f"In dataset version {correction.dataset_version}: the next version will be trained on it."
            return _learned_sentence(trained[0], live)


def duplicate_sentence(
    standing: Correction, category: Category, missing: int, trained: Sequence[int], live: Outcome | None
) -> str:
    """For somebody who said what `standing` had said of the image."""
    if standing.leaving:
        return (
            f"The image is in dataset version {standing.dataset_version} with this label until the next run: the "
            "correction that put it there was taken back."
        )
    known = f"The image is in dataset version {standing.dataset_version} already, with this label."
    if standing.status is CorrectionStatus.merged and (missing or not trained):
        return known + (_missing_words(category, missing) or " The next version will be trained on it.")
    return f"{known} {sentence(standing, category, missing, trained, live, None)}"


def _reviewed_sentence(
    correction: Correction,
    standing: Correction,
    category: Category,
    missing: int,
    trained: Sequence[int],
    live: Outcome | None,
    champion: int | None,
    relabelled: str | None,
) -> str:
    """standing: what was let in instead, if its label is the same. relabelled: as what it was let in."""
    another = "gave the image another label" + (f", {relabelled}" if relabelled else "")
    looked, refused = "A person looked at it", correction.review is Review.reject
    if correction.leaving and refused:
        return "A reviewer refused it; it leaves with the next run."
    if correction.leaving:
        return f"{looked} and {another}; this one leaves with the next run."
    if refused or standing is correction:
        did = "left it out for good" if refused else another
        if correction.withdrawn_dataset_version is None:
            return f"{looked} and {did}."
        return f"{looked} and {did}. {'It' if refused else 'This one'} {_gone_words(correction, trained, champion)}"
    return f"{looked} and agreed. {sentence(standing, category, missing, trained, live, None)}"


_SPLITS = {CorrectionStatus.merged: LEARNED, CorrectionStatus.exam: EXAM_QUESTION}


def _split(standing: Correction) -> str | None:
    return None if _is_kept_out(standing) else _SPLITS.get(standing.status)


def _queue_words(queue: dict[str, int | None] | None) -> str:
    if queue is None:
        return ""
    missing, count = queue["missing_for_a_run"], queue["corrections"]
    wait = "waits" if count == 1 else "wait"
    if missing:
        return f", which needs {missing} more correction{'' if missing == 1 else 's'} ({count} {wait} so far)"
    return f" ({count} correction{'' if count == 1 else 's'} {wait})"


def _missing_words(category: Category, missing: int, waiting: int | None = None) -> str:
    if category.state is CategoryState.retired:
        return f" The category {category.name} is retired: nothing is trained on it."
    if not missing:
        return ""
    images = "image" if missing == 1 else "images"
    needs = f"it needs {missing} more training {images} before it can be learned"
    wait = "" if not waiting else f"; {waiting} {'waits' if waiting == 1 else 'wait'} already"
    return f" The category {category.name} is new: {needs}{wait}."


def _withdrawn_sentence(correction: Correction, trained: Sequence[int], champion: int | None) -> str:
    """trained: the versions that were trained on it. champion: the live version."""
    if correction.withdrawn_dataset_version is None:
        return "Taken back: nothing was trained on it."
    return f"Taken back: it {_gone_words(correction, trained, champion)}"


def _gone_words(correction: Correction, trained: Sequence[int], champion: int | None) -> str:
    """Goes on after "it"."""
    said = f"is in no dataset version from {correction.withdrawn_dataset_version} on."
    if champion in trained:
        return f"{said} Version {champion}, which is live, was trained on it before."
    return said


def _exam_sentence(live: Outcome | None) -> str:
    if live is None:
        return "Kept as an exam question: no version is ever trained on it."
    if live.correct:
        return f"Now right: version {live.version} gets it right. It is an exam question: no version is trained on it."
    return (
        f"Kept as an exam question, which no version is trained on: version {live.version} says {live.label}."
    )


def _learned_sentence(first: int, live: Outcome | None) -> str:
    """first: the first version that was trained on it."""
    if live is None:
        return f"Learned: version {first} was trained on it."
    if not live.correct and live.version == first:
        return f"Version {first}, now live, was trained on it and still says {live.label}."
    if not live.correct:
        return f"Learned by version {first}, but version {live.version}, now live, says {live.label}."
    if live.version == first:
        return f"Now right: version {first} was trained on it and gets it right."
    return f"Now right: version {live.version} gets it right; version {first} was the first trained on it."


def _standing(db: Session, correction: Correction) -> Correction:
    """The correction whose row of the dataset says the same of the image; itself unless it was a duplicate, or a
    reviewer let another in for it."""
    if correction.review in (Review.accept, Review.relabel) and correction.withdrawn_at is None:
        let_in = db.scalar(
            select(Correction).where(
                Correction.review_of == correction.id, Correction.category_id == correction.category_id
            )
        )
        return correction if let_in is None else _standing(db, let_in)
    if correction.status is not CorrectionStatus.superseded:
        return correction
    query = (
        select(Correction)
        .where(
            Correction.model == correction.model,
            Correction.image_sha256 == correction.image_sha256,
            Correction.category_id == correction.category_id,
            Correction.status.in_(_SPLITS),
        )
        .order_by(Correction.id.desc())
        .limit(1)
    )
    return db.scalar(query) or correction


def _trained_versions(db: Session, correction: Correction) -> list[int]:
    """Those whose data had it and that can answer its category."""
    if correction.dataset_version is None or not _was_trained_on(correction):
        return []
    query = (
        select(Version.version)
        .where(
            Version.model == correction.model,
            Version.dataset_version >= correction.dataset_version,
            Version.category_ids.contains([correction.category_id]),
        )
        .order_by(Version.version)
    )
    if correction.withdrawn_dataset_version is not None:
        query = query.where(Version.dataset_version < correction.withdrawn_dataset_version)
    return list(db.scalars(query))


def _was_trained_on(correction: Correction) -> bool:
    """Not an exam question. Withdrawn, its status does not say what it was; its hash does, unless a reason does."""
    if correction.status is CorrectionStatus.withdrawn:
        return correction.reason is None and split_of(correction.image_sha256) == "train"
    return correction.status is CorrectionStatus.merged and not _is_kept_out(correction)


def _is_kept_out(correction: Correction) -> bool:
    """In the dataset, and not trained on: the exam has nearly the same image."""
    return (correction.reason or "").startswith(NEAR_DUPLICATE)


def _prediction(db: Session, correction: Correction) -> dict[str, Any] | None:
    """None when it said none, when there never was one, or when history no longer goes back so far."""
    if correction.prediction_id is None:
        return None
    query = select(Prediction.id, Prediction.label, Prediction.version).where(
        Prediction.id == correction.prediction_id
    )
    found = db.execute(query).first()
    return None if found is None else {"id": str(found.id), "label": found.label, "version": found.version}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {"version": outcome.version, "label": outcome.label, "correct": outcome.correct}
