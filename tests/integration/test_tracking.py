"""Curves on their way to a real MLflow that is away, hangs, or says no."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from pipeline.tracking import NOTE, TrackedRun, Tracking
from tests.support import waiting
from tests.support.mlflow_server import MlflowServer

SECONDS = 60.0
wait_until = partial(waiting.wait_until, seconds=SECONDS)
EPOCHS = list(range(1, 6))


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


class Made:
    """Who was told of which MLflow run."""

    def __init__(self) -> None:
        self.runs: dict[int, str] = {}

    def __call__(self, run_id: int, mlflow_run: str) -> None:
        self.runs[run_id] = mlflow_run


@contextmanager
def tracking(mlflow: MlflowServer, made: Made, request_seconds: float = 1.0) -> Iterator[Tracking]:
    working = Tracking(mlflow.url, made, request_seconds=request_seconds)
    try:
        yield working
    finally:
        working.close()


def a_run(data_dir: Path, model: str) -> TrackedRun:
    folder = data_dir / model / "runs" / "7"
    folder.mkdir(parents=True)
    return TrackedRun(7, model, folder, datetime.now(UTC))


def train(run: TrackedRun, *epochs: int) -> None:
    for epoch in epochs:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        figures = {"epoch": epoch, "epochs": 5, "train_loss": 1 / epoch, "cpu_utilisation": 0.5, "at": at}
        with (run.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(figures) + "\n")


def the_run(mlflow: MlflowServer, model: str) -> tuple[str, str]:
    """Its id and status; there is no other."""
    (only,) = mlflow.runs(model)
    return only["info"]["run_id"], only["info"]["status"]


def steps(mlflow: MlflowServer, run_id: str, key: str = "train_loss") -> list[int]:
    return [step for step, _ in mlflow.points(run_id, key)]


def test_a_curve_is_in_mlflow_before_its_run_is_over_there(tmp_path: Path, mlflow: MlflowServer) -> None:
    run, made = a_run(tmp_path, "whole"), Made()
    with tracking(mlflow, made, 10.0) as working:
        working.follow(run, None)
        train(run, *EPOCHS)
        assert working.flush(7, SECONDS)
        run_id, status = the_run(mlflow, "whole")
        assert (made.runs, status) == ({7: run_id}, "RUNNING")
        assert steps(mlflow, run_id) == EPOCHS
        assert mlflow.points(run_id, "system/cpu_utilization_percentage")[0] == (1, 50.0)
        working.end(7, "FINISHED")
        wait_until(lambda: the_run(mlflow, "whole")[1] == "FINISHED")


def test_nothing_is_lost_nor_held_up_while_mlflow_hangs(tmp_path: Path, mlflow: MlflowServer) -> None:
    run, made = a_run(tmp_path, "frozen"), Made()
    with tracking(mlflow, made) as working:
        working.follow(run, None)
        train(run, 1)
        assert working.flush(7, SECONDS)
        with mlflow.frozen():
            train(run, 2, 3)
            wait_until(lambda: working.trouble(7) is not None)
            began = time.monotonic()
            assert not working.flush(7, 0.2)
            working.follow(run, made.runs[7])
            train(run, 4, 5)
            working.end(7, "FAILED")
            assert time.monotonic() - began < 2
        wait_until(lambda: the_run(mlflow, "frozen")[1] == "FAILED")
        assert steps(mlflow, made.runs[7]) == EPOCHS


def test_an_mlflow_that_is_away_from_the_start_gets_the_whole_curve_in_one_run(
    tmp_path: Path, mlflow: MlflowServer
) -> None:
    run, made = a_run(tmp_path, "late"), Made()
    with tracking(mlflow, made) as working:
        with (
            mlflow.frozen()
        ):  # it will make the run that it was asked for, though nobody waits for the answer
            working.follow(run, None)
            train(run, *EPOCHS)
            wait_until(lambda: working.trouble(7) is not None)
        assert working.flush(7, SECONDS)
    assert made.runs == {7: the_run(mlflow, "late")[0]}
    assert steps(mlflow, made.runs[7]) == EPOCHS


def test_what_a_killed_orchestrator_left_is_taken_up_by_the_next(
    tmp_path: Path, mlflow: MlflowServer
) -> None:
    run, made = a_run(tmp_path, "left"), Made()
    with tracking(mlflow, made, 10.0) as working:
        working.follow(run, None)
        train(run, 1, 2)
        assert working.flush(7, SECONDS)
    train(run, 3)
    note = run.folder / NOTE
    told = json.loads(note.read_text())
    note.write_text(
        json.dumps(told | {"sent_bytes": 0, "ending": "KILLED"})
    )  # killed before it noted the rest
    active = {7}
    with tracking(mlflow, made, 10.0) as working:
        working.take_up(tmp_path, lambda run_id: run_id in active)
        assert working.flush(7, 1.0)  # somebody is at work on it: nothing is followed
        assert steps(mlflow, made.runs[7]) == [1, 2]
        active.clear()
        working.take_up(tmp_path, lambda run_id: run_id in active)
        wait_until(lambda: the_run(mlflow, "left")[1] == "KILLED")
    assert steps(mlflow, made.runs[7]) == [1, 2, 3]
    assert json.loads(note.read_text())["ending"] is None


def test_an_mlflow_run_that_nobody_noted_is_found_again_and_another_deployments_is_not(
    tmp_path: Path, mlflow: MlflowServer
) -> None:
    run, made = a_run(tmp_path / "ours", "found"), Made()
    theirs = a_run(tmp_path / "theirs", "found")
    for each in (run, run, theirs):
        with tracking(mlflow, made, 10.0) as working:
            working.follow(each, None)
            train(each, 1)
            assert working.flush(7, SECONDS)
        (each.folder / NOTE).unlink()
        (each.folder / "metrics.jsonl").unlink()
    told = mlflow.runs("found")
    assert len(told) == 2
    (other,) = {each["info"]["run_id"] for each in told} - {made.runs[7]}
    assert steps(mlflow, other) == [1, 1]


def test_a_refusal_of_one_run_is_told_and_holds_up_no_other(tmp_path: Path, mlflow: MlflowServer) -> None:
    made = Made()
    refused, other = a_run(tmp_path / "a", "refused"), a_run(tmp_path / "b", "other")
    other = TrackedRun(8, other.model, other.folder, other.requested_at)
    with tracking(mlflow, made, 10.0) as working:
        working.follow(refused, "0" * 32)
        working.follow(other, None)
        train(refused, 1)
        train(other, 1)
        assert working.flush(8, SECONDS)
        assert not working.flush(7, SECONDS)
        trouble = working.trouble(7)
        assert trouble is not None
        assert "0" * 32 in trouble.message
        working.end(7, "FINISHED")
        wait_until(lambda: working.trouble(7) is None)  # forgotten until the next start
    assert not [thread for thread in threading.enumerate() if thread.name == "tracking"]
