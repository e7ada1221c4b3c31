"""Changing the model under load: who notices? And what when one of two model servers is killed?

    python -m bench.swap [--swaps 100] [--requests 100000] [--connections 16]

Real MLflow, PostgreSQL, model server and gateway. Clients ask for one image after another over kept connections, and
check every answer: it must be what the version that it names answers. Meanwhile champion moves from version to version
as a promotion moves it (pipeline/champion.py); every tenth swap is to a version that answers no numbers, or otherwise
than it said at its registration, and must go back. Then one of two model servers is killed again and again. The last
line is JSON.

Results: docs/performance.md.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from bench.metrics import database
from core.registry import Registry
from core.settings import settings
from pipeline.champion import Aliases, NotServed, move_champion
from tests.support import tiny_model
from tests.support.gateway import ROOT, GatewayProcess, add_model, environment
from tests.support.mlflow_server import MlflowServer, mlflow_environment
from tests.support.model_server import ModelServer

MODEL = "swapped"
GOOD = (1, 2, 3, 4)
BAD = (5, 6)  # answers no numbers; answers otherwise than it said
KINDS = [*(f"good:{number}" for number in GOOD), "nan:5", "liar:6"]
IMAGES = 50
TOLERANCE = 1e-4
SETTLED_SECONDS = 1.0  # after the first answer of a new version a swap is over
BETWEEN_SWAPS_SECONDS = 1.0
CLIENTS = 2  # processes


@dataclass(frozen=True)
class Asked:
    """Rows of (seconds since 1970 at the answer, latency in seconds, version)."""

    answers: NDArray[np.float64]
    failures: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--requests", type=int, default=100_000, help="at least")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--kills", type=int, default=5)
    given = parser.parse_args()
    with deployment() as running:
        swapped = measure_swaps(running, given.swaps, given.requests, given.connections)
        killed = measure_kills(running, given.kills, given.connections)
    print(
        json.dumps(
            {
                "bench": "swap",
                "swaps": swapped,
                "kills": killed,
                "cores": os.cpu_count(),
                "load_average": round(os.getloadavg()[0], 1),
                "python": platform.python_version(),
            }
        )
    )


@dataclass(frozen=True)
class Running:
    folder: Path
    registry: Registry
    first: ModelServer
    second: ModelServer
    gateway: str


@contextmanager
def deployment() -> Iterator[Running]:
    with ExitStack() as stack:
        folder, database_url = stack.enter_context(database())
        mlflow = stack.enter_context(MlflowServer(folder / "mlflow"))
        from core.database import make_engine

        add_model(make_engine(database_url), MODEL, versions=(*GOOD, *BAD))
        subprocess.run(
            [sys.executable, "-m", "tests.support.tiny_model", mlflow.url, MODEL, *KINDS],
            cwd=ROOT,
            env=mlflow_environment(),
            check=True,
            capture_output=True,
        )
        os.environ |= {"DATABASE_URL": database_url, "MLFLOW_TRACKING_URI": mlflow.url}
        settings.cache_clear()
        registry = stack.enter_context(Registry(mlflow.url))
        registry.set_alias(MODEL, "champion", GOOD[0])
        servers = [
            stack.enter_context(ModelServer(folder / name, mlflow.url, MODEL)) for name in ("first", "second")
        ]
        for server in servers:
            server.wait_ready()
        urls = ",".join(server.url for server in servers)
        given = environment(database_url, folder, urls, EMEND_DEFAULT_MODEL=MODEL)
        gateway = stack.enter_context(GatewayProcess(folder / "gateway", given))
        yield Running(folder, registry, servers[0], servers[1], gateway.url)


def measure_swaps(running: Running, swaps: int, requests: int, connections: int) -> dict[str, object]:
    moved: list[tuple[float, int]] = []
    back = 0
    with load(running, connections) as asked:
        time.sleep(2 * BETWEEN_SWAPS_SECONDS)
        live = GOOD[0]
        for number in range(1, swaps + 1):
            to = BAD[number // 10 % 2] if number % 10 == 0 else GOOD[number % len(GOOD)]
            to = to if to != live else GOOD[(GOOD.index(live) + 1) % len(GOOD)]
            moved.append((time.time(), to))
            try:
                move_champion(
                    running.registry,
                    MODEL,
                    Aliases(to, live),
                    back_to=Aliases(live, None),
                    server_urls=(running.first.url, running.second.url),
                    timeout_seconds=30,
                )
                live = to
            except NotServed:
                back += 1
            time.sleep(BETWEEN_SWAPS_SECONDS)
        while asked.count() < requests:
            time.sleep(0.5)
    found = asked.collect()
    times, latencies, versions = found.answers.T
    until_new = [
        float(answered.min() - at)
        for at, to in moved
        if to in GOOD and len(answered := times[(versions == to) & (times > at)])
    ]
    swapping = np.zeros(len(times), bool)
    for at, _ in moved:
        swapping |= (times > at) & (times < at + SETTLED_SECONDS)
    steady, within = np.percentile(latencies[~swapping], 99), np.percentile(latencies[swapping], 99)
    return {
        "swaps": swaps,
        "went_back": back,
        "requests": len(times),
        "failed": len(found.failures),
        "failures": sorted(set(found.failures))[:5],
        "answered_by_a_bad_version": int(np.isin(versions, BAD).sum()),
        "steady_p99_ms": round(1000 * float(steady), 1),
        "swapping_p99_ms": round(1000 * float(within), 1),
        "p99_ratio": round(float(within / steady), 2),
        "to_first_answer_p50_seconds": round(float(np.percentile(until_new, 50)), 3),
        "to_first_answer_p95_seconds": round(float(np.percentile(until_new, 95)), 3),
    }


def measure_kills(running: Running, kills: int, connections: int) -> dict[str, object]:
    with load(running, connections) as asked:
        for _ in range(kills):
            time.sleep(2)
            running.second.kill()
            time.sleep(3)
            running.second.start()
            running.second.wait_ready()
    found = asked.collect()
    return {
        "kills": kills,
        "requests": len(found.answers),
        "failed": len(found.failures),
        "failures": sorted(set(found.failures))[:5],
        "p99_ms": round(1000 * float(np.percentile(found.answers[:, 1], 99)), 1),
    }


class Load:
    """Clients in processes of their own."""

    def __init__(self, running: Running, connections: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.Event()
        self._counts = [self._context.Value("q", 0) for _ in range(CLIENTS)]
        self._files = [running.folder / f"client-{number}.npz" for number in range(CLIENTS)]
        self._processes = [
            self._context.Process(
                target=ask, args=(running.gateway, connections // CLIENTS, self._stop, count, file)
            )
            for count, file in zip(self._counts, self._files, strict=True)
        ]
        for process in self._processes:
            process.start()

    def count(self) -> int:
        return sum(count.value for count in self._counts)

    def end(self) -> None:
        self._stop.set()
        for process in self._processes:
            process.join()

    def collect(self) -> Asked:
        files = [np.load(file) for file in self._files]
        return Asked(
            np.concatenate([file["answers"] for file in files]),
            [str(each) for file in files for each in file["failures"]],
        )


@contextmanager
def load(running: Running, connections: int) -> Iterator[Load]:
    started = Load(running, connections)
    try:
        while started.count() < 100:
            time.sleep(0.1)
        yield started
    finally:
        started.end()


def ask(url: str, connections: int, stop: Event, count: object, file: Path) -> None:
    """A process of several threads, each with a connection of its own."""
    pixels = tiny_model.images(IMAGES)
    expected = {
        number: tiny_model.answer(tiny_model.graph(number, nan=False), pixels) for number in (*GOOD, *BAD)
    }
    bodies = [json.dumps({"image": base64.b64encode(each.tobytes()).decode()}).encode() for each in pixels]
    answers: list[tuple[float, float, float]] = []
    failures: list[str] = []

    def one(place: int) -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        while not stop.is_set():
            place = (place + 1) % IMAGES
            started = time.perf_counter()
            try:
                connection.request(
                    "POST", "/invocations/", bodies[place], {"Content-Type": "application/json"}
                )
                response = connection.getresponse()
                body = response.read()
                if response.status != 200:
                    failures.append(f"{response.status}: {body.decode()[:200]}")
                    continue
                answer = json.loads(body)
            except (OSError, http.client.HTTPException, ValueError) as exc:
                failures.append(f"{type(exc).__name__}: {exc}")
                connection.close()
                continue
            seconds = time.perf_counter() - started
            figures = [answer["probabilities"][name] for name in tiny_model.CATEGORIES]
            if np.abs(expected[answer["version"]][place] - figures).max() > TOLERANCE:
                failures.append(f"not what version {answer['version']} answers")
            answers.append((time.time(), seconds, answer["version"]))
            count.value = len(answers)  # type: ignore[attr-defined]

    threads = [threading.Thread(target=one, args=(7 * number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.savez(file, answers=np.array(answers).reshape(-1, 3), failures=np.array(failures, dtype=np.str_))


if __name__ == "__main__":
    main()
