"""A backup of a deployment at work, restored elsewhere: what was acknowledged before it began is there, and it goes on.

One deployment is backed up while corrections come and a run trains, and stopped; its copy is what the tests look at, in
this order.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.registry import Registry
from pipeline import starter
from pipeline.git import git
from tests.support.kills import stage, stopped
from tests.support.stack import Stack, running_stack

SETTLED = 10  # corrections that a run has taken in
WAITING = 5  # that wait when the backup begins
ASKED = 20  # images that both are asked


@dataclass
class Seen:
    """What the source said while its run stood still, before the backup began."""

    backups: Path
    receipts: dict[str, dict[str, Any]]
    pictures: dict[str, bytes]
    answers: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    ledger: list[dict[str, Any]]
    dataset: bytes
    graph: str
    made: dict[str, Any]


@pytest.fixture(scope="module")
def images() -> list[tuple[Any, str]]:
    """Drawings the deployment has not seen, mixed."""
    pixels, labels = starter.generate(6, seed=77, processes=1)
    order = [category * 6 + number for number in range(6) for category in range(len(labels) // 6)]
    return [(pixels[each], labels[each]) for each in order]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="emend-"))  # a short path: PostgreSQL's socket lies below it
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def seen(shelf: Path, folder: Path, images: list[tuple[Any, str]]) -> Iterator[Seen]:
    with running_stack(shelf, starter_drawings=300, epochs=3) as source:
        source.edit_params(train={"warm_epochs": 8})  # long enough to be met while it trains
        yield _back_up(source, folder, images)


def _back_up(source: Stack, folder: Path, images: list[tuple[Any, str]]) -> Seen:
    kept = [source.correct(*images[number])["correction_id"] for number in range(SETTLED)]
    source.finish(source.start_run(force=True))
    kept += [source.correct(*images[SETTLED])["correction_id"]]  # of the run under way
    run_id = source.start_run(force=True)
    source.wait_for_stage(run_id, "train")
    with stopped(stage(source, "train", run_id)):
        first = SETTLED + 1
        kept += [source.correct(*images[number])["correction_id"] for number in range(first, first + WAITING)]
        answers = [source.predict(pixels) for pixels, _ in images[-ASKED:]]
        receipts = {each: source.receipt(each) for each in kept}
        pictures = {each: source.api.get(f"/corrections/{each}/image").content for each in kept}
        runs = json.loads(source.emend("runs", "--json").stdout)
        ledger = json.loads(source.emend("ledger", "--json").stdout)
        backups = folder / "backups"
        _kill_half_way(source, backups)
        assert list(backups.glob("backups/*.json")) == []
        made = _while_corrections_come(source, backups, images[first + WAITING : -ASKED])
        manifest = next(backups.glob("backups/*.json")).read_bytes()
        _kill_half_way(source, backups)
        assert [path.read_bytes() for path in backups.glob("backups/*.json")] == [manifest]
        dataset = (source.home / "dataset.dvc").read_bytes()
    source.finish(run_id)
    source.correct(*images[0])
    graph = _graph(source, answers[0]["version"], folder / "of-the-source")
    source.stop()
    return Seen(backups, receipts, pictures, answers, runs, ledger, dataset, graph, made)


def _kill_half_way(source: Stack, backups: Path) -> None:
    """When it has begun to copy. Whatever it had copied stays, without a manifest."""
    large = source.home / "originals" / "large"
    large.parent.mkdir(exist_ok=True)
    large.write_bytes(os.urandom(60_000_000))
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "backup", str(backups)],
        env=source.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        source.wait_until(lambda: any((backups / ".work").glob("*")) or process.poll() is not None, 120)
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    large.unlink()


def _while_corrections_come(source: Stack, backups: Path, more: list[tuple[Any, str]]) -> dict[str, Any]:
    """`emend backup --json` while somebody corrects; they are all acknowledged."""
    done = threading.Event()
    sent: list[dict[str, Any]] = []

    def correct() -> None:
        while not done.is_set():
            sent.append(source.correct(*more[len(sent) % len(more)]))

    somebody = threading.Thread(target=correct)
    somebody.start()
    try:
        made: dict[str, Any] = json.loads(source.emend("backup", str(backups), "--json").stdout)
    finally:
        done.set()
        somebody.join(60)
    assert sent
    return made


def _graph(stack: Stack, version: int, folder: Path) -> str:
    with Registry(stack.url("MLFLOW")) as registry:
        registry.download("doodles", version, folder)
    graph = next(folder.rglob("*.onnx"))
    return hashlib.sha256(graph.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def copy(seen: Seen, folder: Path) -> Iterator[Stack]:
    """On other ports, in another data folder."""
    again = Stack(folder / "copy")
    shutil.rmtree(again.data_dir)
    said = again.emend("restore", str(seen.backups))
    assert seen.made["backup"] in said.stdout
    try:
        again.start()
        yield again
    finally:
        again.stop()
        again.api.close()


def test_no_picture_was_missing_and_nothing_stood_still_for_long(seen: Seen) -> None:
    assert seen.made["missing_pictures"] == []
    assert seen.made["held_seconds"] < 20


def test_every_acknowledged_correction_is_there_with_its_picture_and_status(seen: Seen, copy: Stack) -> None:
    assert {each["status"] for each in seen.receipts.values()} >= {"merged", "accepted"}
    for correction_id, receipt in seen.receipts.items():
        found = copy.receipt(correction_id)
        assert {k: found[k] for k in ("status", "label")} == {k: receipt[k] for k in ("status", "label")}
        picture = copy.api.get(f"/corrections/{correction_id}/image")
        assert picture.content == seen.pictures[correction_id]


def test_the_champion_answers_the_same(
    seen: Seen, copy: Stack, images: list[tuple[Any, str]], tmp_path: Path
) -> None:
    for before, (pixels, _) in zip(seen.answers, images[-ASKED:], strict=True):
        now = copy.predict(pixels)
        assert (now["version"], now["label"]) == (before["version"], before["label"])
        assert now["probabilities"] == pytest.approx(before["probabilities"], abs=1e-6)
    assert _graph(copy, seen.answers[0]["version"], tmp_path / "graph") == seen.graph


def test_ledger_runs_and_dataset_are_the_same(seen: Seen, copy: Stack) -> None:
    assert json.loads(copy.emend("ledger", "--json").stdout) == seen.ledger
    runs = json.loads(copy.emend("runs", "--json").stdout)
    assert [r["status"] for r in (seen.runs[0], runs[0])] == ["running", "interrupted"]
    keys = ("run_id", "status", "message", "version", "dataset_version", "verdict", "finished_at")
    assert [{k: r[k] for k in keys} for r in runs[1:]] == [{k: r[k] for k in keys} for r in seen.runs[1:]]
    assert (copy.home / "dataset.dvc").read_bytes() == seen.dataset


def test_the_run_under_way_goes_on_and_dvc_finds_everything_as_recorded(seen: Seen, copy: Stack) -> None:
    assert git(copy.home, "fsck", "--no-dangling").strip() == ""
    run_id = seen.runs[0]["run_id"]
    resumed = copy.emend("resume", str(run_id), check=False)
    assert resumed.returncode in (0, 4), resumed.stdout + resumed.stderr
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status"],
        cwd=copy.home,
        env=copy.environment | {"DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Data and pipelines are up to date." in status.stdout


def test_the_copy_can_be_backed_up_to_the_same_place(seen: Seen, copy: Stack) -> None:
    again = json.loads(copy.emend("backup", str(seen.backups), "--keep", "1", "--json").stdout)
    assert again["removed"] == [seen.made["backup"]]
    assert again["new_bytes"] < again["size_bytes"] / 2
    assert "is whole" in copy.emend("restore", str(seen.backups), "--check").stdout
