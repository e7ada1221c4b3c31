"""The supervisor's parts: taken ports, one instance, children that die, what a killed one left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, make_url, pool, text

from core.errors import ConfigurationError
from core.settings import Settings
from core.storage import write_json
from pipeline import supervisor
from pipeline.services import Service, check_ports, services
from pipeline.supervisor import (
    Child,
    Postgres,
    Supervisor,
    clear_dead_server,
    end_leftovers,
    single_instance,
)
from tests.support import waiting
from tests.support.processes import free_port

SECONDS = 30.0
wait_until = partial(waiting.wait_until, seconds=SECONDS)
WAIT = [sys.executable, "-c", "import time; time.sleep(600)"]
# Starts a child in its own group, which ignores SIGTERM, then does as it does.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
time.sleep(600)
"""


def child_of(argv: list[str], log: Path) -> Child:
    return Child(Service("worker", argv, 1, "EMEND_WORKER_PORT", "http://127.0.0.1:1/"), log)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_every_taken_port_is_named_with_the_variable_that_moves_it(tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket() as two:
        for listener in (one, two):
            listener.bind(("127.0.0.1", 0))
            listener.listen()
        ports: dict[str, Any] = {
            f"EMEND_{name}_PORT": free_port() for name in ("MLFLOW", "VIEWER", "ORCHESTRATOR")
        }
        ports |= {"EMEND_API_PORT": one.getsockname()[1], "EMEND_SERVING_PORT": two.getsockname()[1]}
        chosen = Settings(**ports, EMEND_DATA_DIR=tmp_path)
        with pytest.raises(ConfigurationError) as refused:
            check_ports(services(chosen, ""), chosen.host)
    said = refused.value.message
    assert (
        f"port {ports['EMEND_API_PORT']} (gateway) is taken: stop what listens there, or set EMEND_API_PORT"
        in said
    )
    assert f"port {ports['EMEND_SERVING_PORT']} (serving) is taken" in said
    assert "EMEND_SERVING_PORT" in said
    assert "MLFLOW" not in said


def test_a_second_supervisor_on_the_same_folder_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with (
        single_instance(tmp_path),
        pytest.raises(ConfigurationError, match=f"Emend runs on {tmp_path} already"),
        single_instance(tmp_path),
    ):
        pass
    with single_instance(tmp_path):
        pass


@pytest.mark.parametrize("below", [".", "further"])
def test_a_data_folder_that_is_a_file_is_refused_in_one_sentence(below: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    folder = tmp_path / "data" / below
    with (
        pytest.raises(ConfigurationError, match=r"the data folder \S+ cannot be used .*set EMEND_DATA_DIR"),
        single_instance(folder),
    ):
        pass


def test_a_child_that_dies_is_started_again_with_a_longer_wait_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_SECONDS", 0.05)
    said: list[str] = []
    child = child_of([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "worker.log")
    child.start()
    wait_until(lambda: child.look(said.append) or len(said) >= 3)
    wait_until(lambda: (child.look(said.append), len(said) >= 3)[1])
    log = tmp_path / "worker.log"
    assert said[:3] == [
        f"worker exited with code 3; starting it again in {seconds} s (log: {log})"
        for seconds in ("0.05", "0.1", "0.2")
    ]
    child.wait(0)


def test_the_log_of_a_child_that_runs_on_is_moved_aside_when_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 1_000)
    line = "for i in range(10**9): print(i, flush=True); time.sleep(0.0005)"
    child = child_of([sys.executable, "-c", f"import time\n{line}"], tmp_path / "worker.log")
    child.start()
    try:
        aside = tmp_path / "worker.log.1"
        wait_until(lambda: child.look(print) or aside.exists())
        first = aside.read_text()
        wait_until(lambda: child.look(print) or aside.read_text() != first)
        assert child.log.stat().st_size < 1_000
        assert "\0" not in child.log.read_text()  # it goes on at the end of what is there, not where it was
    finally:
        child.terminate()
        child.wait(time.monotonic() + 5)
    assert first.startswith("0\n1\n")


def test_a_killed_child_is_named_with_its_signal(tmp_path: Path) -> None:
    said: list[str] = []
    child = child_of(WAIT, tmp_path / "worker.log")
    child.start()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: (child.look(said.append), bool(said))[1])
    assert said[0].startswith("worker was killed by signal 9; starting it again in 1 s")


def test_a_child_that_does_not_listen_is_killed_with_its_whole_group(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    child = child_of([sys.executable, "-c", STUBBORN], log)
    child.start()
    leader = child.pid
    assert leader is not None
    wait_until(lambda: log.read_bytes().endswith(b"\n"))
    worker = int(log.read_text())
    child.terminate()
    child.wait(time.monotonic() + 0.2)
    assert gone(leader)
    wait_until(lambda: gone(worker))


def test_what_a_killed_supervisor_left_is_ended_the_orchestrator_first_and_nobody_else(
    tmp_path: Path,
) -> None:
    left = {
        name: subprocess.Popen(WAIT, start_new_session=True) for name in ("serving", "orchestrator", "other")
    }
    noted = [
        {"name": name, "pid": process.pid, "created": psutil.Process(process.pid).create_time()}
        for name, process in left.items()
    ]
    noted[2]["created"] = 1.0  # its pid was somebody else's once
    path = tmp_path / "processes.json"
    write_json(path, {"processes": noted})
    said: list[str] = []
    try:
        end_leftovers(path, said.append)
        assert said == [
            f"ending {name}, left by a supervisor that was killed" for name in ("orchestrator", "serving")
        ]
        assert gone(left["orchestrator"].pid)
        assert gone(left["serving"].pid)
        assert left["other"].poll() is None
        assert not path.exists()
    finally:
        for process in left.values():
            process.kill()
            process.wait()


def test_the_database_is_started_again_and_its_pid_file_believed_only_while_it_runs(tmp_path: Path) -> None:
    folder = Path(f"/tmp/emend-pg-{os.getpid()}")  # a short path: the socket lies below it
    said: list[str] = []
    postgres = Postgres(folder)
    try:
        pid_file = folder / "postgres" / "postmaster.pid"
        first = int(pid_file.read_text().split()[0])
        clear_dead_server(folder / "postgres")
        assert pid_file.exists()
        postgres.look(said.append)
        assert said == []
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: gone(first))
        postgres.look(said.append)
        assert len(said) == 1
        assert said[0].startswith("postgres is gone; starting it again")

        # A power cut, and the pid is somebody else's by now.
        second = int(pid_file.read_text().split()[0])
        os.kill(second, signal.SIGKILL)
        wait_until(lambda: gone(second))
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
        clear_dead_server(folder / "postgres")
        assert not pid_file.exists()
        postgres.look(said.append)
        assert not gone(int(pid_file.read_text().split()[0]))
    finally:
        postgres.stop()
        subprocess.run(["rm", "-r", folder], check=True)


def test_the_database_works_in_a_folder_with_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "my emend, a copy" / "data"
    postgres = Postgres(folder)
    try:
        engine = create_engine(postgres.address("emend"), poolclass=pool.NullPool)
        with engine.connect() as connection:
            shown = connection.scalar(text("show data_directory"))
        assert shown == str(folder / "postgres")
        pid_file = folder / "postgres" / "postmaster.pid"
        first = int(pid_file.read_text().split()[0])
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: gone(first))
        postgres.look(lambda line: None)
        with engine.connect() as connection:
            assert connection.scalar(text("select 1")) == 1
        sockets = Path(str(make_url(postgres.address("emend")).query["host"]))
        assert sockets.is_dir()
    finally:
        postgres.stop()
    assert not sockets.exists()


def test_a_folder_that_the_database_cannot_work_in_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"cannot work in .* its path holds '\$'; set EMEND_DATA_DIR"
    ):
        Postgres(tmp_path / "$HOME" / "data")


def test_a_process_that_is_noted_twice_or_ended_is_no_error(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    created = psutil.Process(ended.pid).create_time()
    ended.wait()
    path = tmp_path / "processes.json"
    path.write_text(json.dumps({"processes": [{"name": "api", "pid": ended.pid, "created": created}]}))
    end_leftovers(path, lambda line: None)
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"processes": [3]}', "\0\0\0"])
def test_a_note_of_processes_that_a_power_cut_broke_is_said_and_passed_over(
    content: str, tmp_path: Path
) -> None:
    path = tmp_path / "processes.json"
    path.write_text(content)
    said: list[str] = []
    end_leftovers(path, said.append)
    assert len(said) == 1
    assert f"{path} cannot be read" in said[0]
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"\0\0\0\0", b"no number\n"])
def test_a_pid_file_that_a_power_cut_broke_is_removed(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_bytes(content)
    (tmp_path / ".s.PGSQL.5432.lock").write_bytes(content)
    clear_dead_server(tmp_path)
    assert not (tmp_path / "postmaster.pid").exists()


def test_a_stop_is_prompt_while_something_is_drawn(tmp_path: Path) -> None:
    watching = Supervisor(Settings(EMEND_DATA_DIR=tmp_path), lambda line: None)
    released = threading.Event()
    started = threading.Event()

    def draw() -> None:
        started.set()
        released.wait(SECONDS)

    def stop() -> None:
        started.wait(SECONDS)
        watching.request_stop()

    threading.Thread(target=stop).start()
    before = time.monotonic()
    assert not watching.while_looking(draw)
    assert time.monotonic() - before < 5
    released.set()


# As `emend up` at its first start: a pool of processes, in a thread, and Ctrl-C at the terminal.
DRAWING = """
import multiprocessing, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from core.settings import Settings
from pipeline.supervisor import Supervisor

def draw() -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(print, ["drawing", "drawing"]))
        list(pool.map(time.sleep, [600, 600]))

if __name__ == "__main__":
    watching = Supervisor(Settings(EMEND_DATA_DIR=Path(sys.argv[1])), print)
    signal.signal(signal.SIGINT, watching.request_stop)
    print("stopped" if not watching.while_looking(draw) else "done", flush=True)
"""


def test_ctrl_c_while_something_is_drawn_shows_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "drawing.py").write_text(DRAWING)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", tmp_path / "drawing.py", tmp_path],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    wait_until(lambda: log.read_text().count("drawing") == 2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(SECONDS) == 0
    assert log.read_text().splitlines() == ["drawing", "drawing", "stopped"]


def test_what_is_done_while_looking_is_done_or_fails_as_it_would_alone(tmp_path: Path) -> None:
    watching = Supervisor(Settings(EMEND_DATA_DIR=tmp_path), lambda line: None)
    done: list[int] = []
    assert watching.while_looking(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(ZeroDivisionError):
        watching.while_looking(lambda: done.append(1 // 0))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param(f"postgresql://me:hidden@127.0.0.1:{free_port()}/emend", "refused", id="nobody there"),
        pytest.param("no address", "no database address", id="no address"),
    ],
)
def test_a_wrong_database_address_is_said_without_its_password(url: str, says: str, tmp_path: Path) -> None:
    ports: dict[str, Any] = {
        f"EMEND_{name}_PORT": free_port() for name in ("API", "SERVING", "VIEWER", "ORCHESTRATOR")
    }
    chosen = Settings(
        **ports, EMEND_DATA_DIR=tmp_path, DATABASE_URL=url, MLFLOW_TRACKING_URI="http://127.0.0.1:1"
    )
    with pytest.raises(ConfigurationError, match=says) as refused:
        Supervisor(chosen, lambda line: None).start()
    assert "DATABASE_URL" in refused.value.message
    assert "hidden" not in refused.value.message
