"""Who answers during a trial, with a model server that answers when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from api.batching import MOST_WAITING, Answer, Batcher
from api.trials import MOST_COMPARISONS, OpenTrial, Trials
from api.upstream import Answers
from core.database import TrialKind
from core.images import Decoded

LIVE, OTHER = 1, 2
BRIGHT = 255


class Server:
    """Says that everything is of the first category; the other version has no answer for what is bright."""

    def __init__(self) -> None:
        self.asked: list[tuple[int | None, int]] = []
        self.closed: set[int | None] = set()  # versions that do not answer yet
        self.changed = asyncio.Event()

    async def score(self, _: str, pixels: NDArray[np.uint8], version: int | None) -> Answers:
        self.asked.append((version, len(pixels)))
        while version in self.closed:
            await self.changed.wait()
        rows = np.zeros((len(pixels), 3))
        rows[:, 0] = 1
        if version == OTHER:
            rows[pixels[:, 0, 0] == BRIGHT] = np.nan
        return Answers(rows, version or LIVE)

    def open(self) -> None:
        self.closed.clear()
        self.changed.set()


def image(sha256: str, shade: int = 0) -> Decoded:
    return Decoded(np.full((28, 28), shade, np.uint8), None, sha256)


MINE = image(8 * "0" + "00000001" + 48 * "0")
NOT_MINE = image(8 * "0" + "00000063" + 48 * "0")  # 99 of 100


def trial(kind: TrialKind, percent: int = 50) -> OpenTrial:
    return OpenTrial(1, kind, OTHER, percent)


def versions(answers: Sequence[Answer]) -> set[int | None]:
    return {answer.version for answer in answers}


def played(scene: Callable[[Server, Batcher, Trials], Awaitable[None]]) -> None:
    async def play() -> None:
        server = Server()
        batcher = Batcher(server.score)
        await asyncio.wait_for(scene(server, batcher, Trials(batcher)), timeout=10)

    asyncio.run(play())


async def compared(trials: Trials) -> None:
    while trials._comparing:
        await asyncio.sleep(0)


def test_a_request_is_answered_by_one_version_the_one_of_its_first_image() -> None:
    async def scene(_: Server, __: Batcher, trials: Trials) -> None:
        canary = trial(TrialKind.canary)
        assert versions(await trials.answer(canary, "doodles", [MINE, NOT_MINE, MINE], {})) == {OTHER}
        assert versions(await trials.answer(canary, "doodles", [NOT_MINE, MINE], {})) == {LIVE}
        await compared(trials)
        assert trials._counted[1].images == 3

    played(scene)


def test_a_bad_answer_of_a_canary_is_one_error_and_the_champion_answers_the_whole_request() -> None:
    async def scene(_: Server, __: Batcher, trials: Trials) -> None:
        images = [MINE, image("", BRIGHT), MINE]
        assert versions(await trials.answer(trial(TrialKind.canary), "doodles", images, {})) == {LIVE}
        counted = trials._counted[1]
        assert (counted.images, counted.errors, counted.champion_errors, counted.agreed) == (3, 1, 0, 2)

    played(scene)


def test_while_enough_wait_for_a_canary_the_champion_answers() -> None:
    async def scene(server: Server, batcher: Batcher, trials: Trials) -> None:
        server.closed.add(OTHER)
        canary = trial(TrialKind.canary)
        waiting = []
        for _ in range(MOST_WAITING // 2 + 2):  # one of them is asked about
            waiting.append(asyncio.create_task(trials.answer(canary, "doodles", [MINE], {})))
            while not server.asked:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert batcher.is_busy("doodles", OTHER)
        assert versions(await trials.answer(canary, "doodles", [MINE], {})) == {LIVE}
        assert trials._counted[1].skipped == 1
        server.open()
        assert {version for each in waiting for version in versions(await each)} == {OTHER}
        await compared(trials)

    played(scene)


def test_comparisons_are_skipped_long_before_people_are_refused() -> None:
    async def scene(server: Server, batcher: Batcher, trials: Trials) -> None:
        server.closed.add(None)
        first = asyncio.create_task(batcher.answer("doodles", [MINE.pixels]))
        while not server.asked:
            await asyncio.sleep(0)
        people = [
            asyncio.create_task(batcher.answer("doodles", [MINE.pixels]))
            for _ in range(MOST_WAITING // 2 + 2)
        ]
        while not batcher.is_busy("doodles"):
            await asyncio.sleep(0)
        canary = trial(TrialKind.canary)
        assert versions(await trials.answer(canary, "doodles", [MINE], {})) == {OTHER}
        assert not trials._comparing
        assert trials._counted[1].skipped == 1
        server.open()
        await asyncio.gather(first, *people)

    played(scene)


def test_few_comparisons_are_under_way_at_once_but_one_request_may_bring_more() -> None:
    async def scene(server: Server, _: Batcher, trials: Trials) -> None:
        shadow = trial(TrialKind.shadow)
        server.closed.add(OTHER)
        await trials.answer(shadow, "doodles", [MINE] * (MOST_COMPARISONS + 1), {})
        await trials.answer(shadow, "doodles", [MINE], {})
        assert trials._counted[1].skipped == 1
        server.open()
        await compared(trials)
        assert trials._counted[1].images == MOST_COMPARISONS + 1

    played(scene)
