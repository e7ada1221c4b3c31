"""More is asked than can be answered: single images are refused before anything of them is read but their length.

An answer costs a quarter of a millisecond; a refusal that was parsed, checked and observed like any other request cost
nearly as much, and at four times of what the gateway can answer half of its time went into refusing.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson
from uuid_utils import uuid7

from api import metrics
from api.batching import MOST_IMAGES, MOST_WAITING, TooBusy, refusal
from core import telemetry, web

_HEAD = re.compile(rb"POST (/invocations/?) HTTP/1\.1\r\n", re.ASCII)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
MOST_AT_ONCE = MOST_IMAGES + MOST_WAITING  # in the call that is under way, and waiting for the next ones
_MOST_BYTES = 65_536  # what comes at once


def refusing(others: Callable[[], int], default_model: str) -> web.Refuse:
    """others: how many requests of other kinds are under way."""

    told = refusal(default_model)
    body = orjson.dumps(told.as_json())
    head = (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: %d\r\n"
        b"x-content-type-options: nosniff\r\ncontent-length: %d\r\nx-request-id: "
    ) % (told.retry_after_seconds, len(body))
    counted = metrics.REFUSED.labels(default_model)

    def refuse(data: bytes, under_way: int) -> bytes | None:
        # Those of this moment have not come as far as the batcher: its queue says too late that there are too many.
        if under_way - others() < MOST_AT_ONCE or not _is_one_for_the_live_version(data):
            return None
        counted.inc()
        telemetry.count_request("gateway", "POST", "/invocations/", TooBusy.status, 0.0)
        return b"%b%b\r\n\r\n%b" % (head, str(uuid7()).encode(), body)

    return refuse


def _is_one_for_the_live_version(data: bytes) -> bool:
    """A whole request for the default model. Any doubt is for who reads it properly."""
    head_bytes = data.find(b"\r\n\r\n") + 4
    if not _HEAD.match(data) or head_bytes < 4 or len(data) > _MOST_BYTES:
        return False
    length = _LENGTH.search(data, 0, head_bytes)
    is_whole = length is not None and len(data) == head_bytes + int(length[1])
    return is_whole and b'"model"' not in data and b'"version"' not in data
