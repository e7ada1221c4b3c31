"""The object store against a real S3 server: whole or absent, checked, and named when it refuses."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from core.errors import ConfigurationError
from core.objects import Objects, StoreUnavailable
from core.patience import patiently
from tests.support.object_store import BUCKET, KEY, SECRET, ObjectStore, object_store


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def store(server: ObjectStore, keys: None) -> Objects:
    made = Objects(f"s3://{BUCKET}/test", endpoint=server.url)
    made.prepare()
    return made


def test_the_bucket_is_made_once(server: ObjectStore, keys: None) -> None:
    fresh = Objects("s3://another-bucket/a/b", endpoint=server.url)
    assert (fresh.prepare(), fresh.prepare()) == (True, False)


@pytest.mark.parametrize("name", ["doodles/images/ab/ab12.png", "café/a b+c&d=é?.png", "x"])
def test_what_is_put_is_got_listed_and_removed(store: Objects, name: str) -> None:
    store.put(name, b"content")
    assert store.get(name) == b"content"
    folder = name.rpartition("/")[0]
    assert name in [each.name for each in store.list(folder)]
    store.remove([name, "never/was/there"])
    assert store.get(name) is None
    assert store.etag(name) is None


def test_a_large_file_goes_in_parts_and_comes_back_the_same(store: Objects, tmp_path: Path) -> None:
    source, target = tmp_path / "large", tmp_path / "folder" / "fetched"
    source.write_bytes(os.urandom(60_000_000))
    store.put_file("large", source)
    assert store.get_file("large", target)
    assert target.read_bytes() == source.read_bytes()
    before = store.etag("large")
    store.put_file("large", target)
    assert before is not None
    store.put("large", b"changed")
    assert store.etag("large") != before


def test_a_file_that_is_not_there_leaves_nothing_behind(store: Objects, tmp_path: Path) -> None:
    assert not store.get_file("absent", tmp_path / "folder" / "absent")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_object_damaged_on_the_server_is_not_taken(store: Objects, server: ObjectStore) -> None:
    store.put("damaged", b"as it was")
    kept = next((server.folder / "buckets" / BUCKET).rglob("*damaged/_"))
    kept.write_bytes(b"as it is!")
    with pytest.raises(StoreUnavailable, match="cannot fetch damaged"):
        store.get("damaged")


def test_a_link_gives_one_object_for_a_while(store: Objects) -> None:
    store.put("doodles/model.onnx", b"weights")
    url = store.link("doodles/model.onnx", "doodles-7.onnx", 60)
    answer = httpx.get(url)
    assert (answer.status_code, answer.content) == (200, b"weights")
    assert answer.headers["content-disposition"] == 'attachment; filename="doodles-7.onnx"'
    assert httpx.get(url.replace("model.onnx", "other.onnx")).status_code == 403
    assert httpx.get(url.replace("Expires=60", "Expires=6000")).status_code == 403


@pytest.mark.parametrize(
    ("key", "secret", "named"),
    [
        ("nobody", SECRET, "AWS_ACCESS_KEY_ID"),
        (KEY, "wrong", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_wrong_keys_are_named_at_start_and_never_shown(
    server: ObjectStore, keys: None, monkeypatch: pytest.MonkeyPatch, key: str, secret: str, named: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with pytest.raises(ConfigurationError, match=named) as refused:
        Objects(f"s3://{BUCKET}", endpoint=server.url).prepare()
    assert secret not in refused.value.message


def test_a_bucket_name_that_s3_does_not_take_is_named(server: ObjectStore, keys: None) -> None:
    with pytest.raises(ConfigurationError, match="name in STORAGE_URL"):
        Objects("s3://Emend_Bucket", endpoint=server.url).prepare()


def test_uploads_given_up_long_ago_are_aborted(store: Objects, server: ObjectStore) -> None:
    client = server.client()
    old, new = (
        client.create_multipart_upload(Bucket=BUCKET, Key=f"test/{name}")["UploadId"]
        for name in ("old", "new")
    )
    long_ago = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    os.utime(server.folder / "buckets" / BUCKET / "uploads" / old / "upload.json", (long_ago, long_ago))
    assert store.abort_old_uploads() == 1
    left = [upload["UploadId"] for upload in client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]]
    assert left == [new]


def test_a_server_that_is_away_is_said_within_seconds_and_waited_for(tmp_path: Path, keys: None) -> None:
    with object_store(tmp_path) as short_lived:
        store = Objects(f"s3://{BUCKET}", endpoint=short_lived.url)
        store.prepare()
        short_lived.stop()
        with pytest.raises(StoreUnavailable, match="cannot store picture: the object store"):
            store.put("picture", b"x")
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            if len(said) == 1:
                short_lived.start()

        patiently(lambda: store.put("picture", b"x"), say)
        assert store.get("picture") == b"x"
        assert said


def test_a_missing_bucket_is_named_with_what_to_do(server: ObjectStore, keys: None) -> None:
    nowhere = Objects("s3://not-made-yet/x", endpoint=server.url)
    with pytest.raises(StoreUnavailable, match="`emend storage` makes it"):
        nowhere.put("a", b"x")


def test_a_proxys_404_is_not_taken_for_a_missing_object(keys: None) -> None:
    class Restarting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"404 page not found"
            self.send_response(404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Restarting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store = Objects("s3://emend/test", endpoint=f"http://127.0.0.1:{server.server_port}")
    try:
        acts: list[Callable[[], object]] = [
            lambda: store.get("actor_salt"),
            lambda: store.put("a", b"b"),
            lambda: store.list("a"),
        ]
        for act in acts:
            with pytest.raises(StoreUnavailable):
                act()
    finally:
        server.shutdown()
        server.server_close()
