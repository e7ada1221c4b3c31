"""What is refused unread: whole requests for the default model alone; any doubt is for who reads it properly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from api.batching import Batcher
from api.overload import refusing
from api.upstream import Answers
from core.http_server import Refuse

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
    raise NotImplementedError


def played(scene: Callable[[Batcher, Refuse], None], turns: int = 1) -> None:
    """Each in a turn of the loop of its own."""

    async def play() -> None:
        batcher = Batcher(_score)
        refuse = refusing(lambda: batcher, "doodles")
        for _ in range(turns):
            scene(batcher, refuse)
            await asyncio.sleep(0)

    asyncio.run(play())


@pytest.mark.parametrize(
    ("sent", "is_refused"),
    [
        (request(), True),
        (request(head=b"POST /invocations HTTP/1.1"), True),
        (request(more=b"Connection: keep-alive\r\n"), True),
        (request(b'{"image": "AAAA", "model": "photos"}'), False),
        (request(b'{"image": "AAAA", "m\\u006fdel": "photos"}'), False),
        (request(b'{"image": "AAAA", "version": 3}'), False),
        (request(head=b"POST /predict HTTP/1.1"), False),
        (request(head=b"GET /invocations/ HTTP/1.1"), False),
        (request(head=b"POST /invocations/ HTTP/1.0"), False),
        (request(length=len(BODY) + 1), False),  # the rest is still to come
        (request() + request(), False),  # two at once
        (request(more=b"Connection: close\r\n"), False),
        (request(more=b"CONNECTION:Upgrade\r\nUpgrade: websocket\r\n"), False),
        (request(more=b"Expect: 100-continue\r\n"), False),
        (request(more=b"Transfer-Encoding: chunked\r\n"), False),
        (request(more=b"content-length: 3\r\n"), False),
        (b"POST /invocations/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (b"POST /invocations/ HTT", False),
        (b"POST /invocations/ HTTP/1.1\r\n", False),
        (b"", False),
    ],
)
def test_only_whole_requests_for_the_default_model_are_refused_unread(sent: bytes, is_refused: bool) -> None:
    def scene(batcher: Batcher, refuse: Refuse) -> None:
        with batcher.admit("doodles", batcher.most_admitted):
            assert (refuse(sent) is not None) == is_refused

    played(scene)


def test_nothing_is_refused_because_another_model_has_no_room() -> None:
    def scene(batcher: Batcher, refuse: Refuse) -> None:
        with batcher.admit("photos", batcher.most_admitted), batcher.admit_replay("doodles"):
            assert refuse(request()) is None

    played(scene)


def test_the_last_place_goes_to_one_of_those_that_are_read_in_one_turn_of_the_loop() -> None:
    def scene(batcher: Batcher, refuse: Refuse) -> None:
        with batcher.admit("doodles", batcher.most_admitted - 1):
            assert refuse(request()) is None
            assert refuse(request()) is not None  # the one before it is still to be admitted

    played(scene, turns=2)


def test_what_is_read_in_one_turn_of_the_loop_is_refused_only_for_its_own_kind() -> None:
    def scene(batcher: Batcher, refuse: Refuse) -> None:
        for_another = request(b'{"image": "AAAA", "model": "photos"}')
        for _ in range(2 * batcher.most_admitted):
            assert refuse(for_another) is None
        asked = [refuse(request()) for _ in range(batcher.most_admitted + 20)]
        assert asked.count(None) == batcher.most_admitted
        assert asked[-1] is not None

    played(scene, turns=3)  # and of the next turn's none is missing


def test_a_refusal_is_a_whole_answer_with_the_requests_own_id_if_it_is_a_sane_one() -> None:
    def scene(batcher: Batcher, refuse: Refuse) -> None:
        with batcher.admit("doodles", batcher.most_admitted):
            answer = refuse(request(more=b"X-Request-ID: mine-7\r\n"))
            other = refuse(request(more=b"X-Request-Id: <script>\r\n"))
        assert answer is not None
        assert other is not None
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"content-length: %d" % len(body) in head
        assert b"x-request-id: mine-7" in head
        assert b"script" not in other
        assert json.loads(body)["error"]["code"] == "too_busy"

    played(scene)
