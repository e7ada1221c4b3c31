"""Finding and killing the real processes of a deployment, by its data folder and the stage they run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.support.stack import Stack

WAIT_SECONDS = 60.0


def processes_of(data_dir: Path) -> list[psutil.Process]:
    """All that belong to the deployment: they were told its data folder, or work in it."""
    return [process for process in psutil.process_iter() if _belongs(process, data_dir)]


def assert_none_left(data_dir: Path) -> None:
    """In a moment: Python's resource tracker ends when it sees that its process is gone."""
    deadline = time.monotonic() + 5
    while left := processes_of(data_dir):
        named = [process.info for process in psutil.process_iter(["pid", "cmdline"]) if process in left]
        assert time.monotonic() < deadline, named
        time.sleep(0.05)  # between two looks, not instead of one


def _belongs(process: psutil.Process, data_dir: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
            return False
        told = process.environ().get("EMEND_DATA_DIR") == str(data_dir)
        return told or Path(process.cwd()).is_relative_to(data_dir)
    return False


def service(stack: Stack, module: str) -> psutil.Process:
    """The process of `python -m <module>`; waits until it is there."""
    return _find(stack, ["-m", module])


def stage(stack: Stack, name: str, run: int) -> psutil.Process:
    """The process of a stage of a run, which may still wait for its turn; waits until it is there."""
    return _find(stack, ["-m", f"pipeline.stages.{name}", "--home", str(stack.home), "--run", str(run)])


def _find(stack: Stack, arguments: list[str]) -> psutil.Process:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if line[1:] == arguments and _belongs(process, stack.data_dir):
                    return process
        time.sleep(0.01)  # between two looks, not instead of one
    raise AssertionError(f"no process {' '.join(arguments)}")


def kill_group(process: psutil.Process) -> None:
    """The process must lead its own group."""
    os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """Its whole group does nothing meanwhile (SIGSTOP), and goes on after."""
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)


def kill_in_hook(home: Path, hook: str, condition: str = "true") -> None:
    """Git runs the hook inside the stage's process group: it kills all of it, once.

    condition: a shell command; the hook's arguments and standard input are its own.
    """
    path = home / ".git" / "hooks" / hook
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nif {condition}; then rm -- "$0"; kill -9 0; fi\nexit 0\n')
    path.chmod(0o755)


def kill_at_tag(home: Path, tag: str) -> None:
    """When the tag is in place."""
    kill_in_hook(home, "reference-transaction", f'[ "$1" = committed ] && grep --quiet "refs/tags/{tag}"')


@contextlib.contextmanager
def small_disk(mount: Path, room_bytes: int, normal_bytes: int) -> Iterator[None]:
    """A mounted tmpfs has only that much room left meanwhile."""
    deadline = time.monotonic() + 10
    # A tmpfs cannot become smaller than what is on it, and the deployment writes between the two calls.
    while refused := _resize(mount, _used_bytes(mount) + room_bytes):
        assert time.monotonic() < deadline, refused
    try:
        yield
    finally:
        refused = _resize(mount, normal_bytes)
        assert not refused, refused


def _used_bytes(mount: Path) -> int:
    state = os.statvfs(mount)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def _resize(mount: Path, size_bytes: int) -> str:
    """What `mount` complained of; empty when it did it."""
    done = subprocess.run(
        ["mount", "-o", f"remount,size={size_bytes}", mount], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stderr or f"mount exited with {done.returncode}"
