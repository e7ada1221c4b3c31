"""What a real gateway writes into its log and tells Sentry: ids on every line, and no secret."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import Engine, create_engine, pool, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

import core.database
from core import __version__
from core.database import Run, RunStatus, Trigger
from tests.support import tiny_model
from tests.support.gateway import ROOT, GatewayProcess, add_model, cache_version, environment
from tests.support.model_server import ModelServer
from tests.support.object_store import SECRET as STORE_SECRET
from tests.support.object_store import object_store
from tests.support.processes import free_port, stop_group
from tests.support.sentry_server import KEY as SENTRY_KEY
from tests.support.sentry_server import SentryServer, sentry

DATABASE_PASSWORD = "the-password-of-the-database"
ACTOR = "somebody-with-a-name"
COOKIE = "a-cookie-of-somebody"
AUTHORIZATION = "Bearer a-token-of-somebody"
SECRETS = (DATABASE_PASSWORD, STORE_SECRET, SENTRY_KEY, ACTOR, COOKIE, AUTHORIZATION.split()[1])


@dataclass(frozen=True)
class World:
    url: str
    log: Path
    engine: Engine
    sentry: SentryServer
    serving_log: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def of_request(self, response: httpx.Response) -> list[dict[str, Any]]:
        """Waits for the request's own line, which is written after the answer."""
        wanted = response.headers["x-request-id"]
        deadline = time.monotonic() + 10
        while True:
            found = [line for line in self.lines() if line.get("request_id") == wanted]
            if any(line["event"] == "request" for line in found):
                return found
            assert time.monotonic() < deadline, f"no line of {wanted}"
            time.sleep(0.02)  # between two looks


@contextmanager
def new_database(postgres: str) -> Iterator[str]:
    """Its address, with a password in it, which the server of the tests does not ask for."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server = create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=pool.NullPool)
    with server.connect() as connection:
        connection.execute(text(f"create database {name}"))
    url = make_url(postgres).set(database=name, password=DATABASE_PASSWORD, host="")
    yield url.render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"drop database {name} with (force)"))


def wait_for_store(gateway: GatewayProcess) -> None:
    """Until the gateway has what it hashes actors with."""
    deadline = time.monotonic() + 30
    with gateway.client(**{"Emend-Actor": ACTOR}) as client:
        while (answered := client.get("/corrections", params={"mine": True})).status_code != 200:
            assert time.monotonic() < deadline, answered.text
            time.sleep(0.05)  # between two looks


@pytest.fixture(scope="module")
def world(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A gateway at level debug, with a model server, an object store and a Sentry."""
    folder = tmp_path_factory.mktemp("logs")
    with new_database(postgres) as url, object_store(folder / "store") as store, sentry() as told:
        core.database.migrate(url)
        engine = create_engine(url)
        add_model(engine)
        cache_version(folder, 1, tiny_model.graph(1))
        store.client().create_bucket(Bucket="emend")
        with ModelServer(folder, "http://127.0.0.1:9", "doodles") as model_server:
            model_server.wait_ready()
            given = environment(
                url,
                folder / "data",
                model_server.url,
                LOG_LEVEL="debug",
                SENTRY_DSN=told.dsn,
                SENTRY_ENVIRONMENT="tests",
                **store.environment,
            )
            with GatewayProcess(folder, given) as gateway:
                wait_for_store(gateway)
                yield World(gateway.url, gateway.log, engine, told, model_server.log)
        engine.dispose()


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    headers = {"Emend-Actor": ACTOR, "Cookie": f"session={COOKIE}", "Authorization": AUTHORIZATION}
    with httpx.Client(base_url=world.url, headers=headers, timeout=30) as opened:
        yield opened


def image(seed: int) -> str:
    return base64.b64encode(tiny_model.images(1, seed=seed)[0].tobytes()).decode()


def test_every_line_of_every_kind_of_request_is_json_with_its_ids_and_without_secrets(
    world: World, client: httpx.Client
) -> None:
    sent = image(1)
    answered = client.post("/invocations/", json={"image": sent})
    prediction_id = answered.json()["prediction_id"]
    kept = client.post("/save-image/", json={"image": sent, "label": "cat", "prediction_id": prediction_id})
    correction_id = kept.json()["correction_id"]
    asked = client.post("/pipeline_runs", json={})
    run_id = asked.json()["run_id"]
    responses = {
        "prediction": (answered, 200),
        "several": (client.post("/invocations/", json={"images": [image(2), image(3)]}), 200),
        "upload": (client.post("/predict", files={"file": ("a.png", b"no picture")}), 400),
        "kept": (kept, 201),
        "no base64": (client.post("/save-image/", json={"image": f"{sent}?", "label": "cat"}), 400),
        "no json": (client.post("/save-image/", content=sent), 400),
        "too large": (client.post("/save-image/", content=b"x" * 10_000_001), 413),
        "no such model": (client.post("/invocations/", json={"image": sent, "model": "none"}), 404),
        "receipt": (client.get(f"/corrections/{correction_id}"), 200),
        "picture": (client.get(f"/corrections/{correction_id}/image"), 200),
        "no receipt": (client.get(f"/corrections/{uuid.uuid4()}"), 404),
        "not theirs": (
            client.post(f"/corrections/{correction_id}/withdraw", headers={"Emend-Actor": "other"}),
            403,
        ),
        "run": (asked, 202),
        "second run": (client.post("/pipeline_runs", json={}), 409),
        "shown run": (client.get(f"/pipeline_runs/{run_id}"), 200),
        "cancelled run": (client.post(f"/pipeline_runs/{run_id}/cancel"), 202),
        "rollback": (client.post("/models/doodles/rollback"), None),
        "history": (client.get("/predictions"), 200),
        "nothing there": (client.get(f"/{sent.replace('/', '_')}"), 404),
        "no link": (client.get("/models/doodles/versions/1/link"), None),
        "ready": (client.get("/readyz"), 200),
    }
    for name, (response, status) in responses.items():
        assert status in (None, response.status_code), f"{name}: {response.text}"
        if name != "ready":  # what watches is not logged
            assert world.of_request(response), name

    def ids(name: str, key: str) -> set[Any]:
        return {str(line.get(key)) for line in world.of_request(responses[name][0])}

    for name in ("kept", "receipt", "picture", "not theirs"):
        assert ids(name, "correction_id") == {correction_id}, name
    for name in ("shown run", "cancelled run"):
        assert ids(name, "run_id") == {str(run_id)}, name
    assert str(run_id) in ids("run", "run_id")
    for path in (world.log, world.serving_log):
        for line in (json.loads(each) for each in path.read_text().splitlines()):
            assert {"service", "level", "timestamp", "event"} <= line.keys(), line
        for secret in (*SECRETS, sent, sent[:100], image(2)[:100]):
            assert secret not in path.read_text(), f"{secret[:30]} in {path.name}"


def test_an_unexpected_error_reaches_sentry_with_what_helps_and_nothing_more(
    world: World, client: httpx.Client
) -> None:
    sent = image(5)
    with world.engine.begin() as db:
        db.execute(text("alter table corrections rename column label to label_gone"))
    try:
        failed = client.post(
            "/save-image/?",
            json={"image": sent, "label": "a label nobody else says"},
            headers={"User-Agent": "x"},
        )
    finally:
        with world.engine.begin() as db:
            db.execute(text("alter table corrections rename column label_gone to label"))
    assert failed.status_code == 500
    event = world.sentry.wait_for_event()
    request_id = failed.headers["x-request-id"]
    assert event["release"] == f"emend@{__version__}"
    assert event["environment"] == "tests"
    assert event["server_name"] == os.uname().nodename
    assert event["tags"] == {"service": "gateway", "request_id": request_id}
    assert event["level"] == "error"
    values = event["exception"]["values"]
    assert values[-1]["type"] == "ProgrammingError"
    frames = values[-1]["stacktrace"]["frames"]
    assert any(frame["module"] == "api.inbox" for frame in frames)
    assert not any("vars" in frame for value in values for frame in value["stacktrace"]["frames"])
    assert event["request"]["url"] == f"{world.url}/save-image/"
    assert event["request"].keys() == {"method", "url", "headers"}
    assert {name.lower() for name in event["request"]["headers"]} <= {
        "content-type",
        "content-length",
        "user-agent",
    }
    assert not event.keys() & {"user", "breadcrumbs", "extra"}
    told = "\n".join(world.sentry.bodies)
    for secret in (*SECRETS[:2], *SECRETS[3:], sent, sent[:100], "a label nobody else says"):
        assert secret not in told, secret[:30]
    client.get("/models")  # another request, in whose time a second report of the same error would come
    assert len(world.sentry.events) == 1
    errors = [line for line in world.of_request(failed) if line["level"] == "error"]
    assert any("ProgrammingError" in line["exception"] for line in errors)
    assert sent[:100] not in world.log.read_text()
    assert "a label nobody else says" not in world.log.read_text()


def test_a_sentry_that_does_not_answer_holds_no_request_up(postgres: str, tmp_path: Path) -> None:
    """One refuses, another takes the connection and says nothing: each error is answered as fast as without."""
    with (
        new_database(postgres) as url,
        closing(socket.create_server(("127.0.0.1", 0), backlog=200)) as silent,
    ):
        core.database.migrate(url)
        engine = create_engine(url)
        add_model(engine)
        with engine.begin() as db:
            db.execute(text("alter table corrections rename column label to label_gone"))
        engine.dispose()
        medians = {}
        for name, port in (("none", None), ("refusing", free_port()), ("silent", silent.getsockname()[1])):
            dsn = {} if port is None else {"SENTRY_DSN": f"http://{SENTRY_KEY}@127.0.0.1:{port}/7"}
            given = environment(url, tmp_path / name / "data", "http://127.0.0.1:9", **dsn)
            with GatewayProcess(tmp_path / name, given) as gateway, gateway.client() as client:
                seconds = []
                for number in range(15):
                    started = time.perf_counter()
                    failed = client.post("/save-image/", json={"image": image(number), "label": "cat"})
                    seconds.append(time.perf_counter() - started)
                    assert failed.status_code == 500
                medians[name] = float(np.median(seconds))
            events = {json.loads(line)["event"] for line in gateway.log.read_text().splitlines()}
            assert not [event for event in events if "Retrying" in event]  # nor is the log filled with it
        print({name: f"{1000 * median:.1f} ms" for name, median in medians.items()})
        # To wait for Sentry would cost seconds; a busy machine costs a fraction of one.
        assert medians["refusing"] < medians["none"] + 0.25
        assert medians["silent"] < medians["none"] + 0.25


def test_a_gateway_says_by_name_that_the_schema_is_another_emends(postgres: str, tmp_path: Path) -> None:

    with new_database(postgres) as url:
        engine = create_engine(url, poolclass=pool.NullPool)

        def refused() -> dict[str, Any]:
            given = environment(url, tmp_path, "http://127.0.0.1:9", PYTHONPATH=str(ROOT))
            ended = subprocess.run(
                [sys.executable, "-m", "api"],
                env=given,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert ended.returncode == 1
            line: dict[str, Any] = json.loads(ended.stderr.splitlines()[-1])
            assert line["event"] == "wrong schema"
            return line

        assert "no tables of Emend yet; `emend prepare` makes them" in refused()["reason"]
        core.database.migrate(url)
        for revision, said in (("9999", "9999, of a newer Emend"), ("0001", "0001, of an older Emend")):
            with engine.begin() as db:
                db.execute(text("update alembic_version set version_num = :to"), {"to": revision})
            assert said in refused()["reason"]


def test_a_gateway_whose_database_is_away_says_so_in_its_words_and_starts(tmp_path: Path) -> None:
    url = f"postgresql://emend:{DATABASE_PASSWORD}@127.0.0.1:{free_port()}/emend"
    with GatewayProcess(tmp_path, environment(url, tmp_path / "data", "http://127.0.0.1:9")) as gateway:
        lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    (said,) = [line for line in lines if line["event"] == "the database cannot be used"]
    assert "Connection refused" in said["reason"]
    assert DATABASE_PASSWORD not in gateway.log.read_text()


def test_every_line_about_a_run_has_its_id_and_its_requests(postgres: str, tmp_path: Path) -> None:
    """The run fails at once: its model has no home."""
    with new_database(postgres) as url:
        core.database.migrate(url)
        engine = create_engine(url, poolclass=pool.NullPool)
        add_model(engine)
        with Session(engine) as db:
            asked = Run(
                model="doodles",
                trigger=Trigger.manual,
                requested_by="test",
                status=RunStatus.queued,
                request_id="a-request",
            )
            db.add(asked)
            db.commit()
            run_id = asked.id
        log, port = tmp_path / "orchestrator.log", free_port()
        given = environment(
            url,
            tmp_path / "data",
            "http://127.0.0.1:9",
            EMEND_ORCHESTRATOR_PORT=str(port),
            PYTHONPATH=str(ROOT),
            LOG_LEVEL="debug",
        )
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.orchestrator"],
                env=given,
                cwd=tmp_path,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + 60
            while '"run ended"' not in log.read_text():
                assert time.monotonic() < deadline, log.read_text()
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)  # between two looks
        finally:
            stop_group(process)
        engine.dispose()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    about = [line for line in lines if line["event"].startswith(("run ", "MLflow shows"))]
    assert [line["event"] for line in about if line["event"] == "run ended"]
    assert {(line["run_id"], line["request_id"]) for line in about} == {(run_id, "a-request")}
    assert DATABASE_PASSWORD not in log.read_text()
