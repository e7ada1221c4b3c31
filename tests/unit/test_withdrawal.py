"""Taking corrections back: before a run, while one has them, and after."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from core import pictures, withdrawal
from core.database import (
    Correction,
    CorrectionStatus,
    Review,
    Run,
    RunStatus,
    Trigger,
    engine,
    session,
)
from core.images import encode_png, name_of, split_of
from core.receipts import receipt
from core.settings import settings
from pipeline import bookkeeping, dataset
from pipeline.workspace import create_home
from tests.support import tiny_model
from tests.support.gateway import add_model, params, promote

MODEL = "doodles"
CONFLICT = "conflict: another correction gave this image another label"


@pytest.fixture
def home(emend_environment: dict[str, str]) -> Path:
    add_model(engine(), MODEL, versions=())
    folder = settings().data_dir / MODEL
    given = {key: value for key, value in params().items() if key != "triggers"}
    create_home(folder, yaml.safe_dump({**given, "train": {"augmentation": "none"}, "gate": {}}))
    return folder


def picture(seed: int) -> NDArray[np.uint8]:
    """Learned, not an exam question."""
    found: NDArray[np.uint8] = tiny_model.images(1, seed=seed)[0]
    return found if split_of(name_of(found)) == "train" else picture(seed + 1000)


def said(pixels: NDArray[np.uint8], status: CorrectionStatus, actor: str = "ann", **more: Any) -> UUID:
    row = Correction(
        id=uuid7(),
        model=MODEL,
        image_sha256=name_of(pixels),
        category_id=0,
        label="cat",
        actor=actor,
        source="correction",
        request_sha256="0",
        status=status,
    )
    for name, value in more.items():
        setattr(row, name, value)
    with session() as db:
        db.add(row)
    return row.id


def shard(home: Path, version: int, pixels: Sequence[NDArray[np.uint8]]) -> None:
    """Only what is asked of it here: the pictures."""
    count = len(pixels)
    columns = {
        "sha256": [name_of(each) for each in pixels],
        "image": dataset.images_column([encode_png(each) for each in pixels]),
        "split": ["train"] * count,
        "source": ["correction"] * count,
        "labelled_at": [datetime.now(UTC)] * count,
    }
    path = dataset.shard_path(home, version)
    path.parent.mkdir(exist_ok=True)
    dataset.write_shard(path, dataset.rows_table(columns, count))


def take_back(*ids: UUID) -> withdrawal.Withdrawn:
    with session() as db:
        return withdrawal.withdraw(db, ids, settings().data_dir)


def status(correction_id: UUID) -> str:
    with session() as db:
        return db.get_one(Correction, correction_id).status.value


@pytest.mark.usefixtures("home")
def test_what_is_in_no_dataset_is_out_at_once() -> None:
    states = (CorrectionStatus.accepted, CorrectionStatus.quarantined, CorrectionStatus.superseded)
    ids = [said(picture(i), state) for i, state in enumerate(states)]
    assert take_back(*ids) == withdrawal.Withdrawn(3, 0)
    assert {status(each) for each in ids} == {"withdrawn"}
    assert receipt(ids[0])["sentence"] == "Taken back: nothing was trained on it."
    assert receipt(ids[0])["withdrawn_at"] is not None
    assert take_back(*ids) == withdrawal.Withdrawn(0, 0)


@pytest.mark.usefixtures("home")
def test_what_is_in_a_dataset_leaves_with_the_next_run() -> None:
    """One that was trained on, and one whose label was not the image's any more."""
    with Session(engine()) as db:
        promote(db, MODEL, 4, [0, 1, 2])
        db.commit()
    trained = said(picture(1), CorrectionStatus.merged, dataset_version=4)
    other = said(picture(2), CorrectionStatus.exam, dataset_version=4)
    assert take_back(trained, other) == withdrawal.Withdrawn(0, 2)
    assert (status(trained), status(other)) == ("merged", "exam")
    assert receipt(trained)["sentence"] == (
        "Taken back: it is in dataset version 4 until the next run, which takes it out."
    )
    run, manifest = snapshot()
    assert {c["id"]: c["withdrawn"] for c in manifest["corrections"]} == {
        str(trained): True,
        str(other): True,
    }
    record(run, manifest, {trained: "merged", other: "superseded"}, dataset_version=5)
    assert (status(trained), status(other)) == ("withdrawn", "withdrawn")
    assert receipt(trained)["sentence"] == (
        "Taken back: it is in no dataset version from 5 on. Version 4, which is live, was trained on it before."
    )
    assert receipt(trained)["trained_versions"] == [4]
    with session() as db:
        assert db.get_one(Correction, trained).dataset_version == 4  # where its picture is
        assert bookkeeping._untrained_withdrawals(db, MODEL) == 1  # until a version is trained without it
        promote(db, MODEL, 5, [0, 1, 2])
        assert bookkeeping._untrained_withdrawals(db, MODEL) == 0
    assert receipt(trained)["sentence"] == "Taken back: it is in no dataset version from 5 on."
    assert receipt(trained)["trained_versions"] == [4]
    assert snapshot()[1]["corrections"] == []


@pytest.mark.usefixtures("home")
def test_taken_back_while_a_run_has_it_leaves_with_the_next() -> None:
    waiting, refused = (said(picture(i), CorrectionStatus.accepted) for i in (1, 2))
    run, manifest = snapshot()
    take_back(waiting)
    with session() as db:
        row = db.get_one(Correction, refused)
        row.status, row.review, row.reviewed_at = (
            CorrectionStatus.quarantined,
            Review.reject,
            datetime.now(UTC),
        )
    assert status(waiting) == "withdrawn"
    record(run, manifest, {waiting: "merged", refused: "merged"}, dataset_version=1)
    assert (status(waiting), status(refused)) == ("merged", "merged")
    assert "until the next run" in receipt(waiting)["sentence"]
    assert receipt(refused)["sentence"] == "A reviewer refused it; it leaves with the next run."
    assert receipt(refused)["withdrawn_at"] is not None
    run, manifest = snapshot()
    assert {c["id"] for c in manifest["corrections"] if c["withdrawn"]} == {str(waiting), str(refused)}
    record(run, manifest, {waiting: "merged", refused: "merged"}, dataset_version=2)
    assert (status(waiting), status(refused)) == ("withdrawn", "withdrawn")
    assert receipt(waiting)["sentence"] == "Taken back: it is in no dataset version from 2 on."
    assert receipt(refused)["sentence"] == (
        "A person looked at it and left it out for good. It is in no dataset version from 2 on."
    )


@pytest.mark.usefixtures("home")
def test_what_a_reviewer_relabelled_while_a_run_had_it_is_not_told_as_taken_back() -> None:
    relabelled = said(picture(1), CorrectionStatus.accepted)
    run, manifest = snapshot()
    with session() as db:
        row = db.get_one(Correction, relabelled)
        row.status, row.review, row.reviewed_at = (
            CorrectionStatus.superseded,
            Review.relabel,
            datetime.now(UTC),
        )
    record(run, manifest, {relabelled: "merged"}, dataset_version=1)
    assert receipt(relabelled)["sentence"] == (
        "A person looked at it and gave the image another label; this one leaves with the next run."
    )
    run, manifest = snapshot()
    record(run, manifest, {relabelled: "merged"}, dataset_version=2)
    assert receipt(relabelled)["sentence"] == (
        "A person looked at it and gave the image another label. This one is in no dataset version from 2 on."
    )


@pytest.mark.usefixtures("home")
def test_who_takes_back_what_a_reviewer_refused_is_told_so() -> None:
    refused = said(
        picture(1), CorrectionStatus.quarantined, review=Review.reject, reviewed_at=datetime.now(UTC)
    )
    assert receipt(refused)["sentence"] == "A person looked at it and left it out for good."
    take_back(refused)
    assert receipt(refused)["sentence"] == "Taken back: nothing was trained on it."


def test_what_others_said_too_waits_again(home: Path) -> None:
    pixels = picture(1)
    shard(home, 3, [pixels])
    first = said(pixels, CorrectionStatus.merged, "ann", dataset_version=3)
    same = said(pixels, CorrectionStatus.superseded, "bob", reason="the image already has this label")
    own = said(pixels, CorrectionStatus.superseded, "ann", reason="the image already has this label")
    changed = said(pixels, CorrectionStatus.superseded, "cid")
    said(pixels, CorrectionStatus.quarantined, "cid", category_id=1, label="dog")
    gone = said(pixels, CorrectionStatus.superseded, "dan")
    take_back(gone)
    take_back(first)
    assert [status(each) for each in (same, own, changed, gone)] == [
        "accepted",
        "superseded",
        "superseded",
        "withdrawn",
    ]
    waiting = pictures.inbox_path(settings().data_dir, MODEL, "cat", name_of(pixels))
    assert pictures.is_picture(waiting.read_bytes(), name_of(pixels))
    run, manifest = snapshot()
    record(run, manifest, {first: "merged", same: "merged"}, dataset_version=4)
    assert (status(first), status(same)) == ("withdrawn", "merged")
    with session() as db:  # and its file may go, however long ago it had been received
        found = bookkeeping.before("cleanup", db, db.get_one(Run, run), manifest, None)
    assert f"inbox/cat/{name_of(pixels)}.png" in found["settled_files"]


def test_what_others_said_too_waits_again_when_a_run_had_both(home: Path) -> None:
    """Ann takes hers back after the snapshot: of what merge then says Bob's was a duplicate."""
    pixels = picture(1)
    ann, bob = (said(pixels, CorrectionStatus.accepted, actor) for actor in ("ann", "bob"))
    run, manifest = snapshot()
    take_back(ann)
    shard(home, 1, [pixels])
    record(run, manifest, {ann: "merged", bob: "duplicate"}, dataset_version=1)
    assert (status(ann), status(bob)) == ("merged", "superseded")
    assert in_manifest() == {ann: True, bob: False}
    assert status(bob) == "accepted"
    waiting = pictures.inbox_path(settings().data_dir, MODEL, "cat", name_of(pixels))
    assert pictures.is_picture(waiting.read_bytes(), name_of(pixels))
    assert in_manifest() == {ann: True, bob: False}  # also when that run stopped before its merge


def test_what_others_said_too_waits_again_when_a_run_had_only_theirs(home: Path) -> None:
    """Ann's is in the dataset, and goes while a run has Bob's: he waits still, so she cannot bring him back."""
    pixels = picture(1)
    shard(home, 1, [pixels])
    ann = said(pixels, CorrectionStatus.merged, "ann", dataset_version=1)
    bob = said(pixels, CorrectionStatus.accepted, "bob")
    own = said(pixels, CorrectionStatus.superseded, "ann")
    other = said(pixels, CorrectionStatus.superseded, "cid", category_id=1, label="dog")
    run, manifest = snapshot()
    take_back(ann)
    assert status(bob) == "accepted"
    record(run, manifest, {bob: "duplicate"}, dataset_version=1)
    assert status(bob) == "superseded"
    assert in_manifest() == {ann: True, bob: False}
    assert (status(own), status(other)) == ("superseded", "superseded")


def test_what_others_said_too_does_not_come_back_for_what_a_reviewer_refused(home: Path) -> None:
    pixels = picture(1)
    ann, bob = (said(pixels, CorrectionStatus.accepted, actor) for actor in ("ann", "bob"))
    run, manifest = snapshot()
    with session() as db:
        row = db.get_one(Correction, ann)
        row.status, row.review, row.reviewed_at = (
            CorrectionStatus.quarantined,
            Review.reject,
            datetime.now(UTC),
        )
    shard(home, 1, [pixels])
    record(run, manifest, {ann: "merged", bob: "duplicate"}, dataset_version=1)
    assert in_manifest() == {ann: True}
    assert status(bob) == "superseded"


@pytest.mark.usefixtures("home")
def test_a_conflict_is_none_any_more_when_one_side_goes() -> None:
    pixels = picture(1)
    aside = pictures.inbox_path(settings().data_dir, MODEL, "cat", name_of(pixels))
    aside.parent.mkdir(parents=True)
    aside.write_bytes(encode_png(pixels))
    conflict = {"reason": CONFLICT}
    dog = {"category_id": 1, "label": "dog"}
    ann = said(pixels, CorrectionStatus.quarantined, "ann", **conflict)
    bob = said(pixels, CorrectionStatus.quarantined, "bob", **conflict, **dog)
    said(pixels, CorrectionStatus.superseded, "bob", **dog)  # he said it twice
    refused = said(
        pixels,
        CorrectionStatus.quarantined,
        "cid",
        review=Review.reject,
        reviewed_at=datetime.now(UTC),
        **conflict,
    )
    unreadable = said(pixels, CorrectionStatus.quarantined, "dan", reason="cannot be read")
    duplicate = said(pixels, CorrectionStatus.superseded, "eve")
    take_back(duplicate)
    assert status(bob) == "quarantined"  # that one had no part in it
    assert take_back(ann) == withdrawal.Withdrawn(1, 0)
    assert [status(each) for each in (ann, bob, refused, unreadable)] == [
        "withdrawn",
        "accepted",
        "quarantined",
        "quarantined",
    ]
    waiting = pictures.inbox_path(settings().data_dir, MODEL, "dog", name_of(pixels))
    assert pictures.is_picture(waiting.read_bytes(), name_of(pixels))
    assert in_manifest() == {bob: False}
    assert receipt(bob)["sentence"].startswith("Received: it waits for the next run")
    told = receipt(ann)
    assert (told["sentence"], told["reason"]) == ("Taken back: nothing was trained on it.", None)


def test_a_conflict_with_the_dataset_is_none_any_more_when_that_label_goes(home: Path) -> None:
    pixels = picture(1)
    shard(home, 1, [pixels])
    ann = said(pixels, CorrectionStatus.merged, "ann", dataset_version=1)
    bob = said(pixels, CorrectionStatus.quarantined, "bob", category_id=1, label="dog", reason=CONFLICT)
    take_back(ann)
    assert in_manifest() == {ann: True, bob: False}


@pytest.mark.usefixtures("home")
def test_a_conflict_that_a_run_finds_after_one_side_went_is_none() -> None:
    pixels = picture(1)
    ann = said(pixels, CorrectionStatus.accepted, "ann")
    bob = said(pixels, CorrectionStatus.accepted, "bob", category_id=1, label="dog")
    waiting = pictures.inbox_path(settings().data_dir, MODEL, "cat", name_of(pixels))
    waiting.parent.mkdir(parents=True)
    waiting.write_bytes(encode_png(pixels))
    run, manifest = snapshot()
    take_back(ann)
    record(run, manifest, {ann: "quarantined", bob: "quarantined"}, dataset_version=1)
    assert (status(ann), status(bob)) == ("withdrawn", "accepted")
    assert in_manifest() == {bob: False}


@pytest.mark.usefixtures("home")
def test_what_a_reviewer_accepted_goes_with_it() -> None:
    aside = said(
        picture(1), CorrectionStatus.quarantined, review=Review.accept, reviewed_at=datetime.now(UTC)
    )
    accepted = said(picture(1), CorrectionStatus.accepted, "reviewer", source="review", review_of=aside)
    other = said(
        picture(2), CorrectionStatus.quarantined, review=Review.relabel, reviewed_at=datetime.now(UTC)
    )
    relabelled = said(picture(2), CorrectionStatus.accepted, "reviewer", source="review", review_of=other)
    take_back(aside, other)
    assert [status(each) for each in (aside, accepted, other, relabelled)] == [
        "withdrawn",
        "withdrawn",
        "withdrawn",
        "accepted",
    ]


def test_what_an_accepted_review_overruled_waits_again_without_it(home: Path) -> None:
    pixels = picture(1)
    ann = said(pixels, CorrectionStatus.superseded, "ann", reason="a reviewer gave another label")
    cid = said(pixels, CorrectionStatus.superseded, "cid", category_id=1, label="dog")
    dog = {"category_id": 1, "label": "dog"}
    looked = {"review": Review.accept, "reviewed_at": datetime.now(UTC)}
    bob = said(pixels, CorrectionStatus.quarantined, "bob", **dog, **looked)
    shard(home, 4, [pixels])
    review = said(
        pixels,
        CorrectionStatus.merged,
        "reviewer",
        source="review",
        review_of=bob,
        dataset_version=4,
        **dog,
    )
    take_back(bob)
    assert [status(each) for each in (bob, review, ann, cid)] == [
        "withdrawn",
        "merged",
        "accepted",
        "accepted",
    ]
    waiting = pictures.inbox_path(settings().data_dir, MODEL, "cat", name_of(pixels))
    assert pictures.is_picture(waiting.read_bytes(), name_of(pixels))
    assert in_manifest() == {review: True, ann: False, cid: False}


@pytest.mark.usefixtures("home")
def test_all_samples_of_a_model_at_once() -> None:
    add_model(engine(), "photos", versions=())
    waiting = said(picture(1), CorrectionStatus.accepted, source="sample")
    merged = said(picture(2), CorrectionStatus.merged, source="sample", dataset_version=1)
    real = said(picture(3), CorrectionStatus.accepted)
    elsewhere = said(picture(4), CorrectionStatus.accepted, source="sample", model="photos")
    with session() as db:
        done = withdrawal.withdraw_samples(db, MODEL, settings().data_dir)
    assert done == withdrawal.Withdrawn(1, 1)
    assert [status(each) for each in (waiting, merged, real, elsewhere)] == [
        "withdrawn",
        "merged",
        "accepted",
        "accepted",
    ]


def snapshot() -> tuple[int, dict[str, Any]]:
    """As the orchestrator begins a run."""
    with session() as db:
        run = Run(model=MODEL, trigger=Trigger.manual, requested_by="test", status=RunStatus.running)
        db.add(run)
        db.flush()
        manifest = bookkeeping.before("ingest", db, run, {}, None)
        run.status = RunStatus.succeeded
        return run.id, manifest


def in_manifest() -> dict[UUID, bool]:
    """What the next run has, and whether it is to take it out."""
    return {UUID(each["id"]): each["withdrawn"] for each in snapshot()[1]["corrections"]}


def record(run: int, manifest: dict[str, Any], merged: dict[UUID, str], dataset_version: int) -> None:
    """As it records what merge and version did."""
    results = {
        "merge": {
            "corrections": [
                {
                    "id": str(each),
                    "outcome": outcome,
                    "reason": CONFLICT if outcome == "quarantined" else None,
                }
                for each, outcome in merged.items()
            ],
            "new_images": 1,
            "categories": [],
        },
        "convert": {"quarantined": []},
        "version": {"dataset_version": dataset_version},
    }
    with session() as db:
        for stage in ("merge", "version"):
            bookkeeping.after(stage, db, db.get_one(Run, run), manifest, results)
