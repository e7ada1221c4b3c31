"""The real nginx with the templates of deploy/nginx, in front of the real services: two gateways, two viewers.

    TEST_NGINX=/usr/local/sbin/nginx .venv/bin/pytest tests/integration/test_nginx.py     # another than Debian's

The name server it asks is ours, so that names can change their addresses (tests/support/nginx.py). Grafana is not
started: what it would be sent is looked at.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from core.database import Run, RunStatus, Stage, StageStatus, Trigger
from core.objects import Objects
from core.pages import built
from core.settings import COMPOSE_NAMES, Settings, settings
from tests.support.mlflow_server import MlflowServer
from tests.support.nginx import (
    ADMIN,
    PASSWORD,
    PUBLIC_NAME,
    SOURCE,
    NameServer,
    Nginx,
    defaults,
    names_form,
)
from tests.support.object_store import BUCKET, ObjectStore, object_store
from tests.support.pages_stand import DOODLES, Service, Stand
from tests.support.processes import free_port
from tests.support.waiting import wait_until

PUBLIC_URL = f"http://{PUBLIC_NAME}"
SAME_ORIGIN = {"Origin": PUBLIC_URL, "Sec-Fetch-Site": "same-origin"}
DRAWING = base64.b64encode(bytes(784)).decode()
DRAFT = {"image": DRAWING, "draft": True}
NOT_BUILT = "the pages are not built: run `make pages`"
# Everybody's: what users ask, say and take back. All else that changes something needs the password.
USERS = {
    "/invocations/",
    "/predict",
    "/save-image/",
    "/corrections/{correction_id}/withdraw",
    "/models/{name}/samples/withdraw",
}


@dataclass
class Asked:
    path: str
    headers: dict[str, str]


@dataclass
class Whole:
    """Everything behind one nginx. `second_gateway`, `second_viewer`: at the names' second address."""

    stand: Stand
    names: NameServer
    behind: dict[str, str]
    second_gateway: Service
    second_viewer: Service
    grafana_asked: list[Asked] = field(default_factory=list)

    @contextmanager
    def nginx(self, folder: Path, **changes: str) -> Iterator[Nginx]:
        """Ready when it has asked for the names, a moment after its start."""
        with Nginx(folder, self.names, self.behind | changes) as nginx:
            wait_until(lambda: httpx.get(f"{nginx.url}/pages.json").status_code == 200)
            yield nginx


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    folder = tmp_path_factory.mktemp("nginx")
    stand = Stand(folder)
    services = (stand.gateway, stand.viewer, stand.pages)
    mlflow = MlflowServer(folder / "mlflow", "--allowed-hosts", f"{PUBLIC_NAME},127.0.0.1:*")
    ports = {service: service.url.rpartition(":")[2] for service in services}
    mlflow_url = f"http://127.0.0.1:{mlflow.port}"
    for service in services:
        service.environment |= {
            "EMEND_PUBLIC_URL": PUBLIC_URL,
            "MLFLOW_TRACKING_URI": mlflow_url,
            "EMEND_API_URL": stand.gateway.url,
            "EMEND_VIEWER_URL": stand.viewer.url,
        }
    seconds = []
    for module, first in (("api", stand.gateway), ("viewer", stand.viewer)):
        elsewhere = first.environment | {"EMEND_HOST": "127.0.0.2"}
        second = Service(module, int(ports[first]), "/healthz", folder, elsewhere)
        second.url = f"http://127.0.0.2:{ports[first]}"
        second.log = folder / f"second-{module}.log"
        seconds.append(second)
    grafana_asked: list[Asked] = []
    with NameServer() as names, grafana(grafana_asked) as grafana_port:
        for name in ("gateway.test", "viewer.test"):
            names.addresses[name] = ["127.0.0.1", "127.0.0.2"]
        behind = {
            "EMEND_GATEWAYS": f"gateway.test:{ports[stand.gateway]}",
            "EMEND_VIEWERS": f"viewer.test:{ports[stand.viewer]}",
            "EMEND_PAGES": f"pages.test:{ports[stand.pages]}",
            "EMEND_MLFLOW": f"mlflow.test:{mlflow.port}",
            "EMEND_GRAFANA": f"grafana.test:{grafana_port}",
        }
        try:
            # All at once: each takes seconds to import what it needs.
            starts = [stand.add_models, stand.viewer.start, stand.pages.start, mlflow.start]
            with ThreadPoolExecutor() as pool:
                for started in [pool.submit(start) for start in [*starts, *(each.start for each in seconds)]]:
                    started.result()
            yield Whole(stand, names, behind, seconds[0], seconds[1], grafana_asked)
        finally:
            for second in seconds:
                second.stop()
            mlflow.stop()
            stand.__exit__()


@contextmanager
def grafana(asked: list[Asked]) -> Iterator[int]:
    """Where Grafana would be: it keeps what it is asked, and answers. Yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(Asked(self.path, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(200)
            self.send_header("X-Frame-Options", "deny")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with listening(Handler, "127.0.0.1") as port:
        yield port


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler], address: str, port: int = 0) -> Iterator[int]:
    server = ThreadingHTTPServer((address, port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def nginx(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """As it comes, but for the limits: these tests ask more than a person does."""
    many = {"EMEND_PREDICTIONS_PER_SECOND": "1000", "EMEND_PREDICTIONS_BURST": "1000"}
    with whole.nginx(tmp_path_factory.mktemp("front"), **many) as made:
        yield made


@pytest.fixture(scope="module")
def client(nginx: Nginx) -> Iterator[httpx.Client]:
    """A person's: without the password."""
    with nginx.client() as made:
        yield made


@pytest.fixture(scope="module")
def admin(nginx: Nginx) -> Iterator[httpx.Client]:
    with nginx.client(admin=True) as made:
        yield made


def code_of(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) <= {"code", "message", "field"}
    assert error["message"]
    return str(error["code"])


# --- Routes


def test_the_drawing_page_is_at_the_root_with_the_services_own_policy(
    client: httpx.Client, whole: Whole
) -> None:
    assert built("draw").joinpath("index.html").is_file(), NOT_BUILT
    page = client.get("/")
    own = httpx.get(whole.stand.pages.url)
    assert page.content == own.content
    for header in ("content-security-policy", "cache-control", "x-frame-options", "referrer-policy"):
        assert page.headers.get_list(header) == own.headers.get_list(header)
    script = re.search(r'src="\./(assets/[^"]+)"', page.text)
    assert script is not None
    assert "immutable" in client.get(f"/{script[1]}").headers["cache-control"]


def test_the_run_viewer_is_below_runs_with_all_that_its_page_asks_for(client: httpx.Client) -> None:
    assert built("viewer").joinpath("index.html").is_file(), NOT_BUILT
    page = client.get("/runs", follow_redirects=True)
    assert page.url.path == "/runs/"
    for relative in re.findall(r'(?:src|href)="\./([^"]+)"', page.text):
        assert client.get(f"/runs/{relative}").status_code == 200, relative
    assert client.get("/runs/api/models").json() == client.get("/api/models").json()
    assert client.get("/runs/runs/pipeline_runs").json() == client.get("/runs/pipeline_runs").json()
    assert "models" in client.get("/runs/runs/overview").json()


def test_both_pages_are_told_the_public_addresses(client: httpx.Client) -> None:
    told = client.get("/pages.json").json()
    assert told == client.get("/runs/pages.json").json()
    assert told["viewer"] == f"{PUBLIC_URL}/runs/"
    assert told["mlflow"] == f"{PUBLIC_URL}/mlflow/"
    overview = client.get("/runs/overview").json()
    assert (overview["ui_url"], overview["gateway_url"]) == (f"{PUBLIC_URL}/", f"{PUBLIC_URL}/api")


def test_the_docs_are_the_gateways_and_what_they_say_works(client: httpx.Client) -> None:
    for docs, openapi in (("/docs", "/openapi.json"), ("/api/docs", "/api/openapi.json")):
        page = client.get(docs)
        assert "Emend gateway" in page.text
        assert f"curl -X POST &#x27;{PUBLIC_URL}/api/invocations/&#x27;" in page.text
        assert 'href="openapi.json"' in page.text  # beside it, which is here:
        assert client.get(openapi).json()["servers"] == [{"url": f"{PUBLIC_URL}/api"}]
    assert "Emend viewer" in client.get("/runs/docs").text
    assert client.get("/runs/openapi.json").json()["servers"] == [{"url": f"{PUBLIC_URL}/runs"}]


def test_a_prediction_and_a_correction_go_through(client: httpx.Client) -> None:
    answer = client.post("/api/invocations/", json={"image": DRAWING})
    assert answer.status_code == 200
    said = {"image": DRAWING, "label": "cat", "prediction_id": answer.json()["prediction_id"]}
    corrected = client.post("/api/save-image/", json=said, headers={"Emend-Actor": "me", **SAME_ORIGIN})
    assert corrected.status_code == 201
    assert client.get(f"/api{corrected.json()['receipt']}").json()["label"] == "cat"
    taken_back = client.post(
        f"/api/corrections/{corrected.json()['correction_id']}/withdraw", headers={"Emend-Actor": "me"}
    )
    assert taken_back.status_code == 200


def test_a_redirect_of_a_service_stays_below_its_path(client: httpx.Client) -> None:
    assert client.get("/api/models/").headers["location"].startswith("/api/models")
    assert client.get("/runs/pipeline_runs/").headers["location"].startswith("/runs/pipeline_runs")


def test_mlflow_works_below_its_path(admin: httpx.Client, whole: Whole) -> None:
    page = admin.get("/mlflow", follow_redirects=True)
    assert page.url.path == "/mlflow/"
    scripts = re.findall(r'src="(static-files/[^"]+)"', page.text)
    assert scripts
    assert all(admin.get(f"/mlflow/{script}").status_code == 200 for script in scripts)
    # Its page posts even to read; MLflow itself would refuse the origin.
    made = admin.post(
        "/mlflow/ajax-api/2.0/mlflow/experiments/create", json={"name": "through nginx"}, headers=SAME_ORIGIN
    )
    assert made.status_code == 200
    found = admin.post(
        "/mlflow/ajax-api/2.0/mlflow/experiments/search", json={"max_results": 10}, headers=SAME_ORIGIN
    )
    assert "through nginx" in {each["name"] for each in found.json()["experiments"]}


def test_mlflow_itself_refuses_names_that_it_was_not_told(whole: Whole) -> None:
    url = f"http://127.0.0.1:{whole.behind['EMEND_MLFLOW'].rpartition(':')[2]}/"
    assert httpx.get(url, headers={"Host": PUBLIC_NAME}).status_code == 200
    assert httpx.get(url, headers={"Host": "elsewhere.test"}).status_code == 403


def test_grafana_gets_its_path_its_upgrades_and_no_password(admin: httpx.Client, whole: Whole) -> None:
    whole.grafana_asked.clear()
    answer = admin.get(
        "/grafana/d/service%20one?from=now", headers={"Connection": "Upgrade", "Upgrade": "websocket"}
    )
    assert answer.headers.get_list("x-frame-options") == ["deny"]  # its own, not ours as well
    [asked] = whole.grafana_asked
    assert asked.path == "/grafana/d/service%20one?from=now"
    assert "authorization" not in asked.headers
    assert (asked.headers["upgrade"], asked.headers["connection"]) == ("websocket", "upgrade")
    assert asked.headers["host"] == asked.headers["x-forwarded-host"] == PUBLIC_NAME
    assert asked.headers["x-forwarded-for"] == "127.0.0.1"


def test_what_a_client_says_of_its_address_is_not_believed(admin: httpx.Client, whole: Whole) -> None:
    whole.grafana_asked.clear()
    admin.get("/grafana/", headers={"X-Forwarded-For": "203.0.113.7", "X-Real-IP": "203.0.113.7"})
    [asked] = whole.grafana_asked
    assert asked.headers["x-forwarded-for"] == asked.headers["x-real-ip"] == "127.0.0.1"


def test_nginx_itself_is_alive_by_any_name(nginx: Nginx) -> None:
    for name in (PUBLIC_NAME, "127.0.0.1", "elsewhere.test"):
        assert httpx.get(f"{nginx.url}/healthz", headers={"Host": name}).json() == {"status": "ok"}


@pytest.mark.parametrize("below", ["", "/api", "/runs", "/runs/api", "/runs/runs"])
@pytest.mark.parametrize("name", ["metrics", "readyz", "metrics/", "%6Detrics", "./metrics"])
def test_what_only_prometheus_and_health_checks_ask_is_not_public(
    client: httpx.Client, admin: httpx.Client, below: str, name: str
) -> None:
    for asking in (client, admin):
        answer = asking.get(f"{below}/{name}")
        assert (answer.status_code, code_of(answer)) == (404, "not_found")


@pytest.mark.parametrize(
    "path", ["/.env", "/.git/config", "/runs/.env", "/api/%2Eenv", "/assets/.x", "/mlflow/.x"]
)
def test_hidden_files_are_not_there(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, code_of(answer)) == (404, "not_found")


@pytest.mark.parametrize(
    ("asked", "passed_on"),
    [
        ("/grafana/a%20b/%C3%A9%25%3F%23?q=%2F&x=a+b", "/grafana/a%20b/%C3%A9%25%3F%23?q=%2F&x=a+b"),
        ("/grafana/a%0d%0aX-Evil:1", "/grafana/a%0D%0AX-Evil:1"),
        ("/grafana//a/./b/../c", "/grafana/a/c"),
        ("/grafana/%61", "/grafana/a"),
    ],
)
def test_an_address_is_passed_on_as_it_was_judged(
    admin: httpx.Client, whole: Whole, nginx: Nginx, asked: str, passed_on: str
) -> None:
    whole.grafana_asked.clear()
    connection = http.client.HTTPConnection("127.0.0.1", nginx.port)
    credentials = base64.b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
    connection.request("GET", asked, headers={"Host": PUBLIC_NAME, "Authorization": f"Basic {credentials}"})
    assert connection.getresponse().status == 200
    connection.close()
    [seen] = whole.grafana_asked
    assert re.sub("%[0-9a-f]{2}", lambda found: found[0].upper(), seen.path) == passed_on
    assert "x-evil" not in seen.headers


# --- The password


def changes(openapi: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(method, path) of everything that changes something."""
    for path, operations in openapi["paths"].items():
        for method in operations:
            if method not in ("get", "head", "options"):
                yield method, path


def filled(path: str) -> str:
    known = {"correction_id": "019a1c7e-5f0a-7c3e-8b1d-2f6a9c4e7d10", "run_id": "999999", "name": "nobody"}
    return re.sub(r"{(\w+)}", lambda found: known[found[1]], path)


def test_machines_and_links_to_weights_are_behind_the_password_too(
    client: httpx.Client, admin: httpx.Client
) -> None:
    for path in ("/monitoring/gpu", "/models/doodles/versions/1/link", "/pipeline_runs/1/report/link"):
        for below in ("/api", "/runs/api"):
            assert client.get(below + path).status_code == 401, path
            assert admin.get(below + path).status_code in (200, 404), path


def test_everything_that_changes_something_needs_the_password_but_what_users_do(
    client: httpx.Client, nginx: Nginx
) -> None:
    listed = list(changes(client.get("/api/openapi.json").json()))
    assert {path for _, path in listed} > USERS
    for number, (method, path) in enumerate(listed):
        for below in ("/api", "/runs/api"):
            # From an address each, so that none is refused for asking too often.
            asked: dict[str, Any] = {
                "url": below + filled(path),
                "json": {"model": "nobody"},
                "headers": SAME_ORIGIN,
            }
            with nginx.client(address=f"127.0.2.{number + 1}") as person:
                answer = person.request(method, **asked)
            if path in USERS:
                assert answer.status_code in (400, 404), path  # the gateway's own
                continue
            assert (answer.status_code, code_of(answer)) == (401, "password_needed"), path
            assert answer.headers["www-authenticate"].startswith("Basic realm=")
            with nginx.client(admin=True, address=f"127.0.2.{number + 1}") as person:
                allowed = person.request(method, **asked)
            assert allowed.status_code in (400, 404), path  # let through: the gateway's own
    assert list(changes(client.get("/runs/openapi.json").json())) == []


@pytest.mark.parametrize(
    "path",
    [
        "/api/pipeline_runs",
        "//api//pipeline_runs",
        "/%61pi/pipeline_runs",
        "/api/%70ipeline_runs",
        "/x/../api/pipeline_runs",
        "/api/predict/../pipeline_runs",
        "/api/pipeline_runs?x=/api/predict",
        "/api/pipeline_runs#/../predict",
        "/api/pipeline_runs;/predict",
        "/runs/../api/pipeline_runs",
        "/runs/./api/pipeline_runs",
        "/runs/runs/api/pipeline_runs",
        "/api/models/doodles/rollback",
        "/api/models/predict/rollback",
        "/api/models/x%2Fsamples%2Fwithdraw/../../../../doodles/rollback",
        "/api/corrections/review",
        "/API/pipeline_runs",
        "/mlflow/ajax-api/2.0/mlflow/experiments/create",
        "/anything",
    ],
)
def test_no_spelling_of_an_address_goes_round_the_password(nginx: Nginx, path: str) -> None:
    for number, method in enumerate(("POST", "PUT", "PATCH", "DELETE", "PROPFIND")):
        # From an address each, so that none is refused for asking too often.
        source = (f"127.0.1.{number + 1}", 0)
        with socket.create_connection(("127.0.0.1", nginx.port), 10, source_address=source) as connection:
            head = f"{method} {path} HTTP/1.1\r\nHost: {PUBLIC_NAME}\r\nContent-Length: 2\r\nConnection: close\r\n"
            connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n{}")
            assert int(connection.makefile("rb").readline().split()[1]) == 401, method


def test_the_drawing_pages_own_way_to_the_gateway_is_closed(client: httpx.Client) -> None:
    """`python -m ui` passes on what is below /api; nginx must have seen that first."""
    assert client.get("/api%2Fmodels").status_code == 200  # judged, and passed on, as /api/models
    for path, status in (
        ("/%2561pi/models", 404),
        ("/.%2e/api/models", 400),
        ("/x/%2e%2e/runs%2F%2E%2E/api", 308),
    ):
        assert client.get(path).status_code == status, path


@pytest.mark.parametrize(
    "path", ["/mlflow/", "/mlflow/ajax-api/2.0/mlflow/runs/get", "/grafana/", "/grafana/api/x"]
)
def test_mlflow_and_grafana_need_the_password_even_to_look(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, code_of(answer)) == (401, "password_needed")
    assert client.get(path, auth=(ADMIN, "a guess")).status_code == 401
    assert client.get(path, auth=("somebody", PASSWORD)).status_code == 401


def test_signing_in_leads_to_the_run_viewer(client: httpx.Client, admin: httpx.Client) -> None:
    assert client.get("/sign-in").status_code == 401
    answer = admin.get("/sign-in")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/")


def test_with_the_password_a_run_is_asked_for(admin: httpx.Client) -> None:
    answer = admin.post("/api/pipeline_runs", json={"model": "photos", "force": True}, headers=SAME_ORIGIN)
    assert answer.status_code == 202
    assert admin.post(f"/api/pipeline_runs/{answer.json()['run_id']}/cancel").status_code == 202


# --- Host and Origin


@pytest.mark.parametrize("host", ["elsewhere.test", "emend.test.evil.test", "127.0.0.2", "emend_test"])
def test_another_name_is_answered_nothing(nginx: Nginx, host: str) -> None:
    for path in ("/", "/api/models", "/mlflow/"):
        answer = httpx.get(f"{nginx.url}{path}", headers={"Host": host}, auth=(ADMIN, PASSWORD))
        assert (answer.status_code, code_of(answer)) == (421, "misdirected")


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, False),
        (SAME_ORIGIN, False),
        ({"Origin": f"{PUBLIC_URL}:8080"}, False),
        ({"Origin": "HTTPS://Emend.Test"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Origin": "https://evil.test"}, True),
        ({"Origin": "null"}, True),
        ({"Origin": f"{PUBLIC_URL}.evil.test"}, True),
        ({"Origin": f"https://evil.test/{PUBLIC_NAME}"}, True),
        ({"Origin": f"https://{PUBLIC_NAME}@evil.test"}, True),
        ({"Origin": f"https://evil.test {PUBLIC_NAME}"}, True),
        ({"Origin": "http://127.0.0.1"}, True),  # ours too, but not what was asked for
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": PUBLIC_URL, "Sec-Fetch-Site": "cross-site"}, True),
    ],
)
def test_a_page_of_another_site_changes_nothing_even_with_the_password(
    admin: httpx.Client, headers: dict[str, str], refused: bool
) -> None:
    for path in ("/api/invocations/", "/mlflow/ajax-api/2.0/mlflow/experiments/search"):
        answer = admin.post(path, json=DRAFT if "api/inv" in path else {"max_results": 1}, headers=headers)
        assert answer.status_code == (403 if refused else 200), answer.text
        if refused:
            assert code_of(answer) == "forbidden"
    assert admin.get("/api/models", headers=headers).status_code == 200


# --- Limits


@pytest.fixture
def small(whole: Whole, tmp_path: Path) -> Iterator[Nginx]:
    """One prediction and one correction a second, two more at once."""
    limits = {
        f"EMEND_{what}_{limit}": value
        for what in ("PREDICTIONS", "CORRECTIONS")
        for limit, value in (("PER_SECOND", "1"), ("BURST", "2"))
    }
    with whole.nginx(tmp_path / "small", **limits) as made:
        yield made


def test_too_many_are_told_so_predictions_and_corrections_apart(small: Nginx) -> None:
    with small.client() as client:
        answers = [client.post("/api/invocations/", json=DRAFT) for _ in range(8)]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert len(refused) >= 4
        for answer in refused:
            assert (answer.status_code, code_of(answer)) == (429, "too_many_requests")
            assert int(answer.headers["retry-after"]) >= 1
        # Every spelling counts together, and uploads with them.
        assert client.post("/runs/api/predict").status_code == 429
        # What people say is not held up by what they ask, nor is looking by either.
        said = {"image": DRAWING, "label": "cat"}
        statuses = [client.post("/api/save-image/", json=said).status_code for _ in range(8)]
        assert statuses[0] in (200, 201)
        assert statuses.count(429) >= 4
        assert all(client.get("/api/models").status_code == 200 for _ in range(30))


def test_drawing_hits_no_limit(whole: Whole, tmp_path: Path) -> None:
    """Ten drafts a second, without leave for bursts."""
    with whole.nginx(tmp_path / "drawing", EMEND_PREDICTIONS_BURST="1") as nginx, nginx.client() as client:
        for _ in range(20):
            asked = time.monotonic()
            assert client.post("/api/invocations/", json=DRAFT).status_code == 200
            time.sleep(max(0.0, asked + 0.1 - time.monotonic()))  # the pace is what is tested


def test_uploading_a_folder_is_slowed_down_and_not_refused(whole: Whole, tmp_path: Path) -> None:
    """As the page uploads: three at a time, each when the one before is answered."""
    limits = {"EMEND_PREDICTIONS_PER_SECOND": "10", "EMEND_PREDICTIONS_BURST": "60"}
    with whole.nginx(tmp_path / "folder", **limits) as nginx, nginx.client() as client:
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(client.post, "/api/invocations/", json=DRAFT) for _ in range(80)]
        assert {each.result().status_code for each in asked} == {200}


def test_guessing_the_password_is_slow(whole: Whole, tmp_path: Path) -> None:
    with whole.nginx(tmp_path / "guessed") as nginx, nginx.client() as client:
        guesses = [
            client.post("/api/pipeline_runs", auth=(ADMIN, f"guess {n}")).status_code for n in range(60)
        ]
    assert set(guesses) == {401, 429}
    assert guesses.count(429) > 10


def test_one_address_holds_only_so_many_connections(whole: Whole, tmp_path: Path) -> None:
    with whole.nginx(tmp_path / "few", EMEND_CONNECTIONS_PER_ADDRESS="2") as nginx, nginx.client() as client:
        with client.stream("GET", "/runs/events"), client.stream("GET", "/runs/events"):
            answer = client.get("/api/models")
            assert (answer.status_code, code_of(answer)) == (429, "too_many_requests")
        wait_until(lambda: client.get("/api/models").status_code == 200)


def test_too_large_a_body_is_refused(client: httpx.Client) -> None:
    big = b"x" * (settings().max_body_bytes + 1)
    for content in (big, iter([big[:6_000_000], big[6_000_000:]])):
        answer = client.post("/api/invocations/", content=content)
        assert (answer.status_code, code_of(answer)) == (413, "too_large")
        assert str(settings().max_body_bytes) in answer.json()["error"]["message"]


def test_the_largest_body_that_the_gateway_takes_reaches_it(client: httpx.Client) -> None:
    answer = client.post("/api/invocations/", content=b"x" * settings().max_body_bytes)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST /api/invocations/ HTTP/1.1\r\nHost: emend.test\r\n",
        b"POST /api/invocations/ HTTP/1.1\r\nHost: emend.test\r\nContent-Length: 100\r\n\r\n{",
    ],
)
def test_a_client_that_is_slow_is_cut_off(whole: Whole, tmp_path: Path, begun: bytes) -> None:
    with whole.nginx(tmp_path / "slow", EMEND_SLOW_CLIENT_SECONDS="1") as nginx:
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", nginx.port), timeout=10) as connection:
            connection.sendall(begun)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(4096) == b""
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("begun", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: emend.test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no name at all
        (b"GET / HTTP/1.1\r\nHost: emend.test\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: emend.test\r\n\r\n", 414),
        (b"GET / HTTP/1.0\r\n\r\n", 421),
    ],
)
def test_what_cannot_be_read_is_refused_in_the_one_error_shape(
    nginx: Nginx, begun: bytes, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=10) as connection:
        connection.sendall(begun)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == status
        assert set(json.loads(answer.read())["error"]) == {"code", "message"}


# --- Streams


def started_run(whole: Whole) -> int:
    with whole.stand.database.engine() as engine, Session(engine) as db:
        run = Run(model=DOODLES, trigger=Trigger.manual, requested_by="test", status=RunStatus.running)
        db.add(run)
        db.flush()
        now = datetime.now(UTC)
        db.add(Stage(run_id=run.id, name="train", position=4, status=StageStatus.running, started_at=now))
        db.commit()
        return run.id


@pytest.mark.parametrize("path", ["/runs/events", "/runs/runs/events"])
def test_events_arrive_as_they_happen(client: httpx.Client, admin: httpx.Client, path: str) -> None:
    asked = time.monotonic()
    with client.stream("GET", f"{path}?after=0", headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in answer.headers
        lines = answer.iter_lines()
        next(line for line in lines if line.startswith("data:"))
        assert time.monotonic() - asked < 1
        run = admin.post("/api/pipeline_runs", json={"model": "photos", "force": True}).json()["run_id"]
        changed = time.monotonic()
        next(line for line in lines if line.startswith("data:") and json.loads(line[5:])["run_id"] == run)
        assert time.monotonic() - changed < 1
    assert admin.post(f"/api/pipeline_runs/{run}/cancel").status_code == 202


def test_a_followed_log_arrives_as_it_is_written(client: httpx.Client, whole: Whole) -> None:
    run = started_run(whole)
    log = whole.stand.data_dir / "logs" / "runs" / str(run) / "train.log"
    log.parent.mkdir(parents=True)
    log.write_text("epoch 1\n")
    path = f"/runs/pipeline_runs/{run}/stages/train/log?follow=true"
    with client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
        parts = answer.iter_text()
        assert next(parts) == "epoch 1\n"
        with log.open("a") as more:
            more.write("epoch 2\n")
        assert next(parts) == "epoch 2\n"


# --- What is added


def test_texts_are_packed_and_streams_and_small_answers_are_not(client: httpx.Client, nginx: Nginx) -> None:
    def encoding(path: str) -> str | None:
        with client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
            packed = b"".join(answer.iter_raw())
            found: str | None = answer.headers.get("content-encoding")
            if found == "gzip":
                assert gzip.decompress(packed)
                assert "Accept-Encoding" in answer.headers["vary"]
            return found

    assert encoding("/docs") == "gzip"
    assert encoding("/api/openapi.json") == "gzip"
    assert encoding("/healthz") is None
    if built("draw").joinpath("index.html").is_file():
        assert encoding("/") == "gzip"


def test_every_answer_has_the_headers_that_keep_browsers_safe_once(
    client: httpx.Client, admin: httpx.Client
) -> None:
    answers = [
        client.get(path) for path in ("/", "/runs/", "/api/models", "/docs", "/healthz", "/.env", "/mlflow/")
    ]
    answers += [admin.get("/mlflow/"), admin.get("/grafana/"), client.post("/api/pipeline_runs")]
    for answer in answers:
        for name in ("x-content-type-options", "x-frame-options", "referrer-policy", "x-request-id"):
            assert len(answer.headers.get_list(name)) == 1, (answer.url, name)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "geolocation=()" in answer.headers["permissions-policy"]


def test_nobody_is_told_which_server_this_is(client: httpx.Client, nginx: Nginx) -> None:
    answers = [client.get("/"), client.get("/.env"), httpx.get(nginx.url, headers={"Host": "x"})]
    assert {answer.headers["server"] for answer in answers} == {"nginx"}


def test_a_request_id_is_passed_on_and_logged_everywhere_without_the_query(
    client: httpx.Client, whole: Whole, nginx: Nginx
) -> None:
    answer = client.get("/api/predictions?limit=7", headers={"X-Request-Id": "trace-me.1"})
    assert answer.headers["x-request-id"] == "trace-me.1"
    made = client.get("/api/models", headers={"X-Request-Id": 'no"sane id'}).headers["x-request-id"]
    assert re.fullmatch(r"\d+-\d+\.\d{3}-\d+-\d+", made)
    for request_id, path in (("trace-me.1", "/api/predictions"), (made, "/api/models")):
        wait_until(lambda wanted=request_id: wanted in nginx.log.read_text())  # type: ignore[misc]
        [line] = [each for each in nginx.logged() if each["request_id"] == request_id]
        assert (line["path"], line["status"], line["method"]) == (path, 200, "GET")
        assert "limit" not in json.dumps(line)
        logs = [service.log.read_text() for service in (whole.stand.gateway, whole.second_gateway)]
        assert any(request_id in log for log in logs)


# --- Several of each, and when one dies


def test_both_gateways_and_both_viewers_are_asked(client: httpx.Client, whole: Whole, nginx: Nginx) -> None:
    def asked(address: str) -> set[str]:
        return {line["behind"].split(",")[0] for line in nginx.logged() if line["path"] == address}

    for path, name in (("/api/models", "GATEWAYS"), ("/runs/overview", "VIEWERS")):
        port = whole.behind[f"EMEND_{name}"].rpartition(":")[2]
        for _ in range(30):
            assert client.get(path).status_code == 200
        wait_until(lambda: asked(path) >= {f"127.0.0.1:{port}", f"127.0.0.2:{port}"})  # noqa: B023


def test_predictions_go_on_without_an_error_when_a_gateway_is_killed_and_comes_back(
    nginx: Nginx, whole: Whole
) -> None:
    statuses: list[int] = []
    done = threading.Event()

    def ask() -> None:
        with nginx.client() as client:
            while not done.is_set():
                statuses.append(client.post("/api/invocations/", json=DRAFT).status_code)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        wait_until(lambda: len(statuses) > 50)
        whole.second_gateway.kill()
        without = len(statuses)
        wait_until(lambda: len(statuses) > without + 100, 30)
        whole.second_gateway.start()
        again = len(statuses)
        wait_until(lambda: len(statuses) > again + 50, 30)
    finally:
        done.set()
        for asker in askers:
            asker.join()
    assert set(statuses) == {200}


def test_a_correction_is_never_sent_twice_a_prediction_to_the_next_and_looking_too(
    whole: Whole, tmp_path: Path
) -> None:
    """Two gateways that take a request and die over it."""
    asked: list[str] = []

    class Dies(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            asked.append(self.rfile.readline(65537).decode().split()[1])
            self.close_connection = True

    port = free_port()
    whole.names.addresses["dying.test"] = ["127.0.0.1", "127.0.0.2"]
    with (
        listening(Dies, "127.0.0.1", port),
        listening(Dies, "127.0.0.2", port),
        whole.nginx(tmp_path / "dying", EMEND_GATEWAYS=f"dying.test:{port}") as nginx,
        nginx.client(admin=True) as client,
    ):
        for method, path, times in (
            ("POST", "/save-image/", 1),
            ("POST", "/corrections/1/withdraw", 1),
            ("POST", "/pipeline_runs", 1),
            ("POST", "/invocations/", 2),
            ("POST", "/predict", 2),
            ("GET", "/models", 2),
        ):
            asked.clear()
            answer = client.request(method, f"/api{path}", content=b"{}" if method == "POST" else None)
            assert (answer.status_code, code_of(answer)) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) > 0
            assert asked == [path] * times


def test_a_correction_goes_to_the_gateway_that_is_there(whole: Whole, tmp_path: Path) -> None:
    """Nobody listens at the other address: nothing was sent, so the next one may be asked."""
    port = whole.behind["EMEND_GATEWAYS"].rpartition(":")[2]
    whole.names.addresses["half.test"] = ["127.0.0.1", "127.0.0.9"]
    with (
        whole.nginx(tmp_path / "half", EMEND_GATEWAYS=f"half.test:{port}") as nginx,
        nginx.client() as client,
    ):
        for number in range(8):
            said = {"image": DRAWING, "label": "cat"}
            headers = {"Idempotency-Key": f"half {number}".replace(" ", "-"), "Emend-Actor": "half"}
            assert client.post("/api/save-image/", json=said, headers=headers).status_code in (200, 201)


def test_a_service_that_is_started_anew_at_another_address_is_found(whole: Whole, tmp_path: Path) -> None:
    port = whole.behind["EMEND_GATEWAYS"].rpartition(":")[2]
    whole.names.addresses["moving.test"] = ["127.0.0.9"]
    with (
        whole.nginx(tmp_path / "moving", EMEND_GATEWAYS=f"moving.test:{port}") as nginx,
        nginx.client() as client,
    ):
        assert client.get("/api/models").status_code == 503
        whole.names.addresses["moving.test"] = ["127.0.0.2"]
        wait_until(lambda: client.get("/api/models").status_code == 200, 15)


def test_nginx_starts_before_those_behind_it_and_without_some(whole: Whole, tmp_path: Path) -> None:
    with (
        whole.nginx(tmp_path / "alone", EMEND_GRAFANA="nowhere.test:3000") as nginx,
        nginx.client(admin=True) as client,
    ):
        answer = client.get("/grafana/")
        assert (answer.status_code, code_of(answer)) == (503, "unavailable")
        assert client.get("/api/models").status_code == 200


# --- TLS


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Always a new file: nginx 1.27.2 and newer reads one again only if it is another, or of another second."""
    folder.mkdir(exist_ok=True)
    certificate, key = folder / "certificate", folder / "key"
    new_certificate, new_key = folder / "certificate.new", folder / "key.new"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    command += ["-keyout", str(new_key), "-out", str(new_certificate)]
    subprocess.run(command, check=True, capture_output=True)
    new_certificate.replace(certificate)
    new_key.replace(key)
    return certificate, key


def test_the_tls_override_is_modern_and_takes_a_new_certificate(whole: Whole, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path / "tls", PUBLIC_NAME)
    front = Nginx(
        tmp_path / "front",
        whole.names,
        whole.behind
        | {
            "EMEND_TLS_CERTIFICATE": str(certificate),
            "EMEND_TLS_KEY": str(key),
            "EMEND_PUBLIC_URL": f"https://{PUBLIC_NAME}",
        },
        tls=True,
    )

    def connected(name: str = PUBLIC_NAME, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(certificate))
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = newest
        return context.wrap_socket(
            socket.create_connection(("127.0.0.1", front.tls_port), timeout=10), server_hostname=name
        )

    def asked(host: str, path: str, method: str = "GET", body: bytes = b"") -> tuple[bytes, bytes]:
        with connected() as connection:
            head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            headers, _, content = connection.makefile("rb").read().partition(b"\r\n\r\n")
            return headers, content

    with front, front.client() as plain:
        moved = plain.get("/runs/?a=b")
        assert (moved.status_code, moved.headers["location"]) == (308, f"https://{PUBLIC_NAME}/runs/?a=b")
        headers, _ = asked(PUBLIC_NAME, "/api/models")
        assert headers.startswith(b"HTTP/1.1 200")
        assert b"Strict-Transport-Security: max-age=31536000" in headers
        said = json.dumps({"image": DRAWING, "label": "cat"}).encode()
        headers, _ = asked(PUBLIC_NAME, "/api/save-image/", "POST", said)
        cookie = next(
            line for line in headers.lower().splitlines() if line.startswith(b"set-cookie: emend_actor")
        )
        assert b"secure" in cookie
        assert b"httponly" in cookie
        headers, content = asked("elsewhere.test", "/api/models")
        assert headers.startswith(b"HTTP/1.1 421")
        assert json.loads(content)["error"]["code"] == "misdirected"

        with connected() as connection:
            assert connection.version() == "TLSv1.3"
            first = connection.getpeercert(binary_form=True)
        with connected(newest=ssl.TLSVersion.TLSv1_2) as connection:
            assert "GCM" in str(connection.cipher())
        with pytest.raises((ssl.SSLError, ConnectionError)), pytest.warns(DeprecationWarning, match="TLS"):
            connected(newest=ssl.TLSVersion.TLSv1_1)
        with pytest.raises(ssl.SSLError):
            connected(name="elsewhere.test")

        make_certificate(tmp_path / "tls", PUBLIC_NAME)
        front.reload()

        def is_new() -> bool:
            try:
                with connected() as connection:
                    return connection.getpeercert(binary_form=True) != first
            except ssl.SSLCertVerificationError:  # still the old one
                return False

        wait_until(is_new, 30)


# --- The templates and what they are filled with


def test_every_variable_of_the_templates_has_a_default_and_the_other_way_round() -> None:
    templates = [*(SOURCE / "templates").glob("*.template"), SOURCE / "tls.conf.template"]
    used = set(re.findall(r"\$\{(\w+)\}", "".join(path.read_text() for path in templates)))
    assert used - {"EMEND_NGINX_NAMES"} == set(defaults())
    assert names_form() in ("kept", "asked")


def test_the_defaults_are_those_of_the_services() -> None:
    assert int(defaults()["EMEND_MAX_BODY_BYTES"]) == Settings().max_body_bytes
    ports = {
        name: int(defaults()[f"EMEND_{name}"].rpartition(":")[2]) for name in ("GATEWAYS", "VIEWERS", "PAGES")
    }
    here = Settings.model_fields
    assert ports["GATEWAYS"] == here["api_port"].default
    assert ports["VIEWERS"] == here["viewer_port"].default
    assert ports["PAGES"] == here["ui_port"].default


def test_each_name_may_stand_in_env() -> None:
    settings_names = {str(f.validation_alias.choices[0]) for f in Settings.model_fields.values()}  # type: ignore[union-attr]
    assert set(defaults()) <= settings_names | set(COMPOSE_NAMES)


# --- Links to objects


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("s3")) as started:
        started.client().create_bucket(Bucket=BUCKET)
        started.client().put_object(Bucket=BUCKET, Key="test/a report+more.json", Body=b"found")
        yield started


def test_a_signed_link_gives_its_object_and_no_other(
    whole: Whole, objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in objects.environment.items():
        monkeypatch.setenv(name, value)
    port = objects.url.rpartition(":")[2]
    with (
        whole.nginx(tmp_path, EMEND_OBJECTS=f"objects.test:{port}", EMEND_BUCKET=BUCKET) as nginx,
        nginx.client() as client,
    ):
        store = Objects(objects.environment["STORAGE_URL"], endpoint=objects.url, links_url=PUBLIC_URL)
        link = store.link("a report+more.json", "report.json", 60).removeprefix(PUBLIC_URL)
        given = client.get(link)
        assert (given.status_code, given.content) == (200, b"found")
        assert given.headers["content-disposition"] == 'attachment; filename="report.json"'
        part = client.get(link, headers={"Range": "bytes=1-2"})
        assert (part.status_code, part.content) == (206, b"ou")

        path, _, query = link.partition("?")
        unsigned = (client.get(path), client.get(f"/{BUCKET}/?list-type=2"))
        assert [each.status_code for each in unsigned] == [404, 404]
        assert client.get(f"/{BUCKET}/?list-type=2&{query}").status_code == 403
        assert client.get(f"{path}.other?{query}").status_code == 403
        assert client.put(link, content=b"mine").status_code == 401
        with nginx.client(admin=True) as admin:
            assert admin.put(link, content=b"mine").status_code == 403
    assert store.get("a report+more.json") == b"found"


def test_links_begin_with_the_public_address_where_nobody_outside_reaches_the_store() -> None:
    def links_url(**given: Any) -> str | None:
        return Settings(_env_file=None, **given).storage_links_url

    inside, public = "http://minio:9000", "https://emend.example"
    amazon = "https://s3.eu-central-1.amazonaws.com"
    assert links_url(AWS_ENDPOINT_URL=inside, EMEND_PUBLIC_URL=public) == public
    assert links_url(AWS_ENDPOINT_URL=amazon, EMEND_PUBLIC_URL=public) == amazon
    assert links_url(AWS_ENDPOINT_URL=inside) == inside
    assert links_url(AWS_ENDPOINT_URL=inside, STORAGE_PUBLIC_URL=amazon) == amazon
    assert links_url(EMEND_PUBLIC_URL=public) is None
