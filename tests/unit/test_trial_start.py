"""Whether the model servers have a version, asked of real HTTP servers before a trial begins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Barrier

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from core.errors import Conflict, EmendError, NotFound, Unavailable
from core.settings import settings
from pipeline.trials import _load
from tests.support.http_server import http_client
from tests.support.processes import free_port

PATH = "/models/doodles/versions/7/invocations"
FINE = Response(b"")


@contextmanager
def model_servers(
    monkeypatch: pytest.MonkeyPatch, *replies: Response | None, until: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """None: nobody is there. until: each waits for it, then answers."""
    with ExitStack() as up:
        urls = []
        for reply in replies:
            if reply is None:
                urls.append(f"http://127.0.0.1:{free_port()}")
                continue

            async def answer(request: Request, reply: Response = reply) -> Response:
                assert len(await request.body()) == 784
                assert request.headers["Emend-Trial"] == "start"  # not in the room of comparisons
                await asyncio.to_thread(until)
                return reply

            app = Starlette(routes=[Route(PATH, answer, methods=["POST"])])
            urls.append(str(up.enter_context(http_client(app)).base_url).rstrip("/"))
        monkeypatch.setenv("MODEL_SERVER_URLS", ",".join(urls))
        settings.cache_clear()
        try:
            yield
        finally:
            settings.cache_clear()


def test_the_servers_that_answer_must_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with model_servers(monkeypatch, FINE, FINE):
        _load("doodles", 7, 784)
    with model_servers(monkeypatch, None, FINE):
        _load("doodles", 7, 784)
    with model_servers(monkeypatch, None, None), pytest.raises(Unavailable, match="no model server answers"):
        _load("doodles", 7, 784)


def test_all_servers_load_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together = Barrier(3)
    with model_servers(monkeypatch, FINE, FINE, FINE, until=lambda: together.wait(10)):
        _load("doodles", 7, 784)


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (
            404,
            '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no version 7"}',
            NotFound,
            "no version 7",
        ),
        (404, '{"detail": "Not Found"}', Conflict, "one version only"),
        (404, "<html>", Conflict, "one version only"),
        (409, '{"message": "it is not finite"}', Conflict, "it is not finite"),
        (503, '{"message": "16 requests are in progress"}', Unavailable, "HTTP 503: 16 requests"),
        (500, '{"message": "its log says why"}', Unavailable, "HTTP 500: its log says why"),
        (413, '["too", "large"]', Unavailable, "HTTP 413: it gave no reason"),
        (502, '{"message": ', Unavailable, "HTTP 502: it gave no reason"),
    ],
)
def test_what_a_server_answers_instead_is_told(
    status: int, body: str, error: type[EmendError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = Response(body, status, media_type="application/json")
    with model_servers(monkeypatch, FINE, reply), pytest.raises(error, match=says):
        _load("doodles", 7, 784)
