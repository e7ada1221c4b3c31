"""The model server and the registry client against a real MLflow; the stock server on the same artifact.

About 40 seconds, most of it MLflow starting: one server, and versions logged once, for all tests here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

from core.registry import Metric, ModelNotFound, Registry, VersionNotFound
from tests.support import waiting
from tests.support.mlflow_server import MlflowServer, mlflow_environment
from tests.support.model_server import ROOT, ModelServer, StockServer
from tests.support.tiny_model import answer, graph, images

wait_until = partial(waiting.wait_until, seconds=20)

MODEL = "doodles"
GOOD, BETTER, NOT_A_NUMBER, LIAR, ANOTHER = 1, 2, 3, 4, 5
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        kinds = ["good:1", "good:2", "nan:3", "liar:4", "good:5"]
        subprocess.run(
            [sys.executable, "-m", "tests.support.tiny_model", server.url, MODEL, *kinds],
            cwd=ROOT,
            env=mlflow_environment(),
            check=True,
            capture_output=True,
        )
        yield server


@pytest.fixture
def registry(mlflow: MlflowServer) -> Iterator[Registry]:
    with Registry(mlflow.url) as opened:
        opened.set_alias(MODEL, "champion", GOOD)
        yield opened


@pytest.fixture
def server(mlflow: MlflowServer, registry: Registry, tmp_path: Path) -> Iterator[ModelServer]:
    """Our server with version 1 live."""
    with ModelServer(tmp_path, mlflow.url, MODEL) as started:
        started.wait_ready()
        yield started


# The registry client


def test_versions_aliases_and_tags_round_trip(registry: Registry) -> None:
    registry.ensure_model(MODEL)
    assert registry.models() == [MODEL]
    assert [version.version for version in registry.versions(MODEL)] == [1, 2, 3, 4, 5]
    registry.set_alias(MODEL, "previous", BETTER)
    registry.set_tags(MODEL, BETTER, {"dataset_version": "12", "verdict": "Promoted: 92.4 %"})
    found = registry.version_by_alias(MODEL, "previous")
    assert found is not None
    assert (found.version, found.aliases) == (BETTER, ("previous",))
    assert found.tags == {"dataset_version": "12", "verdict": "Promoted: 92.4 %"}
    assert registry.aliased("previous") == {MODEL: BETTER}
    registry.delete_alias(MODEL, "previous")
    registry.delete_alias(MODEL, "previous")
    assert registry.version_by_alias(MODEL, "previous") is None


def test_what_is_not_there_is_named(registry: Registry) -> None:
    assert registry.version_by_alias("nothing", "champion") is None
    assert registry.versions("nothing") == []
    with pytest.raises(VersionNotFound):
        registry.version(MODEL, 99)
    with pytest.raises(VersionNotFound):
        registry.set_alias(MODEL, "champion", 99)
    with pytest.raises(VersionNotFound):
        registry.set_tags(MODEL, 99, {"a": "b"})
    with pytest.raises(ModelNotFound):
        registry.delete_alias("nothing", "champion")


def test_run_is_recorded(registry: Registry, mlflow: MlflowServer) -> None:
    experiment = registry.ensure_experiment("training")
    assert registry.ensure_experiment("training") == experiment
    run_id = registry.create_run(experiment, "run-12", {"trigger": "manual"})
    registry.log_batch(
        run_id,
        metrics=[Metric("loss", 1 / step, step=step) for step in range(1, 1200)],
        params={"epochs": "3"},
        tags={"verdict": "Promoted"},
    )
    registry.log_batch(run_id, metrics=[Metric("recall", float("nan"))])
    registry.finish_run(run_id)
    got = httpx.get(f"{mlflow.url}/api/2.0/mlflow/runs/get", params={"run_id": run_id}).json()["run"]
    assert (got["info"]["run_name"], got["info"]["status"]) == ("run-12", "FINISHED")
    assert {metric["key"]: metric["step"] for metric in got["data"]["metrics"]}["loss"] == 1199
    assert {"key": "verdict", "value": "Promoted"} in got["data"]["tags"]


def test_download_has_mlflows_files_and_ours(registry: Registry, tmp_path: Path) -> None:
    registry.download(MODEL, GOOD, tmp_path / "1")
    names = {str(path.relative_to(tmp_path / "1")) for path in (tmp_path / "1").rglob("*")}
    ours = {f"extra_files/{name}.json" for name in ("categories", "input", "example_answer")}
    assert {"MLmodel", "model.onnx", "serving_input_example.json", "version.json", *ours} <= names
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


# The model server


def test_server_is_up_in_about_a_second(mlflow: MlflowServer, tmp_path: Path) -> None:
    started = time.monotonic()
    with ModelServer(tmp_path, mlflow.url, MODEL) as server:
        assert time.monotonic() - started < 8  # 1 s alone; a loaded machine of CI is given room
        loaded = Path(f"/proc/{server.pid}/maps")
        if loaded.exists():  # Linux
            assert "torch" not in loaded.read_text()


def test_champion_moves_without_a_failed_request(server: ModelServer, registry: Registry) -> None:
    pixels = images()
    expected = {str(version): answer(graph(version), pixels) for version in (GOOD, BETTER)}
    stop = threading.Event()
    seen: list[str] = []
    failures: list[str] = []

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=10) as client:
            while not stop.is_set():
                response = client.post("/invocations", json={"inputs": pixels.tolist()})
                version = response.headers.get("Emend-Version", "")
                if response.status_code != 200 or not np.allclose(
                    response.json()["predictions"]["probabilities"], expected[version], atol=1e-5
                ):
                    failures.append(response.text)
                seen.append(version)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    for version in (BETTER, GOOD, BETTER):
        registry.set_alias(MODEL, "champion", version)
        assert wait_until(lambda: seen[-1:] == [str(version)]) < 8  # noqa: B023  waited for in this round
    stop.set()
    for thread in asking:
        thread.join()
    assert failures == []
    assert set(seen) == {str(GOOD), str(BETTER)}


@pytest.mark.parametrize(
    ("bad", "reason"), [(NOT_A_NUMBER, "not finite"), (LIAR, "differently than recorded")]
)
def test_bad_version_never_answers(server: ModelServer, registry: Registry, bad: int, reason: str) -> None:
    registry.set_alias(MODEL, "champion", bad)
    wait_until(lambda: bool(server.state(MODEL)["rejected"]))
    assert reason in server.state(MODEL)["rejected"][str(bad)]
    assert server.state(MODEL)["version"] == GOOD
    response = httpx.post(f"{server.url}/invocations", json={"inputs": images().tolist()})
    assert (response.status_code, response.headers["Emend-Version"]) == (200, str(GOOD))
    registry.set_alias(MODEL, "champion", BETTER)  # and it does not stand in the way of the next
    wait_until(lambda: server.state(MODEL)["version"] == BETTER)


def test_versions_are_fetched_once_for_all_who_ask_and_the_one_on_trial_goes_last(
    mlflow: MlflowServer, registry: Registry, tmp_path: Path
) -> None:
    with ModelServer(tmp_path, mlflow.url, MODEL, most_bytes=1) as server:  # one at a time
        server.wait_ready()
        pixels = images()

        def ask(version: int, **headers: str) -> None:
            path = f"/models/{MODEL}/versions/{version}/invocations"
            response = httpx.post(server.url + path, json={"inputs": pixels.tolist()}, headers=headers)
            assert (response.status_code, response.headers["Emend-Version"]) == (200, str(version))
            got = response.json()["predictions"]["probabilities"]
            assert np.allclose(got, answer(graph(version), pixels), atol=1e-5)

        def fetched() -> list[int]:
            lines = [json.loads(line) for line in server.log.read_text().splitlines()]
            return [line["version"] for line in lines if line["event"] == "version_fetched"]

        with ThreadPoolExecutor(12) as threads:
            list(threads.map(ask, [BETTER] * 12))
        assert fetched() == [BETTER]
        ask(ANOTHER)
        ask(BETTER)
        assert fetched() == [BETTER, ANOTHER, BETTER]
        ask(BETTER, **{"Emend-Trial": "1"})
        ask(ANOTHER)
        ask(BETTER, **{"Emend-Trial": "1"})
        assert fetched() == [BETTER, ANOTHER, BETTER, ANOTHER]


def test_stock_server_serves_the_same_artifact_with_equal_answers(
    server: ModelServer, mlflow: MlflowServer, tmp_path: Path
) -> None:
    pixels = images(5, seed=9)
    rows = pixels.reshape(5, -1).tolist()
    bodies = [
        {"inputs": pixels.tolist()},
        {"inputs": {"pixels": pixels.tolist()}},
        {"instances": pixels.tolist()},
        {"instances": [{"pixels": image} for image in pixels.tolist()]},
        {"dataframe_split": {"columns": ["pixels"], "data": [[row] for row in rows]}},
        {"dataframe_records": [{"pixels": row} for row in rows]},
    ]
    refused = [
        b"{}",
        b"[1]",
        b"{",
        b'{"inputs": [[[NaN]]]}',
        b'{"inputs": [[1, 2], [3]]}',
        b'{"inputs": [[[256]]]}',
        b'{"inputs": {"ink": []}}',
        b'{"inputs": [], "instances": []}',
    ]
    with StockServer(tmp_path / "stock", mlflow.url, f"models:/{MODEL}@champion") as stock:
        for body in bodies:
            theirs, ours = (httpx.post(f"{url}/invocations", json=body) for url in (stock.url, server.url))
            assert (theirs.status_code, ours.status_code) == (200, 200)
            assert theirs.headers["content-type"] == ours.headers["content-type"]
            theirs_json, ours_json = theirs.json(), ours.json()
            assert theirs_json.keys() == ours_json.keys() == {"predictions"}
            assert np.allclose(
                theirs_json["predictions"]["probabilities"],
                ours_json["predictions"]["probabilities"],
                rtol=0,
                atol=1e-5,
            )
        for content in refused:
            theirs, ours = (
                httpx.post(f"{url}/invocations", content=content, headers=JSON)
                for url in (stock.url, server.url)
            )
            assert (theirs.status_code, ours.status_code) == (400, 400)
            assert {"error_code", "message"} <= theirs.json().keys() & ours.json().keys()
        for path in ("/ping", "/health"):
            theirs, ours = (httpx.get(f"{url}{path}") for url in (stock.url, server.url))
            assert (theirs.status_code, theirs.text) == (ours.status_code, ours.text) == (200, "\n")


def test_server_outlives_mlflow_and_restarts_without_it(
    mlflow: MlflowServer, registry: Registry, tmp_path: Path
) -> None:
    """Last in this file: MLflow is gone when it ends."""
    body = {"inputs": images().tolist()}
    registry.set_alias(MODEL, "champion", BETTER)
    with ModelServer(tmp_path, mlflow.url, MODEL) as server:
        wait_until(lambda: server.state(MODEL).get("version") == BETTER)
        mlflow.stop()
        wait_until(lambda: "emend_serving_registry_up 0.0" in httpx.get(f"{server.url}/metrics").text)
        before = httpx.post(f"{server.url}/invocations", json=body)
    with ModelServer(tmp_path, mlflow.url, MODEL) as server:
        server.wait_ready()
        after = httpx.post(f"{server.url}/invocations", json=body)
    assert before.content == after.content
    assert before.headers["Emend-Version"] == after.headers["Emend-Version"] == str(BETTER)
