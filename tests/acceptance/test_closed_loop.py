"""The whole loop over HTTP, on real drawings, with every real process: from a first answer to "now right"."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx
import pytest

from tests.support.stack import Stack, drawings, encode

CATEGORIES = ("airplane", "banana", "bird", "book", "cat", "clock", "dog", "flower", "house", "rainbow")


class Traffic:
    """Somebody who keeps asking: every answer's version, and every failure."""

    def __init__(self, stack: Stack, image: str) -> None:
        self.versions: list[int] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(stack.url("API"), image))

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self, url: str, image: str) -> None:
        with httpx.Client(base_url=url, timeout=10) as client:
            while not self._stop.wait(0.02):
                answer = client.post("/invocations/", json={"image": image, "draft": True})
                if answer.status_code == 200:
                    self.versions.append(answer.json()["version"])
                else:
                    self.failures.append(answer.text)


def base_of_latest_run(stack: Stack) -> dict[str, int]:
    """What the latest run's base/ says of itself, but for whose its files are."""
    found = json.loads((stack.data_dir / "doodles" / "base" / "version.json").read_text())
    assert found["source"].startswith("models:/")
    return {each: found[each] for each in ("version", "dataset_version")}


def test_corrections_become_a_better_version_that_answers_without_a_dropped_request(
    stack: Stack, quickdraw: Path
) -> None:
    images = {name: drawings(quickdraw, name, 1_000, 30) for name in CATEGORIES}
    first = stack.predict(images["cat"][0])
    assert (first["model"], first["version"]) == ("doodles", 1)
    assert set(first["probabilities"]) == set(CATEGORIES)
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-4)

    wrong_before = {}
    for name, drawn in images.items():
        for pixels in drawn:
            answer = stack.predict(pixels)
            correction = stack.correct(pixels, name, prediction_id=answer["prediction_id"])
            if answer["label"] != name:
                wrong_before[correction["correction_id"]] = name
    assert wrong_before, "version 1, trained on generated drawings, gets every real one right"
    assert "waits for the next run" in stack.receipt(next(iter(wrong_before)))["sentence"]

    with Traffic(stack, encode(images["cat"][0])) as traffic:
        run = stack.finish(stack.start_run())
        assert run["status"] == "succeeded", run
        after = stack.predict(images["cat"][0])
    assert traffic.failures == []
    assert after["version"] == 2
    # In order: once version 2 has answered, version 1 never does again.
    assert traffic.versions == sorted(traffic.versions)

    assert [stage["name"] for stage in run["stages"]] == [
        "ingest", "convert", "merge", "version", "train", "evaluate", "register", "promote", "cleanup",
    ]  # fmt: skip
    assert all(stage["status"] == "succeeded" for stage in run["stages"])
    assert run["verdict"]["sentence"].startswith("Promoted: ")
    assert run["dataset_version"] == 2
    assert base_of_latest_run(stack) == {"version": 1, "dataset_version": 1}

    receipts = [stack.receipt(correction_id) for correction_id in wrong_before]
    now_right = [r for r in receipts if r["live"] is not None and r["live"]["correct"]]
    learned = [r for r in receipts if r["split"] == "learned"]
    assert any(r["sentence"].startswith("Now right: version 2 was trained on it") for r in now_right), (
        receipts[0]
    )
    assert all(r["trained_versions"] == [2] for r in learned)
    assert run["verdict"]["figures"]["corrections_fixed"] == len(now_right)

    history = stack.api.get("/predictions", params={"limit": 5}).json()
    assert len(history["items"]) == 5


def test_a_run_with_nothing_new_halts_and_says_how_many_are_missing(stack: Stack) -> None:
    run = stack.finish(stack.start_run())
    assert run["status"] == "halted"
    assert "10" in run["message"]
    assert [stage["name"] for stage in run["stages"]] == ["ingest"]


def test_a_request_id_is_in_every_log_on_the_way(stack: Stack, quickdraw: Path) -> None:
    body = {"image": encode(drawings(quickdraw, "cat", 1_000, 1)[0])}
    assert stack.api.post("/invocations/", json=body, headers={"X-Request-Id": "ask-1"}).status_code == 200
    no_image = stack.api.post("/invocations/", json={}, headers={"X-Request-Id": "refused-1"})
    assert (
        no_image.status_code == 400
    )  # of those that are answered the history has more than a line could tell
    asked = stack.api.post("/pipeline_runs", json={}, headers={"X-Request-Id": "run-please-1"})
    run = stack.finish(asked.json()["run_id"])
    assert run["request_id"] == "run-please-1"
    for service, request_id in (
        ("gateway", "refused-1"),
        ("serving", "ask-1"),
        ("orchestrator", "run-please-1"),
    ):
        log = stack.data_dir / "logs" / "services" / f"{service}.log"
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        assert [line for line in lines if line.get("request_id") == request_id], service


def test_the_command_line_tells_the_same(stack: Stack) -> None:
    shown = stack.emend("show", "2").stdout
    assert "Promoted: " in shown
    assert "doodles" in stack.emend("status").stdout
    assert stack.emend("run", check=False).returncode == 3
    assert stack.emend("show", "999", check=False).returncode == 1


def test_a_run_can_be_reproduced_from_its_tag_bit_for_bit(stack: Stack) -> None:
    found = json.loads(stack.emend("reproduce", "2", "--json").stdout)
    assert found["same"] == {"model.onnx": True, "weights.safetensors": True}


def test_a_rollback_puts_version_1_back_and_pauses_promotion(stack: Stack, quickdraw: Path) -> None:
    pixels = drawings(quickdraw, "cat", 1_000, 1)[0]
    answer = stack.api.post("/models/doodles/rollback", json={"reason": "test"})
    assert answer.status_code == 200, answer.text
    assert stack.predict(pixels)["version"] == 1
    for image in drawings(quickdraw, "dog", 1_100, 12):
        stack.correct(image, "dog")
    # A gate that says yes to all: what is tested is that promotion is paused nevertheless.
    stack.edit_params(gate={"margin_points": 100.0, "generated_margin_points": 100.0, "category_alpha": 1e-6})
    run = stack.finish(stack.start_run())
    assert run["verdict"]["promoted"], run["verdict"]
    assert run["dataset_version"] == 3
    assert base_of_latest_run(stack) == {"version": 1, "dataset_version": 1}
    assert stack.predict(pixels)["version"] == 1
    assert "promotion is paused" in run["message"]
    ledger = stack.emend("ledger", "--json").stdout
    assert '"rollback"' in ledger


def test_everything_stops_and_goes_on_where_it_was(stack: Stack, quickdraw: Path) -> None:
    stack.stop()
    with pytest.raises(httpx.ConnectError):
        stack.api.get("/healthz")
    stack.start()
    assert stack.predict(drawings(quickdraw, "cat", 1_000, 1)[0])["version"] == 1
