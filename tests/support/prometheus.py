"""A real Prometheus with the product's own configuration, on other ports and scraping every second.

with NodeExporter(folder) as node, Prometheus(folder, {"gateway": "127.0.0.1:8000", "node": node.target}) as prometheus:
    prometheus.ask("up")
"""

from __future__ import annotations

import math
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from tests.support.processes import free_port, stop_group, wait_for_http

CONFIGURATION = Path(__file__).parents[2] / "prometheus"

# As NVIDIA's DCGM exporter answers (dcgm-exporter 3.3, its default counters; one H200 at work).
DCGM_PAGE = b"""\
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200",Hostname="trainer"} 87
# HELP DCGM_FI_DEV_FB_USED Framebuffer memory used (in MiB).
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200",Hostname="trainer"} 20480
# HELP DCGM_FI_DEV_FB_FREE Framebuffer memory free (in MiB).
# TYPE DCGM_FI_DEV_FB_FREE gauge
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200",Hostname="trainer"} 122880
# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).
# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200",Hostname="trainer"} 412.5
# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200",Hostname="trainer"} 54
"""


class _Program:
    """A child that answers HTTP on a port of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        found = shutil.which(name)
        assert found is not None, f"{name} is missing; `make test` installs it, or: apt-get install {name}"
        self.port = free_port()
        self.target = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.target}"
        self.log = folder / f"{name}.log"
        self._command = [found]
        self._ready = "/metrics"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        wait_for_http(self.url + self._ready, self._process, self.log, 60)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            stop_group(self._process)


class NodeExporter(_Program):
    def __init__(self, folder: Path) -> None:
        super().__init__("prometheus-node-exporter", folder)
        self._command += [f"--web.listen-address={self.target}"]


class Prometheus(_Program):
    """targets: a job's name to the addresses it scrapes; jobs that are not named are left out."""

    def __init__(self, folder: Path, targets: Mapping[str, list[str]]) -> None:
        super().__init__("prometheus", folder)
        self.jobs = set(targets)
        self._ready = "/-/ready"
        written = _configuration(folder, targets)
        self._command += [f"--config.file={written}", f"--storage.tsdb.path={folder / 'prometheus'}"]
        self._command += [f"--web.listen-address={self.target}", "--log.level=warn"]

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The samples of now: [{"metric": labels, "value": [time, text]}]."""
        return self._api("query", query=query)

    def ask_range(self, query: str, start: float, step_seconds: float) -> list[dict[str, Any]]:
        """[{"metric": labels, "values": [[time, text]]}]."""
        return self._api("query_range", query=query, start=start, end=time.time(), step=step_seconds)

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
            time.sleep(0.2)  # between two looks, not instead of one

    def wait_for_targets(self) -> None:
        """Until every job has been scraped twice, which a rate needs."""

        def scraped() -> bool:
            found = {
                sample["metric"]["job"] for sample in self.ask("count_over_time(up[1h]) > 1 and up == 1")
            }
            return found == self.jobs

        self.wait_until(scraped, 60, f"every one of {sorted(self.jobs)} is scraped")

    def _api(self, what: str, **parameters: Any) -> list[dict[str, Any]]:
        answer = httpx.post(f"{self.url}/api/v1/{what}", data=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


def finite(results: list[dict[str, Any]]) -> list[float]:
    """All values that are numbers: 0 / 0 is an answer too, but shows nothing."""
    texts = [text for each in results for _, text in each.get("values", [each.get("value")])]
    return [value for value in map(float, texts) if math.isfinite(value)]


@contextmanager
def page_server(page: bytes) -> Iterator[str]:
    """The address of an exporter that always answers this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _configuration(folder: Path, targets: Mapping[str, list[str]]) -> Path:
    """The product's, but for addresses and how often."""
    read = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text())
    read["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    jobs = {job["job_name"]: job for job in read["scrape_configs"]}
    assert set(targets) <= set(jobs), sorted(jobs)
    read["scrape_configs"] = [
        {
            **{key: value for key, value in jobs[name].items() if not key.endswith("_configs")},
            "static_configs": [{"targets": addresses}],
        }
        for name, addresses in targets.items()
    ]
    (folder / "rules").mkdir(exist_ok=True)
    for path in (CONFIGURATION / "rules").glob("*.yml"):
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
        (folder / "rules" / path.name).write_text(yaml.safe_dump(rules))
    written = folder / "prometheus.yml"
    written.write_text(yaml.safe_dump(read))
    return written
