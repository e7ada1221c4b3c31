"""What every process's HTTP server bounds, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import uvicorn
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from core import http_server
from core.http_server import MOST_HEAD_BYTES, Joining, Protocol

GET = b"GET /thing HTTP/1.1\r\nHost: a\r\n\r\n"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


class Hasty(Protocol):
    head_seconds = 0.2
    body_seconds = 0.2
    look_seconds = 0.02
    linger_seconds = 0.2


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers when the body is there; at /early at once."""
    body = b""
    if scope["path"] != "/early":
        while (message := await receive()).get("more_body"):
            body += message["body"]
        if message["type"] != "http.request":
            return
        body += message["body"]
    told = str(len(body)).encode()
    head = [(b"content-length", str(len(told)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": told})


Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@contextlib.asynccontextmanager
async def served(protocol: type[Protocol], app: Any = app, **config: Any) -> AsyncIterator[Connect]:
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, http=protocol, ws="none", log_config=None, lifespan="off", **config)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    port = server.servers[0].sockets[0].getsockname()[1]
    opened: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened.append(writer)
        return reader, writer

    try:
        yield connect
    finally:
        for writer in opened:
            writer.close()
        server.should_exit = True
        await serving


def played(
    scene: Callable[[Connect], Awaitable[None]], protocol: type[Protocol] = Hasty, **config: Any
) -> None:
    async def play() -> None:
        async with served(protocol, **config) as connect:
            await scene(connect)

    with asyncio.Runner(
        loop_factory=uvicorn.Config(app).get_loop_factory()
    ) as runner:  # uvloop, as in service
        runner.run(asyncio.wait_for(play(), 20))


async def answer_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return head, await reader.readexactly(int(length.partition(b":")[2]))


def dated(head: bytes) -> datetime:
    (date,) = (line[6:] for line in head.split(b"\r\n") if line.startswith(b"date: "))
    return parsedate_to_datetime(date.decode())


async def send_for_ever(writer: asyncio.StreamWriter, data: bytes) -> None:
    while True:
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0)


class Wire(asyncio.Transport):
    """Keeps what is written, in the pieces it came in."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.pieces.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def get_protocol(self) -> asyncio.BaseProtocol:
        return asyncio.Protocol()


def test_what_is_written_in_one_turn_of_the_loop_leaves_in_one_piece() -> None:
    async def answer() -> list[bytes]:
        wire = Wire()
        joining = Joining(wire, asyncio.get_running_loop())
        joining.write(b"head ")
        joining.write(b"body")
        await asyncio.sleep(0)
        joining.write(b"event 1")
        await asyncio.sleep(0)
        joining.write(b"last words")
        joining.close()
        await asyncio.sleep(0)
        assert joining.is_closing()
        joining.write(b"too late")
        await asyncio.sleep(0)
        return wire.pieces

    assert asyncio.run(answer()) == [b"head body", b"event 1", b"last words"]


def counted() -> float:
    return REGISTRY.get_sample_value("emend_http_cut_off_total") or 0.0


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /thing HTTP/1.1\r\nHost: a\r\n",
        b"POST /thing HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{",
    ],
)
def test_who_sends_too_slowly_is_cut_off_and_others_are_not(sent: bytes) -> None:
    async def scene(connect: Connect) -> None:
        kept, asking = await connect()
        asking.write(GET)
        await answer_of(kept)
        reader, writer = await connect()  # after the other one, so that this one's time is up later
        writer.write(sent)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        asking.write(GET)
        assert (await answer_of(kept))[0].startswith(b"HTTP/1.1 200 ")

    before = counted()
    with capture_logs() as logs:
        played(scene)
    assert [line["event"] for line in logs].count("cut off") == 1
    assert counted() == before + 1


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word() -> None:
    async def scene(connect: Connect) -> None:
        reader, _ = await connect()
        assert await reader.read() == b""

    with capture_logs() as logs:
        played(scene)
    assert "cut off" not in [line["event"] for line in logs]


HEADER = b"X-Filler: " + 1000 * b"a" + b"\r\n"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_head_beyond_its_size_is_refused_and_the_connection_ends(at_once: bool) -> None:
    async def scene(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET /thing HTTP/1.1\r\nHost: a\r\n")
        for _ in range(70):
            writer.write(HEADER)
            if not at_once:
                await writer.drain()
                await asyncio.sleep(0)
        if at_once:
            writer.write(b"\r\n")
        head, body = await answer_of(reader)
        assert head.startswith(b"HTTP/1.1 431 ")
        assert b"64 kB" in body
        assert await reader.read() == b""

    played(scene)


def test_a_large_head_within_its_size_and_large_bodies_pass() -> None:
    async def scene(connect: Connect) -> None:
        reader, writer = await connect()
        body = bytes(2 * MOST_HEAD_BYTES)
        one = b"POST /thing HTTP/1.1\r\nHost: a\r\n" + 60 * HEADER + b"Content-Length: %d\r\n\r\n" % len(body)
        for _ in range(2):
            writer.write(one + body)
            head, told = await answer_of(reader)
            assert (head[:13], told) == (b"HTTP/1.1 200 ", str(len(body)).encode())
        writer.write(one + body + 2000 * GET + GET[:20])
        for _ in range(2001):
            assert (await answer_of(reader))[0].startswith(b"HTTP/1.1 200 ")
        writer.write(GET[20:])
        assert (await answer_of(reader))[0].startswith(b"HTTP/1.1 200 ")

    played(scene, Protocol)


def test_what_is_no_http_is_told_so() -> None:
    async def scene(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        head, body = await answer_of(reader)
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"http_400" in body
        assert dated(head) <= datetime.now(UTC) < dated(head) + timedelta(seconds=5)

    played(scene)


NO_CHUNK = b"POST /thing HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n"


@pytest.mark.parametrize(
    ("before", "broken", "status"),
    [(2, b"no HTTP\r\n\r\n", 400), (2, NO_CHUNK, 400), (1, GET[:-2] + 400 * HEADER, 431)],
)
def test_what_is_refused_behind_other_requests_is_answered_after_them(
    before: int, broken: bytes, status: int
) -> None:
    opened = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await opened.wait()
        await app(scope, receive, send)

    async def scene(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(before * GET + broken)
        asyncio.get_running_loop().call_later(3 * Hasty.head_seconds, opened.set)
        for expected in (*before * [200], status):
            assert (await answer_of(reader))[0].startswith(b"HTTP/1.1 %d " % expected)
        assert await reader.read() == b""

    played(scene, app=slow)


def test_a_broken_body_is_refused_at_once() -> None:
    async def scene(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(NO_CHUNK)
        assert (await answer_of(reader))[0].startswith(b"HTTP/1.1 400 ")
        assert await reader.read() == b""

    played(scene, Protocol)


def test_an_answer_before_the_body_is_whole_is_read_and_is_the_last() -> None:
    async def scene(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n")
        for _ in range(8):
            writer.write(bytes(1_000_000))
            await writer.drain()
        head, _ = await answer_of(reader)
        assert b"connection: close" in head
        assert await reader.read() == b""
        with pytest.raises(ConnectionError):  # and what comes yet is not swallowed for ever
            await send_for_ever(writer, b"x")

    played(scene)


def test_an_answer_to_a_whole_body_leaves_the_connection_open() -> None:
    async def scene(connect: Connect) -> None:
        reader, writer = await connect()
        for _ in range(3):
            writer.write(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
            head, _ = await answer_of(reader)
            assert b"connection: close" not in head

    played(scene)


def refusing_and_keeping_open() -> type[Protocol]:
    made = http_server.protocol(lambda data: REFUSED if data.startswith(b"POST") else None)
    made.look_seconds = 0.02
    return made


def test_what_is_refused_unread_leaves_the_connection_open_as_long_as_an_answer_does() -> None:
    async def scene(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(GET)
        await answer_of(reader)
        started = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < started + 1.5:  # longer than since the answer
            writer.write(b"POST / HTTP/1.1\r\n\r\n")
            assert (await answer_of(reader))[0] == REFUSED
        writer.write(GET)
        assert (await answer_of(reader))[0].startswith(b"HTTP/1.1 200 ")
        writer.write(b"POST / HTTP/1.1\r\n\r\n")
        await answer_of(reader)
        assert await reader.read() == b""  # idle, it ends

    played(scene, refusing_and_keeping_open(), timeout_keep_alive=1)


@pytest.mark.parametrize("made", [Hasty, refusing_and_keeping_open()])
def test_line_breaks_between_requests_keep_no_connection_open(made: type[Protocol]) -> None:
    async def scene(connect: Connect) -> None:
        reader, writer = await connect()
        for request in (GET, b"\r\n" + GET):
            writer.write(request)
            assert (await answer_of(reader))[0].startswith(b"HTTP/1.1 200 ")
        ended = asyncio.create_task(reader.read())
        while not ended.done():
            writer.write(b"\r\n")
            await asyncio.sleep(0.01)
        with contextlib.suppress(ConnectionResetError):
            assert await ended == b""

    with capture_logs() as logs:
        played(scene, made, timeout_keep_alive=1)
    assert "cut off" not in [line["event"] for line in logs]


def test_who_never_reads_refusals_is_cut_off() -> None:
    async def scene(connect: Connect) -> None:
        _, writer = await connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionError):
            await send_for_ever(writer, b"POST / HTTP/1.1\r\n\r\n")

    made = http_server.protocol(lambda data: bytes(1_000_000) if data.startswith(b"POST") else None)
    played(scene, made)


def test_who_never_reads_answers_is_cut_off_and_all_work_was_begun() -> None:
    """What the service counts for it from when it is made until it is done."""
    made, begun = 0, 0

    def direct(data: bytes) -> Coroutine[Any, Any, bytes]:
        nonlocal made
        made += 1
        return answer()

    async def answer() -> bytes:
        nonlocal begun
        begun += 1
        return bytes(1_000_000)

    async def scene(connect: Connect) -> None:
        _, writer = await connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionError):
            await send_for_ever(writer, b"POST / HTTP/1.1\r\n\r\n")
        assert made > 1
        await until(lambda: begun == made)

    played(scene, http_server.protocol(direct))


def test_one_servers_refusals_are_not_anothers() -> None:
    refusing = http_server.protocol(lambda _: REFUSED)
    assert refusing.direct is not None
    assert Protocol.direct is None
    assert http_server.protocol(None) is Protocol


class Desk:
    """Takes POSTs of a known length as they come, and answers them when the test says so."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.given_up: list[bytes] = []
        self.open = asyncio.Event()

    def __call__(self, data: bytes) -> Coroutine[Any, Any, bytes] | int | None:
        head, gap, body = data.partition(b"\r\n\r\n")
        if not gap or not head.startswith(b"POST /direct"):
            return None
        missing = int(head.rpartition(b" ")[2]) - len(body)
        if missing < 0:
            return None
        return missing or self._answer(body)

    async def _answer(self, body: bytes) -> bytes:
        self.taken.append(body)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.given_up.append(body)
            raise
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def direct(body: bytes) -> bytes:
    return b"POST /direct HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_what_is_taken_directly_is_answered_in_order_with_all_else() -> None:
    desk = Desk()

    async def scene(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(direct(b"one"))
        await until(lambda: desk.taken == [b"one"])
        writer.write(GET)
        await writer.drain()
        writer.write(direct(b"read as any other, behind one that is"))
        desk.open.set()
        for expected in (b"one", b"0", b"37"):
            assert (await answer_of(reader))[1] == expected
        writer.write(direct(b"three") + direct(b"four"))
        assert [(await answer_of(reader))[1] for _ in range(2)] == [b"5", b"4"]
        writer.write(direct(b"two"))
        assert (await answer_of(reader))[1] == b"two"

    played(scene, http_server.protocol(desk))


def test_what_comes_in_pieces_is_taken_when_it_is_whole() -> None:
    desk = Desk()
    desk.open.set()

    async def scene(connect: Connect) -> None:
        reader, writer = await connect()
        for size in (1, 2, 5):
            sent = direct(bytes(range(65, 91)))
            head = sent.index(b"\r\n\r\n") + 4
            writer.write(sent[:head])
            for place in range(head, len(sent), size):
                await writer.drain()
                await asyncio.sleep(0.001)
                writer.write(sent[place : place + size])
            assert (await answer_of(reader))[1] == bytes(range(65, 91))
        assert len(desk.taken) == 3

    played(scene, http_server.protocol(desk))


def test_who_does_not_send_the_rest_in_time_is_cut_off() -> None:
    async def scene(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(direct(b"whole")[:-1])
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""

    made = http_server.protocol(Desk())
    made.head_seconds = made.body_seconds = 0.1
    made.look_seconds = 0.02
    with capture_logs() as logs:
        played(scene, made)
    assert [line["event"] for line in logs].count("cut off") == 1


def kept(direct: http_server.Direct, made: list[Protocol]) -> type[Protocol]:
    class Kept(http_server.protocol(direct)):  # type: ignore[misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            made.append(self)
            super().connection_made(transport)

    return Kept


def test_what_was_taken_is_answered_before_a_graceful_end_and_the_connection_with_it() -> None:
    desk = Desk()
    made: list[Protocol] = []

    async def play() -> None:
        async with served(kept(desk, made)) as connect:
            reader, writer = await connect()
            writer.write(direct(b"one"))
            await until(lambda: desk.taken == [b"one"])
            (connection,) = made
            connection.shutdown()
            desk.open.set()
            assert (await answer_of(reader))[1] == b"one"
            assert await reader.read() == b""

    asyncio.run(asyncio.wait_for(play(), 20))


@pytest.mark.parametrize(
    ("rest", "answers"),
    [(b"e", [b"one"]), (b"e" + GET, [b"3", b"0"])],  # the second is read as any other
)
def test_what_comes_in_pieces_is_answered_too_before_a_graceful_end(
    rest: bytes, answers: list[bytes]
) -> None:
    desk = Desk()
    desk.open.set()
    made: list[Protocol] = []

    async def play() -> None:
        async with served(kept(desk, made)) as connect:
            reader, writer = await connect()
            writer.write(direct(b"one")[:-1])
            await until(lambda: bool(made) and made[0].awaits_more)
            made[0].shutdown()
            writer.write(rest)
            for expected in answers:
                assert (await answer_of(reader))[1] == expected
            assert await reader.read() == b""

    asyncio.run(asyncio.wait_for(play(), 20))


def test_a_refusal_before_a_graceful_end_is_the_connections_last_answer() -> None:
    made: list[Protocol] = []

    async def play() -> None:
        async with served(kept(lambda data: REFUSED if data.endswith(b"!") else 1, made)) as connect:
            reader, writer = await connect()
            writer.write(b"?")
            await until(lambda: bool(made) and made[0].awaits_more)
            made[0].shutdown()
            writer.write(b"!")
            assert await reader.read() == REFUSED

    asyncio.run(asyncio.wait_for(play(), 20))


def test_a_connection_whose_answer_failed_ends() -> None:
    async def fails() -> bytes:
        raise RuntimeError("no answer")

    async def scene(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(GET)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""

    played(scene, http_server.protocol(lambda _: fails()))


def test_one_connection_that_cannot_be_closed_does_not_save_the_others() -> None:
    class Odd(Hasty):
        looks = 0

        def end_if_late(self, now: float) -> None:
            Odd.looks += 1
            if Odd.looks % 2:
                raise RuntimeError("odd")
            super().end_if_late(now)

    async def scene(connect: Connect) -> None:
        for _ in range(2):
            reader, _ = await connect()
            assert await reader.read() == b""

    played(scene, Odd)


def test_the_work_for_who_went_away_is_given_up_and_leaves_nothing_behind() -> None:
    desk = Desk()

    async def scene(connect: Connect) -> None:
        _, writer = await connect()
        writer.write(direct(b"one"))
        await until(lambda: desk.taken == [b"one"])
        writer.close()
        try:
            await asyncio.wait_for(until(lambda: desk.given_up == [b"one"]), 5)
        finally:
            desk.open.set()  # or the server would wait for it
        reader, writer = await connect()
        writer.write(direct(b"two"))
        assert (await answer_of(reader))[1] == b"two"

    played(scene, http_server.protocol(desk))
