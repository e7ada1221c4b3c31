"""The scoring protocol, loading and swapping of versions, and following, on real tiny graphs without MLflow."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import shutil
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from structlog.testing import capture_logs

from core.registry import Registry, RegistryUnavailable, Version, VersionNotFound
from serving.app import ModelServer, create_app
from serving.errors import (
    BadAnswer,
    BadRequest,
    NotReady,
    ServingError,
    UnknownModel,
    UnknownVersion,
    UnsupportedContentType,
    UnusableVersion,
    VersionRejected,
)
from serving.follower import LISTENING_POLL_SECONDS, POLL_SECONDS, Follower
from serving.on_demand import OnDemand
from serving.protocol import MOST_BODY_BYTES, MOST_IMAGES, parse, render
from serving.versions import Versions, load
from tests.support.http_server import http_client
from tests.support.tiny_model import (
    CATEGORIES,
    DOODLE,
    PHOTO,
    answer,
    extra_files,
    graph,
    images,
    write_version,
)
from tests.support.waiting import wait_until

JSON = "application/json"
RAW = "application/octet-stream"


def parsed(payload: Any, shape: tuple[int, ...] = DOODLE) -> Any:
    return parse(json.dumps(payload).encode(), JSON, shape)


# The protocol


@pytest.mark.parametrize("shape", [DOODLE, PHOTO])
def test_every_form_the_stock_server_takes_gives_the_same_pixels(shape: tuple[int, ...]) -> None:
    pixels = images(shape=shape)
    listed, flat = pixels.tolist(), pixels.reshape(len(pixels), -1).tolist()
    for payload in (
        {"inputs": listed},
        {"inputs": {"pixels": listed}},
        {"instances": listed},
        {"instances": [{"pixels": image} for image in listed]},
        {"dataframe_split": {"columns": ["pixels"], "data": [[row] for row in flat]}},
        {"dataframe_records": [{"pixels": row} for row in flat]},
        {"inputs": pixels.astype(float).tolist(), "params": {}},
    ):
        assert np.array_equal(parsed(payload, shape), pixels)
    assert np.array_equal(parse(pixels.tobytes(), RAW, shape), pixels)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        [1],
        5,
        None,
        {"inputs": [], "instances": []},
        {"inputs": None},
        {"inputs": "abc"},
        {"inputs": []},
        {"inputs": [[]]},
        {"inputs": {"ink": []}},
        {"inputs": np.zeros((28, 28)).tolist()},
        {"inputs": np.zeros((1, 784)).tolist()},
        {"inputs": np.zeros((1, 32, 32, 3)).tolist()},
        {"inputs": [*np.zeros((1, 28, 28)).tolist(), [[0]]]},
        {"inputs": np.full((1, 28, 28), 256).tolist()},
        {"inputs": np.full((1, 28, 28), -1).tolist()},
        {"inputs": np.full((1, 28, 28), 0.5).tolist()},
        {"inputs": np.full((1, 28, 28), 10**400, dtype=object).tolist()},
        {"inputs": np.full((1, 28, 28), None).tolist()},
        {"inputs": np.full((1, 28, 28), "ink").tolist()},
        {"inputs": np.full((1, 28, 28), "nan").tolist()},
        {"inputs": [[["x" * 1000] + [0] * 27] + [[0] * 28] * 27]},
        {"inputs": np.zeros((MOST_IMAGES + 1, 28, 28), int).tolist()},
        {"instances": [{"pixels": []}, 5]},
        {"dataframe_split": []},
        {"dataframe_split": {"columns": ["ink"], "data": []}},
        {"dataframe_split": {"columns": ["pixels"], "data": [[1, 2]]}},
        {"dataframe_split": {"columns": ["pixels"], "data": [[[0] * 783]]}},
        {"dataframe_records": {}},
        {"dataframe_records": [[0] * 784]},
    ],
    ids=lambda payload: str(payload)[:30],
)
def test_anything_else_is_a_bad_request(payload: Any) -> None:
    with pytest.raises(BadRequest):
        parsed(payload)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"inputs": ',
        b"\xff\xfe",
        b'{"inputs": [[[NaN]]]}',
        b'{"inputs": [[[Infinity]]]}',
        b'{"inputs":' + b"[" * 100_000,
        b'{"inputs": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: str(body)[:20],
)
def test_broken_json_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest, match="not valid JSON"):
        parse(body, JSON, DOODLE)


def test_more_values_than_images_may_have_are_not_even_parsed() -> None:
    with pytest.raises(BadRequest, match="more values"):
        parse(b'{"inputs": [' + b"[]," * 1_000_000 + b"[]]}", JSON, DOODLE)


@pytest.mark.parametrize("shape", [DOODLE, PHOTO])
def test_as_many_images_as_allowed_fit(shape: tuple[int, ...]) -> None:
    pixels = np.full((MOST_IMAGES, *shape), 255, np.uint8)
    for payload in (
        {"instances": [{"pixels": image} for image in pixels.tolist()]},
        {"dataframe_records": [{"pixels": row} for row in pixels.reshape(MOST_IMAGES, -1).tolist()]},
    ):
        body = json.dumps(payload).encode()
        assert len(body) <= MOST_BODY_BYTES
        assert len(parse(body, JSON, shape)) == MOST_IMAGES


def test_messages_do_not_repeat_the_body() -> None:
    for body in (b'{"inputs": "swordfish"}', b'"swordfish', b'{"inputs": [["swordfish"]]}'):
        with pytest.raises(BadRequest) as caught:
            parse(body, JSON, DOODLE)
        assert "swordfish" not in caught.value.message


@pytest.mark.parametrize("size", [0, 1, 783, 785])
def test_raw_pixels_must_be_whole_images(size: int) -> None:
    with pytest.raises(BadRequest):
        parse(bytes(size), RAW, DOODLE)


def test_only_utf8_json_and_raw_pixels_are_taken() -> None:
    body = json.dumps({"inputs": images().tolist()}).encode()
    for content_type in ("application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'):
        assert len(parse(body, content_type, DOODLE)) == 2
    for content_type in (
        "",
        "text/csv",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin-1",
    ):
        with pytest.raises(UnsupportedContentType):
            parse(body, content_type, DOODLE)


def test_answer_is_written_as_the_stock_server_writes_it() -> None:
    # From `mlflow models serve`, MLflow 3.17.
    stock = b'{"predictions": {"probabilities": [[0.3333333432674408, 0.6666666865348816, 1.3363826214870676e-15]]}}'
    assert render(np.array([[1 / 3, 2 / 3, 1.3363826214870676e-15]], np.float32)) == stock


def test_answer_that_is_not_finite_is_never_sent() -> None:
    with pytest.raises(BadAnswer):
        render(np.array([[np.nan, 1]], np.float32))


# Loading


def good_files(model: Any, **changes: Any) -> dict[str, Any]:
    return {
        name.removesuffix(".json"): content for name, content in extra_files(model, images()).items()
    } | changes


def test_loaded_version_answers_as_its_graph(tmp_path: Path) -> None:
    model = graph(1)
    loaded = load(write_version(tmp_path, 7, model, **good_files(model)))
    assert (loaded.name, loaded.version, loaded.shape) == ("doodles", 7, DOODLE)
    pixels = images(5, seed=3)
    assert np.allclose(loaded.probabilities(pixels), answer(model, pixels), atol=1e-6)


def test_version_without_an_example_is_tried_on_a_blank_image(tmp_path: Path) -> None:
    load(write_version(tmp_path, 1, graph(1)))
    with pytest.raises(VersionRejected, match="not finite"):
        load(write_version(tmp_path, 2, graph(1, nan=True)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"example_answer": extra_files(graph(1), images(), liar=True)["example_answer.json"]},
            "differently",
        ),
        ({"example_answer": {"inputs": images().tolist(), "probabilities": [[1, 0, 0]]}}, "recorded was"),
        ({"example_answer": {"inputs": images().tolist(), "probabilities": "?"}}, "no usable probabilities"),
        ({"example_answer": {"inputs": images(shape=PHOTO).tolist()}}, "does not fit its graph"),
        ({"example_answer": [1]}, "not a JSON object"),
        (
            {"example_answer": {"inputs": images().tolist(), "probabilities": [[10**400]]}},
            "no usable probabilities",
        ),
        ({"categories": {"outputs": []}}, "names 0 outputs, the graph has 3"),
        ({"categories": {"outputs": 3}}, "no list of outputs"),
        ({"categories": {}}, "no list of outputs"),
    ],
)
def test_version_whose_files_contradict_its_graph_is_rejected(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    model = graph(1)
    with pytest.raises(VersionRejected, match=reason):
        load(write_version(tmp_path, 1, model, **good_files(model, **changes)))


def test_version_whose_files_are_no_json_is_rejected(tmp_path: Path) -> None:
    directory = write_version(tmp_path, 1, graph(1), **good_files(graph(1)))
    for content in (b"{", b"\xff", b'{"outputs":' + b"[" * 100_000):
        (directory / "extra_files" / "categories.json").write_bytes(content)
        with pytest.raises(VersionRejected, match=r"its categories\.json cannot be read"):
            load(directory)


def test_version_with_a_broken_graph_is_rejected(tmp_path: Path) -> None:
    directory = write_version(tmp_path, 1, graph(1))
    (directory / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(VersionRejected, match="does not load"):
        load(directory)
    (directory / "model.onnx").unlink()
    with pytest.raises(VersionRejected, match="does not load"):
        load(directory)


def test_graph_with_another_contract_is_rejected(tmp_path: Path) -> None:
    renamed = graph(1)
    renamed.graph.input[0].name = renamed.graph.node[0].input[0] = "image"
    with pytest.raises(VersionRejected, match="must map 'pixels'"):
        load(write_version(tmp_path, 1, renamed))
    fixed = graph(1)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(VersionRejected, match="only the first may be open"):
        load(write_version(tmp_path, 2, fixed))


# Swapping


def test_request_that_has_begun_ends_on_the_version_it_began_with(tmp_path: Path) -> None:
    versions = Versions("doodles")
    versions.swap(load(write_version(tmp_path, 1, graph(1))))
    begun = versions.live("doodles")
    gone = weakref.ref(begun)
    versions.swap(load(write_version(tmp_path, 2, graph(2))))
    assert versions.live("doodles").version == 2
    assert np.allclose(begun.probabilities(images()), answer(graph(1), images()), atol=1e-6)
    del begun
    gc.collect()
    assert gone() is None  # and with its last request it is freed


def test_unknown_model_and_model_without_version_differ() -> None:
    versions = Versions("doodles")
    versions.reject("photos", 1, "why")
    for name in ("doodles", "photos"):
        with pytest.raises(NotReady):
            versions.live(name)
    with pytest.raises(UnknownModel):
        versions.live("other")


# Following


ODD = 666  # a version that is fetched with an error nobody expects


class FolderRegistry(Registry):
    """The registry's answers from folders that `write_version` made; downloads are copies."""

    def __init__(self, source: Path) -> None:
        super().__init__("http://127.0.0.1:9")
        self.source = source
        self.champions: dict[str, int] = {}
        self.away = False
        self.artifacts_away = False
        self.downloads: list[int] = []

    def aliased(self, alias: str) -> dict[str, int]:
        if self.away:
            raise RegistryUnavailable("away")
        return dict(self.champions)

    def version_by_alias(self, name: str, alias: str) -> Version | None:
        number = self.champions.get(name) if alias == "champion" else None
        if number is None:
            return None
        return Version(
            name, number, f"models:/m-{number}", "r", {}, (alias,), datetime(2026, 1, 1, tzinfo=UTC)
        )

    def download(self, name: str, version: int, directory: Path, *, without: Collection[str] = ()) -> Version:
        self.downloads.append(version)
        if version == ODD:
            raise RuntimeError("odd")
        if self.artifacts_away:
            raise RegistryUnavailable("artifacts away")
        if not (self.source / name / str(version)).exists():
            raise VersionNotFound(f"model '{name}' has no version {version}")
        source = self.source / name / str(version)
        shutil.copytree(source, directory, ignore=shutil.ignore_patterns(*without))
        number = self.champions.get(name, version)
        found = Version(name, number, f"models:/m-{number}", "r", {}, (), datetime(2026, 1, 1, tzinfo=UTC))
        (directory / "version.json").write_text(
            json.dumps(
                {
                    "name": name,
                    "version": version,
                    "source": found.source,
                    "run_id": found.run_id,
                    "created_at": found.created_at.isoformat(),
                }
            )
        )
        return found


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[FolderRegistry]:
    for number in (1, 2, 3):
        write_version(tmp_path / "registry", number, graph(number))
    write_version(tmp_path / "registry", 4, graph(4, nan=True))
    with FolderRegistry(tmp_path / "registry") as opened:
        yield opened


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def versions() -> Versions:
    return Versions("doodles")


@pytest.fixture
def follower(registry: FolderRegistry, versions: Versions, tmp_path: Path, clock: Clock) -> Follower:
    return Follower(registry, versions, tmp_path / "cache", clock=clock)


def promote(registry: FolderRegistry, follower: Follower, version: int) -> None:
    registry.champions["doodles"] = version
    follower.poll()


def test_champion_is_followed_forth_and_back(
    registry: FolderRegistry, follower: Follower, versions: Versions
) -> None:
    for version in (1, 2, 1):
        promote(registry, follower, version)
        assert versions.live("doodles").version == version
    assert registry.downloads == [1, 2]  # a rollback finds the last one on disk


def test_only_the_live_version_and_the_one_before_stay_on_disk(
    registry: FolderRegistry, follower: Follower, tmp_path: Path
) -> None:
    for version in (1, 2, 3):
        promote(registry, follower, version)
    assert sorted(p.name for p in (tmp_path / "cache/doodles").iterdir()) == ["2", "3", "live"]


def test_version_that_answers_nonsense_is_turned_down_once(
    registry: FolderRegistry, follower: Follower, versions: Versions
) -> None:
    promote(registry, follower, 1)
    for _ in range(5):
        promote(registry, follower, 4)
    assert versions.live("doodles").version == 1
    assert registry.downloads == [1, 4]
    assert "not finite" in versions.as_json()["models"]["doodles"]["rejected"]["4"]


def test_one_odd_model_keeps_no_other_from_being_followed(
    registry: FolderRegistry,
    follower: Follower,
    versions: Versions,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetch = registry.download

    def download(name: str, version: int, directory: Path, *, without: Collection[str] = ()) -> Version:
        if name == "animals":
            registry.downloads.append(version)
            raise RuntimeError("odd")
        return fetch(name, version, directory, without=without)

    monkeypatch.setattr(registry, "download", download)
    registry.champions["animals"] = 7
    for second, version in enumerate((1, 2, 3, 2)):
        clock.now = second
        promote(registry, follower, version)
        assert versions.live("doodles").version == version
    assert registry.downloads.count(7) == 3  # ever more slowly
    waiting = versions.as_json()["models"]["animals"]["waiting"]
    assert waiting == {"version": 7, "reason": "RuntimeError; the log says more"}


def test_version_that_cannot_be_fetched_is_tried_ever_more_slowly(
    registry: FolderRegistry, follower: Follower, versions: Versions, clock: Clock
) -> None:
    promote(registry, follower, 1)
    registry.artifacts_away = True
    for second in range(60):
        clock.now = second
        promote(registry, follower, 2)
    assert versions.live("doodles").version == 1
    assert versions.as_json()["models"]["doodles"]["waiting"] == {"version": 2, "reason": "artifacts away"}
    assert registry.downloads.count(2) == 6  # after 0, 1, 3, 7, 15 and 31 seconds
    registry.artifacts_away = False
    clock.now = 120
    follower.poll()
    assert versions.live("doodles").version == 2
    assert versions.as_json()["models"]["doodles"]["waiting"] is None


def test_a_retry_is_waited_for_and_one_of_a_model_that_is_gone_is_none(
    registry: FolderRegistry, follower: Follower, versions: Versions, clock: Clock
) -> None:
    promote(registry, follower, 1)
    assert follower._pause() == POLL_SECONDS
    registry.artifacts_away = True
    promote(registry, follower, 2)
    registry.away = True
    clock.now = 100  # what was to be tried again is long due
    follower.poll()
    assert follower._pause() == POLL_SECONDS
    registry.away = False
    del registry.champions["doodles"]
    follower.poll()
    assert follower._pause() == POLL_SECONDS
    assert versions.as_json()["models"]["doodles"]["waiting"] is None
    before = len(registry.downloads)
    follower.poll()
    assert len(registry.downloads) == before
    registry.artifacts_away = False
    promote(registry, follower, 2)
    assert versions.live("doodles").version == 2


def test_while_promotions_are_heard_of_it_looks_seldom_but_for_a_retry(
    registry: FolderRegistry, versions: Versions, tmp_path: Path, clock: Clock, empty_database_url: str
) -> None:
    follower = Follower(
        registry, versions, tmp_path / "cache", database_url=lambda: empty_database_url, clock=clock
    )
    registry.champions["doodles"] = 1
    registry.artifacts_away = True
    follower.start()
    try:
        wait_until(lambda: len(registry.downloads) > 0 and follower._pause() == POLL_SECONDS)
        registry.artifacts_away = False
        clock.now = 100
        wait_until(lambda: follower._pause() == LISTENING_POLL_SECONDS)
    finally:
        follower.stop()
    assert versions.live("doodles").version == 1


def test_registry_away_changes_nothing(
    registry: FolderRegistry, follower: Follower, versions: Versions
) -> None:
    promote(registry, follower, 1)
    registry.away = True
    promote(registry, follower, 2)
    assert versions.live("doodles").version == 1


def test_restart_serves_from_disk_what_was_live_last(
    registry: FolderRegistry, follower: Follower, tmp_path: Path
) -> None:
    for version in (1, 2, 1):
        promote(registry, follower, version)
    registry.away = True
    (tmp_path / "cache/doodles/.3.abc.partial").mkdir()
    restarted = Versions("doodles")
    again = Follower(registry, restarted, tmp_path / "cache")
    again.load_cached()
    again.poll()
    assert restarted.live("doodles").version == 1
    assert not (tmp_path / "cache/doodles/.3.abc.partial").exists()
    registry.away = False
    again.poll()
    assert registry.downloads == [1, 2]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("1/model.onnx", b""),
        ("1/version.json", b"{}"),
        ("1/version.json", b'{"name": "doodles", "version": null}'),
        ("1/version.json", b'{"version": 1}'),
        ("1/version.json", b"[" * 100_000),
    ],
    ids=lambda each: str(each)[:40],
)
def test_damaged_cache_is_fetched_again(
    registry: FolderRegistry, follower: Follower, tmp_path: Path, file: str, content: bytes
) -> None:
    promote(registry, follower, 1)
    (tmp_path / "cache/doodles" / file).write_bytes(content)
    restarted = Versions("doodles")
    again = Follower(registry, restarted, tmp_path / "cache")
    again.load_cached()
    again.poll()
    assert restarted.live("doodles").version == 1
    assert registry.downloads == [1, 1]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"1\0", b""])
def test_what_was_live_last_need_not_be_readable(
    registry: FolderRegistry, follower: Follower, tmp_path: Path, content: bytes
) -> None:
    promote(registry, follower, 1)
    (tmp_path / "cache/doodles/live").write_bytes(content)
    restarted = Versions("doodles")
    again = Follower(registry, restarted, tmp_path / "cache")
    with capture_logs() as logs:
        again.load_cached()
    assert [line["model"] for line in logs if line["event"] == "cache_unusable"] == ["doodles"]
    again.poll()
    assert restarted.live("doodles").version == 1


def test_same_number_of_a_registry_made_anew_is_another_version(
    registry: FolderRegistry, follower: Follower, tmp_path: Path
) -> None:
    promote(registry, follower, 1)
    old = tmp_path / "cache/doodles/1/version.json"
    old.write_text(old.read_text().replace("models:/m-1", "models:/m-of-another-life"))
    restarted = Versions("doodles")
    again = Follower(registry, restarted, tmp_path / "cache")
    again.load_cached()
    assert restarted.live("doodles").identity["source"] == "models:/m-of-another-life"
    again.poll()
    assert restarted.live("doodles").identity["source"] == "models:/m-1"


def test_name_that_is_no_folder_is_ignored(
    registry: FolderRegistry, follower: Follower, versions: Versions
) -> None:
    registry.champions["../../etc"] = 1
    promote(registry, follower, 1)
    assert versions.ready() == ["doodles"]


# Over HTTP


@pytest.fixture
def client(registry: FolderRegistry, versions: Versions, tmp_path: Path) -> Iterator[httpx.Client]:
    registry.champions["doodles"] = 1
    follower = Follower(registry, versions, tmp_path / "cache", poll_seconds=0.01)
    with http_client(
        create_app(ModelServer(versions, follower, OnDemand(registry, tmp_path / "cache")))
    ) as opened:
        wait_until(lambda: versions.ready() == ["doodles"])
        yield opened


def test_default_and_named_model_answer_with_their_version(client: httpx.Client) -> None:
    body = {"inputs": images().tolist()}
    for path in ("/invocations", "/models/doodles/invocations"):
        response = client.post(path, json=body)
        assert response.status_code == 200
        assert (response.headers["Emend-Model"], response.headers["Emend-Version"]) == ("doodles", "1")
        got = response.json()["predictions"]["probabilities"]
        assert np.allclose(got, answer(graph(1), images()), atol=1e-6)
        assert len(got[0]) == len(CATEGORIES)
    raw = client.post("/invocations", content=images().tobytes(), headers={"Content-Type": RAW})
    assert raw.content == client.post("/invocations", json=body).content


@pytest.mark.parametrize(
    ("path", "content", "content_type", "status", "code"),
    [
        ("/invocations", b"{}", JSON, 400, "BAD_REQUEST"),
        ("/invocations", b"{}", "text/csv", 415, "BAD_REQUEST"),
        ("/invocations", bytes(MOST_BODY_BYTES + 1), RAW, 413, "BAD_REQUEST"),
        ("/models/other/invocations", b"{}", JSON, 404, "RESOURCE_DOES_NOT_EXIST"),
        ("/models/%2e%2e/invocations", b"{}", JSON, 404, "RESOURCE_DOES_NOT_EXIST"),
        ("/other", b"{}", JSON, 404, "ENDPOINT_NOT_FOUND"),
        ("/version", b"{}", JSON, 405, "BAD_REQUEST"),
    ],
)
def test_refusals_have_mlflows_shape(
    client: httpx.Client, path: str, content: bytes, content_type: str, status: int, code: str
) -> None:
    response = client.post(path, content=content, headers={"Content-Type": content_type})
    assert response.status_code == status
    assert set(response.json()) == {"error_code", "message"}
    assert response.json()["error_code"] == code


def test_body_without_a_length_is_cut_off_too(client: httpx.Client) -> None:
    chunks = (bytes(1024 * 1024) for _ in range(6))
    response = client.post("/invocations", content=chunks, headers={"Content-Type": RAW})
    assert (response.status_code, response.headers["connection"]) == (413, "close")  # nobody reads the rest


def test_body_that_does_not_come_is_given_up_on(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.app._BODY_TIMEOUT_SECONDS", 0.1)
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as slow:
        slow.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 784\r\n\r\nabc")
        with slow.makefile("rb") as answer:
            told = answer.read()  # until the connection ends
        assert told.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in told


def test_more_requests_than_it_holds_at_once_are_told_to_come_again(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.app._MOST_REQUESTS_AT_ONCE", 0)
    refused = client.post("/invocations", content=images().tobytes(), headers={"Content-Type": RAW})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")


def test_neither_torch_nor_mlflow_nor_fastapi_is_imported() -> None:
    program = "import sys, serving.__main__; print(sorted({'mlflow', 'torch', 'fastapi'} & set(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "[]"


def test_health_is_that_some_model_answers(
    versions: Versions, registry: FolderRegistry, tmp_path: Path
) -> None:
    registry.away = True
    follower = Follower(registry, versions, tmp_path / "cache", poll_seconds=0.01)
    with http_client(
        create_app(ModelServer(versions, follower, OnDemand(registry, tmp_path / "cache")))
    ) as client:
        for path in ("/ping", "/health"):
            assert client.get(path).status_code == 503
        refused = client.post("/invocations", json={"inputs": images().tolist()})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        registry.champions["doodles"] = 1
        registry.away = False
        wait_until(lambda: versions.ready() == ["doodles"])
        for path in ("/ping", "/health"):
            assert (client.get(path).status_code, client.get(path).text) == (200, "\n")


def test_version_tells_what_answers_and_what_was_turned_down(
    client: httpx.Client, registry: FolderRegistry, versions: Versions
) -> None:
    registry.champions["doodles"] = 4
    wait_until(lambda: bool(versions.as_json()["models"]["doodles"]["rejected"]))
    state = client.get("/version").json()["models"]["doodles"]
    assert state["version"] == 1
    assert datetime.fromisoformat(state["loaded_at"]).tzinfo is not None
    assert list(state["rejected"]) == ["4"]


def test_metrics_count_by_version(client: httpx.Client) -> None:
    client.post("/invocations", json={"inputs": images(3).tolist()})
    text = client.get("/metrics").text
    assert 'emend_serving_live_version{model="doodles"} 1.0' in text
    assert 'emend_serving_requests_total{model="doodles",status="200",version="1"}' in text
    assert 'emend_serving_score_seconds_count{model="doodles",version="1"}' in text
    client.post("/models/never-heard-of/invocations", content=b"")
    assert "never-heard-of" not in client.get("/metrics").text


def test_no_request_fails_while_versions_are_swapped(
    client: httpx.Client, registry: FolderRegistry, versions: Versions
) -> None:
    expected = {str(seed): answer(graph(seed), images()) for seed in (1, 2)}
    done = threading.Event()
    seen: list[str] = []

    def swap() -> None:
        for version in (2, 1, 2, 1, 2):
            registry.champions["doodles"] = version
            wait_until(lambda: versions.live("doodles").version == registry.champions["doodles"])
        done.set()

    swapping = threading.Thread(target=swap)
    swapping.start()
    while not done.is_set() or len(seen) < 50:
        response = client.post("/invocations", json={"inputs": images().tolist()})
        assert response.status_code == 200
        version = response.headers["Emend-Version"]
        seen.append(version)
        # The header and the figures are of one and the same version.
        assert np.allclose(response.json()["predictions"]["probabilities"], expected[version], atol=1e-6)
    swapping.join()
    assert seen[-1] == "2"


# Versions that are not live


def ask(client: httpx.Client, version: int, model: str = "doodles") -> httpx.Response:
    return client.post(f"/models/{model}/versions/{version}/invocations", json={"inputs": images().tolist()})


def test_another_version_than_the_live_one_answers_when_it_is_asked(
    client: httpx.Client, registry: FolderRegistry, tmp_path: Path
) -> None:
    for version in (2, 3, 1):
        response = ask(client, version)
        assert response.status_code == 200
        assert response.headers["Emend-Version"] == str(version)
        got = response.json()["predictions"]["probabilities"]
        assert np.allclose(got, answer(graph(version), images()), atol=1e-6)
    assert registry.downloads.count(1) == 1  # for being live
    assert client.post("/invocations", json={"inputs": images().tolist()}).headers["Emend-Version"] == "1"
    assert list((tmp_path / "cache" / ".on-demand").rglob("*.onnx")) == []


def test_a_version_is_fetched_once_however_many_ask_for_it(
    client: httpx.Client, registry: FolderRegistry
) -> None:
    together = threading.Barrier(8)

    def asked(_: int) -> int:
        together.wait()
        return ask(client, 2).status_code

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(asked, range(8))) == [200] * 8
    assert registry.downloads.count(2) == 1


def test_a_version_that_is_not_there_or_fails_its_checks_is_refused(
    client: httpx.Client, registry: FolderRegistry
) -> None:
    missing = [ask(client, 99), ask(client, 2**40), ask(client, 1, "other"), ask(client, 1, "%2e%2e")]
    assert {(r.status_code, r.json()["error_code"]) for r in missing} == {(404, "RESOURCE_DOES_NOT_EXIST")}
    for _ in range(3):
        bad = ask(client, 4)
        assert (bad.status_code, bad.json()["error_code"]) == (409, "INVALID_STATE")
        assert "not finite" in bad.json()["message"]
    assert registry.downloads.count(4) == 1  # it is not fetched again and again
    registry.artifacts_away = True
    away = ask(client, 3)
    assert (away.status_code, away.headers["Retry-After"]) == (503, "1")
    registry.artifacts_away = False
    assert ask(client, 3).status_code == 200


def test_what_is_kept_is_bounded_in_bytes_and_who_was_asked_for_least_lately_goes(
    registry: FolderRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    for number in (1, 2):
        write_version(tmp_path / "registry", number, graph(number), name="photos")
    size_bytes = sum(path.stat().st_size for path in (tmp_path / "registry/doodles/1").rglob("*.*"))
    monkeypatch.setattr("serving.on_demand.MOST_BYTES", int(2.5 * size_bytes))

    async def scenario() -> None:
        others = OnDemand(registry, tmp_path / "cache", clock=clock)
        first = await others.get("doodles", 1)
        await others.get("doodles", 2)
        assert await others.get("doodles", 1) is first  # asked for again, so 2 goes first
        await others.get("doodles", 3)
        assert others.kept() == [("doodles", 1), ("doodles", 3)]
        await others.get("photos", 1)
        assert others.kept() == [("doodles", 3), ("photos", 1)]
        monkeypatch.setattr("serving.on_demand.MOST_BYTES", 1)
        await others.get("photos", 2)
        assert others.kept() == [("photos", 2)]  # larger than all there may be, and still it answers
        with pytest.raises(UnusableVersion):
            await others.get("doodles", 4)
        shutil.rmtree(tmp_path / "registry" / "doodles" / "4")
        write_version(tmp_path / "registry", 4, graph(4))
        with pytest.raises(UnusableVersion):
            await others.get("doodles", 4)
        clock.now += 61
        assert (await others.get("doodles", 4)).version == 4
        others.stop()

    asyncio.run(scenario())


def test_what_has_no_room_beside_one_on_trial_answers_and_is_fetched_again(
    registry: FolderRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.on_demand.MOST_BYTES", 1)

    async def scenario() -> None:
        others = OnDemand(registry, tmp_path / "cache")
        await others.get("doodles", 1, for_trial=True, waits=True)
        for _ in range(2):
            assert (await others.get("doodles", 2)).version == 2
            assert others.kept() == [("doodles", 1)]
        others.stop()

    with capture_logs() as logs:
        asyncio.run(scenario())
    fetched = [(line["version"], line["kept"]) for line in logs if line["event"] == "version_fetched"]
    assert fetched == [(1, True), (2, False), (2, False)]


def test_a_version_that_is_evicted_answers_what_it_was_asked_before(
    registry: FolderRegistry, versions: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.on_demand.MOST_BYTES", 1)
    registry.champions["doodles"] = 1
    others = OnDemand(registry, tmp_path / "cache")
    free = threading.Event()
    with (
        http_client(
            create_app(ModelServer(versions, Follower(registry, versions, tmp_path / "cache"), others))
        ) as client,
        ThreadPoolExecutor(2) as asking,
    ):
        for _ in range(2):
            others.threads.submit(free.wait)  # no thread is left to answer
        evicted = asking.submit(ask, client, 2)
        wait_until(lambda: others.kept() == [("doodles", 2)])
        other = asking.submit(ask, client, 3)
        wait_until(lambda: others.kept() == [("doodles", 3)])
        assert not evicted.done()
        free.set()
        for asked, version in ((evicted, 2), (other, 3)):
            response = asked.result()
            assert (response.status_code, response.headers["Emend-Version"]) == (200, str(version))
            got = response.json()["predictions"]["probabilities"]
            assert np.allclose(got, answer(graph(version), images()), atol=1e-6)


def test_a_version_on_trial_is_fetched_behind_and_stays(
    client: httpx.Client, registry: FolderRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(version: int) -> httpx.Response:
        return client.post(
            f"/models/doodles/versions/{version}/invocations",
            json={"inputs": images().tolist()},
            headers={"Emend-Trial": "1"},
        )

    monkeypatch.setattr("serving.on_demand.MOST_BYTES", 1)
    monkeypatch.setattr("serving.on_demand.MOST_REQUESTS_AT_ONCE", 1)
    first = tried(2)
    assert (first.status_code, first.headers["Retry-After"]) == (503, "1")
    wait_until(lambda: tried(2).status_code == 200)
    assert [ask(client, 3).status_code for _ in range(3)] == [200] * 3
    monkeypatch.setattr("serving.on_demand.MOST_REQUESTS_AT_ONCE", 0)
    assert (ask(client, 3).status_code, tried(2).status_code) == (503, 200)
    assert registry.downloads.count(2) == 1


def test_a_trial_starts_while_comparisons_take_all_their_room(
    registry: FolderRegistry, versions: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.on_demand.MOST_BYTES", 1)
    monkeypatch.setattr("serving.on_demand.MOST_REQUESTS_AT_ONCE", 0)
    others = OnDemand(registry, tmp_path / "cache")
    free = threading.Event()
    with http_client(
        create_app(ModelServer(versions, Follower(registry, versions, tmp_path / "cache"), others))
    ) as client:
        try:
            for _ in range(2):
                others.threads.submit(free.wait)
                others._fetchers.submit(free.wait)
            started = client.post(
                "/models/doodles/versions/2/invocations",
                content=images(1).tobytes(),
                headers={"Content-Type": RAW, "Emend-Trial": "start"},
            )
        finally:
            free.set()
        assert (started.status_code, started.headers["Emend-Version"]) == (200, "2")
        monkeypatch.setattr("serving.on_demand.MOST_REQUESTS_AT_ONCE", 1)
        assert ask(client, 3).status_code == 200
        assert others.kept() == [("doodles", 2)]  # it is there for those whom the trial meets


def test_a_trial_that_starts_fetches_at_once_what_was_missed(
    registry: FolderRegistry, tmp_path: Path, clock: Clock
) -> None:
    async def scenario() -> None:
        others = OnDemand(registry, tmp_path / "cache", clock=clock)
        registry.artifacts_away = True
        with pytest.raises(NotReady, match="cannot be fetched now"):
            await others.get("doodles", 3, for_trial=True, waits=True)
        registry.artifacts_away = False
        assert (await others.get("doodles", 3, for_trial=True, waits=True)).version == 3
        others.stop()

    asyncio.run(scenario())


def test_why_a_version_on_trial_is_not_to_be_had_is_told_and_it_is_not_fetched_again_and_again(
    registry: FolderRegistry, tmp_path: Path, clock: Clock
) -> None:
    async def scenario() -> None:
        others = OnDemand(registry, tmp_path / "cache", clock=clock)

        async def tried(version: int, expected: type[Exception]) -> None:
            told: Exception = NotReady("is being fetched")
            while "is being fetched" in str(told):
                with pytest.raises(ServingError) as caught:
                    await others.get("doodles", version, for_trial=True)
                told = caught.value
                await asyncio.sleep(0.005)
            assert type(told) is expected

        await tried(99, UnknownVersion)
        await tried(4, UnusableVersion)
        await tried(ODD, ServingError)
        registry.artifacts_away = True
        await tried(3, NotReady)
        for version in (99, 4, ODD, 3):
            assert registry.downloads.count(version) == 1
        registry.artifacts_away = False
        clock.now += 6
        while ("doodles", 3) not in others.kept():
            with contextlib.suppress(NotReady):
                await others.get("doodles", 3, for_trial=True)
            await asyncio.sleep(0.005)
        others.stop()

    asyncio.run(scenario())


def test_a_version_is_asked_by_an_alias_too_and_the_alias_is_followed(
    client: httpx.Client, registry: FolderRegistry
) -> None:
    def asked(alias: str) -> httpx.Response:
        return client.post(
            f"/models/doodles/versions/{alias}/invocations", json={"inputs": images().tolist()}
        )

    assert asked("champion").headers["Emend-Version"] == "1"
    registry.champions["doodles"] = 2
    wait_until(lambda: asked("champion").headers["Emend-Version"] == "2")
    assert (asked("nobody").status_code, asked("01").status_code) == (404, 404)


def test_raw_figures_are_those_of_json(client: httpx.Client) -> None:
    pixels = images(3)
    raw = client.post(
        "/invocations",
        content=pixels.tobytes(),
        headers={"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"},
    )
    assert raw.headers["Content-Type"] == "application/octet-stream"
    said = client.post("/invocations", json={"inputs": pixels.tolist()}).json()["predictions"]
    figures = np.frombuffer(raw.content, "<f4").reshape(3, -1)
    assert figures.astype(float).tolist() == said["probabilities"]


def test_requests_for_other_versions_take_no_place_of_the_live_ones(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.on_demand.MOST_REQUESTS_AT_ONCE", 0)
    assert ask(client, 2).status_code == 503
    assert client.post("/invocations", json={"inputs": images().tolist()}).status_code == 200


@pytest.mark.parametrize("version", ["0", "-1", "x", "1.5", "9" * 5_000])
def test_what_is_no_version_number_is_no_version(client: httpx.Client, version: str) -> None:
    refused = client.post(
        f"/models/doodles/versions/{version}/invocations", json={"inputs": images().tolist()}
    )
    assert refused.status_code == 404
    assert "no such version" in refused.text
