"""The gateway's question, answered past starlette: raw pixels for the live version of a model, raw figures back.

    http_server.run(create_app(server), ..., direct=Direct(server))

It is taken as it came when nothing about it is in doubt: a plain head, both content types raw, the body there, a
version that answers, a place free. Whatever else is asked, awaited or refused is for the application. A
request that the version answers within a moment is answered at once, in the loop: to hand one image of a small network
to a thread and back takes as long as to answer it.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import structlog

from core import plain_http, telemetry
from core.threads import outlasted
from serving.app import (
    SANE_REQUEST_IDS,
    ModelServer,
    answered,
    count_images,
    failed,
    refused,
    score,
    tell,
)
from serving.errors import ServingError
from serving.protocol import RAW
from serving.versions import LoadedVersion

MOST_BYTES = 262_144  # 64 photos of 32x32; larger ones are worth being read as any other
AT_ONCE_SECONDS = 0.001
_LINE = re.compile(rb"POST (?:/models/([A-Za-z0-9._-]+))?/invocations HTTP/1\.1")
_RAW = RAW.encode()

log = telemetry.get_logger(__name__)


class Direct:
    """Belongs to one event loop."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server

    def __call__(self, data: bytes) -> bytes | Coroutine[Any, Any, bytes] | None:
        plain = plain_http.read(data, _LINE.fullmatch, MOST_BYTES)
        if plain is None or plain.missing_bytes:
            return None
        headers = plain.headers
        if headers.get(b"content-type") != _RAW or headers.get(b"accept") != _RAW:
            return None
        versions = self._server.versions
        name = plain.route[1]
        loaded = versions.peek(name.decode() if name else versions.default_model)
        if loaded is None or self._server.live.is_full:
            return None
        images = len(plain.content) / math.prod(loaded.shape)
        asked = _Asked(loaded, plain)
        if images * loaded.seconds_an_image <= AT_ONCE_SECONDS:
            return asked.answer()
        self._server.live.in_progress += 1  # now: as many may come in this turn of the loop
        return self._in_a_thread(asked)

    async def _in_a_thread(self, asked: _Asked) -> bytes:
        lane = self._server.live
        try:
            return await outlasted(asyncio.get_running_loop().run_in_executor(lane.threads, asked.answer))
        finally:
            lane.in_progress -= 1


class _Asked:
    """One request, and the version that answers it."""

    def __init__(self, loaded: LoadedVersion, plain: plain_http.Request[re.Match[bytes]]) -> None:
        self._loaded = loaded
        self._plain = plain
        self._loop = asyncio.get_running_loop()
        self._started = time.perf_counter()

    def answer(self) -> bytes:
        """Counts and logs it when the answer is on its way."""
        images = 0
        try:
            figures, images = score(self._loaded, self._plain.content, RAW, raw=True)
            response = answered(self._loaded, figures, raw=True)
        except ServingError as exc:
            with self._named():
                response = refused(exc)
        except Exception:  # ONNX Runtime's errors share no root but Exception
            with self._named():
                log.exception("scoring failed")
            response = failed()
        seconds = time.perf_counter() - self._started
        self._loop.call_soon_threadsafe(self._tell, response.status_code, images, seconds)
        return plain_http.written(response.status_code, response.raw_headers, bytes(response.body))

    def _tell(self, status: int, images: int, seconds: float) -> None:
        version = str(self._loaded.version)
        if status == 200:
            count_images(self._loaded, version, images, seconds)
        route = "/models/{name}/invocations" if self._plain.route[1] else "/invocations"
        with self._named():
            tell(route, self._loaded.name, version, version, status, seconds)

    def _named(self) -> AbstractContextManager[None]:
        """Lines of the log have the request's id."""
        request_id = self._plain.headers.get(b"x-request-id", b"").decode("latin-1")
        if not SANE_REQUEST_IDS.fullmatch(request_id):
            return nullcontext()
        return structlog.contextvars.bound_contextvars(request_id=request_id)
