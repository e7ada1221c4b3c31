"""`emend doctor` over real servers: well when all is well, and each fault named with what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, pool, text
from sqlalchemy.engine import make_url

from core.database import SCHEMA, LedgerAction, LedgerEntry, session
from core.settings import Settings
from pipeline import doctor
from pipeline.git import git
from pipeline.workspace import PRESETS, create_home
from tests.support import tiny_model
from tests.support.gateway import ROOT, GatewayProcess, add_model, cache_version, environment
from tests.support.mlflow_server import MlflowServer
from tests.support.model_server import ModelServer
from tests.support.object_store import SECRET, object_store
from tests.support.processes import free_port

PASSWORD = "the-password-of-the-database"


def emend_doctor(given: dict[str, str], folder: Path) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Exit code, the checks by name, and all that was printed; a pair of one name is joined."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "doctor", "--json"],
        env={**given, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.stdout, done.stderr
    answer = json.loads(done.stdout)
    assert answer["well"] == (done.returncode == 0)
    for check in answer["checks"]:
        assert check["said"]
        assert (check["advice"] is None) == (check["state"] == "ok"), check
    return done.returncode, {check["name"]: check for check in answer["checks"]}, done.stdout + done.stderr


@contextmanager
def deployment(url: str, folder: Path) -> Iterator[dict[str, str]]:
    """Database, object store, MLflow, model server and gateway, all real; their settings."""
    with (
        MlflowServer(folder / "mlflow") as mlflow,
        object_store(folder / "store") as store,
        ModelServer(folder, mlflow.url, "doodles") as model_server,
    ):
        store.client().create_bucket(Bucket="emend")
        given = environment(url, folder / "data", model_server.url, **store.environment)
        given["MLFLOW_TRACKING_URI"] = mlflow.url
        with GatewayProcess(folder, given) as gateway:
            model_server.wait_ready()
            yield given | {
                "EMEND_API_URL": gateway.url,
                **{
                    f"EMEND_{name}_URL": f"http://127.0.0.1:{free_port()}"
                    for name in ("UI", "VIEWER", "ORCHESTRATOR")
                },
            }


def test_a_deployment_is_examined_and_each_fault_is_named_without_a_secret(
    database_url: str, tmp_path: Path
) -> None:
    engine = create_engine(database_url, poolclass=pool.NullPool)
    add_model(engine)
    cache_version(tmp_path, 1, tiny_model.graph(1))
    home = tmp_path / "data" / "doodles"
    create_home(home, PRESETS["doodles"].read_text())
    url = make_url(database_url).set(password=PASSWORD, host="").render_as_string(hide_password=False)
    with deployment(url, tmp_path) as given:
        code, found, told = emend_doctor(given, tmp_path)
        # All but what was not started here is well.
        wrong = {name for name, check in found.items() if check["state"] == "wrong"}
        assert wrong == {"viewer", "drawing page", "orchestrator"}
        assert code == 1
        assert "PostgreSQL 1" in found["database"]["said"]
        assert found["database schema"]["said"].startswith(SCHEMA)
        assert found["database clock"]["state"] == "ok"
        assert "takes the keys, has the bucket, can be written" in found["object store"]["said"]
        assert found["object store clock"]["state"] == "ok"
        assert found["MLflow"]["state"] == found["MLflow's files"]["state"] == "ok"
        assert found["gateway"]["state"] == found["model server"]["state"] == "ok"
        assert found["live version of doodles"]["said"] == "1, by ledger, gateway and model server"
        assert found["home doodles"]["said"] == "clean, not locked"
        assert found["home doodles: made by"]["said"] == "what is installed here"
        assert found["packages"]["state"] == "ok"
        assert found["promotions"]["said"] == "none is left open"
        assert PASSWORD not in told
        assert SECRET not in told

        # Now everything that can be spoilt without a restart.
        (home / "dvc.yaml").write_text("stages: {}\n")
        (home / "product.json").write_text(json.dumps({"torch": "1.0", "emend": "0.0.1"}))
        with engine.begin() as db:
            db.execute(
                text(
                    "insert into promotions (model, action, version, actor, reason, opened_at) "
                    "values ('doodles', 'promote', 2, 'gate', 'test', now() - interval '1 hour')"
                )
            )
        _, found, told = emend_doctor(
            given | {"AWS_SECRET_ACCESS_KEY": "not-the-secret-of-the-store"}, tmp_path
        )
        assert "dvc.yaml changed" in found["home doodles"]["said"]
        assert "torch 1.0 (here" in found["home doodles: made by"]["said"]
        assert "version 2 of doodles is open" in found["promotions"]["said"]
        assert "AWS_SECRET_ACCESS_KEY is not the one of AWS_ACCESS_KEY_ID" in found["object store"]["said"]
        assert "not-the-secret-of-the-store" not in told
        _, found, _ = emend_doctor(given | {"STORAGE_URL": "s3://another/test"}, tmp_path)
        assert "the bucket is not there; `emend storage` makes it" in found["object store"]["said"]
        with engine.begin() as db:  # another version was promoted, and nobody follows
            db.execute(text("update promotions set outcome = 'done', closed_at = now() where version = 2"))
        _, found, _ = emend_doctor(given, tmp_path)
        said = found["live version of doodles"]["said"]
        assert said.startswith("the ledger says 2, but ")
        assert "the model server says 1" in said
        with engine.begin() as db:
            db.execute(text("update alembic_version set version_num = '9999'"))
        _, found, _ = emend_doctor(given, tmp_path)
        assert "of a newer Emend" in found["database schema"]["said"]


def test_nothing_that_is_away_keeps_the_others_from_being_looked_at(tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    given = environment(
        f"postgresql://emend:{PASSWORD}@{nowhere}/emend", tmp_path / "data", f"http://{nowhere}"
    )
    given |= {
        "MLFLOW_TRACKING_URI": f"http://team:{PASSWORD}@{nowhere}",
        "STORAGE_URL": "s3://emend",
        "AWS_ENDPOINT_URL": f"http://{nowhere}",
        "AWS_ACCESS_KEY_ID": "emend",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "EMEND_API_URL": f"http://{nowhere}",
    }
    code, found, told = emend_doctor(given, tmp_path)
    assert code == 1
    assert "Connection refused" in found["database"]["said"]
    assert "does not do it" in found["object store"]["said"]
    assert "does not answer (ConnectError)" in found["MLflow"]["said"]
    assert found["live versions"]["state"] == "warning"
    assert (found["git"]["state"], found["DVC"]["state"], found["GPU"]["state"]) == ("ok", "ok", "ok")
    assert found["disk"]["state"] in ("ok", "warning")
    assert PASSWORD not in told
    assert SECRET not in told
    assert not (tmp_path / "data").exists()  # looking makes nothing


def test_a_setting_that_cannot_be_is_the_one_finding(tmp_path: Path) -> None:
    given = environment("postgresql://db/emend", tmp_path, "http://127.0.0.1:9", EMEND_API_PORT="0")
    code, found, _ = emend_doctor(given, tmp_path)
    assert code == 1
    assert list(found) == ["settings"]
    assert "EMEND_API_PORT" in found["settings"]["said"]


def test_people_see_a_word_a_sentence_and_what_to_do(tmp_path: Path) -> None:
    given = environment("postgresql://db/emend", tmp_path, "http://127.0.0.1:9", EMEND_API_PORT="0")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "doctor"],
        env={**given, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout.startswith("wrong   settings: ")
    assert "→ correct it in the environment or in .env" in done.stdout


def test_ports_say_who_holds_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        holder = doctor._holders()[port]
        assert holder.pid == os.getpid()
        assert doctor._listens(port)
        taken = doctor._port("port", "EMEND_API_PORT", set(), holder, True)
        assert taken.state == "wrong"
        assert f"(process {os.getpid()})" in taken.said
        assert "set EMEND_API_PORT" in (taken.advice or "")
        assert doctor._port("port", "EMEND_API_PORT", {os.getpid()}, holder, True).said == "ours"
        assert doctor._port("port", "EMEND_API_PORT", {1}, None, True).state == "ok"
    assert not doctor._listens(port)
    assert doctor._port("port", "EMEND_API_PORT", set(), None, False).said == "free"
    assert doctor._port("port", "EMEND_API_PORT", {1}, None, False).state == "wrong"


def test_a_supervisors_processes_are_known_by_pid_and_start(tmp_path: Path) -> None:
    created = psutil.Process().create_time()
    noted = [{"name": "gateway", "pid": os.getpid(), "created": created}]
    (tmp_path / "processes.json").write_text(json.dumps({"processes": noted}))
    assert os.getpid() in doctor._our_processes(tmp_path)
    noted[0]["created"] = created - 100  # of a process before, whose number was given again
    (tmp_path / "processes.json").write_text(json.dumps({"processes": noted}))
    assert doctor._our_processes(tmp_path) == set()


def test_packages_that_differ_from_the_lock_are_named(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    assert doctor._packages(lock).state == "ok"
    lock.write_text(
        "# a comment\nnumpy==0.1\nno-such-package-of-emend==1.0\nnvidia-nothing==1\n"
        "pywin32==1 ; sys_platform == 'win32'\n"
    )
    found = doctor._packages(lock)
    assert found.state == "warning"
    assert "numpy is " in found.said
    assert "instead of 0.1" in found.said
    assert "no-such-package-of-emend is missing" in found.said
    assert "nvidia" not in found.said
    assert "pywin32" not in found.said


@pytest.mark.parametrize(("seconds", "state"), [(0.2, "ok"), (-29, "ok"), (120, "wrong"), (-3600, "wrong")])
def test_a_clock_that_is_off_is_wrong(seconds: float, state: str) -> None:
    found = doctor._clock("database clock", seconds)
    assert found.state == state
    if state == "wrong":
        assert f"{abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}" in found.said


def test_a_disk_that_cannot_be_written_or_is_nearly_full_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Settings(_env_file=None, EMEND_DATA_DIR=str(tmp_path / "data"))
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 10**18)
    monkeypatch.setattr(doctor, "LEAST_FREE_INODES", 10**18)
    disk, inodes = doctor._disk(chosen)
    assert (disk.state, disk.advice is not None) == ("wrong", True)
    assert "GB free for" in disk.said
    assert inodes.state in ("wrong", "ok")  # ok: this file system makes them as it needs them
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 0)
    monkeypatch.setattr(doctor, "LITTLE_FREE_BYTES", 10**18)
    assert next(iter(doctor._disk(chosen))).state == "warning"


def test_a_promotion_that_began_just_now_is_no_fault(emend_environment: dict[str, str]) -> None:
    engine = create_engine(emend_environment["DATABASE_URL"], poolclass=pool.NullPool)
    add_model(engine)
    chosen = Settings(_env_file=None)
    with session() as db:
        db.add(
            LedgerEntry(
                model="doodles",
                action=LedgerAction.promote,
                version=2,
                actor="gate",
                reason="test",
                opened_at=datetime.now(UTC) - timedelta(minutes=1),
            )
        )
    (found,) = doctor._promotions(chosen)
    assert found.state == "warning"


def test_a_locked_home_is_named(tmp_path: Path) -> None:
    home = tmp_path / "doodles"
    create_home(home, PRESETS["doodles"].read_text())
    git(home, "status")
    (home / ".git" / "index.lock").touch()
    chosen = Settings(_env_file=None, EMEND_DATA_DIR=str(tmp_path))
    (found,) = doctor._homes(chosen)
    assert found.state == "wrong"
    assert "is locked" in found.said


def test_one_question_that_fails_is_its_own_answer() -> None:
    def fails(_: Settings) -> Any:
        raise ZeroDivisionError("division by zero")

    (found,) = doctor._bounded("disk", fails, Settings(_env_file=None))
    assert (found.name, found.state) == ("disk", "wrong")
    assert "ZeroDivisionError" in found.said
