"""The gateway's part in a trial: who is asked about an image, and what the two versions answered.

A shadow is asked about copies of images, a canary answers its share of them; which images, their names decide, so that
the same image always meets the same version. Either way the other version is asked too, behind the answer, and the two
are compared: what is counted is of the same images. When there is too much to do, comparisons are skipped and counted.

An error is what the version itself did: no probabilities, checks that it does not pass, files that are gone. When a
server is away, or has to fetch the version first, the champion answers and nothing is compared. A version that is late
while the champion is not is slow: the time that was waited for it counts as its latency.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from api import metrics
from api.batching import Answer, Batcher
from api.errors import BadAnswer
from core import telemetry, trials
from core.database import TrialKind, TrialOutcome, session
from core.errors import Conflict, EmendError, NotFound, Unavailable
from core.images import Decoded

CANARY_SECONDS = 3.0  # then the champion answers
AT_ONCE_SECONDS = 0.5  # when the champion does meanwhile, the server is not what is slow
ALL_BEHIND_SECONDS = (
    30.0  # after that happened nobody waits for the canary, which is asked behind the champion's answer
)
MOST_COMPARISONS = 256  # under way at once
FLUSH_SECONDS = 1.0

log = telemetry.get_logger("trials")


@dataclass(frozen=True)
class OpenTrial:
    """As the catalogue read it last."""

    id: int
    kind: TrialKind
    version: int
    percent: int

    def has(self, sha256: str) -> bool:
        """Whether it gets this image. Not by the digits that the split goes by: all holdout images would go one way."""
        return int(sha256[8:16], 16) % 100 < self.percent


@dataclass(frozen=True)
class _Asked:
    """What became of a question: an answer, or why there is none."""

    answer: Answer | None
    failed: EmendError | None
    milliseconds: float

    @property
    def is_away(self) -> bool:
        """For want of a server, which says nothing about the version."""
        return self.failed is not None and not isinstance(self.failed, _ITS_OWN)

    @property
    def latency_ms(self) -> float | None:
        """None for an error of the version's."""
        return None if isinstance(self.failed, _ITS_OWN) else self.milliseconds


_ITS_OWN = (BadAnswer, Conflict, NotFound)


class Trials:
    """Belongs to one event loop, but for its thread, which writes what was counted."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._comparing: set[asyncio.Task[None]] = set()
        self._counted: dict[int, trials.Counted] = {}
        self._ended: set[int] = set()  # by this gateway; the catalogue knows a moment later
        self._all_behind: dict[int, float] = {}  # until when
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trials", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5)

    async def answer(
        self, trial: OpenTrial | None, model: str, image: Decoded, names: Mapping[int, tuple[str, ...]]
    ) -> Answer:
        """Of the live version or the trial's. names: of each version's outputs."""
        if trial is None or trial.id in self._ended or not trial.has(image.sha256):
            return await self._batcher.answer(model, image.pixels)
        if trial.kind is TrialKind.canary and time.monotonic() >= self._all_behind.get(trial.id, 0.0):
            own = await self._ask_soon(trial, model, image.pixels)
            if own.answer is not None:
                self._compare(trial, model, image.pixels, names, own=own)
                return own.answer
            assert own.failed is not None
            log.warning(
                "canary did not answer", model=model, version=trial.version, reason=own.failed.message
            )
            champion = await self._ask(model, image.pixels)
            self._count(trial, own, champion, names)
        else:
            champion = await self._ask(model, image.pixels)
            if not champion.is_away:
                self._compare(trial, model, image.pixels, names, champion=champion)
        if champion.answer is None:
            assert champion.failed is not None
            raise champion.failed
        return champion.answer

    async def _ask(self, model: str, pixels: NDArray[np.uint8], version: int | None = None) -> _Asked:
        started = time.perf_counter()
        answer, failed = None, None
        try:
            given = await self._batcher.answer(model, pixels, version)
            given.check()
            answer = given
        except EmendError as exc:
            failed = exc
        return _Asked(answer, failed, 1000 * (time.perf_counter() - started))

    async def _ask_soon(self, trial: OpenTrial, model: str, pixels: NDArray[np.uint8]) -> _Asked:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(CANARY_SECONDS):
                return await self._ask(model, pixels, trial.version)
        except TimeoutError:
            self._all_behind[trial.id] = time.monotonic() + ALL_BEHIND_SECONDS
            late = Unavailable(f"it took more than {CANARY_SECONDS:g} s")
            return _Asked(None, late, 1000 * (time.perf_counter() - started))

    def _compare(
        self,
        trial: OpenTrial,
        model: str,
        pixels: NDArray[np.uint8],
        names: Mapping[int, tuple[str, ...]],
        *,
        own: _Asked | None = None,
        champion: _Asked | None = None,
    ) -> None:
        """Asks the other version behind the one that has answered."""
        if len(self._comparing) >= MOST_COMPARISONS:
            self._count_skipped(trial)
            return

        async def ask_other() -> None:
            self._count(
                trial,
                own or await self._ask(model, pixels, trial.version),
                champion or await self._ask(model, pixels),
                names,
            )

        task = asyncio.create_task(ask_other())
        self._comparing.add(task)
        task.add_done_callback(self._comparing.discard)

    def _count(
        self, trial: OpenTrial, own: _Asked, champion: _Asked, names: Mapping[int, tuple[str, ...]]
    ) -> None:
        is_slow = own.milliseconds >= 1000 * CANARY_SECONDS and champion.milliseconds < 1000 * AT_ONCE_SECONDS
        if champion.is_away or (own.is_away and not is_slow):
            self._count_skipped(trial)
            return
        agrees = (
            own.answer is not None
            and champion.answer is not None
            and _label(own.answer, names) == _label(champion.answer, names)
        )
        with self._changing:
            counted = self._counted.setdefault(trial.id, trials.Counted())
            counted.count(own.latency_ms, champion.latency_ms, agrees=agrees)

    def _count_skipped(self, trial: OpenTrial) -> None:
        with self._changing:
            self._counted.setdefault(trial.id, trials.Counted()).skipped += 1

    def flush(self) -> None:
        """Writes what was counted, and ends a canary that is beyond its bounds. Raises Unavailable."""
        with self._changing:
            counted, self._counted = self._counted, {}
        try:
            for trial_id in list(counted):
                self._write(trial_id, counted[trial_id])
                del counted[trial_id]
        finally:
            with self._changing:
                for trial_id, left in counted.items():
                    self._counted[trial_id] = left.merge(self._counted.get(trial_id, trials.Counted()))

    def _write(self, trial_id: int, counted: trials.Counted) -> None:
        with session() as db:
            trial = trials.add(db, trial_id, counted)
            because = None if trial is None else trials.beyond_bounds(trial)
            if trial is None or because is None:
                return
            trials.end(db, trial, TrialOutcome.failed, because, actor="gateway")
            model = trial.model
        metrics.CANARIES_FAILED.labels(model).inc()
        self._ended.add(trial_id)

    def _run(self) -> None:
        while True:
            stopping = self._stopping.wait(FLUSH_SECONDS)
            try:
                self.flush()
            except EmendError as exc:
                log.warning("trial not counted yet", reason=exc.message)
            except Exception:  # the thread's edge: what was counted is tried again
                log.exception("trials failed")
            if stopping:
                return


def _label(answer: Answer, names: Mapping[int, tuple[str, ...]]) -> str | int:
    """By name where it is known: two versions may have their categories in other places."""
    best = int(np.argmax(answer.probabilities))
    known = names.get(answer.version or 0)
    return known[best] if known is not None and len(known) > best else best
