"""Hearing of promotions, with a real PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from core.settings import settings
from core.wake import UNHEARD_SECONDS, Listener, _connect, announce

SOON_SECONDS = 5.0  # the followers' own look comes every 15 s


class Woken:
    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self) -> None:
        self.event.set()

    def wait(self) -> None:
        assert self.event.wait(SOON_SECONDS), "nobody woke it"
        self.event.clear()


@contextlib.contextmanager
def listening(database_url: str, woken: Woken) -> Iterator[Listener]:
    listener = Listener(lambda: database_url, woken)
    listener.start()
    try:
        woken.wait()  # it listens, and something may have been missed
        assert listener.listening
        yield listener
    finally:
        listener.stop()
    assert not listener.listening
    listener.stop()  # stopped already: nothing happens


def test_a_promotion_wakes_at_once(emend_environment: dict[str, str]) -> None:
    woken = Woken()
    with listening(emend_environment["DATABASE_URL"], woken):
        for _ in range(3):
            announce()
            woken.wait()


def test_a_connection_that_is_ended_is_made_anew(emend_environment: dict[str, str]) -> None:
    woken = Woken()
    with listening(emend_environment["DATABASE_URL"], woken) as listener:
        engine = create_engine(emend_environment["DATABASE_URL"])
        with engine.begin() as db:
            ended = db.execute(
                text("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'emend' "
                     "and datname = current_database()")
            )  # fmt: skip
            assert ended.scalars().all() == [True]
        engine.dispose()
        woken.wait()  # it is told that nothing is heard any more
        if not listener.listening:
            woken.wait()  # and that something is heard again
        assert listener.listening
        announce()
        woken.wait()


@contextlib.contextmanager
def over_tcp(database_url: str) -> Iterator[str]:
    """The same database at an address of its own, for one connection."""
    url = make_url(database_url)
    port = url.query.get("port", url.port or 5432)
    there = f"{url.query['host']}/.s.PGSQL.{port}"

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def relay(listening: socket.socket) -> None:
        with listening.accept()[0] as near, socket.socket(socket.AF_UNIX) as far:
            far.connect(there)
            answering = threading.Thread(target=pass_on, args=(far, near), daemon=True)
            answering.start()
            pass_on(near, far)
            answering.join()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        relaying = threading.Thread(target=relay, args=(listening,), daemon=True)
        relaying.start()
        query = {name: value for name, value in url.query.items() if name not in ("host", "port")}
        near = url.set(host="127.0.0.1", port=listening.getsockname()[1], query=query)
        yield near.render_as_string(hide_password=False)
        relaying.join()


def test_what_is_sent_into_a_network_that_drops_everything_is_given_up_on_after_ten_seconds(
    emend_environment: dict[str, str],
) -> None:
    with (
        over_tcp(emend_environment["DATABASE_URL"]) as url,
        contextlib.closing(_connect(url)) as connection,
        socket.socket(fileno=os.dup(connection.fileno())) as wire,
    ):
        unheard_ms = wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert unheard_ms == 1000 * UNHEARD_SECONDS == 10_000


def test_descriptors_from_1024_on_are_listened_to(emend_environment: dict[str, str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max(soft, 1024 + 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))  # fails where a process may not have as many
    woken = Woken()
    try:
        with ExitStack() as opened:
            lowest_free = -1
            while lowest_free < 1024:
                lowest_free = os.open(os.devnull, os.O_RDONLY)
                opened.callback(os.close, lowest_free)
            with listening(emend_environment["DATABASE_URL"], woken):
                announce()
                woken.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_wakes_and_fails_does_not_end_the_listener(
    emend_environment: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    calls: list[bool] = []
    woken = threading.Event()

    def wakes() -> None:
        calls.append(listener.listening)
        if len(calls) == 1:
            raise RuntimeError("whoever is woken does what it wants")
        if calls.count(True) > 1:
            woken.set()

    listener = Listener(lambda: emend_environment["DATABASE_URL"], wakes)
    listener.start()
    assert woken.wait(SOON_SECONDS)
    listener.stop()
    assert calls[:3] == [True, False, True]


def test_a_promotion_that_cannot_be_announced_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/emend")
    settings.cache_clear()
    announce()
    settings.cache_clear()
