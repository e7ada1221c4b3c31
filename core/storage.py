"""Files that are whole or absent: temporary name, fsync, rename, fsync of the folder.

`write_durably` returns only when the bytes would survive a power cut. `write_atomically` leaves out the
fsyncs: for what can be made again. Errors: DiskFull when there is no room (nothing is left behind).
"""

from __future__ import annotations

import contextlib
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
    _write(path, data, durable=True)


def write_atomically(path: Path, data: bytes) -> None:
    _write(path, data, durable=False)


def write_json(path: Path, value: Any) -> None:
    """Durable. Sorted keys and no timestamps of its own: the same value gives the same bytes."""
    write_durably(
        path,
        (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(),
    )


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    try:
        with _replacing(path, durable=durable) as temporary:
            temporary.write_bytes(data)
    except FileNotFoundError:  # a cleanup removed the empty folder in between
        with _replacing(path, durable=durable) as temporary:
            temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: synced and renamed onto it when the block ends well, else removed."""
    with _replacing(path, durable=True) as temporary:
        yield temporary


@contextmanager
def _replacing(path: Path, *, durable: bool) -> Iterator[Path]:
    temporary = path.parent / f".{path.name[:80]}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        _make_folder(path.parent, durable=durable)
        yield temporary
        if durable:
            _sync(temporary)
        temporary.replace(path)
        if durable:
            _sync(path.parent)
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


def _make_folder(folder: Path, *, durable: bool) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent, durable=durable)
    folder.mkdir(exist_ok=True)
    if durable:
        _sync(folder.parent)


def _sync(path: Path) -> None:
    """A file's bytes, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_empty_folders(root: Path) -> None:
    """Removes every empty folder below `root`, deepest first; `root` stays."""
    for folder, _, _ in os.walk(root, topdown=False):
        if folder != str(root):
            with contextlib.suppress(OSError):  # not empty
                Path(folder).rmdir()
