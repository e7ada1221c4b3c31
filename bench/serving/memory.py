"""What gateway and model server hold, and whether it grows: resident memory after each 20,000 of 120,000 requests.

    python -m bench.serving.memory

Ours alone, as bench.serving starts it, with one model, asked by 64 connections. The last line is JSON: megabytes after
the first 20,000 (caches, buffers and pools are filled by then), and by how much the rest of the requests changed them.

Results: docs/performance.md.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path

import psutil

from bench.serving.__main__ import SHAPES, images
from bench.serving.servers import ours
from bench.serving.weights import write_weights
from bench.serving.wrk import ask, find_wrk, write_script

REQUESTS = 20_000
ROUNDS = 6
NAMES = ("model_server", "gateway")  # in the order in which `ours` starts them


def main() -> None:
    wrk = find_wrk()
    with tempfile.TemporaryDirectory(prefix="emend-bench-") as name:
        folder = Path(name)
        graph = write_weights(folder / "weights.safetensors", SHAPES["doodles"])
        with ours({"bench": graph}) as server:
            script = write_script(
                folder / "ask.lua", [server.body(text) for text in images(SHAPES["doodles"])]
            )
            processes = dict(zip(NAMES, map(psutil.Process, server.groups), strict=True))
            megabytes: dict[str, list[float]] = {name: [] for name in NAMES}
            for number in range(ROUNDS):
                asked = 0.0
                while asked < REQUESTS:
                    asked += 4 * ask(wrk, script, server.url, 64, 4).per_second
                for name, process in processes.items():
                    megabytes[name].append(round(process.memory_info().rss / 1e6, 1))
                print(
                    f"after round {number + 1}: { {n: m[-1] for n, m in megabytes.items()} } MB", flush=True
                )
    print(
        json.dumps(
            {
                "bench": "serving.memory",
                "megabytes": {name: found[0] for name, found in megabytes.items()},
                "growth_megabytes": {
                    name: round(found[-1] - found[0], 1) for name, found in megabytes.items()
                },
                "requests": ROUNDS * REQUESTS,
                "cores": os.cpu_count(),
                "python": platform.python_version(),
            }
        )
    )


if __name__ == "__main__":
    main()
