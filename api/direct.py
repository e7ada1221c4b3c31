"""The busiest request, answered past all that reads any request: `POST /invocations/`.

    direct = Direct(app, predictions.lean, "gateway", "doodles")
    direct(b"POST /invocations/ HTTP/1.1\\r\\n...")     # what core/http_server.py makes of that: see `Direct` there

One in its plainest form, a head with nothing that changes how it is read and a body of known length, is taken as it
came; the route's own endpoint answers it, with the same checks, ids, limits, errors and figures as behind the
framework, which declares the same route and reads whatever is in doubt. Reading an image's request by uvicorn and
starlette was about a fifth of the gateway's time (docs/performance.md).

Past what may wait, a request for the live version is refused with nothing of it read but its head: refusing it as any
other cost nearly as much as an answer, and at four times of what the gateway can answer half of its time went there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRouter

from api import metrics
from api.batching import Batcher, refusal
from api.lean import LeanRoute, parsed
from core import http_server, telemetry, web
from core.errors import EmendError, TooBusy
from core.settings import settings

MOST_BYTES = 65_536
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
# What changes how a request is read or answered.
_READ_OTHERWISE = frozenset(
    (b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"te", b"trailer")
)
_STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}

Headers = dict[bytes, bytes]


class Direct:
    """Belongs to one event loop."""

    def __init__(self, app: FastAPI, lean: APIRouter, service: str, default_model: str) -> None:
        self._app = app
        self._service = service
        self._default_model = default_model
        self._routes = {
            f"{method} {route.path} HTTP/1.1".encode(): (route, route.shape)
            for route in lean.routes
            if isinstance(route, LeanRoute)
            for method in route.methods or ()
        }
        self._most_bytes = min(MOST_BYTES, settings().max_body_bytes)
        self._refused = web.answer_of(refusal(default_model))
        self._starting = 0  # for the live version; admitted in the loop's next turn

    def __call__(self, data: bytes) -> bytes | Coroutine[Any, Any, bytes] | int | None:
        end = data.find(b"\r\n\r\n")
        if end < 0 or len(data) > self._most_bytes:
            return None
        first, *lines = data[:end].split(b"\r\n")
        route = self._routes.get(first)
        headers = None if route is None else _headers(lines)
        if route is None or headers is None:
            return None
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or len(length) > 6:
            return None
        missing = end + 4 + int(length) - len(data)
        if missing != 0:  # less than 0: another request behind it
            return missing if 0 < missing <= self._most_bytes - len(data) else None
        content = data[end + 4 :]
        is_for_live = b'"model"' not in content and b'"version"' not in content and b"\\" not in content
        if is_for_live and self._is_full():
            return self._refuse(route[0], headers)
        self._starting += is_for_live
        return self._answer(*route, headers, content, is_for_live=is_for_live)

    def _is_full(self) -> bool:
        batcher: Batcher = self._app.state.gateway.batcher
        places = batcher.places(self._default_model)
        return places.in_use + self._starting + 1 > places.most

    def _refuse(self, route: LeanRoute, headers: Headers) -> bytes:
        """No line in the log: there would be thousands."""
        metrics.REFUSED.labels(self._default_model).inc()
        telemetry.count_request(self._service, "POST", route.path, TooBusy.status, None)
        return _written(self._refused, web.request_id_of(headers))

    async def _answer(
        self, route: LeanRoute, shape: Any, headers: Headers, content: bytes, *, is_for_live: bool
    ) -> bytes:
        self._starting -= is_for_live
        started = time.perf_counter()
        request_id = web.begin_request(headers)
        scope = {
            "type": "http",
            "method": "POST",
            "path": route.path,
            "query_string": b"",
            "headers": list(headers.items()),
            "app": self._app,
            "route": route,
            "state": {"request_id": request_id},
        }
        response = await self._response(Request(scope), route, shape, headers, content, request_id)
        web.end_request(self._service, scope, response.status_code, time.perf_counter() - started)
        return _written(response, request_id)

    async def _response(
        self,
        request: Request,
        route: LeanRoute,
        shape: Any,
        headers: Headers,
        content: bytes,
        request_id: str,
    ) -> Response:
        try:
            if (refused := web.other_sites("POST", headers)) is not None:
                return web.answer_of(refused)
            body = parsed(shape, headers.get(b"content-type", b"").decode("latin-1"), content)
            response: Response = await route.endpoint(body, request, self._app.state.gateway)
            return response
        except EmendError as exc:
            return await web.emend_error(request, exc)
        except RequestValidationError as exc:
            return await web.validation_error(request, exc)
        except Exception as exc:  # noqa: BLE001 - the request's edge, as in web.Observed
            return web.unexpected(exc, request_id)


def _headers(lines: list[bytes]) -> Headers | None:
    """By name, in lower case. None when they may be read in more than one way, or say how to read the rest."""
    headers: Headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if (
            not colon
            or name in headers
            or name in _READ_OTHERWISE
            or not _NAME.fullmatch(name)
            or not _VALUE.fullmatch(value)
        ):
            return None
        headers[name] = value
    return headers if headers.get(b"connection", b"keep-alive").lower() == b"keep-alive" else None


def _written(response: Response, request_id: str) -> bytes:
    return b"%b%b%bx-request-id: %b\r\nx-content-type-options: nosniff\r\n\r\n%b" % (
        _STATUS_LINES[response.status_code],
        http_server.date_line(),
        b"".join([b"%b: %b\r\n" % header for header in response.raw_headers]),
        request_id.encode(),
        bytes(response.body),
    )
