"""How many images a second, and how soon: ours beside what people would pick instead.

    python -m bench.serving [--rounds 5] [--seconds 4] [--connections 1 16 64] [--input doodles photos]

The same random weights of a three-convolution network (105,000 of them; bench/baseline.py) behind every server: one
image a request, base64 in JSON, 28x28 grey raw pixels or 32x32 colour as PNG. Every server runs on its defaults with
one worker; ours is gateway, model server and PostgreSQL, with its history on. `wrk` asks. Before anything is measured
all answers are compared. Within a round every server is asked in turn while the others are frozen, and the order moves
on by one from round to round; figures are medians of the rounds. The last line is JSON.

The others are installed into build/bench-serving (requirements.lock here), never into ours.

Results: docs/performance.md.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bench.serving.others.network import DOODLE, PHOTO
from bench.serving.servers import OTHER_SERVERS, Server, answers, other, ours
from bench.serving.weights import write_weights
from bench.serving.wrk import Measured, ask, find_wrk, write_script
from core.images import encode_png

SHAPES = {"doodles": DOODLE, "photos": PHOTO}
IMAGES = 64  # different ones that are asked about in turns
TOLERANCE = 1e-5
WARM_SECONDS = 2

Figures = dict[str, dict[int, Measured]]  # by server and connections


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--input", nargs="+", choices=[*SHAPES], default=[*SHAPES])
    parser.add_argument(
        "--servers", nargs="+", choices=["ours", *OTHER_SERVERS], default=["ours", *OTHER_SERVERS]
    )
    given = parser.parse_args()
    wrk = find_wrk()
    found = {}
    for name in given.input:
        with tempfile.TemporaryDirectory(prefix="emend-bench-") as folder, ExitStack() as running:
            weights = Path(folder) / "weights.safetensors"
            graph = write_weights(weights, SHAPES[name])
            servers = [
                running.enter_context(ours({"bench": graph}) if each == "ours" else other(each, weights))
                for each in given.servers
            ]
            texts = images(SHAPES[name])
            compare_answers(servers, texts)
            scripts = {
                each.name: write_script(
                    Path(folder) / f"{each.name}.lua", [each.body(text) for text in texts]
                )
                for each in servers
            }
            found[name] = measure(wrk, servers, scripts, given.connections, given.seconds, given.rounds)
    print(
        json.dumps(
            {
                "bench": "serving",
                "inputs": {name: summary(figures) for name, figures in found.items()},
                "rounds": given.rounds,
                "seconds": given.seconds,
                "cores": os.cpu_count(),
                "load_average": round(os.getloadavg()[0], 1),
                "python": platform.python_version(),
            }
        )
    )


def images(shape: tuple[int, ...]) -> list[str]:
    """Base64: raw pixels where they are grey, else PNG."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, *shape), np.uint8)
    data = [each.tobytes() if len(shape) == 2 else encode_png(each) for each in pixels]
    return [base64.b64encode(each).decode() for each in data]


def compare_answers(servers: list[Server], texts: list[str]) -> None:
    first = np.array(answers(servers[0], texts))
    for server in servers[1:]:
        difference = np.abs(np.array(answers(server, texts)) - first).max()
        if not difference <= TOLERANCE:
            sys.exit(f"{server.name} answers differently than {servers[0].name}, by up to {difference:.2g}")


def measure(
    wrk: str,
    servers: list[Server],
    scripts: dict[str, Path],
    connections: list[int],
    seconds: float,
    rounds: int,
) -> Figures:
    measured: dict[str, dict[int, list[Measured]]] = {
        server.name: {count: [] for count in connections} for server in servers
    }
    for server in servers:
        server.freeze()
    for number in range(rounds):
        start = number % len(servers)
        for server in servers[start:] + servers[:start]:
            server.go_on()
            if number == 0:
                ask(wrk, scripts[server.name], server.url, max(connections), WARM_SECONDS)
            for count in connections:
                each = ask(wrk, scripts[server.name], server.url, count, seconds)
                measured[server.name][count].append(each)
                print(
                    f"round {number + 1}, {server.name}, {count} connections: {each.per_second:.0f} a second, "
                    f"p50 {each.p50_ms:.2f} ms, p99 {each.p99_ms:.2f} ms",
                    flush=True,
                )
            server.freeze()
    return {
        name: {count: median(each) for count, each in by_connections.items()}
        for name, by_connections in measured.items()
    }


def median(measured: list[Measured]) -> Measured:
    return Measured(
        *(
            statistics.median(values)
            for values in zip(*((m.per_second, m.p50_ms, m.p99_ms) for m in measured), strict=True)
        )
    )


def summary(figures: Figures) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {
            str(count): {
                "per_second": round(each.per_second),
                "p50_ms": round(each.p50_ms, 2),
                "p99_ms": round(each.p99_ms, 2),
            }
            for count, each in by_connections.items()
        }
        for name, by_connections in figures.items()
    }


if __name__ == "__main__":
    main()
