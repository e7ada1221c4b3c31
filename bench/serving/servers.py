"""The servers, each a real process of its own, and how an image is asked of each and its answer read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import onnx

from tests.support.gateway import ROOT, add_model, cache_version, environment, params
from tests.support.processes import free_port, stop_group, wait_for_http

REQUIREMENTS = ROOT / "bench" / "serving" / "requirements.lock"
ENVIRONMENT = ROOT / "build" / "bench-serving"
OTHERS = "bench.serving.others"
LABELS = tuple(f"category {number}" for number in range(10))


@dataclass(frozen=True)
class Server:
    """url: where images are asked. body: of one image's base64. read: ten probabilities out of an answer."""

    name: str
    url: str
    body: Callable[[str], dict[str, object]]
    read: Callable[[Any], list[float]]
    groups: tuple[int, ...]  # of processes

    def freeze(self) -> None:
        """What nobody asks takes no time from who is asked."""
        for group in self.groups:
            os.killpg(group, signal.SIGSTOP)

    def go_on(self) -> None:
        for group in self.groups:
            os.killpg(group, signal.SIGCONT)


def make_environment() -> Path:
    """The others' own, in build/: its Python."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "installed.lock"
    if not stamp.exists() or stamp.read_text() != REQUIREMENTS.read_text():
        print(f"installing the other servers into {ENVIRONMENT}; once, some minutes", file=sys.stderr)
        uv = Path(sys.executable).with_name("uv")
        subprocess.run(
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, ENVIRONMENT], check=True
        )
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "-r", REQUIREMENTS], check=True)
        stamp.write_text(REQUIREMENTS.read_text())
    return python


@contextmanager
def other(name: str, weights: Path) -> Iterator[Server]:
    """One of OTHER_SERVERS, on its defaults with one worker."""
    python = make_environment()
    with tempfile.TemporaryDirectory(prefix="emend-bench-") as folder:
        port = free_port()
        log = Path(folder) / f"{name}.log"
        settings = {key: value for key, value in os.environ.items() if not key.startswith("EMEND_")}
        settings |= {
            "PYTHONPATH": str(ROOT),
            "BENCH_WEIGHTS": str(weights),
            "PATH": f"{python.parent}:{os.environ['PATH']}",  # some start others by name
            "BENTOML_DO_NOT_TRACK": "True",
        }
        made = OTHER_SERVERS[name](python, port, Path(folder), settings)
        with log.open("wb") as output:
            process = subprocess.Popen(
                made.command, cwd=folder, env=settings, stdout=output, stderr=output, start_new_session=True
            )
        try:
            wait_for_http(f"http://127.0.0.1:{port}{made.ready}", process, log, 120)
            address = f"http://127.0.0.1:{port}{made.path}"
            yield Server(name, address, made.body, made.read, (process.pid,))
        finally:
            os.killpg(process.pid, signal.SIGCONT)
            stop_group(process)


@dataclass(frozen=True)
class _Command:
    command: list[str]
    ready: str
    path: str
    body: Callable[[str], dict[str, object]]
    read: Callable[[Any], list[float]]


def _mlflow(python: Path, port: int, folder: Path, settings: Mapping[str, str]) -> _Command:
    model = str(folder / "model")
    subprocess.run(
        [python, "-m", f"{OTHERS}.mlflow_model", model], env=dict(settings), check=True, capture_output=True
    )
    scripts = str(python.parent)
    command = [f"{scripts}/mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    return _Command(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        "/ping",
        "/invocations",
        lambda text: {"inputs": [text]},
        lambda answer: list(answer["predictions"][0]),
    )


def _fastapi(python: Path, port: int, folder: Path, settings: Mapping[str, str]) -> _Command:
    del folder, settings
    command = [str(python), "-m", "uvicorn", f"{OTHERS}.plain_fastapi:app", "--port", str(port)]
    return _Command(
        [*command, "--no-access-log"],
        "/docs",
        "/predict",
        lambda text: {"image": text},
        lambda answer: list(answer["probabilities"]),
    )


def _litserve(python: Path, port: int, folder: Path, settings: Mapping[str, str]) -> _Command:
    del folder, settings
    return _Command(
        [str(python), "-m", f"{OTHERS}.litserve_batches", str(port)],
        "/health",
        "/predict",
        lambda text: {"image": text},
        lambda answer: list(answer["probabilities"]),
    )


def _bentoml(python: Path, port: int, folder: Path, settings: Mapping[str, str]) -> _Command:
    del folder, settings
    command = [
        str(python),
        "-m",
        "bentoml",
        "serve",
        f"{OTHERS}.bentoml_batches:Service",
        "--port",
        str(port),
    ]
    return _Command(
        command,
        "/readyz",
        "/predict",
        lambda text: {"images": [text]},
        lambda answer: list(answer[0]),
    )


OTHER_SERVERS = {"mlflow": _mlflow, "litserve": _litserve, "bentoml": _bentoml, "fastapi": _fastapi}


@contextmanager
def ours(graphs: Mapping[str, onnx.ModelProto]) -> Iterator[Server]:
    """Gateway, model server and database, by default; graphs: by model, the first of them the default one."""
    from bench.metrics import database

    ((default, graph),) = graphs.items()
    shape = tuple(side.dim_value for side in graph.graph.input[0].type.tensor_type.shape.dim[1:])
    with database() as (folder, database_url):
        from core.database import make_engine

        given = params("L" if len(shape) == 2 else "RGB", shape[0])
        add_model(make_engine(database_url), default, LABELS, given=given)
        cache_version(folder, 1, graph, name=default)
        settings = environment(database_url, folder, "", EMEND_DEFAULT_MODEL=default, LOG_LEVEL="info")
        ports = {"serving": free_port(), "api": free_port()}
        settings |= {
            "MODEL_SERVER_URLS": f"http://127.0.0.1:{ports['serving']}",
            "EMEND_SERVING_PORT": str(ports["serving"]),
            "EMEND_API_PORT": str(ports["api"]),
            "PYTHONPATH": str(ROOT),
        }
        processes = []
        try:
            for module, ready in (("serving", "/health"), ("api", "/readyz")):
                log = folder / f"{module}.log"
                with log.open("wb") as output:
                    processes.append(
                        subprocess.Popen(
                            [sys.executable, "-m", module],
                            cwd=folder,
                            env=settings,
                            stdout=output,
                            stderr=output,
                            start_new_session=True,
                        )
                    )
                wait_for_http(f"http://127.0.0.1:{ports[module]}{ready}", processes[-1], log, 60)
            yield Server(
                "ours",
                f"http://127.0.0.1:{ports['api']}/invocations/",
                lambda text: {"image": text},
                _in_order,
                tuple(process.pid for process in processes),
            )
        finally:
            for process in processes:
                os.killpg(process.pid, signal.SIGCONT)
                stop_group(process)


def _in_order(answer: dict[str, Any]) -> list[float]:
    return [answer["probabilities"][label] for label in LABELS]


def answers(server: Server, texts: list[str]) -> list[list[float]]:
    with httpx.Client(timeout=60, trust_env=False) as client:
        return [
            server.read(client.post(server.url, json=server.body(text)).raise_for_status().json())
            for text in texts
        ]
