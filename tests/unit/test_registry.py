"""The registry client against a scripted HTTP server. Against a real MLflow: integration/test_model_server.py."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from core.registry import (
    ArtifactError,
    Metric,
    Registry,
    RegistryError,
    RegistryUnavailable,
    Version,
    VersionNotFound,
)

Answer = tuple[int, Any]
MLFLOW = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
VERSION = {
    "name": "doodles",
    "version": "3",
    "creation_timestamp": 1_700_000_000_000,
    "source": "models:/m-1",
    "run_id": "abc",
    "tags": [{"key": "dataset_version", "value": "12"}],
    "aliases": ["champion"],
}


class Scripted:
    """Answers each path from a table; keeps what it was sent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Answer | Callable[[dict[str, list[str]]], Answer]] = {}
        self.sent: list[tuple[str, Any]] = []

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        parts = urlsplit(target)
        self.sent.append((f"{method} {parts.path}", json.loads(body) if body else None))
        found = self.answers.get(parts.path, (404, {}))
        status, content = found(parse_qs(parts.query)) if callable(found) else found
        return status, content if isinstance(content, bytes) else json.dumps(content).encode()


@pytest.fixture
def server() -> Iterator[Scripted]:
    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, content = scripted.answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = respond

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scripted = Scripted(f"http://127.0.0.1:{listening.server_port}")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield scripted
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.fixture
def registry(server: Scripted) -> Iterator[Registry]:
    with Registry(server.url, timeout_seconds=5) as opened:
        yield opened


def serve_artifacts(
    server: Scripted, folders: dict[str, list[dict[str, Any]]], files: dict[str, bytes]
) -> None:
    server.answers |= {
        f"{MLFLOW}/model-versions/get": (200, {"model_version": VERSION}),
        f"{MLFLOW}/model-versions/get-download-uri": (
            200,
            {"artifact_uri": "mlflow-artifacts:/1/models/m-1"},
        ),
        ARTIFACTS: lambda query: (200, {"files": folders.get(query["path"][0], [])}),
        **{f"{ARTIFACTS}/1/models/m-1/{path}": (200, content) for path, content in files.items()},
    }


def test_importing_it_brings_in_neither_mlflow_nor_numpy() -> None:
    program = "import sys, core.registry; print(sorted({'mlflow', 'numpy', 'torch'} & set(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "[]"


def test_version_is_read_in_full(server: Scripted, registry: Registry) -> None:
    server.answers[f"{MLFLOW}/registered-models/alias"] = (200, {"model_version": VERSION})
    assert registry.version_by_alias("doodles", "champion") == Version(
        name="doodles",
        version=3,
        source="models:/m-1",
        run_id="abc",
        tags={"dataset_version": "12"},
        aliases=("champion",),
        created_at=datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    "refusal",
    [
        (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "Registered model alias x not found."}),
        (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model with name=x not found"}),
    ],
)
def test_missing_alias_is_none(server: Scripted, registry: Registry, refusal: Answer) -> None:
    server.answers[f"{MLFLOW}/registered-models/alias"] = refusal
    assert registry.version_by_alias("doodles", "champion") is None


def test_missing_version_is_named(server: Scripted, registry: Registry) -> None:
    server.answers[f"{MLFLOW}/model-versions/get"] = (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})
    with pytest.raises(VersionNotFound, match="'doodles' has no version 9"):
        registry.version("doodles", 9)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_server_in_trouble_is_unavailable(server: Scripted, registry: Registry, status: int) -> None:
    server.answers[f"{MLFLOW}/registered-models/search"] = (status, b"<html>")
    with pytest.raises(RegistryUnavailable):
        registry.models()


def test_server_away_is_unavailable_and_its_password_is_not_told() -> None:
    with (
        Registry("http://admin:secret@127.0.0.1:9", timeout_seconds=1) as registry,
        pytest.raises(RegistryUnavailable, match="is it running") as caught,
    ):
        registry.models()
    assert "secret" not in str(caught.value)


def test_something_else_on_that_port_is_said_so(server: Scripted, registry: Registry) -> None:
    server.answers[f"{MLFLOW}/registered-models/search"] = (200, b"<html>hello</html>")
    with pytest.raises(RegistryError, match="is MLFLOW_TRACKING_URI an MLflow server"):
        registry.models()


def test_a_file_store_is_refused() -> None:
    with pytest.raises(RegistryError, match="http"):
        Registry("sqlite:///mlflow.db")


def test_listing_follows_pages(server: Scripted, registry: Registry) -> None:
    first = {"registered_models": [{"name": "doodles", "aliases": [{"alias": "champion", "version": "2"}]}]}
    second = {"registered_models": [{"name": "photos"}]}
    server.answers[f"{MLFLOW}/registered-models/search"] = lambda query: (
        (200, second) if query.get("page_token") == ["2"] else (200, {**first, "next_page_token": "2"})
    )
    assert registry.models() == ["doodles", "photos"]
    assert registry.aliased("champion") == {"doodles": 2}


def test_long_curves_are_sent_in_pieces(server: Scripted, registry: Registry) -> None:
    server.answers[f"{MLFLOW}/runs/log-batch"] = (200, {})
    registry.log_batch(
        "abc", metrics=[Metric("loss", i / 2, step=i) for i in range(1500)], params={"lr": "0.1"}
    )
    bodies = [body for _, body in server.sent]
    assert [len(body["metrics"]) for body in bodies] == [800, 700]
    assert [len(body["params"]) for body in bodies] == [1, 0]


def test_not_a_number_is_sent_as_mlflow_spells_it(server: Scripted, registry: Registry) -> None:
    server.answers[f"{MLFLOW}/runs/log-batch"] = (200, {})
    registry.log_batch("abc", metrics=[Metric("loss", float("nan")), Metric("loss", float("-inf"), step=1)])
    assert [point["value"] for point in server.sent[0][1]["metrics"]] == ["NaN", "-Infinity"]


def test_nothing_to_log_sends_nothing(server: Scripted, registry: Registry) -> None:
    registry.log_batch("abc")
    assert server.sent == []


def test_download_is_whole(server: Scripted, registry: Registry, tmp_path: Path) -> None:
    folders = {
        "1/models/m-1": [
            {"path": "model.onnx", "is_dir": False, "file_size": 4},
            {"path": "extra_files", "is_dir": True},
        ],
        "1/models/m-1/extra_files": [{"path": "input.json", "is_dir": False, "file_size": 2}],
    }
    serve_artifacts(server, folders, {"model.onnx": b"onnx", "extra_files/input.json": b"{}"})
    registry.download("doodles", 3, tmp_path / "doodles" / "3")
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {f"doodles/3/{name}" for name in ("model.onnx", "extra_files/input.json", "version.json")}
    assert json.loads((tmp_path / "doodles/3/version.json").read_text())["source"] == "models:/m-1"


def test_files_that_are_not_needed_are_not_asked_for(
    server: Scripted, registry: Registry, tmp_path: Path
) -> None:
    folders = {
        "1/models/m-1": [
            {"path": "model.onnx", "is_dir": False, "file_size": 4},
            {"path": "conda.yaml", "is_dir": False, "file_size": 9},
            {"path": "extra_files", "is_dir": True},
        ],
        "1/models/m-1/extra_files": [{"path": "input.json", "is_dir": False, "file_size": 2}],
    }
    serve_artifacts(server, folders, {"model.onnx": b"onnx"})
    registry.download("doodles", 3, tmp_path / "3", without=("conda.yaml", "input.json"))
    assert {path.name for path in (tmp_path / "3").rglob("*") if path.is_file()} == {
        "model.onnx",
        "version.json",
    }


@pytest.mark.parametrize("content", [b"onn", b"onnx and more"])
def test_file_of_another_size_leaves_nothing(
    server: Scripted, registry: Registry, tmp_path: Path, content: bytes
) -> None:
    listing = {"1/models/m-1": [{"path": "model.onnx", "is_dir": False, "file_size": 4}]}
    serve_artifacts(server, listing, {"model.onnx": content})
    with pytest.raises(ArtifactError, match="4 were listed"):
        registry.download("doodles", 3, tmp_path / "3")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\x00b"])
@pytest.mark.parametrize("is_dir", [False, True])
def test_listing_cannot_lead_out_of_the_folder(
    server: Scripted, registry: Registry, tmp_path: Path, path: str, is_dir: bool
) -> None:
    serve_artifacts(server, {"1/models/m-1": [{"path": path, "is_dir": is_dir}]}, {})
    with pytest.raises(ArtifactError, match="not a plain file name"):
        registry.download("doodles", 3, tmp_path / "3")
    assert list(tmp_path.iterdir()) == []


def test_folders_without_end_are_given_up_on(server: Scripted, registry: Registry, tmp_path: Path) -> None:
    serve_artifacts(server, {}, {})
    server.answers[ARTIFACTS] = (200, {"files": [{"path": "deeper", "is_dir": True}]})
    with pytest.raises(ArtifactError, match="too many or too deep"):
        registry.download("doodles", 3, tmp_path / "3")


def test_files_that_are_gone_are_an_error(server: Scripted, registry: Registry, tmp_path: Path) -> None:
    serve_artifacts(server, {}, {})
    with pytest.raises(ArtifactError, match="files are gone"):
        registry.download("doodles", 3, tmp_path / "3")


def test_store_behind_no_proxy_is_named(server: Scripted, registry: Registry, tmp_path: Path) -> None:
    serve_artifacts(server, {}, {})
    server.answers[f"{MLFLOW}/model-versions/get-download-uri"] = (200, {"artifact_uri": "s3://bucket/m"})
    with pytest.raises(ArtifactError, match="--serve-artifacts"):
        registry.download("doodles", 3, tmp_path / "3")
