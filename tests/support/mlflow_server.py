"""A real MLflow tracking server and registry in a folder of its own.

    with MlflowServer(tmp_path) as mlflow:
        Registry(mlflow.url)

Takes some eight seconds to start: share one among the tests of a module (`scope="module"` or "session").
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from tests.support.processes import free_port, frozen, stop_group, wait_for_http

START_TIMEOUT_SECONDS = 90


class MlflowServer:
    """`mlflow server` on SQLite, one worker, no job runners, artifacts behind its proxy. options: more of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self._options = options
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Again on the same port and data after a stop."""
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / "mlflow.log"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.directory / 'mlflow.db'}"]
        command += ["--serve-artifacts", "--artifacts-destination", str(self.directory / "artifacts")]
        command += self._options
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=mlflow_environment(),
                start_new_session=True,
            )
        wait_for_http(f"{self.url}/health", self._process, log, START_TIMEOUT_SECONDS)

    def frozen(self) -> AbstractContextManager[None]:
        """It accepts and never answers, while the block lasts."""
        assert self._process is not None
        return frozen(self._process)

    def cpu_seconds(self) -> float:
        """Of all its processes since they began."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        times = [each.cpu_times() for each in (server, *server.children(recursive=True))]
        return sum(each.user + each.system for each in times)

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        """As it tells them; empty without that experiment."""
        found = self._get("experiments/get-by-name", experiment_name=experiment)
        if found is None:
            return []
        body = {"experiment_ids": [found["experiment"]["experiment_id"]]}
        answer = httpx.post(f"{self.url}/api/2.0/mlflow/runs/search", json=body, timeout=30)
        runs: list[dict[str, Any]] = answer.raise_for_status().json().get("runs", [])
        return runs

    def points(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """Step and value of each point of a curve, in the order of their times."""
        told = self._get("metrics/get-history", run_id=run_id, metric_key=key)
        assert told is not None
        points = sorted(told.get("metrics", []), key=lambda point: int(point["timestamp"]))
        return [(int(point.get("step", 0)), float(point["value"])) for point in points]

    def _get(self, endpoint: str, **params: str) -> dict[str, Any] | None:
        answer = httpx.get(f"{self.url}/api/2.0/mlflow/{endpoint}", params=params, timeout=30)
        if answer.status_code == 404:
            return None
        told: dict[str, Any] = answer.raise_for_status().json()
        return told

    def stop(self) -> None:
        if self._process is not None:
            stop_group(self._process)
            self._process = None


def mlflow_environment() -> dict[str, str]:
    """For `mlflow` commands: nothing inherited that points elsewhere, no helpers, no telemetry."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return {
        **inherited,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
