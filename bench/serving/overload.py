"""More is asked than can be answered: how many are answered still, and how soon?

    python -m bench.serving.overload [--rounds 5] [--seconds 5] [--times 4]

Ours alone, as bench.serving starts it. First its peak: 64 connections, of which 56 ask again at once. Then so many
times that is offered: 512 connections, each of which pauses after an answer so that all of them together would ask that
often if they were answered at once, and takes a refusal for an answer. Both times eight connections are of another
client, a slower one that pauses 20 ms, which measures what the answered waited (wrk does not tell refused from
answered). Rounds alternate; figures are their medians. Processor time is told of each process, in cores. The last line
is JSON.

Results: docs/performance.md.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import resource
import statistics
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

from bench.serving.__main__ import SHAPES, images
from bench.serving.memory import NAMES
from bench.serving.servers import Server, ours
from bench.serving.weights import write_weights
from bench.serving.wrk import ask, find_wrk, write_script

PEAK_CONNECTIONS = 64
MANY_CONNECTIONS = 512
PROBES = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--times", type=float, default=4)
    given = parser.parse_args()
    wrk = find_wrk()
    peaks, overloads = [], []
    with tempfile.TemporaryDirectory(prefix="emend-bench-") as name:
        folder = Path(name)
        graph = write_weights(folder / "weights.safetensors", SHAPES["doodles"])
        texts = images(SHAPES["doodles"])
        with ours({"bench": graph}) as server:
            bodies = [server.body(text) for text in texts]
            at_once = write_script(folder / "peak.lua", bodies)
            ask(wrk, at_once, server.url, PEAK_CONNECTIONS, 2)  # warm
            for number in range(given.rounds):
                peak = measured(wrk, at_once, server, texts, PEAK_CONNECTIONS, given.seconds)
                pause = 1000 * MANY_CONNECTIONS / (given.times * peak["answered_per_second"])
                script = write_script(folder / "many.lua", bodies, pause)
                overload = measured(wrk, script, server, texts, MANY_CONNECTIONS, given.seconds)
                overload["of_peak"] = round(overload["answered_per_second"] / peak["answered_per_second"], 3)
                overload["times_offered"] = round(
                    overload["offered_per_second"] / peak["answered_per_second"], 2
                )
                overload["p99_ratio"] = round(overload["p99_ms"] / peak["p99_ms"], 2)
                peaks.append(peak)
                overloads.append(overload)
                print(f"round {number + 1}: peak {peak}, overload {overload}", flush=True)
    print(
        json.dumps(
            {
                "bench": "serving.overload",
                "peak": medians(peaks),
                "overload": medians(overloads),
                "rounds": given.rounds,
                "cores": os.cpu_count(),
                "load_average": round(os.getloadavg()[0], 1),
                "python": platform.python_version(),
            }
        )
    )


def measured(
    wrk: str, script: Path, server: Server, texts: list[str], connections: int, seconds: float
) -> dict[str, float]:
    before = processor_seconds(server)
    with Probe(server, texts) as probe:
        many = ask(wrk, script, server.url, connections - PROBES, seconds, may_refuse=True)
    after = processor_seconds(server)
    answered = many.per_second + len(probe.answered) / seconds
    waited = 1000 * np.percentile(probe.answered, [50, 99])
    return {
        "offered_per_second": round(answered + many.refused_per_second),
        "answered_per_second": round(answered),
        "p50_ms": round(float(waited[0]), 1),
        "p99_ms": round(float(waited[1]), 1),
        **{f"{name}_cores": round((after[name] - before[name]) / seconds, 2) for name in after},
    }


def processor_seconds(server: Server) -> dict[str, float]:
    """wrk's are those of all children that ended."""
    times = {name: psutil.Process(pid).cpu_times() for name, pid in zip(NAMES, server.groups, strict=True)}
    found = {name: each.user + each.system for name, each in times.items()}
    wrk = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found | {"wrk": wrk.ru_utime + wrk.ru_stime, "other_client": time.process_time()}


class Probe:
    """A few connections that ask now and then, while the block lasts. answered: seconds that answers took."""

    def __init__(self, server: Server, texts: list[str]) -> None:
        self.answered: list[float] = []
        self._url = urlsplit(server.url)
        self._bodies = [json.dumps(server.body(text)).encode() for text in texts]
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(PROBES)]

    def __enter__(self) -> Probe:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, place: int) -> None:
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=30)
        while not self._over.wait(0.02):
            place = (place + 1) % len(self._bodies)
            started = time.perf_counter()
            connection.request(
                "POST", self._url.path, self._bodies[place], {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                self.answered.append(time.perf_counter() - started)
        connection.close()


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


if __name__ == "__main__":
    main()
