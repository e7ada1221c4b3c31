"""A viewer that shares no disk with the pipeline brings what it shows from a real S3 server: once, checked, and again
when it did not arrive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from core.objects import StoreUnavailable
from core.settings import settings
from pipeline import mirror, workspace
from pipeline.git import WorkspaceError, git
from tests.support.object_store import BUCKET, ObjectStore, object_store

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning")  # in DVC

SHARD = b"not Parquet, but nobody here reads it" * 10_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture
def at(
    server: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[str], Path]]:
    """Works on that data folder from then on; returns the home in it."""
    monkeypatch.chdir(tmp_path)  # not the checkout: its .env is none of a test's business
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)

    def change(folder: str) -> Path:
        monkeypatch.setenv("EMEND_DATA_DIR", str(tmp_path / folder))
        settings.cache_clear()
        return tmp_path / folder / "doodles"

    yield change
    settings.cache_clear()


@pytest.fixture
def origin(at: Callable[[str], Path]) -> Path:
    """A home whose first dataset version is in the store."""
    home = at("pipeline")
    mirror.prepare(home.parent, print, workspace.push)
    workspace.create_home(home, yaml.safe_dump({"train": {"epochs": 1}}))
    (home / "dataset" / "images-000001.parquet").write_bytes(SHARD)
    workspace.record_dataset(home, 1, "dataset 1 (run 1)")
    return home


def test_many_pictures_asked_for_at_once_bring_the_dataset_once(
    origin: Path, at: Callable[[str], Path]
) -> None:
    home = at("viewer")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: mirror.bring_shards(home), range(64)))
    assert (home / "dataset" / "images-000001.parquet").read_bytes() == SHARD
    assert git(home, "tag").split() == ["dataset-1"]
    assert list(home.rglob("*.brought")) == []


def test_a_history_that_did_not_arrive_whole_is_fetched_again(
    origin: Path, at: Callable[[str], Path], server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "LOOK_AGAIN_SECONDS", 0)
    home = at("another-viewer")
    kept = next((server.folder / "buckets" / BUCKET).rglob("*home.bundle/_"))
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StoreUnavailable):
        mirror.bring_history(home)
    kept.write_bytes(whole)
    assert mirror.bring_history(home)
    assert git(home, "rev-parse", "HEAD") == git(origin, "rev-parse", "HEAD")
    assert not mirror.bring_history(home)  # nothing new


def test_a_shard_that_is_damaged_in_the_store_is_not_taken(
    origin: Path, at: Callable[[str], Path], server: ObjectStore
) -> None:
    md5 = mirror.md5_of(origin / "dataset" / "images-000001.parquet")
    client = server.client()
    key = f"test/doodles/.dvc/cache/files/md5/{md5[:2]}/{md5[2:]}"
    client.put_object(Bucket=BUCKET, Key=key, Body=b"another file")
    home = at("third-viewer")
    with pytest.raises(StoreUnavailable, match="is damaged in the object store"):
        mirror.bring_shards(home)
    assert list((home / "dataset").glob("*")) == []


class NeverTakesAnything(BaseHTTPRequestHandler):
    """Knows no object, and hangs where one is to be sent: before the `100 Continue` a client may ask for, or after."""

    protocol_version = "HTTP/1.1"
    server: HangingServer

    def do_HEAD(self) -> None:
        self._answer(404, b"")

    def do_GET(self) -> None:
        self._answer(200, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")

    def do_PUT(self) -> None:
        self.server.asked_to_store.set()
        self.server.over.wait(120)
        self.close_connection = True

    def handle_expect_100(self) -> bool:
        self.do_PUT()
        return False

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class HangingServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), NeverTakesAnything)
        self.asked_to_store, self.over = threading.Event(), threading.Event()


def test_a_push_that_is_never_answered_ends(
    origin: Path, at: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = HangingServer()
    threading.Thread(target=hanging.serve_forever, daemon=True).start()
    monkeypatch.delenv("STORAGE_URL")
    monkeypatch.setenv("DVC_REMOTE_URL", "s3://emend/dvc")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{hanging.server_address[1]}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(workspace, "READ_TIMEOUT_SECONDS", 1)
    at("pipeline")
    try:
        with pytest.raises(WorkspaceError, match="could not push"):
            workspace.push(origin)
        assert hanging.asked_to_store.is_set()
    finally:
        hanging.over.set()
        hanging.shutdown()
        hanging.server_close()
