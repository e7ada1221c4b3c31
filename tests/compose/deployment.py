"""docker-compose.yml on the engine of `engine.py`: a clone of its own, a project of its own, real containers.

deployment = Deployment(folder)
deployment.build()
deployment.start_for_the_first_time()
deployment.api.get("/api/models")          through nginx, the only way in
deployment.kill("postgres")                its process, as a crash would; `docker kill` would keep it from coming back
"""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx

from tests.compose import engine
from tests.compose.engine import run
from tests.support.processes import free_port

ROOT = Path(__file__).parents[2]
OURS = ("ui", "gateway", "serving", "viewer", "mlflow", "training")  # images, as deploy/Dockerfile's targets
STARTER_DRAWINGS = 120  # of each category: enough to be better than chance
BUILD_SECONDS = 3600.0
START_SECONDS = 900.0


@dataclass(frozen=True)
class Container:
    id: str
    service: str
    name: str
    process_id: int
    restarts: int
    state: str
    health: str
    exit_code: int
    read_only: bool
    published: tuple[str, ...]


class Deployment:
    """`api` is an HTTP client of its nginx; `admin` is one with the password. figures: lines of what was measured."""

    latest: ClassVar[Deployment | None] = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.figures: list[str] = []
        run("git", "clone", "--quiet", ROOT, folder)
        run("make", "--no-print-directory", "secrets", folder=folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        with (folder / ".env").open("a") as file:
            file.write(
                f"COMPOSE_PROJECT_NAME=emend-test\nCOMPOSE_FILE=docker-compose.yml:tests/compose/override.yml\n"
                f"EMEND_PORT={self.port}\nEMEND_PUBLIC_URL={self.url}\nEMEND_STARTER_DRAWINGS={STARTER_DRAWINGS}\n"
            )
        lines = (folder / ".env").read_text().splitlines()
        self.secrets = {
            name: value.strip("'") for name, _, value in (line.partition("=") for line in lines) if value
        }
        password = (self.secrets["EMEND_ADMIN_USER"], self.secrets["EMEND_ADMIN_PASSWORD"])
        self.api = httpx.Client(base_url=self.url, timeout=60)
        self.admin = httpx.Client(base_url=self.url, timeout=60, auth=password)
        Deployment.latest = self

    # --- Starting and stopping

    def compose(self, *arguments: str, timeout_seconds: float = START_SECONDS) -> str:
        return run("docker", "compose", *arguments, folder=self.folder, timeout_seconds=timeout_seconds)

    def build(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans")  # what a killed test left
        started = time.monotonic()
        self.compose("--progress", "quiet", "build", timeout_seconds=BUILD_SECONDS)
        self.figures.append(f"build: {time.monotonic() - started:.0f} s with what the build cache had")
        for name in OURS:
            self.figures.append(f"image {name}: {self.image(name)['Size'] / 1e6:.0f} MB")

    def start_for_the_first_time(self) -> None:
        started = time.monotonic()
        self.said = run(
            "make", "--no-print-directory", "compose-up", folder=self.folder, timeout_seconds=START_SECONDS
        )
        self.figures.append(f"`make compose-up`, first start: {time.monotonic() - started:.0f} s")
        self.wait_until(lambda: self.predict(BLANK).status_code == 200, START_SECONDS, "a first prediction")
        self.figures.append(f"first prediction: {time.monotonic() - started:.0f} s after `make compose-up`")

    def start_again(self) -> None:
        started = time.monotonic()
        self.compose("up", "--detach", "--wait")
        self.wait_until(lambda: self.predict(BLANK).status_code == 200, START_SECONDS, "a prediction")
        self.figures.append(f"`docker compose up` again, to a prediction: {time.monotonic() - started:.0f} s")

    def remove(self) -> None:
        self.api.close()
        self.admin.close()
        self.compose("down", "--volumes", "--remove-orphans")
        Deployment.latest = None

    # --- Looking

    def image(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run("docker", "image", "inspect", f"emend/{name}:dev"))[0]
        return found

    def containers(self, service: str | None = None) -> list[Container]:
        """Those that run or ran, of one service or of all; by name."""
        ids = self.compose("ps", "--all", "--quiet", *([service] if service else [])).split()
        found = [_container(each) for each in json.loads(run("docker", "inspect", *ids))] if ids else []
        return sorted(found, key=lambda container: container.name)

    def exec(self, container: Container, *command: str) -> str:
        return run("docker", "exec", container.id, *command)

    def logs(self) -> str:
        """The end of every container's log."""
        try:
            return self.compose("logs", "--no-color", "--tail", "15")
        except engine.EngineError as error:
            return str(error)

    def memory(self) -> dict[str, float]:
        """Container's name to its megabytes, as `docker stats` says."""
        lines = run("docker", "stats", "--no-stream", "--format", "{{json .}}").splitlines()
        used = {line["Name"]: line["MemUsage"].split("/")[0].strip() for line in map(json.loads, lines)}
        units = {"KiB": 1024 / 1e6, "MiB": 1024**2 / 1e6, "GiB": 1024**3 / 1e6}
        return {name: float(text[:-3]) * units[text[-3:]] for name, text in used.items()}

    def query(self, promql: str) -> list[dict[str, Any]]:
        """What Prometheus answers, asked from inside."""
        url = f"http://127.0.0.1:9090/api/v1/query?{httpx.QueryParams(query=promql)}"
        answer = json.loads(self.compose("exec", "-T", "prometheus", "wget", "-q", "-O", "-", url))
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not _holds(condition):
            assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}\n{self.logs()}"
            time.sleep(0.2)  # between two looks, not instead of one

    # --- Asking, through nginx

    def predict(self, image: bytes) -> httpx.Response:
        return self.api.post("/api/invocations/", json={"image": encode(image)})

    def correct(self, image: bytes, label: str) -> str:
        """The correction's id."""
        answer = self.api.post(
            "/api/save-image/",
            json={"image": encode(image), "label": label},
            headers={"Emend-Actor": "somebody"},
        )
        assert answer.status_code == 201, answer.text
        found: str = answer.json()["correction_id"]
        return found

    def receipt(self, correction_id: str) -> dict[str, Any]:
        return self._json(f"/api/corrections/{correction_id}")

    def start_run(self) -> int:
        answer = self.admin.post("/api/pipeline_runs", json={"model": "doodles", "force": True})
        assert answer.status_code == 202, answer.text
        run_id: int = answer.json()["run_id"]
        return run_id

    def run(self, run_id: int) -> dict[str, Any]:
        return self._json(f"/api/pipeline_runs/{run_id}")

    def wait_for_run(self, run_id: int, seconds: float = 600) -> dict[str, Any]:
        """Once it has ended."""
        self.wait_until(
            lambda: self.run(run_id)["status"] not in ("queued", "running"),
            seconds,
            f"the end of run {run_id}",
        )
        return self.run(run_id)

    def _json(self, path: str) -> dict[str, Any]:
        answer = self.api.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        found: dict[str, Any] = answer.json()
        return found

    # --- Bad days

    def kill(self, service: str) -> Container:
        """Ends the first process of its first container by SIGKILL; what it was."""
        container = self.containers(service)[0]
        os.kill(container.process_id, signal.SIGKILL)
        return container

    @contextmanager
    def paused(self, service: str) -> Iterator[None]:
        """It accepts connections, and answers nothing."""
        self.compose("pause", service)
        try:
            yield
        finally:
            self.compose("unpause", service)

    def wait_for_restart(self, killed: Container, seconds: float = 180) -> None:
        def is_back() -> bool:
            now = next(each for each in self.containers(killed.service) if each.id == killed.id)
            return now.restarts > killed.restarts and now.health == "healthy"

        self.wait_until(is_back, seconds, f"{killed.name} is healthy again")

    @contextmanager
    def somebody_asking(self) -> Iterator[list[int]]:
        """Predictions, five a second, meanwhile; the statuses of their answers, 0 for none."""
        statuses: list[int] = []
        enough = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=self.url, timeout=30) as client:
                while not enough.wait(0.2):
                    try:
                        answer = client.post(
                            "/api/invocations/", json={"image": encode(BLANK), "draft": True}
                        )
                        statuses.append(answer.status_code)
                    except httpx.HTTPError:
                        statuses.append(0)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield statuses
        finally:
            enough.set()
            thread.join()


BLANK = bytes(784)


def encode(image: bytes) -> str:
    return base64.b64encode(image).decode()


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except (httpx.HTTPError, AssertionError):
        return False


def _container(found: dict[str, Any]) -> Container:
    state = found["State"]
    ports = found["NetworkSettings"]["Ports"] or {}
    return Container(
        id=found["Id"],
        service=found["Config"]["Labels"]["com.docker.compose.service"],
        name=found["Name"].strip("/"),
        process_id=state["Pid"],
        restarts=found["RestartCount"],
        state=state["Status"],
        health=state.get("Health", {}).get("Status", ""),
        exit_code=state["ExitCode"],
        read_only=found["HostConfig"]["ReadonlyRootfs"],
        published=tuple(
            f"{binding['HostIp']}:{binding['HostPort']}" for each in ports.values() for binding in each or []
        ),
    )
