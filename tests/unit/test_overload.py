"""What is refused unread: whole requests for the default model alone; any doubt is for who reads properly."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from api.batching import MOST_WAITING, Batcher
from api.overload import refusing
from api.upstream import Answers

BODY = b'{"image": "AAAA"}'


def request(
    body: bytes = BODY, head: bytes = b"POST /invocations/ HTTP/1.1", length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    return head + b"\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + body


@pytest.mark.parametrize(
    ("sent", "is_refused"),
    [
        (request(), True),
        (request(head=b"POST /invocations HTTP/1.1"), True),
        (request(b'{"image": "AAAA", "model": "photos"}'), False),
        (request(b'{"image": "AAAA", "version": 3}'), False),
        (request(head=b"POST /predict HTTP/1.1"), False),
        (request(head=b"GET /invocations/ HTTP/1.1"), False),
        (request(length=len(BODY) + 1), False),  # the rest is still to come
        (request() + request(), False),  # two at once
        (b"POST /invocations/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (b"POST /invocations/ HTT", False),
        (b"", False),
    ],
)
def test_only_whole_requests_for_the_default_model_are_refused_unread(sent: bytes, is_refused: bool) -> None:
    assert (asyncio.run(refused(sent, waiting=MOST_WAITING + 1)) is not None) == is_refused


def test_nothing_is_refused_while_there_is_room() -> None:
    assert asyncio.run(refused(request(), waiting=MOST_WAITING - 1)) is None


def test_nothing_is_refused_before_the_gateway_has_started() -> None:
    assert refusing(lambda: None, "doodles")(request()) is None


async def refused(sent: bytes, waiting: int) -> bytes | None:
    is_open = asyncio.Event()

    async def score(_model: str, pixels: NDArray[np.uint8], _version: int | None) -> Answers:
        await is_open.wait()
        return Answers(np.ones((len(pixels), 1)), 1)

    batcher = Batcher(score)
    image = np.zeros((28, 28), np.uint8)
    first = asyncio.create_task(batcher.answer("doodles", image))
    for _ in range(5):
        await asyncio.sleep(0)  # it is under way
    tasks = [first, *(asyncio.create_task(batcher.answer("doodles", image)) for _ in range(waiting))]
    await asyncio.sleep(0)
    answer = refusing(lambda: batcher, "doodles")(sent)
    is_open.set()
    await asyncio.gather(*tasks)
    return answer
