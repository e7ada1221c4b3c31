"""Micro-batching: requests that come while the model servers are busy go to one of them together in the next call.

Nothing waits for a timer: a lone request is sent at once, and the batch grows by itself with the load. As many calls
are under way as there are model servers; two at a time were no better than one for a single server. The images of a
request stay together: a call is answered by one version. What batching brings is in docs/performance.md.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from api import metrics
from api.errors import BadAnswer
from api.upstream import Answers
from core import telemetry
from core.errors import EmendError, TooBusy, Unavailable

MOST_IMAGES_A_CALL = 64
MOST_BYTES = 3_000_000  # of a call; the model server takes 5 MiB
# Of a model's images, beyond those in the calls under way: as many as are answered in this time, within these bounds.
# Past them a request is refused at once, so that those that are answered are answered soon.
WAITING_SECONDS = 0.03
FEWEST_WAITING, MOST_WAITING = 32, 96
PRESSED_SECONDS = 0.1  # so long without a pause, and how many were answered meanwhile is what can be
MOST_REPLAYS = 16  # requests for versions that are not live; a model server takes as many
SUM_TOLERANCE = 1e-3

Score = Callable[[str, NDArray[np.uint8], int | None], Awaitable[Answers]]


@dataclass(frozen=True)
class Answer:
    """probabilities: (C,) float64. is_distribution: whether they are what they are called."""

    probabilities: NDArray[np.float64]
    version: int | None
    is_distribution: bool

    def check(self) -> None:
        """Raises BadAnswer when these are no probabilities."""
        if not self.is_distribution:
            raise BadAnswer(
                "the model answered with figures that are no probabilities; they were not passed on"
            )


class Places:
    """How much may be under way at once, and what is: `with places.taken(3): …`."""

    def __init__(self, most: float) -> None:
        self.most = most
        self.in_use = 0

    def has(self, count: int) -> bool:
        """One request always has room when it is alone, whatever it brings."""
        return self.in_use + count <= self.most or self.in_use == 0

    def taken(self, count: int) -> Taken:
        self.in_use += count
        return Taken(self, count)

    def give_back(self, count: int, *, answered: bool) -> None:
        self.in_use -= count


class PacedPlaces(Places):
    """As many as are soon answered: in calls, and waiting. How fast that goes is seen while there is always more to do.
    Requests of many images leave some places to those of one: who draws is not refused because of folders.

    in_calls: images that the calls under way may hold. clock: seconds.
    """

    def __init__(self, in_calls: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(in_calls + MOST_WAITING)
        self._in_calls = in_calls
        self._clock = clock
        self._of_many = 0  # of those in use
        self._answered = 0
        self._since = 0.0

    def has(self, count: int) -> bool:
        if count > 1 and self.in_use > 0 and self._of_many + count > self.most - FEWEST_WAITING:
            return False
        return super().has(count)

    def taken(self, count: int) -> Taken:
        self._of_many += count if count > 1 else 0
        if self.in_use < self._in_calls <= self.in_use + count:
            self._answered, self._since = 0, self._clock()
        return super().taken(count)

    def give_back(self, count: int, *, answered: bool) -> None:
        super().give_back(count, answered=answered)
        self._of_many -= count if count > 1 else 0
        if self.in_use < self._in_calls:  # what could be answered is not seen
            return
        self._answered += count if answered else 0
        now = self._clock()
        seconds = now - self._since
        if seconds < PRESSED_SECONDS:
            return
        waiting = WAITING_SECONDS * self._answered / seconds
        wanted = self._in_calls + min(max(waiting, FEWEST_WAITING), MOST_WAITING)
        self.most = (3 * self.most + wanted) / 4  # a window's own hiccup is not all
        self._answered, self._since = 0, now


class Taken:
    __slots__ = ("_count", "_places")

    def __init__(self, places: Places, count: int) -> None:
        self._places = places
        self._count = count

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.give_back(self._count, answered=kind is None)


@dataclass(frozen=True, eq=False)
class _Waiting:
    """What is answered together: a request's images, of one shape."""

    images: Sequence[NDArray[np.uint8]]
    size_bytes: int
    future: asyncio.Future[list[Answer]]
    request_id: str | None


@dataclass
class _Lane:
    """What waits for one version of a model."""

    waiting: deque[_Waiting] = field(default_factory=deque)
    images: int = 0  # in `waiting`
    # Counted apart: a task that has seen nothing waiting is done only a moment later.
    draining: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)  # the loop holds them only weakly


class Batcher:
    """Belongs to one event loop. calls_at_once: for each version of a model; one for each model server."""

    def __init__(self, score: Score, calls_at_once: int = 1) -> None:
        self._score = score
        self._calls_at_once = calls_at_once
        self._lanes: dict[tuple[str, int | None], _Lane] = {}
        self._admitted: dict[str, PacedPlaces] = {}
        self._replays = Places(MOST_REPLAYS)

    def places(self, model: str) -> Places:
        """For images of people's requests that are decoded, wait or are asked about."""
        places = self._admitted.get(model)
        if places is None:
            places = self._admitted[model] = PacedPlaces(self._calls_at_once * MOST_IMAGES_A_CALL)
        return places

    def admit(self, model: str, images: int) -> Taken:
        """For a request's images, from before they are decoded until they are answered: `with batcher.admit(…): …`.

        Whichever version answers in the end. Raises TooBusy when there are enough.
        """
        places = self.places(model)
        if not places.has(images):
            metrics.REFUSED.labels(model).inc()
            raise refusal(model)
        return places.taken(images)

    def admit_replay(self, model: str) -> Taken:
        """As `admit`, for a request that names its version."""
        if not self._replays.has(1):
            metrics.REFUSED.labels(model).inc()
            raise TooBusy(
                f"{MOST_REPLAYS} requests for versions that are not live are under way; try again in a moment"
            )
        return self._replays.taken(1)

    def is_busy(self, model: str, version: int | None = None) -> bool:
        """Whether half of what may wait for it does."""
        lane = self._lanes.get((model, version))
        return lane is not None and lane.images > MOST_WAITING // 2

    async def answer(
        self, model: str, images: Sequence[NDArray[np.uint8]], version: int | None = None
    ) -> list[Answer]:
        """A request's images, all by one version: the live one or another. Raises what the model server's client
        raises, and Unavailable when the live version changed in between and no other answers for all of them."""
        parts = _parts(images)
        if len(parts) == 1:
            return await self._queued(model, parts[0], version)
        answers = await self._all_or_none(model, parts, version)
        last = answers[-1][0].version
        for place, part in enumerate(parts):
            if answers[place][0].version != last:
                answers[place] = await self._asked_again(model, part, last)
        return [answer for answers_of_part in answers for answer in answers_of_part]

    async def _all_or_none(
        self, model: str, parts: Sequence[Sequence[NDArray[np.uint8]]], version: int | None
    ) -> list[list[Answer]]:
        """When one fails, nobody asks for those that still wait: the request, and its places with it, is at its end."""
        asking = [asyncio.ensure_future(self._queued(model, part, version)) for part in parts]
        try:
            return await asyncio.gather(*asking)
        except Exception:
            for each in asking:
                each.cancel()
            await asyncio.wait(asking)
            raise

    async def _asked_again(
        self, model: str, images: Sequence[NDArray[np.uint8]], version: int | None
    ) -> list[Answer]:
        """By its number, because the rest of the request was answered by it."""
        changed = Unavailable(f"the version of '{model}' changed while it answered; try again in a moment")
        if version is None:  # of a server that does not say
            raise changed
        try:
            answers = await self._queued(model, images, version)
        except EmendError as exc:
            raise changed from exc
        if answers[0].version != version:
            raise changed
        return answers

    async def _queued(
        self, model: str, images: Sequence[NDArray[np.uint8]], version: int | None
    ) -> list[Answer]:
        lane = self._lanes.get((model, version))
        if lane is None:
            lane = self._lanes[model, version] = _Lane()
        future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        size_bytes = len(images) * images[0].nbytes
        waiting = _Waiting(images, size_bytes, future, telemetry.request_id())
        lane.waiting.append(waiting)
        lane.images += len(images)
        if lane.draining < self._calls_at_once:
            lane.draining += 1
            task = asyncio.create_task(self._drain(model, version, lane))
            lane.tasks.add(task)
            task.add_done_callback(lane.tasks.discard)
        try:
            return await future
        except asyncio.CancelledError:
            if waiting in lane.waiting:  # else a call has it
                lane.waiting.remove(waiting)
                lane.images -= len(images)
            raise

    async def _drain(self, model: str, version: int | None, lane: _Lane) -> None:
        try:
            while batch := _next_batch(lane):
                await self._send(model, version, batch)
        finally:
            lane.draining -= 1
            if version is not None and lane.draining == 0:  # versions come and go
                self._lanes.pop((model, version), None)

    async def _send(self, model: str, version: int | None, batch: list[_Waiting]) -> None:
        # In this task only; unbound, every call would carry the id of whoever found the lane idle.
        telemetry.bind(request_id=",".join(each.request_id for each in batch if each.request_id) or None)
        started = time.perf_counter()
        try:
            pixels = np.stack([image for each in batch for image in each.images])
            metrics.BATCH_IMAGES.labels(model).observe(len(pixels))
            answers = answers_of(await self._score(model, pixels, version))
        except Exception as exc:  # noqa: BLE001 - each one who waits gets it, whatever it is
            for each in batch:
                if not each.future.done():
                    each.future.set_exception(exc)
            return
        metrics.UPSTREAM_SECONDS.labels(model).observe(time.perf_counter() - started)
        place = 0
        for each in batch:
            if not each.future.done():
                each.future.set_result(answers[place : place + len(each.images)])
            place += len(each.images)


def answers_of(answers: Answers) -> list[Answer]:
    """Of each image."""
    rows = answers.probabilities
    with np.errstate(invalid="ignore"):
        fine = (np.abs(rows.sum(1) - 1) <= SUM_TOLERANCE) & (rows.min(1) >= 0)  # NaN is neither
    return [Answer(row, answers.version, is_fine) for row, is_fine in zip(rows, fine.tolist(), strict=True)]


def refusal(model: str) -> TooBusy:
    """What a request is told that comes when enough wait."""
    return TooBusy(
        f"as many images as can be answered soon wait for '{model}' already; try again in a moment"
    )


def _parts(images: Sequence[NDArray[np.uint8]]) -> list[Sequence[NDArray[np.uint8]]]:
    """One, unless it is more than a call takes."""
    most = min(MOST_IMAGES_A_CALL, max(1, MOST_BYTES // images[0].nbytes))
    return [images[start : start + most] for start in range(0, len(images), most)]


def _next_batch(lane: _Lane) -> list[_Waiting]:
    """As many as one call takes, of one shape, without those whose client went away."""
    batch: list[_Waiting] = []
    count = size_bytes = 0
    while lane.waiting:
        each = lane.waiting[0]
        if not each.future.done():
            if batch and (
                count + len(each.images) > MOST_IMAGES_A_CALL
                or size_bytes + each.size_bytes > MOST_BYTES
                or each.images[0].shape != batch[0].images[0].shape  # the model's input changed
            ):
                break
            batch.append(each)
            count += len(each.images)
            size_bytes += each.size_bytes
        lane.waiting.popleft()
        lane.images -= len(each.images)
    return batch
