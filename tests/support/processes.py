"""Real child processes for tests: a free port, waiting until they answer, stopping all they started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for_http(
    url: str, process: subprocess.Popen[bytes], log: Path, timeout_seconds: float, status: int | None = 200
) -> None:
    """Until `url` answers `status` (None: anything). Fails with the log's end when the process ends first."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            answered = httpx.get(url, timeout=5).status_code
        except httpx.HTTPError:
            answered = 0
        if answered and status in (None, answered):
            return
        time.sleep(0.05)  # between two looks, not instead of one
    raise AssertionError(f"{url} did not answer; its log ends:\n{log.read_text(errors='replace')[-3000:]}")


def stop_group(process: subprocess.Popen[bytes], timeout_seconds: float = 10) -> None:
    """SIGTERM to the whole group, SIGKILL to what is left of it. The process must lead its own session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
