"""A viewer in this process, listening on a free port."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from viewer.app import create_app

TIMEOUT_SECONDS = 15


@contextmanager
def viewer_client() -> Iterator[httpx.Client]:
    """Asks a viewer that uses this process's settings."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(), port=0, log_config=None, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not server.started:
        assert time.monotonic() < deadline, "the viewer did not start"
        time.sleep(0.01)  # between two looks, not instead of one
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_SECONDS, trust_env=False
    ) as client:
        yield client
    server.should_exit = True
    thread.join()
