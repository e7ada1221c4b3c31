"""What is refused unread: whole requests for the default model alone; any doubt is for who reads properly."""

from __future__ import annotations

import json

import pytest

from api.overload import MOST_AT_ONCE, refusing

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
    refuse = refusing(lambda: 0, "doodles")
    assert (refuse(sent, MOST_AT_ONCE) is not None) == is_refused


def test_nothing_is_refused_while_there_is_room_and_other_requests_take_none() -> None:
    assert refusing(lambda: 0, "doodles")(request(), MOST_AT_ONCE - 1) is None
    assert refusing(lambda: 3, "doodles")(request(), MOST_AT_ONCE + 2) is None


def test_a_refusal_is_a_whole_answer() -> None:
    answer = refusing(lambda: 0, "doodles")(request(), MOST_AT_ONCE)
    assert answer is not None
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"content-length: %d" % len(body) in head
    assert json.loads(body)["error"]["code"] == "too_busy"
