"""The gateway's application: its state, made and ended with the process, its routes, its health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import JSONResponse, RedirectResponse
from sqlalchemy import select

from api import corrections, links, models, monitoring, predictions, runs
from api.actors import Actors
from api.batching import Batcher
from api.catalogue import Catalogue
from api.gateway import Gateway, gateway
from api.history import History
from api.trials import Trials
from api.upstream import ModelServers
from core import web
from core.database import session
from core.errors import EmendError
from core.settings import settings

# With the catalogue's, the history's and the trials' they stay within the pool's ten connections.
DATABASE_THREADS = 7
READY_SECONDS = 3.0

health = APIRouter(tags=["health"])


def create_app() -> FastAPI:
    app = web.application(
        "gateway",
        "Images in, answers out, corrections kept. Errors have one shape, see any 4xx below; times are UTC.",
        lifespan=_lifespan,
    )
    app.include_router(predictions.lean)  # first: each route before it costs a comparison
    for part in (predictions, corrections, models, runs, links, monitoring):
        app.include_router(part.router)
    app.include_router(health)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = DATABASE_THREADS
    here = settings()
    model_servers = ModelServers(here.model_server_urls, here.default_model)
    batcher = Batcher(partial(model_servers.probabilities, for_trial=True), len(model_servers.servers))
    state = Gateway(
        catalogue=Catalogue(),
        model_servers=model_servers,
        batcher=batcher,
        history=History(),
        trials=Trials(batcher),
        actors=Actors(here.data_dir),
        decoding=anyio.CapacityLimiter(2),  # each may take 300 MB (core/images.py)
    )
    app.state.gateway = state
    state.catalogue.start()
    state.history.start()
    state.trials.start()
    salt = asyncio.create_task(state.actors.prepare())
    try:
        yield
    finally:
        salt.cancel()
        await anyio.to_thread.run_sync(state.trials.stop)
        await anyio.to_thread.run_sync(state.history.stop)
        await anyio.to_thread.run_sync(state.catalogue.stop)
        model_servers.close()


@health.get("/", include_in_schema=False)
async def start() -> RedirectResponse:
    """Whoever opens the gateway in a browser sees how to ask it."""
    return RedirectResponse("/docs", status_code=307)


@health.get("/healthz", summary="The process lives")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@health.get("/readyz", summary="Everything that an answer needs is there", responses={503: {}})
async def readyz(the: Annotated[Gateway, Depends(gateway)]) -> JSONResponse:
    """Each part by name. Without the database predictions are still answered, corrections are not."""
    checks: dict[str, Any] = {}
    for name, check in (
        ("database", anyio.to_thread.run_sync(_ask_database, abandon_on_cancel=True)),
        ("model_server", the.model_servers.ready()),
    ):
        try:
            with anyio.fail_after(READY_SECONDS):
                await check
            checks[name] = {"ok": True}
        except EmendError as exc:
            checks[name] = {"ok": False, "message": exc.message}
        except TimeoutError:
            checks[name] = {"ok": False, "message": f"no answer within {READY_SECONDS:g} s"}
    ready = all(found["ok"] for found in checks.values())
    body = {"status": "ready" if ready else "not ready", "checks": checks}
    return JSONResponse(body, status_code=200 if ready else 503)


def _ask_database() -> None:
    with session() as db:
        db.execute(select(1))
