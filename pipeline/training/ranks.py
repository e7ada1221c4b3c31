"""Several processes that train one model together: one for each GPU, or for each core.

    train.processes: 4                                                                       # in params.yaml
    torchrun --nproc-per-node 4 -m -- pipeline.stages.train --home data/doodles --run 12     # by hand

Without the `--` torchrun takes `--run` for its own `--run-path`.

Each works on its parts of every batch, and their gradients are added; all else each does by itself, with the same
result. The first (rank 0) leads: it alone validates, reports, keeps checkpoints and exports. Two processes on a CPU
give the same bits as one that has two threads.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as distributed
from torch import Tensor
from torch._C._distributed_c10d import Store, TCPStore

from pipeline.stages import StageError

TIMEOUT = timedelta(minutes=30)  # the others wait while the first validates and writes
END_SECONDS = 5.0
HERE = "127.0.0.1"
JOIN = "EMEND_TRAINS_WITH"  # environment variable of a process that another one started: where, which, of how many


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def add_up(tensors: Sequence[Tensor]) -> None:
    """Each becomes its sum over all processes."""
    if count() > 1:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        _fill(tensors, flat)


def as_the_first(tensors: Sequence[Tensor]) -> None:
    """Each becomes what the first process has. A GPU may round differently than its neighbour."""
    if count() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


@contextmanager
def together(processes: int, command: Sequence[str]) -> Iterator[None]:
    """Within the block the processes are joined. Under torchrun those that it started; else this one starts others.

    command: arguments of Python that start another one, which calls this function too. Raises StageError when one is
    lost; where this one waits for it without end (on GPUs), it says so and ends.
    """
    if "WORLD_SIZE" in os.environ:
        with _joined():
            yield
    elif JOIN in os.environ:
        port, number, processes = map(int, os.environ[JOIN].split())
        with _joined(TCPStore(HERE, port, processes), number, processes):
            yield
    elif processes == 1:
        yield
    else:
        _check_gpus(processes)
        _talk_on_loopback()
        store = _store(processes)
        others = [
            subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, JOIN: f"{store.port} {number} {processes}", "LOCAL_RANK": str(number)},
            )
            for number in range(1, processes)
        ]
        over = threading.Event()
        threading.Thread(target=_watch, args=(others, over), daemon=True).start()
        try:
            with _joined(store, 0, processes):
                yield
        except RuntimeError as exc:
            lost = _ended_badly(others, END_SECONDS)
            if not lost:
                raise
            raise StageError(_lost(others, lost)) from exc
        finally:
            over.set()
            _end(others)


def _store(processes: int) -> TCPStore:
    """Where the processes find each other. Left to itself it listens on all of the machine's addresses."""
    listening = socket.create_server((HERE, 0))
    port = listening.getsockname()[1]
    return TCPStore(
        HERE,
        port,
        processes,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),  # the store's from now on
    )


def _talk_on_loopback() -> None:
    """Gloo, in this process and in those it starts, unless somebody has told it otherwise."""
    for _, name in socket.if_nameindex():
        if name in ("lo", "lo0"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _watch(others: Sequence[subprocess.Popen[bytes]], over: threading.Event) -> None:
    """Ends this process when it waits for another one that is gone, which gloo notices and NCCL does not."""
    while not over.wait(1.0):
        if lost := _ended_badly(others, 0):
            if over.wait(2 * END_SECONDS):
                return
            _end(others)
            print(f"error: {_lost(others, lost)}", file=sys.stderr, flush=True)
            os._exit(1)


def _ended_badly(others: Sequence[subprocess.Popen[bytes]], seconds: float) -> dict[int, int]:
    """Exit codes by number; waits so long for the first."""
    until = time.monotonic() + seconds
    while True:
        found = {number: code for number, other in enumerate(others, 1) if (code := other.poll())}
        if found or time.monotonic() >= until:
            return found
        time.sleep(0.1)


def _end(others: Sequence[subprocess.Popen[bytes]]) -> None:
    """A moment for those that are done, too, to end by themselves."""
    for other in others:
        with suppress(subprocess.TimeoutExpired):
            other.wait(END_SECONDS)
        other.kill()
        other.wait()


def _check_gpus(processes: int) -> None:
    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise StageError(
            f"train.processes is {processes}, and this machine has {torch.cuda.device_count()} GPUs, each for one "
            "process; lower it in params.yaml and start a new run"
        )


@contextmanager
def _joined(store: Store | None = None, number: int = -1, processes: int = -1) -> Iterator[None]:
    """store: None where torchrun says all of it in environment variables."""
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    distributed.init_process_group(backend, store=store, rank=number, world_size=processes, timeout=TIMEOUT)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _lost(others: Sequence[subprocess.Popen[bytes]], codes: Mapping[int, int]) -> str:
    ended = ", ".join(f"number {number} ended with {code}" for number, code in codes.items())
    return (
        f"the {len(others) + 1} processes that train together lost each other: {ended}. What the last epoch left is "
        "kept: `emend resume` goes on from there; train.processes: 1 in params.yaml does without them in a new run"
    )


def _fill(tensors: Sequence[Tensor], flat: Tensor) -> None:
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()
