"""The history's buffer and pages, on a real PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from api import history
from api.history import History, Recorded, new_id, time_of
from core import partitions
from core.database import Prediction
from core.errors import Unavailable
from core.images import decode_png


def recorded(prediction_id: UUID | None = None, label: str = "cat") -> Recorded:
    return Recorded(
        id=prediction_id or new_id(),
        model="doodles",
        version=1,
        label=label,
        confidence=0.9,
        probabilities={"cat": 0.9, "dog": 0.1},
        image_sha256="0" * 64,
        pixels=np.zeros((28, 28), np.uint8),
        filename=None,
        actor=None,
    )


def id_at(moment: datetime) -> UUID:
    """A UUIDv7 of another time."""
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | 7 << 76 | 2 << 62 | uuid4().int >> 68)


def test_the_time_in_an_id_is_its_moment() -> None:
    moment = datetime(2026, 11, 21, 9, 30, 12, 345_000, tzinfo=UTC)
    assert time_of(id_at(moment)) == moment
    assert abs(time_of(new_id()) - datetime.now(UTC)) < timedelta(seconds=5)
    with pytest.raises(ValueError, match="UUIDv7"):
        time_of(uuid4())
    with pytest.raises(ValueError, match="9999"):
        time_of(UUID("ffffffff-ffff-7fff-bfff-ffffffffffff"))


def test_the_oldest_go_when_the_buffer_is_full() -> None:
    buffer = History(most_buffered=3)
    ids = [new_id() for _ in range(5)]
    for prediction_id in ids:
        buffer.record(recorded(prediction_id))
    assert [buffer.buffered(i) is not None for i in ids] == [False, False, True, True, True]


def test_many_categories_fill_the_buffer_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_BUFFERED_BYTES", 250_000)
    buffer = History()
    many = {str(number): 0.001 for number in range(1_000)}
    ids = [new_id() for _ in range(5)]
    for prediction_id in ids:
        buffer.record(replace(recorded(prediction_id), probabilities=many))
    assert [buffer.buffered(i) is not None for i in ids] == [False, False, False, True, True]


@pytest.mark.usefixtures("emend_environment")
def test_writing_is_repeatable_and_makes_the_days_it_needs() -> None:
    buffer = History()
    yesterday = recorded(id_at(datetime.now(UTC) - timedelta(days=1)))
    today = recorded(label="dog")
    for each in (yesterday, today):
        buffer.record(each)
    assert buffer.flush() == 2
    assert buffer.flush() == 0
    buffer.record(today)  # as if the commit's answer had been lost
    assert buffer.flush() == 1
    page = history.page(limit=10)
    assert [item["id"] for item in page] == [str(today.id), str(yesterday.id)]
    assert history.find(yesterday.id, Prediction.label).label == "cat"
    assert history.find(uuid4(), Prediction.label) is None
    assert [i["id"] for i in history.page(limit=10, before=today.id)] == [str(yesterday.id)]


@pytest.mark.usefixtures("emend_environment")
def test_a_file_that_came_as_nothing_but_the_pixels_is_written_as_it_came() -> None:
    buffer = History()
    given, made = replace(recorded(), given_png=b"as it came"), recorded()
    for each in (given, made):
        buffer.record(each)
    buffer.flush()
    assert history.find(given.id, Prediction.pixels).pixels == b"as it came"
    assert np.array_equal(decode_png(history.find(made.id, Prediction.pixels).pixels), made.pixels)


def test_two_gateways_may_make_a_day_at_once_and_old_days_are_dropped(database_url: str) -> None:
    engine = create_engine(database_url)
    today = datetime.now(UTC).date()
    with engine.begin() as connection:
        for age in (0, 1, 29, 30, 31, 40):
            partitions.ensure(connection, today - timedelta(days=age))
            partitions.ensure(connection, today - timedelta(days=age))
    with engine.begin() as connection:
        dropped = partitions.drop_older_than(connection, 30)
        left = connection.scalars(
            text("select inhrelid::regclass::text from pg_inherits where inhparent = 'predictions'::regclass")
        ).all()
    assert dropped == [partitions.name_of(today - timedelta(days=age)) for age in (40, 31)]
    assert set(left) == {partitions.name_of(today - timedelta(days=age)) for age in (0, 1, 29, 30)}
    engine.dispose()


@pytest.mark.usefixtures("emend_environment")
def test_a_new_day_waits_for_a_dump_without_holding_up_who_reads(database_url: str) -> None:
    buffer = History()
    kept = recorded()
    buffer.record(kept)
    engine = create_engine(database_url)
    with engine.begin() as dump:
        dump.execute(text("lock table predictions in access share mode"))
        with pytest.raises(Unavailable):
            buffer.flush()
        assert buffer.buffered(kept.id) is not None
        with engine.begin() as reader:
            reader.execute(text("set local lock_timeout = '1s'"))
            reader.execute(text("select count(*) from predictions"))
    assert buffer.flush() == 1
    engine.dispose()
