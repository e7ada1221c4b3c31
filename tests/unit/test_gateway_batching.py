"""Micro-batching with a model server that answers when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from api.batching import MOST_BYTES, MOST_IMAGES, MOST_WAITING, Batcher, TooBusy
from api.errors import BadAnswer
from api.upstream import Answers
from core import telemetry


class Server:
    """Answers each image with its first pixel. Calls wait while `closed`."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.versions: list[int | None] = []
        self.request_ids: list[str | None] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None

    async def score(self, _model: str, pixels: NDArray[np.uint8], version: int | None) -> Answers:
        self.versions.append(version)
        self.calls.append(len(pixels))
        self.request_ids.append(telemetry.request_id())
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return Answers(pixels.reshape(len(pixels), -1)[:, :1].astype(np.float64), version=7)


def image(number: int, side: int = 28) -> NDArray[np.uint8]:
    return np.full((side, side), number, np.uint8)


def played(scene: Callable[[Server, Batcher], Awaitable[None]]) -> None:
    async def play() -> None:
        server = Server()
        await asyncio.wait_for(scene(server, Batcher(server.score)), timeout=10)

    asyncio.run(play())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_a_lone_image_goes_at_once() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        answer = await batcher.answer("doodles", image(5))
        assert (answer.probabilities[0], answer.version) == (5, 7)
        assert server.calls == [1]

    played(scene)


def test_what_comes_while_the_server_is_busy_goes_together_and_everybody_gets_their_own() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.open.clear()
        first = asyncio.create_task(batcher.answer("doodles", image(0)))
        await until(lambda: server.calls == [1])
        others = [asyncio.create_task(batcher.answer("doodles", image(i))) for i in range(1, 100)]
        await asyncio.sleep(0)
        server.open.set()
        answers = await asyncio.gather(first, *others)
        assert [int(a.probabilities[0]) for a in answers] == list(range(100))
        assert server.calls == [1, MOST_IMAGES, 99 - MOST_IMAGES]

    played(scene)


def test_a_call_carries_the_request_ids_of_its_images() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        async def asked(number: int, request_id: str | None) -> None:
            if request_id is not None:
                telemetry.bind(request_id=request_id)
            await batcher.answer("doodles", image(number))
            assert telemetry.request_id() == request_id

        server.open.clear()
        asking = [asyncio.create_task(asked(0, "first"))]
        await until(lambda: server.calls == [1])
        asking += [asyncio.create_task(asked(i, name)) for i, name in enumerate(("second", "third"))]
        await asyncio.sleep(0)
        server.open.set()
        await asyncio.gather(*asking)
        await asyncio.create_task(asked(5, None))
        assert server.request_ids == ["first", "second,third", None]

    played(scene)


def test_nobody_is_forgotten_between_two_calls() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        async def one_after_the_other(number: int) -> None:
            for _ in range(200):
                assert (await batcher.answer("doodles", image(number))).probabilities[0] == number

        await asyncio.gather(*(one_after_the_other(i) for i in range(8)))

    played(scene)


def test_models_do_not_wait_for_each_other_and_large_images_make_small_batches() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.open.clear()
        waiting = [asyncio.create_task(batcher.answer("photos", image(1, 1000))) for _ in range(6)]
        other = asyncio.create_task(batcher.answer("doodles", image(2)))
        await until(lambda: len(server.calls) == 2)
        server.open.set()
        await asyncio.gather(other, *waiting)
        assert max(server.calls) <= MOST_BYTES // 1_000_000

    played(scene)


def test_a_failure_reaches_all_of_its_call_and_the_next_call_goes_on() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.failure = BadAnswer("no")
        results = await asyncio.gather(
            *(batcher.answer("doodles", image(i)) for i in range(3)), return_exceptions=True
        )
        assert all(isinstance(r, BadAnswer) for r in results)
        server.failure = None
        assert (await batcher.answer("doodles", image(4))).probabilities[0] == 4

    played(scene)


def test_who_went_away_is_not_sent() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.open.clear()
        first = asyncio.create_task(batcher.answer("doodles", image(0)))
        await until(lambda: server.calls == [1])
        gone = asyncio.create_task(batcher.answer("doodles", image(1)))
        stays = asyncio.create_task(batcher.answer("doodles", image(2)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        server.open.set()
        await first
        assert (await stays).probabilities[0] == 2
        assert server.calls == [1, 1]

    played(scene)


def test_too_many_are_turned_away_at_once() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.open.clear()
        first = asyncio.create_task(batcher.answer("doodles", image(0)))
        await until(lambda: server.calls == [1])
        waiting = [asyncio.create_task(batcher.answer("doodles", image(1))) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(TooBusy):
            batcher.admit("doodles")
        batcher.admit("photos")
        server.open.set()
        await asyncio.gather(first, *waiting)
        batcher.admit("doodles")

    played(scene)


def test_versions_of_a_model_have_calls_of_their_own() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.open.clear()
        asked = [asyncio.create_task(batcher.answer("doodles", image(i), i % 2 or None)) for i in range(6)]
        await until(lambda: len(server.calls) == 2)
        server.open.set()
        assert [int(answer.probabilities[0]) for answer in await asyncio.gather(*asked)] == list(range(6))
        assert sorted(zip(server.versions, server.calls, strict=True), key=str) == [(1, 3), (None, 3)]

    played(scene)
