"""The history of predictions: written in batches off the request's path, read page by page.

A recorded prediction waits in a bounded buffer until a thread of its own has written it; while the database
is away it stays there, and the oldest go first when the buffer is full. Writing is repeatable (an id already
there is left alone), so a commit whose answer got lost costs nothing.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

import orjson
from psycopg2 import Binary
from sqlalchemy import ColumnElement, select, text
from sqlalchemy.dialects import postgresql
from uuid_utils.compat import uuid7

from api import metrics
from core import partitions, telemetry
from core.database import Correction, Prediction, session
from core.errors import EmendError
from core.images import Pixels, encode_png
from core.settings import settings

MOST_BUFFERED = 10_000
MOST_BUFFERED_BYTES = 100_000_000  # a large input's pixels, or many categories, fill the memory sooner
CATEGORY_BYTES = 100  # of a probability and its place in the dictionary, about
MOST_PER_WRITE = 128  # a statement is put together in one go, while nobody else can do anything
FLUSH_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 2.0
SHUTDOWN_SECONDS = 5.0

log = telemetry.get_logger("history")


@dataclass(frozen=True)
class Recorded:
    """One prediction as it was answered."""

    id: UUID
    model: str
    version: int | None
    label: str
    confidence: float
    probabilities: dict[str, float]
    image_sha256: str
    pixels: Pixels
    filename: str | None
    actor: str | None
    given_png: bytes | None = None  # the pixels as a file, if that is what came

    @property
    def size_bytes(self) -> int:
        """Of what grows, roughly."""
        return self.pixels.nbytes + len(self.given_png or b"") + CATEGORY_BYTES * len(self.probabilities)

    @property
    def png(self) -> bytes:
        return self.given_png or encode_png(self.pixels)


class History:
    """The buffer and its writer. Threads may share it."""

    def __init__(self, most_buffered: int = MOST_BUFFERED) -> None:
        self._most_buffered = most_buffered
        self._buffer: OrderedDict[UUID, Recorded] = OrderedDict()
        self._size_bytes = 0
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._partitions: set[date] = set()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Writes what is left, for as long as a supervisor is patient."""
        self._stopping.set()
        self._thread.join(timeout=SHUTDOWN_SECONDS)
        if self._buffer:
            log.warning("predictions lost at shutdown", count=len(self._buffer))

    def record(self, prediction: Recorded) -> None:
        with self._changing:
            self._buffer[prediction.id] = prediction
            self._size_bytes += prediction.size_bytes
            while len(self._buffer) > self._most_buffered or self._size_bytes > MOST_BUFFERED_BYTES:
                _, oldest = self._buffer.popitem(last=False)
                self._size_bytes -= oldest.size_bytes
                metrics.HISTORY_DROPPED.inc()
            metrics.HISTORY_WAITING.set(len(self._buffer))

    def buffered(self, prediction_id: UUID) -> Recorded | None:
        """Not yet written; None says nothing about the table."""
        with self._changing:
            return self._buffer.get(prediction_id)

    def flush(self) -> int:
        """Writes a batch of the oldest and returns how many. Raises Unavailable; nothing is lost then."""
        with self._changing:
            batch = list(islice(self._buffer.values(), MOST_PER_WRITE))
        self._make_partitions(batch)
        if batch:
            columns = _columns(batch)
            with session() as db:
                db.connection().exec_driver_sql(_INSERT, columns)
        with self._changing:
            for prediction in batch:
                if self._buffer.pop(prediction.id, None) is not None:
                    self._size_bytes -= prediction.size_bytes
            metrics.HISTORY_WAITING.set(len(self._buffer))
        return len(batch)

    def _make_partitions(self, batch: Sequence[Recorded]) -> None:
        """Today's, tomorrow's, and those of what waited past midnight; a new day ends the oldest."""
        today = datetime.now(UTC).date()
        days = {today, today + timedelta(days=1)} | {time_of(p.id).date() for p in batch}
        for day in sorted(days - self._partitions):
            with session() as db:
                # A backup's dump may hold the table; whoever waits for it holds up all who come after.
                db.execute(text("set local lock_timeout = '1s'"))
                partitions.ensure(db.connection(), day)
                dropped = partitions.drop_older_than(db.connection(), settings().history_days)
            self._partitions.add(day)
            if dropped:
                log.info("history dropped", partitions=dropped, kept_days=settings().history_days)

    def _run(self) -> None:
        pause = FLUSH_SECONDS
        give_up_at = float("inf")
        while True:
            stopping = self._stopping.wait(pause)
            if stopping:
                give_up_at = min(give_up_at, time.monotonic() + SHUTDOWN_SECONDS)
            try:
                written = self.flush()
                pause = 0.0 if written == MOST_PER_WRITE else FLUSH_SECONDS
            except EmendError as exc:
                if pause <= FLUSH_SECONDS:
                    log.warning("history waits", reason=exc.message, buffered=len(self._buffer))
                pause = min(LONGEST_WAIT_SECONDS, max(pause, FLUSH_SECONDS) * 2)
            except Exception:  # the thread's edge: what waits is tried again
                log.exception("history failed")
                self._partitions.clear()  # somebody may have dropped one
                pause = LONGEST_WAIT_SECONDS
            if stopping and (not self._buffer or time.monotonic() > give_up_at):
                return
            if stopping:
                time.sleep(0.05)  # the event is set, so it no longer makes us wait


def new_id() -> UUID:
    return uuid7()


def time_of(prediction_id: UUID) -> datetime:
    """The moment in a UUIDv7, to the millisecond; it is also the row's `created_at`, so an id names its partition.

    Raises ValueError for an id of another kind, and for one whose moment no clock has: 48 bits reach past year 9999.
    """
    if prediction_id.version != 7:
        raise ValueError("not a UUIDv7")
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=prediction_id.int >> 80)
    except OverflowError as exc:
        raise ValueError("a UUIDv7 of a moment past the year 9999") from exc


def is_id(given: UUID) -> bool:
    """Could it be a prediction's id?"""
    try:
        time_of(given)
    except ValueError:
        return False
    return True


def find(prediction_id: UUID, *columns: ColumnElement[Any] | Any) -> Any:
    """The columns of a written prediction as a row, or None. Looks into one partition only."""
    if not is_id(prediction_id):
        return None
    query = select(*columns).where(
        Prediction.id == prediction_id, Prediction.created_at == time_of(prediction_id)
    )
    with session() as db:
        return db.execute(query).one_or_none()


def page(
    *,
    limit: int,
    before: UUID | None = None,
    model: str | None = None,
    label: str | None = None,
    version: int | None = None,
    corrected: bool | None = None,
) -> list[dict[str, Any]]:
    """Newest first. before: the last id of the page already seen. Raises Unavailable."""
    query = select(
        Prediction.id,
        Prediction.created_at,
        Prediction.model,
        Prediction.version,
        Prediction.label,
        Prediction.confidence,
        Prediction.image_sha256,
        Prediction.filename,
    )
    if before is not None:
        query = query.where(Prediction.id < before, Prediction.created_at <= time_of(before))
    if model is not None:
        query = query.where(Prediction.model == model)
    if label is not None:
        query = query.where(Prediction.label == label)
    if version is not None:
        query = query.where(Prediction.version == version)
    if corrected is not None:
        linked = (
            select(Correction.id)
            .where(Correction.prediction_id == Prediction.id, Correction.withdrawn_at.is_(None))
            .exists()
        )
        query = query.where(linked if corrected else ~linked)
    with session() as db:
        rows = db.execute(query.order_by(Prediction.id.desc()).limit(limit)).all()
        said = db.execute(
            select(Correction.prediction_id, Correction.label)
            .where(Correction.prediction_id.in_([row.id for row in rows]), Correction.withdrawn_at.is_(None))
            .order_by(Correction.received_at, Correction.id)
        )
        labels = dict(said.all())  # the latest one stays
    return [
        {
            "id": str(row.id),
            "filename": row.filename,
            "prediction": row.label,
            "confidence": row.confidence,
            "timestamp": row.created_at.isoformat(timespec="milliseconds"),
            "version": row.version,
            "model": row.model,
            "image_sha256": row.image_sha256,
            "corrected": labels.get(row.id),
            "image": f"/predictions/{row.id}/image",
        }
        for row in rows
    ]


# Column by column: SQLAlchemy's row by row takes three times as long, of the thread that answers.
_TYPES = {
    column.name: column.type.compile(postgresql.dialect())  # type: ignore[no-untyped-call]
    for column in Prediction.__table__.columns
}
_INSERT = (
    f"insert into predictions ({', '.join(_TYPES)}) "
    f"select * from unnest({', '.join(f'%({name})s::{kind}[]' for name, kind in _TYPES.items())}) "
    "on conflict do nothing"
)


def _columns(batch: Sequence[Recorded]) -> dict[str, list[Any]]:
    return {
        "id": [str(each.id) for each in batch],
        "created_at": [time_of(each.id) for each in batch],
        "model": [each.model for each in batch],
        "version": [each.version for each in batch],
        "label": [each.label for each in batch],
        "confidence": [each.confidence for each in batch],
        "probabilities": [orjson.dumps(each.probabilities).decode() for each in batch],
        "image_sha256": [each.image_sha256 for each in batch],
        "pixels": [Binary(each.png) for each in batch],
        "filename": [each.filename for each in batch],
        "actor": [each.actor for each in batch],
    }
