"""What a receipt says, state by state."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from core.database import Category, CategoryState, Correction, CorrectionStatus, Outcome, engine
from core.images import NEAR_DUPLICATE
from core.receipts import duplicate_sentence, receipt, sentence
from tests.support import tiny_model
from tests.support.gateway import add_model

CAT = Category(name="cat", state=CategoryState.active, train_images=100)
UNICORN = Category(name="unicorn", state=CategoryState.pending, train_images=13)


def correction(status: CorrectionStatus, reason: str | None = None) -> Correction:
    return Correction(id=uuid4(), status=status, reason=reason, dataset_version=3)


def live(version: int, label: str) -> Outcome:
    return Outcome(version=version, label=label, correct=label == "cat")


def queue(count: int, missing: int) -> dict[str, int | None]:
    return {
        "corrections": count,
        "missing_for_a_run": missing,
        "missing_for_the_trigger": None,
        "of_its_category": 3,
    }


@pytest.mark.parametrize(
    ("status", "category", "missing", "trained", "now", "waiting", "said"),
    [
        (
            "accepted",
            CAT,
            0,
            [],
            None,
            queue(12, 0),
            "Received: it waits for the next run (12 corrections wait).",
        ),
        (
            "accepted",
            CAT,
            0,
            [],
            None,
            queue(1, 9),
            "Received: it waits for the next run, which needs 9 more corrections (1 waits so far).",
        ),
        (
            "accepted",
            UNICORN,
            7,
            [],
            None,
            queue(12, 0),
            "Received: it waits for the next run (12 corrections wait). The category unicorn is new: it needs "
            "7 more training images before it can be learned; 3 wait already.",
        ),
        (
            "merged",
            UNICORN,
            1,
            [],
            None,
            None,
            "In dataset version 3. The category unicorn is new: it needs 1 more training image before it can be "
            "learned.",
        ),
        ("merged", CAT, 0, [], None, None, "In dataset version 3: the next version will be trained on it."),
        ("merged", CAT, 0, [4, 5], None, None, "Learned: version 4 was trained on it."),
        (
            "merged",
            CAT,
            0,
            [4, 5],
            live(4, "cat"),
            None,
            "Now right: version 4 was trained on it and gets it right.",
        ),
        (
            "merged",
            CAT,
            0,
            [4, 5],
            live(5, "cat"),
            None,
            "Now right: version 5 gets it right; version 4 was the first trained on it.",
        ),
        (
            "merged",
            CAT,
            0,
            [4],
            live(3, "dog"),
            None,
            "Learned by version 4, but version 3, now live, says dog.",
        ),
        (
            "exam",
            CAT,
            0,
            [],
            live(4, "dog"),
            None,
            "Kept as an exam question, which no version is trained on: version 4 says dog.",
        ),
        (
            "exam",
            CAT,
            0,
            [],
            live(4, "cat"),
            None,
            "Now right: version 4 gets it right. It is an exam question: no version is trained on it.",
        ),
    ],
)
def test_a_receipt_says_what_became_of_it(
    status: str,
    category: Category,
    missing: int,
    trained: list[int],
    now: Outcome | None,
    waiting: dict[str, int | None] | None,
    said: str,
) -> None:
    assert sentence(correction(CorrectionStatus(status)), category, missing, trained, now, waiting) == said


def test_what_is_nearly_an_exam_question_is_not_said_to_be_trained_on() -> None:
    near = correction(CorrectionStatus.merged, f"{NEAR_DUPLICATE} 5f0e1c77aa60d1: kept out of training")
    assert sentence(near, CAT, 0, [], None, None) == (
        "In dataset version 3, but no version is trained on it: it is nearly the same as an exam question."
    )


def test_what_is_set_aside_says_why() -> None:
    aside = correction(CorrectionStatus.quarantined, "two people say different things")
    assert "two people say different things" in sentence(aside, CAT, 0, [], None, None)
    later = correction(CorrectionStatus.superseded, "relabelled later")
    assert sentence(later, CAT, 0, [], None, None) == "Not used by itself: relabelled later."


def test_who_says_the_same_as_what_was_taken_back_is_told_so() -> None:
    leaving = correction(CorrectionStatus.merged)
    leaving.withdrawn_at = datetime.now(UTC)
    assert duplicate_sentence(leaving, CAT, 0, [4], live(4, "cat")) == (
        "The image is in dataset version 3 with this label until the next run: the correction that put it there was "
        "taken back."
    )


def test_who_says_the_same_as_another_is_told_what_became_of_that() -> None:
    merged, exam = correction(CorrectionStatus.merged), correction(CorrectionStatus.exam)
    known = "The image is in dataset version 3 already, with this label. "
    assert duplicate_sentence(merged, CAT, 0, [], None) == f"{known}The next version will be trained on it."
    assert (
        duplicate_sentence(merged, UNICORN, 7, [], None)
        == f"{known}The category unicorn is new: it needs 7 more training images before it can be learned."
    )
    assert (
        duplicate_sentence(merged, CAT, 0, [4], live(4, "cat"))
        == f"{known}Now right: version 4 was trained on it and gets it right."
    )
    assert (
        duplicate_sentence(exam, CAT, 0, [], None)
        == f"{known}Kept as an exam question: no version is ever trained on it."
    )


@pytest.mark.usefixtures("emend_environment")
def test_a_duplicates_receipt_borrows_from_the_correction_that_stands() -> None:
    add_model(engine(), versions=(1, 3))

    def said(category_id: int, status: CorrectionStatus, actor: str) -> Correction:
        return Correction(
            id=uuid7(),
            model="doodles",
            image_sha256="0" * 64,
            category_id=category_id,
            label=tiny_model.CATEGORIES[category_id],
            actor=actor,
            request_sha256="0" * 64,
            status=status,
            reason="the image already has this label" if status is CorrectionStatus.superseded else None,
            dataset_version=2 if status is CorrectionStatus.merged else None,
        )

    first = said(0, CorrectionStatus.merged, "somebody")
    second = said(0, CorrectionStatus.superseded, "somebody else")
    other = said(1, CorrectionStatus.superseded, "somebody")
    name = first.label
    with Session(engine(), expire_on_commit=False) as db:
        db.add_all([first, second, other])
        db.flush()
        db.add(Outcome(correction_id=first.id, model="doodles", version=3, label=name, correct=True))
        db.commit()

    borrowed, alone = receipt(second.id), receipt(other.id)
    assert borrowed["correction_id"] == str(second.id)
    assert (borrowed["status"], borrowed["dataset_version"]) == ("superseded", 2)
    assert (borrowed["split"], borrowed["trained_versions"]) == ("learned", [3])
    assert borrowed["live"] == {"version": 3, "label": name, "correct": True}
    assert borrowed["sentence"] == (
        "The image is in dataset version 2 already, with this label. "
        "Now right: version 3 was trained on it and gets it right."
    )
    assert (alone["dataset_version"], alone["live"]) == (None, None)
    assert alone["sentence"] == "Not used by itself: the image already has this label."
