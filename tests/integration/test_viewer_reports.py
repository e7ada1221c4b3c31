"""A run's report, its images, and images by their hash, over HTTP: a real home, a real evaluation, a real database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from core.database import Model, Run, RunStatus, Stage, StageStatus, Trigger, session
from core.images import decode_png, encode_png, name_of
from core.settings import settings
from core.storage import write_durably
from pipeline import dataset
from tests.support.http_server import http_client
from tests.support.reported import CORRECTIONS, Reported, two_runs
from tests.unit.test_evaluate import GOOD
from viewer import schemas
from viewer.app import create_app

# Of a library that DVC uses; the version stage, a process of its own, does not show it.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning")


@pytest.fixture
def client(emend_environment: dict[str, str]) -> Iterator[httpx.Client]:
    with http_client(create_app()) as client:
        yield client


@pytest.fixture
def reported(emend_environment: dict[str, str]) -> Reported:
    return two_runs()


def report(client: httpx.Client, run_id: int) -> dict[str, Any]:
    answer = client.get(f"/pipeline_runs/{run_id}/report")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    schemas.Report.model_validate(told)
    return told


# Reports.


def test_a_report_says_what_was_measured_decided_changed_and_added(
    client: httpx.Client, reported: Reported
) -> None:
    told = report(client, 2)
    assert (told["model"], told["version"], told["champion_version"], told["dataset_version"]) == (
        "doodles",
        2,
        1,
        2,
    )
    assert len(told["commit"]) == 40
    assert told["missing"] == []
    holdout = told["holdout"]
    assert holdout["challenger"]["accuracy"] == 1
    assert (holdout["challenger"]["images"], holdout["champion"]["images"]) == (301, 301)
    assert holdout["champion"]["low"] < 201 / 301 < holdout["champion"]["high"]
    assert holdout["difference"]["low"] < holdout["difference"]["points"] < holdout["difference"]["high"]
    assert told["generated"]["challenger"]["images"] == 40
    cat = told["categories"][0]
    assert (cat["id"], cat["name"], cat["images"]) == (0, "cat", 201)
    assert (cat["champion_recall"], cat["challenger_recall"]) == (pytest.approx(101 / 201, abs=1e-4), 1)
    assert cat["low"] < 1 == cat["high"]
    assert told["confusion"] == {
        "of": "holdout",
        "categories": ["cat", "dog"],
        "counts": [[201, 0], [0, 100]],
        "missing": None,
    }
    corrections = told["corrections"]
    assert (corrections["images"], corrections["fixed"], corrections["broke"]) == (5, 3, 1)
    items = corrections["items"]
    assert [item["change"] for item in items] == ["fixed", "fixed", "fixed", "broke", "still right"]
    by_id = {item["correction_id"]: item for item in items}
    first = by_id[str(CORRECTIONS[0])]
    assert (first["label"], first["split"], first["champion_label"], first["challenger_label"]) == (
        "cat",
        "learned",
        "dog",
        "cat",
    )
    assert by_id[str(CORRECTIONS[2])]["split"] == "exam"
    assert client.get(first["image"]).headers["content-type"] == "image/png"
    assert [epoch["epoch"] for epoch in told["curve"]] == [1, 2]
    assert told["params"]["train"]["epochs"] == 8
    assert told["params_changed"] == [{"key": "train.epochs", "before": 4, "after": 8}]
    assert told["added"] == {
        "images": 5,
        "withdrawn": 0,
        "by_label": {"cat": 3, "dog": 2},
        "by_source": {"correction": 5},
        "by_split": {"train": 2, "validation": 1, "holdout": 1, "excluded": 1},
    }
    rules = {rule["name"]: rule for rule in told["gate"]["rules"]}
    held = rules["holdout_not_worse"]
    assert (held["limit"], held["value"], held["unit"], held["held"]) == (
        -1,
        holdout["difference"]["low"],
        "points",
        True,
    )
    assert rules["no_category_falls"]["value"] == 0


def test_a_first_version_has_no_champion_and_no_run_before(client: httpx.Client, reported: Reported) -> None:
    told = report(client, 1)
    assert (told["champion_version"], told["params_changed"]) == (None, None)
    assert told["holdout"]["champion"] is None
    assert told["holdout"]["difference"] is None
    assert [category["champion_recall"] for category in told["categories"]] == [None, None]
    assert (told["corrections"]["images"], told["corrections"]["fixed"]) == (0, 0)
    (rule,) = told["gate"]["rules"]
    assert rule["name"] == "beats_chance"
    assert rule["held"] == (rule["value"] > rule["limit"])
    assert told["confusion"]["counts"] == [[100, 100], [0, 100]]


def test_a_report_outlives_its_working_folder_and_says_what_is_gone(
    client: httpx.Client, reported: Reported
) -> None:
    before = report(client, 2)
    shutil.rmtree(reported.home / "runs")
    after = report(client, 2)
    (gone,) = after["missing"]
    assert "its working folder was removed" in gone
    assert {**after, "missing": []} == before


def test_what_a_later_run_asked_of_a_version_is_not_its_own_runs(
    client: httpx.Client, reported: Reported
) -> None:
    shutil.rmtree(reported.home / "runs")
    assert report(client, 1)["corrections"]["images"] == 0


def test_a_run_that_added_nothing_says_so(client: httpx.Client, reported: Reported) -> None:
    third = reported.run([], GOOD, GOOD)
    told = report(client, third)
    assert (told["dataset_version"], told["added"], told["params_changed"]) == (2, None, [])
    assert client.get(f"/pipeline_runs/{third}/images").json() == {"items": [], "next_before": None}


def test_a_run_that_has_hardly_begun_is_told_with_nulls(client: httpx.Client) -> None:
    with session() as db:
        db.add(Model(name="doodles", params={}))
        db.flush()
        run = Run(model="doodles", trigger=Trigger.manual, requested_by="t", status=RunStatus.running)
        db.add(run)
        db.flush()
        db.add(
            Stage(
                run_id=run.id,
                name="ingest",
                position=0,
                status=StageStatus.running,
                started_at=run.requested_at,
            )
        )
        run_id = run.id
    (settings().data_dir / "doodles" / "runs" / str(run_id)).mkdir(parents=True)
    told = report(client, run_id)
    known = {"run_id": run_id, "model": "doodles", "missing": []}
    assert {key: value for key, value in told.items() if value is not None} == known
    assert client.get(f"/pipeline_runs/{run_id}/images").json()["items"] == []


def test_runs_that_are_not_there_are_404(client: httpx.Client) -> None:
    for path in ("report", "images"):
        assert client.get(f"/pipeline_runs/4711/{path}").status_code == 404
        assert client.get(f"/pipeline_runs/0/{path}").status_code == 400


# What a run added.


def test_added_images_come_in_pages_by_label_and_split(client: httpx.Client, reported: Reported) -> None:
    names = reported.sha256s(1)

    def listed(**query: Any) -> tuple[list[dict[str, Any]], int | None]:
        told = client.get("/pipeline_runs/1/images", params=query).json()
        schemas.AddedImages.model_validate(told)
        return told["items"], told["next_before"]

    seen, before = [], None
    while True:
        items, before = listed(limit=150, **({} if before is None else {"before": before}))
        seen += [item["sha256"] for item in items]
        if before is None:
            break
    assert seen == names[::-1]
    dogs, more = listed(label="dog", split="holdout", limit=500)
    assert (len(dogs), more) == (100, None)
    assert {(dog["label"], dog["split"], dog["source"]) for dog in dogs} == {("dog", "holdout", "import")}
    assert dogs[0]["image"] == f"/images/doodles/{dogs[0]['sha256']}"
    assert listed(label="nobody") == ([], None)
    assert listed(before=0) == ([], None)
    for wrong in ({"limit": 0}, {"limit": 501}, {"before": -1}, {"page": 2}):
        assert client.get("/pipeline_runs/1/images", params=wrong).status_code == 400, wrong


# Images.


def test_every_image_is_found_by_its_hash_wherever_it_is(client: httpx.Client, reported: Reported) -> None:
    for sha256 in [*reported.sha256s(1)[::37], *reported.sha256s(2)]:
        answer = client.get(f"/images/doodles/{sha256}")
        assert name_of_png(answer.content) == sha256
        assert answer.headers["cache-control"].endswith("immutable")
    for folder in ("inbox/cat", "quarantine/conflict"):
        pixels = np.full((8, 8), len(folder), np.uint8)
        sha256 = name_of(pixels)
        address = f"/runs/images/doodles/{sha256}"
        assert client.get(address).status_code == 404
        write_durably(reported.home / folder / f"{sha256}.png", encode_png(pixels))
        assert name_of_png(client.get(address).content) == sha256


def test_an_original_is_shown_as_the_model_sees_it(client: httpx.Client, reported: Reported) -> None:
    sha256 = "ab" * 32  # of the fitted image: the original's file is named after it
    original = np.full((64, 64), 200, np.uint8)
    write_durably(reported.home / "originals" / "ab" / f"{sha256}.png", encode_png(original))
    assert decode_png(client.get(f"/images/doodles/{sha256}").content).shape == (8, 8)


def test_a_rewritten_shard_is_read_anew(client: httpx.Client, reported: Reported) -> None:
    gone, *kept = reported.sha256s(2)
    assert client.get(f"/images/doodles/{gone}").status_code == 200
    path = dataset.shard_path(reported.home, 2)
    dataset.write_shard(path, dataset.read_columns(path, dataset.SCHEMA.names).slice(1))
    assert client.get(f"/images/doodles/{gone}").status_code == 404
    assert client.get(f"/images/doodles/{kept[0]}").status_code == 200


def test_hostile_addresses_find_nothing(client: httpx.Client, reported: Reported) -> None:
    sha256 = reported.sha256s(1)[0]
    for path, status in {
        f"/images/photos/{sha256}": 404,
        f"/images/doodles/{'0' * 64}": 404,
        f"/images/doodles/{sha256[:16]}{'0' * 48}": 404,  # begins like one that is there
        f"/images/doodles/{sha256.upper()}": 400,
        f"/images/doodles/{sha256[:63]}": 400,
        f"/images/doodles/{sha256}%00": 400,
        f"/images/doodles/{'*' * 64}": 400,
        f"/images/..%2fdoodles/{sha256}": 404,
        f"/images/../{sha256}": 404,
        f"/images/Doodles/{sha256}": 400,
        f"/images/{'a' * 33}/{sha256}": 400,
    }.items():
        answer = client.get(path)
        assert answer.status_code == status, path
        assert set(answer.json()["error"]) >= {"code", "message"}, path


def name_of_png(png: bytes) -> str:
    return name_of(decode_png(png))
