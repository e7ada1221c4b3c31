"""What is taken as it came, and what is refused unread; any doubt is for who reads it properly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from api.batching import MOST_IMAGES_A_CALL, MOST_WAITING, Batcher
from api.direct import CLIENT_GONE, Direct
from api.predictions import lean
from api.upstream import Answers

BODY = b'{"image": "AAAA"}'


def request(
    body: bytes = BODY,
    head: bytes = b"POST /invocations/ HTTP/1.1",
    length: int | None = None,
    more: bytes = b"",
) -> bytes:
    size = len(body) if length is None else length
    return head + b"\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n" % (size, more) + body


async def _score(_model: str, _pixels: NDArray[np.uint8], _version: int | None) -> Answers:
    pytest.fail("to take a request, or to refuse it, asks no model server")


MOST_ADMITTED = MOST_IMAGES_A_CALL + MOST_WAITING  # until it is seen how fast they are answered

Made = bytes | str | int | None


def test_a_request_whose_client_goes_away_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[str, int, float]] = []
    monkeypatch.setattr(
        "core.telemetry.count_request",
        lambda _service, _method, route, status, seconds: counted.append((route, status, seconds)),
    )

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async def play() -> None:
        app = FastAPI()
        app.state.gateway = SimpleNamespace(batcher=Batcher(_score))
        direct = Direct(app, lean, "gateway", "doodles")
        monkeypatch.setattr(direct, "_response", never)
        work = direct(request())
        assert asyncio.iscoroutine(work)
        asking = asyncio.ensure_future(work)
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait([asking])

    asyncio.run(play())
    ((route, status, seconds),) = counted
    assert (route, status) == ("/invocations/", CLIENT_GONE)
    assert seconds >= 0.009


def played(scene: Callable[[Batcher, Callable[[bytes], Made]], None]) -> None:
    async def play() -> None:
        batcher = Batcher(_score)
        app = FastAPI()
        app.state.gateway = SimpleNamespace(batcher=batcher)
        direct = Direct(app, lean, "gateway", "doodles")

        def made(data: bytes) -> Made:
            found = direct(data)
            if asyncio.iscoroutine(found):
                found.close()
                return "taken"
            assert found is None or isinstance(found, bytes | int)
            return found

        scene(batcher, made)

    asyncio.run(play())


@pytest.mark.parametrize(
    ("sent", "made"),
    [
        (request(), "taken"),
        (request(head=b"POST /invocations HTTP/1.1"), "taken"),
        (request(more=b"CONNECTION: Keep-Alive\r\nX-Other:\tw\xc3\xb6rd \r\n"), "taken"),
        (request(b'{"image": "AAAA", "model": "photos"}'), "taken"),
        (request(length=len(BODY) + 7), 7),
        (request(b"", length=0), "taken"),
        (request(head=b"POST /predict HTTP/1.1"), None),
        (request(head=b"GET /invocations/ HTTP/1.1"), None),
        (request(head=b"POST /invocations/?draft=1 HTTP/1.1"), None),
        (request(head=b"POST /invocations/ HTTP/1.0"), None),
        (request() + request(), None),
        (request(length=100_000), None),
        (request(more=b"Connection: close\r\n"), None),
        (request(more=b"CONNECTION:Upgrade\r\nUpgrade: websocket\r\n"), None),
        (request(more=b"Expect: 100-continue\r\n"), None),
        (request(more=b"Transfer-Encoding: chunked\r\n"), None),
        (request(more=b"content-length: 3\r\n"), None),
        (request(more=b"Content-Length : 3\r\n"), None),
        (request(more=b"X-Folded: one\r\n two\r\n"), None),
        (request(more=b"X-Odd: a\nContent-Length: 3\r\n"), None),
        (request(more=b"X-Odd: a\x00b\r\n"), None),
        (request(more=b"no colon\r\n"), None),
        (b"POST /invocations/ HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"POST /invocations/ HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc", None),
        (b"POST /invocations/ HTT", None),
        (b"", None),
    ],
)
def test_requests_in_their_plainest_form_are_taken_as_they_came(sent: bytes, made: Made) -> None:
    def scene(_: Batcher, direct: Callable[[bytes], Made]) -> None:
        assert direct(sent) == made

    played(scene)


@pytest.mark.parametrize(
    ("sent", "is_refused"),
    [
        (request(), True),
        (request(b'{"image": "AAAA", "model": "photos"}'), False),
        (request(b'{"image": "AAAA", "m\\u006fdel": "photos"}'), False),
        (request(b'{"image": "AAAA", "version": 3}'), False),
    ],
)
def test_requests_for_the_live_version_are_refused_unread_when_no_more_may_wait(
    sent: bytes, is_refused: bool
) -> None:
    def scene(batcher: Batcher, direct: Callable[[bytes], Made]) -> None:
        with batcher.admit("doodles", MOST_ADMITTED):
            assert (direct(sent) != "taken") == is_refused

    played(scene)


def observed() -> float:
    labels = {"service": "gateway", "route": "/invocations/"}
    return REGISTRY.get_sample_value("emend_http_request_duration_seconds_count", labels) or 0.0


def refused() -> float:
    labels = {"service": "gateway", "method": "POST", "route": "/invocations/", "status": "503"}
    return REGISTRY.get_sample_value("emend_http_requests_total", labels) or 0.0


def test_a_refusal_is_counted_and_takes_no_time() -> None:
    def scene(batcher: Batcher, direct: Callable[[bytes], Made]) -> None:
        before = refused(), observed()
        with batcher.admit("doodles", MOST_ADMITTED):
            assert isinstance(direct(request()), bytes)
        assert (refused(), observed()) == (before[0] + 1, before[1])

    played(scene)


def test_a_place_that_is_not_whole_is_none() -> None:
    def scene(batcher: Batcher, direct: Callable[[bytes], Made]) -> None:
        batcher.places("doodles").most = 100.7  # it follows how fast images are answered
        with batcher.admit("doodles", 99):
            assert direct(request()) == "taken"
        with batcher.admit("doodles", 100):
            assert isinstance(direct(request()), bytes)

    played(scene)


def test_nothing_is_refused_because_another_model_has_no_room() -> None:
    def scene(batcher: Batcher, direct: Callable[[bytes], Made]) -> None:
        with batcher.admit("photos", MOST_ADMITTED), batcher.admit_replay("doodles"):
            assert direct(request()) == "taken"

    played(scene)


def test_those_that_are_read_in_one_turn_of_the_loop_count_before_they_are_admitted() -> None:
    def scene(batcher: Batcher, direct: Callable[[bytes], Made]) -> None:
        for _ in range(2 * MOST_ADMITTED):
            assert direct(request(b'{"image": "AAAA", "model": "photos"}')) == "taken"
        asked = [direct(request()) for _ in range(MOST_ADMITTED + 20)]
        assert asked.count("taken") == MOST_ADMITTED
        assert isinstance(asked[-1], bytes)

    played(scene)


def test_a_refusal_is_a_whole_answer_with_the_requests_own_id_if_it_is_a_sane_one() -> None:
    def scene(batcher: Batcher, direct: Callable[[bytes], Made]) -> None:
        with batcher.admit("doodles", MOST_ADMITTED):
            answer = direct(request(more=b"X-Request-ID: mine-7\r\n"))
            other = direct(request(more=b"X-Request-Id: <script>\r\n"))
        assert isinstance(answer, bytes)
        assert isinstance(other, bytes)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"content-length: %d" % len(body) in head
        assert b"x-request-id: mine-7" in head
        assert b"retry-after: 1" in head
        assert head.count(b"\r\ndate: ") == 1
        assert b"script" not in other
        assert json.loads(body)["error"]["code"] == "too_busy"

    played(scene)
