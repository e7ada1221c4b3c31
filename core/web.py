"""What every HTTP service shares: the one error shape, request ids, body limits, metrics, offline docs.

A query parameter that an address does not know is refused by name: misspelt, it would be ignored without a word.

    app = web.application("gateway", "what it does", lifespan=...)
    web.serve(app, port)

A request id comes from `X-Request-Id` (if it is a sane one) or is made here, is on every log line of the
request, and goes back in the answer.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import cache, lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from core import __version__, docs_page, http_server, telemetry
from core.errors import EmendError, Forbidden, InvalidInput, NotFound, TooBusy, TooLarge, Unavailable
from core.memory import spare_the_collector
from core.settings import settings
from core.validation import told

MOST_BODY_BYTES_AT_ONCE = 200_000_000  # of all requests under way together
MOST_NAME_CHARACTERS = 60  # of a client's own field names, in an error
UNSAFE_METHODS = ("POST", "PUT", "PATCH", "DELETE")
PUBLIC_PATHS = {"gateway": "/api", "viewer": "/runs", "pages": ""}  # as deploy/nginx has them
# So many: a line in the log of its own, when answered, is for LOG_LEVEL=debug.
OFTEN_ASKED = ("/invocations", "/invocations/")
ANY_QUERY = ("/healthz", "/readyz")  # whoever watches them may add what they like

SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = telemetry.get_logger("web")


def application(
    service: str,
    description: str,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    app = FastAPI(
        title=f"Emend {service}",
        description=description,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads its script from elsewhere; see core/docs_page.py
        redoc_url=None,
        dependencies=[Depends(_bind_ids), Depends(only_known_query)],
        exception_handlers={
            EmendError: emend_error,
            RequestValidationError: validation_error,
            HTTPException: _http_error,
        },
    )
    app.add_middleware(Observed, service=service)

    app.openapi = lambda: _openapi(app, public_address(service))  # type: ignore[method-assign]
    docs_page.install(app)

    # Not in a thread: scrapes must not wait for threads that wait for a database.
    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


# async: what is bound in a thread is lost with it.
async def _bind_ids(request: Request) -> None:
    """The run or correction of the address, on every line of the request."""
    given = {name: str(value) for name, value in request.path_params.items() if name in telemetry.IDS}
    telemetry.bind(**{name: value for name, value in given.items() if SANE_REQUEST_ID.fullmatch(value)})


# async: it must not take one of the threads that wait for a database.
async def only_known_query(request: Request) -> None:
    """Known is what the OpenAPI document lists; pages that are not in it (/docs, /metrics) take anything."""
    if not request.query_params:
        return
    path, operations = _operations(request)
    operation = operations.get(request.method)
    if operation is None or path in ANY_QUERY:
        return
    known = [each["name"] for each in operation.get("parameters", []) if each["in"] == "query"]
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is not None:
        clipped = unknown[:MOST_NAME_CHARACTERS]
        takes = f"the known ones: {', '.join(known)}" if known else "this address takes none"
        raise InvalidInput(f"there is no query parameter {clipped!r} here; {takes}", field=clipped)


def _operations(request: Request) -> tuple[str, dict[str, dict[str, Any]]]:
    """The path of the route, and what the OpenAPI document lists of it, by method."""
    path = getattr(request.scope.get("route"), "path", "")
    listed = request.app.openapi()["paths"]
    found = listed.get(path, listed.get(f"{path}/", {}))
    return path, {method.upper(): found[method] for method in sorted(found)}


def public_address(service: str) -> str | None:
    """Where browsers and programs reach a service through nginx (deploy/nginx); None when nothing stands in front."""
    public_url, below = settings().public_url, PUBLIC_PATHS.get(service)
    return None if public_url is None or below is None else public_url + below


def _openapi(app: FastAPI, public_address: str | None) -> dict[str, Any]:
    """With the 400 of a malformed request, in our shape, instead of the 422 that FastAPI promises everywhere."""
    if app.openapi_schema is None:
        made = FastAPI.openapi(app)
        if public_address is not None:
            made["servers"] = [{"url": public_address}]
        for operation in (o for methods in made.get("paths", {}).values() for o in methods.values()):
            stated = json.dumps(operation["responses"].get("422", {}))
            if "HTTPValidationError" in stated:
                del operation["responses"]["422"]
            operation["responses"].setdefault("400", {"description": "The request cannot be used as it is."})
        for name in ("HTTPValidationError", "ValidationError"):
            made.get("components", {}).get("schemas", {}).pop(name, None)
    assert app.openapi_schema is not None
    return app.openapi_schema


def serve(app: ASGIApp, port: int, service: str, direct: http_server.Direct | None = None) -> None:
    """Blocks until SIGTERM or Ctrl-C; requests under way are finished first."""
    spare_the_collector()
    telemetry.configure(service)
    http_server.run(app, host=settings().host, port=port, graceful_seconds=10, direct=direct)


class Observed:
    """ASGI middleware: request id, other sites' pages, body limit, one log line and two metrics a request."""

    def __init__(self, app: ASGIApp, service: str) -> None:
        self.app = app
        self.service = service
        self._bodies = _bodies_of(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = scope.setdefault("state", {})["request_id"] = begin_request(headers)
        started = time.perf_counter()
        status, answering = 500, False
        body = _Body(receive, settings().max_body_bytes, self._bodies)

        async def observed_send(message: Message) -> None:
            nonlocal status, answering
            if message["type"] == "http.response.start":
                status, answering = message["status"], True
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            declared = headers.get(b"content-length", b"")
            if (refused := other_sites(scope["method"], headers)) is not None:
                await answer_of(refused)(scope, receive, observed_send)
            elif declared.isdigit() and int(declared) > body.limit_bytes:
                await answer_of(body.too_large())(scope, receive, observed_send)
            else:
                await self.app(scope, body.receive, observed_send)
        except Exception as exc:
            if answering:  # half an answer cannot be mended: uvicorn logs it and breaks off
                raise
            await unexpected(exc, request_id)(scope, receive, observed_send)
        finally:
            self._bodies.size_bytes -= body.seen_bytes
            end_request(self.service, scope, status, time.perf_counter() - started)


def begin_request(headers: Mapping[bytes, bytes]) -> str:
    """Its id, which is on every log line from now on."""
    request_id = request_id_of(headers)
    structlog.contextvars.clear_contextvars()
    telemetry.bind(request_id=request_id)
    return request_id


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """The client's own if that is a sane one."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if SANE_REQUEST_ID.fullmatch(given) else str(uuid7())


def end_request(service: str, scope: Scope, status: int, seconds: float) -> None:
    """Counts it, and has a line in the log for it."""
    route = getattr(scope.get("route"), "path", "unknown")
    counted = None if "is_refused" in scope["state"] else seconds
    telemetry.count_request(service, _known_method(scope["method"]), route, status, counted)
    if route not in ("/metrics", "/healthz", "/readyz") and (
        status >= 400 or route not in OFTEN_ASKED or settings().log_level == "debug"
    ):
        _log.info(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            milliseconds=round(seconds * 1000, 1),
        )


def unexpected(exc: Exception, request_id: str) -> JSONResponse:
    _log.error("unexpected error", exc_info=exc)
    return answer_of(EmendError(f"something went wrong here; the log has it under request id {request_id}"))


class _Bodies:
    """size_bytes: of the requests under way in this process."""

    size_bytes = 0


@cache
def _bodies_of(service: str) -> _Bodies:
    found = _Bodies()
    telemetry.BODY_BYTES.labels(service).set_function(
        lambda: found.size_bytes + http_server.Protocol.held_bytes()
    )
    return found


class _Body:
    """Counts a body as it comes: a missing or false Content-Length cannot fill the memory, nor can many at once."""

    def __init__(self, receive: Receive, limit_bytes: int, all_bodies: _Bodies) -> None:
        self.limit_bytes = limit_bytes
        self.seen_bytes = 0
        self._receive = receive
        self._all = all_bodies

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            size_bytes = len(message.get("body", b""))
            self.seen_bytes += size_bytes
            self._all.size_bytes += size_bytes
            if self.seen_bytes > self.limit_bytes:
                raise self.too_large()
            if self._all.size_bytes > MOST_BODY_BYTES_AT_ONCE:
                raise Unavailable("too many large requests at once; try again in a moment")
        return message

    def too_large(self) -> TooLarge:
        return TooLarge(
            f"request body is larger than {self.limit_bytes / 1e6:g} MB; send a smaller image, or fewer at once"
        )


def other_sites(method: str, headers: Mapping[bytes, bytes]) -> Forbidden | None:
    """There is no sign-in, so whether a browser asks for another site's page is told by the headers it adds.

    Such a page may not change anything, nor may it ask for anything under a name of its own that it points at
    this machine (DNS rebinding). Programs send no Origin and go on.
    """
    named = headers.get(b"host", b"").decode("latin-1")
    host = _host_of(f"//{named}")
    public = _host_of(settings().public_url or "")
    is_ours = _is_loopback(host) or (public and host == public)
    if named and _is_loopback(settings().host) and not is_ours:
        return Forbidden(
            f"{named[:MOST_NAME_CHARACTERS]!r} is not a name of this machine: ask for 127.0.0.1 or localhost, "
            "or set EMEND_HOST or EMEND_PUBLIC_URL to be reached by other names"
        )
    if method not in UNSAFE_METHODS:
        return None
    given = headers.get(b"origin")
    origin = _host_of((given or b"").decode("latin-1"))
    if _is_loopback(origin) and _is_loopback(host):
        return None  # the drawing page, from its own port; to a browser localhost and 127.0.0.1 are two sites
    if headers.get(b"sec-fetch-site") == b"cross-site" or (given is not None and (origin or "null") != host):
        return Forbidden("a page of another site may not change anything here; open Emend's own pages")
    return None


@lru_cache(maxsize=1024)
def _host_of(url: str) -> str:
    """Without the port, in lower case; empty for what is no address, as the Origin `null` is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:  # a bracket that does not close
        return ""


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761: no name server is asked
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _known_method(method: str) -> str:
    return method if method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS") else "other"


def answer_of(error: EmendError) -> JSONResponse:
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    return JSONResponse(error.as_json(), status_code=error.status, headers=headers)


async def emend_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, EmendError)
    if isinstance(exc, TooBusy):
        request.scope["state"]["is_refused"] = True
    if exc.status >= 500:
        _log.warning("refused", code=exc.code, reason=exc.message)
    return answer_of(exc)


async def validation_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    first = exc.errors()[0]
    # Clipped: an unknown field's name is the client's own.
    where = [
        str(part)[:MOST_NAME_CHARACTERS]
        for part in first["loc"]
        if part not in ("body", "query", "path", "header")
    ]
    if first["type"] == "json_invalid":
        return answer_of(InvalidInput("request body is not valid JSON; see /docs for an example"))
    if first["type"] == "model_attributes_type" and "json" not in request.headers.get("content-type", ""):
        return answer_of(
            InvalidInput("send the JSON with the header `Content-Type: application/json`; see /docs")
        )
    field = ".".join(where) or None
    return answer_of(InvalidInput(f"{told(field or 'the request body', first)}; see /docs", field=field))


async def _http_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    if isinstance(exc.__cause__, EmendError):  # FastAPI wraps what reading the body raised
        return answer_of(exc.__cause__)
    if exc.status_code == 404:
        return answer_of(NotFound("there is nothing at this address; see /docs"))
    message, headers = str(exc.detail)[:300], dict(exc.headers or {})
    if exc.status_code == 405 and (operations := _operations(request)[1]):
        takes = " or ".join(_method_and_type(method, operations[method]) for method in operations)
        message = f"this address takes {takes}, not {request.method[:MOST_NAME_CHARACTERS]}; see /docs"
        headers["Allow"] = ", ".join(operations)
    body = {"error": {"code": f"http_{exc.status_code}", "message": message}}
    return JSONResponse(body, status_code=exc.status_code, headers=headers)


def _method_and_type(method: str, operation: dict[str, Any]) -> str:
    """For one, `POST with application/json`."""
    types = " or ".join(operation.get("requestBody", {}).get("content", {}))
    return f"{method} with {types}" if types else method
