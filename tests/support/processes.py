"""Real child processes for tests: a free port, waiting until they answer, stopping all they started."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

PORTS_OF_A_PROCESS = 4_000


def free_port() -> int:
    """Of a range of this test process's own, below those that the system gives to whoever asks for any: nobody else
    is told it before it is used."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 10_000 + number % 5 * PORTS_OF_A_PROCESS
    while True:
        port = first + next(_ports) % PORTS_OF_A_PROCESS
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


_ports = itertools.count(random.randrange(PORTS_OF_A_PROCESS))


@contextlib.contextmanager
def frozen(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Its group accepts connections and answers nothing, while the block lasts."""
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGCONT)


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
