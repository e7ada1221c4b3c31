"""What every HTTP service shares: refusals of other sites' pages, and of field names that go on and on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from pydantic import BaseModel, ConfigDict

from core import web
from core.settings import settings
from tests.support.http_server import http_client


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    app = web.application("test", "answers what is asked")

    @app.get("/thing")
    def read() -> str:
        return "read"

    @app.post("/thing")
    def change(_: Asked) -> str:
        return "changed"

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


def test_a_field_name_of_the_clients_own_is_clipped(client: httpx.Client) -> None:
    response = client.post("/thing", json={"k" * 200_000: 1})
    assert response.status_code == 400
    assert response.json()["error"]["field"] == "k" * 60
    assert len(response.json()["error"]["message"]) < 200


def test_a_field_name_that_is_no_text_is_refused(client: httpx.Client) -> None:
    content = json.dumps({"\ud800": 1})
    response = client.post("/thing", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
