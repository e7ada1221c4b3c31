"""Every transition, live, to many readers: one LISTEN connection a process, rows read by id.

NOTIFY only wakes. What happened is read from `transitions` by id, so a lost connection, a restarted database or
a reader that was away costs nothing but a second look.

Ids are drawn before their transactions commit, so row 7 can be visible while row 6 is still to come. Rows are
handed out strictly in the order of their ids all the same, because a reader's `Last-Event-ID` says "everything
up to here". When ids are missing between visible rows, pg_locks says who is writing: whoever has drawn an id
holds ROW EXCLUSIVE on the table until its transaction ends. Once those who held it then have let go, what was
to come has come, and what is still missing was rolled back. Writers wait for nobody.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import anyio.to_thread
import psycopg2
import psycopg2.extensions
import sqlalchemy as sa
from prometheus_client import Counter, Gauge
from sqlalchemy.exc import DBAPIError

from core import telemetry
from core.database import EVENTS_CHANNEL, Transition, engine, session
from core.errors import EmendError, Unavailable

QUEUE_EVENTS = 1000  # a reader this far behind is disconnected; it comes back with Last-Event-ID
BATCH_ROWS = 500
HEARTBEAT_SECONDS = 15.0  # proxies close what is silent for 30 to 60 s
LOOK_AGAIN_SECONDS = 30.0  # after a silence this long: is the connection still there?
RECONNECT_SECONDS = (0.1, 5.0)  # the first pause and the longest
WRITERS_TIMEOUT_SECONDS = 10.0  # a transaction left open holds up the stream no longer than this

CLIENTS = Gauge("emend_viewer_event_clients", "Readers of the event stream and of followed logs.")
DROPPED = Counter("emend_viewer_event_clients_dropped_total", "Readers disconnected as too slow.")
LISTENING = Gauge("emend_viewer_listening", "1 while the viewer hears the database's notifications.")

_WRITERS = sa.text(
    """
    select virtualtransaction from pg_locks
    where locktype = 'relation' and relation = 'transitions'::regclass and mode = 'RowExclusiveLock' and granted
      and database = (select oid from pg_database where datname = current_database())
    """
)
_log = telemetry.get_logger("viewer.events")


@dataclass(frozen=True)
class Event:
    """A transition. encoded: as it goes over the wire, made once for all readers."""

    id: int
    run_id: int
    model: str
    stage: str | None
    status: str
    encoded: bytes


class Subscription:
    """One reader's bounded queue. None in it: the stream ends here."""

    def __init__(self, wanted: Callable[[Event], bool]) -> None:
        self._wanted = wanted
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE_EVENTS)
        self._ended = False

    def offer(self, event: Event) -> None:
        if self._ended or not self._wanted(event):
            return
        if self._queue.full():
            DROPPED.inc()
            self.end()
        else:
            self._queue.put_nowait(event)

    def end(self) -> None:
        """What still waits is dropped."""
        self._ended = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def next(self, timeout_seconds: float | None = None) -> Event | None:
        """Raises TimeoutError."""
        return await asyncio.wait_for(self._queue.get(), timeout_seconds)


class Events:
    """The process's one listener and all its readers. Made and used on the event loop; a thread listens.

    settled: every transition up to this id has been handed out; None until the database has first answered.
    """

    def __init__(self) -> None:
        self.settled: int | None = None
        self.listening = False
        self._answered = asyncio.Event()
        self._subscriptions: set[Subscription] = set()
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._follow, name="events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        self.end_streams()
        await asyncio.to_thread(self._thread.join)
        self._wake.close()
        self._waker.close()

    def end_streams(self) -> None:
        """Sends all readers away, and stops listening."""
        self._stopping.set()
        self._waker.send(b"x")
        self._answered.set()
        for subscription in self._subscriptions:
            subscription.end()

    async def wait_until_ready(self, timeout_seconds: float) -> None:
        """Raises Unavailable when the database does not answer in this time for the first time."""
        try:
            await asyncio.wait_for(self._answered.wait(), timeout_seconds)
        except TimeoutError as exc:
            raise Unavailable("the database has not answered yet; try again in a moment") from exc

    @contextmanager
    def subscribe(self, wanted: Callable[[Event], bool]) -> Iterator[Subscription]:
        """What is wanted of all that comes after `settled`, in order."""
        subscription = Subscription(wanted)
        self._subscriptions.add(subscription)
        if self._stopping.is_set():
            subscription.end()
        CLIENTS.inc()
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            CLIENTS.dec()

    def _hand_out(self, events: list[Event], settled: int) -> None:
        for subscription in self._subscriptions:
            for event in events:
                subscription.offer(event)
        self.settled = settled
        self._answered.set()

    # The listener's thread.

    def _follow(self) -> None:
        last: int | None = None
        pause, longest = RECONNECT_SECONDS
        while not self._stopping.is_set():
            try:
                with _connect() as connection:
                    listening_to = _listen(connection)
                    if last is None:
                        last = self._newest(connection)
                        self._publish([], last)
                    self.listening, pause = True, RECONNECT_SECONDS[0]
                    LISTENING.set(1)
                    while not self._stopping.is_set():
                        while rows := self._settled_rows(connection, last):
                            last = rows[-1].id
                            self._publish(rows, last)
                        self._sleep(listening_to)
            except (DBAPIError, psycopg2.Error, EmendError) as exc:
                _log.warning("the database went away; trying again", reason=str(exc).partition("\n")[0])
                self._stopping.wait(pause)
                pause = min(pause * 2, longest)
            finally:
                self.listening = False
                LISTENING.set(0)

    def _publish(self, events: list[Event], settled: int) -> None:
        if not self._stopping.is_set():
            self._loop.call_soon_threadsafe(self._hand_out, events, settled)

    def _sleep(self, listening_to: psycopg2.extensions.connection) -> None:
        listening_to.poll()  # a notification that came along with a query's answer is no longer in the socket
        if not listening_to.notifies:
            select.select([listening_to.fileno(), self._wake.fileno()], [], [], LOOK_AGAIN_SECONDS)
            listening_to.poll()
        listening_to.notifies.clear()

    def _newest(self, connection: sa.Connection) -> int:
        newest = connection.scalar(sa.select(sa.func.coalesce(sa.func.max(Transition.id), 0)))
        self._wait_for_writers(connection)
        return cast(int, newest)

    def _settled_rows(self, connection: sa.Connection, last: int) -> list[Event]:
        rows = _read(connection, last)
        if rows and rows[-1].id - last > len(rows):  # some are missing: not committed yet, or rolled back
            self._wait_for_writers(connection)
            rows = _read(connection, last, rows[-1].id)
        return rows

    def _wait_for_writers(self, connection: sa.Connection) -> None:
        """Until the transactions that are writing transitions now have ended."""
        deadline = time.monotonic() + WRITERS_TIMEOUT_SECONDS
        writers = set(connection.scalars(_WRITERS))
        while writers and not self._stopping.wait(0.02):
            if time.monotonic() > deadline:
                _log.warning("a transaction stays open; what it will add may be missed", transactions=writers)
                return
            writers &= set(connection.scalars(_WRITERS))


async def stream(
    events: Events, after: int | None = None, run_id: int | None = None, model: str | None = None
) -> AsyncIterator[bytes]:
    """Server-sent events: the transitions after this id (None: from now on), then live ones, until the process stops.

    Ends as well when the reader is too slow, or the database is away during replay or when a sign of life is due:
    silence would look like nothing happening. The reader comes back with the id it saw last.
    """

    def wanted(event: Event) -> bool:
        return run_id in (None, event.run_id) and model in (None, event.model)

    yield b"retry: 2000\n\n"
    while events.settled is None:
        try:
            await events.wait_until_ready(HEARTBEAT_SECONDS)
            break
        except Unavailable:
            yield b": the database has not answered yet\n\n"
    with events.subscribe(wanted) as subscription:
        settled = events.settled or 0
        last = settled if after is None else after
        while last < settled:
            page = await anyio.to_thread.run_sync(_replay, last, settled, run_id, model)
            for event in page:
                yield event.encoded
            last = page[-1].id if page else settled
        while True:
            try:
                live = await subscription.next(HEARTBEAT_SECONDS)
            except TimeoutError:
                if not events.listening:
                    return
                yield b": still here\n\n"
                continue
            if live is None:
                return
            if live.id > last:  # a reader may know more than a listener that is catching up
                yield live.encoded


def _replay(after: int, up_to: int, run_id: int | None, model: str | None) -> list[Event]:
    with session() as db:
        return _read(db.connection(), after, up_to, run_id, model)


def _read(
    connection: sa.Connection,
    after: int,
    up_to: int | None = None,
    run_id: int | None = None,
    model: str | None = None,
) -> list[Event]:
    query = sa.select(Transition.__table__).where(Transition.id > after).order_by(Transition.id)
    if up_to is not None:
        query = query.where(Transition.id <= up_to)
    if run_id is not None:
        query = query.where(Transition.run_id == run_id)
    if model is not None:
        query = query.where(Transition.model == model)
    return [_event(row) for row in connection.execute(query.limit(BATCH_ROWS))]


def _event(row: Any) -> Event:
    data = {**row._mapping, "at": row.at.isoformat()}
    encoded = f"id: {row.id}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
    return Event(row.id, row.run_id, row.model, row.stage, row.status, encoded)


@contextmanager
def _connect() -> Iterator[sa.Connection]:
    """A connection of our own, outside the pool, where each statement sees the newest state."""
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()
        yield connection


def _listen(connection: sa.Connection) -> psycopg2.extensions.connection:
    connection.execute(sa.text(f"listen {EVENTS_CHANNEL}"))
    return cast(psycopg2.extensions.connection, connection.connection.dbapi_connection)
