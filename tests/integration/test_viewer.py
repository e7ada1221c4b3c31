"""The viewer over HTTP, against a real PostgreSQL: runs, logs as they grow, and the stream of transitions."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from core.database import Model, Run, RunStatus, Stage, StageStatus, engine, session
from core.settings import settings
from pipeline import runs
from pipeline.stages import STAGES
from tests.support import waiting
from tests.support.processes import free_port, stop_group, wait_for_http
from viewer import logs
from viewer.app import create_app

TIMEOUT_SECONDS = 15
wait_until = partial(waiting.wait_until, seconds=TIMEOUT_SECONDS)


@pytest.fixture
def address(emend_environment: dict[str, str]) -> Iterator[str]:
    """A viewer in this process, listening, with two models in the database."""
    with session() as db:
        db.add_all([Model(name="doodles", params={}), Model(name="photos", params={})])
    server = uvicorn.Server(
        uvicorn.Config(create_app(), port=0, log_config=None, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: httpx.get(f"{address}/readyz").status_code == 200)
    yield address
    server.should_exit = True
    thread.join()


@contextmanager
def event_stream(
    address: str, query: str = "", last_event_id: int | None = None
) -> Iterator[Iterator[dict[str, Any]]]:
    headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
    with httpx.stream(
        "GET", f"{address}/events{query}", headers=headers, timeout=TIMEOUT_SECONDS
    ) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        assert next(lines).startswith("retry:")
        yield _parsed(lines)


def _parsed(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    event_id = None
    for line in lines:
        if line.startswith("id: "):
            event_id = int(line[4:])
        elif line.startswith("data: "):
            event = json.loads(line[6:])
            assert event["id"] == event_id
            yield event


def ids(stream: Iterator[dict[str, Any]], count: int) -> list[int]:
    return [next(stream)["id"] for _ in range(count)]


def subscribed(address: str, clients: int = 1) -> None:
    """Until the stream's reader hears what happens from now on."""
    wait_until(lambda: f"emend_viewer_event_clients {clients:.1f}" in httpx.get(f"{address}/metrics").text)


def add_transition(db: Connection, run_id: int, status: str = "epoch", model: str = "doodles") -> int:
    transition_id: int = db.execute(
        text(
            "insert into transitions (run_id, model, stage, status, figures) "
            "values (:run, :model, 'train', :status, '{\"epoch\": 1}') returning id"
        ),
        {"run": run_id, "model": model, "status": status},
    ).scalar_one()
    return transition_id


def new_transition(run_id: int, model: str = "doodles") -> int:
    with engine().begin() as db:
        return add_transition(db, run_id, model=model)


def set_stage(run_id: int, name: str, status: StageStatus, **fields: Any) -> None:
    with session() as db:
        row = Stage(
            run_id=run_id, name=name, position=STAGES.index(name), started_at=datetime.now(UTC), status=status
        )
        stage = db.merge(row)
        for field, value in fields.items():
            setattr(stage, field, value)
        runs.record(db, db.get_one(Run, run_id), name, status)


@pytest.fixture
def run_id(address: str) -> int:
    return runs.request_run("doodles", requested_by="test")


# Runs.


def test_runs_are_listed_and_shown_with_their_stages(address: str, run_id: int) -> None:
    set_stage(run_id, "train", StageStatus.succeeded, duration_seconds=12.5, figures={"top1": 0.91})
    with session() as db:
        run = db.get_one(Run, run_id)
        run.dataset_version, run.verdict, run.mlflow_run_id = 3, {"sentence": "Promoted."}, "abc"
    other = runs.request_run("photos", requested_by="test")
    listed = httpx.get(f"{address}/pipeline_runs").json()["runs"]
    assert [r["run_id"] for r in listed] == [other, run_id]
    assert httpx.get(f"{address}/pipeline_runs", params={"before": other, "limit": 1}).json()["runs"] == [
        listed[1]
    ]
    assert httpx.get(f"{address}/pipeline_runs", params={"model": "photos"}).json()["runs"] == [listed[0]]
    shown = httpx.get(f"{address}/pipeline_runs/{run_id}").json()
    assert shown == listed[1]
    assert (shown["status"], shown["dataset_version"], shown["verdict"]) == (
        "queued",
        3,
        {"sentence": "Promoted."},
    )
    assert shown["mlflow_url"].endswith("/#/runs/abc")
    (stage,) = shown["stages"]
    assert (stage["name"], stage["status"], stage["duration_seconds"]) == ("train", "succeeded", 12.5)
    assert stage["figures"] == {"top1": 0.91}


def test_bad_requests_are_refused_in_the_one_error_shape(address: str) -> None:
    for path, status in {
        "/pipeline_runs/4711": 404,
        "/pipeline_runs/x": 400,
        "/pipeline_runs/99999999999999999999": 400,
        "/pipeline_runs?limit=0": 400,
        "/pipeline_runs?model=%00": 400,
        "/events?after=-1": 400,
        "/events?model=a%00b": 400,
        "/nothing": 404,
    }.items():
        answer = httpx.get(address + path)
        assert answer.status_code == status, path
        assert set(answer.json()["error"]) >= {"code", "message"}, path
    assert httpx.get(f"{address}/events", headers={"Last-Event-ID": "abc"}).status_code == 400


def test_the_same_answers_below_runs_as_the_pages_ask(address: str, run_id: int) -> None:
    for path in ("/pipeline_runs", f"/pipeline_runs/{run_id}"):
        assert httpx.get(f"{address}/runs{path}").json() == httpx.get(f"{address}{path}").json()


# The stream of transitions.


def test_transitions_arrive_as_they_happen(address: str) -> None:
    with event_stream(address) as stream:
        subscribed(address)
        run_id = runs.request_run("doodles", requested_by="test")
        queued = next(stream)
        assert (queued["run_id"], queued["model"], queued["stage"], queued["status"]) == (
            run_id,
            "doodles",
            None,
            "queued",
        )
        new_transition(run_id)
        epoch = next(stream)
        assert (epoch["stage"], epoch["status"], epoch["figures"]) == ("train", "epoch", {"epoch": 1})


def test_a_reader_that_comes_back_gets_what_it_missed_and_then_what_is_new(address: str, run_id: int) -> None:
    missed = [new_transition(run_id) for _ in range(5)]
    with event_stream(address, "?after=0", last_event_id=missed[1]) as stream:
        assert ids(stream, 3) == missed[2:]
        live = new_transition(run_id)
        assert ids(stream, 1) == [live]


def test_a_long_replay_comes_whole_and_in_order(address: str, run_id: int) -> None:
    with engine().begin() as db:
        db.execute(
            text(
                "insert into transitions (run_id, model, status) select :run, 'doodles', 'epoch' "
                "from generate_series(1, 1200)"
            ),
            {"run": run_id},
        )
    with event_stream(address, "?after=0") as stream:
        received = ids(stream, 1201)
    assert received == sorted(set(received))


def test_readers_may_ask_for_one_run_or_one_model(address: str, run_id: int) -> None:
    other = runs.request_run("photos", requested_by="test")
    with (
        event_stream(address, f"?run_id={other}&after=0") as of_run,
        event_stream(address, "?model=photos") as of_model,
    ):
        assert next(of_run)["status"] == "queued"
        subscribed(address, 2)
        new_transition(run_id)
        wanted = new_transition(other, "photos")
        assert ids(of_run, 1) == ids(of_model, 1) == [wanted]


def test_many_readers_share_one_listener(address: str, run_id: int) -> None:
    listeners = (
        "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen %'"
    )
    with event_stream(address) as first, event_stream(address) as second, event_stream(address) as third:
        subscribed(address, 3)
        with engine().connect() as db:
            assert db.scalar(text(listeners)) <= 1
        wanted = new_transition(run_id)
        assert [ids(stream, 1) for stream in (first, second, third)] == [[wanted]] * 3


@pytest.mark.parametrize("late_one_commits", [True, False])
def test_a_smaller_id_that_commits_later_is_neither_lost_nor_out_of_order(
    address: str, run_id: int, database_url: str, late_one_commits: bool
) -> None:
    asks_for_writers = (
        "select count(*) from pg_stat_activity where datname = current_database() "
        "and query like '%virtualtransaction%' and pid <> pg_backend_pid()"
    )
    late = create_engine(database_url, poolclass=NullPool).connect()
    with closing(late), event_stream(address) as stream:
        subscribed(address)
        first = add_transition(late, run_id)
        second = new_transition(run_id)
        assert second == first + 1

        def reader_has_seen_the_gap() -> bool:
            with engine().connect() as db:
                return bool(db.scalar(text(asks_for_writers)))

        wait_until(reader_has_seen_the_gap)
        if late_one_commits:
            late.commit()
            assert ids(stream, 2) == [first, second]
        else:
            late.rollback()
            assert ids(stream, 1) == [second]


@contextmanager
def database_away(postgres: str, spared_pid: int = 0) -> Iterator[None]:
    """It throws everybody out but one, and lets nobody in."""
    database = make_url(settings().database_url).database
    server = create_engine(postgres, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with server.connect() as admin:
        admin.execute(text(f"alter database {database} allow_connections false"))
        admin.execute(
            text(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = :name and pid <> :spared"
            ),
            {"name": database, "spared": spared_pid},
        )
        try:
            yield
        finally:
            admin.execute(text(f"alter database {database} allow_connections true"))


def test_a_stream_ends_rather_than_be_silent_while_the_database_is_away(
    address: str, run_id: int, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.events.HEARTBEAT_SECONDS", 0.05)
    with httpx.stream("GET", f"{address}/events", timeout=TIMEOUT_SECONDS) as response:
        subscribed(address)
        with database_away(postgres):
            assert all(line == "" or line.startswith((":", "retry:")) for line in response.iter_lines())
            assert httpx.get(f"{address}/events").status_code == 503
    wait_until(lambda: httpx.get(f"{address}/readyz").status_code == 200)
    with event_stream(address) as stream:
        subscribed(address)
        live = new_transition(run_id)
        assert ids(stream, 1) == [live]


def test_the_stream_outlives_a_database_that_was_away(address: str, run_id: int, postgres: str) -> None:
    survivor = create_engine(settings().database_url, poolclass=NullPool).connect()
    with closing(survivor), event_stream(address) as stream:
        subscribed(address)
        own_pid = survivor.scalar(text("select pg_backend_pid()"))
        survivor.commit()
        with database_away(postgres, own_pid):
            wait_until(lambda: httpx.get(f"{address}/readyz").status_code == 503)
            missed = [add_transition(survivor, run_id) for _ in range(3)]
            survivor.commit()
        assert ids(stream, 3) == missed
        wait_until(lambda: httpx.get(f"{address}/readyz").status_code == 200)
        live = new_transition(run_id)
        assert ids(stream, 1) == [live]


def test_a_reader_too_slow_is_disconnected_and_can_come_back(address: str, run_id: int) -> None:
    url = httpx.URL(address)
    dropped = "emend_viewer_event_clients_dropped_total"
    before = _metric(address, dropped)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((url.host, url.port))
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        subscribed(address)
        for _ in range(4):  # 16 MB: more than the sockets' buffers and the reader's queue hold
            with engine().begin() as db:
                db.execute(
                    text(
                        "insert into transitions (run_id, model, status, message) "
                        "select :run, 'doodles', 'epoch', repeat('x', 4000) from generate_series(1, 1000)"
                    ),
                    {"run": run_id},
                )
        wait_until(lambda: _metric(address, dropped) == before + 1)
    newest = new_transition(run_id)
    with event_stream(address, last_event_id=newest - 3) as stream:
        assert ids(stream, 3) == [newest - 2, newest - 1, newest]


def _metric(address: str, name: str) -> float:
    (value,) = (
        float(line.split()[1])
        for line in httpx.get(f"{address}/metrics").text.splitlines()
        if line.startswith(name + " ")
    )
    return value


def test_silence_is_filled_with_comments(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewer.events.HEARTBEAT_SECONDS", 0.05)
    with httpx.stream("GET", f"{address}/events", timeout=TIMEOUT_SECONDS) as response:
        assert any(line.startswith(": ") for line in response.iter_lines())


# Logs.


def log_file(run_id: int, stage: str, content: bytes) -> Path:
    path = settings().data_dir / "logs" / "runs" / str(run_id) / f"{stage}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_log_comes_whole_or_by_its_last_lines(address: str, run_id: int) -> None:
    set_stage(run_id, "merge", StageStatus.succeeded)
    log_file(run_id, "merge", "one\ntwo ✓\nthree\n".encode())
    url = f"{address}/pipeline_runs/{run_id}/stages/merge/log"
    whole = httpx.get(url)
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert whole.text == "one\ntwo ✓\nthree\n"
    assert httpx.get(url, params={"tail": 2}).text == "two ✓\nthree\n"
    assert httpx.get(url, params={"tail": 0}).text == ""
    assert httpx.get(url, params={"tail": 99}).text == whole.text


def test_only_the_stages_have_logs(address: str, run_id: int) -> None:
    for stage in (
        "nothing",
        "train.log",
        "..",
        "merge%00",
        "..%2f..%2fpostgres",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    ):
        answer = httpx.get(f"{address}/pipeline_runs/{run_id}/stages/{stage}/log")
        assert answer.status_code == 404, stage
        assert answer.json()["error"]["code"] == "not_found", stage


def test_a_stage_that_has_not_begun_has_no_log(address: str, run_id: int) -> None:
    answer = httpx.get(f"{address}/pipeline_runs/{run_id}/stages/train/log?follow=true")
    assert answer.status_code == 404
    assert (
        answer.json()["error"]["message"] == f"stage 'train' of run {run_id} has not begun; the run is queued"
    )


def test_a_log_removed_by_cleanup_says_so(address: str, run_id: int) -> None:
    set_stage(run_id, "train", StageStatus.succeeded)
    answer = httpx.get(f"{address}/pipeline_runs/{run_id}/stages/train/log")
    assert answer.status_code == 404
    assert "is gone" in answer.json()["error"]["message"]


def test_a_log_is_followed_until_its_stage_ends(address: str, run_id: int) -> None:
    set_stage(run_id, "train", StageStatus.running)
    url = f"{address}/pipeline_runs/{run_id}/stages/train/log?follow=true"
    with httpx.stream("GET", url, timeout=TIMEOUT_SECONDS) as response:
        lines = response.iter_lines()
        path = log_file(run_id, "train", b"epoch 1\n")  # the file may come after the stage's row
        assert next(lines) == "epoch 1"
        with path.open("ab") as file:
            file.write(b"epoch 2\n")
        assert next(lines) == "epoch 2"
        with path.open("ab") as file:
            file.write(b"last words")
        set_stage(run_id, "train", StageStatus.failed)
        assert list(lines) == ["last words"]


def test_a_followed_log_begins_with_its_last_lines(address: str, run_id: int) -> None:
    set_stage(run_id, "train", StageStatus.running)
    log_file(run_id, "train", b"epoch 1\nepoch 2\n")
    url = f"{address}/pipeline_runs/{run_id}/stages/train/log?follow=true&tail=1"
    with httpx.stream("GET", url, timeout=TIMEOUT_SECONDS) as response:
        lines = response.iter_lines()
        assert next(lines) == "epoch 2"
        with session() as db:  # the whole run is over: its orchestrator was killed and started again
            run = db.get_one(Run, run_id)
            run.status = RunStatus.interrupted
            runs.record(db, run, None, RunStatus.interrupted)
        assert list(lines) == []


def test_following_a_stage_that_has_ended_returns_its_log(address: str, run_id: int) -> None:
    set_stage(run_id, "train", StageStatus.succeeded)
    log_file(run_id, "train", b"done\n")
    assert httpx.get(f"{address}/pipeline_runs/{run_id}/stages/train/log?follow=true").text == "done\n"


@pytest.mark.parametrize("lines", [0, 1, 2, 700, 699_999, 700_000, 700_001])
def test_the_tail_of_a_huge_log_is_found_from_its_end(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "train.log"
    content = b"".join(b"line %d\n" % n for n in range(700_000))
    path.write_bytes(content)
    expected = b"".join(content.splitlines(keepends=True)[-lines:] if lines else [])
    assert logs.tail_start(path, lines) == len(content) - len(expected)


@pytest.mark.parametrize(
    ("content", "lines", "start"), [(b"", 3, 0), (b"a", 1, 0), (b"a\nb", 1, 2), (b"\n\n", 1, 1)]
)
def test_the_tail_of_odd_logs(tmp_path: Path, content: bytes, lines: int, start: int) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(content)
    assert logs.tail_start(path, lines) == start


def test_a_log_that_begins_anew_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(b"again\n")
    assert logs.read(path, 500) == (b"again\n", 6)
    assert logs.read(tmp_path / "none.log", 500) == (b"", 500)


# The process.


def test_the_viewer_stops_at_once_though_streams_are_open(
    emend_environment: dict[str, str], tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "viewer.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "viewer"],
            env={**emend_environment, "EMEND_VIEWER_PORT": str(port)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_for_http(f"http://127.0.0.1:{port}/readyz", process, log, timeout_seconds=30)
        with event_stream(f"http://127.0.0.1:{port}") as stream:
            asked = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert list(stream) == []
            process.wait(TIMEOUT_SECONDS)
            assert time.monotonic() - asked < 5, "uvicorn would wait 10 s for the stream"
        assert b"Traceback" not in log.read_bytes()
    finally:
        stop_group(process)


def test_the_viewer_starts_without_a_database_and_recovers(
    emend_environment: dict[str, str], postgres: str, tmp_path: Path
) -> None:
    database = make_url(emend_environment["DATABASE_URL"]).database
    port, log = free_port(), tmp_path / "viewer.log"
    server = create_engine(postgres, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with server.connect() as admin:
        admin.execute(text(f"alter database {database} allow_connections false"))
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "viewer"],
                env={**emend_environment, "EMEND_VIEWER_PORT": str(port)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for_http(f"{address}/healthz", process, log, timeout_seconds=30)
            assert httpx.get(f"{address}/readyz").status_code == 503
            assert httpx.get(f"{address}/pipeline_runs").status_code == 503
            admin.execute(text(f"alter database {database} allow_connections true"))
            wait_for_http(f"{address}/readyz", process, log, timeout_seconds=TIMEOUT_SECONDS)
        finally:
            stop_group(process)
