"""The built web pages, and the services behind them on the pages' own address.

    pages.install(app, pages.built("draw"), {"/api": settings().api_url, "/runs": settings().viewer_url})

Pages ask for `api/...` and `runs/...` beside themselves, so a browser needs no other address, cookies work, and no
service has to allow another origin. Call it after every other route is there.

Files come from `make pages` (ui/): the index is asked for anew each time, what has a hash in its name is kept for ever,
and a `.gz` beside a file is sent to whoever takes it. Nothing but the page's own files and addresses may run or load.

What is passed on goes through as it is, both ways, as it comes (server-sent events too). Requests of other sites' pages
have been refused before (core/web.py), so what says where a request came from stays here: to the service behind, this
is a program on its own machine. A service that does not answer is a 503 in the one error shape.
"""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any

import anyio
import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, StreamingResponse
from starlette.background import BackgroundTask

from core import telemetry
from core.errors import NotFound, Unavailable
from core.settings import settings

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
FIRST_BYTE_SECONDS = 120.0  # to the head of an answer; a stream may then be silent as long as it likes
CONNECT_SECONDS = 3.0
MOST_NAME_CHARACTERS = (
    200  # of a page's file; the file system would refuse longer ones with an error of its own
)

# Between two neighbours only (RFC 9110, 7.6.1), or this side's own.
_HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"}
_HOP |= {"transfer-encoding", "upgrade"}
_NOT_ASKED = _HOP | {"host", "origin", "referer", "x-request-id", "expect"}
_NOT_ANSWERED = _HOP | {"date", "server", "x-request-id", "x-content-type-options"}

_NOT_BUILT = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Emend: the pages are not built</title>
<h1>The pages are not built yet</h1>
<p>Run <code>make pages</code> in Emend's folder, then load this page again. All else works:
<a href="docs">docs</a> says how to ask this service.</p></html>"""

_log = telemetry.get_logger("pages")


def built(name: str) -> Path:
    """Where `make pages` puts a page: `draw` or `viewer`."""
    return Path(__file__).parents[1] / "ui" / "dist" / name


def install(app: FastAPI, dist: Path, proxies: Mapping[str, str]) -> None:
    """Adds GET / with its files, and every address below each prefix of `proxies` (prefix to a service's URL)."""
    _add_client(app)
    for prefix, url in proxies.items():
        _add_proxy(app, prefix, url)

    async def index(request: Request) -> Response:
        if not (dist / "index.html").is_file():
            return HTMLResponse(_NOT_BUILT, 503, {**SAFE, "Cache-Control": "no-store"})
        return _file(request, dist / "index.html", "no-cache")

    async def asset(request: Request, name: str) -> Response:
        return _file(request, _inside(dist / "assets", name), "public, max-age=31536000, immutable")

    async def other_file(request: Request, name: str) -> Response:
        return _file(request, _inside(dist, name), "no-cache")

    for path, endpoint in (
        ("/", index),
        ("/pages.json", addresses),
        ("/assets/{name}", asset),
        ("/{name}", other_file),
    ):
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)


async def addresses(request: Request) -> dict[str, str]:
    """Where the pages are: below the public address, else under the name by which the browser reached this one."""
    here = settings()
    if here.public_url is not None:
        return {
            "draw": f"{here.public_url}/",
            "viewer": f"{here.public_url}/runs/",
            "mlflow": f"{here.mlflow_display_url}/",
            "grafana": f"{here.public_url}/grafana/",
        }
    host = request.url.hostname or "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    mlflow = here.mlflow_display_url
    if here.mlflow_tracking_uri_setting is None:
        mlflow = f"http://{shown}:{here.mlflow_port}"
    return {
        "draw": f"http://{shown}:{here.ui_port}/",
        "viewer": f"http://{shown}:{here.viewer_port}/",
        "mlflow": mlflow,
    }


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    known = len(name) <= MOST_NAME_CHARACTERS and not name.startswith(".") and not name.endswith(".gz")
    if not known or path.parent != folder or not path.is_file():
        raise NotFound("there is nothing at this address; see /docs")
    return path


def _file(request: Request, path: Path, kept: str) -> Response:
    headers = {**SAFE, "Cache-Control": kept, "Vary": "Accept-Encoding"}
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    packed = path.with_name(path.name + ".gz")
    if _takes_gzip(request) and packed.is_file():
        path, headers["Content-Encoding"] = packed, "gzip"
    response = FileResponse(path, headers=headers, media_type=kind, stat_result=path.stat())
    if response.headers["etag"] in request.headers.get("if-none-match", ""):
        unchanged = {k: response.headers[k] for k in ("etag", "cache-control", "vary", *map(str.lower, SAFE))}
        return Response(status_code=304, headers=unchanged)
    return response


def _takes_gzip(request: Request) -> bool:
    for offered in request.headers.get("accept-encoding", "").split(","):
        coding, _, weight = offered.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _add_client(app: FastAPI) -> None:
    """One HTTP client for the process's life, around the lifespan that the application has already."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def with_client(app: FastAPI) -> AsyncIterator[Any]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)  # streams stay for hours
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        async with httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False) as client:
            # Whoever asks brings cookies of their own: none may be kept here and sent with the next one's request.
            client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            app.state.pages_client = client
            async with inner(app) as state:
                yield state

    app.router.lifespan_context = with_client


def _add_proxy(app: FastAPI, prefix: str, url: str) -> None:
    service = prefix.strip("/")

    async def pass_on(request: Request) -> Response:
        client: httpx.AsyncClient = request.app.state.pages_client
        asked = client.build_request(
            request.method,
            httpx.URL(url, raw_path=_raw_path(request, prefix)),
            headers=_asked_headers(request),
            content=request.stream() if _has_body(request) else None,
        )
        try:
            with anyio.fail_after(FIRST_BYTE_SECONDS):
                answer = await client.send(asked, stream=True)
        except (httpx.TransportError, TimeoutError) as exc:
            raise Unavailable(
                f"the service behind /{service} does not answer; `emend status` shows which services do"
            ) from exc
        response = StreamingResponse(
            _bytes(answer, service), status_code=answer.status_code, background=BackgroundTask(answer.aclose)
        )
        response.raw_headers = [
            (name.lower(), value)
            for name, value in answer.headers.raw
            if name.lower().decode("latin-1") not in _NOT_ANSWERED
        ]
        # FastAPI's redirects name the whole address, which is not the one the browser knows.
        location = answer.headers.get("location", "")
        if location.startswith(f"{url}/"):
            response.headers["location"] = prefix + location.removeprefix(url)
        return response

    app.add_api_route(f"{prefix}/{{path:path}}", pass_on, methods=METHODS, include_in_schema=False)


def _raw_path(request: Request, prefix: str) -> bytes:
    """As it was asked for, still quoted: an id may hold a %2F."""
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    path = raw.partition(b"?")[0].removeprefix(prefix.encode()) or b"/"
    query: bytes = request.scope["query_string"]
    return path + (b"?" + query if query else b"")


def _asked_headers(request: Request) -> list[tuple[bytes, bytes]]:
    """Bytes, because a cookie of another program on this machine may hold any of them."""
    kept = [
        (name, value)
        for name, value in request.headers.raw
        if name.decode("latin-1") not in _NOT_ASKED and not name.startswith(b"sec-fetch-")
    ]
    return [*kept, (b"x-request-id", request.scope["state"]["request_id"].encode())]


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


async def _bytes(answer: httpx.Response, service: str) -> AsyncIterator[bytes]:
    """Still packed if the service packed it. An event stream just ends when its service does: browsers come back."""
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx.TransportError:
        _log.warning("the service went away in the middle of an answer", service=service)
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise
    finally:
        await answer.aclose()
