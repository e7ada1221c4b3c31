"""Whom a trial blames for what: real counts in a real database, a model server that answers as the test says."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from numpy.typing import NDArray

import core.database
from api.batching import Batcher
from api.errors import BadAnswer
from api.trials import CANARY_SECONDS, MOST_COMPARISONS, OpenTrial, Trials
from api.upstream import ANSWER_ELSEWHERE_SECONDS, Answers
from core.database import Trial, TrialKind
from core.errors import Conflict, NotFound, Unavailable
from core.images import Decoded, name_of
from core.trials import LATENCY_BOUNDS_MS
from tests.support.gateway import add_model
from tests.support.trials import begin_trial

CHAMPION, CANARY = 1, 2
NAMES = {CHAMPION: ("cat", "dog"), CANARY: ("cat", "dog")}


class Servers:
    """The champion answers at once; the canary when `open`, or as `failure` says."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.champion_away = False
        self.figures = [0.25, 0.75]

    async def score(self, _model: str, pixels: NDArray[np.uint8], version: int | None) -> Answers:
        if version is None:
            if self.champion_away:
                raise Unavailable("away")
            return Answers(np.tile([0.25, 0.75], (len(pixels), 1)), CHAMPION)
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return Answers(np.tile(self.figures, (len(pixels), 1)), CANARY)


class Scene:
    def __init__(self, kind: TrialKind) -> None:
        self.servers = Servers()
        self.trials = Trials(Batcher(self.servers.score))
        trial_id = begin_trial("doodles", CANARY, CHAMPION, kind=kind, percent=100)
        self.open_trial = OpenTrial(trial_id, kind, CANARY, 100)

    async def ask(self) -> int | None:
        """The version that answered."""
        pixels = np.random.default_rng().integers(0, 256, (28, 28), np.uint8)
        image = Decoded(pixels=pixels, sha256=name_of(pixels), original=None)
        (answer,) = await self.trials.answer(self.open_trial, "doodles", [image], NAMES)
        return answer.version

    async def counted(self, images: int) -> Trial:
        """When this many were, skipped ones too."""
        while True:
            await asyncio.to_thread(self.trials.flush)
            with core.database.session() as db:
                row = db.get_one(Trial, self.open_trial.id)
                db.expunge(row)
            if row.images + row.skipped >= images:
                return row
            await asyncio.sleep(0.01)


def played(play: Callable[[Scene], Awaitable[None]], kind: TrialKind = TrialKind.canary) -> None:
    async def playing() -> None:
        add_model(core.database.engine(), versions=(CANARY, CHAMPION))
        await asyncio.wait_for(play(Scene(kind)), timeout=30)

    asyncio.run(playing())


pytestmark = pytest.mark.usefixtures("emend_environment")


def test_a_canary_whose_server_is_away_or_fetches_it_is_answered_for_and_not_blamed() -> None:
    async def play(scene: Scene) -> None:
        scene.servers.failure = Unavailable("version 2 is being fetched")
        assert {await scene.ask() for _ in range(30)} == {CHAMPION}
        trial = await scene.counted(30)
        assert (trial.errors, trial.images, trial.skipped, trial.outcome) == (0, 0, 30, None)
        scene.servers.failure = None
        assert {await scene.ask() for _ in range(5)} == {CANARY}
        assert (await scene.counted(35)).agreed == 5

    played(play)


@pytest.mark.parametrize("failure", [BadAnswer("nonsense"), Conflict("it fails"), NotFound("gone")])
def test_what_a_version_does_itself_is_its_error_and_ends_it(failure: Exception) -> None:
    async def play(scene: Scene) -> None:
        scene.servers.failure = failure
        assert {await scene.ask() for _ in range(10)} == {CHAMPION}
        trial = await scene.counted(10)
        assert (trial.errors, trial.champion_errors, trial.outcome) == (10, 0, "failed")

    played(play)


def test_figures_that_are_no_probabilities_are_its_error_in_a_shadow_too() -> None:
    async def play(scene: Scene) -> None:
        scene.servers.figures = [0.9, 0.9]
        assert {await scene.ask() for _ in range(10)} == {CHAMPION}
        trial = await scene.counted(10)
        assert (trial.errors, trial.agreed, trial.outcome) == (10, 0, None)

    played(play, TrialKind.shadow)


def test_a_version_that_is_late_keeps_few_people_waiting_and_that_is_its_latency() -> None:
    async def play(scene: Scene) -> None:
        scene.servers.open.clear()
        started = time.monotonic()
        assert await scene.ask() == CHAMPION
        assert CANARY_SECONDS <= time.monotonic() - started < CANARY_SECONDS + 1
        started = time.monotonic()
        assert {await scene.ask() for _ in range(MOST_COMPARISONS)} == {CHAMPION}
        while time.monotonic() < started + CANARY_SECONDS:
            await asyncio.sleep(0.05)
        scene.servers.open.set()
        trial = await scene.counted(MOST_COMPARISONS + 1)
        assert (trial.errors, trial.images) == (0, MOST_COMPARISONS + 1)
        assert sum(trial.latencies[bisect_left(LATENCY_BOUNDS_MS, 1000 * CANARY_SECONDS) :]) == trial.images

    played(play)


def test_while_it_is_late_behind_the_answers_nobody_waits_for_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.trials.CANARY_SECONDS", 0.3)
    monkeypatch.setattr("api.trials.ALL_BEHIND_SECONDS", 0.6)

    async def play(scene: Scene) -> None:
        async def answered_by(version: int, *, once_over: bool) -> None:
            if once_over:
                while time.monotonic() < over_at:
                    await asyncio.sleep(0.01)
            started = time.monotonic()
            assert await scene.ask() == version
            assert time.monotonic() - started < 0.25

        scene.servers.open.clear()
        assert await scene.ask() == CHAMPION
        over_at = time.monotonic() + 0.6
        await answered_by(CHAMPION, once_over=False)
        asked_at = time.monotonic()
        while time.monotonic() < asked_at + 0.4:  # so late is what is asked behind
            await asyncio.sleep(0.01)
        scene.servers.open.set()
        assert (await scene.counted(2)).images == 2
        late_at = time.monotonic()
        scene.servers.open.clear()
        await answered_by(CHAMPION, once_over=True)
        scene.servers.open.set()
        over_at = late_at + 0.6
        await answered_by(CANARY, once_over=True)

    played(play)


def test_a_canary_of_a_hanging_server_is_waited_for_until_another_was_asked() -> None:
    assert ANSWER_ELSEWHERE_SECONDS < CANARY_SECONDS < 2 * ANSWER_ELSEWHERE_SECONDS


def test_a_server_that_hangs_for_both_says_nothing_about_the_version() -> None:
    async def play(scene: Scene) -> None:
        scene.servers.open.clear()
        scene.servers.champion_away = True
        with pytest.raises(Unavailable):
            await scene.ask()
        trial = await scene.counted(1)
        assert (trial.images, trial.errors, trial.skipped) == (0, 0, 1)

    played(play)
