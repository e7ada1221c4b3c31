"""Asking the gateway: some batches under way at once, answered in their order.

A batch is refused whole; the image that is to blame gets the reason, and the others are asked about again. What passes
by itself (the gateway is busy, or starts anew) is waited for, up to PATIENCE_SECONDS for a batch.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from core.errors import EmendError
from pipeline.bulk import MOST_UNDER_WAY
from pipeline.bulk.answers import Row, readable
from pipeline.bulk.files import Question

BYTES_BESIDE_IMAGES = 1_000
PATIENCE_SECONDS = 120.0
ANSWER_SECONDS = 90.0
CONNECT_SECONDS = 5.0
MOST_REQUESTS = 8
_LONGEST_DELAY_SECONDS = 15.0
_PASSES = (408, 429, 502, 503, 504)
_NOT_TO_BLAME = (413, 500)  # of a batch: perhaps one image of it is
_IMAGE = re.compile(r"images\.(\d+)")


class NotAnswered(EmendError):
    """The gateway does not answer, or not to such requests: there is no use in asking about the next batch."""

    code = "not_answered"


@dataclass(frozen=True)
class Asked:
    """Of which model, which version of it (None: the live one), and whether the history keeps it."""

    model: str
    version: int | None
    record: bool

    def body(self, images: Sequence[bytes]) -> bytes:
        fields: dict[str, Any] = {"model": self.model, "draft": not self.record}
        if self.version is not None:
            fields["version"] = self.version
        # Base64 needs no escaping, and is not copied once more.
        return b'%s,"images":["%s"]}' % (orjson.dumps(fields)[:-1], b'","'.join(images))


async def ask_all(
    url: str,
    batches: Iterator[list[Question]],
    asked: Asked,
    images_a_request: int,
    *,
    take: Callable[[list[Row]], None],
    waiting: Callable[[str], None],
) -> None:
    """take: gets the rows as they come. SIGTERM ends it as Ctrl-C does. Raises NotAnswered."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    under_way = max(1, min(MOST_REQUESTS, MOST_UNDER_WAY // images_a_request))
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    async with (
        httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False) as client,
        aclosing(answers(batches, Gateway(client, asked, waiting), under_way)) as answered,
    ):
        async for rows in answered:
            take(rows)


async def answers(
    batches: Iterator[list[Question]], gateway: Gateway, under_way: int
) -> AsyncGenerator[list[Row], None]:
    """A row for each file, in the order of the files. Raises NotAnswered."""
    tasks: deque[asyncio.Task[list[Row]]] = deque()
    more = True
    try:
        while more or tasks:
            while more and len(tasks) < under_way:
                batch = await asyncio.to_thread(next, batches, None)
                if batch is None:
                    more = False
                else:
                    tasks.append(asyncio.create_task(gateway.ask(batch)))
            if tasks:
                yield await tasks.popleft()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Gateway:
    """waiting: told why, when it has to be waited for the gateway."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        asked: Asked,
        waiting: Callable[[str], None],
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._client = client
        self._asked = asked
        self._waiting = waiting
        self._patience_seconds = patience_seconds
        self._has_answered = False

    async def ask(self, batch: Sequence[Question]) -> list[Row]:
        rows = [_not_answered(each, each.error) for each in batch]
        places = [place for place, each in enumerate(batch) if each.image is not None]
        await self._fill(rows, batch, places)
        return rows

    async def _fill(self, rows: list[Row], batch: Sequence[Question], places: list[int]) -> None:
        """The rows at `places`."""
        while places:
            answer = await self._post([batch[place].image or b"" for place in places])
            if answer.status_code == 200:
                for place, prediction in zip(places, self._predictions(answer, len(places)), strict=True):
                    rows[place] = _answered(batch[place], prediction)
                return
            code, message, field = _error(answer)
            blamed = _IMAGE.fullmatch(field or "")
            if blamed is not None and int(blamed[1]) < len(places):
                place = places.pop(int(blamed[1]))
                rows[place] = _not_answered(batch[place], message)
            elif answer.status_code not in _NOT_TO_BLAME and code != "bad_answer":
                raise NotAnswered(self._refusal(answer.status_code, message))
            elif len(places) == 1:
                rows[places[0]] = _not_answered(batch[places[0]], message or f"status {answer.status_code}")
                return
            else:
                half = len(places) // 2
                await self._fill(rows, batch, places[:half])
                places = places[half:]

    async def _post(self, images: Sequence[bytes]) -> httpx.Response:
        """Again while it may pass. Raises NotAnswered."""
        content = self._asked.body(images)
        give_up_at = time.monotonic() + self._patience_seconds
        delay_seconds = 0.5
        while True:
            pause_seconds = delay_seconds
            try:
                answer = await self._client.post(
                    "/invocations/", content=content, headers={"Content-Type": "application/json"}
                )
            except httpx.TransportError as exc:
                why = f"no answer ({type(exc).__name__})"
                if not self._has_answered and isinstance(exc, httpx.ConnectError):
                    raise NotAnswered(f"nobody listens at {self._where}; {_START_IT}") from exc
            else:
                code, message, _ = _error(answer)
                if answer.status_code not in _PASSES or code == "bad_answer":
                    self._has_answered = True
                    return answer
                why = message or f"status {answer.status_code}"
                pause_seconds = _retry_after(answer) or delay_seconds
            if time.monotonic() + pause_seconds > give_up_at:
                raise NotAnswered(
                    f"the gateway at {self._where} gave no answer for {self._patience_seconds:g} s: {why}; "
                    "`emend doctor` says what is wrong"
                )
            self._waiting(why)
            await asyncio.sleep(pause_seconds)
            delay_seconds = min(_LONGEST_DELAY_SECONDS, delay_seconds * 2)

    def _predictions(self, answer: httpx.Response, count: int) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = orjson.loads(answer.content)["predictions"]
        except (ValueError, KeyError, TypeError) as exc:
            raise NotAnswered(self._refusal(200, None)) from exc
        if not isinstance(found, list):
            raise NotAnswered(self._refusal(200, None))
        if len(found) != count:
            raise NotAnswered(f"the gateway at {self._where} gave {len(found)} answers for {count} images")
        return found

    def _refusal(self, status: int, message: str | None) -> str:
        if message is not None:
            return f"the gateway at {self._where} refused: {message}"
        return f"what answers at {self._where} is no gateway of Emend (status {status}); {_START_IT}"

    @property
    def _where(self) -> str:
        return str(self._client.base_url).rstrip("/")


_START_IT = "start it with `make up`, or set EMEND_API_URL to where it is"


def _error(answer: httpx.Response) -> tuple[str | None, str | None, str | None]:
    """Code, message and field; None each where it is not the one shape of Emend's errors."""
    if answer.status_code == 200:
        return None, None, None
    try:
        error = orjson.loads(answer.content)["error"]
        return str(error["code"]), str(error["message"]), error.get("field")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, None, None


def _retry_after(answer: httpx.Response) -> float | None:
    given = answer.headers.get("Retry-After", "")
    return min(_LONGEST_DELAY_SECONDS, float(given)) if given.isdigit() else None


def _answered(question: Question, prediction: dict[str, Any]) -> Row:
    return Row(
        file=readable(question.path),
        label=prediction["label"],
        confidence=prediction["confidence"],
        version=prediction["version"],
        prediction_id=prediction["prediction_id"],
        error=None,
        probabilities=orjson.dumps(prediction["probabilities"]).decode(),
    )


def _not_answered(question: Question, error: str | None) -> Row:
    return Row(readable(question.path), None, None, None, None, error, None)
