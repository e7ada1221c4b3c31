"""The HTTP side of the model server.

    POST /invocations               the default model
    POST /models/<name>/invocations
    POST /models/<name>/versions/<version or alias>/invocations    any version, fetched when asked for; with the header
                                    `Emend-Trial: 1` people wait for it: 503 at once while it is fetched; with
                                    `Emend-Trial: start` it has the room of trials and is waited for
    GET  /ping, /health             200 when at least one model answers, 503 until then
    GET  /version                   which versions answer, which were turned down and why
    GET  /metrics

Parsing, inference and rendering run in a few threads, so the event loop stays free for health checks and
slow clients. What a request may cost is bounded: its body in size and time, and how many are held at once.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core import telemetry
from serving import metrics, on_demand
from serving.errors import BodyTooLarge, BodyTooSlow, NotReady, ServingError
from serving.follower import Follower
from serving.on_demand import OnDemand
from serving.protocol import MOST_BODY_BYTES, RAW, parse, render
from serving.versions import LoadedVersion, Versions

_STARTS_TRIAL = "start"  # in the header `Emend-Trial`
_THREADS = 4
_MOST_REQUESTS_AT_ONCE = 128
_BODY_TIMEOUT_SECONDS = 10.0
SANE_REQUEST_IDS = re.compile(r"[A-Za-z0-9._-]{1,64}(,[A-Za-z0-9._-]{1,64}){0,63}")  # of a whole batch

log = telemetry.get_logger(__name__)


@dataclass
class Lane:
    """Requests that share threads and places, so that those of another lane cannot hold them up."""

    threads: ThreadPoolExecutor
    most_at_once: Callable[[], int]
    in_progress: int = 0

    def __enter__(self) -> None:
        """Raises NotReady when no place is left."""
        if self.is_full:
            raise NotReady(f"{self.in_progress} requests are in progress; try again in a moment")
        self.in_progress += 1

    def __exit__(self, *_: object) -> None:
        self.in_progress -= 1

    @property
    def is_full(self) -> bool:
        return self.in_progress >= self.most_at_once()


class ModelServer:
    """The application's state and its endpoints."""

    def __init__(self, versions: Versions, follower: Follower, others: OnDemand) -> None:
        self.versions = versions
        self._follower = follower
        self._others = others
        self.live = Lane(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="inference"), lambda: _MOST_REQUESTS_AT_ONCE
        )
        self._trials = Lane(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="trial"), lambda: _MOST_REQUESTS_AT_ONCE
        )
        self._replays = Lane(others.threads, lambda: on_demand.MOST_REQUESTS_AT_ONCE)

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(self._follower.load_cached)
        self._follower.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self._follower.stop)
            self.live.threads.shutdown()
            self._trials.threads.shutdown()
            self._others.stop()

    async def invoke_default(self, request: Request) -> Response:
        return await self._invoke_live(request, self.versions.default_model)

    async def invoke_named(self, request: Request) -> Response:
        return await self._invoke_live(request, request.path_params["name"])

    async def invoke_version(self, request: Request) -> Response:
        name, written = request.path_params["name"], request.path_params["version"]
        trial = request.headers.get("emend-trial")

        async def find() -> LoadedVersion:
            number = await self._others.number(name, written)
            live = self.versions.peek(name)
            if live is not None and live.version == number:
                return live
            return await self._others.get(
                name, number, for_trial=trial is not None, waits=trial == _STARTS_TRIAL
            )

        return await self._invoke(request, name, self._replays if trial is None else self._trials, find)

    async def _invoke_live(self, request: Request, name: str) -> Response:
        async def find() -> LoadedVersion:
            return self.versions.live(name)

        return await self._invoke(request, name, self.live, find)

    async def health(self, _: Request) -> Response:
        """As MLflow's: an empty line; the status says it all."""
        return Response("\n", 200 if self.versions.ready() else 503, media_type="application/json")

    async def version(self, _: Request) -> Response:
        return JSONResponse(self.versions.as_json())

    async def metrics(self, _: Request) -> Response:
        return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _invoke(
        self, request: Request, name: str, lane: Lane, find: Callable[[], Awaitable[LoadedVersion]]
    ) -> Response:
        started = time.perf_counter()
        if SANE_REQUEST_IDS.fullmatch(request_id := request.headers.get("x-request-id", "")):
            telemetry.bind(request_id=request_id)
        known = name == self.versions.default_model or self.versions.peek(name) is not None
        label = name if known else ""  # else anybody could make any number of time series
        version, counted_as, status = "", "", 500
        try:
            if lane is self.live:
                await find()  # refused before the body is read
            with lane:
                body = await _read(request)
                # Taken only now: a slow upload is answered by the version of the moment, and pins no old one.
                loaded = await find()
                version, counted_as = str(loaded.version), self._counted_as(lane, loaded)
                response = await self._answer(lane, loaded, body, request)
            status = response.status_code
            return response
        except ServingError as exc:
            status = exc.status
            return refused(exc)
        finally:
            seconds = time.perf_counter() - started
            tell(request.scope["route"].path, label, version, counted_as, status, seconds)

    def _counted_as(self, lane: Lane, loaded: LoadedVersion) -> str:
        """Of the live one; anybody may ask for any other."""
        return str(loaded.version) if lane is self.live else telemetry.OTHER

    async def _answer(self, lane: Lane, loaded: LoadedVersion, body: bytes, request: Request) -> Response:
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        content_type = request.headers.get("content-type", "")
        raw = request.headers.get("accept") == RAW
        answer, count = await loop.run_in_executor(
            lane.threads, partial(score, loaded, body, content_type, raw=raw)
        )
        count_images(loaded, self._counted_as(lane, loaded), count, time.perf_counter() - started)
        return answered(loaded, answer, raw=raw)


def create_app(server: ModelServer) -> Starlette:
    return Starlette(
        routes=[
            Route("/invocations", server.invoke_default, methods=["POST"]),
            Route("/models/{name}/invocations", server.invoke_named, methods=["POST"]),
            Route("/models/{name}/versions/{version}/invocations", server.invoke_version, methods=["POST"]),
            Route("/ping", server.health),
            Route("/health", server.health),
            Route("/version", server.version),
            Route("/metrics", server.metrics),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
        lifespan=server.lifespan,
    )


def score(loaded: LoadedVersion, body: bytes, content_type: str, *, raw: bool) -> tuple[bytes, int]:
    """The answer, and of how many images."""
    pixels = parse(body, content_type, loaded.shape)
    return render(loaded.probabilities(pixels), raw=raw), len(pixels)


def answered(loaded: LoadedVersion, answer: bytes, *, raw: bool) -> Response:
    headers = {"Emend-Model": loaded.name, "Emend-Version": str(loaded.version)}
    return Response(answer, headers=headers, media_type=RAW if raw else "application/json")


def count_images(loaded: LoadedVersion, counted_as: str, images: int, seconds: float) -> None:
    metrics.SCORE_SECONDS.labels(loaded.name, counted_as).observe(seconds)
    metrics.IMAGES.labels(loaded.name, counted_as).inc(images)


def tell(route: str, model: str, version: str, counted_as: str, status: int, seconds: float) -> None:
    """A request was answered: counts it, and has a line in the log for it."""
    metrics.SCORED.labels(model, counted_as, str(status)).inc()
    telemetry.count_request("serving", "POST", route, status, seconds)
    log.info("scored", model=model, version=version, status=status, milliseconds=round(seconds * 1000, 1))


async def _read(request: Request) -> bytes:
    """The body, if it is small enough and comes soon enough."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > MOST_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BODY_BYTES:
                    raise _too_large()
    except TimeoutError as exc:
        raise BodyTooSlow(f"the body did not arrive within {_BODY_TIMEOUT_SECONDS:.0f} s") from exc
    except ClientDisconnect as exc:
        raise BodyTooSlow("the client went away before its body was whole") from exc
    return bytes(body)


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"a body may have {MOST_BODY_BYTES} bytes; send fewer images at once, or raw pixels")


def refused(exc: ServingError) -> Response:
    headers = {"Retry-After": str(exc.retry_after_seconds)} if isinstance(exc, NotReady) else None
    if exc.status >= 500 and not isinstance(exc, NotReady):
        log.error("scoring_failed", reason=exc.message)
    return _shaped(exc.code, exc.message, exc.status, headers)


async def _http_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    code = "ENDPOINT_NOT_FOUND" if exc.status_code == 404 else "BAD_REQUEST"
    return _shaped(code, exc.detail, exc.status_code, dict(exc.headers or {}))


async def _unexpected(_: Request, exc: Exception) -> Response:
    """Starlette raises it on after this answer, so the log has the traceback and the client does not."""
    return failed()


def failed() -> Response:
    return _shaped("INTERNAL_ERROR", "the model server failed on this request; its log says why", 500)


def _shaped(code: str, message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps({"error_code": code, "message": message})
    return Response(body, status, headers, media_type="application/json")
