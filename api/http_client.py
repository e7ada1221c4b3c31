"""HTTP/1.1 to one server over kept connections, as much of it as asking a model server needs.

    client = HttpClient("http://127.0.0.1:9090")
    response = await client.request("POST", "/invocations", seconds=1, content=pixels, headers={"Accept": RAW})

One question at a time on each connection; httptools reads the answers. No redirects, cookies, proxies or compression:
two of our own processes talk here, thousands of times a second, and aiohttp took four times as long for a question
(docs/performance.md).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

MOST_CONNECTIONS = 32  # who finds all of them busy waits
KEPT_OPEN_SECONDS = 60.0  # ours keep an idle one for longer (core/http_server.py)
MOST_ANSWER_BYTES = 64_000_000
_PORTS = {"http": 80, "https": 443}


class Unreachable(Exception):
    """No connection came about, so nothing was asked."""


class BrokenOff(Exception):
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
        """path: quoted. Raises TimeoutError after `seconds`, Unreachable, or BrokenOff."""
        question = self._written(method, path, content, headers or {})
        async with asyncio.timeout(seconds), self._places:
            connection = self._kept() or await self._connected()
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

    def close(self) -> None:
        while self._idle:
            self._idle.pop().abort()

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
                _, protocol = await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        except OSError as exc:  # TimeoutError among them
            raise Unreachable(f"no connection to {self._host}:{self._port}") from exc
        return protocol


class _Connection(asyncio.Protocol):
    """`on_…` are called by the parser."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asking: asyncio.Future[Response] | None = None
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._bytes = 0
        self._ends_with_connection = False
        self._keeps = True
        self.used_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def ask(self, question: bytes) -> Response:
        self._asking = self._loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._keeps = False
        if self._transport.is_closing():
            raise BrokenOff("the server closed the connection")
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
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError) as exc:
            self._fail(f"the server answered with what is no HTTP ({type(exc).__name__})")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ends_with_connection and exc is None:
            self._answer()
        else:
            self._fail("the server closed the connection")

    def on_message_begin(self) -> None:
        self._headers, self._parts, self._bytes = {}, [], 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._ends_with_connection = self._parser.get_status_code() >= 200 and not (
            {"content-length", "transfer-encoding"} & self._headers.keys()
        )

    def on_body(self, body: bytes) -> None:
        self._bytes += len(body)
        if self._bytes > MOST_ANSWER_BYTES:
            self._fail(f"the server answered with more than {MOST_ANSWER_BYTES} bytes")
            return
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:  # one below only says that the answer will come
            self._answer()

    def _answer(self) -> None:
        self._ends_with_connection = False
        if self._asking is None or self._asking.done():  # a second answer
            self._keeps = False
            return
        self._keeps = self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()
        self.used_at = self._loop.time()
        content = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._asking.set_result(Response(self._parser.get_status_code(), self._headers, content))

    def _fail(self, why: str) -> None:
        self._ends_with_connection = False
        if self._asking is not None and not self._asking.done():
            self._asking.set_exception(BrokenOff(why))
        self._transport.abort()
