"""The gateway in front of the real `mlflow models serve`, beside one in front of our server: equal answers.

The database knows the model but none of its versions, so the categories' names come from the registry.
"""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine

from core.registry import Registry
from tests.support import tiny_model
from tests.support.gateway import ROOT, GatewayProcess, add_model, environment
from tests.support.mlflow_server import MlflowServer, mlflow_environment
from tests.support.model_server import ModelServer, StockServer


@pytest.mark.timeout(300)
def test_the_stock_server_gives_equal_answers_without_a_version(database_url: str, tmp_path: Path) -> None:
    engine = create_engine(database_url)
    add_model(engine, versions=())
    engine.dispose()
    images = [base64.b64encode(pixels.tobytes()).decode() for pixels in tiny_model.images(20)]
    with MlflowServer(tmp_path / "mlflow") as mlflow:
        subprocess.run(
            [sys.executable, "-m", "tests.support.tiny_model", mlflow.url, "doodles", "good:1"],
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
    for own, theirs in zip(*answers, strict=True):
        assert (own["version"], theirs["version"]) == (1, None)
        assert list(own["probabilities"]) == list(theirs["probabilities"]) == list(tiny_model.CATEGORIES)
        np.testing.assert_allclose(
            list(own["probabilities"].values()), list(theirs["probabilities"].values()), rtol=0, atol=1e-5
        )
        assert own["label"] == theirs["label"]
