"""`python -m serving` and `mlflow models serve` as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support.mlflow_server import mlflow_environment
from tests.support.processes import free_port, stop_group, wait_for_http

ROOT = Path(__file__).parents[2]
_KEEPING = "from serving import __main__, on_demand; on_demand.MOST_BYTES = %d; __main__.main()"


class ModelServer:
    """Our server, its cache in `directory`. It is up when entered; ready when a model answers.

    most_bytes: of other versions that it keeps, for tests whose versions are small.
    """

    def __init__(
        self, directory: Path, tracking_uri: str, default_model: str, most_bytes: int | None = None
    ) -> None:
        self._started_by = ["-m", "serving"] if most_bytes is None else ["-c", _KEEPING % most_bytes]
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = directory / "serving.log"
        self._directory = directory
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("EMEND_")},
            "PYTHONPATH": str(ROOT),
            "MLFLOW_TRACKING_URI": tracking_uri,
            "EMEND_DATA_DIR": str(directory),
            "EMEND_SERVING_PORT": self.url.rpartition(":")[2],
            "EMEND_DEFAULT_MODEL": default_model,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *self._started_by],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._directory,  # not the checkout: its .env is none of a test's business
                env=self._environment,
                start_new_session=True,
            )
        wait_for_http(f"{self.url}/version", self._process, self.log, 30)

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self.go_on()
        stop_group(self._process)

    def kill(self) -> None:
        """At once, as the kernel does when memory runs out."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def freeze(self) -> None:
        """It accepts connections and answers nothing."""
        os.killpg(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def wait_ready(self) -> None:
        assert self._process is not None
        wait_for_http(f"{self.url}/health", self._process, self.log, 30)

    def state(self, model: str) -> dict[str, Any]:
        state: dict[str, Any] = httpx.get(f"{self.url}/version").json()["models"].get(model, {})
        return state


class StockServer:
    """The real `mlflow models serve` for one model URI."""

    def __init__(self, directory: Path, tracking_uri: str, model_uri: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._directory = directory
        self._tracking_uri = tracking_uri
        self._model_uri = model_uri
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        log = self._directory / "stock.log"
        scripts = str(Path(sys.executable).parent)
        command = [f"{scripts}/mlflow", "models", "serve", "-m", self._model_uri, "--env-manager", "local"]
        command += ["--host", "127.0.0.1", "--port", self.url.rpartition(":")[2]]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env={
                    **mlflow_environment(),
                    "MLFLOW_TRACKING_URI": self._tracking_uri,
                    "PATH": f"{scripts}:{os.environ['PATH']}",  # it starts `uvicorn` by name
                },
                start_new_session=True,
            )
        wait_for_http(f"{self.url}/ping", self._process, log, 90)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        stop_group(self._process)
