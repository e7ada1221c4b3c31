"""A small server that speaks the part of the Docker Engine API that `GET /monitoring/containers` asks for.

Answers are shaped as a Docker Engine 26.1 (API 1.45) gave them, shortened; PASSWORD stands for those that the real one
tells too.

    with docker_engine([container("gateway")]) as engine:
        measure(engine.url, "emend")
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "1.45"
PASSWORD = "a-password-of-a-container"


def container(service: str, project: str = "emend", **state: Any) -> dict[str, Any]:
    """As GET /containers/<id>/json has it."""
    return {
        "Id": service.encode().hex().ljust(64, "0"),
        "Name": f"/{project}-{service}-1",
        "RestartCount": state.pop("restarts", 0),
        "State": {
            "Status": "running",
            "Running": True,
            "OOMKilled": False,
            "ExitCode": 0,
            "StartedAt": "2026-11-21T08:49:37.066378032Z",
            "FinishedAt": "0001-01-01T00:00:00Z",
            **state,
        },
        "Config": {
            "Image": f"emend/{service}:dev",
            "Env": [f"POSTGRES_PASSWORD={PASSWORD}"],
            "Labels": {"com.docker.compose.project": project, "com.docker.compose.service": service},
        },
    }


STATS = {
    "cpu_stats": {
        "cpu_usage": {"total_usage": 6_502_083_239},
        "system_cpu_usage": 56_317_470_000_000,
        "online_cpus": 2,
    },
    "precpu_stats": {
        "cpu_usage": {"total_usage": 6_002_083_239},
        "system_cpu_usage": 56_315_470_000_000,
        "online_cpus": 2,
    },
    "memory_stats": {
        "usage": 195_342_336,
        "stats": {"inactive_file": 53_022_720, "total_inactive_file": 53_022_720},
        "limit": 1_073_741_824,
    },
}


class DockerEngine(ThreadingHTTPServer):
    """gone: ids that are listed but not there any more when they are asked."""

    daemon_threads = True

    def __init__(self, containers: Sequence[dict[str, Any]], gone: Sequence[str] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.containers = {each["Id"]: each for each in containers}
        self.gone = set(gone)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: DockerEngine

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        self.server.asked.append(asked.path)
        path = asked.path.removeprefix(f"/v{API}")
        one = re.fullmatch(r"/containers/(\w+)/(json|stats)", path)
        if path == "/version":
            self._answer(200, {"ApiVersion": API, "MinAPIVersion": "1.24"})
        elif path == "/containers/json":
            (label,) = json.loads(parse_qs(asked.query)["filters"][0])["label"]
            name, _, value = label.partition("=")
            chosen = [
                each
                for each in self.server.containers.values()
                if each["Config"]["Labels"].get(name) == value
            ]
            self._answer(200, [{"Id": each["Id"], "Labels": each["Config"]["Labels"]} for each in chosen])
        elif one is None or one[1] not in self.server.containers or one[1] in self.server.gone:
            self._answer(404, {"message": f"No such container: {one and one[1]}"})
        else:
            self._answer(200, self.server.containers[one[1]] if one[2] == "json" else STATS)

    def _answer(self, status: int, value: Any) -> None:
        answer = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Api-Version", API)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def docker_engine(containers: Sequence[dict[str, Any]], gone: Sequence[str] = ()) -> Iterator[DockerEngine]:
    with DockerEngine(containers, gone) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
