"""The orchestrator with real stages and a real database: who runs what, and how it ends on bad days.

Runs go as far as `version` and are cancelled in `train`; the whole way is the acceptance tests'.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.typing import NDArray
from sqlalchemy import select

from core import categories, withdrawal
from core.database import (
    Correction,
    CorrectionStatus,
    Run,
    RunStatus,
    Stage,
    StageStatus,
    Transition,
    session,
)
from core.images import encode_png, name_of
from core.registry import Registry
from core.settings import settings
from core.storage import write_durably
from pipeline import dataset, execution, models, processes, runs
from pipeline.curve import read_curve
from pipeline.imports import stage_pixels
from pipeline.orchestrator import Orchestrator
from pipeline.params import load
from pipeline.workspace import create_home
from tests.support import waiting
from tests.support.kills import kill_at_tag
from tests.support.mlflow_server import MlflowServer

MODEL = "doodles"
PARAMS: dict[str, Any] = {
    "input": {"mode": "L", "width": 28, "height": 28},
    "train": {"augmentation": "none", "widths": [4], "epochs": 1, "min_steps": 1},
    "gate": {},
    "ingest": {"min_new_images": 5},
    "merge": {"min_images": 5},
}
SECONDS = 60.0
wait_until = partial(waiting.wait_until, seconds=SECONDS)


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """Not started yet."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.stop()


@pytest.fixture
def home(emend_environment: dict[str, str], mlflow: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With 40 images of two categories waiting."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
    settings.cache_clear()
    monkeypatch.setattr(processes, "TERMINATE_SECONDS", 0.5)  # a stopped process does not end by itself
    folder = models.home_of(MODEL)
    create_home(folder, yaml.safe_dump(PARAMS))
    models.make(MODEL, MODEL)
    by_label = {"cat": noise(0, 20), "dog": noise(1, 20)}
    models.take_in(
        MODEL, stage_pixels(folder, load(folder).input.spec, by_label, source="generated", licence=None)
    )
    return folder


def noise(seed: int, count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def edit(home: Path, **sections: Any) -> None:
    (home / "params.yaml").write_text(yaml.safe_dump({**PARAMS, **sections}))


@contextmanager
def working(count: int = 1) -> Iterator[None]:
    """That many orchestrators at work; stopped after."""
    started = [Orchestrator() for _ in range(count)]
    threads = [threading.Thread(target=each.serve) for each in started]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for each in started:
            each.stop()
        for thread in threads:
            thread.join()


def ask(force: bool = False) -> int:
    return runs.request_run(MODEL, requested_by="test", force=force)


def finish(run_id: int) -> dict[str, Any]:
    wait_until(lambda: runs.show_run(run_id)["status"] not in ("queued", "running"), what=runs.list_runs)
    return runs.show_run(run_id)


def stages(run_id: int) -> dict[str, str]:
    return {stage["name"]: stage["status"] for stage in runs.show_run(run_id)["stages"]}


def go_as_far_as_train(run_id: int) -> dict[str, Any]:
    """Then cancels."""
    wait_until(lambda: "train" in stages(run_id) or runs.show_run(run_id)["status"] == "failed")
    if runs.show_run(run_id)["status"] == "running":
        runs.request_cancel(run_id, requested_by="test")
    return finish(run_id)


def process(name: str, run_id: int) -> psutil.Process:
    found: list[psutil.Process] = []

    def look() -> bool:
        for each in psutil.Process().children(recursive=True):
            try:
                line = each.cmdline()
            except psutil.Error:
                continue
            if line[1:3] == ["-m", f"pipeline.stages.{name}"] and line[-1] == str(run_id):
                found.append(each)
        return bool(found)

    wait_until(look)
    return found[0]


def correct(home: Path, label: str, pixels: NDArray[np.uint8]) -> str:
    """As the gateway keeps one."""
    sha256 = name_of(pixels)
    write_durably(home / "inbox" / label / f"{sha256}.png", encode_png(pixels))
    with session() as db:
        category = categories.find_or_add(db, MODEL, label)
        row = Correction(id=uuid4(), model=MODEL, image_sha256=sha256, category_id=category.id, label=label)
        row.actor, row.request_sha256, row.status = "somebody", "0" * 64, CorrectionStatus.accepted
        db.add(row)
    return str(row.id)


def git(home: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=home, check=True, capture_output=True, text=True).stdout


def test_two_orchestrators_run_a_run_once(home: Path) -> None:
    edit(home, ingest={"min_new_images": 100})
    with working(2):
        ended = finish(ask())
    assert ended["status"] == "halted"
    assert "60 more are missing" in ended["message"]
    with session() as db:
        rows = db.scalars(select(Transition).order_by(Transition.id)).all()
    assert [(row.stage, row.status) for row in rows] == [
        (None, "queued"),
        (None, "running"),
        ("ingest", "running"),
        ("ingest", "halted"),
        (None, "halted"),
    ]


def test_a_run_cancelled_while_it_is_queued_never_begins(home: Path) -> None:
    run_id = ask()
    runs.request_cancel(run_id, requested_by="test")
    with working():
        ended = finish(run_id)
    assert (ended["status"], ended["message"], ended["stages"]) == (
        "cancelled",
        "cancelled before it began",
        [],
    )


def test_a_run_cancelled_in_a_stage_ends_its_process_and_can_be_resumed(home: Path) -> None:
    edit(home, ingest={"min_new_images": 100})
    with working():
        run_id = ask()
        held = process("ingest", run_id)
        held.send_signal(signal.SIGSTOP)
        wait_until(lambda: stages(run_id) == {"ingest": "running"})
        runs.request_cancel(run_id, requested_by="test")
        ended = finish(run_id)
        assert (ended["status"], stages(run_id)) == ("cancelled", {"ingest": "cancelled"})
        assert ended["message"] == "cancelled in stage ingest; `emend resume` goes on"
        assert not held.is_running()
        runs.request_resume(run_id, requested_by="test")
        assert finish(run_id)["status"] == "halted"
    assert runs.show_run(run_id)["stages"][0]["attempt"] == 2


def test_a_stage_that_takes_too_long_is_ended(home: Path) -> None:
    edit(home, stages={"timeout_seconds": 2})
    with working():
        run_id = ask()
        held = process("ingest", run_id)
        held.send_signal(signal.SIGSTOP)
        ended = finish(run_id)
    assert (ended["status"], stages(run_id)) == ("failed", {"ingest": "failed"})
    assert "stage ingest took longer than 2 s; log: " in ended["message"]
    assert not held.is_running()


def test_a_stage_that_dies_while_it_waits_for_its_turn_is_reported_at_its_turn(home: Path) -> None:
    with working():
        run_id = ask()
        first = process("ingest", run_id)
        first.send_signal(signal.SIGSTOP)
        process("convert", run_id).kill()
        first.send_signal(signal.SIGCONT)
        ended = finish(run_id)
    assert stages(run_id) == {"ingest": "succeeded", "convert": "failed"}
    assert f"stage convert of run {run_id} was killed by signal 9; log: " in ended["message"]


def test_a_stopped_orchestrator_marks_its_run_interrupted(home: Path) -> None:
    with working():
        run_id = ask()
        process("ingest", run_id).send_signal(signal.SIGSTOP)
        wait_until(lambda: stages(run_id) == {"ingest": "running"})
    ended = runs.show_run(run_id)
    assert (ended["status"], stages(run_id)) == ("interrupted", {"ingest": "interrupted"})


def test_an_orphan_is_found_at_start(home: Path) -> None:
    run_id = ask()
    with session() as db:  # what a killed orchestrator leaves
        db.get_one(Run, run_id).status = RunStatus.running
        row = Stage(run_id=run_id, name="convert", position=1, started_at=datetime.now(UTC))
        row.status = StageStatus.running
        db.add(row)
    with working(2):
        ended = finish(run_id)
    assert (ended["status"], stages(run_id)) == ("interrupted", {"convert": "interrupted"})
    assert ended["message"] == "its orchestrator was stopped or killed; `emend resume` goes on"
    runs.request_resume(run_id, requested_by="test")


def test_faulty_parameters_fail_the_run_by_the_names_of_the_keys(home: Path) -> None:
    edit(home, trian={"epochs": 3}, merge={"min_images": 1})
    with working():
        ended = finish(ask())
    assert ended["status"] == "failed"
    assert "trian" in ended["message"]
    assert "merge.min_images" in ended["message"]


def test_without_mlflow_a_run_waits_then_fails_and_a_resume_works(
    home: Path, mlflow: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "REGISTRY_SECONDS", 1.0)
    with working():
        run_id = ask()
        ended = finish(run_id)
        assert (ended["status"], list(stages(run_id))) == ("failed", ["ingest", "convert", "merge"])
        assert f"MLflow at {mlflow.url} does not answer" in ended["message"]
        assert "`emend resume`" in ended["message"]
        mlflow.start()
        runs.request_resume(run_id, requested_by="test")
        assert go_as_far_as_train(run_id)["status"] == "cancelled"
    assert stages(run_id)["version"] == "succeeded"


@pytest.fixture
def live_mlflow(mlflow: MlflowServer) -> MlflowServer:
    if not mlflow.running:
        mlflow.start()
    return mlflow


def test_a_locked_home_fails_the_run_and_the_lock_stays_for_its_owner(
    home: Path, live_mlflow: MlflowServer
) -> None:
    lock = home / ".git" / "index.lock"
    lock.touch()
    with working():
        run_id = ask()
        ended = finish(run_id)
        assert stages(run_id)["version"] == "failed"
        assert f"the home {home} is locked" in ended["message"]
        assert f"remove {lock}" in ended["message"]
        lock.unlink()  # fails when it is gone
        runs.request_resume(run_id, requested_by="test")
        go_as_far_as_train(run_id)
    assert stages(run_id)["version"] == "succeeded"


def test_a_home_with_changes_fails_the_run_but_edited_parameters_are_committed(
    home: Path, live_mlflow: MlflowServer
) -> None:
    (home / "dvc.yaml").write_text("stages: {}\n")
    edit(home, cleanup={"keep_runs": 7})
    with working():
        run_id = ask()
        ended = finish(run_id)
        assert stages(run_id)["version"] == "failed"
        assert (
            f"dvc.yaml changed in the home {home}; only params.yaml may be edited there" in ended["message"]
        )
        git(home, "checkout", "--", "dvc.yaml")
        runs.request_resume(run_id, requested_by="test")
        go_as_far_as_train(run_id)
    assert stages(run_id)["version"] == "succeeded"
    assert "keep_runs: 7" in git(home, "show", "dataset-1:params.yaml")


def test_a_withdrawal_alone_makes_a_run_and_a_dataset_without_it(
    home: Path, live_mlflow: MlflowServer
) -> None:
    sent = [correct(home, "cat", pixels) for pixels in noise(2, 6)]
    with working():
        go_as_far_as_train(ask())
        with session() as db:
            withdrawn = withdrawal.withdraw(db, [UUID(sent[0]), UUID(sent[1])], settings().data_dir)
        assert withdrawn.by_the_next_run == 2
        stopped = ask()
        go_as_far_as_train(stopped)
        again = ask()  # the one before got no version, so there is still something to do
        go_as_far_as_train(again)
    for run_id in (stopped, again):
        assert stages(run_id)["merge"] == "succeeded"
        figures = {s["name"]: s["figures"] for s in runs.show_run(run_id)["stages"]}
        assert figures["ingest"]["withdrawals"] == 2
    with session() as db:
        rows = {str(row.id): row for row in db.scalars(select(Correction))}
    assert [rows[each].status.value for each in sent[:2]] == ["withdrawn"] * 2
    assert [rows[each].withdrawn_dataset_version for each in sent] == [2, 2, None, None, None, None]
    left = dataset.load(home, load(home).input.spec, dataset.SPLITS).table["correction_id"].drop_null()
    assert sorted(left.to_pylist()) == sorted(sent[2:])


def test_a_dataset_version_of_a_killed_run_that_nobody_resumed_is_recorded_by_the_next(
    home: Path, live_mlflow: MlflowServer
) -> None:
    sent = [correct(home, "cat", pixels) for pixels in noise(2, 6)]
    kill_at_tag(home, "dataset-1")
    with working():
        killed = ask()
        assert "killed by signal 9" in finish(killed)["message"]
        assert git(home, "tag", "--list").split() == ["dataset-1"]
        sent_later = [correct(home, "dog", pixels) for pixels in noise(3, 6)]
        run_id = ask()
        go_as_far_as_train(run_id)
    assert stages(run_id)["version"] == "succeeded"
    with session() as db:
        rows = {str(row.id): row for row in db.scalars(select(Correction))}
    assert {rows[each].dataset_version for each in sent} == {1}
    assert {rows[each].dataset_version for each in sent_later} == {2}
    assert {row.status.value for row in rows.values()} <= {"merged", "exam"}
    stored: list[str] = []
    for shard in (home / "dataset").glob("*.parquet"):
        stored += pq.read_table(shard, columns=["correction_id"])["correction_id"].drop_null().to_pylist()
    assert sorted(stored) == sorted(sent + sent_later)
    figures = {s["name"]: s["figures"] for s in runs.show_run(run_id)["stages"]}
    assert figures["ingest"]["untrained_images"] == 46
    assert figures["merge"]["duplicates"] == 0


def test_training_goes_on_while_mlflow_is_away_and_its_whole_curve_is_there_afterwards(
    home: Path, live_mlflow: MlflowServer
) -> None:
    edit(home, train={**PARAMS["train"], "epochs": 150})
    with working():
        run_id = ask()
        wait_until(lambda: len(curve(run_id)) >= 3)
        held = process("train", run_id)
        held.send_signal(signal.SIGSTOP)
        live_mlflow.stop()
        seen = len(curve(run_id))
        held.send_signal(signal.SIGCONT)
        wait_until(lambda: len(curve(run_id)) > seen + 2)
    assert stages(run_id)["train"] == "interrupted"
    trained = len(recorded(home, run_id))
    with working():  # another one, to which nobody says how far the first had come
        runs.request_resume(run_id, requested_by="test")
        wait_until(lambda: stages(run_id)["train"] == "succeeded")
        runs.request_cancel(run_id, requested_by="test")
        assert finish(run_id)["status"] == "cancelled"
        live_mlflow.start()
        mlflow_run = runs.show_run(run_id)["mlflow_run_id"]
        wait_until(lambda: statuses(live_mlflow)[mlflow_run] == "KILLED")
    epochs = recorded(home, run_id)
    assert trained < len(epochs)
    assert sorted(set(epochs)) == list(range(1, 151))
    assert [step for step, _ in live_mlflow.points(mlflow_run, "train_loss")] == epochs
    assert [figures["epoch"] for figures in curve(run_id)] == epochs


def test_a_training_that_began_without_mlflow_has_its_curve_beside_the_version(
    home: Path, live_mlflow: MlflowServer
) -> None:
    with working():
        run_id = ask()
        held = process("version", run_id)
        held.send_signal(signal.SIGSTOP)
        wait_until(lambda: stages(run_id).get("version") == "running")
        live_mlflow.stop()
        held.send_signal(signal.SIGCONT)
        wait_until(lambda: stages(run_id).get("train") == "succeeded")
        assert runs.show_run(run_id)["mlflow_run_id"] is None
        live_mlflow.start()
        wait_until(lambda: stages(run_id).get("register") == "succeeded")
        runs.request_cancel(run_id, requested_by="test")
        finish(run_id)
        with Registry(live_mlflow.url) as registry:
            made = registry.version(MODEL, runs.show_run(run_id)["version"])
        assert made.run_id == runs.show_run(run_id)["mlflow_run_id"]
        wait_until(lambda: len(live_mlflow.points(made.run_id, "train_loss")) == 1)


def statuses(mlflow: MlflowServer) -> dict[str, str]:
    return {run["info"]["run_id"]: run["info"]["status"] for run in mlflow.runs(MODEL)}


def recorded(home: Path, run_id: int) -> list[int]:
    return [figures["epoch"] for figures in read_curve(home / "runs" / str(run_id) / "metrics.jsonl").epochs]


def curve(run_id: int) -> list[dict[str, Any]]:
    """As those who follow the run are told it."""
    with session() as db:
        told = select(Transition.figures).where(Transition.run_id == run_id, Transition.status == "epoch")
        return list(db.scalars(told.order_by(Transition.id)))
