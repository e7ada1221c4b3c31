"""The database's connections in a process, and what Prometheus hears of them.

    create_engine(url, poolclass=MeasuredPool, ...)

Nothing is counted on a request's way but who waits; the rest is looked at when Prometheus asks.
"""

from __future__ import annotations

import threading
import weakref

from prometheus_client import Counter, Gauge
from sqlalchemy import PoolProxiedConnection, QueuePool
from sqlalchemy.exc import TimeoutError as PoolTimeout

MAX = Gauge("emend_database_connections_max", "Connections to the database that this process may hold.")
IN_USE = Gauge("emend_database_connections_in_use", "Connections to the database at work just now.")
WAITING = Gauge("emend_database_waiting_threads", "Threads that wait for a connection to the database.")
TIMEOUTS = Counter(
    "emend_database_timeouts_total", "Given up on: no connection to the database became free in time."
)

_pools: weakref.WeakSet[MeasuredPool] = weakref.WeakSet()
_waiting = 0
_counting = threading.Lock()


class MeasuredPool(QueuePool):
    """SQLAlchemy's usual pool."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        _pools.add(self)

    def connect(self) -> PoolProxiedConnection:
        _wait(1)
        try:
            return super().connect()
        except PoolTimeout:
            TIMEOUTS.inc()
            raise
        finally:
            _wait(-1)

    def most(self) -> int:
        return self.size() + self._max_overflow


def _wait(change: int) -> None:
    global _waiting
    with _counting:
        _waiting += change


MAX.set_function(lambda: sum(pool.most() for pool in list(_pools)))
IN_USE.set_function(lambda: sum(pool.checkedout() for pool in list(_pools)))
WAITING.set_function(lambda: _waiting)
