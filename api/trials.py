"""The gateway's part in a trial: who is asked about an image, and what the two versions answered.

A shadow is asked about copies of images, a canary answers its share of them; which images, their names decide, so that
the same image always meets the same version. Several images of one request go together, by the name of the first: one
request is answered by one version. Either way the other version is asked too, behind the answer, and the two are
compared: what is counted is of the same images. When there is too much to do, comparisons are skipped and counted, long
before people would be refused.
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
from core import telemetry, trials
from core.database import TrialKind, TrialOutcome, session
from core.errors import EmendError
from core.images import Decoded

CANARY_SECONDS = 3.0  # then the champion answers
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


class Trials:
    """Belongs to one event loop, but for its thread, which writes what was counted."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._comparing: set[asyncio.Task[None]] = set()
        self._comparing_images = 0
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
        if trial.kind is TrialKind.canary and self._batcher.is_busy(model, trial.version):
            self._skip(trial, len(pixels))  # slower than what it gets; people do not wait for it
            return await self._batcher.answer(model, pixels)
        started = time.perf_counter()
        if trial.kind is TrialKind.shadow:
            answers = await self._batcher.answer(model, pixels)
            self._compare(trial, model, pixels, answers, _milliseconds_since(started), names)
            return answers
        own = await self._of_canary(trial, model, pixels)
        took_ms = _milliseconds_since(started)
        if own is not None and all(answer.is_distribution for answer in own):
            self._compare(trial, model, pixels, own, took_ms, names)
            return own
        started = time.perf_counter()
        answers = await self._batcher.answer(model, pixels)  # the champion is there for that
        self._count_pairs(
            trial, own or [None] * len(answers), took_ms, answers, _milliseconds_since(started), names
        )
        return answers

    async def _of_canary(
        self, trial: OpenTrial, model: str, pixels: Sequence[NDArray[np.uint8]]
    ) -> list[Answer] | None:
        try:
            async with asyncio.timeout(CANARY_SECONDS):
                return await self._batcher.answer(model, pixels, trial.version)
        except (EmendError, TimeoutError) as exc:
            log.warning("canary did not answer", model=model, version=trial.version, reason=str(exc))
            return None

    def _compare(
        self,
        trial: OpenTrial,
        model: str,
        pixels: Sequence[NDArray[np.uint8]],
        answers: Sequence[Answer],
        answered_in_ms: float,
        names: Mapping[int, tuple[str, ...]],
    ) -> None:
        too_many = self._comparing_images > 0 and self._comparing_images + len(pixels) > MOST_COMPARISONS
        # Both may wait for the same model server, so both count, whichever is asked now.
        if too_many or self._batcher.is_busy(model) or self._batcher.is_busy(model, trial.version):
            self._skip(trial, len(pixels))
            return
        self._comparing_images += len(pixels)
        task = asyncio.create_task(self._ask_other(trial, model, pixels, answers, answered_in_ms, names))
        self._comparing.add(task)
        task.add_done_callback(self._comparing.discard)

    def _skip(self, trial: OpenTrial, images: int) -> None:
        with self._changing:
            self._counted.setdefault(trial.id, trials.Counted()).skipped += images

    async def _ask_other(
        self,
        trial: OpenTrial,
        model: str,
        pixels: Sequence[NDArray[np.uint8]],
        answers: Sequence[Answer],
        answered_in_ms: float,
        names: Mapping[int, tuple[str, ...]],
    ) -> None:
        is_canary = trial.kind is TrialKind.canary
        started = time.perf_counter()
        others: Sequence[Answer | None]
        try:
            others = await self._batcher.answer(model, pixels, None if is_canary else trial.version)
        except EmendError as exc:
            others = [None] * len(answers)
            log.warning("not compared", model=model, version=trial.version, reason=exc.message)
        finally:
            self._comparing_images -= len(pixels)
        took_ms = _milliseconds_since(started)
        if is_canary:
            self._count_pairs(trial, answers, answered_in_ms, others, took_ms, names)
        else:
            self._count_pairs(trial, others, took_ms, answers, answered_in_ms, names)

    def _count_pairs(
        self,
        trial: OpenTrial,
        own: Sequence[Answer | None],
        own_ms: float,
        champions: Sequence[Answer | None],
        champion_ms: float,
        names: Mapping[int, tuple[str, ...]],
    ) -> None:
        """Answers about the same images; None and what are no probabilities are errors."""
        with self._changing:
            counted = self._counted.setdefault(trial.id, trials.Counted())
            for ours, champions_own in zip(own, champions, strict=True):
                label, champions_label = _label(ours, names), _label(champions_own, names)
                counted.count(
                    None if label is None else own_ms,
                    None if champions_label is None else champion_ms,
                    agrees=label is not None and label == champions_label,
                )

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


def _label(answer: Answer | None, names: Mapping[int, tuple[str, ...]]) -> str | int | None:
    """By name where it is known: two versions may have their categories in other places. None: no answer."""
    if answer is None or not answer.is_distribution:
        return None
    best = int(np.argmax(answer.probabilities))
    known = names.get(answer.version or 0)
    return known[best] if known is not None and len(known) > best else best


def _milliseconds_since(started: float) -> float:
    return 1000 * (time.perf_counter() - started)
