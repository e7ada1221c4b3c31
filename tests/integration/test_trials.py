"""Shadows and canaries with real gateways, model servers and MLflow; two model servers of which one is lost."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import create_engine

import core.settings
from api.upstream import ANSWER_ELSEWHERE_SECONDS
from core.registry import Registry
from core.wake import announce
from tests.support import tiny_model, waiting
from tests.support.gateway import ROOT, GatewayProcess, add_model, environment
from tests.support.mlflow_server import MlflowServer, mlflow_environment
from tests.support.model_server import ModelServer

wait_until = partial(waiting.wait_until, seconds=15)

GOOD, BETTER, MOODY, NOT_A_NUMBER, SLOW = 1, 2, 3, 4, 5
KINDS = ["good:1", "good:2", "moody:1", "nan:4", "slow:1"]


@dataclass
class Deployment:
    client: httpx.Client
    registry: Registry
    servers: tuple[ModelServer, ModelServer]
    database_url: str

    def ask_singly(self, pixels: NDArray[np.uint8]) -> list[dict[str, Any]]:
        return [self.ask(pixels[place : place + 1])[0] for place in range(len(pixels))]

    def ask(self, pixels: NDArray[np.uint8]) -> list[dict[str, Any]]:
        texts = [base64.b64encode(each.tobytes()).decode() for each in pixels]
        answers = []
        for start in range(0, len(texts), 50):
            response = self.client.post("/invocations/", json={"images": texts[start : start + 50]})
            assert response.status_code == 200, response.text
            answers += response.json()["predictions"]
        return answers

    def start(self, kind: str, version: int, percent: int | None = None) -> httpx.Response:
        return self.client.post(f"/models/doodles/{kind}", json={"version": version, "percent": percent})

    def trial(self) -> dict[str, Any]:
        """The newest."""
        found: dict[str, Any] = self.client.get("/models/doodles/trials").json()["trials"][0]
        return found

    def ledger(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.get("/models/doodles/promotions").json()["promotions"]
        return found


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        subprocess.run(
            [sys.executable, "-m", "tests.support.tiny_model", server.url, "doodles", *KINDS],
            cwd=ROOT,
            env=mlflow_environment(),
            check=True,
            capture_output=True,
        )
        yield server


@pytest.fixture
def deployed(
    mlflow: MlflowServer, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    engine = create_engine(database_url)
    add_model(engine, versions=(BETTER, MOODY, NOT_A_NUMBER, SLOW, GOOD))
    engine.dispose()
    monkeypatch.setenv("DATABASE_URL", database_url)  # the model servers listen there
    with Registry(mlflow.url) as registry:
        registry.set_alias("doodles", "champion", GOOD)
        registry.set_alias("doodles", "previous", MOODY)
        with (
            ModelServer(tmp_path / "a", mlflow.url, "doodles") as first,
            ModelServer(tmp_path / "b", mlflow.url, "doodles") as second,
        ):
            first.wait_ready()
            second.wait_ready()
            env = environment(
                database_url,
                tmp_path / "gateway",
                f"{first.url},{second.url}",
                MLFLOW_TRACKING_URI=mlflow.url,
            )
            with GatewayProcess(tmp_path / "gateway", env) as gateway, gateway.client() as client:
                yield Deployment(client, registry, (first, second), database_url)


def test_a_shadow_is_asked_and_compared_and_nobody_sees_it(deployed: Deployment) -> None:
    pixels = tiny_model.images(50)  # of one request, so that all of them are asked about or none
    started = deployed.start("shadow", BETTER)
    assert started.status_code == 200, started.text
    told = started.json()
    assert (told["kind"], told["champion"], told["percent"]) == ("shadow", GOOD, 100)
    counted = 0

    def asked() -> bool:
        nonlocal counted
        answers = deployed.ask(pixels)
        assert {answer["version"] for answer in answers} == {GOOD}
        time.sleep(1.5)
        counted = int(deployed.trial()["images"])
        return counted > 0

    wait_until(asked)  # the gateway hears of it a moment later
    labels = [tiny_model.answer(tiny_model.graph(seed), pixels).argmax(1) for seed in (GOOD, BETTER)]
    assert deployed.trial()["agreement"] == pytest.approx(np.mean(labels[0] == labels[1]), abs=0.001)
    assert (deployed.trial()["errors"], deployed.trial()["champion_errors"]) == (0, 0)
    assert deployed.trial()["p95_ms"] > 0

    wrong = deployed.client.post("/models/doodles/rollback", json={"version": MOODY})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (409, "conflict")
    done = deployed.client.post(
        "/models/doodles/rollback", json={"reason": "seen enough", "version": BETTER}
    ).json()
    assert (done["ended_trial"], done["version"], done["replaced_version"]) == ("shadow", GOOD, BETTER)
    assert not done["promotion_paused"]
    assert (deployed.trial()["outcome"], deployed.trial()["ended_because"]) == ("ended", "seen enough")
    entry = deployed.ledger()[0]
    assert (entry["action"], entry["version"], entry["outcome"]) == ("shadow", BETTER, "reverted")
    again = deployed.client.post("/models/doodles/rollback", json={"version": BETTER})
    assert again.status_code == 409  # and the live version stays
    assert deployed.client.get("/models/doodles").json()["champion"]["version"] == GOOD


def test_a_canary_answers_its_share_always_the_same_images_until_it_is_promoted(deployed: Deployment) -> None:
    pixels = tiny_model.images(200)
    assert deployed.start("canary", BETTER, 30).status_code == 200
    wait_until(lambda: {answer["version"] for answer in deployed.ask_singly(pixels[:40])} == {GOOD, BETTER})
    first, second = deployed.ask_singly(pixels), deployed.ask_singly(pixels)
    versions = [answer["version"] for answer in first]
    assert versions == [answer["version"] for answer in second]
    assert 0.15 < versions.count(BETTER) / len(versions) < 0.45
    for answer, expected in zip(first, _expected(versions, pixels), strict=True):
        np.testing.assert_allclose(list(answer["probabilities"].values()), expected, atol=1e-5)
    for place in range(0, 200, 10):  # of one request all by the one that answers its first image
        assert {each["version"] for each in deployed.ask(pixels[place : place + 10])} == {versions[place]}
    refused = deployed.start("shadow", MOODY, 10)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert "is a canary of doodles already" in refused.json()["error"]["message"]

    promoted = deployed.client.post("/models/doodles/promote", json={"version": BETTER, "reason": "good"})
    assert promoted.status_code == 200, promoted.text
    assert (deployed.trial()["outcome"], deployed.trial()["ended_at"] is not None) == ("promoted", True)
    assert {answer["version"] for answer in deployed.ask(pixels[:40])} == {BETTER}


def _expected(versions: list[int], pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    answers = {seed: tiny_model.answer(tiny_model.graph(seed), pixels) for seed in (GOOD, BETTER)}
    return [answers[version][place] for place, version in enumerate(versions)]


def test_a_canary_that_fails_is_answered_for_goes_back_by_itself_and_the_ledger_says_why(
    deployed: Deployment,
) -> None:
    bright = np.random.default_rng(1).integers(210, 256, (20, 28, 28), np.uint8)
    assert deployed.start("canary", MOODY, 100).status_code == 200

    def over() -> bool:
        assert {answer["version"] for answer in deployed.ask(bright)} == {GOOD}  # nobody notices
        return deployed.trial()["outcome"] is not None

    wait_until(over)
    assert deployed.trial()["outcome"] == "failed"
    entry = deployed.ledger()[0]
    assert (entry["action"], entry["actor"], entry["outcome"]) == ("canary", "gateway", "reverted")
    assert "answers failed" in entry["reason"]
    text = deployed.client.get("/metrics").text
    assert 'emend_canaries_failed_total{model="doodles"} 1.0' in text


def test_a_canary_is_not_blamed_for_model_servers_that_are_started_anew(deployed: Deployment) -> None:
    pixels = tiny_model.images(20)

    def versions() -> set[int]:
        return {answer["version"] for answer in deployed.ask(pixels)}

    assert deployed.start("canary", BETTER, 100).status_code == 200
    wait_until(lambda: versions() == {BETTER})
    for server in deployed.servers:
        server.kill()
        versions()  # each is answered
        server.start()
        server.wait_ready()
        for _ in range(5):
            versions()
    wait_until(lambda: versions() == {BETTER})
    before = deployed.trial()["images"]
    wait_until(lambda: versions() == {BETTER} and deployed.trial()["images"] > before)
    trial = deployed.trial()
    assert (trial["errors"], trial["champion_errors"], trial["outcome"]) == (0, 0, None)


def test_a_canary_that_is_slow_goes_back_by_itself_and_the_ledger_says_why(deployed: Deployment) -> None:
    pixels = tiny_model.images(50)
    assert deployed.start("canary", SLOW, 100).status_code == 200
    versions: set[int] = set()

    def asked() -> set[int]:
        found = {answer["version"] for answer in deployed.ask(pixels)}
        versions.update(found)
        return found

    wait_until(lambda: bool(asked()) and deployed.trial()["outcome"] is not None, seconds=60)
    wait_until(lambda: asked() == {GOOD})  # this gateway's catalogue hears of the end a moment later
    assert versions == {GOOD, SLOW}
    assert deployed.trial()["outcome"] == "failed"
    assert (deployed.trial()["errors"], deployed.trial()["agreement"]) == (0, 1.0)
    entry = deployed.ledger()[0]
    assert (entry["action"], entry["actor"], entry["outcome"]) == ("canary", "gateway", "reverted")
    assert re.fullmatch(
        r"19 of 20 of the latest \d+ answers came within \d+ ms, of version 1 within [\d.]+ ms: more than 2 times and "
        "10 ms more",
        entry["reason"],
    )


def test_the_live_version_counts_what_it_fails_while_a_shadow_is_asked(deployed: Deployment) -> None:
    deployed.registry.set_alias("doodles", "champion", MOODY)
    core.settings.settings.cache_clear()
    announce()
    wait_until(lambda: all(each.state("doodles")["version"] == MOODY for each in deployed.servers))
    assert deployed.start("shadow", BETTER, 100).status_code == 200
    body = {"image": base64.b64encode(np.full((28, 28), 255, np.uint8).tobytes()).decode()}

    def counted() -> bool:
        assert deployed.client.post("/invocations/", json=body).status_code == 502
        return bool(deployed.trial()["champion_errors"])

    wait_until(counted)
    found = deployed.trial()
    assert (found["errors"], found["champion_errors"], found["agreement"]) == (0, found["images"], None)


@pytest.mark.parametrize(
    ("version", "status", "message"),
    [
        (NOT_A_NUMBER, 409, "not finite"),
        (99, 404, "99"),
        (GOOD, 409, "live already"),
    ],
)
def test_a_version_that_cannot_be_asked_is_refused_before_anybody_meets_it(
    deployed: Deployment, version: int, status: int, message: str
) -> None:
    refused = deployed.start("canary", version, 50)
    assert refused.status_code == status, refused.text
    assert message in refused.json()["error"]["message"]
    assert deployed.client.get("/models/doodles/trials").json() == {"trials": []}


def test_one_bad_answer_does_not_cost_its_neighbours_theirs(deployed: Deployment) -> None:
    deployed.registry.set_alias("doodles", "champion", MOODY)
    core.settings.settings.cache_clear()
    announce()
    wait_until(lambda: all(each.state("doodles")["version"] == MOODY for each in deployed.servers))
    good = tiny_model.images(1)[0]
    bright = np.full((28, 28), 255, np.uint8)
    statuses: dict[str, set[int]] = {"good": set(), "bright": set()}

    def ask(name: str, pixels: NDArray[np.uint8]) -> None:
        body = {"image": base64.b64encode(pixels.tobytes()).decode()}
        for _ in range(30):
            statuses[name].add(deployed.client.post("/invocations/", json=body).status_code)

    threads = [
        threading.Thread(target=ask, args=given) for given in 4 * [("good", good)] + 4 * [("bright", bright)]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {"good": {200}, "bright": {502}}


def test_each_answer_of_one_request_is_of_one_version_while_versions_are_swapped(
    deployed: Deployment,
) -> None:
    bodies = [
        {"images": [base64.b64encode(each.tobytes()).decode() for each in tiny_model.images(count)]}
        for count in (64, 33, 40)  # which share calls with each other's
    ]
    mixed: list[list[int]] = []
    seen: set[int] = set()
    over = threading.Event()

    def ask(number: int) -> None:
        while not over.is_set():
            response = deployed.client.post("/invocations/", json=bodies[number % len(bodies)])
            if response.status_code == 503:  # as many as may be wait already
                continue
            versions = [answer["version"] for answer in response.json()["predictions"]]
            seen.update(versions)
            if len(set(versions)) != 1:
                mixed.append(versions)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for version in (BETTER, GOOD, BETTER, GOOD):
        deployed.registry.set_alias("doodles", "champion", version)
        core.settings.settings.cache_clear()
        announce()
        wait_until(
            lambda: all(each.state("doodles")["version"] == version for each in deployed.servers)  # noqa: B023
        )
    over.set()
    for thread in threads:
        thread.join()
    assert mixed == []
    assert seen == {GOOD, BETTER}


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_nobody_notices_that_one_of_two_model_servers_is_gone(deployed: Deployment, how: str) -> None:
    body = {"image": base64.b64encode(tiny_model.images(1)[0].tobytes()).decode(), "draft": True}
    answered: list[tuple[float, float]] = []  # when it was asked, and how long it took
    refused: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            started = time.monotonic()
            response = deployed.client.post("/invocations/", json=body)
            answered.append((started, time.monotonic() - started))
            if response.status_code != 200:
                refused.append(response.text)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answered) > 50)
    gone_at = time.monotonic()
    if how == "killed":
        deployed.servers[1].kill()
    else:
        deployed.servers[1].freeze()
    time.sleep(6)
    late = len(answered)
    time.sleep(1)
    over.set()
    for thread in threads:
        thread.join()
    if how == "frozen":
        deployed.servers[1].go_on()
    assert refused == []
    assert max(took for _, took in answered) < ANSWER_ELSEWHERE_SECONDS + 1.5
    # Later on nobody meets it: pings find out whether it is back.
    assert max(took for asked_at, took in answered if asked_at > gone_at + 2) < ANSWER_ELSEWHERE_SECONDS
    assert len(answered) - late > 20
