"""More is asked than can be answered: single images are refused before anything of them is read but their head.

An answer costs a quarter of a millisecond; a refusal that was parsed, checked and observed like any other request cost
nearly as much, and at four times of what the gateway can answer half of its time went into refusing. Nothing hangs on
it: what is not refused here is refused by `Batcher.admit`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import orjson
from uuid_utils import uuid7

from api import metrics
from api.batching import Batcher, TooBusy, refusal
from core import telemetry, web
from core.http_server import Refuse

_BEGINNINGS = (b"POST /invocations/ HTTP/1.1\r\n", b"POST /invocations HTTP/1.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n")
_REQUEST_ID = re.compile(
    rb"\r\nx-request-id:[ \t]*(%b)[ \t]*\r\n" % web.SANE_REQUEST_ID.pattern.encode(), re.IGNORECASE
)
# Of a head: what changes how it is read, or whether the connection stays; `Connection: keep-alive` does neither.
_DOUBT = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade|[ \t])")
_MOST_BYTES = 65_536  # what comes at once


def refusing(batcher: Callable[[], Batcher], default_model: str) -> Refuse:
    told = refusal(default_model)
    body = orjson.dumps(told.as_json())
    head = (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: %d\r\n"
        b"x-content-type-options: nosniff\r\ncontent-length: %d\r\nx-request-id: "
    ) % (told.retry_after_seconds, len(body))
    counted = metrics.REFUSED.labels(default_model)
    # Read in this turn of the loop. In the next one they are admitted, before anything else is read.
    passed: list[bytes] = []
    coming = 0  # of those that were in `passed`, the ones that ask for the live version

    def begin_turn() -> None:
        nonlocal coming
        passed.clear()
        coming = 0

    def refuse(data: bytes) -> bytes | None:
        nonlocal coming
        if not data.startswith(_BEGINNINGS):
            return None
        here = batcher()
        room = here.most_admitted - here.admitted(default_model) - coming
        if room > len(passed):  # whatever they ask for: a closer look costs some microseconds
            if not passed and not coming:
                asyncio.get_running_loop().call_soon(begin_turn)
            passed.append(data)
            return None
        request_id = _asks_for_the_live_version(data)
        if request_id is None:
            return None
        found = sum(_asks_for_the_live_version(each) is not None for each in passed)
        passed.clear()
        coming += found
        if room > found:
            coming += 1
            return None
        counted.inc()
        telemetry.count_request("gateway", "POST", "/invocations/", TooBusy.status, 0.0)
        return b"%b%b\r\n\r\n%b" % (head, request_id or str(uuid7()).encode(), body)

    return refuse


def _asks_for_the_live_version(data: bytes) -> bytes | None:
    """The id of a whole request for the default model, empty when it has none; any doubt is for who reads properly."""
    if len(data) > _MOST_BYTES:
        return None
    head_bytes = data.find(b"\r\n\r\n") + 4
    head = data[:head_bytes].lower()
    length = _LENGTH.search(head)
    if (
        length is None
        or len(data) != head_bytes + int(length[1])
        or head.count(b"\r\ncontent-length") != 1
        or _DOUBT.search(head) is not None
        or head.count(b"\r\nconnection") != head.count(b"\r\nconnection: keep-alive\r\n")
        or b'"model"' in data
        or b'"version"' in data
        or b"\\" in data  # a name may be written with escapes
    ):
        return None
    given = _REQUEST_ID.search(data, 0, head_bytes) if b"\r\nx-request-id" in head else None
    return b"" if given is None else given[1]
