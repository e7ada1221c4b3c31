"""Keeping a correction: its image on disk and its row committed, both or neither.

With an object store the image is there first, before anything else; on disk too where the pipeline's disk is this one.

The files are written inside the transaction, before its commit: while the database is away none is written,
and when a commit is refused what was new is removed. Only a process killed between the two, or a database that
dies in the very moment of the commit, can leave a file without a row: that is no loss, since rows decide what
a run takes. A row without its file cannot come about.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.errors import TooMany
from api.history import find, is_id, new_id, time_of
from core import categories, objects, pictures
from core.database import Category, Correction, CorrectionStatus, Prediction, session
from core.errors import EmendError, IdempotencyMismatch
from core.images import Decoded, encode_png
from core.pictures import inbox_path, original_path
from core.storage import write_durably

MOST_WAITING_PER_ACTOR = 5_000

# One image is dealt with by one thread at a time: else one could remove the file that the other relies on.
_IMAGE_LOCKS = [threading.Lock() for _ in range(64)]


@dataclass(frozen=True)
class Statement:
    """An actor says: this image is a <label>. label: normalised. request_sha256: of what was sent, see `digest`."""

    model: str
    image: Decoded
    label: str
    actor: str
    source: str
    prediction_id: UUID | None
    idempotency_key: str | None
    request_sha256: str


class Predicted(NamedTuple):
    """version: None when a stock model server answered."""

    label: str
    version: int | None


@dataclass(frozen=True)
class Kept:
    """replayed: it was kept before. predicted: what the prediction it speaks of was, if that is written."""

    correction: Correction
    category: Category
    replayed: bool
    predicted: Predicted | None


def digest(model: str, image: bytes, label: str, prediction_id: UUID | None, source: str) -> str:
    """Of the request's meaning, so that two spellings of the same JSON are the same request."""
    parts = [model, hashlib.sha256(image).hexdigest(), label, str(prediction_id), source]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def keep(statement: Statement, data_dir: Path) -> Kept:
    """Returns when image and row would survive a power cut.

    Raises IdempotencyMismatch, InvalidLabel, Conflict, TooMany, Unavailable (also of the store), DiskFull; nothing is
    kept then.
    """
    if objects.store() is not None:
        earlier = _kept_before(statement)
        if earlier is not None:  # a double click sends nothing again
            return earlier
        _send(statement)  # outside the transaction: while the store hangs no connection hangs with it
    with images_locked([statement.image.sha256]):
        for attempt in range(3):
            try:
                return _keep(statement, data_dir)
            except (IntegrityError, FileNotFoundError):
                # Somebody was first with the same key or the same new category, and now can be seen; or a run's
                # cleanup removed the category's folder, then empty, between its making and the writing.
                if attempt == 2:
                    raise
    raise AssertionError("unreachable")


@contextmanager
def images_locked(names: Iterable[str]) -> Iterator[None]:
    """For this process's other threads; always in one order, so that two who want several do not block each other."""
    wanted = sorted({int(name[:8], 16) % len(_IMAGE_LOCKS) for name in names})
    with ExitStack() as held:
        for number in wanted:
            held.enter_context(_IMAGE_LOCKS[number])
        yield


def stored_image(correction: Correction, data_dir: Path) -> bytes | None:
    """Where it is by now: waiting, set aside, in a dataset version, or in the history of its prediction."""
    return pictures.stored(correction, data_dir) or image_in_history(correction)


def image_in_history(correction: Correction) -> bytes | None:
    if correction.prediction_id is None:
        return None
    row = find(correction.prediction_id, Prediction.pixels, Prediction.image_sha256)
    return bytes(row.pixels) if row is not None and row.image_sha256 == correction.image_sha256 else None


def _kept_before(statement: Statement) -> Kept | None:
    with session() as db:
        earlier = _earlier(db, statement)
        return None if earlier is None else Kept(earlier, _category_of(db, earlier), True, None)


def _send(statement: Statement) -> None:
    image = statement.image
    original = None if image.original is None else encode_png(image.original)
    pictures.send(statement.model, image.sha256, encode_png(image.pixels), original)


def _keep(statement: Statement, data_dir: Path) -> Kept:
    new_files: list[Path] = []
    row_sent = False
    try:
        with session() as db:
            earlier = _earlier(db, statement)
            if earlier is not None:
                return Kept(earlier, _category_of(db, earlier), True, None)
            _check_cap(db, statement)
            category = categories.find_or_add(db, statement.model, statement.label)
            files = _files(statement, category, data_dir)
            new_files = [path for path, _ in files if not path.exists()]
            for path, data in files:  # also those that are there: a run's cleanup may be about to remove them
                write_durably(path, data)
            correction = _row(statement, category)
            db.add(correction)
            predicted = _predicted(db, statement)
            db.flush()
            row_sent = True
        return Kept(correction, category, False, predicted)
    except BaseException:
        if not row_sent:
            remove_unless_needed(statement.model, statement.image.sha256, new_files)
        raise


def _earlier(db: Session, statement: Statement) -> Correction | None:
    """The same request, kept before. Raises IdempotencyMismatch."""
    query = select(Correction).where(Correction.actor == statement.actor)
    if statement.idempotency_key is not None:
        found = db.scalar(query.where(Correction.idempotency_key == statement.idempotency_key))
        if found is not None and found.request_sha256 != statement.request_sha256:
            raise IdempotencyMismatch(
                f"this Idempotency-Key was used for correction {found.id}, with another body; use a new one",
                field="Idempotency-Key",
            )
        return found
    # Without a key: the same image and label again, while the first waits, is a double click.
    said = query.where(
        Correction.model == statement.model,
        Correction.image_sha256 == statement.image.sha256,
        Correction.status == CorrectionStatus.accepted,
    )
    latest = db.scalar(said.order_by(Correction.received_at.desc(), Correction.id.desc()).limit(1))
    if latest is None or not categories.means(_category_of(db, latest), statement.label):
        return None
    return latest


def _check_cap(db: Session, statement: Statement) -> None:
    waiting = db.scalar(
        select(func.count()).where(
            Correction.model == statement.model,
            Correction.actor == statement.actor,
            Correction.status == CorrectionStatus.accepted,
        )
    )
    if (waiting or 0) >= MOST_WAITING_PER_ACTOR:
        raise TooMany(f"{waiting} of your corrections wait for a run already; try again after the next one")


def _files(statement: Statement, category: Category, data_dir: Path) -> Sequence[tuple[Path, bytes]]:
    image = statement.image
    if not pictures.waits_on_disk(data_dir, statement.model):
        return []
    files = [
        (inbox_path(data_dir, statement.model, category.name, image.sha256), encode_png(image.pixels)),
    ]
    if image.original is not None:
        files.append((original_path(data_dir, statement.model, image.sha256), encode_png(image.original)))
    return files


def _row(statement: Statement, category: Category) -> Correction:
    return Correction(
        id=new_id(),
        model=statement.model,
        image_sha256=statement.image.sha256,
        category_id=category.id,
        label=category.name,
        actor=statement.actor,
        source=statement.source,
        prediction_id=statement.prediction_id,
        idempotency_key=statement.idempotency_key,
        request_sha256=statement.request_sha256,
        status=CorrectionStatus.accepted,
    )


def _predicted(db: Session, statement: Statement) -> Predicted | None:
    if statement.prediction_id is None or not is_id(statement.prediction_id):
        return None
    found = db.execute(
        select(Prediction.label, Prediction.version).where(
            Prediction.id == statement.prediction_id,
            Prediction.created_at == time_of(statement.prediction_id),
            Prediction.model == statement.model,
        )
    ).one_or_none()
    return None if found is None else Predicted(found.label, found.version)


def _category_of(db: Session, correction: Correction) -> Category:
    return db.get_one(Category, (correction.model, correction.category_id))


def remove_unless_needed(model: str, sha256: str, new_files: Sequence[Path]) -> None:
    """Another gateway on the same disk may have kept the same image meanwhile; in doubt the file stays."""
    if not any(path.exists() for path in new_files):
        return
    try:
        with session() as db:
            needed = db.scalar(
                select(Correction.id)
                .where(Correction.model == model, Correction.image_sha256 == sha256)
                .where(Correction.status == CorrectionStatus.accepted)
                .limit(1)
            )
    except EmendError:
        return
    if needed is None:
        for path in new_files:
            path.unlink(missing_ok=True)
