"""Import of any `<category>/<image>` folder, or a tar of one (also .tar.gz): PNG, JPEG and WebP.

The folder directly above a picture is its category. A tar is read as a stream and nothing of it is unpacked to
disk, so its paths, links and devices have no effect; what a picture may cost is bounded by `core.images`.
"""

from __future__ import annotations

import gzip
import multiprocessing
import os
import tarfile
import zlib
from collections import Counter, deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from core import labels
from core.errors import InvalidLabel
from core.images import InputSpec
from pipeline.imports.staging import (
    ImportFailed,
    Prepared,
    Progress,
    StagedImport,
    Staging,
    checked_label,
    prepare_files,
    staging,
)

MAX_FILE_BYTES = 50_000_000  # a 40-megapixel photo as a good JPEG is half of it
EXPANSION_ALLOWED_BYTES = 2**30  # of any .tar.gz, and beyond that:
MAX_EXPANSION = 200  # of a .tar.gz: pictures hardly compress, even tiny ones with their padding only 50 times
BATCH_FILES = 256
BATCH_BYTES = 16 * 2**20
PROCESSES = min(os.cpu_count() or 1, 8)


@dataclass(frozen=True)
class _File:
    """name: as a person knows it. folder: the name of the folder directly above."""

    name: str
    folder: str
    data: bytes


def stage_folder(
    path: Path,
    home: Path,
    spec: InputSpec,
    *,
    licence: str | None = None,
    categories: Collection[str] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> StagedImport:
    """Stages the pictures of a folder or tar; of each category the first `limit`. Raises ImportFailed."""
    with staging(home, spec, "import", licence) as shard:
        choice = _Choice(shard, categories, limit)
        files = _from_folder(path, shard, choice) if path.is_dir() else _from_tar(path, shard, choice)
        for batch, pictures in _prepared(_batches(files), spec):
            for file, picture in zip(batch, pictures, strict=True):
                if isinstance(picture, str):
                    shard.reject(file.name, picture)
                else:
                    shard.add(choice.label(file.folder), picture, file.name)
            if progress is not None:
                progress(shard.categories.total())
        choice.report()
    return shard.result()


class _Choice:
    """Which files are wanted: by label and by limit. Labels that cannot be are reported once, with their count."""

    def __init__(self, shard: Staging, categories: Collection[str] | None, limit: int | None) -> None:
        self._shard = shard
        self._keys = None if categories is None else {labels.key_of(checked_label(c)) for c in categories}
        self._limit = limit
        self._labels: dict[str, str | InvalidLabel] = {}
        self._left_out: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()

    def label(self, folder: str) -> str:
        found = self._labels[folder]
        assert isinstance(found, str)
        return found

    def takes(self, folder: str) -> bool:
        """Whether a file in this folder is to be read; counts it."""
        if folder not in self._labels:
            try:
                self._labels[folder] = checked_label(folder)
            except InvalidLabel as exc:
                self._labels[folder] = exc
        label = self._labels[folder]
        if isinstance(label, InvalidLabel):
            self._left_out[folder] += 1
            return False
        if self._keys is not None and labels.key_of(label) not in self._keys:
            return False
        if self._limit is not None and self._taken[label] >= self._limit:
            return False
        self._taken[label] += 1
        return True

    def report(self) -> None:
        for folder, count in sorted(self._left_out.items()):
            error = self._labels[folder]
            assert isinstance(error, InvalidLabel)
            self._shard.reject(f"{folder[:100]}/", f"{error.message}; files left out: {count}", count)


def _prepared(
    batches: Iterator[list[_File]], spec: InputSpec
) -> Iterator[tuple[list[_File], list[Prepared | str]]]:
    """Each batch with its pictures, in order. The first is done here: most folders are no larger."""
    for batch in batches:
        yield batch, prepare_files([f.data for f in batch], spec)
        break
    running: deque[tuple[list[_File], Future[list[Prepared | str]]]] = deque()
    with _workers() as pool:
        for batch in batches:
            running.append((batch, pool.submit(prepare_files, [f.data for f in batch], spec)))
            if len(running) > 2 * PROCESSES:  # bounds what waits in memory
                done, pictures = running.popleft()
                yield done, pictures.result()
        for done, pictures in running:
            yield done, pictures.result()


@contextmanager
def _workers() -> Iterator[ProcessPoolExecutor]:
    """Spawned, because a forked child of a process with threads can hang. They start with the first task."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _batches(files: Iterator[_File]) -> Iterator[list[_File]]:
    batch: list[_File] = []
    size = 0
    for file in files:
        batch.append(file)
        size += len(file.data)
        if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _from_folder(root: Path, shard: Staging, choice: _Choice) -> Iterator[_File]:
    """In order of path. Hidden files (.DS_Store and its like) are passed over; links are named, not followed."""
    for folder, folders, files in os.walk(root):
        for name in sorted(folders):
            if (Path(folder) / name).is_symlink():
                shard.reject(
                    _shown(Path(folder, name), root), "is a link to a folder; links are not followed"
                )
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            shown = _shown(path, root)
            if name.startswith("."):
                continue
            if path.is_symlink() or not path.is_file():
                shard.reject(shown, "is a link or no regular file")
            elif Path(folder) == root:
                shard.reject(shown, "is in no category's folder: expected <category>/<image>")
            elif path.stat().st_size > MAX_FILE_BYTES:
                shard.reject(shown, _too_large(path.stat().st_size))
            elif choice.takes(path.parent.name):
                yield _File(shown, path.parent.name, path.read_bytes())


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root))


def _from_tar(path: Path, shard: Staging, choice: _Choice) -> Iterator[_File]:
    """In the tar's order. What follows a damaged place is lost, and said so."""
    try:
        opened = path.open("rb")
    except OSError as exc:
        raise ImportFailed(f"cannot read {path}: {exc.strerror}") from exc
    with opened as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if compressed else file
        limit = EXPANSION_ALLOWED_BYTES + path.stat().st_size * MAX_EXPANSION if compressed else None
        bounded = _Bounded(stream, limit)  # type: ignore[arg-type]
        try:
            with tarfile.open(fileobj=bounded, mode="r:") as tar:  # type: ignore[call-overload]
                while (member := tar.next()) is not None:
                    tar.members.clear()  # tarfile would remember every one
                    yield from _from_member(tar, member, shard, choice)
        except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as exc:
            shard.reject(path.name, f"is no tar, or damaged or cut off: what follows is lost ({exc})")


def _from_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Staging, choice: _Choice
) -> Iterator[_File]:
    parts = PurePosixPath(member.name).parts
    shown = member.name[:300]
    if member.isdir() or not parts or parts[-1].startswith("."):
        return
    if not member.isreg():
        shard.reject(shown, "is a link or no regular file")
    elif ".." in parts or member.name.startswith("/"):
        shard.reject(shown, "has a path that leads outside")
    elif len(parts) < 2:
        shard.reject(shown, "is in no category's folder: expected <category>/<image>")
    elif member.size > MAX_FILE_BYTES:
        shard.reject(shown, _too_large(member.size))
    elif choice.takes(parts[-2]):
        content = tar.extractfile(member)
        assert content is not None  # a regular file
        yield _File(shown, parts[-2], content.read())


def _too_large(size_bytes: int) -> str:
    return f"has {size_bytes} bytes; a picture may have {MAX_FILE_BYTES}"


class _Bounded:
    """What tarfile needs of a file, with limits on one read and on all that a compressed one expands to."""

    def __init__(self, file: BinaryIO, limit_bytes: int | None) -> None:
        self._file = file
        self._limit_bytes = limit_bytes

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_FILE_BYTES:
            raise tarfile.ReadError(f"a header asks for {size} bytes")
        data = self._file.read(size)
        self._check()
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = self._file.seek(offset, whence)
        self._check()
        return position

    def tell(self) -> int:
        return self._file.tell()

    def _check(self) -> None:
        if self._limit_bytes is not None and self._file.tell() > self._limit_bytes:
            raise tarfile.ReadError(f"it expands more than {MAX_EXPANSION} times")
