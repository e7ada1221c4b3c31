"""A whole deployment for tests: `emend up` with every real process, on free ports and a data folder of its own.

The home is made beforehand with a parameters file that trains briefly; everything else is the product's default.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from numpy.typing import NDArray

from core.settings import embedded_database_url
from pipeline.workspace import PRESETS, create_home
from tests.support.processes import free_port

START_SECONDS = 240.0
RUN_SECONDS = 240.0


class Stack:
    """A running deployment. `api` is an HTTP client of its gateway."""

    def __init__(
        self,
        folder: Path,
        *,
        starter_drawings: int = 200,
        environment: Mapping[str, str] | None = None,
        **train: Any,
    ) -> None:
        self.data_dir = folder / "data"
        self.log = folder / "up.log"
        names = ("API", "SERVING", "MLFLOW", "VIEWER", "UI", "ORCHESTRATOR")
        self.ports = {name: free_port() for name in names}
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("EMEND_", "DATABASE_URL", "MLFLOW_"))
        }
        self.environment = inherited | {f"EMEND_{name}_PORT": str(port) for name, port in self.ports.items()}
        self.environment |= {
            "EMEND_DATA_DIR": str(self.data_dir),
            "EMEND_STARTER_DRAWINGS": str(starter_drawings),
            "LOG_FORMAT": "json",
            **(environment or {}),
        }
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{self.ports['API']}", timeout=30)
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._make_home(train)

    @property
    def home(self) -> Path:
        return self.data_dir / "doodles"

    @property
    def database_url(self) -> str:
        return embedded_database_url(self.data_dir)

    @property
    def supervisor_pid(self) -> int | None:
        return None if self._supervisor is None else self._supervisor.pid

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def start(self) -> None:
        """Returns when `emend up` says that it is up."""
        self.begin()
        self.wait_until(lambda: b"Emend is up" in self.log.read_bytes(), START_SECONDS)

    def begin(self) -> None:
        with self.log.open("wb") as output:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", "up"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        if self._supervisor is not None and self._supervisor.poll() is None:
            self._supervisor.send_signal(signal.SIGTERM)
            self._supervisor.wait(60)

    def kill_supervisor(self) -> None:
        assert self._supervisor is not None
        self._supervisor.kill()
        self._supervisor.wait()

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self._supervisor is not None
            running = self._supervisor.poll() is None
            if not running or time.monotonic() > deadline:
                raise AssertionError(
                    f"still waiting; `emend up` (running: {running}) said:\n{self.log.read_text()}"
                )
            time.sleep(0.1)  # between two looks, not instead of one

    def emend(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command line, against this deployment."""
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"emend {' '.join(arguments)} exited {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done

    def edit_params(self, **sections: dict[str, Any]) -> None:
        """Those keys of the home's params.yaml; the next run commits them."""
        path = self.home / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for section, values in sections.items():
            params[section] = {**params[section], **values}
        path.write_text(yaml.safe_dump(params))

    def predict(self, pixels: NDArray[np.uint8], **fields: Any) -> dict[str, Any]:
        answer = self.api.post("/invocations/", json={"image": encode(pixels), **fields})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def correct(
        self, pixels: NDArray[np.uint8], label: str, headers: dict[str, str] | None = None, **fields: Any
    ) -> dict[str, Any]:
        body = {"image": encode(pixels), "label": label, **fields}
        answer = self.api.post("/save-image/", json=body, headers=headers or {})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def receipt(self, correction_id: str) -> dict[str, Any]:
        answer = self.api.get(f"/corrections/{correction_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def start_run(self, *, force: bool = False) -> int:
        answer = self.api.post("/pipeline_runs", json={"model": "doodles", "force": force})
        assert answer.status_code == 202, answer.text
        run_id: int = answer.json()["run_id"]
        return run_id

    def run(self, run_id: int) -> dict[str, Any]:
        answer = self.api.get(f"/pipeline_runs/{run_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def finish(self, run_id: int) -> dict[str, Any]:
        """Waits for the run's end."""
        self.wait_until(lambda: self.run(run_id)["status"] not in ("queued", "running"), RUN_SECONDS)
        return self.run(run_id)

    def wait_for_stage(self, run_id: int, stage: str, seconds: float = RUN_SECONDS) -> None:
        """Until the stage is running."""
        self.wait_until(
            lambda: any(s["name"] == stage and s["status"] == "running" for s in self.run(run_id)["stages"]),
            seconds,
        )

    def _make_home(self, train: dict[str, Any]) -> None:
        self.data_dir.mkdir(parents=True)
        params = yaml.safe_load(PRESETS["doodles"].read_text())
        brief = {"widths": [8, 16, 32], "epochs": 2, "warm_epochs": 2, "min_steps": 20}
        params["train"] = {**params["train"], **brief, **train}
        create_home(self.home, yaml.safe_dump(params))


@contextmanager
def running_stack(shelf: Path | None = None, **options: Any) -> Iterator[Stack]:
    """Started, and stopped with everything it started.

    shelf: a folder of data folders after their first start, which takes half a minute: the first who needs one with
    these options makes it, in any process of the tests, the others copy it. Not with an `environment`.
    """
    with _short_folder() as folder:
        stack = Stack(folder, **options)
        if shelf is not None:
            shutil.rmtree(stack.data_dir)
            _copy(_first_start(shelf, options), stack.data_dir)
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()
            stack.api.close()


def _first_start(shelf: Path, options: dict[str, Any]) -> Path:
    """The data folder of a deployment that has been up once."""
    shelf.mkdir(exist_ok=True)
    made = shelf / hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]
    with (shelf / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            with _short_folder() as folder:
                stack = Stack(folder, **options)
                try:
                    stack.start()
                finally:
                    stack.stop()
                    stack.api.close()
                _copy(stack.data_dir, made.with_suffix(".new"))
            made.with_suffix(".new").rename(made)
    return made


def _copy(data_dir: Path, to: Path) -> None:
    """With owners: PostgreSQL does not run as root, and neither are its files root's."""
    subprocess.run(["cp", "--archive", data_dir, to], check=True)


@contextmanager
def _short_folder() -> Iterator[Path]:
    """PostgreSQL's socket lies below it, and a socket's path may not be long."""
    folder = Path(tempfile.mkdtemp(prefix="emend-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def encode(pixels: NDArray[np.uint8]) -> str:
    return base64.b64encode(pixels.tobytes()).decode()


def drawings(folder: Path, category: str, start: int, count: int) -> NDArray[np.uint8]:
    """Real drawings, (count, 28, 28)."""
    rows = np.load(folder / f"{category}.npy", mmap_mode="r")[start : start + count]
    return np.asarray(rows, np.uint8).reshape(-1, 28, 28)
