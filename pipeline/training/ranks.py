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
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as distributed
from torch import Tensor
from torch._C._distributed_c10d import Store, TCPStore

from pipeline.stages import StageError

TIMEOUT = timedelta(minutes=30)  # the others wait while the first validates and writes
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

    command: arguments of Python that start another one, which calls this function too.
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
        store = TCPStore(HERE, 0, processes, is_master=True, wait_for_workers=False)
        others = [
            subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, JOIN: f"{store.port} {number} {processes}", "LOCAL_RANK": str(number)},
            )
            for number in range(1, processes)
        ]
        try:
            with _joined(store, 0, processes):
                yield
            _wait_for(others)
        except RuntimeError as exc:
            raise StageError(_what_happened(others, exc)) from exc
        finally:
            for other in others:
                other.kill()
                other.wait()


@contextmanager
def _joined(store: Store | None = None, number: int = -1, processes: int = -1) -> Iterator[None]:
    """store: None where torchrun says all of it in environment variables."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=number, world_size=processes, timeout=TIMEOUT)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _wait_for(others: Sequence[subprocess.Popen[bytes]]) -> None:
    for number, other in enumerate(others, 1):
        if code := other.wait():
            raise RuntimeError(f"process {number} ended with {code}")


def _what_happened(others: Sequence[subprocess.Popen[bytes]], exc: RuntimeError) -> str:
    gone = [f"process {number} with {other.poll()}" for number, other in enumerate(others, 1) if other.poll()]
    ended = f"; ended: {', '.join(gone)}" if gone else ""
    said = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
    return (
        f"the {len(others) + 1} processes that train together lost each other: {said}{ended}. What the last epoch left "
        "is kept: `emend resume` goes on from there; train.processes: 1 in params.yaml trains without the others"
    )


def _fill(tensors: Sequence[Tensor], flat: Tensor) -> None:
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()
