"""Versions, what was live when, and comparisons, over HTTP: a real home, graphs and database."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.database import LedgerOutcome, Run, session
from core.registry import Registry
from core.settings import settings
from pipeline import comparison
from tests.support.http_server import http_client
from tests.support.mlflow_server import MlflowServer, mlflow_environment
from tests.support.reported import CORRECTIONS, START, Reported, two_runs
from tests.unit.test_evaluate import GOOD, Row
from viewer import schemas
from viewer.app import create_app

# Of a library that DVC uses; the version stage, a process of its own, does not show it.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning")


@pytest.fixture
def client(emend_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody answers there
    settings.cache_clear()
    with http_client(create_app()) as client:
        client.timeout = httpx.Timeout(60)
        yield client


@pytest.fixture
def reported(client: httpx.Client) -> Reported:
    return two_runs()


def compare(client: httpx.Client, a: int, b: int) -> dict[str, Any]:
    answer = client.get("/models/doodles/compare", params={"a": a, "b": b})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    schemas.Comparison.model_validate(told)
    return told


# Versions, what was live when.


def test_versions_come_newest_first_with_when_they_were_live(
    client: httpx.Client, reported: Reported
) -> None:
    told = client.get("/models/doodles/versions").json()
    schemas.ModelVersions.model_validate(told)
    two, one = told["items"]
    first, second = "2026-11-01T01:30:00Z", "2026-11-01T02:30:00Z"
    assert (two["version"], one["version"], told["next_before"]) == (2, 1, None)
    assert one["live"] == [{"from": first, "to": second}]
    assert two["live"] == [{"from": second, "to": None}]
    assert (two["promoted"], two["holdout_accuracy"], two["run_id"], two["dataset_version"]) == (
        True,
        1.0,
        2,
        2,
    )
    assert two["verdict_sentence"].startswith("Promoted: 100.0 %")
    assert one["verdict_sentence"].startswith("Rejected: first version")
    assert two["mlflow_url"].endswith("/#/runs/mlflow2")
    assert (told["aliases_from"], two["aliases"], one["aliases"]) == (
        "ledger",
        ["champion", "challenger"],
        [],
    )
    page = client.get("/models/doodles/versions", params={"limit": 1}).json()
    assert (page["items"], page["next_before"]) == ([two], 2)
    assert client.get("/models/doodles/versions", params={"limit": 1, "before": 2}).json()["items"] == [one]


def test_a_version_that_was_live_twice_has_two_spans(client: httpx.Client, reported: Reported) -> None:
    for hours, version, outcome in (
        (5, 1, LedgerOutcome.done),
        (6, 2, LedgerOutcome.reverted),  # the model server did not answer with it
        (7, 1, LedgerOutcome.done),  # it is live already
        (8, 2, LedgerOutcome.done),
    ):
        reported.promote(version, START + timedelta(hours=hours), outcome)
    two, one = client.get("/models/doodles/versions").json()["items"]

    def spans(version: dict[str, Any]) -> list[list[str | None]]:
        return [[span[end] and span[end][11:16] for end in ("from", "to")] for span in version["live"]]

    assert spans(one) == [["01:30", "02:30"], ["05:00", "08:00"]]
    assert spans(two) == [["02:30", "05:00"], ["08:00", None]]


def test_what_was_live_at_a_moment(client: httpx.Client, reported: Reported) -> None:
    def live(at: str | None) -> dict[str, Any]:
        answer = client.get("/models/doodles/live", params={} if at is None else {"at": at})
        told: dict[str, Any] = answer.json()
        schemas.LiveAt.model_validate(told)
        return told

    assert live("2026-11-01T01:00:00Z") == {"version": None, "since": None}
    assert live("2026-11-01T02:00:00Z")["version"] == 1
    assert live("2026-11-01T02:29:59") == live("2026-11-01T03:29:59+01:00") == live("2026-11-01T02:00:00Z")
    assert live("2026-11-01T02:30:00Z") == {"version": 2, "since": "2026-11-01T02:30:00Z"}
    assert live("2036-11-01") == live("2026-11-01T02:30:00Z")
    assert live(None) == live(datetime.now(UTC).isoformat())


def test_unknown_models_and_versions_and_bad_questions_are_refused(
    client: httpx.Client, reported: Reported
) -> None:
    for path, status in {
        "/models/photos/versions": 404,
        "/models/photos/live": 404,
        "/models/photos/compare?a=1&b=2": 404,
        "/models/doodles/compare?a=1&b=3": 404,
        "/models/doodles/compare?a=1&b=1": 400,
        "/models/doodles/compare?a=1": 400,
        "/models/doodles/compare?a=0&b=2": 400,
        "/models/doodles/compare?a=1&b=99999999999": 400,
        "/models/doodles/live?at=yesterday": 400,
        "/models/..%2fdoodles/versions": 404,
        "/models/D%00/versions": 400,
        "/models/doodles/versions?limit=1001": 400,
    }.items():
        answer = client.get(path)
        assert answer.status_code == status, path
        assert set(answer.json()["error"]) >= {"code", "message"}, path


def test_aliases_are_the_registrys_when_it_answers(
    client: httpx.Client, reported: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MlflowServer(tmp_path) as mlflow:
        subprocess.run(
            [sys.executable, "-m", "tests.support.tiny_model", mlflow.url, "doodles", "good:1", "good:2"],
            env=mlflow_environment(),
            check=True,
            capture_output=True,
        )
        with Registry(mlflow.url) as registry:
            registry.set_alias("doodles", "champion", 1)
            registry.set_alias("doodles", "previous", 2)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
        settings.cache_clear()
        told = client.get("/models/doodles/versions").json()
    assert told["aliases_from"] == "registry"
    assert [item["aliases"] for item in told["items"]] == [["previous"], ["champion"]]


# Two versions side by side.


def test_two_versions_are_asked_about_the_same_holdout(client: httpx.Client, reported: Reported) -> None:
    told = compare(client, 1, 2)
    holdout = told["holdout"]
    assert (holdout["of"], holdout["images"], holdout["sampled_from"], holdout["dataset_version"]) == (
        "holdout",
        301,
        301,
        2,
    )
    assert (holdout["a"]["accuracy"], holdout["b"]["accuracy"]) == (pytest.approx(201 / 301), 1)
    assert holdout["difference"]["points"] == pytest.approx(100 * 100 / 301)
    assert holdout["difference"]["low"] < holdout["difference"]["points"] < holdout["difference"]["high"]
    assert told["categories"] == [
        {"name": "cat", "images": 201, "a_recall": pytest.approx(101 / 201, abs=1e-6), "b_recall": 1},
        {"name": "dog", "images": 100, "a_recall": 1, "b_recall": 1},
    ]
    # The 100 cats drawn oddly, and the four corrections on which they differ.
    assert told["differ"]["count"] == 104
    items = told["differ"]["items"]
    assert [item["correction_id"] for item in items[:5]] == [
        *[str(CORRECTIONS[number]) for number in (4, 2, 1, 0)],
        None,
    ]
    assert items[4]["label"] == items[4]["b_label"] == "cat"
    assert items[4]["a_label"] == "dog"
    assert client.get(items[4]["image"]).status_code == 200
    assert told["missing"] == []
    back = compare(client, 2, 1)
    assert back["holdout"]["difference"]["points"] == -holdout["difference"]["points"]
    assert (back["a"], back["b"]) == (told["b"], told["a"])


def test_a_comparison_is_kept_until_the_dataset_changes(client: httpx.Client, reported: Reported) -> None:
    first = compare(client, 1, 2)
    (kept,) = (settings().data_dir / ".comparisons" / "doodles").iterdir()
    written = kept.stat().st_mtime_ns
    assert compare(client, 1, 2) == first
    assert kept.stat().st_mtime_ns == written
    reported.run([Row(0, 0, "holdout", count=9)], GOOD, GOOD)
    again = compare(client, 1, 2)
    assert (again["holdout"]["images"], again["holdout"]["dataset_version"]) == (310, 3)
    assert kept.stat().st_mtime_ns != written


def test_without_the_graphs_what_the_runs_reported_is_told(client: httpx.Client, reported: Reported) -> None:
    graph = comparison.graph_files(reported.home, 1)
    assert graph is not None
    graph["model.onnx"].unlink()  # as retention does, once no run that is kept started from it
    with session() as db:
        db.get_one(Run, 1).weights_removed_at = START
    told = compare(client, 1, 2)
    assert told["holdout"] is None
    assert told["a"]["weights_removed_at"] is not None
    (why,) = told["missing"]
    assert why.startswith("the graph of version 1 is not kept any more")
    recalls = {row["name"]: (row["a_recall"], row["b_recall"]) for row in told["categories"]}
    assert recalls == {"cat": (0.5, 1), "dog": (1, 1)}
    assert told["differ"]["count"] == 4
    assert {item["correction_id"] for item in told["differ"]["items"]} == {
        str(CORRECTIONS[number]) for number in (0, 1, 2, 4)
    }


def test_a_sample_is_asked_when_there_are_too_many(
    client: httpx.Client, reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "MOST_IMAGES", 50)
    told = compare(client, 1, 2)
    assert (told["holdout"]["images"], told["holdout"]["sampled_from"]) == (50, 301)
    assert told["missing"] == ["asked about 50 of 301 held-out images, a sample by their hash"]


def test_time_is_bounded(client: httpx.Client, reported: Reported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MOST_SECONDS", 0)
    monkeypatch.setattr(comparison, "CHUNK", 100)
    assert compare(client, 1, 2)["holdout"]["images"] == 100


def test_too_many_at_once_are_told_to_come_back(client: httpx.Client, reported: Reported) -> None:
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(
            httpx.get(f"{client.base_url}/models/doodles/compare?a=1&b=2", timeout=60).status_code
        )

    with comparison._at_work:  # somebody's comparison goes on
        waiting = [threading.Thread(target=ask) for _ in range(4)]
        for thread in waiting:
            thread.start()
        deadline = time.monotonic() + 30
        while not statuses:
            assert time.monotonic() < deadline, "nobody was sent away"
            time.sleep(0.01)  # between two looks, not instead of one
        assert statuses == [503]
        assert client.get("/pipeline_runs").status_code == 200
    for thread in waiting:
        thread.join()
    assert sorted(statuses) == [200, 200, 200, 503]
