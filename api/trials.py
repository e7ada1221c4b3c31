"""The gateway's part in a trial: who is asked about an image, and what the two versions answered.

A shadow is asked about copies of images, a canary answers its share of them; which images, their names decide, so that
the same image always meets the same version. Either way the other version is asked too, behind the answer, and the two
are compared: what is counted is of the same images. When there is too much to do, comparisons are skipped and counted.
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
from core import telemetry, trials
from core.database import TrialKind, TrialOutcome, session
from core.errors import EmendError
from core.images import Decoded

CANARY_SECONDS = 3.0  # then the champion answers
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


class Trials:
    """Belongs to one event loop, but for its thread, which writes what was counted."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._comparing: set[asyncio.Task[None]] = set()
        self._counted: dict[int, trials.Counted] = {}
        self._ended: set[int] = set()  # by this gateway; the catalogue knows a moment later
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
        started = time.perf_counter()
        if trial.kind is TrialKind.shadow:
            answer = await self._batcher.answer(model, image.pixels)
        else:
            try:
                async with asyncio.timeout(CANARY_SECONDS):
                    answer = await self._batcher.answer(model, image.pixels, trial.version)
                answer.check()
            except (EmendError, TimeoutError) as exc:  # the champion is there for that
                log.warning("canary did not answer", model=model, version=trial.version, reason=str(exc))
                started = time.perf_counter()
                answer = await self._batcher.answer(model, image.pixels)
                self._count(trial, None, 1000 * (time.perf_counter() - started), agrees=False)
                return answer
        self._compare(trial, model, image.pixels, answer, 1000 * (time.perf_counter() - started), names)
        return answer

    def _compare(
        self,
        trial: OpenTrial,
        model: str,
        pixels: NDArray[np.uint8],
        answer: Answer,
        answered_in_ms: float,
        names: Mapping[int, tuple[str, ...]],
    ) -> None:
        if len(self._comparing) >= MOST_COMPARISONS:
            with self._changing:
                self._counted.setdefault(trial.id, trials.Counted()).skipped += 1
            return
        task = asyncio.create_task(self._ask_other(trial, model, pixels, answer, answered_in_ms, names))
        self._comparing.add(task)
        task.add_done_callback(self._comparing.discard)

    async def _ask_other(
        self,
        trial: OpenTrial,
        model: str,
        pixels: NDArray[np.uint8],
        answer: Answer,
        answered_in_ms: float,
        names: Mapping[int, tuple[str, ...]],
    ) -> None:
        is_canary = trial.kind is TrialKind.canary
        answered_well = is_canary or answer.is_distribution  # a canary's was looked at before it was given
        started = time.perf_counter()
        other: Answer | None = None
        try:
            other = await self._batcher.answer(model, pixels, None if is_canary else trial.version)
            other.check()
        except EmendError as exc:
            other = None
            log.warning("not compared", model=model, version=trial.version, reason=exc.message)
        other_ms = 1000 * (time.perf_counter() - started) if other is not None else None
        first_ms = answered_in_ms if answered_well else None
        agrees = answered_well and other is not None and _label(answer, names) == _label(other, names)
        own_ms, champion_ms = (first_ms, other_ms) if is_canary else (other_ms, first_ms)
        self._count(trial, own_ms, champion_ms, agrees=agrees)

    def _count(
        self, trial: OpenTrial, latency_ms: float | None, champion_ms: float | None, *, agrees: bool
    ) -> None:
        with self._changing:
            self._counted.setdefault(trial.id, trials.Counted()).count(latency_ms, champion_ms, agrees=agrees)

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
