"""Asking a gateway that refuses, is busy, dies, or is none."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from api import batching, schemas
from pipeline import bulk
from pipeline.bulk.answers import Row
from pipeline.bulk.files import Question
from pipeline.bulk.questions import Asked, Gateway, NotAnswered, answers

ROOT = Path(__file__).parents[2]
DRAFTS = Asked("doodles", None, record=False)
Handler = Callable[[httpx.Request], httpx.Response]


def question(name: str, error: str | None = None) -> Question:
    return Question(name, None if error else base64.b64encode(name.encode()), error)


def answer(images: list[str]) -> httpx.Response:
    named = [base64.b64decode(image).decode() for image in images]
    return httpx.Response(
        200,
        json={
            "predictions": [
                {
                    "prediction_id": None, "model": "doodles", "version": 3, "label": name, "confidence": 0.9,
                    "probabilities": {name: 0.9, "else": 0.1},
                }
                for name in named
            ]
        },
    )  # fmt: skip


def images_of(request: httpx.Request) -> list[str]:
    images: list[str] = json.loads(request.content)["images"]
    return images


def refusal(status: int, code: str, field: str | None = None, **headers: str) -> httpx.Response:
    error = {"code": code, "message": f"it is {code}"} | ({"field": field} if field else {})
    return httpx.Response(status, json={"error": error}, headers=headers)


def ask(
    handler: Handler,
    batches: list[list[Question]],
    *,
    asked: Asked = DRAFTS,
    under_way: int = 2,
    patience_seconds: float = 5,
    said: list[str] | None = None,
) -> list[Row]:
    async def work() -> list[Row]:
        rows = []
        transport = httpx.MockTransport(handler)
        async with httpx.AsyncClient(base_url="http://gateway:1", transport=transport) as client:
            gateway = Gateway(client, asked, (said if said is not None else []).append, patience_seconds)
            async with aclosing(answers(iter(batches), gateway, under_way)) as answered:
                async for part in answered:
                    rows += part
        return rows

    return asyncio.run(work())


def test_the_limit_is_the_gateways_and_the_documentations() -> None:
    assert bulk.MOST_IMAGES == schemas.MOST_IMAGES
    # People are not refused because of a folder.
    assert bulk.MOST_UNDER_WAY < batching.MOST_IMAGES_A_CALL + batching.FEWEST_WAITING
    assert bulk.IMAGES_A_REQUEST <= bulk.MOST_IMAGES
    documented = (ROOT / "docs" / "api.md").read_text()
    assert re.search(rf"\| images in one request \| {schemas.MOST_IMAGES} \|", documented)
    assert f"At most {schemas.MOST_IMAGES} images a request, else 413" in documented


def test_rows_come_in_the_order_of_the_files_whichever_batch_is_answered_first() -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        images = images_of(request)
        if base64.b64decode(images[0]) == b"a":
            await asyncio.sleep(0.05)
        return answer(images)

    batches = [[question("a"), question("b")], [question("c")], [question("d", "is empty"), question("e")]]
    rows = ask(handler, batches)  # type: ignore[arg-type]
    assert [row.file for row in rows] == list("abcde")
    assert [row.label for row in rows] == ["a", "b", "c", None, "e"]
    assert rows[3].error == "is empty"
    assert (rows[0].version, rows[0].confidence) == (3, 0.9)
    assert rows[0].probabilities == '{"a":0.9,"else":0.1}'


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        (DRAFTS, {"model": "doodles", "draft": True}),
        (Asked("photos", None, record=True), {"model": "photos", "draft": False}),
        (Asked('"pets"', 4, record=False), {"model": '"pets"', "draft": True, "version": 4}),
    ],
)
def test_what_is_sent_is_what_was_asked_for(asked: Asked, fields: dict[str, Any]) -> None:
    sent: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return answer(sent[-1]["images"])

    ask(handler, [[question("a"), question("b")]], asked=asked)
    assert [set(each.pop("images")) for each in sent] == [{"YQ==", "Yg=="}]
    assert sent == [fields]
    schemas.InvocationRequest.model_validate({**sent[0], "images": []})


def test_the_image_to_blame_has_the_reason_and_the_others_are_asked_about_again() -> None:
    asked_about: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        images = images_of(request)
        asked_about.append(len(images))
        bad = [place for place, image in enumerate(images) if base64.b64decode(image).startswith(b"bad")]
        return refusal(400, "invalid_image", f"images.{bad[0]}") if bad else answer(images)

    names = ["a", "bad1", "b", "bad2", "bad3", "c"]
    rows = ask(handler, [[question(name) for name in names], [question("bad4")]])
    assert [row.label for row in rows] == ["a", None, "b", None, None, "c", None]
    assert {row.error for row in rows if row.label is None} == {"it is invalid_image"}
    assert sorted(asked_about) == [1, 3, 4, 5, 6]


@pytest.mark.parametrize(("status", "code"), [(413, "too_large"), (502, "bad_answer"), (500, "internal")])
def test_a_batch_of_which_nobody_knows_who_is_to_blame_is_halved(status: int, code: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        images = images_of(request)
        bad = any(base64.b64decode(image) == b"bad" for image in images)
        return refusal(status, code) if bad else answer(images)

    names = ["a", "b", "c", "bad", "d", "e", "f"]
    rows = ask(handler, [[question(name) for name in names]])
    assert [row.label for row in rows] == ["a", "b", "c", None, "d", "e", "f"]
    assert rows[3].error == f"it is {code}"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_gateway_is_asked_again_after_the_time_it_says(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    answered = iter([refusal(status, "busy", **{"Retry-After": "3"}), httpx.Response(status, text="<html>")])
    said: list[str] = []
    rows = ask(lambda r: next(answered, None) or answer(images_of(r)), [[question("a")]], said=said)
    assert rows[0].label == "a"
    assert pauses == [3.0, 1.0]
    assert said == ["it is busy", f"status {status}"]


def test_a_gateway_that_stays_busy_is_given_up() -> None:
    with pytest.raises(NotAnswered, match=r"no answer for 0\.2 s: it is busy; `emend doctor`"):
        ask(lambda _: refusal(503, "busy"), [[question("a")], [question("b")]], patience_seconds=0.2)


def test_a_gateway_that_was_never_there_is_told_at_once_and_one_that_starts_anew_is_waited_for() -> None:
    calls = 0

    def starts_anew(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise httpx.ConnectError("refused")
        return answer(images_of(request))

    def nobody(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(NotAnswered, match="nobody listens at http://gateway:1; start it with `make up`"):
        ask(nobody, [[question("a")]], patience_seconds=60)
    rows = ask(starts_anew, [[question("a")], [question("b")]], under_way=1)
    assert [row.label for row in rows] == ["a", "b"]


def test_what_is_no_fault_of_an_image_ends_it_with_the_gateways_words() -> None:
    with pytest.raises(NotAnswered, match="refused: it is unknown_model"):
        ask(lambda _: refusal(404, "unknown_model", "model"), [[question("a")], [question("b")]])
    for strange in (
        httpx.Response(404, text="<html>"),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"predictions": 1}),
        httpx.Response(301, headers={"Location": "/login"}),
    ):
        with pytest.raises(NotAnswered, match="is no gateway of Emend"):
            ask(lambda _, strange=strange: strange, [[question("a")]])  # type: ignore[misc]
    with pytest.raises(NotAnswered, match="gave 1 answers for 2 images"):
        ask(lambda r: answer(images_of(r)[:1]), [[question("a"), question("b")]])


def test_only_what_is_under_way_is_held_however_many_files_there_are() -> None:
    """A million files: batches are made only as answers are taken."""
    made = taken = most_ahead = 0

    def endless() -> Iterator[list[Question]]:
        nonlocal made
        while True:
            made += 1
            yield [question("a")] * 48

    async def work() -> None:
        nonlocal taken, most_ahead
        transport = httpx.MockTransport(lambda request: answer(images_of(request)))
        async with httpx.AsyncClient(base_url="http://gateway:1", transport=transport) as client:
            gateway = Gateway(client, DRAFTS, lambda _: None)
            async with aclosing(answers(endless(), gateway, 3)) as answered:
                async for _ in answered:
                    taken += 1
                    most_ahead = max(most_ahead, made - taken)
                    if taken == 200:
                        return

    asyncio.run(work())
    assert most_ahead <= 3
