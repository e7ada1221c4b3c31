"""The log of a stage: all of it, its last lines, or as it grows. Memory stays bounded however long it is."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio.to_thread

CHUNK_BYTES = 64 * 1024
RENEW_SECONDS = 2.0
LOOK_AGAIN_SECONDS = 0.2  # files cannot be waited for portably; a stat costs microseconds


def tail_start(path: Path, lines: int) -> int:
    """Where the last `lines` lines begin, in bytes. Reads backwards, and no more than it must."""
    with path.open("rb") as file:
        position = end = file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - CHUNK_BYTES)
            file.seek(start)
            block = file.read(position - start)
            if position == end and block.endswith(b"\n"):
                block = block[:-1]  # it ends the last line and begins none
            found = block.count(b"\n")
            if found >= lines:
                return end if lines == 0 else start + _nth_from_the_end(block, lines) + 1
            lines -= found
            position = start
    return 0


def _nth_from_the_end(block: bytes, n: int) -> int:
    position = len(block)
    for _ in range(n):
        position = block.rindex(b"\n", 0, position)
    return position


def read(path: Path, position: int, limit_bytes: int = CHUNK_BYTES) -> tuple[bytes, int]:
    """Some bytes from this position, and the next position. A file that shrank has begun anew: from its start."""
    try:
        with path.open("rb") as file:
            if position > file.seek(0, os.SEEK_END):
                position = 0
            file.seek(position)
            data = file.read(limit_bytes)
    except FileNotFoundError:
        return b"", position
    return data, position + len(data)


async def stream(path: Path, position: int) -> AsyncIterator[bytes]:
    """The log from this position to where it ends now."""
    end = path.stat().st_size
    while position < end:
        data, position = await anyio.to_thread.run_sync(
            read, path, position, min(CHUNK_BYTES, end - position)
        )
        if not data:
            return
        yield data


async def follow(
    path: Path, position: int, ended: asyncio.Future[None], renew: Callable[[], None] | None = None
) -> AsyncIterator[bytes]:
    """The log from this position as it grows, until `ended` is done and the file is drained.

    renew: brings the log's present state from where it is written, if that is another disk.
    """
    renew_at = 0.0
    while True:
        last_look = ended.done()  # asked before reading: what was written before the end is read
        if renew is not None and (last_look or time.monotonic() >= renew_at):
            await anyio.to_thread.run_sync(renew)
            renew_at = time.monotonic() + RENEW_SECONDS
        data, position = await anyio.to_thread.run_sync(read, path, position)
        if data:
            yield data
        elif last_look:
            return
        else:
            await asyncio.wait({ended}, timeout=LOOK_AGAIN_SECONDS)
