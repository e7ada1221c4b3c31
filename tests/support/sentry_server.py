"""A server that speaks the part of Sentry's envelope protocol that a client needs: it takes events and keeps them.

    with sentry() as server:
        environment["SENTRY_DSN"] = server.dsn
        ...
        event = server.wait_for_event()

Protocol: https://develop.sentry.dev/sdk/data-model/envelopes/. A body is lines: the envelope's header, then each item's
header and payload; it may be compressed with gzip.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef"


class SentryServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events: list[dict[str, Any]] = []
        self.bodies: list[str] = []  # unpacked, whole: all that a client told
        self.refused: list[str] = []

    @property
    def dsn(self) -> str:
        return f"http://{KEY}@127.0.0.1:{self.server_address[1]}/7"

    def wait_for_event(self, timeout_seconds: float = 20) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_seconds
        while not self.events:
            assert time.monotonic() < deadline, f"no event came; refused: {self.refused}"
            time.sleep(0.02)  # between two looks
        return self.events[0]


class _Handler(BaseHTTPRequestHandler):
    server: SentryServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        authorised = f"sentry_key={KEY}" in self.headers.get("X-Sentry-Auth", "")
        if self.path != "/api/7/envelope/" or not authorised:
            self.server.refused.append(f"{self.path} {self.headers}")
            self._answer(401, {"detail": "who is that?"})
            return
        for kind, payload in _items(body):
            if kind == "event":
                self.server.events.append(json.loads(payload))
        self.server.bodies.append(body.decode())
        self._answer(200, {"id": json.loads(body.partition(b"\n")[0]).get("event_id", "")})

    def _answer(self, status: int, value: dict[str, str]) -> None:
        answer = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


def _items(envelope: bytes) -> Iterator[tuple[str, bytes]]:
    """Type and payload of each item. An item's header may leave its length out: then it is one line."""
    rest = envelope.partition(b"\n")[2]
    while rest.strip():
        head, _, rest = rest.partition(b"\n")
        header = json.loads(head)
        length = header.get("length", rest.find(b"\n") if b"\n" in rest else len(rest))
        yield header["type"], rest[:length]
        rest = rest[length:].removeprefix(b"\n")


@contextmanager
def sentry() -> Iterator[SentryServer]:
    with SentryServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
