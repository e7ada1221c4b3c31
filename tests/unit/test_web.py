"""What every HTTP service shares: refusals of other sites' pages and of what no address knows, in plain words."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, Query, Request, Response
from prometheus_client import REGISTRY
from pydantic import BaseModel, ConfigDict, Field

from api.lean import LeanRoute
from core import http_server, web
from core.errors import TooBusy, Unavailable
from core.settings import settings
from tests.support.http_server import http_client


class Kind(StrEnum):
    fruit = "fruit"
    stone = "stone"


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field("plum", min_length=1, max_length=5, pattern="^[a-z]*$")
    title: str = Field("Plum", min_length=3)
    count: int = Field(1, ge=1, le=3)
    share: float = Field(0.5, gt=0, lt=1)
    ripe: bool = True
    id: UUID | None = None
    kind: Kind = Kind.fruit
    colour: Literal["red", "blue"] = "red"
    seeds: list[str] = Field([], max_length=2)


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    app = web.application("test", "answers what is asked")

    @app.get("/thing")
    def read() -> str:
        return "read"

    @app.post("/thing")
    def change(_: Asked) -> str:
        return "changed"

    router = APIRouter()

    @router.get("/things/{number}")
    def things(number: int, limit: Annotated[int, Query(le=9)] = 1, colour: str | None = None) -> str:
        return f"{number} {limit} {colour}"

    @router.post("/renew", include_in_schema=False)
    @router.post("/renew/")
    def renew(soon: bool = False) -> bool:
        return soon

    @router.get("/healthz")
    def healthz() -> str:
        return "ok"

    app.include_router(router)

    with http_client(app) as client:
        yield client


EVIL = "https://evil.example"
OWN = {"Origin": "http://127.0.0.1:9080", "Sec-Fetch-Site": "same-site"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # curl
        (OWN, 200),
        ({"Origin": "http://[::1]:9080", "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "http://localhost:9080", "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "http://127.0.0.1:9080", "Host": "localhost:8000"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": EVIL, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": EVIL}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "null"}, 403),  # a sandboxed frame, or a file
        ({"Origin": ""}, 403),
        ({"Origin": "http://127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://[::1"}, 403),
    ],
)
def test_a_page_of_another_site_may_not_change_anything(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    response = client.post("/thing", json={}, headers=headers)
    assert response.status_code == status
    if status == 403:
        assert response.json()["error"]["code"] == "forbidden"
        assert response.headers["X-Request-Id"]
    assert client.get("/thing", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("path", "takes"),
    [
        ("/thing", "GET or POST with application/json"),
        ("/things/1?limit=2", "GET"),
        ("/renew", "POST"),
    ],
)
def test_a_method_that_an_address_does_not_take_is_answered_with_those_it_takes(
    client: httpx.Client, path: str, takes: str
) -> None:
    response = client.delete(path)
    assert response.status_code == 405
    assert response.json()["error"] == {
        "code": "http_405",
        "message": f"this address takes {takes}, not DELETE; see /docs",
    }
    assert response.headers["Allow"] == ", ".join(re.findall("[A-Z]+", takes))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::1", "null"]
)
def test_on_loopback_a_name_of_somebody_else_is_answered_nothing(client: httpx.Client, host: str) -> None:
    for response in (
        client.get("/thing", headers={"Host": host}),
        client.post("/thing", json={}, headers={"Host": host, "Origin": f"http://{host}"}),
    ):
        assert response.status_code == 403
        assert host in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1.2.3:8000", "LOCALHOST:8000", "emend.localhost", "[::1]:8000"]
)
def test_every_name_of_loopback_is_answered(client: httpx.Client, host: str) -> None:
    assert client.post("/thing", json={}, headers={"Host": host}).status_code == 200


def test_opened_up_any_name_is_answered_but_only_to_its_own_pages(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMEND_HOST", "0.0.0.0")
    settings.cache_clear()
    try:
        for origin, status in {
            "http://emend.example:9080": 200,
            EVIL: 403,
            "http://127.0.0.1:9080": 403,  # somebody else's machine
        }.items():
            headers = {"Host": "emend.example:8000", "Origin": origin}
            assert client.get("/thing", headers=headers).status_code == 200
            assert client.post("/thing", json={}, headers=headers).status_code == status
    finally:
        settings.cache_clear()


@pytest.fixture
def public_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """As with nginx in front."""
    monkeypatch.setenv("EMEND_PUBLIC_URL", "https://emend.example")
    settings.cache_clear()
    yield "https://emend.example"
    settings.cache_clear()


def test_on_loopback_behind_nginx_the_public_name_is_answered_too(
    client: httpx.Client, public_address: str
) -> None:
    own = {"Host": "emend.example", "Origin": public_address, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/thing", json={}, headers=own).status_code == 200
    assert client.post("/thing", json={}, headers=own | {"Origin": EVIL}).status_code == 403
    assert client.get("/thing", headers={"Host": "evil.example"}).status_code == 403


def test_the_docs_say_the_public_address_of_a_service(public_address: str) -> None:
    app = web.application("gateway", "answers what is asked")

    @app.get("/thing")
    def read() -> str:
        return "read"

    with http_client(app) as gateway:
        assert gateway.get("/openapi.json").json()["servers"] == [{"url": f"{public_address}/api"}]
        page = gateway.get("/docs").text
    assert f"{public_address}/api/thing" in page
    assert 'href="openapi.json"' in page  # beside the page, wherever that is


def test_a_field_name_of_the_clients_own_is_clipped(client: httpx.Client) -> None:
    response = client.post("/thing", json={"k" * 200_000: 1})
    assert response.status_code == 400
    assert response.json()["error"]["field"] == "k" * 60
    assert len(response.json()["error"]["message"]) < 200


def test_a_field_name_that_is_no_text_is_refused(client: httpx.Client) -> None:
    content = json.dumps({"\ud800": 1})
    response = client.post("/thing", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("path", "named", "known"),
    [
        ("/things/1?limti=2", "limti", "limit, colour"),
        ("/things/1?limit=2&Colour=red", "Colour", "limit, colour"),
        ("/things/1?number=2", "number", "limit, colour"),
        ("/things/1?=2", "", "limit, colour"),
        ("/thing?limit=2", "limit", "takes none"),
        ("/things/x?" + "k" * 500, "k" * 60, "limit, colour"),
    ],
)
def test_a_query_parameter_that_no_address_knows_is_refused_by_name(
    client: httpx.Client, path: str, named: str, known: str
) -> None:
    response = client.get(path)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["field"]) == ("invalid_input", named)
    assert repr(named) in error["message"]
    assert known in error["message"]
    assert len(error["message"]) < 200


def test_changes_know_their_query_parameters_too(client: httpx.Client) -> None:
    for path in ("/renew", "/renew/"):
        assert client.post(f"{path}?soon=true").json() is True
        assert client.post(f"{path}?later=true").status_code == 400


def test_known_query_parameters_are_taken_and_pages_take_any(client: httpx.Client) -> None:
    assert client.get("/things/1?limit=2&colour=red").json() == "1 2 red"
    for path in ("/healthz", "/metrics", "/docs", "/openapi.json"):
        assert client.get(f"{path}?probe=7").status_code == 200


def test_the_openapi_document_tells_of_the_400_and_of_no_422(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths["/things/{number}"]["get"]["responses"]) == {"200", "400"}


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"name": 7}, "name must be text"),
        ({"name": ""}, "name is empty"),
        ({"name": "melons"}, "name has more than 5 characters"),
        ({"name": "Fig"}, "name has characters that are not allowed"),
        ({"title": "P"}, "title has fewer than 3 characters"),
        ({"count": "many"}, "count must be a whole number"),
        ({"count": 1.5}, "count must be a whole number"),
        ({"count": "9" * 5_000}, "count is too large a number"),
        ({"count": 0}, "count must be at least 1"),
        ({"count": 4}, "count must be at most 3"),
        ({"share": 0}, "share must be more than 0.0"),
        ({"share": 1}, "share must be less than 1.0"),
        ({"share": []}, "share must be a number"),
        ({"ripe": "perhaps"}, "ripe must be true or false"),
        ({"id": "12"}, "id must be a UUID, such as 019a1c7e-5f0a-7c3e-8b1d-2f6a9c4e7d10"),
        ({"kind": "shell"}, "kind must be 'fruit' or 'stone'"),
        ({"colour": "green"}, "colour must be 'red' or 'blue'"),
        ({"seeds": "a"}, "seeds must be a list"),
        ({"seeds": ["a", 7]}, "seeds.1 must be text"),
        ({"seeds": ["a", "b", "c"]}, "seeds has more than 2 entries"),
        ({"naem": "fig"}, "naem is not known here"),
        ([], "the request body must be a JSON object"),
    ],
)
def test_what_is_malformed_is_told_in_plain_words(client: httpx.Client, sent: Any, message: str) -> None:
    response = client.post("/thing", json=sent)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == f"{message}; see /docs"


def test_a_body_that_is_missing_or_not_said_to_be_json_is_told_so(client: httpx.Client) -> None:
    for content, message in (
        (None, "the request body is missing; see /docs"),
        (b"{}", "send the JSON with the header `Content-Type: application/json`; see /docs"),
    ):
        assert client.post("/thing", content=content).json()["error"]["message"] == message


def test_who_is_refused_for_want_of_room_is_counted_but_takes_no_time() -> None:
    app = web.application("full", "has no room")

    @app.get("/thing")
    def thing(room: bool) -> None:
        raise Unavailable("away") if room else TooBusy("full")

    def counted() -> tuple[float, float]:
        where = {"service": "full", "route": "/thing"}
        answered = where | {"method": "GET", "status": "503"}
        return (
            REGISTRY.get_sample_value("emend_http_requests_total", answered) or 0.0,
            REGISTRY.get_sample_value("emend_http_request_duration_seconds_count", where) or 0.0,
        )

    with http_client(app) as client:
        for room, times in ((False, 0), (True, 1)):
            before = counted()
            assert client.get(f"/thing?room={room}").status_code == 503
            assert counted() == (before[0] + 1, before[1] + times)


def hasty(direct: http_server.Direct | None) -> type[http_server.Protocol]:
    class Hasty(http_server.protocol(direct)):  # type: ignore[misc]
        head_seconds = body_seconds = 0.1
        look_seconds = 0.02

    return Hasty


@pytest.mark.parametrize("path", ["/plain", "/lean"])
@pytest.mark.parametrize("direct", [None, lambda data: 50 if data.startswith(b"POST") else None])
def test_a_body_that_is_cut_off_for_being_slow_is_counted(
    path: str, direct: http_server.Direct | None
) -> None:
    """direct: None, or one that waits for the rest."""
    app = web.application("hurried", "has little time")
    lean = APIRouter(route_class=LeanRoute)
    app.state.gateway = None

    @app.post("/plain")
    def plain(_: Asked) -> str:
        return "read"

    @lean.post("/lean")
    async def taken(body: Asked, request: Request, the: None) -> Response:
        raise AssertionError("it is not whole")

    app.include_router(lean)
    counted = re.compile(
        f'emend_http_requests_total{{method="POST",route="{path}",service="hurried",status="400"}} (\\S+)'
    )

    def cut_off(client: httpx.Client) -> float:
        return sum(float(each) for each in counted.findall(client.get("/metrics").text))

    with http_client(app, hasty(direct)) as client:
        before = cut_off(client)
        with socket.create_connection((client.base_url.host, client.base_url.port or 0), 10) as slow:
            head = (
                b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % path.encode()
            )
            slow.sendall(head + b"Content-Length: 99\r\n\r\n{")
            with contextlib.suppress(ConnectionResetError):
                assert slow.recv(1) == b""
        until = time.monotonic() + 10
        while cut_off(client) != before + 1:
            assert time.monotonic() < until, "it was not counted"
            time.sleep(0.01)
