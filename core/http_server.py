"""HTTP for every service, by uvicorn, with bounds to what a client may take of it.

    http_server.run(app, host="127.0.0.1", port=8000, graceful_seconds=10)

A head and a body must come in their time, and a head must be of a sane size; uvicorn would wait for ever and take any.
Nothing here needs FastAPI: the model server goes without.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, cast
from weakref import WeakSet

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from core import telemetry
from core.plain_http import date_line

# An idle connection. Longer than nginx and the gateway's own client (60 s) keep theirs, or they would send into one
# that just closed.
KEPT_OPEN_SECONDS = 75
MOST_HEAD_BYTES = 65_536
MOST_DISCARDED_BYTES = 32_000_000  # of a body that nobody wants any more

# What a service makes of a new request as it came, before anything reads it: its whole answer, or the work that leads
# to it; how many bytes more are needed to tell; or None, and it is read as any other. Of a service's busiest request
# most of the time must not go into reading it, nor, past what can be done, into refusing it. Work is always begun, and
# cancelled when the client goes away.
Direct = Callable[[bytes], bytes | Coroutine[Any, Any, bytes] | int | None]
MOST_HELD_BYTES = 262_144  # of a client that sends more before it is answered

_log = telemetry.get_logger("http")


def run(app: ASGIApp, *, host: str, port: int, graceful_seconds: int, direct: Direct | None = None) -> None:
    """Blocks until SIGTERM or Ctrl-C; requests under way are finished first."""
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=protocol(direct),
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=graceful_seconds,
        timeout_keep_alive=KEPT_OPEN_SECONDS,
        server_header=False,
        proxy_headers=False,  # who asks, and by which name, nobody here takes from there
    )


def protocol(direct: Direct | None) -> type[Protocol]:
    return Protocol if direct is None else type("Protocol", (Protocol,), {"direct": staticmethod(direct)})


class Protocol(HttpToolsProtocol):
    """An answer's head leaves together with its body, if that is there already; uvicorn writes one, then the other.

    Whoever stands in front may ask another service for as long as nothing has come; a head without its body, because
    the process was killed in between, could not be mended. And it is one system call less.

    An answer that begins before the request's body is whole is the connection's last: nobody reads the rest.
    """

    direct: ClassVar[Direct | None] = None
    head_seconds: ClassVar[float] = 10.0
    body_seconds: ClassVar[float] = 60.0  # a photo over a phone's poor line takes some
    linger_seconds: ClassVar[float] = 2.0
    look_seconds: ClassVar[float] = 1.0

    _looked_after: ClassVar[WeakSet[ServerState]] = WeakSet()
    _holding: ClassVar[WeakSet[Protocol]] = WeakSet()  # of whose request some is still to come
    _until = math.inf  # when what is awaited must be here
    _in_message = False
    _in_head = False
    _head_bytes = 0  # at most: maybe some are the body's, or the next request's
    _head_too_large = False
    _stays_open = False  # once the request under way is answered
    _discarded_bytes = 0
    _answering: asyncio.Task[None] | None = None  # what was taken directly
    _held = b""  # what came meanwhile, or is too little yet to tell
    _closes = False  # once that is answered
    _needed_bytes = 0  # of `_held`, when it is too little
    # Of what came behind requests whose answers are still to come; no more is read.
    _refusal: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, Joining(transport, self.loop)))
        self._until = self.loop.time() + self.head_seconds
        if self.server_state not in self._looked_after:
            self._looked_after.add(self.server_state)
            self.loop.call_later(self.look_seconds, _look, self.loop, self.look_seconds, self.connections)

    def data_received(self, data: bytes) -> None:
        if self._joining.is_lingering or self._refusal is not None:
            self._discard(data)
            return
        if self._answering is not None:
            self._hold(data)
            return
        if not self._in_message and type(self).direct is not None and self._is_idle:
            if self._needed_bytes:
                data, self._held = self._held + data, b""
                if len(data) < self._needed_bytes:
                    self._held = data
                    return
                self._needed_bytes = 0
                self._holding.discard(self)
            if self._is_taken(data):
                return
        if self._in_head or not self._in_message:
            self._head_bytes += len(data)
        super().data_received(data)
        is_refused = self._refusal is not None or self.transport.is_closing()
        if self._in_head and self._head_bytes > MOST_HEAD_BYTES and not is_refused:
            self._head_too_large = True
            self.send_400_response("")
        if self._closes:  # told to while this was not whole
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answering is not None:
            self.loop.call_soon(self._answering.cancel)  # not before it has begun
        if self._needed_bytes:  # told and counted as any other that was broken off
            self._needed_bytes = 0
            self._holding.discard(self)
            super().data_received(self._held)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._in_message = self._in_head = True
        super().on_message_begin()
        self._until = self.loop.time() + self.head_seconds

    def on_headers_complete(self) -> None:
        self._until += self.body_seconds
        if self._head_bytes > MOST_HEAD_BYTES and self._parsed_head_bytes() > MOST_HEAD_BYTES:
            self._head_too_large = True
            raise ValueError("head too large")  # the parser stops, and uvicorn calls `send_400_response`
        super().on_headers_complete()
        self._in_head = False
        self._stays_open, self.cycle.keep_alive = self.cycle.keep_alive, False

    def on_message_complete(self) -> None:
        self._in_message = False
        self._head_bytes = 0
        self._until = math.inf
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._stays_open
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._refusal is not None and not self.pipeline and not self.transport.is_closing():
            self.transport.write(self._refusal)
            self.transport.close()
        super().on_response_complete()
        if self._is_idle and not self._in_message and not self.transport.is_closing():
            # Uvicorn's own timer is gone with whatever comes, also with line breaks that begin no message.
            self._until = self.loop.time() + self.timeout_keep_alive

    def shutdown(self) -> None:
        self._stays_open = False
        if self._answering is not None or self._needed_bytes:
            self._closes = True
        elif self._in_head and self._is_idle:
            self.transport.abort()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        status = b"431 Request Header Fields Too Large" if self._head_too_large else b"400 Bad Request"
        told = (
            f"the head is larger than {MOST_HEAD_BYTES // 1024} kB"
            if self._head_too_large
            else "this is no HTTP"
        )
        body = json.dumps({"error": {"code": f"http_{status[:3].decode()}", "message": told}}).encode()
        self._refuse(
            b"HTTP/1.1 %b\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, date_line(), len(body), body)
        )

    def _refuse(self, refusal: bytes) -> None:
        """Answers come in the order of the requests: those before it that are under way have theirs first."""
        is_in_body = (
            self._in_message and not self._in_head
        )  # its head was taken: it waits in line, or is at work
        if is_in_body and self.pipeline:
            self.pipeline.popleft()
            waits = True
        else:
            waits = not is_in_body and not self._is_idle
        if waits:
            self._refusal, self._until = refusal, math.inf
            return
        if not is_in_body or not self.cycle.response_started:  # half an answer cannot be mended
            self.transport.write(refusal)
        self.transport.close()

    @classmethod
    def held_bytes(cls) -> int:
        """Of requests that are not whole yet, before anything read them."""
        return sum(len(each._held) for each in cls._holding)

    @property
    def awaits_more(self) -> bool:
        """Of a request whose head or body is not whole."""
        return self._in_message or self._needed_bytes > 0

    def linger(self) -> None:
        """The last answer is written. Closed at once, the connection would be reset by what still comes, and the answer
        with it, before the client has read it."""
        self._until = self.loop.time() + self.linger_seconds
        self.flow.resume_reading()

    def end_if_late(self, now: float) -> None:
        if now <= self._until:
            return
        if (
            not self.awaits_more or self._joining.is_lingering
        ):  # idle: a browser's connection in advance, for one
            self.transport.close()
        else:
            telemetry.CUT_OFF.inc()
            _log.warning("cut off", reason="a request did not come in its time")
            self.transport.abort()

    @property
    def _joining(self) -> Joining:
        return cast(Joining, self.transport)

    def _is_taken(self, data: bytes) -> bool:
        made = type(self).direct(data)  # type: ignore[misc]
        if made is None:
            return False
        self._unset_keepalive_if_required()
        if self.flow.write_paused:  # it asks and asks, and does not read what it is told
            self.transport.abort()
            if isinstance(made, int | bytes):
                return True
        if isinstance(made, int):
            self._held, self._needed_bytes = data, len(data) + made
            self._holding.add(self)
            self._until = self.loop.time() + self.head_seconds + self.body_seconds
        elif isinstance(made, bytes):
            self._until = self.loop.time() + self.timeout_keep_alive
            self._joining.write_now(made)
            if self._closes:
                self.transport.close()
        else:
            self._until = math.inf
            self._answering = self.loop.create_task(self._answer(made))
            self.tasks.add(self._answering)
        return True

    async def _answer(self, work: Coroutine[Any, Any, bytes]) -> None:
        try:
            answer = await work
        except BaseException:  # nobody else would end the connection, on which somebody waits
            self.transport.abort()
            raise
        finally:
            assert self._answering is not None
            self.tasks.discard(self._answering)
            self._answering = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._joining.write_now(answer)
        self._until = self.loop.time() + self.timeout_keep_alive
        if self._closes:
            self.transport.close()
        elif self._held:
            held, self._held = self._held, b""
            self.flow.resume_reading()
            self.data_received(held)

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > MOST_HELD_BYTES:
            self.flow.pause_reading()

    @property
    def _is_idle(self) -> bool:
        """Nothing is answered just now."""
        return self._answering is None and (self.cycle is None or self.cycle.response_complete)

    def _parsed_head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _discard(self, data: bytes) -> None:
        self._discarded_bytes += len(data)
        if self._discarded_bytes > MOST_DISCARDED_BYTES:
            self.transport.abort()


def _look(loop: asyncio.AbstractEventLoop, every_seconds: float, connections: set[Any]) -> None:
    """Now and then at all of them: cheaper than a timer for each request."""
    now = loop.time()
    for connection in connections:
        loop.call_soon(connection.end_if_late, now)  # by itself: one that fails saves no other
    loop.call_later(every_seconds, _look, loop, every_seconds, connections)


class Joining:
    """A transport that writes what it was given in one turn of the loop at that turn's end.

    Closed while more of a request is to come it only says that nothing more will be answered, and lingers.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.is_lingering = False
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def write_now(self, data: bytes) -> None:
        self._flush()
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        connection = self._transport.get_protocol()
        if (
            isinstance(connection, Protocol)
            and connection.awaits_more
            and not self.is_closing()
            and self._transport.can_write_eof()
        ):
            self.is_lingering = True
            self._transport.write_eof()
            connection.linger()
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        return self.is_lingering or self._transport.is_closing()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and not self.is_closing():
            self._transport.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
