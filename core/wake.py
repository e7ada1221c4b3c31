"""Who follows champions is woken at a promotion: PostgreSQL's NOTIFY, which says only that it is time to look.

Neither side needs it. Whoever is not woken looks by itself, a little later.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable

import psycopg2
import psycopg2.extensions

from core import telemetry
from core.errors import ConfigurationError
from core.settings import settings

CHANNEL = "emend_promotions"
CONNECT_SECONDS = 3
# What is sent and not acknowledged for so long ends the connection. Over a network that drops everything the system
# itself would try for a quarter of an hour.
UNHEARD_SECONDS = 10
STILL_THERE_SECONDS = 30.0  # after a silence this long: is the connection still there?
RECONNECT_SECONDS = (1.0, 30.0)  # the first pause and the longest

_log = telemetry.get_logger("wake")


def announce() -> None:
    """Champion has moved. Never raises: a stage run alone from a shell has no database to say it in."""
    try:
        connection = _connect(settings().database_url)
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"notify {CHANNEL}")
        finally:
            connection.close()
    except (psycopg2.Error, ConfigurationError) as exc:
        _log.warning("promotion not announced", reason=str(exc).strip())


class Listener:
    """A thread that calls `wake` at every promotion, and whenever one may have been missed.

    database_url: asked for at each attempt; it may raise ConfigurationError while there is no database.
    """

    def __init__(self, database_url: Callable[[], str], wake: Callable[[], None]) -> None:
        self.listening = False
        self._database_url = database_url
        self._wake = wake
        self._pause_seconds = RECONNECT_SECONDS[0]
        self._stopping, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # stopped before
            self._stop.send(b"x")
        self._thread.join(timeout=2 * CONNECT_SECONDS)

    def _run(self) -> None:
        first, longest = RECONNECT_SECONDS
        with self._stopping, self._stop:
            while True:
                try:
                    self._hear()
                    return
                except (psycopg2.Error, OSError, ConfigurationError) as exc:
                    if self._pause_seconds == first:
                        _log.warning("promotions are not heard of", reason=str(exc).strip())
                except Exception:  # noqa: BLE001 - the thread's edge: nobody else would start it again
                    _log.exception("listener failed")
                if self._stops_within(self._pause_seconds):
                    return
                self._pause_seconds = min(longest, 2 * self._pause_seconds)

    def _hear(self) -> None:
        """Returns when told to stop."""
        with contextlib.closing(_connect(self._database_url())) as connection:
            with connection.cursor() as cursor:
                cursor.execute(f"listen {CHANNEL}")
            self._pause_seconds = RECONNECT_SECONDS[0]
            self.listening = True
            try:
                self._wake()
                self._listen(connection)
            finally:
                self.listening = False
                self._wake()  # whoever follows looks more often from now on

    def _listen(self, connection: psycopg2.extensions.connection) -> None:
        """Returns when told to stop."""
        with selectors.DefaultSelector() as both:  # not select(): it takes no descriptor from 1024 on
            both.register(connection, selectors.EVENT_READ)
            both.register(self._stopping, selectors.EVENT_READ)
            while True:
                found = [key.fileobj for key, _ in both.select(STILL_THERE_SECONDS)]
                if self._stopping in found:
                    return
                if not found:
                    with connection.cursor() as cursor:
                        cursor.execute("select 1")
                connection.poll()
                if connection.notifies:
                    connection.notifies.clear()
                    self._wake()

    def _stops_within(self, seconds: float) -> bool:
        with selectors.DefaultSelector() as told:
            told.register(self._stopping, selectors.EVENT_READ)
            return bool(told.select(seconds))


def _connect(database_url: str) -> psycopg2.extensions.connection:
    url = database_url.replace("postgresql+psycopg2:", "postgresql:", 1)  # SQLAlchemy's spelling
    connection = psycopg2.connect(
        url,
        connect_timeout=CONNECT_SECONDS,
        application_name="emend",
        keepalives_idle=30,
        keepalives_interval=5,
        tcp_user_timeout=1000 * UNHEARD_SECONDS,
    )
    connection.autocommit = True
    return connection
