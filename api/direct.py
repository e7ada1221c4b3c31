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

import time
from collections.abc import Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRouter

from api import metrics
from api.batching import Batcher, refusal
from api.lean import LeanRoute, parsed
from core import plain_http, telemetry, web
from core.errors import EmendError, TooBusy
from core.settings import settings

MOST_BYTES = 65_536
CLIENT_GONE = 499  # as nginx counts it: nobody waits for the answer any more
_Route = tuple[LeanRoute, Any]  # and its body's shape


class Direct:
    """Belongs to one event loop."""

    def __init__(self, app: FastAPI, lean: APIRouter, service: str, default_model: str) -> None:
        self._app = app
        self._service = service
        self._default_model = default_model
        self._routes: dict[bytes, _Route] = {
            f"{method} {route.path} HTTP/1.1".encode(): (route, route.shape)
            for route in lean.routes
            if isinstance(route, LeanRoute)
            for method in route.methods or ()
        }
        self._most_bytes = min(MOST_BYTES, settings().max_body_bytes)
        self._refused = web.answer_of(refusal(default_model))
        self._starting = 0  # for the live version; admitted in the loop's next turn

    def __call__(self, data: bytes) -> bytes | Coroutine[Any, Any, bytes] | int | None:
        plain = plain_http.read(data, self._routes.get, self._most_bytes)
        if plain is None:
            return None
        if plain.missing_bytes:
            return plain.missing_bytes
        content = plain.content
        is_for_live = b'"model"' not in content and b'"version"' not in content and b"\\" not in content
        if is_for_live and self._is_full():
            return self._refuse(plain)
        self._starting += is_for_live
        return self._answer(plain, is_for_live=is_for_live)

    def _is_full(self) -> bool:
        batcher: Batcher = self._app.state.gateway.batcher
        places = batcher.places(self._default_model)
        return places.in_use + self._starting + 1 > places.most

    def _refuse(self, plain: plain_http.Request[_Route]) -> bytes:
        """No line in the log: there would be thousands."""
        route, _ = plain.route
        metrics.REFUSED.labels(self._default_model).inc()
        telemetry.count_request(self._service, "POST", route.path, TooBusy.status, None)
        return _written(self._refused, web.request_id_of(plain.headers))

    async def _answer(self, plain: plain_http.Request[_Route], *, is_for_live: bool) -> bytes:
        self._starting -= is_for_live
        started = time.perf_counter()
        route, _ = plain.route
        request_id = web.begin_request(plain.headers)
        scope = {
            "type": "http",
            "method": "POST",
            "path": route.path,
            "query_string": b"",
            "headers": list(plain.headers.items()),
            "app": self._app,
            "route": route,
            "state": {"request_id": request_id},
        }
        status = CLIENT_GONE
        try:
            response = await self._response(Request(scope), plain, request_id)
            status = response.status_code
        finally:
            web.end_request(self._service, scope, status, time.perf_counter() - started)
        return _written(response, request_id)

    async def _response(
        self,
        request: Request,
        plain: plain_http.Request[_Route],
        request_id: str,
    ) -> Response:
        route, shape = plain.route
        try:
            if (refused := web.other_sites("POST", plain.headers)) is not None:
                return web.answer_of(refused)
            content_type = plain.headers.get(b"content-type", b"").decode("latin-1")
            body = parsed(shape, content_type, plain.content)
            response: Response = await route.endpoint(body, request, self._app.state.gateway)
            return response
        except EmendError as exc:
            return await web.emend_error(request, exc)
        except RequestValidationError as exc:
            return await web.validation_error(request, exc)
        except Exception as exc:  # noqa: BLE001 - the request's edge, as in web.Observed
            return web.unexpected(exc, request_id)


def _written(response: Response, request_id: str) -> bytes:
    headers = (
        *response.raw_headers,
        (b"x-request-id", request_id.encode()),
        (b"x-content-type-options", b"nosniff"),
    )
    return plain_http.written(response.status_code, headers, bytes(response.body))
