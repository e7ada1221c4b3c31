"""Small parts of the gateway: base64, file names, threads, the check of an answer, the docs page."""

from __future__ import annotations

import asyncio
import base64
import threading

import anyio
import numpy as np
import pytest

from api.app import create_app
from api.batching import answers_of
from api.errors import BadAnswer
from api.gateway import CHARACTERS_AT_ONCE, decode_base64, in_thread
from api.predictions import _plain_filename
from api.upstream import Answers
from core.docs_page import render
from core.errors import InvalidInput


@pytest.mark.parametrize("text", ["", "abc", "ab c", "a\nbc", "Zm9é", "data:,x", "_-_-"])
def test_what_is_no_base64_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_base64(text, "images.3")
    assert caught.value.field == "images.3"
    assert text == "" or f" {text} " not in caught.value.message


@pytest.mark.parametrize("more", [0, 1, 2, 3, 4, 100_000])
def test_base64_that_is_decoded_in_parts_is_the_same(more: int) -> None:
    data = np.random.default_rng(more).bytes(3 * CHARACTERS_AT_ONCE // 4 + more)
    text = base64.b64encode(data).decode()
    assert decode_base64(text, "image") == data
    half = len(text) // 8 * 4
    for broken in (text[:-1], text[:half] + "\n" + text[half:], text + "AAA=" + text, "é" + text):
        with pytest.raises(InvalidInput):
            decode_base64(broken, "image")


def test_large_base64_lets_other_threads_run_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    real = base64.b64decode

    def counted(text: str, *, validate: bool) -> bytes:
        pieces.append(len(text))
        return real(text, validate=validate)

    monkeypatch.setattr("api.gateway.base64.b64decode", counted)
    text = base64.b64encode(bytes(2_000_000)).decode()
    assert len(decode_base64(text, "image")) == 2_000_000
    assert sum(pieces) == len(text)
    assert max(pieces) <= CHARACTERS_AT_ONCE


def test_who_is_cancelled_keeps_its_thread_and_that_threads_place_until_it_is_done() -> None:
    begun, free = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        free.wait()
        raise InvalidInput("nobody hears of it")

    async def scene() -> None:
        limiter = anyio.CapacityLimiter(1)
        working = asyncio.create_task(in_thread(work, limiter))
        await asyncio.to_thread(begun.wait)
        working.cancel()
        await asyncio.sleep(0)
        assert (working.done(), limiter.borrowed_tokens) == (False, 1)
        free.set()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert limiter.borrowed_tokens == 0

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("cat.png", "cat.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\a\\b.png", "b.png"),
        ("a\0b\n.png", "ab.png"),
        ("x" * 300, "x" * 200),
        ("", None),
        (None, None),
        ("dir/", None),
    ],
)
def test_a_file_name_keeps_its_last_part_and_nothing_odd(given: str | None, kept: str | None) -> None:
    assert _plain_filename(given) == kept


def test_only_distributions_are_passed_on() -> None:
    for good in ([0.25, 0.75], [1.0, 0.0]):
        (answer,) = answers_of(Answers(np.array([good]), 1))
        answer.check()
    bad = [[0.5, 0.6], [np.nan, 1.0], [np.inf, 0.0], [-0.1, 1.1], [0.0, 0.0]]
    for answer in answers_of(Answers(np.array(bad), 1)):
        with pytest.raises(BadAnswer):
            answer.check()
    good_among_bad = answers_of(Answers(np.array([[np.nan, 1.0], [0.5, 0.5]]), 1))
    assert [answer.is_distribution for answer in good_among_bad] == [False, True]


def test_the_docs_page_escapes_what_it_shows_and_has_a_line_to_try_for_every_endpoint() -> None:
    spec = create_app().openapi()
    spec["paths"]["/invocations/"]["post"]["summary"] = "<script>alert(1)</script>"
    page = render(spec, "http://127.0.0.1:8000")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    endpoints = sum(len(methods) for methods in spec["paths"].values())
    assert page.count("Try it") == endpoints
    assert "curl -X POST &#x27;http://127.0.0.1:8000/predict&#x27; -F &#x27;file=@drawing.png&#x27;" in page


def test_no_endpoint_promises_fastapis_own_error() -> None:
    spec = create_app().openapi()
    assert "HTTPValidationError" not in str(spec)
    stated = spec["paths"]["/save-image/"]["post"]["responses"]
    assert {"201", "400", "413", "422", "503", "507"} <= set(stated)
