"""What people change their minds about, on a whole deployment: samples taken back, a contradiction decided, the same
drawing asked of two versions, an older version put live again."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import dataset
from tests.support.stack import Stack, running_stack

IGLOOS = sorted((Path(__file__).parents[2] / "examples" / "igloos").glob("*.png"))


@pytest.fixture(scope="module")
def stack(shelf: Path) -> Iterator[Stack]:
    with running_stack(shelf, starter_drawings=300, widths=[32, 64, 128], epochs=3, warm_epochs=3) as started:
        yield started


def igloo(number: int) -> str:
    return base64.b64encode(IGLOOS[number].read_bytes()).decode()


def say(stack: Stack, number: int, label: str, actor: str, source: str = "correction") -> dict[str, Any]:
    answer = stack.api.post(
        "/save-image/",
        json={"image": igloo(number), "label": label, "source": source},
        headers={"Emend-Actor": actor},
    )
    assert answer.status_code == 201, answer.text
    kept: dict[str, Any] = answer.json()
    return kept


def run(stack: Stack) -> dict[str, Any]:
    done = stack.finish(stack.start_run())
    assert done["status"] in ("succeeded", "rejected"), done
    return done


def model(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = stack.api.get("/models/doodles").json()
    return found


@pytest.mark.timeout(900)
def test_samples_are_learned_taken_back_and_trained_on_no_more(stack: Stack) -> None:
    samples = [say(stack, number, "igloo", "guide", "sample") for number in range(38)]
    said = [say(stack, 38, label, actor) for label, actor in (("igloo", "ann"), ("house", "bob"))]
    own = say(stack, 39, "igloo", "ann")
    learned = run(stack)
    told = [stack.receipt(kept["correction_id"]) for kept in samples]
    assert {t["source"] for t in told} == {"sample"}
    assert {t["status"] for t in told} == {"merged", "exam"}
    splits = dataset.read_rows(stack.home, ["split", "source"]).to_pylist()
    assert "holdout" not in {row["split"] for row in splits if row["source"] == "sample"}
    assert {stack.receipt(kept["correction_id"])["status"] for kept in said} == {"quarantined"}

    # The same drawing through both versions, whatever the gate said of the second.
    by_version = {}
    for version in (1, 2):
        answer = stack.api.post("/invocations/", json={"image": igloo(0), "version": version})
        assert answer.status_code == 200, answer.text
        by_version[version] = answer.json()
        assert (by_version[version]["version"], by_version[version]["prediction_id"]) == (version, None)
    assert "igloo" not in by_version[1]["probabilities"]
    assert "igloo" in by_version[2]["probabilities"]

    # Second thoughts: the samples go, a person decides the contradiction.
    taken = stack.api.post("/models/doodles/samples/withdraw").json()
    assert taken == {"withdrawn": 0, "by_the_next_run": 38}
    decisions = [
        {"correction_id": said[0]["correction_id"], "action": "accept"},
        {"correction_id": said[1]["correction_id"], "action": "reject"},
    ]
    decided = stack.api.post("/corrections/review", json={"decisions": decisions})
    assert decided.status_code == 200, decided.text
    waiting = model(stack)["waiting"]
    assert (waiting["corrections"], waiting["withdrawals"], waiting["missing_for_a_run"]) == (1, 38, 0)
    assert model(stack)["run_estimate"]["runs"] == 2
    again = run(stack)
    assert again["dataset_version"] == learned["dataset_version"] + 1
    figures = {stage["name"]: stage["figures"] for stage in again["stages"]}
    assert (figures["merge"]["withdrawn"], figures["merge"]["new_images"]) == (38, 1)
    told = [stack.receipt(kept["correction_id"]) for kept in samples]
    assert {t["status"] for t in told} == {"withdrawn"}
    left = dataset.read_rows(stack.home, ["source", "correction_id"]).to_pylist()
    assert "sample" not in {row["source"] for row in left}
    let_in = decided.json()["results"][0]["new_correction_id"]
    assert {row["correction_id"] for row in left} == {None, let_in, own["correction_id"]}
    assert stack.receipt(said[0]["correction_id"])["sentence"].startswith(
        "A person looked at it and agreed. "
    )
    assert stack.api.get("/pipeline_runs").json()["runs"][0]["run_id"] == again["run_id"]
    assert not list((stack.home / "inbox").rglob("*.png"))


@pytest.mark.timeout(300)
def test_an_older_version_is_put_live_by_hand(stack: Stack) -> None:
    live = model(stack)["champion"]["version"]
    other = next(version for version in (1, 2, 3) if version != live)
    done = stack.api.post("/models/doodles/promote", json={"version": other, "reason": "better on ours"})
    assert done.status_code == 200, done.text
    assert done.json() == {
        "model": "doodles",
        "version": other,
        "replaced_version": live,
        "promotion_paused": False,
    }
    assert stack.api.post("/invocations/", json={"image": igloo(0)}).json()["version"] == other
    newest = stack.api.get("/models/doodles/promotions").json()["promotions"][0]
    assert (newest["action"], newest["version"], newest["reason"]) == ("promote", other, "better on ours")
    assert stack.api.post("/models/doodles/promote", json={"version": other}).status_code == 409
    assert stack.emend("promote", str(live)).stdout.startswith(f"doodles version {live} is live")
