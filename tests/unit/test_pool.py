"""What Prometheus hears of a process's connections to the database."""

from __future__ import annotations

import threading

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeout

from core.database import make_engine
from tests.support.waiting import wait_until


def figure(name: str) -> float:
    value = REGISTRY.get_sample_value(f"emend_database_{name}")
    assert value is not None, name
    return value


def test_connections_at_work_and_who_waits_for_one_are_seen(database_url: str) -> None:
    engine = make_engine(database_url, pool_size=1)
    most, in_use, waiting = figure("connections_max"), figure("connections_in_use"), figure("waiting_threads")
    assert most >= 2  # one, and as many over it
    first, second = engine.connect(), engine.connect()
    assert figure("connections_in_use") == in_use + 2

    def ask() -> None:
        with engine.connect() as third:
            third.execute(text("select 1"))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: figure("waiting_threads") == waiting + 1)
    first.close()
    asking.join(10)
    assert figure("waiting_threads") == waiting
    second.close()
    assert figure("connections_in_use") == in_use
    engine.dispose()


def test_whoever_waits_too_long_is_counted(database_url: str) -> None:
    engine = make_engine(database_url, pool_size=1)
    engine.pool._timeout = 0.05  # type: ignore[attr-defined]
    before = figure("timeouts_total")
    with engine.connect(), engine.connect(), pytest.raises(PoolTimeout):
        engine.connect()
    assert figure("timeouts_total") == before + 1
    engine.dispose()
