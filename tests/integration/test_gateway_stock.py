"""The gateway in front of the real `mlflow models serve`, beside one in front of our server: equal answers.

The database knows the model but none of its versions, so the categories' names come from the registry.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import create_engine

from core.registry import Registry
from tests.support import tiny_model
from tests.support.gateway import ROOT, GatewayProcess, add_model, environment
from tests.support.mlflow_server import MlflowServer, mlflow_environment
from tests.support.model_server import ModelServer, StockServer

KINDS = ["good:1", "good:2", "nan:3"]


@pytest.mark.timeout(300)
def test_the_stock_server_gives_equal_answers_without_a_version(database_url: str, tmp_path: Path) -> None:
    engine = create_engine(database_url)
    add_model(engine, versions=())
    engine.dispose()
    images = [base64.b64encode(pixels.tobytes()).decode() for pixels in tiny_model.images(20)]
    with MlflowServer(tmp_path / "mlflow") as mlflow:
        subprocess.run(
            [sys.executable, "-m", "tests.support.tiny_model", mlflow.url, "doodles", *KINDS],
            cwd=ROOT,
            env=mlflow_environment(),
            check=True,
            capture_output=True,
        )
        with Registry(mlflow.url) as registry:
            registry.set_alias("doodles", "champion", 1)
        with (
            ModelServer(tmp_path / "ours", mlflow.url, "doodles") as ours,
            StockServer(tmp_path / "stock", mlflow.url, "models:/doodles@champion") as stock,
        ):
            ours.wait_ready()
            answers = []
            for name, server in (("ours", ours), ("stock", stock)):
                env = environment(database_url, tmp_path / name, server.url, MLFLOW_TRACKING_URI=mlflow.url)
                with GatewayProcess(tmp_path / name, env) as gateway, gateway.client() as client:
                    response = client.post("/invocations/", json={"images": images})
                    assert response.status_code == 200, response.text
                    answers.append(response.json()["predictions"])
                    assert client.get("/readyz").status_code == 200
                    replay = check_replays if name == "ours" else check_no_replays
                    replay(client, images)
    for own, theirs in zip(*answers, strict=True):
        assert (own["version"], theirs["version"]) == (1, None)
        assert list(own["probabilities"]) == list(theirs["probabilities"]) == list(tiny_model.CATEGORIES)
        np.testing.assert_allclose(
            list(own["probabilities"].values()), list(theirs["probabilities"].values()), rtol=0, atol=1e-5
        )
        assert own["label"] == theirs["label"]


def check_replays(client: httpx.Client, images: list[str]) -> None:
    """Of version 2 while version 1 is live."""
    expected = tiny_model.answer(tiny_model.graph(2), tiny_model.images(20))
    body = {"images": images, "version": 2}
    with ThreadPoolExecutor(6) as threads:
        replies = list(threads.map(lambda _: client.post("/invocations/", json=body), range(6)))
    for reply in replies:
        assert reply.status_code == 200, reply.text
        answers = reply.json()["predictions"]
        assert {a["version"] for a in answers} == {2}
        assert {a["prediction_id"] for a in answers} == {None}
        figures = [list(a["probabilities"].values()) for a in answers]
        np.testing.assert_allclose(figures, expected, atol=1e-5)
    one = client.post("/invocations/", json={"image": images[0], "version": 2}).json()
    assert one == answers[0]
    live = client.post("/invocations/", json={"image": images[0]}).json()
    assert live["version"] == 1
    missing = client.post("/invocations/", json={"image": images[0], "version": 99})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert missing.json()["error"]["message"] == "there is no version 99 of 'doodles' in the registry"
    bad = client.post("/invocations/", json={"image": images[0], "version": 3})
    assert (bad.status_code, bad.json()["error"]["code"]) == (409, "conflict")
    assert "not finite" in bad.json()["error"]["message"]
    with httpx.Client(base_url=client.base_url, timeout=10) as reader:
        deadline = time.monotonic() + 10
        while not (written := reader.get("/predictions").json()["items"]):
            assert time.monotonic() < deadline
        assert {item["version"] for item in written} == {1}  # replays are not history


def check_no_replays(client: httpx.Client, images: list[str]) -> None:
    refused = client.post("/invocations/", json={"image": images[0], "version": 1})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    assert "answers with one version only" in refused.json()["error"]["message"]
