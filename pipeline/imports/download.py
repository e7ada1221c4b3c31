"""Fetches the first rows of Quick, Draw! bitmaps: `limit * 784` bytes of each file, not all of its 100 MB.

An .npy file is a short header and then the rows, so a byte range of it with a header of its own is again a whole
.npy file. A download that was cut off goes on where it stopped, also in another process; a file appears under its
name only when it is whole.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
from numpy.lib import format as npy

from pipeline.imports.staging import ImportFailed, Progress, checked_label

BASE_URL = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap"
ROW_BYTES = 784
HEADER_BYTES = 4_096  # more than any header of a two-dimensional array has
ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.5  # before the second attempt; doubles
_CONTENT_RANGE = re.compile(r"bytes (?P<start>\d+)-\d+/(?P<total>\d+|\*)")
TIMEOUT = httpx.Timeout(30.0, connect=10.0)


class _TryAgain(Exception):
    """The server failed in a way that may pass; the message says how."""


@dataclass(frozen=True)
class _Remote:
    """header_bytes, rows: of the file there. mark: changes when the file does."""

    url: str
    header_bytes: int
    rows: int
    mark: str


def download_quickdraw(
    directory: Path,
    categories: Collection[str],
    limit: int | None = None,
    base_url: str = BASE_URL,
    progress: Progress | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> list[Path]:
    """`<category>.npy` with the first `limit` rows of each; those that are there already are kept.

    progress: called with the number of drawings fetched so far, of all categories together.
    Raises ImportFailed at the first that cannot be had; asking again goes on from there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    fetched = 0
    with httpx.Client(timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}) as client:
        for category in sorted({checked_label(c) for c in categories}):
            path = directory / f"{category}.npy"
            if not _is_there(path, limit):
                url = f"{base_url.rstrip('/')}/{quote(path.name)}"
                report = None if progress is None else _after(fetched, progress)
                fetched += _fetch(client, url, path, limit, report, pause)
            paths.append(path)
    return paths


def _after(fetched: int, progress: Progress) -> Progress:
    return lambda rows: progress(fetched + rows)


def _is_there(path: Path, limit: int | None) -> bool:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return (
        limit is not None
        and isinstance(rows, np.ndarray)
        and rows.dtype == np.uint8
        and rows.shape[1:] == (ROW_BYTES,)
        and len(rows) >= limit
    )


def _fetch(
    client: httpx.Client,
    url: str,
    path: Path,
    limit: int | None,
    progress: Progress | None,
    pause: Callable[[float], None],
) -> int:
    """The number of rows the file then has."""
    for attempt in range(ATTEMPTS):
        if attempt:
            pause(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            remote = _look(client, url)
            rows = remote.rows if limit is None else min(limit, remote.rows)
            part = path.parent / f".{path.stem}.{remote.mark}-{rows}.part"
            _continue(client, remote, rows, part, progress)
        except (_TryAgain, httpx.TransportError) as exc:
            problem = str(exc) or type(exc).__name__
            continue
        part.replace(path)
        return rows
    raise ImportFailed(
        f"{url} could not be fetched in {ATTEMPTS} attempts ({problem}); ask again to go on from there"
    )


def _look(client: httpx.Client, url: str) -> _Remote:
    """Reads the remote file's header and checks that what it promises is what is there."""
    with _range(client, url, 0, HEADER_BYTES) as (response, chunks):
        head = io.BytesIO(b"".join(chunks))
        total = _total_bytes(response)
    try:
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[
            npy.read_magic(head)
        ]
        shape, fortran, dtype = read_header(head)
    except (ValueError, KeyError) as exc:
        raise ImportFailed(f"{url} is no .npy file") from exc
    if dtype != np.uint8 or fortran or len(shape) != 2 or shape[1] != ROW_BYTES or shape[0] < 1:
        raise ImportFailed(f"{url} holds {dtype} {shape}; expected uint8 (N, {ROW_BYTES})")
    promised = head.tell() + shape[0] * ROW_BYTES
    if total is not None and total != promised:
        raise ImportFailed(f"{url} has {total} bytes; its header promises {promised}")
    return _Remote(url, head.tell(), shape[0], _mark(response))


def _continue(
    client: httpx.Client,
    remote: _Remote,
    rows: int,
    part: Path,
    progress: Progress | None,
) -> None:
    """Appends to `part`, which is an .npy file with fewer rows than its header says, until it is whole."""
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (rows, ROW_BYTES)})
    head, wanted = header.getvalue(), rows * ROW_BYTES
    with part.open("ab") as file:
        if file.tell() < len(head):
            file.truncate(0)
            file.write(head)
        done = file.tell() - len(head)
        if done > wanted:
            file.truncate(len(head))
            done = 0
        if done < wanted:
            start = remote.header_bytes + done
            with _range(client, remote.url, start, wanted - done) as (response, chunks):
                if _mark(response) != remote.mark:
                    raise _TryAgain("the file changed while it was being fetched")
                for chunk in chunks:
                    file.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done // ROW_BYTES)
        file.flush()
        os.fsync(file.fileno())
    if done < wanted:
        raise _TryAgain(f"cut off after {done} of {wanted} bytes")


@contextmanager
def _range(
    client: httpx.Client, url: str, start: int, length: int
) -> Iterator[tuple[httpx.Response, Iterator[bytes]]]:
    """At most `length` bytes from `start` on; also from a server that ignores ranges and sends the file from 0."""
    asked = {"Range": f"bytes={start}-{start + length - 1}"}
    with client.stream("GET", url, headers=asked) as response:
        _check(response, url, start)
        skip = start if response.status_code == httpx.codes.OK else 0
        # No chunk size: httpx would hold back, and lose, what came before a connection broke.
        yield response, _cut(response.iter_raw(), skip, length)


def _check(response: httpx.Response, url: str, start: int) -> None:
    status = response.status_code
    if status == httpx.codes.NOT_FOUND:
        raise ImportFailed(f"{url} does not exist; check the category's spelling in the data set's list")
    if status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS) or status >= 500:
        raise _TryAgain(f"the server answered {status}")
    if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        raise ImportFailed(f"{url} could not be fetched: the server answered {status}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ImportFailed(f"{url} came compressed, which was not asked for")
    if status == httpx.codes.PARTIAL_CONTENT:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found["start"]) != start:
            raise ImportFailed(f"{url}: the server sent another range than was asked for")


def _total_bytes(response: httpx.Response) -> int | None:
    """How large the remote file is, when the server says."""
    if response.status_code == httpx.codes.OK:
        length = response.headers.get("Content-Length")
        return None if length is None else int(length)
    found = _CONTENT_RANGE.fullmatch(response.headers["Content-Range"])
    assert found is not None  # _check has looked
    return None if found["total"] == "*" else int(found["total"])


def _mark(response: httpx.Response) -> str:
    """Changes when the remote file does, if the server tells."""
    version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    return hashlib.sha256(version.encode()).hexdigest()[:12]


def _cut(chunks: Iterator[bytes], skip: int, length: int) -> Iterator[bytes]:
    for chunk in chunks:
        kept = chunk[skip : skip + length]
        skip = max(0, skip - len(chunk))
        length -= len(kept)
        if kept:
            yield kept
        if length <= 0:
            return
