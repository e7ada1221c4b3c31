"""The server of the pages over real HTTP: files, their headers, and what is passed on to a service behind."""

from __future__ import annotations

import gzip
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse

from core import pages, web
from core.settings import settings
from tests.support.http_server import http_client
from tests.support.processes import free_port

SCRIPT = b"console.log('a page');" * 50


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>the page</title>")
    (folder / "theme.js").write_text("1")
    (folder / "assets" / "index-abc.js").write_bytes(SCRIPT)
    (folder / "assets" / "index-abc.js.gz").write_bytes(gzip.compress(SCRIPT))
    (tmp_path / "secret.txt").write_text("not for the web")
    return folder


class Behind:
    """A service that tells what it was asked. `release`: lets its stream go on after the first event.

    `ended`: the stream has.
    """

    def __init__(self) -> None:
        self.release = threading.Event()
        self.ended = threading.Event()
        self.app = app = FastAPI()

        @app.api_route("/echo/{rest:path}", methods=["GET", "POST", "DELETE"])
        async def echo(request: Request) -> Response:
            body = await request.body()
            answer = {
                "method": request.method,
                "path": request.scope["raw_path"].decode(),
                "query": request.url.query,
                "headers": dict(request.headers),
                "size_bytes": len(body),
            }
            response = JSONResponse(answer, status_code=207)
            response.set_cookie("emend_actor", "one")
            response.set_cookie("second", "two")
            return response

        @app.get("/events")
        async def events() -> StreamingResponse:
            return StreamingResponse(self._events(), media_type="text/event-stream")

        @app.get("/moved")
        def moved(request: Request) -> RedirectResponse:
            return RedirectResponse(f"{request.base_url}echo/there?x=1")

        @app.get("/refused")
        def refused() -> Response:
            return JSONResponse({"error": {"code": "conflict", "message": "not now"}}, 409)

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            yield b"id: 1\n\n"
            while not self.release.is_set():
                await anyio.sleep(0.01)  # between two looks, not instead of one
            yield b"id: 2\n\n"
        finally:
            self.ended.set()


@pytest.fixture
def behind() -> Behind:
    return Behind()


@pytest.fixture
def client(dist: Path, behind: Behind) -> Iterator[httpx.Client]:
    with ExitStack() as stack:
        url = str(stack.enter_context(http_client(behind.app)).base_url).rstrip("/")
        app = web.application("pages", "for a test")
        pages.install(app, dist, {"/api": url, "/runs": f"http://127.0.0.1:{free_port()}"})
        yield stack.enter_context(http_client(app))


# Files.


def test_the_index_is_asked_for_anew_and_may_load_only_its_own(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.text.endswith("<title>the page</title>")
    assert answer.headers["cache-control"] == "no-cache"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


def test_what_has_a_hash_is_kept_for_ever_and_sent_packed(client: httpx.Client) -> None:
    packed = client.get("/assets/index-abc.js")
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(SCRIPT) == len(packed.content)
    assert "immutable" in packed.headers["cache-control"]
    assert packed.headers["content-type"].startswith("text/javascript")
    plain = client.get("/assets/index-abc.js", headers={"Accept-Encoding": "gzip;q=0, identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == SCRIPT
    assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"


def test_an_unchanged_file_is_not_sent_again(client: httpx.Client, dist: Path) -> None:
    tag = client.get("/").headers["etag"]
    again = client.get("/", headers={"If-None-Match": tag})
    assert again.status_code == 304
    assert not again.content
    assert "content-security-policy" in again.headers
    (dist / "index.html").write_text("<!doctype html><title>a new page, longer</title>")
    assert client.get("/", headers={"If-None-Match": tag}).status_code == 200


def test_head_says_the_same_without_the_file(client: httpx.Client) -> None:
    answer = client.head("/theme.js")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"
    assert not answer.content


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/assets/nothing.js", "/assets", "/..%2Fsecret.txt", "/assets/..%2Findex.html", "/.env",
     "/assets/index-abc.js.gz", "/%00", "/assets/%00", f"/{'a' * 3_000}", f"/assets/{'a' * 300}"],
)  # fmt: skip
def test_nothing_else_is_served(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_pages_that_are_not_built_say_how(tmp_path: Path) -> None:
    app = web.application("pages", "for a test")
    pages.install(app, tmp_path / "nothing", {})
    with http_client(app) as client:
        answer = client.get("/")
    assert answer.status_code == 503
    assert "make pages" in answer.text


def test_the_page_learns_where_the_others_are(client: httpx.Client) -> None:
    told = client.get("/pages.json", headers={"Host": f"localhost:{client.base_url.port}"}).json()
    here = settings()
    assert told["draw"] == f"http://localhost:{here.ui_port}/"
    assert told["viewer"] == f"http://localhost:{here.viewer_port}/"


def test_behind_nginx_the_page_learns_the_public_addresses(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMEND_PUBLIC_URL", "https://emend.example/")
    settings.cache_clear()
    try:
        told = client.get("/pages.json").json()
    finally:
        settings.cache_clear()
    assert told == {
        "draw": "https://emend.example/",
        "viewer": "https://emend.example/runs/",
        "mlflow": "https://emend.example/mlflow/",
        "grafana": "https://emend.example/grafana/",
    }


# What is passed on.


def test_a_request_arrives_as_it_was_sent(client: httpx.Client) -> None:
    headers = {
        "Emend-Actor": "me",
        "Idempotency-Key": "k1",
        "Cookie": "emend_actor=one",
        "X-Request-Id": "r-1",
        "Last-Event-ID": "7",
    }
    answer = client.post("/api/echo/a%2Fb%20c?x=1&x=%26", content=b"z" * 100_000, headers=headers)
    assert answer.status_code == 207
    told = answer.json()
    assert (told["method"], told["path"], told["query"]) == ("POST", "/echo/a%2Fb%20c", "x=1&x=%26")
    assert told["size_bytes"] == 100_000
    assert {name: told["headers"][name.lower()] for name in headers} == headers
    assert answer.headers.get_list("x-request-id") == ["r-1"]
    assert len(answer.headers.get_list("set-cookie")) == 2


def test_nobody_is_sent_under_the_cookie_of_somebody_before(client: httpx.Client) -> None:
    assert client.get("/api/echo/first").headers.get_list("set-cookie")  # an actor's, from the service behind
    client.cookies.clear()
    assert "cookie" not in client.get("/api/echo/second").json()["headers"]
    own = client.get("/api/echo/third", headers={"Cookie": "emend_actor=mine"}).json()["headers"]
    assert own["cookie"] == "emend_actor=mine"


def test_a_cookie_of_another_program_on_this_machine_may_hold_any_letters(client: httpx.Client) -> None:
    answer = client.get("/api/echo/x", headers={b"Cookie": "theirs=é".encode()})
    assert answer.status_code == 207
    assert answer.json()["headers"]["cookie"] == "theirs=é".encode().decode("latin-1")


def test_a_body_of_unknown_length_arrives(client: httpx.Client) -> None:
    assert client.post("/api/echo/x", content=iter([b"a" * 10, b"b" * 10])).json()["size_bytes"] == 20


def test_an_address_cannot_lead_to_another_machine(client: httpx.Client) -> None:
    for path in ("//example.com/x", "/@example.com/x", "/http://example.com/"):
        assert client.get(f"/api/echo{path}").json()["headers"]["host"].startswith("127.0.0.1:")


def test_where_a_request_came_from_stays_here(client: httpx.Client) -> None:
    headers = {
        "Origin": str(client.base_url),
        "Sec-Fetch-Site": "same-origin",
        "Referer": f"{client.base_url}/",
    }
    told: dict[str, Any] = client.post("/api/echo/x", headers=headers).json()["headers"]
    assert not {"origin", "referer", "sec-fetch-site"} & set(told)


def test_other_sites_are_refused_before_the_service_is_asked(client: httpx.Client) -> None:
    for headers in (
        {"Origin": "https://example.com"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "example.com"},
    ):
        answer = client.post("/api/echo/x", headers=headers)
        assert answer.status_code == 403, headers
        assert answer.json()["error"]["code"] == "forbidden"


def test_a_refusal_comes_through_in_the_services_own_words(client: httpx.Client) -> None:
    answer = client.get("/api/refused")
    assert (answer.status_code, answer.json()["error"]["message"]) == (409, "not now")


def test_a_redirect_leads_back_here(client: httpx.Client) -> None:
    assert client.get("/api/moved").headers["location"] == "/api/echo/there?x=1"


def test_events_come_one_by_one(client: httpx.Client, behind: Behind) -> None:
    with client.stream("GET", "/api/events", timeout=10) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        parts = answer.iter_raw()
        assert next(parts) == b"id: 1\n\n"  # while the service is still writing
        behind.release.set()
        assert next(parts) == b"id: 2\n\n"


def test_a_reader_that_leaves_is_gone_for_the_service_too(client: httpx.Client, behind: Behind) -> None:
    with client.stream("GET", "/api/events", timeout=10) as answer:
        parts = answer.iter_raw()  # kept: without it the answer is closed
        assert next(parts)
        assert not behind.ended.is_set()
    assert behind.ended.wait(10)


def test_a_service_that_is_away_is_said_to_be(client: httpx.Client) -> None:
    answer = client.get("/runs/pipeline_runs")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "unavailable"
    assert "/runs" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) > 0


def test_too_large_a_body_is_refused_here(client: httpx.Client) -> None:
    big = b"x" * (settings().max_body_bytes + 1)
    assert client.post("/api/echo/x", content=big).status_code == 413
    assert client.post("/api/echo/x", content=iter([big[:6_000_000], big[6_000_000:]])).status_code == 413
