"""How fast the model server answers single images: JSON, raw pixels, and MLflow's stock server.

    python -m bench.serving [--seconds 5]

Starts a real MLflow, logs a tiny model (one linear layer, so that protocol and server are what is measured),
serves it with both servers, and asks each from one and from four keep-alive connections, in turns. Prints a
table, and as its last line one JSON object.

Client and server on the same 2 cores, others working on them too (load 2.5); x86-64, Python 3.11.7, ONNX
Runtime 1.31.1, MLflow 3.17.2, uvicorn 0.54; one run, 4 s each:

                        requests/s    p50 ms    p99 ms
    1 connection   JSON       1482      0.59      3.22
                   raw        1786      0.48      3.67
                   stock       674      1.32      4.63
    4 connections  JSON       2135      1.70      5.26
                   raw        2782      1.27      4.53
                   stock       786      4.34     12.22
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from core.registry import Registry
from tests.support.mlflow_server import MlflowServer, mlflow_environment
from tests.support.model_server import ROOT, ModelServer, StockServer
from tests.support.tiny_model import images

MODEL = "doodles"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder, MlflowServer(Path(folder) / "mlflow") as mlflow:
        subprocess.run(
            [sys.executable, "-m", "tests.support.tiny_model", mlflow.url, MODEL, "good:1"],
            cwd=ROOT,
            env=mlflow_environment(),
            check=True,
            capture_output=True,
        )
        with Registry(mlflow.url) as registry:
            registry.set_alias(MODEL, "champion", 1)
        with (
            ModelServer(Path(folder) / "ours", mlflow.url, MODEL) as ours,
            StockServer(Path(folder) / "stock", mlflow.url, f"models:/{MODEL}@champion") as stock,
        ):
            ours.wait_ready()
            print(json.dumps(measure_all(ours.url, stock.url, seconds)))


def measure_all(ours: str, stock: str, seconds: float) -> dict[str, object]:
    pixels = images(1)
    as_json = json.dumps({"inputs": pixels.tolist()}).encode()
    figures: dict[str, object] = {"python": platform.python_version(), "cores": os.cpu_count()}
    for connections in (1, 4):
        for name, url, body, content_type in (
            ("json", ours, as_json, "application/json"),
            ("raw", ours, pixels.tobytes(), "application/octet-stream"),
            ("stock_json", stock, as_json, "application/json"),
        ):
            measure(url, body, content_type, connections, seconds / 5)  # warm
            measured = measure(url, body, content_type, connections, seconds)
            figures[f"{name}_{connections}"] = measured
            print(f"{name:11} {connections} connections  {measured}", file=sys.stderr)
    return figures


def measure(url: str, body: bytes, content_type: str, connections: int, seconds: float) -> dict[str, float]:
    """Requests a second and latency in milliseconds over all connections. Raises when one is refused."""
    latencies: list[float] = []
    failures: list[str] = []
    until = time.perf_counter() + seconds

    def ask() -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        while (started := time.perf_counter()) < until and not failures:
            connection.request("POST", "/invocations", body, {"Content-Type": content_type})
            response = connection.getresponse()
            answer = response.read()
            latencies.append(time.perf_counter() - started)
            if response.status != 200:
                failures.append(answer.decode())
        connection.close()

    asking = [threading.Thread(target=ask) for _ in range(connections)]
    started = time.perf_counter()
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    if failures:
        raise RuntimeError(f"{url} refused a request: {failures[0]}")
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return {
        "requests_per_second": round(len(latencies) / (time.perf_counter() - started)),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
    }


if __name__ == "__main__":
    main()
