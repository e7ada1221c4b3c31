"""Files that are whole or absent: temporary name, fsync, rename, fsync of the folder.

`write_durably` returns only when the bytes would survive a power cut. `write_atomically` leaves out the
fsyncs: for what can be made again. Errors: DiskFull when there is no room (nothing is left behind).
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import DiskFull

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def write_durably(path: Path, data: bytes) -> None:
    with _replacing(path, durable=True) as temporary:
        _write(temporary, data, durable=True)


def write_atomically(path: Path, data: bytes) -> None:
    with _replacing(path, durable=False) as temporary:
        _write(temporary, data, durable=False)


def write_json(path: Path, value: Any) -> None:
    """Sorted keys and no timestamps of its own: the same value gives the same bytes."""
    write_atomically(
        path,
        (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(),
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends well, removed when it does not."""
    with _replacing(path, durable=True) as temporary:
        yield temporary


@contextmanager
def _replacing(path: Path, *, durable: bool) -> Iterator[Path]:
    temporary = path.parent / f".{path.name[:80]}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        if exc.errno in _NO_ROOM:
            raise DiskFull(
                f"no room to store {path.name}: free space on the data disk, then send it again"
            ) from exc
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    with path.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_empty_folders(root: Path) -> None:
    """Removes every empty folder below `root`, deepest first; `root` stays."""
    for folder, _, _ in os.walk(root, topdown=False):
        if folder != str(root):
            try:
                os.rmdir(folder)
            except OSError:
                continue  # not empty
