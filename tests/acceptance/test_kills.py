"""SIGKILL of every process at every bad moment, a full disk, a database that is gone: with every real process.

Whatever is killed: no acknowledged correction is lost, none is twice in the data, nothing is promoted twice, and
`emend resume` goes on. The tests share one deployment and build on one another, in this order.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.database import Correction, LedgerEntry, LedgerOutcome, Version, make_engine
from core.registry import Registry
from pipeline.git import git
from tests.support.kills import (
    assert_none_left,
    kill_at_tag,
    kill_group,
    kill_in_hook,
    processes_of,
    service,
    small_disk,
    stage,
    stopped,
)
from tests.support.stack import Stack, drawings, encode

CATEGORIES = ("airplane", "banana", "bird", "book", "cat", "clock", "dog", "flower", "house", "rainbow")
DISK_BYTES = 2_000_000_000


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Not started yet. Its data is on a disk of its own where that can be made, so that it can be full."""
    folder = Path(tempfile.mkdtemp(prefix="emend-"))  # a short path: PostgreSQL's socket lies below it
    disk = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "emend-test", folder], capture_output=True
    )
    made = Stack(folder, starter_drawings=100)
    made.edit_params(
        # A gate that is content with little: these tests are about what happens after it said yes.
        gate={"margin_points": 100.0, "generated_margin_points": 100.0, "category_alpha": 0.000001},
        stages={"promote_timeout_seconds": 4},
    )
    try:
        yield made
    finally:
        made.stop()
        made.api.close()
        if disk.returncode == 0:
            subprocess.run(["umount", "--lazy", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def images(quickdraw: Path) -> Iterator[tuple[Any, str]]:
    """Real drawings with their categories, each once."""
    taken = {name: drawings(quickdraw, name, 1_000, 500) for name in CATEGORIES}
    return ((taken[name][i], name) for i in range(500) for name in CATEGORIES)


def fetch(stack: Stack, query: Any) -> list[Any]:
    engine = make_engine(stack.database_url)
    try:
        with Session(engine) as db:
            return list(db.scalars(query))
    finally:
        engine.dispose()


def in_dataset(stack: Stack) -> list[str]:
    """The correction id of every row that has one, over all shards."""
    found: list[str] = []
    for shard in sorted((stack.home / "dataset").glob("images-*.parquet")):
        column = pq.read_table(shard, columns=["correction_id"])["correction_id"]
        found += [value for value in column.to_pylist() if value is not None]
    return found


def inbox(stack: Stack) -> list[Path]:
    return [path for path in (stack.home / "inbox").rglob("*") if path.is_file()]


def assert_each_once(stack: Stack, corrections: list[str]) -> None:
    """In the database, settled; in the dataset, once; nothing left in the inbox."""
    rows = {str(row.id): row for row in fetch(stack, select(Correction))}
    assert {rows[each].status.value for each in corrections} <= {"merged", "exam"}
    stored = in_dataset(stack)
    assert sorted(each for each in stored if each in set(corrections)) == sorted(corrections)
    assert len(stored) == len(set(stored))
    assert inbox(stack) == []


def resume(stack: Stack, run: int) -> None:
    answer = stack.api.post(f"/pipeline_runs/{run}/resume")
    assert answer.status_code == 202, answer.text


def stages_of(run: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["status"] for each in run["stages"]}


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_a_stop_in_the_middle_of_the_first_start_leaves_nothing_running_and_the_next_goes_on(
    stack: Stack,
) -> None:
    stack.begin()
    stack.wait_until(lambda: b"training version 1" in stack.log.read_bytes(), 120)
    stage(stack, "train", 1)
    assert len(processes_of(stack.data_dir)) > 6
    stack.stop()
    assert_none_left(stack.data_dir)
    stack.start()
    run = stack.run(1)
    assert (run["status"], run["trigger"]) == ("succeeded", "initial")
    assert [row.version for row in fetch(stack, select(Version))] == [1]


Strike = Callable[[Stack, int], None]


def held(name: str, meanwhile: Strike = lambda stack, run: None) -> tuple[str, Strike, Strike]:
    """Kills the stage as soon as it runs: it was stopped while it waited for its turn."""
    holding: list[psutil.Process] = []

    def arrange(stack: Stack, run: int) -> None:
        holding.append(stage(stack, name, run))
        holding[0].send_signal(signal.SIGSTOP)

    def strike(stack: Stack, run: int) -> None:
        stack.wait_for_stage(run, name)
        meanwhile(stack, run)
        kill_group(holding[0])

    return name, arrange, strike


def register_by_hand(stack: Stack, run: int) -> None:
    """All that an attempt does that is killed just before it can say so."""
    subprocess.run(
        [sys.executable, "-m", "pipeline.stages.register", "--home", stack.home, "--run", str(run)],
        env=stack.environment,
        check=True,
        capture_output=True,
    )


def move_champion_by_hand(stack: Stack, run: int) -> None:
    with Registry(stack.url("MLFLOW")) as registry:
        registry.set_alias("doodles", "champion", stack.run(run)["version"])


def set_aside_by_hand(stack: Stack, _: int) -> None:
    path = inbox(stack)[0]
    path.rename(path.with_name(f".{path.name}.merged"))


def test_a_run_that_is_killed_in_every_stage_ends_with_one_version_and_every_correction_once(
    stack: Stack, images: Iterator[tuple[Any, str]]
) -> None:
    sent = [stack.correct(*next(images))["correction_id"] for _ in range(120)]
    home = stack.home
    in_commit = lambda stack, run: kill_in_hook(home, "post-commit")  # noqa: E731
    nothing: Strike = lambda stack, run: None  # noqa: E731
    kills: list[tuple[str, Strike, Strike]] = [
        held("ingest"),
        held("convert"),
        held("merge"),
        ("version", in_commit, nothing),
        ("version", lambda stack, run: kill_at_tag(home, "dataset-2"), nothing),
        held("train"),
        held("evaluate"),
        ("evaluate", in_commit, nothing),
        held("register"),
        held("register", register_by_hand),
        held("promote"),
        held("promote", move_champion_by_hand),
        held("cleanup", set_aside_by_hand),
    ]
    run = stack.start_run()
    for number, (name, arrange, strike) in enumerate(kills):
        if number:
            resume(stack, run)
        arrange(stack, run)
        strike(stack, run)
        ended = stack.finish(run)
        assert ended["status"] == "failed"
        assert f"stage {name} of run {run} was killed by signal 9" in ended["message"]
        assert stages_of(ended)[name] == "failed"
        assert "running" not in stages_of(ended).values()
    resume(stack, run)
    ended = stack.finish(run)
    assert ended["status"] == "succeeded", ended
    assert (ended["version"], ended["dataset_version"]) == (2, 2)
    assert stack.predict(next(images)[0])["version"] == 2

    assert_each_once(stack, sent)
    assert sorted(row.version for row in fetch(stack, select(Version))) == [1, 2]
    with Registry(stack.url("MLFLOW")) as registry:
        assert [v.version for v in registry.versions("doodles")] in ([1, 2], [2, 1])
        found = registry.version_by_alias("doodles", "previous")
        assert found is not None
        assert found.version == 1
    entries = fetch(stack, select(LedgerEntry).where(LedgerEntry.run_id == run))
    assert [e.outcome for e in entries] == [LedgerOutcome.abandoned, LedgerOutcome.done]
    assert git(home, "tag", "--list", "dataset-*").split() == ["dataset-1", "dataset-2"]
    assert git(home, "status", "--porcelain") == ""


def test_a_killed_gateway_loses_no_acknowledged_correction_and_repeats_give_the_same_id(
    stack: Stack, images: Iterator[tuple[Any, str]]
) -> None:
    bodies = {f"key-{i}": _body(*next(images)) for i in range(150)}
    acknowledged: dict[str, str] = {}
    enough = threading.Event()

    def send(keys: list[str]) -> None:
        with httpx.Client(base_url=stack.url("API"), timeout=10) as client:
            for key in keys:
                try:
                    answer = client.post("/save-image/", json=bodies[key], headers=_named(key))
                except httpx.TransportError:
                    continue
                assert answer.status_code == 201, answer.text
                acknowledged[key] = answer.json()["correction_id"]
                if len(acknowledged) >= 40:
                    enough.set()

    keys = list(bodies)
    senders = [threading.Thread(target=send, args=(keys[i::6],)) for i in range(6)]
    gateway = service(stack, "api")
    for sender in senders:
        sender.start()
    assert enough.wait(30)
    gateway.kill()
    for sender in senders:
        sender.join()
    assert 40 <= len(acknowledged) < len(keys)
    stored = {str(row.id): row for row in fetch(stack, select(Correction))}
    for correction_id in acknowledged.values():
        row = stored[correction_id]
        assert (stack.home / "inbox" / row.label / f"{row.image_sha256}.png").is_file()

    stack.wait_until(lambda: _answers(stack.url("API") + "/readyz"), 30)
    again = {}
    for key, body in bodies.items():
        answer = stack.api.post("/save-image/", json=body, headers=_named(key))
        assert answer.status_code == 201, answer.text
        again[key] = answer.json()["correction_id"]
    assert {key: again[key] for key in acknowledged} == acknowledged
    rows = fetch(stack, select(Correction).where(Correction.idempotency_key.in_(keys)))
    assert sorted(str(row.id) for row in rows) == sorted(again.values())


def test_a_killed_orchestrator_takes_its_stage_with_it_and_training_goes_on_from_its_checkpoint(
    stack: Stack,
) -> None:
    """Its run is the one that takes in what the test before has sent; the edited parameters are committed with it."""
    stack.edit_params(train={"warm_epochs": 7, "epochs": 7, "min_steps": 40})
    waiting = [str(r.id) for r in fetch(stack, select(Correction).where(Correction.status == "accepted"))]
    assert len(waiting) == 150
    run = stack.start_run()
    training = stage(stack, "train", run)
    stack.wait_until((stack.home / "runs" / str(run) / "checkpoints" / "last.json").exists, 120)
    orchestrator = service(stack, "pipeline.orchestrator")
    orchestrator.kill()
    stack.wait_until(lambda: gone([training]), 10)
    ended = stack.finish(run)
    assert (ended["status"], stages_of(ended)["train"]) == ("interrupted", "interrupted")
    assert "orchestrator was killed by signal 9; starting it again in 1 s" in stack.log.read_text()

    done = stack.emend("resume", str(run), check=False)
    assert done.returncode in (0, 4), done.stdout + done.stderr
    log = (stack.data_dir / "logs" / "runs" / str(run) / "train.log").read_text()
    assert "from the checkpoint" in log
    assert "warm_epochs: 7" in git(stack.home, "show", f"run-{run}:params.yaml")
    assert_each_once(stack, waiting)


def test_a_killed_database_stops_neither_predictions_nor_the_run_but_refuses_corrections(
    stack: Stack, images: Iterator[tuple[Any, str]]
) -> None:
    sent = [stack.correct(*next(images))["correction_id"] for _ in range(20)]
    stack.edit_params(train={"warm_epochs": 2, "epochs": 2, "min_steps": 20})
    run = stack.start_run()
    stack.wait_for_stage(run, "train")
    training = stage(stack, "train", run)
    postmaster = psutil.Process(int((stack.data_dir / "postgres" / "postmaster.pid").read_text().split()[0]))
    assert stack.supervisor_pid is not None
    with stopped(psutil.Process(stack.supervisor_pid)):  # so that it is away for as long as this test looks
        postmaster.kill()
        picture = next(images)
        assert stack.predict(picture[0])["model"] == "doodles"
        refused = stack.api.post("/save-image/", json=_body(*picture))
        assert refused.status_code == 503
        assert "Retry-After" in refused.headers
        files = len(inbox(stack))
        while not gone([training]):  # its end, which nobody can record
            assert stack.predict(picture[0])["model"] == "doodles"
    ended = _finish_patiently(stack, run)
    assert ended["status"] in ("succeeded", "rejected"), ended
    assert files == 20
    assert_each_once(stack, sent)
    assert stack.correct(*picture)["status"] == "accepted"
    assert "postgres is gone" in stack.log.read_text()


def test_a_full_disk_refuses_corrections_and_fails_the_run_until_there_is_room_again(
    stack: Stack, images: Iterator[tuple[Any, str]]
) -> None:
    disk = stack.data_dir.parent
    if not os.path.ismount(disk):
        if os.environ.get("CI") == "true" or os.geteuid() == 0:
            pytest.fail("the test's disk could not be mounted")
        pytest.skip("making a small disk needs root")
    kept = [str(r.id) for r in fetch(stack, select(Correction).where(Correction.status == "accepted"))]
    kept += [stack.correct(*next(images))["correction_id"] for _ in range(20)]
    before = len(inbox(stack))
    assert before == len(kept)
    with small_disk(disk, 0, DISK_BYTES):
        refused = stack.api.post("/save-image/", json=_body(*next(images)))
        assert refused.status_code == 507, refused.text
        assert len(inbox(stack)) == before
        run = stack.start_run()
        ended = stack.finish(run)
        assert ended["status"] == "failed"
        assert "no room" in ended["message"]
    with small_disk(disk, 300_000, DISK_BYTES):  # enough to begin with, not for all of it
        resume(stack, run)
        ended = stack.finish(run)
        assert ended["status"] == "failed"
        assert "no room" in ended["message"] or "No space left" in ended["message"]
    resume(stack, run)
    ended = stack.finish(run)
    assert ended["status"] in ("succeeded", "rejected"), ended
    assert_each_once(stack, kept)


def test_a_killed_model_server_comes_back(stack: Stack, images: Iterator[tuple[Any, str]]) -> None:
    picture, _ = next(images)
    version = stack.predict(picture)["version"]
    server = service(stack, "serving")
    server.kill()
    stack.wait_until(lambda: _answers(stack.url("SERVING") + "/health"), 60)
    assert stack.predict(picture)["version"] == version
    assert "serving was killed by signal 9; starting it again in 1 s (log: " in stack.log.read_text()
    assert service(stack, "serving").pid != server.pid


def test_a_second_start_on_the_same_data_folder_is_refused(stack: Stack) -> None:
    second = stack.emend("up", check=False)
    assert second.returncode == 1
    assert f"Emend runs on {stack.data_dir} already" in second.stderr


def test_what_a_killed_supervisor_left_is_ended_by_the_next_start(
    stack: Stack, images: Iterator[tuple[Any, str]]
) -> None:
    sent = [stack.correct(*next(images))["correction_id"] for _ in range(20)]
    run = stack.start_run()
    stack.wait_for_stage(run, "train")
    stack.kill_supervisor()
    left = [p for p in processes_of(stack.data_dir) if not p.name().startswith("postgres")]
    assert len(left) >= 5
    stack.start()
    assert gone(left)
    assert "left by a supervisor that was killed" in stack.log.read_text()
    assert stack.run(run)["status"] == "interrupted"
    # A new run instead of a resumed one: nothing is lost or twice either.
    again = stack.finish(stack.start_run())
    assert again["status"] in ("succeeded", "rejected"), again
    assert_each_once(stack, sent)


def test_ctrl_c_in_the_middle_of_a_run_leaves_nothing_running(
    stack: Stack, images: Iterator[tuple[Any, str]]
) -> None:
    for _ in range(20):
        stack.correct(*next(images))
    run = stack.start_run()
    stack.wait_for_stage(run, "train")
    assert stack.supervisor_pid is not None
    os.kill(stack.supervisor_pid, signal.SIGINT)
    stack.stop()
    assert_none_left(stack.data_dir)
    assert "everything is stopped" in stack.log.read_text()


def _body(pixels: Any, label: str) -> dict[str, str]:
    return {"image": encode(pixels), "label": label}


def _named(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key, "Emend-Actor": "somebody"}


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


def _finish_patiently(stack: Stack, run: int) -> dict[str, Any]:
    """The gateway may answer 503 while the database starts."""
    stack.wait_until(lambda: stack.api.get(f"/pipeline_runs/{run}").status_code == 200, 60)
    return stack.finish(run)
