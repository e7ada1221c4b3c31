"""The gateway's question to the model server: taken as it came, answered as the application would answer it."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog
from numpy.typing import NDArray
from structlog.testing import capture_logs

from core.http_server import protocol
from core.registry import Registry
from serving.app import ModelServer, create_app
from serving.direct import MOST_BYTES, Direct
from serving.follower import Follower
from serving.on_demand import OnDemand
from serving.protocol import RAW
from serving.versions import LoadedVersion, Versions, load
from tests.support.http_server import http_client
from tests.support.tiny_model import answer, graph, images, write_version
from tests.support.waiting import wait_until

BODY = images().tobytes()
AS_THE_GATEWAY = {"Content-Type": RAW, "Accept": RAW, "X-Request-Id": "first,second"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ModelServer]:
    versions = Versions("doodles")
    versions.swap(load(write_version(tmp_path, 1, graph(1))))
    with Registry("http://127.0.0.1:9") as registry:
        follower = Follower(registry, versions, tmp_path / "cache")
        yield ModelServer(versions, follower, OnDemand(registry, tmp_path / "cache"))


@pytest.fixture
def client(server: ModelServer) -> Iterator[httpx.Client]:
    with http_client(create_app(server), protocol(Direct(server))) as opened:
        yield opened


@dataclass(frozen=True)
class Told:
    status: int
    headers: Message
    content: bytes


def asked(client: httpx.Client, path: str, body: bytes, **more: str) -> Told:
    """As the gateway asks: head and body leave together, which httpx does not do."""
    headers = AS_THE_GATEWAY | {"Host": "a", "Content-Length": str(len(body))} | more
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=30) as sent:
        sent.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        response = HTTPResponse(sent)
        response.begin()
        return Told(response.status, response.headers, response.read())


def request(
    body: bytes = BODY,
    line: bytes = b"POST /invocations HTTP/1.1",
    length: int | None = None,
    content_type: bytes = b"application/octet-stream",
    accept: bytes = b"application/octet-stream",
) -> bytes:
    size = len(body) if length is None else length
    return line + b"\r\nHost: a\r\nContent-Type: %b\r\nAccept: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        content_type,
        accept,
        size,
        body,
    )


def made(server: ModelServer, data: bytes) -> Any:
    async def ask() -> Any:
        found = Direct(server)(data)
        return await found if asyncio.iscoroutine(found) else found

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "sent",
    [
        request(length=len(BODY) + 7),
        request(line=b"POST /models/other/invocations HTTP/1.1"),
        request(line=b"POST /models/doodles/versions/1/invocations HTTP/1.1"),
        request(line=b"POST /models/d%6Fodles/invocations HTTP/1.1"),
        request(line=b"GET /invocations HTTP/1.1"),
        request(content_type=b"application/json"),
        request(accept=b"*/*"),
        request(bytes(MOST_BYTES)),
        request(length=MOST_BYTES),
        request() + request(),
    ],
)
def test_what_is_in_doubt_is_for_the_application(server: ModelServer, sent: bytes) -> None:
    assert made(server, sent) is None


def test_without_a_free_place_the_application_says_so(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made(server, request()).startswith(b"HTTP/1.1 200 ")
    monkeypatch.setattr("serving.app._MOST_REQUESTS_AT_ONCE", 0)
    assert made(server, request()) is None


def test_before_a_version_answers_the_application_says_so(server: ModelServer) -> None:
    server.versions = Versions("doodles")
    assert made(server, request()) is None


@pytest.mark.parametrize("path", ["/invocations", "/models/doodles/invocations"])
@pytest.mark.parametrize("seconds_an_image", [0.0, math.inf])
def test_it_answers_as_the_application_does(
    client: httpx.Client,
    server: ModelServer,
    path: str,
    seconds_an_image: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []
    monkeypatch.setattr("serving.direct.count_images", lambda *given: taken.append(given[2]))
    loaded = server.versions.live("doodles")
    loaded.seconds_an_image = seconds_an_image
    with capture_logs() as lines:
        direct = asked(client, path, BODY)
        other = asked(client, path, BODY, TE="trailers")
        wait_until(lambda: sum(line["event"] == "scored" for line in lines) == 2)
    assert direct.status == other.status == 200
    assert direct.content == other.content == answer(graph(1), images()).astype("<f4").tobytes()
    for name in ("content-type", "content-length", "emend-model", "emend-version"):
        assert direct.headers[name] == other.headers[name]
    assert taken == [len(images())]
    told = [line for line in lines if line["event"] == "scored"]
    assert len(told) == 2
    assert told[0].items() >= {"model": "doodles", "version": "1", "status": 200}.items()


def test_a_line_in_the_log_has_the_requests_id(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[object] = []
    monkeypatch.setattr(
        "serving.direct.tell",
        lambda *_: bound.append(structlog.contextvars.get_contextvars().get("request_id")),
    )
    for request_id in ("first,second", "with spaces", "third"):
        asked(client, "/invocations", BODY, **{"X-Request-Id": request_id})
    wait_until(lambda: len(bound) == 3)  # told when the answer is on its way
    assert bound == ["first,second", None, "third"]


@pytest.mark.parametrize("seconds_an_image", [0.0, math.inf])
def test_what_is_wrong_with_a_request_is_told_in_mlflows_shape(
    client: httpx.Client, server: ModelServer, seconds_an_image: float
) -> None:
    server.versions.live("doodles").seconds_an_image = seconds_an_image
    for body in (BODY[:-1], b""):
        response = asked(client, "/invocations", body)
        assert response.status == 400
        assert json.loads(response.content)["error_code"] == "BAD_REQUEST"


class Odd(LoadedVersion):
    def __init__(self, like: LoadedVersion, seconds: float, *, fails: bool = False) -> None:
        self.__dict__ |= like.__dict__
        self._seconds, self._fails = seconds, fails

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(self._seconds)
        if self._fails:
            raise RuntimeError("a graph may fail with anything")
        return super().probabilities(pixels)


def test_a_version_that_fails_on_a_request_answers_the_next(
    client: httpx.Client, server: ModelServer
) -> None:
    loaded = server.versions.live("doodles")
    server.versions.swap(Odd(loaded, 0.0, fails=True))
    failed = asked(client, "/invocations", BODY)
    assert failed.status == 500
    assert json.loads(failed.content)["error_code"] == "INTERNAL_ERROR"
    assert b"graph may fail" not in failed.content
    server.versions.swap(loaded)
    assert asked(client, "/invocations", BODY).status == 200


def test_a_slow_version_answers_in_a_thread_and_takes_a_place(
    client: httpx.Client, server: ModelServer
) -> None:
    slow = Odd(server.versions.live("doodles"), 0.5)
    slow.seconds_an_image = 0.5
    server.versions.swap(slow)
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(asked, client, "/invocations", BODY) for _ in range(2)]
        wait_until(lambda: server.live.in_progress == 2)
        assert client.get("/ping").status_code == 200
        assert not any(each.done() for each in answers)
        assert {each.result().status for each in answers} == {200}
    assert server.live.in_progress == 0


def test_who_goes_away_keeps_a_place_until_the_thread_is_done(server: ModelServer) -> None:
    slow = Odd(server.versions.live("doodles"), 0.2)
    slow.seconds_an_image = 0.2
    server.versions.swap(slow)

    async def ask() -> None:
        asking = [asyncio.ensure_future(Direct(server)(request())) for _ in range(2)]  # type: ignore[arg-type]
        assert server.live.in_progress == 2  # before any of them has begun
        await asyncio.sleep(0.05)
        for each in asking:
            each.cancel()
        await asyncio.sleep(0.05)
        assert server.live.in_progress == 2
        await asyncio.wait(asking)
        assert server.live.in_progress == 0

    asyncio.run(ask())


def test_how_long_an_image_takes_is_seen_when_a_version_is_tried(server: ModelServer) -> None:
    assert 0 < server.versions.live("doodles").seconds_an_image < 1
