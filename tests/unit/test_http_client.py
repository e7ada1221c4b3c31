"""The client that asks model servers, against servers that write what each test says, byte for byte."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvloop

from api import http_client
from api.http_client import BrokenOff, HttpClient, Lost, Response
from tests.support.processes import free_port
from tests.support.tls import tls_server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nEmend-Version: 7\r\n\r\nok"


@dataclass
class Server:
    """Answers each question on a connection with the next of `answers`, the last for ever; None closes it.

    An answer that ends a connection: (its bytes, True).
    """

    answers: list[bytes | tuple[bytes, bool] | None]
    connections: int = 0
    questions: list[bytes] = field(default_factory=list)
    url: str = ""
    ended: list[asyncio.Event] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        ended = asyncio.Event()
        self.ended.append(ended)
        try:
            while question := await _question(reader):
                self.questions.append(question)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer is None:
                    return
                data, ends = (answer, False) if isinstance(answer, bytes) else answer
                writer.write(data)
                if ends:
                    return
        finally:
            ended.set()
            writer.close()


async def _question(reader: asyncio.StreamReader) -> bytes:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    lengths = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")]
    return head + await reader.readexactly(int(lengths[0][16:]) if lengths else 0)


@asynccontextmanager
async def serving(*answers: bytes | tuple[bytes, bool] | None) -> AsyncIterator[tuple[Server, HttpClient]]:
    server = Server(list(answers))
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    client = HttpClient(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    try:
        yield server, client
    finally:
        client.close()
        listening.close()
        await asyncio.gather(*(each.wait() for each in server.ended))


async def ask(client: HttpClient, seconds: float = 5) -> Response:
    return await client.request("POST", "/x", seconds=seconds, content=b"abc", headers={"A": "b"})


def test_it_asks_on_one_connection_and_reads_what_comes() -> None:
    async def talk() -> None:
        async with serving(OK) as (server, client):
            for _ in range(3):
                response = await ask(client)
                assert (response.status, response.content) == (200, b"ok")
                assert response.headers["emend-version"] == "7"
            await client.request("GET", "/ping", seconds=5)
        assert server.connections == 1
        head, _, body = server.questions[0].partition(b"\r\n\r\n")
        assert (head.split(b"\r\n")[0], body) == (b"POST /x HTTP/1.1", b"abc")
        assert {b"A: b", b"Content-Length: 3"} < set(head.split(b"\r\n"))
        assert server.questions[-1].startswith(b"GET /ping HTTP/1.1\r\nHost: 127.0.0.1:")

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("answer", "content", "keeps"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n",
            b"ok!",
            True,
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
        ((b"HTTP/1.0 200 OK\r\n\r\nall of it", True), b"all of it", False),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nall of it", True), b"all of it", False),
    ],
)
def test_every_way_to_end_an_answer(answer: bytes | tuple[bytes, bool], content: bytes, keeps: bool) -> None:
    async def talk() -> None:
        async with serving(answer) as (server, client):
            for _ in range(2):
                assert (await ask(client)).content == content
        assert server.connections == (1 if keeps else 2)

    asyncio.run(talk())


@pytest.mark.parametrize(
    "answer",
    [
        None,
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Le", True),
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ],
)
def test_what_breaks_off_or_is_no_http_is_told_and_the_next_question_has_a_connection_of_its_own(
    answer: bytes | tuple[bytes, bool] | None,
) -> None:
    async def talk() -> None:
        async with serving(answer, OK) as (server, client):
            with pytest.raises(BrokenOff):
                await ask(client)
            assert (await ask(client)).content == b"ok"
        assert server.connections == 2

    asyncio.run(talk())


def test_a_kept_connection_that_breaks_off_is_no_failure() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok"

    async def talk() -> None:
        async with serving(OK, None, OK, (half, True), OK) as (server, client):
            for _ in range(3):
                assert (await ask(client)).content == b"ok"
        assert (server.connections, len(server.questions)) == (3, 5)

    asyncio.run(talk())


@pytest.mark.parametrize(
    "behind", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le", b"\x00"]
)
def test_what_comes_behind_an_answer_ends_the_connection(behind: bytes) -> None:
    async def talk() -> None:
        async with serving(OK + behind, OK) as (server, client):
            for _ in range(2):
                assert (await ask(client)).content == b"ok"
        assert server.connections == 2

    asyncio.run(talk())


def test_a_trailer_changes_no_header() -> None:
    answer = b"HTTP/1.1 200 OK\r\nEmend-Version: 7\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nEmend-Version: 9\r\n\r\n"

    async def talk() -> None:
        async with serving(answer) as (_, client):
            assert (await ask(client)).headers["emend-version"] == "7"

    asyncio.run(talk())


@pytest.mark.parametrize("way", ["asyncio", "uvloop"])
def test_of_a_names_addresses_the_first_that_answers_is_asked(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk() -> None:
        async with serving(OK) as (server, client):
            loop = asyncio.get_running_loop()
            good = await loop.getaddrinfo("127.0.0.1", client._port, type=socket.SOCK_STREAM)
            with _full() as swallows:
                bad = await loop.getaddrinfo("127.0.0.1", swallows, type=socket.SOCK_STREAM)

                async def both(*_: object, **__: object) -> list[object]:
                    return [*bad, *good]

                client._resolve = both  # type: ignore[method-assign]
                assert (await ask(client)).content == b"ok"
            (connection,) = client._idle
            opened = connection._transport.get_extra_info("socket")
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert server.connections == 1

    if way == "uvloop":
        uvloop.run(talk())
    else:
        asyncio.run(talk())


def test_a_head_without_end_is_cut_off() -> None:
    async def talk() -> None:
        async with serving(b"HTTP/1.1 200 OK\r\n" + 100 * (b"A: " + 1000 * b"b" + b"\r\n")) as (_, client):
            with pytest.raises(BrokenOff, match="head of more than"):
                await ask(client)

    asyncio.run(talk())


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "MOST_ANSWER_BYTES", 1000)

    async def talk() -> None:
        async with serving(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(2000)) as (_, client):
            with pytest.raises(BrokenOff, match="more than 1000 bytes"):
                await ask(client)

    asyncio.run(talk())


def test_who_gives_up_leaves_no_answer_behind_for_the_next() -> None:
    late = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"

    async def talk() -> None:
        async with serving(late, late, OK) as (server, client):
            with pytest.raises(TimeoutError):
                await ask(client, seconds=1)
            asking = asyncio.create_task(ask(client, seconds=30))
            while len(server.questions) < 2 and not asking.done():
                await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert (await ask(client)).content == b"ok"
        assert server.connections == 3

    asyncio.run(talk())


def test_a_connection_that_the_server_closed_meanwhile_is_not_asked() -> None:
    async def talk() -> None:
        async with serving((OK, True)) as (server, client):
            for count in (1, 2):
                assert (await ask(client)).content == b"ok"
                await server.ended[-1].wait()
                while client._idle and client._idle[-1].is_free:
                    await asyncio.sleep(0.01)
                assert server.connections == count

    asyncio.run(talk())


def test_an_old_connection_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk() -> None:
        async with serving(OK) as (server, client):
            await ask(client)
            monkeypatch.setattr(http_client, "KEPT_OPEN_SECONDS", 0.0)
            await ask(client)
        assert server.connections == 2

    asyncio.run(talk())


def test_many_ask_at_once_over_so_many_connections_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "MOST_CONNECTIONS", 3)

    async def talk() -> None:
        async with serving(OK) as (server, client):
            answers = await asyncio.gather(*(ask(client) for _ in range(20)))
        assert {each.content for each in answers} == {b"ok"}
        assert (server.connections, len(server.questions)) == (3, 20)

    asyncio.run(talk())


def test_nobody_there_is_unreachable_and_a_network_that_swallows_everything_too() -> None:
    async def talk(client: HttpClient) -> None:
        with pytest.raises(Lost):
            await ask(client)

    asyncio.run(talk(HttpClient(f"http://127.0.0.1:{free_port()}")))
    asyncio.run(talk(HttpClient("http://no..name")))
    with _full() as port:
        asyncio.run(talk(HttpClient(f"http://127.0.0.1:{port}", connect_seconds=0.2)))


@contextmanager
def _full() -> Iterator[int]:
    """The port of a listener whose line is full: nobody gets a connection."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for each in waiting:
                each.close()


def test_over_tls_the_certificate_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk() -> int:
        return (await HttpClient(f"https://localhost:{port}").request("GET", "/", seconds=5)).status

    with tls_server(tmp_path, ends=datetime.now(UTC) + timedelta(days=1)) as port:
        with pytest.raises(Lost) as failed:
            asyncio.run(talk())
        assert isinstance(failed.value.__cause__, ssl.SSLCertVerificationError)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
        assert asyncio.run(talk()) == 200


def test_no_header_can_begin_another() -> None:
    async def talk() -> None:
        for name, value in (("A", "b\r\nC: d"), ("A\n", "b")):
            with pytest.raises(ValueError, match="line break"):
                await HttpClient("http://a").request("GET", "/", seconds=1, headers={name: value})

    asyncio.run(talk())
