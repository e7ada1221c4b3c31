"""Micro-batching with a model server that answers when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from api.batching import (
    FEWEST_WAITING,
    MOST_BYTES,
    MOST_IMAGES_A_CALL,
    MOST_REPLAYS,
    MOST_WAITING,
    Answer,
    Batcher,
    PacedPlaces,
)
from api.errors import BadAnswer
from api.upstream import Answers
from core import telemetry
from core.errors import NotFound, TooBusy, Unavailable


class Server:
    """Answers each image with its first pixel. Calls wait while `closed`."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.versions: list[int | None] = []
        self.request_ids: list[str | None] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.live = 7

    async def score(self, _model: str, pixels: NDArray[np.uint8], version: int | None) -> Answers:
        self.versions.append(version)
        self.calls.append(len(pixels))
        self.request_ids.append(telemetry.request_id())
        answering = self.live if version is None else version
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return Answers(pixels.reshape(len(pixels), -1)[:, :1].astype(np.float64), answering)


def image(number: int, side: int = 28) -> NDArray[np.uint8]:
    return np.full((side, side), number, np.uint8)


async def ask(
    batcher: Batcher, pixels: NDArray[np.uint8], model: str = "doodles", version: int | None = None
) -> Answer:
    """About one image."""
    (answer,) = await batcher.answer(model, [pixels], version)
    return answer


def played(scene: Callable[[Server, Batcher], Awaitable[None]], servers: int = 1) -> None:
    async def play() -> None:
        server = Server()
        await asyncio.wait_for(scene(server, Batcher(server.score, servers)), timeout=10)

    asyncio.run(play())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_a_lone_image_goes_at_once() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        answer = await ask(batcher, image(5))
        assert (answer.probabilities[0], answer.version) == (5, 7)
        assert server.calls == [1]

    played(scene)


def test_what_comes_while_the_server_is_busy_goes_together_and_everybody_gets_their_own() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.open.clear()
        first = asyncio.create_task(ask(batcher, image(0)))
        await until(lambda: server.calls == [1])
        others = [asyncio.create_task(ask(batcher, image(i))) for i in range(1, 100)]
        await asyncio.sleep(0)
        server.open.set()
        answers = await asyncio.gather(first, *others)
        assert [int(a.probabilities[0]) for a in answers] == list(range(100))
        assert server.calls == [1, MOST_IMAGES_A_CALL, 99 - MOST_IMAGES_A_CALL]

    played(scene)


def test_a_call_carries_the_request_ids_of_its_images() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        async def asked(number: int, request_id: str | None) -> None:
            if request_id is not None:
                telemetry.bind(request_id=request_id)
            await ask(batcher, image(number))
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
                assert (await ask(batcher, image(number))).probabilities[0] == number

        await asyncio.gather(*(one_after_the_other(i) for i in range(8)))

    played(scene)


def test_models_do_not_wait_for_each_other_and_large_images_make_small_batches() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.open.clear()
        waiting = [asyncio.create_task(ask(batcher, image(1, 1000), "photos")) for _ in range(6)]
        other = asyncio.create_task(ask(batcher, image(2)))
        await until(lambda: len(server.calls) == 2)
        server.open.set()
        await asyncio.gather(other, *waiting)
        assert max(server.calls) <= MOST_BYTES // 1_000_000

    played(scene)


def test_a_failure_reaches_all_of_its_call_and_the_next_call_goes_on() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.failure = BadAnswer("no")
        results = await asyncio.gather(*(ask(batcher, image(i)) for i in range(3)), return_exceptions=True)
        assert all(isinstance(r, BadAnswer) for r in results)
        server.failure = None
        assert (await ask(batcher, image(4))).probabilities[0] == 4

    played(scene)


def test_who_went_away_is_not_sent() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.open.clear()
        first = asyncio.create_task(ask(batcher, image(0)))
        await until(lambda: server.calls == [1])
        gone = asyncio.create_task(ask(batcher, image(1)))
        stays = asyncio.create_task(ask(batcher, image(2)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        server.open.set()
        await first
        assert (await stays).probabilities[0] == 2
        assert server.calls == [1, 1]

    played(scene)


def test_who_went_away_takes_no_room() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.open.clear()
        first = asyncio.create_task(ask(batcher, image(0)))
        await until(lambda: server.calls == [1])
        gone = [asyncio.create_task(ask(batcher, image(i))) for i in range(60)]
        await asyncio.sleep(0)
        assert batcher.is_busy("doodles")
        for each in gone:
            each.cancel()
        await asyncio.wait(gone)
        assert not batcher.is_busy("doodles")
        server.open.set()
        await first
        assert server.calls == [1]

    played(scene)


def test_places_are_for_images_from_before_they_are_decoded_until_they_are_answered() -> None:
    async def scene(_: Server, batcher: Batcher) -> None:
        places = batcher.places("doodles")
        assert places.most == MOST_WAITING + MOST_IMAGES_A_CALL
        with batcher.admit("doodles", 64), batcher.admit("doodles", 64):
            with pytest.raises(TooBusy):
                batcher.admit("doodles", 64)
            batcher.admit("photos", 64)
            assert places.in_use == 128
        assert places.in_use == 0
        with pytest.raises(BadAnswer), batcher.admit("doodles", 5):
            raise BadAnswer("no")
        assert places.in_use == 0
        with batcher.admit("doodles", 1000):  # alone
            pass

    played(scene)


@pytest.mark.parametrize(
    ("answered_per_second", "waiting"), [(100, FEWEST_WAITING), (2000, 60), (50_000, MOST_WAITING)]
)
def test_as_many_may_wait_as_are_soon_answered(answered_per_second: float, waiting: int) -> None:
    now = 0.0
    places = PacedPlaces(MOST_IMAGES_A_CALL, clock=lambda: now)
    waiting_at_first = places.most - MOST_IMAGES_A_CALL
    assert waiting_at_first == MOST_WAITING

    def press(seconds: float) -> None:
        nonlocal now
        until = now + seconds
        while now < until:
            now += 1 / answered_per_second
            with places.taken(1):
                pass

    press(1)  # one after another: nothing is known of what could be answered
    assert places.most == MOST_IMAGES_A_CALL + MOST_WAITING
    with places.taken(MOST_IMAGES_A_CALL):
        press(3)
    assert places.most == pytest.approx(MOST_IMAGES_A_CALL + waiting, abs=1.5)
    press(1)
    assert places.most == pytest.approx(MOST_IMAGES_A_CALL + waiting, abs=1.5)


def test_requests_of_many_images_leave_places_to_those_of_one() -> None:
    async def scene(_: Server, batcher: Batcher) -> None:
        with batcher.admit("doodles", 64), batcher.admit("doodles", 62):
            with pytest.raises(TooBusy):
                batcher.admit("doodles", 3)
            with batcher.admit("doodles", 2):
                lone = [batcher.admit("doodles", 1) for _ in range(FEWEST_WAITING)]
                with pytest.raises(TooBusy):
                    batcher.admit("doodles", 1)
                for each in lone:
                    with each:
                        pass
        # Those of one may have all of them, and then those of many wait.
        lone = [batcher.admit("doodles", 1) for _ in range(MOST_IMAGES_A_CALL + MOST_WAITING)]
        with pytest.raises(TooBusy):
            batcher.admit("doodles", 2)
        for each in lone:
            with each:
                pass
        assert batcher.places("doodles").in_use == 0
        with batcher.admit("doodles", 64), batcher.admit("doodles", 64):
            pass

    played(scene)


def test_places_of_who_goes_away_are_no_answers() -> None:
    now = 0.0
    places = PacedPlaces(MOST_IMAGES_A_CALL, clock=lambda: now)
    with places.taken(MOST_IMAGES_A_CALL):
        for _ in range(1000):
            now += 0.001
            with pytest.raises(asyncio.CancelledError), places.taken(1):
                raise asyncio.CancelledError
        assert places.most < MOST_IMAGES_A_CALL + MOST_WAITING
        assert places.most == pytest.approx(MOST_IMAGES_A_CALL + FEWEST_WAITING, abs=5)


def test_requests_for_other_versions_have_places_of_their_own() -> None:
    async def scene(_: Server, batcher: Batcher) -> None:
        taken = [batcher.admit_replay("doodles") for _ in range(MOST_REPLAYS)]
        with pytest.raises(TooBusy):
            batcher.admit_replay("doodles")
        with batcher.admit("doodles", 1), taken[0]:
            pass
        batcher.admit_replay("doodles")

    played(scene)


def test_a_requests_images_go_in_one_call() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.open.clear()
        first = asyncio.create_task(ask(batcher, image(0)))
        await until(lambda: server.calls == [1])
        requests = [
            asyncio.create_task(batcher.answer("doodles", [image(i)] * count))
            for i, count in enumerate((40, 20, 20, 64, 1))
        ]
        await asyncio.sleep(0)
        assert batcher.is_busy("doodles")
        assert not batcher.is_busy("doodles", 3)
        server.open.set()
        await first
        for number, answers in enumerate(await asyncio.gather(*requests)):
            assert {int(answer.probabilities[0]) for answer in answers} == {number}
        assert server.calls == [1, 60, 20, 64, 1]
        assert not batcher.is_busy("doodles")

    played(scene)


def test_a_request_that_one_call_cannot_take_is_answered_by_one_version_all_the_same() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.open.clear()
        asking = asyncio.create_task(batcher.answer("photos", [image(i, 1000) for i in range(7)]))
        await until(lambda: server.calls == [3])
        server.live = 8  # between two of its calls
        server.open.set()
        answers = await asking
        assert {answer.version for answer in answers} == {8}
        assert [int(answer.probabilities[0]) for answer in answers] == list(range(7))
        assert server.calls == [3, 3, 1, 3]
        assert server.versions == [None, None, None, 8]

    played(scene)


def test_when_one_call_fails_the_rest_of_its_request_is_not_sent_and_takes_no_room() -> None:
    calls: list[int] = []
    fails, answers = asyncio.Event(), asyncio.Event()

    async def score(_: str, pixels: NDArray[np.uint8], version: int | None) -> Answers:
        calls.append(len(pixels))
        if len(calls) == 1:
            await fails.wait()
            raise BadAnswer("no")
        await answers.wait()
        return Answers(pixels.reshape(len(pixels), -1)[:, :1].astype(np.float64), 7)

    async def scene() -> None:
        batcher = Batcher(score)
        failing = asyncio.create_task(batcher.answer("photos", [image(i, 1000) for i in range(120)]))
        await until(lambda: calls == [3])
        assert batcher.is_busy("photos")
        fails.set()
        with pytest.raises(BadAnswer):
            await failing
        assert not batcher.is_busy("photos")
        answers.set()
        assert (await ask(batcher, image(1, 1000), "photos")).version == 7
        assert calls == [3, 3, 1]  # the second was on its way when the first failed

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_while_the_version_cannot_be_asked_again_such_a_request_is_refused() -> None:
    calls = 0

    async def score(_: str, pixels: NDArray[np.uint8], version: int | None) -> Answers:
        nonlocal calls
        calls += 1
        if version is not None:
            raise NotFound("gone")
        return Answers(pixels.reshape(len(pixels), -1)[:, :1].astype(np.float64), version=calls)

    with pytest.raises(Unavailable, match="changed while it answered"):
        asyncio.run(Batcher(score).answer("photos", [image(i, 1000) for i in range(4)]))


def test_as_many_calls_are_under_way_as_there_are_model_servers() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        assert batcher.places("doodles").most == MOST_WAITING + 2 * MOST_IMAGES_A_CALL
        server.open.clear()
        waiting = []
        for calls in (1, 2):
            waiting.append(asyncio.create_task(ask(batcher, image(calls))))
            await until(lambda: len(server.calls) == calls)  # noqa: B023  waited for in this round
        waiting += [asyncio.create_task(ask(batcher, image(i))) for i in range(3, 9)]
        await asyncio.sleep(0)
        assert server.calls == [1, 1]
        server.open.set()
        await asyncio.gather(*waiting)
        assert server.calls == [1, 1, 6]

    played(scene, servers=2)


def test_images_of_another_shape_do_not_fail_their_neighbours() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.open.clear()
        first = asyncio.create_task(ask(batcher, image(0)))
        await until(lambda: server.calls == [1])
        sides = (28, 28, 32, 32, 28)
        others = [asyncio.create_task(ask(batcher, image(i, side))) for i, side in enumerate(sides)]
        await asyncio.sleep(0)
        server.open.set()
        await first
        assert [int(a.probabilities[0]) for a in await asyncio.gather(*others)] == list(range(5))
        assert server.calls == [1, 2, 2, 1]

    played(scene)


def test_versions_of_a_model_have_calls_of_their_own() -> None:
    async def scene(server: Server, batcher: Batcher) -> None:
        server.open.clear()
        asked = [asyncio.create_task(ask(batcher, image(i), version=i % 2 or None)) for i in range(6)]
        await until(lambda: len(server.calls) == 2)
        server.open.set()
        assert [int(answer.probabilities[0]) for answer in await asyncio.gather(*asked)] == list(range(6))
        assert sorted(zip(server.versions, server.calls, strict=True), key=str) == [(1, 3), (None, 3)]

    played(scene)
