"""The viewer's routes: runs with their stages, logs and verdicts, a live stream of every transition, and its pages."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path as FilePath
from types import FrameType
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from sqlalchemy import text

from core import pages, web
from core.database import ACTIVE_RUN, RunStatus, StageStatus, Trigger, session
from core.errors import NotFound, Unavailable
from core.settings import settings
from pipeline import mirror, runs
from viewer import events, listing, logs, models, overview, reports, schemas
from viewer.pictures import Pictures
from viewer.schemas import errors

DESCRIPTION = (
    "Runs of the pipeline: what each stage did, its log, the gate's verdict; and one stream of everything that "
    "happens. Starting, resuming and cancelling runs is the gateway's."
)
DATABASE_THREADS = 8  # with the listener's connection they stay within the pool's ten
BIGGEST_ID = 2**63 - 1
UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the second tells nginx
ENDED_STAGE = tuple(status for status in StageStatus if status is not StageStatus.running)

router = APIRouter()


def create_app() -> FastAPI:
    app = web.application("viewer", DESCRIPTION, lifespan=_lifespan)
    for part in (router, reports.router, models.router):
        app.include_router(part)
        app.include_router(part, prefix="/runs", include_in_schema=False)  # as the drawing app has it
    pages.install(app, pages.built("viewer"), {"/api": settings().api_url})
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = DATABASE_THREADS
    app.state.events = listener = events.Events()
    app.state.pictures = Pictures(settings().data_dir)
    app.state.orchestrator = overview.Orchestrator()
    listener.start()
    loop = asyncio.get_running_loop()
    with _told_of_stop(lambda: loop.call_soon_threadsafe(listener.end_streams)):
        yield
    await listener.stop()


@contextmanager
def _told_of_stop(stop: Callable[[], object]) -> Iterator[None]:
    """uvicorn waits for open streams before it ends the lifespan: they must hear of the signal themselves."""
    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield
        return
    replaced = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        stop()
        first = replaced[signal.Signals(number)]
        if callable(first):
            first(number, frame)

    for number in replaced:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


def _listener(request: Request) -> events.Events:
    listener: events.Events = request.app.state.events
    return listener


Listener = Annotated[events.Events, Depends(_listener)]
RunId = Annotated[int, Path(ge=1, le=BIGGEST_ID)]
OfModel = Annotated[
    str | None, Query(max_length=100, pattern=r"^[^\x00]+$", description="Only this model's.")
]


@router.get("/overview", tags=["runs"], response_model=schemas.Overview, responses=errors(503))
async def show_overview(request: Request) -> JSONResponse:
    """Every model: what is live, what waits, when the schedule fires, what is under way."""
    found = await anyio.to_thread.run_sync(overview.models)
    shown = await pages.addresses(request)
    return JSONResponse(
        {
            "models": found,
            "orchestrator_alive": await anyio.to_thread.run_sync(request.app.state.orchestrator.alive),
            "mlflow_url": shown["mlflow"],
            "gateway_url": web.public_address("gateway") or settings().api_url,
            "ui_url": shown["draw"],
        }
    )


@router.get("/pipeline_runs", tags=["runs"], response_model=schemas.RunsPage, responses=errors(400, 503))
def list_runs(
    model: OfModel = None,
    status: Annotated[list[RunStatus] | None, Query(description="Only these; may be repeated.")] = None,
    trigger: Annotated[Trigger | None, Query(description="Only what this started.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[
        int | None, Query(ge=1, le=BIGGEST_ID, description="The last run_id of the page already seen.")
    ] = None,
) -> Response:
    """Runs, newest first, each with its stages."""
    return _json(listing.page(model, status or [], trigger, limit, before))


@router.get(
    "/pipeline_runs/{run_id}", tags=["runs"], response_model=schemas.Run, responses=errors(400, 404, 503)
)
def show_run(run_id: RunId) -> Response:
    """Stages with durations and figures, the verdict, the dataset version, the run's page in MLflow."""
    return _json(listing.run(run_id))


def _json(encoded: bytes) -> Response:
    return Response(encoded, media_type="application/json")


@router.get("/pipeline_runs/{run_id}/stages/{stage}/log", tags=["runs"], response_class=StreamingResponse)
async def stage_log(
    run_id: RunId,
    stage: str,
    listener: Listener,
    tail: Annotated[int | None, Query(ge=0, le=1_000_000, description="Only the last lines.")] = None,
    follow: Annotated[bool, Query(description="Stay until the stage ends, with what it prints.")] = False,
) -> StreamingResponse:
    """The log of a stage, plain text."""
    if stage not in runs.STAGES:
        raise NotFound(f"there is no such stage; the stages are {', '.join(runs.STAGES)}", field="stage")
    path = settings().data_dir / "logs" / "runs" / str(run_id) / f"{stage}.log"
    running, model = await anyio.to_thread.run_sync(_state_of, run_id, stage)
    home = settings().data_dir / model
    elsewhere = await anyio.to_thread.run_sync(mirror.is_elsewhere, home)

    def renew() -> None:
        mirror.bring_elsewhere(home, path, again=running)

    if elsewhere:
        await anyio.to_thread.run_sync(renew)
    if not running and not path.exists():
        raise NotFound(
            f"the log of stage {stage!r} of run {run_id} is gone: cleanup keeps the newest runs' only"
        )
    start = logs.tail_start(path, tail) if tail is not None and path.exists() else 0
    if follow:
        await listener.wait_until_ready(timeout_seconds=5)
        body = _followed_log(listener, path, start, run_id, stage, renew if elsewhere else None)
    else:
        body = logs.stream(path, start)
    return StreamingResponse(body, media_type="text/plain; charset=utf-8", headers=UNBUFFERED)


def _state_of(run_id: int, stage: str) -> tuple[bool, str]:
    """(does it run, the model). Raises NotFound when it has not begun."""
    run = runs.show_run(run_id)
    begun = {s["name"]: s["status"] for s in run["stages"]}
    if stage not in begun:
        raise NotFound(
            f"stage {stage!r} of run {run_id} has not begun; the run is {run['status']}", field="stage"
        )
    return run["status"] in ACTIVE_RUN and begun[stage] == StageStatus.running, run["model"]


async def _followed_log(
    listener: events.Events,
    path: FilePath,
    start: int,
    run_id: int,
    stage: str,
    renew: Callable[[], None] | None,
) -> AsyncIterator[bytes]:
    def ends_it(event: events.Event) -> bool:
        of_stage = event.stage == stage and event.status in ENDED_STAGE
        of_run = event.stage is None and event.status not in ACTIVE_RUN
        return event.run_id == run_id and (of_stage or of_run)

    async def until_ended(subscription: events.Subscription) -> None:
        running, _ = await anyio.to_thread.run_sync(_state_of, run_id, stage)
        if running:  # asked again: it may have ended meanwhile
            await subscription.next()

    with listener.subscribe(ends_it) as subscription:
        ended = asyncio.create_task(until_ended(subscription))
        try:
            async for chunk in logs.follow(path, start, ended, renew):
                yield chunk
        finally:
            ended.cancel()


@router.get("/events", tags=["events"], response_class=StreamingResponse, responses=errors(503))
async def all_events(
    listener: Listener,
    run_id: Annotated[int | None, Query(ge=1, le=BIGGEST_ID, description="Only this run's.")] = None,
    model: OfModel = None,
    after: Annotated[
        int | None, Query(ge=0, le=BIGGEST_ID, description="Begin after this id; 0: at the beginning.")
    ] = None,
    last_event_id: Annotated[
        int | None,
        Header(ge=0, le=BIGGEST_ID, description="As `after`; a browser sends it when it reconnects."),
    ] = None,
) -> StreamingResponse:
    """Server-sent events: every transition of runs and stages, and training's figures after each epoch.

    `id` is the transition's; a reader that was away names the last one it saw and misses nothing.
    """
    if listener.settled is not None and not listener.listening:
        raise Unavailable("the database does not answer; try again in a moment")
    begin = after if last_event_id is None else last_event_id
    body = events.stream(listener, begin, run_id, model)
    return StreamingResponse(body, media_type="text/event-stream", headers=UNBUFFERED)


@router.get("/healthz", tags=["health"])
def healthz() -> dict[str, str]:
    """The process is alive."""
    return {"status": "ok"}


@router.get("/readyz", tags=["health"])
def readyz(listener: Listener) -> dict[str, str]:
    """The database answers, and its notifications are heard."""
    with session() as db:
        db.execute(text("select 1"))
    if not listener.listening:
        raise Unavailable("the database's notifications are not heard yet; try again in a moment")
    return {"status": "ready"}
