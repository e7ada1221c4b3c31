"""The download of bitmaps, against a real HTTP server that has range support, and one that misbehaves."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from core.images import InputSpec
from pipeline.imports import ImportFailed, download_quickdraw, stage_quickdraw
from pipeline.imports.download import ATTEMPTS

ROWS = np.random.default_rng(0).integers(1, 256, (300, 784), dtype=np.uint8)


class Bucket(ThreadingHTTPServer):
    """Serves `files`. faults: what to do wrong, one for each request, in order; then it behaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.requests: list[tuple[str, str | None]] = []
        self.sent_bytes = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/bitmaps"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        data = self.server.files.get(self.path)
        if data is None or fault.isdigit():
            self.send_response(int(fault) if fault else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "")
        assert found is not None
        start, end = int(found[1]), min(int(found[2]), len(data) - 1)
        if fault == "ignores the range":
            start, end = 0, len(data) - 1
        if fault == "another range":
            start += 7
        body = data[start : end + 1]
        self.send_response(200 if fault == "ignores the range" else 206)
        self.send_header("ETag", f'"{hash(data)}"' if fault != "changes" else '"other"')
        self.send_header("Content-Length", str(len(body)))
        if fault == "compressed":
            self.send_header("Content-Encoding", "gzip")
        if fault != "ignores the range":
            total = len(data) + 1 if fault == "lies about its size" else len(data)
            self.send_header("Content-Range", f"bytes {start}-{end}/{total}")
        self.end_headers()
        if fault == "cuts off":
            body = body[: len(body) // 2]
            self.close_connection = True
        try:
            self.wfile.write(body)
            self.server.sent_bytes += len(body)
        except ConnectionError:  # the client had enough
            self.close_connection = True


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    np.save(tmp_path / "made.npy", ROWS)
    with Bucket() as server:
        server.files = {
            f"/bitmaps/{name}.npy": (tmp_path / "made.npy").read_bytes() for name in ("cat", "ice%20cream")
        }
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(bucket: Bucket, folder: Path, limit: int | None = 100, category: str = "cat") -> Path:
    [path] = download_quickdraw(folder, [category], limit, bucket.url, pause=lambda seconds: None)
    return path


def test_only_the_first_rows_are_fetched(bucket: Bucket, tmp_path: Path) -> None:
    seen: list[int] = []
    paths = download_quickdraw(tmp_path / "new", ["ice cream", "cat"], 100, bucket.url + "/", seen.append)
    assert [path.name for path in paths] == ["cat.npy", "ice cream.npy"]
    for path in paths:
        rows = np.load(path, allow_pickle=False)
        assert rows.shape == (100, 784)
        assert np.array_equal(rows, ROWS[:100])
    assert bucket.sent_bytes == 2 * (4_096 + 100 * 784)
    assert seen == sorted(seen)
    assert seen[-1] == 200
    assert stage_quickdraw(tmp_path / "new", tmp_path, InputSpec("L", 28, 28, True)).images == 200


@pytest.mark.parametrize("limit", [None, 300, 5_000])
def test_no_more_rows_come_than_there_are(bucket: Bucket, tmp_path: Path, limit: int | None) -> None:
    assert np.array_equal(np.load(fetch(bucket, tmp_path, limit)), ROWS)


def test_files_that_are_there_are_not_fetched_again(bucket: Bucket, tmp_path: Path) -> None:
    fetch(bucket, tmp_path, 50)
    asked = len(bucket.requests)
    fetch(bucket, tmp_path, 50)
    fetch(bucket, tmp_path, 20)
    assert len(bucket.requests) == asked
    assert len(np.load(fetch(bucket, tmp_path, 60))) == 60


@pytest.mark.parametrize(
    "faults",
    [
        ["500"],
        ["", "503"],
        ["429", "408"],
        ["cuts off"],
        ["", "cuts off"],
        ["", "cuts off", "", "cuts off", "", "cuts off"],
        ["ignores the range"],
        ["", "ignores the range"],
        ["", "cuts off", "", "ignores the range"],
        ["", "changes"],
    ],
)
def test_a_server_that_fails_now_and_then_is_asked_again(
    bucket: Bucket, tmp_path: Path, faults: list[str]
) -> None:
    bucket.faults = list(faults)
    assert np.array_equal(np.load(fetch(bucket, tmp_path)), ROWS[:100])
    assert not bucket.faults
    assert not list(tmp_path.glob(".*"))


def test_what_was_cut_off_goes_on_where_it_stopped(bucket: Bucket, tmp_path: Path) -> None:
    bucket.faults = ["", "cuts off", *["500"] * ATTEMPTS]
    with pytest.raises(ImportFailed, match="ask again to go on"):
        fetch(bucket, tmp_path)
    assert not (tmp_path / "cat.npy").exists()
    bucket.faults, bucket.requests = [], []
    assert np.array_equal(np.load(fetch(bucket, tmp_path)), ROWS[:100])
    assert bucket.requests[-1][1] == f"bytes={128 + 39_200}-{128 + 78_399}"


def test_a_file_that_changed_meanwhile_is_begun_anew(bucket: Bucket, tmp_path: Path) -> None:
    bucket.faults = ["", "cuts off", *["500"] * ATTEMPTS]
    with pytest.raises(ImportFailed):
        fetch(bucket, tmp_path)
    np.save(tmp_path / "made.npy", ROWS[::-1])
    bucket.files["/bitmaps/cat.npy"] = (tmp_path / "made.npy").read_bytes()
    bucket.faults = []
    assert np.array_equal(np.load(fetch(bucket, tmp_path)), ROWS[::-1][:100])


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("404", "does not exist"),
        ("403", "answered 403"),
        ("302", "answered 302"),
        ("416", "answered 416"),
        ("another range", "another range"),
        ("lies about its size", "promises"),
        ("compressed", "compressed"),
    ],
)
def test_what_will_not_pass_is_said_at_once(bucket: Bucket, tmp_path: Path, fault: str, says: str) -> None:
    bucket.faults = [fault]
    with pytest.raises(ImportFailed, match=says):
        fetch(bucket, tmp_path / "new")
    assert len(bucket.requests) == 1
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize(
    "content",
    [b"", b"hello" * 100, b"\x93NUMPY\x01\x00\x10\x00junk", b"\x93NUMPY\x07\x00"],
)
def test_what_is_no_bitmap_file_is_refused(bucket: Bucket, tmp_path: Path, content: bytes) -> None:
    bucket.files["/bitmaps/cat.npy"] = content
    with pytest.raises(ImportFailed):
        fetch(bucket, tmp_path)


@pytest.mark.parametrize(
    "array", [ROWS.astype(float), ROWS.reshape(-1, 28, 28), np.array([{}], dtype=object)]
)
def test_arrays_of_another_kind_are_refused(bucket: Bucket, tmp_path: Path, array: NDArray[Any]) -> None:
    np.save(tmp_path / "other.npy", array, allow_pickle=True)
    bucket.files["/bitmaps/cat.npy"] = (tmp_path / "other.npy").read_bytes()
    with pytest.raises(ImportFailed, match="expected uint8"):
        fetch(bucket, tmp_path)


def test_nobody_there_is_said(tmp_path: Path) -> None:
    pauses: list[float] = []
    with pytest.raises(ImportFailed, match=f"{ATTEMPTS} attempts"):
        download_quickdraw(tmp_path, ["cat"], 10, "http://127.0.0.1:9", pause=pauses.append)
    assert pauses == [0.5, 1, 2, 4, 8]


def test_a_category_is_no_path(bucket: Bucket, tmp_path: Path) -> None:
    from core.errors import InvalidLabel

    with pytest.raises(InvalidLabel):
        fetch(bucket, tmp_path, category="../../etc/passwd")
