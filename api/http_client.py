"""HTTP/1.1 to a model server over kept connections, as much of it as asking one needs.

    client = HttpClient("http://127.0.0.1:9090")
    response = await client.request("POST", "/invocations", seconds=1, content=pixels, headers={"Accept": RAW})

One question at a time on each connection; httptools reads the answers. No redirects, cookies, proxies or compression.
A question to a server that does nothing took aiohttp 0.33 ms of the processor and takes this 0.08:
docs/performance.md.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
from aiohappyeyeballs import start_connection

from core.errors import Unavailable

MOST_CONNECTIONS = 32  # who finds all of them busy waits
KEPT_OPEN_SECONDS = 60.0  # ours keep an idle one for longer (core/http_server.py)
MOST_HEAD_BYTES = 65_536
MOST_ANSWER_BYTES = 64_000_000
NEXT_ADDRESS_SECONDS = 0.25  # a name's next address is tried beside one that has not answered
_PORTS = {"http": 80, "https": 443}


class Lost(Unavailable):
    """No connection came about, or it broke off."""


class BrokenOff(Lost):
    """The connection ended before the answer was whole, or what came is no HTTP."""


@dataclass(frozen=True, slots=True)
class Response:
    """headers: by name, in lower case; of several with one name the last."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class HttpClient:
    """Belongs to one event loop. url: `http://host:port` or `https://host`."""

    def __init__(self, url: str, connect_seconds: float = 2.0) -> None:
        split = urlsplit(url)
        self._url = url
        self._host = split.hostname or ""
        self._port = split.port or _PORTS[split.scheme]
        self._tls = ssl.create_default_context() if split.scheme == "https" else None
        self._always = f"Host: {split.netloc}\r\n"
        self._connect_seconds = connect_seconds
        self._idle: list[_Connection] = []  # the one used last is the last
        self._places = asyncio.Semaphore(MOST_CONNECTIONS)

    async def request(
        self,
        method: str,
        path: str,
        *,
        seconds: float,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """path: quoted. What it asks must change nothing: it is asked again when a kept connection breaks off, as one
        does that the server closes just then. Raises TimeoutError after `seconds`, Lost, or BrokenOff.
        """
        question = self._written(method, path, content, headers or {})
        async with asyncio.timeout(seconds), self._places:
            kept = self._kept()
            if kept is not None:
                with suppress(BrokenOff):
                    return await self._ask(kept, question)
            return await self._ask(await self._connected(), question)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().abort()

    async def _ask(self, connection: _Connection, question: bytes) -> Response:
        try:
            response = await connection.ask(question)
        except BaseException:  # cancelled, too: its answer would be taken for the next one's
            connection.abort()
            raise
        if connection.is_free:
            self._idle.append(connection)
        else:
            connection.abort()
        return response

    def _written(self, method: str, path: str, content: bytes, headers: Mapping[str, str]) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if lines.count("\r") != len(headers) or lines.count("\n") != len(headers):
            raise ValueError("a line break in a header")
        length = f"Content-Length: {len(content)}\r\n" if content or method != "GET" else ""
        head = f"{method} {path} HTTP/1.1\r\n{self._always}{lines}{length}\r\n"
        return head.encode("latin-1") + content

    def _kept(self) -> _Connection | None:
        since = asyncio.get_running_loop().time() - KEPT_OPEN_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.is_free and connection.used_at > since:
                return connection
            connection.abort()
        return None

    async def _connected(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                opened = await start_connection(
                    await self._resolve(), happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, interleave=1, loop=loop
                )
                _, connection = await loop.create_connection(
                    partial(_Connection, self._url),
                    sock=opened,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
        except (OSError, UnicodeError) as exc:  # UnicodeError: a name that cannot be one
            raise Lost(f"the model server at {self._url} does not answer; try again in a moment") from exc
        return connection

    async def _resolve(self) -> list[Any]:
        loop = asyncio.get_running_loop()
        return await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)


class _Connection(asyncio.Protocol):
    """`on_…` are called by the parser."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._asking: asyncio.Future[Response] | None = None
        self._keeps = False
        self.used_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def ask(self, question: bytes) -> Response:
        self._asking = self._loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._head_bytes = self._bytes = 0
        self._is_in_body = self._ends_with_connection = self._keeps = False
        if self._transport.is_closing():
            self._fail("closed the connection")
        else:
            self._transport.write(question)
        return await self._asking

    @property
    def is_free(self) -> bool:
        """For another question: the last one and its answer are whole, and both sides keep the connection."""
        return self._keeps and not self._transport.is_closing()

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._asking is None or self._asking.done():  # nobody asked
            self.abort()
            return
        if not self._is_in_body:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._fail(f"answered with what is no HTTP ({type(exc).__name__})")
        if not self._is_in_body and self._head_bytes > MOST_HEAD_BYTES:
            self._fail(f"answered with a head of more than {MOST_HEAD_BYTES} bytes")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._asking is not None and self._ends_with_connection and exc is None:
            self._answer()
        else:
            self._fail("closed the connection")

    def on_message_begin(self) -> None:
        self._is_in_body = False
        if self._asking is None or self._asking.done():  # behind the answer comes what nobody asked for
            self._keeps = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_in_body:  # else of a trailer
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._is_in_body = True
        chunked = "chunked" in self._headers.get("transfer-encoding", "").lower()
        self._ends_with_connection = (
            self._parser.get_status_code() >= 200 and not chunked and "content-length" not in self._headers
        )

    def on_body(self, body: bytes) -> None:
        self._bytes += len(body)
        if self._bytes > MOST_ANSWER_BYTES:
            self._fail(f"answered with more than {MOST_ANSWER_BYTES} bytes")
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:
            self._answer()
        else:  # only says that the answer will come
            self._headers = {}

    def _answer(self) -> None:
        self._ends_with_connection = False
        if self._asking is None or self._asking.done():
            return
        self._keeps = self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()
        self.used_at = self._loop.time()
        content = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._asking.set_result(Response(self._parser.get_status_code(), self._headers, content))

    def _fail(self, why: str) -> None:
        self._ends_with_connection = False
        if self._asking is not None and not self._asking.done():
            self._asking.set_exception(
                BrokenOff(f"the model server at {self._url} {why}; try again in a moment")
            )
        self._transport.abort()
