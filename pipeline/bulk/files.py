"""Image files: found one after the other, however many there are, and read in batches of one request each.

What cannot be asked about is passed on with the reason instead of its bytes, and stops nothing.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from core.images import looks_encoded

Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True)
class Found:
    """path: as `os` names it. error: why it cannot be asked about, where that is known already."""

    path: str
    error: str | None = None


@dataclass(frozen=True)
class Question:
    """A file to ask about. image: base64 of its bytes, None when there is an error instead."""

    path: str
    image: bytes | None
    error: str | None = None


class _Unusable(Exception):
    pass


def walk(paths: Iterable[str], *, recursive: bool, leave_out: Collection[Identity] = ()) -> Iterator[Found]:
    """Files as they were named, and those of folders, in no order but always the same one.

    In folders hidden files and folders are passed over. A link to a file is followed, a link to a folder is an error,
    so no loop can be entered. leave_out: files that are not meant, such as the one that is being written.
    """
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 - names that are no UTF-8 stay as they are
            yield from _walk_folder(path, recursive, leave_out)
        else:
            yield Found(path)


def _walk_folder(root: str, recursive: bool, leave_out: Collection[Identity]) -> Iterator[Found]:
    """One folder is open on each level: neither a long folder nor a wide tree is held in memory."""
    levels: list[tuple[str, Any]] = []  # a folder, and what is left of it
    todo: str | None = root
    try:
        while todo is not None or levels:
            if todo is not None:
                try:
                    levels.append((todo, os.scandir(todo)))
                except OSError as exc:
                    yield Found(todo, f"is a folder that cannot be listed: {exc.strerror}")
                todo = None
                continue
            folder, entries = levels[-1]
            try:
                entry = next(entries, None)
            except OSError as exc:
                yield Found(folder, f"is a folder that could not be listed to its end: {exc.strerror}")
                entry = None
            if entry is None:
                levels.pop()[1].close()
            elif entry.name.startswith("."):
                continue
            elif _is_folder(entry):
                todo = entry.path if recursive else None
            elif _leads_to_a_folder(entry):
                yield Found(
                    entry.path, "is a link to a folder; links are not followed, name it to have it asked"
                )
            elif not leave_out or _identity(entry) not in leave_out:
                yield Found(entry.path)
    finally:
        for _, entries in levels:
            entries.close()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # a file system that must be asked, and fails; reading it says so
        return False


def _leads_to_a_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link that leads to itself; reading it says so
        return False


def _identity(entry: os.DirEntry[str]) -> Identity | None:
    try:
        found = entry.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def batches(found: Iterable[Found], most_files: int, most_bytes: int) -> Iterator[list[Question]]:
    """Of at most so many files, and of at most so many bytes as base64."""
    batch: list[Question] = []
    size_bytes = 0
    for file in found:
        question = _question(file, most_bytes)
        length = len(question.image or b"")
        if batch and (len(batch) == most_files or size_bytes + length > most_bytes):
            yield batch
            batch, size_bytes = [], 0
        batch.append(question)
        size_bytes += length
    if batch:
        yield batch


def _question(file: Found, most_bytes: int) -> Question:
    if file.error is not None:
        return Question(file.path, None, file.error)
    try:
        data = _read(file.path, most_bytes // 4 * 3)
    except FileNotFoundError:
        return Question(file.path, None, "is gone, or a link to nothing")
    except OSError as exc:
        return Question(file.path, None, f"cannot be read: {exc.strerror}")
    except _Unusable as exc:
        return Question(file.path, None, str(exc))
    return Question(file.path, base64.b64encode(data))


def _read(path: str, most_bytes: int) -> bytes:
    """Raises OSError, and _Unusable before anything large is read."""
    # Without O_NONBLOCK a named pipe would be waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _Unusable("is no regular file")
        data = file.read(most_bytes + 1)
    if not data:
        raise _Unusable("is empty")
    if not looks_encoded(
        data
    ):  # raw pixels are nothing that lies in a folder: any 784 bytes would be a doodle
        raise _Unusable("is no PNG, JPEG or WebP image")
    if len(data) > most_bytes:
        raise _Unusable(
            f"has more than {most_bytes / 1e6:.1f} MB, which is what the gateway takes (EMEND_MAX_BODY_BYTES); "
            "make it smaller"
        )
    return data
