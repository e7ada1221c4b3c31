"""The gateway's part in a trial: who is asked about an image, and what the two versions answered.

A shadow is asked about copies of images, a canary answers its share of them; which images, their names decide, so that
the same image always meets the same version. Several images of one request go together, by the name of the first: one
request is answered by one version. Either way the other version is asked too, behind the answer, and the two are
compared: what is counted is of the same images. When there is too much to do, comparisons are skipped and counted, long
before people would be refused.

An error is what the version itself did: no probabilities, checks that it does not pass, files that are gone. When a
server is away, or has to fetch the version first, the champion answers and nothing is compared. A version that is late
while the champion is not is slow: the time that was waited for it counts as its latency.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from api import metrics
from api.batching import Answer, Batcher
from api.errors import BadAnswer
from api.upstream import ANSWER_ELSEWHERE_SECONDS
from core import telemetry, trials
from core.database import TrialKind, TrialOutcome, session
from core.errors import Conflict, EmendError, NotFound, Unavailable
from core.images import Decoded

# Then the champion answers. Long enough for a canary whose model server hangs to be asked of another.
CANARY_SECONDS = ANSWER_ELSEWHERE_SECONDS + 0.5
AT_ONCE_SECONDS = 0.5  # when the champion does meanwhile, the server is not what is slow
# After a canary was late, to a person or behind, nobody waits for it, and it is asked behind the champion's answer.
ALL_BEHIND_SECONDS = 30.0
MOST_COMPARISONS = 32  # images under way at once; one request alone may bring more
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
    """What became of a question: an answer for each image, or why there is none."""

    answers: list[Answer] | None
    failed: EmendError | None
    milliseconds: float

    @property
    def is_away(self) -> bool:
        """For want of a server, which says nothing about the version."""
        return self.failed is not None and not isinstance(self.failed, _ITS_OWN)

    @property
    def is_whole(self) -> bool:
        return self.answers is not None and all(answer.is_distribution for answer in self.answers)

    def latency_ms(self, place: int) -> float | None:
        """Of one image. None for an error of the version's."""
        is_error = isinstance(self.failed, _ITS_OWN) or (
            self.answers is not None and not self.answers[place].is_distribution
        )
        return None if is_error else self.milliseconds

    def label(self, place: int, names: Mapping[int, tuple[str, ...]]) -> str | int | None:
        """By name where it is known: two versions may have their categories in other places. None without an answer."""
        if self.answers is None or not self.answers[place].is_distribution:
            return None
        best = int(np.argmax(self.answers[place].probabilities))
        known = names.get(self.answers[place].version or 0)
        return known[best] if known is not None and len(known) > best else best


_ITS_OWN = (BadAnswer, Conflict, NotFound)


class Trials:
    """Belongs to one event loop, but for its thread, which writes what was counted."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._comparing: set[asyncio.Task[None]] = set()
        self._comparing_images = 0
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
        self,
        trial: OpenTrial | None,
        model: str,
        images: Sequence[Decoded],
        names: Mapping[int, tuple[str, ...]],
    ) -> list[Answer]:
        """Of a request's images, all by the live version or all by the trial's. names: of each version's outputs."""
        pixels = [image.pixels for image in images]
        if trial is None or trial.id in self._ended or not trial.has(images[0].sha256):
            return await self._batcher.answer(model, pixels)
        is_canary = trial.kind is TrialKind.canary
        if is_canary and self._batcher.is_busy(model, trial.version):
            self._skip(trial, len(pixels))  # slower than what it gets; people do not wait for it
            return await self._batcher.answer(model, pixels)
        if is_canary and time.monotonic() >= self._all_behind.get(trial.id, 0.0):
            own = await self._ask_soon(trial, model, pixels)
            if own.is_whole:
                assert own.answers is not None
                self._compare(trial, model, pixels, names, own=own)
                return own.answers
            reason = "no probabilities" if own.failed is None else own.failed.message
            log.warning("canary did not answer", model=model, version=trial.version, reason=reason)
            champion = await self._ask(model, pixels)
            self._count(trial, len(pixels), own, champion, names)
        else:
            champion = await self._ask(model, pixels)
            if not champion.is_away:
                self._compare(trial, model, pixels, names, champion=champion)
        if champion.answers is None:
            assert champion.failed is not None
            raise champion.failed
        return champion.answers

    async def _ask(
        self, model: str, pixels: Sequence[NDArray[np.uint8]], version: int | None = None
    ) -> _Asked:
        started = time.perf_counter()
        answers, failed = None, None
        try:
            answers = await self._batcher.answer(model, pixels, version)
        except EmendError as exc:
            failed = exc
        return _Asked(answers, failed, 1000 * (time.perf_counter() - started))

    async def _ask_soon(self, trial: OpenTrial, model: str, pixels: Sequence[NDArray[np.uint8]]) -> _Asked:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(CANARY_SECONDS):
                return await self._ask(model, pixels, trial.version)
        except TimeoutError:
            self._ask_behind(trial)
            late = Unavailable(f"it took more than {CANARY_SECONDS:g} s")
            return _Asked(None, late, 1000 * (time.perf_counter() - started))

    def _ask_behind(self, trial: OpenTrial) -> None:
        self._all_behind[trial.id] = time.monotonic() + ALL_BEHIND_SECONDS

    def _compare(
        self,
        trial: OpenTrial,
        model: str,
        pixels: Sequence[NDArray[np.uint8]],
        names: Mapping[int, tuple[str, ...]],
        *,
        own: _Asked | None = None,
        champion: _Asked | None = None,
    ) -> None:
        """Asks the other version behind the one that has answered."""
        too_many = self._comparing_images > 0 and self._comparing_images + len(pixels) > MOST_COMPARISONS
        # Both may wait for the same model server, so both count, whichever is asked now.
        if too_many or self._batcher.is_busy(model) or self._batcher.is_busy(model, trial.version):
            self._skip(trial, len(pixels))
            return

        async def ask_other() -> None:
            try:
                both = (
                    own or await self._ask(model, pixels, trial.version),
                    champion or await self._ask(model, pixels),
                )
            finally:
                self._comparing_images -= len(pixels)
            self._count(trial, len(pixels), *both, names)

        self._comparing_images += len(pixels)
        task = asyncio.create_task(ask_other())
        self._comparing.add(task)
        task.add_done_callback(self._comparing.discard)

    def _count(
        self,
        trial: OpenTrial,
        images: int,
        own: _Asked,
        champion: _Asked,
        names: Mapping[int, tuple[str, ...]],
    ) -> None:
        is_slow = own.milliseconds >= 1000 * CANARY_SECONDS and champion.milliseconds < 1000 * AT_ONCE_SECONDS
        if champion.is_away or (own.is_away and not is_slow):
            self._skip(trial, images)
            return
        if is_slow:
            self._ask_behind(trial)
        with self._changing:
            counted = self._counted.setdefault(trial.id, trials.Counted())
            for place in range(images):
                label = own.label(place, names)
                counted.count(
                    own.latency_ms(place),
                    champion.latency_ms(place),
                    agrees=label is not None and label == champion.label(place, names),
                )

    def _skip(self, trial: OpenTrial, images: int) -> None:
        with self._changing:
            self._counted.setdefault(trial.id, trials.Counted()).skipped += images

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
