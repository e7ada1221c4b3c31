"""The client of the model servers against small real HTTP servers: turns, retries, pauses, pings, bytes and JSON."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pytest
from aiohttp import web
from numpy.typing import NDArray

from api.errors import BadAnswer
from api.upstream import ANSWER_ELSEWHERE_SECONDS, RAW, ModelServer, ModelServers
from core.errors import Conflict, NotFound, Unavailable
from tests.support.processes import free_port

PIXELS = np.zeros((2, 28, 28), np.uint8)
FIGURES = np.array([[0.25, 0.75], [0.5, 0.5]], "<f4")


@dataclass
class Asked:
    path: str
    content_type: str
    for_trial: bool


Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers questions with what `replies` gives in its turn, the last for ever; pings with `ping`."""

    def __init__(self, *replies: Reply, ping: int = 200) -> None:
        self.replies = list(replies)
        self.ping = ping
        self.asked: list[Asked] = []
        self.pings = 0
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/ping", self._ping)
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _ping(self, _: web.Request) -> web.Response:
        self.pings += 1
        return web.Response(status=self.ping)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.asked.append(Asked(request.path, request.content_type, "Emend-Trial" in request.headers))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return await reply(request)


async def ours(request: web.Request) -> web.Response:
    if request.content_type == RAW:
        return web.Response(body=FIGURES.tobytes(), content_type=RAW, headers={"Emend-Version": "7"})
    return web.json_response({"predictions": FIGURES.tolist()}, headers={"Emend-Version": "7"})


async def stock(request: web.Request) -> web.Response:
    if request.content_type == RAW:
        return web.Response(status=415, text="{}")
    return web.json_response({"predictions": {"probabilities": FIGURES.tolist()}})


async def nonsense(_: web.Request) -> web.Response:
    return web.Response(text="<html>")


def writes(text: str) -> Reply:
    async def reply(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="application/json")

    return reply


async def a_row_too_few(_: web.Request) -> web.Response:
    return web.Response(body=FIGURES[:1].tobytes() + b"\0", content_type=RAW)


async def truncated(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "16", "Content-Type": RAW})
    await response.prepare(request)
    await response.write(b"\0" * 4)
    assert request.transport is not None
    request.transport.close()
    return response


async def hang(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


def says(status: int, **body: str) -> Reply:
    async def reply(_: web.Request) -> web.Response:
        return web.Response(status=status, text=json.dumps(body), content_type="application/json")

    return reply


def after(seconds: float) -> Reply:
    async def reply(request: web.Request) -> web.Response:
        await asyncio.sleep(seconds)
        return await ours(request)

    return reply


Scene = Callable[[ModelServers, list[Server]], Awaitable[None]]


def played(scene: Scene, *servers: Callable[[], Server]) -> None:
    async def play() -> None:
        async with AsyncExitStack() as stack:
            up = [await stack.enter_async_context(make()) for make in servers]
            client = ModelServers([each.url for each in up], "doodles")
            stack.callback(client.close)
            await asyncio.wait_for(scene(client, up), timeout=20)

    asyncio.run(play())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def check_answered(client: ModelServers, times: int = 1, **given: Any) -> None:
    for _ in range(times):
        answers = await client.probabilities("doodles", PIXELS, **given)
        assert answers.probabilities.tolist() == FIGURES.tolist()


def of(client: ModelServers, server: Server) -> ModelServer:
    return next(each for each in client.servers if each.url == server.url)


def test_servers_take_turns() -> None:
    async def scene(client: ModelServers, servers: list[Server]) -> None:
        await check_answered(client, 6)
        assert [len(each.asked) for each in servers] == [2, 2, 2]

    played(scene, *3 * [lambda: Server(ours)])


@pytest.mark.parametrize(
    "bad",
    [
        *(says(500), says(502), nonsense, a_row_too_few, truncated),
        *(writes(f'{{"predictions": [[1{400 * "0"}]]}}'), writes('{"predictions":' + 100_000 * "[")),
    ],
)
def test_what_one_server_fails_at_another_answers_and_nobody_asks_the_first_until_it_answered_a_ping(
    bad: Reply,
) -> None:
    async def scene(client: ModelServers, servers: list[Server]) -> None:
        failing, fine = servers
        failing.ping = 503
        await check_answered(client, 20)
        assert (len(failing.asked), len(fine.asked)) == (1, 20)
        await until(lambda: failing.pings >= 1)
        await check_answered(client, 5)
        assert len(failing.asked) == 1
        failing.replies, failing.ping = [ours], 200
        await until(lambda: not of(client, failing).paused)
        await check_answered(client, 4)
        assert len(failing.asked) == 3

    played(scene, lambda: Server(bad), lambda: Server(ours))


@pytest.mark.parametrize(("stated", "version"), [("7", 7), ("²", None), ("-7", None), (5000 * "9", None)])
def test_a_version_that_is_no_number_is_none(stated: str, version: int | None) -> None:
    async def odd(_: web.Request) -> web.Response:
        return web.Response(body=FIGURES.tobytes(), content_type=RAW, headers={"Emend-Version": stated})

    async def scene(client: ModelServers, _: list[Server]) -> None:
        assert (await client.probabilities("doodles", PIXELS)).version == version

    played(scene, lambda: Server(odd))


def test_only_when_all_failed_the_answer_is_bad() -> None:
    async def all_bad(client: ModelServers, servers: list[Server]) -> None:
        with pytest.raises(BadAnswer):
            await client.probabilities("doodles", PIXELS)
        assert [len(each.asked) for each in servers] == [1, 1]

    played(all_bad, lambda: Server(says(500)), lambda: Server(nonsense))

    async def one_away(client: ModelServers, _: list[Server]) -> None:
        for _turn in range(2):
            with pytest.raises(Unavailable):
                await client.probabilities("doodles", PIXELS)

    played(one_away, lambda: Server(says(500)), lambda: Server(says(503)))


def test_a_server_that_hangs_costs_one_question_a_moment_and_no_other_anything() -> None:
    async def scene(client: ModelServers, servers: list[Server]) -> None:
        hung = servers[0]
        hung.ping = 500
        started = time.monotonic()
        await asyncio.gather(*(check_answered(client) for _ in range(4)))
        assert ANSWER_ELSEWHERE_SECONDS <= time.monotonic() - started < ANSWER_ELSEWHERE_SECONDS + 1
        before = len(hung.asked)
        slowest = 0.0
        while hung.pings < 2:  # over two pauses
            started = time.monotonic()
            await check_answered(client)
            slowest = max(slowest, time.monotonic() - started)
        assert len(hung.asked) == before
        assert slowest < ANSWER_ELSEWHERE_SECONDS / 2

    played(scene, lambda: Server(hang), lambda: Server(ours))


def test_the_only_server_is_asked_whatever_it_did_before() -> None:
    async def scene(client: ModelServers, servers: list[Server]) -> None:
        (only,) = servers
        for _ in range(3):
            with pytest.raises(BadAnswer):
                await client.probabilities("doodles", PIXELS)
        only.replies = [truncated, ours]
        await check_answered(client)  # asked again at once: a connection may break off
        assert (len(only.asked), only.pings) == (5, 0)

    played(scene, lambda: Server(says(500)))


def test_when_all_are_paused_they_are_asked_all_the_same() -> None:
    async def scene(client: ModelServers, servers: list[Server]) -> None:
        for each in servers:
            each.ping = 503
        with pytest.raises(BadAnswer):
            await client.probabilities("doodles", PIXELS)
        assert all(each.paused for each in client.servers)
        servers[1].replies = [ours]
        await check_answered(client)
        assert not of(client, servers[1]).paused

    played(scene, *2 * [lambda: Server(says(500))])


@pytest.mark.parametrize(
    ("status", "version", "pauses"),
    [(404, None, False), (429, None, False), (503, None, True), (503, 7, False), (500, 7, False)],
)
def test_what_is_not_the_servers_fault_does_not_keep_questions_from_it(
    status: int, version: int | None, pauses: bool
) -> None:
    async def scene(client: ModelServers, servers: list[Server]) -> None:
        await check_answered(client, 2, version=version)
        assert [len(each.asked) for each in servers] == [1, 2]
        assert of(client, servers[0]).paused == pauses

    played(scene, lambda: Server(says(status)), lambda: Server(ours))


def test_a_version_that_is_slow_has_the_server_looked_at_and_costs_the_live_one_nothing() -> None:
    async def slow(request: web.Request) -> web.Response:
        return await (hang(request) if "versions" in request.path else ours(request))

    async def scene(client: ModelServers, servers: list[Server]) -> None:
        first, second = servers
        await check_answered(client, 2, version=3, for_trial=True)
        await until(lambda: first.pings == 1)
        await check_answered(client, 4)
        assert not of(client, first).paused
        assert [each.path for each in first.asked].count("/invocations") == 2
        first.ping = 503  # it was not the version: the server hangs
        await check_answered(client, 2, version=3, for_trial=True)
        await until(lambda: of(client, first).paused)
        assert all(each.for_trial for each in second.asked if "versions" in each.path)
        assert not any(each.for_trial for each in second.asked if "versions" not in each.path)

    played(scene, lambda: Server(slow), lambda: Server(ours))


def test_a_model_that_takes_long_by_itself_is_not_taken_for_a_server_that_hangs() -> None:
    async def scene(client: ModelServers, servers: list[Server]) -> None:
        await check_answered(client, 2)
        await check_answered(client, 2)
        assert [len(each.asked) for each in servers] == [2, 2]

    seconds = 1.2 * ANSWER_ELSEWHERE_SECONDS
    played(scene, *2 * [lambda: Server(after(seconds / 6), after(seconds))])


def test_a_version_that_is_not_there_or_fails_its_checks_is_asked_once() -> None:
    async def scene(client: ModelServers, servers: list[Server]) -> None:
        with pytest.raises(NotFound, match="in the registry"):
            await client.probabilities("doodles", PIXELS, 9)
        for each in servers:
            each.replies = [says(409, message="it fails")]
        with pytest.raises(Conflict, match="it fails"):
            await client.probabilities("doodles", PIXELS, 9)
        for each in servers:
            each.replies = [says(404, detail="Not Found")]
        with pytest.raises(NotFound, match="one version only"):
            await client.probabilities("doodles", PIXELS, 9)
        assert sum(len(each.asked) for each in servers) == 3

    played(scene, *2 * [lambda: Server(says(404, error_code="RESOURCE_DOES_NOT_EXIST"))])


# Raw pixels and JSON


def kinds(server: Server) -> list[str]:
    return ["raw" if each.content_type == RAW else "json" for each in server.asked]


def test_a_stock_server_is_asked_in_json_after_it_refused_raw_pixels_once_however_many_asked() -> None:
    together = asyncio.Barrier(4)

    async def at_the_same_time(request: web.Request) -> web.Response:
        if request.content_type == RAW:
            await together.wait()
        return await stock(request)

    async def scene(client: ModelServers, servers: list[Server]) -> None:
        (server,) = servers
        await asyncio.gather(*(check_answered(client) for _ in range(4)))
        assert sorted(kinds(server)) == ["json"] * 4 + ["raw"] * 4
        await check_answered(client, 3)
        assert kinds(server)[8:] == ["json"] * 3

    played(scene, lambda: Server(at_the_same_time))


def test_one_refusal_of_our_own_server_changes_nothing() -> None:
    async def scene(client: ModelServers, servers: list[Server]) -> None:
        (server,) = servers
        with pytest.raises(BadAnswer):
            await client.probabilities("doodles", PIXELS)  # refused in both forms
        await check_answered(client, 2)
        assert kinds(server) == ["raw", "json", "raw", "raw"]
        server.replies = [says(400), ours]
        await check_answered(client, 2)
        assert kinds(server)[4:] == ["raw", "json", "raw"]  # who says its version is ours

    played(scene, lambda: Server(says(400), says(400), ours))


def test_a_server_that_takes_anothers_place_is_asked_in_its_own_form() -> None:
    async def scene(client: ModelServers, servers: list[Server]) -> None:
        (server,) = servers
        await check_answered(client, 2)
        server.replies = [ours]
        await check_answered(client, 2)
        server.replies = [stock]
        await check_answered(client, 2)
        assert kinds(server) == ["raw", "json", "json", "json", "raw", "raw", "json", "json"]

    played(scene, lambda: Server(stock))


def test_ready_when_one_server_says_so() -> None:
    async def scene(client: ModelServers, servers: list[Server]) -> None:
        await client.ready()
        servers[1].ping = 503
        with pytest.raises(Unavailable):
            await client.ready()

    played(scene, lambda: Server(ours, ping=503), lambda: Server(ours))


def test_pixels_go_as_they_are_and_photos_too() -> None:
    seen: list[bytes] = []

    async def keep(request: web.Request) -> web.Response:
        seen.append(await request.read())
        return await ours(request)

    photos: NDArray[np.uint8] = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)

    async def scene(client: ModelServers, servers: list[Server]) -> None:
        await client.probabilities("photos", photos)
        assert (servers[0].asked[0].path, seen) == ("/models/photos/invocations", [photos.tobytes()])

    played(scene, lambda: Server(keep))
