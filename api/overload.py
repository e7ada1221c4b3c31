"""More is asked than can be answered: single images are refused before anything of them is read but their length.

An answer costs a quarter of a millisecond; a refusal that was parsed, checked and observed like any other request cost
nearly as much, and at four times of what the gateway can answer half of its time went into refusing.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson
from uuid_utils import uuid7

from api.batching import Batcher, TooBusy
from core import telemetry
from core.errors import EmendError

_HEAD = re.compile(rb"POST (/invocations/?) HTTP/1\.1\r\n", re.ASCII)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_MOST_BYTES = 65_536  # what comes at once


def refusing(batcher: Callable[[], Batcher | None], default_model: str) -> Callable[[bytes], bytes | None]:
    """batcher: None until the gateway has started."""

    def refuse(data: bytes) -> bytes | None:
        waits = batcher()
        if waits is None or not waits.is_full(default_model) or not _is_one_for_the_live_version(data):
            return None
        telemetry.count_request("gateway", "POST", "/invocations/", TooBusy.status, 0.0)
        return _written(waits.refusal(default_model))

    return refuse


def _is_one_for_the_live_version(data: bytes) -> bool:
    """A whole request for the default model. Any doubt is for who reads it properly."""
    head_bytes = data.find(b"\r\n\r\n") + 4
    if not _HEAD.match(data) or head_bytes < 4 or len(data) > _MOST_BYTES:
        return False
    length = _LENGTH.search(data, 0, head_bytes)
    is_whole = length is not None and len(data) == head_bytes + int(length[1])
    return is_whole and b'"model"' not in data and b'"version"' not in data


def _written(refusal: EmendError) -> bytes:
    body = orjson.dumps(refusal.as_json())
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
        f"x-request-id: {uuid7()}\r\nx-content-type-options: nosniff\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
