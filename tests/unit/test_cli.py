"""The command line: what it shows, what it refuses, and what it leaves behind."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import structlog
import typer
from PIL import Image
from rich.console import Console
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from core import __version__, database, trials
from core.database import (
    Category,
    CategoryState,
    Correction,
    CorrectionStatus,
    Import,
    ImportStatus,
    LedgerAction,
    LedgerEntry,
    LedgerOutcome,
    Model,
    Run,
    RunStatus,
    Stage,
    StageStatus,
    Trigger,
    session,
)
from core.settings import settings
from pipeline import cli, models
from pipeline.cli import start
from pipeline.cli.runs import _follow_or_tell
from pipeline.cli.start import _say_who_has_no_version
from pipeline.follow import TOLD, Event, figures_in_words, sentence
from pipeline.stages import STAGES
from tests.support.gateway import params
from tests.support.http_server import http_client
from tests.support.processes import free_port
from tests.support.trials import begin_trial

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def emend(*arguments: str) -> None:
    with patch.object(sys, "argv", ["emend", *arguments]):
        cli.main()


def exit_code(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        emend(*arguments)
    return ended.value.code


def add_model(name: str = "doodles") -> None:
    with session() as db:
        db.add(Model(name=name, params=params()))


def add_a_conflict() -> str:
    """A correction of doodles that was set aside; its id."""
    with session() as db:
        db.add(
            Category(
                model="doodles", id=0, name="palm tree", key="palm tree", aliases=[],
                state=CategoryState.active, images=1, train_images=1,
            )
        )  # fmt: skip
        db.flush()
        correction = Correction(
            id=uuid.uuid4(), model="doodles", image_sha256="0" * 64, category_id=0, label="palm tree",
            actor="a", source="correction", request_sha256="0" * 64, status=CorrectionStatus.quarantined,
        )  # fmt: skip
        db.add(correction)
        return str(correction.id)


def on_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "out", Console(highlight=False, width=columns))


def on_ports_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment on the usual ports is nobody's business here."""
    for name in ("API", "SERVING", "MLFLOW", "VIEWER", "UI", "ORCHESTRATOR"):
        monkeypatch.setenv(f"EMEND_{name}_PORT", str(free_port()))
    settings.cache_clear()


@pytest.mark.usefixtures("emend_environment")
def test_a_reason_that_looks_like_markup_is_shown_as_it_was_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with session() as db:
        db.add(Model(name="doodles", params={}))
        db.flush()
        for reason in ("[/oops]", "[bold]cat"):
            db.add(
                LedgerEntry(
                    model="doodles",
                    action=LedgerAction.rollback,
                    version=1,
                    actor="[red]me",
                    reason=reason,
                    outcome=LedgerOutcome.done,
                )
            )
    with pytest.raises(SystemExit) as ended:
        emend("ledger")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for written in ("[/oops]", "[bold]cat", "[red]me"):
        assert written in shown


@pytest.mark.usefixtures("emend_environment")
def test_an_error_that_looks_like_markup_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        emend("ledger", "--model", "[/oops]")
    assert ended.value.code == 1
    assert "there is no model '[/oops]'" in capsys.readouterr().err


# Models that are not there

WITH_MODEL = {
    "run": [],
    "runs": [],
    "rollback": [],
    "promote": ["2"],
    "shadow": ["2"],
    "canary": ["2"],
    "trials": [],
    "promotion-resume": [],
    "ledger": [],
    "corrections": [],
    "samples-withdraw": [],
    "import quickdraw": ["."],
}


def test_the_commands_tried_are_all_that_take_a_model() -> None:
    taking = set()
    top = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, command in [*top.items(), *((f"import {n}", c) for n, c in top["import"].commands.items())]:
        if any("--model" in param.opts for param in command.params):
            taking.add(name)
    # The first makes a new one, of the second the gateway says it: tests/integration/test_predict.py.
    assert taking == WITH_MODEL.keys() | {"import folder", "predict"}


@pytest.mark.usefixtures("emend_environment")
@pytest.mark.parametrize("command", WITH_MODEL)
def test_a_model_that_is_not_there_is_an_error_that_names_those_there_are(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add_model()
    assert exit_code(*command.split(), *WITH_MODEL[command], "--model", "dodles") == 1
    shown = capsys.readouterr()
    assert "error: there is no model 'dodles'; the models are: doodles" in shown.err
    assert shown.out == ""


# Imports


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folder_of(root: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(root)


@pytest.mark.parametrize("command", [["folder"], ["folder", "--preset", "photos"], ["quickdraw"]])
def test_an_import_without_a_usable_image_makes_no_model(
    command: list[str],
    emend_environment: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = folder_of(tmp_path / "pictures", {"cat/1.png": b"hello", "cat.npy": b"hello"})
    kind, *options = command
    model = "doodles" if kind == "quickdraw" else "mushrooms"
    assert exit_code("import", kind, folder, "--model", model, *options) == 1
    assert "nothing here can be imported" in capsys.readouterr().err
    assert models.names() == []
    assert list(Path(emend_environment["EMEND_DATA_DIR"]).iterdir()) == []


def test_a_name_that_no_model_can_have_is_refused_before_anything_is_read(
    emend_environment: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "pictures", {"cat/1.png": b"hello"})
    assert exit_code("import", "folder", folder, "--model", "../up") == 1
    assert "cannot be a model's name" in capsys.readouterr().err
    assert not Path(emend_environment["EMEND_DATA_DIR"]).exists()


def test_the_first_image_makes_a_new_model_and_the_second_import_finds_it(
    emend_environment: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "pictures", {"cat/1.png": picture(1)})
    for _ in range(2):
        assert exit_code("import", "folder", folder, "--model", "mushrooms") == 0
        assert "1 image staged for mushrooms, 0 left out" in capsys.readouterr().out
    home = Path(emend_environment["EMEND_DATA_DIR"]) / "mushrooms"
    with session() as db:
        files = list(db.scalars(select(Import.file)))
    assert sorted(str(p.relative_to(home)) for p in (home / "imports").iterdir()) == sorted(files)
    assert len(files) == 2
    assert list(home.parent.glob(".import-*")) == []


@pytest.mark.usefixtures("emend_environment")
def test_images_under_two_labels_are_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"cat/{n}.png": picture(n) for n in range(8)} | {f"dog/{n}.png": picture(n) for n in range(7)}
    folder = folder_of(tmp_path / "pictures", files | {"dog/own.png": picture(9)})
    assert exit_code("import", "folder", folder, "--model", "pets") == 0
    shown = capsys.readouterr()
    assert "16 images staged for pets, 0 left out" in shown.out
    assert "7 images came again under another label; the first label stays" in shown.err
    assert "dog/0.png: is dog here, but the same image came before as cat" in shown.err
    assert "… and 2 more" in shown.err
    assert exit_code("import", "folder", folder, "--model", "pets", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["contradiction_count"], found["bad_count"]) == (16, 7, 0)
    assert found["contradictions"][6]["name"] == "dog/6.png"


# What is shown


@pytest.mark.usefixtures("emend_environment")
def test_a_command_shows_its_sentence_and_no_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    add_model()
    assert exit_code("promotion-resume") == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("runs of doodles may promote again\n", "")


@pytest.mark.usefixtures("emend_environment")
def test_a_rejected_run_is_called_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    add_model()
    with session() as db:
        run = Run(
            model="doodles",
            trigger=Trigger.manual,
            requested_by="test",
            status=RunStatus.rejected,
            message="Rejected: too few; because it fixes nothing.",
        )
        db.add(run)
        db.flush()
        run_id = run.id
    for command in (["runs"], ["show", str(run_id)]):
        assert exit_code(*command) == 0
        shown = capsys.readouterr().out
        assert "too few; because it fixes nothing." in shown
        assert shown.lower().count("rejected") == 1


@pytest.mark.usefixtures("emend_environment")
@pytest.mark.parametrize("columns", [80, 120, 200])
def test_long_lists_fit_a_terminal_and_are_not_cut(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_ports_of_its_own(monkeypatch)
    add_model()
    add_model("a-model-with-quite-a-long-name")
    verdict = "Promoted: " + "on the holdout " * 20 + "it is better."
    correction_id = add_a_conflict()
    with session() as db:
        db.add(
            Run(
                model="doodles", trigger=Trigger.threshold, requested_by="test", version=12,
                status=RunStatus.interrupted, message=verdict, new_images=12_345,
            )
        )  # fmt: skip
        db.add(
            LedgerEntry(
                model="doodles", action=LedgerAction.rollback, version=12, replaced_version=13,
                actor="somebody (emend)", reason=verdict, outcome=LedgerOutcome.reverted,
            )
        )  # fmt: skip
        db.add(
            Import(
                id=uuid.uuid4(), model="doodles", file="imports/1.parquet", source="import", images=3,
                status=ImportStatus.staged,
            )
        )  # fmt: skip
    on_a_terminal(columns, monkeypatch)
    shown = {}
    for command in ("runs", "ledger", "corrections", "status"):
        assert exit_code(command) == (1 if command == "status" else 0)  # no service runs here
        shown[command] = capsys.readouterr().out
        assert max(map(len, shown[command].splitlines())) <= columns
        assert "…" not in shown[command]
    models_shown = shown["status"].split("\n\n")[1].splitlines()
    assert "0 corrections, 1 import" in models_shown[1]
    assert "a-model-wit" in models_shown[2]
    assert "1 correction of doodles waits for a person to decide" in " ".join(models_shown[3:])
    for command, whole in {
        "runs": ("doodles", "interrupted", "12"),
        "ledger": ("rollback, reverted", "12"),
        "corrections": ("quarantined", correction_id),
    }.items():
        first = shown[command].splitlines()[1]
        assert all(part in first for part in whole), first
    for command in ("runs", "ledger"):
        assert " ".join(shown[command].split()).count("holdout") == 20


@pytest.mark.usefixtures("emend_environment")
def test_status_names_the_drawing_page_first_and_the_database_by_its_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_ports_of_its_own(monkeypatch)
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hidden@127.0.0.1:1/emend")
    settings.cache_clear()
    database.engine.cache_clear()
    assert exit_code("status", "--json") == 1
    listed = json.loads(capsys.readouterr().out)["services"]
    assert listed[0] == {"name": "drawing page", "url": settings().ui_url, "answers": False}
    assert listed[-1] == {
        "name": "PostgreSQL",
        "url": "postgresql+psycopg2://me:***@127.0.0.1:1/emend",
        "answers": False,
    }


@pytest.mark.usefixtures("emend_environment")
def test_status_tells_what_the_first_start_is_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_ports_of_its_own(monkeypatch)
    add_model()
    assert exit_code("status") == 1
    assert (
        "version 1 of doodles is still to come: `emend up` draws its starter doodles"
        in capsys.readouterr().out
    )
    with session() as db:
        db.add(Run(model="doodles", trigger=Trigger.initial, requested_by="test", status=RunStatus.running))
        db.flush()
        db.add(
            Stage(
                run_id=1, name="train", position=4, attempt=1, status=StageStatus.running,
                started_at=datetime.now(UTC),
            )
        )  # fmt: skip
    assert exit_code("status") == 1
    assert (
        "run 1 of doodles trains its first version (stage train): `emend show 1` says more"
        in capsys.readouterr().out
    )


@pytest.mark.usefixtures("emend_environment")
def test_a_run_that_has_ended_says_how_many_corrections_wait_for_a_person(
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_model()
    add_a_conflict()
    with session() as db:
        db.add(Run(model="doodles", trigger=Trigger.manual, requested_by="test", status=RunStatus.halted))
    with pytest.raises(typer.Exit):
        _follow_or_tell(1, 0, wait=True, as_json=False)
    assert (
        f"1 correction of doodles waits for a person to decide: {settings().viewer_url}/corrections, or "
        "`emend corrections --status quarantined --model doodles`"
    ) in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.usefixtures("emend_environment")
def test_status_and_start_tell_of_each_model_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_ports_of_its_own(monkeypatch)
    app = Starlette(routes=[Route("/ping", lambda _: Response("\n"))])
    away = f"http://127.0.0.1:{free_port()}"
    with http_client(app) as client:
        answers = str(client.base_url).rstrip("/")
        monkeypatch.setenv("MODEL_SERVER_URLS", f"{answers},{away}")
        settings.cache_clear()
        assert exit_code("status", "--json") == 1
    listed = json.loads(capsys.readouterr().out)["services"]
    assert [each for each in listed if each["name"] == "model server"] == [
        {"name": "model server", "url": answers, "answers": True},
        {"name": "model server", "url": away, "answers": False},
    ]

    class Watching:
        def answers(self, url: str, seconds: float) -> bool:
            assert 0 < seconds <= 30
            return url == f"{answers}/health"

    _say_who_has_no_version(Watching(), settings().model_server_urls)
    said = capsys.readouterr().err
    assert f"no version answers at {away} yet" in said
    assert answers not in said


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_shows_what_stands_in_angle_brackets(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("import", "folder", flag) == 0
    assert "<category>/<image>" in capsys.readouterr().out


def test_the_version_is_a_flag_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.usefixtures("emend_environment")
def test_a_run_before_version_1_was_begun_is_told_to_wait(capsys: pytest.CaptureFixture[str]) -> None:
    add_model()
    assert exit_code("run") == 1
    assert "version 1 of doodles is still to come" in capsys.readouterr().err
    with session() as db:
        assert db.scalar(select(Run.id)) is None


@pytest.mark.usefixtures("emend_environment")
def test_ctrl_c_while_a_run_is_followed_says_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_model("pets")
    real = time.sleep

    def sleep(seconds: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # while nothing takes the run up
        real(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have it ignored
    assert exit_code("run", "--model", "pets") == 130
    assert "run 1 goes on; `emend cancel 1` ends it" in capsys.readouterr().err
    with session() as db:
        assert db.get_one(Run, 1).status is RunStatus.queued


@pytest.mark.usefixtures("emend_environment")
def test_an_interrupted_run_is_named_unless_a_newer_one_came(capsys: pytest.CaptureFixture[str]) -> None:
    add_model()
    add_model("pets")
    with session() as db:
        for model, status in (
            ("pets", RunStatus.interrupted),
            ("doodles", RunStatus.interrupted),
            ("doodles", RunStatus.succeeded),
        ):
            db.add(Run(model=model, trigger=Trigger.manual, requested_by="test", status=status))
            db.flush()
    start._print_resumable()
    assert capsys.readouterr().out == "run 1 of pets was interrupted: `emend resume 1` goes on\n"


@pytest.mark.usefixtures("emend_environment")
@pytest.mark.parametrize(
    ("status", "says"),
    [
        (RunStatus.halted, "run 1 was halted and trained nothing"),
        (RunStatus.running, "run 1 is running; reproduce it when it has ended"),
        (RunStatus.failed, "run 1 failed before it had a trained version"),
    ],
)
def test_a_run_that_trained_nothing_is_not_reproduced(
    status: RunStatus, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    models.make("doodles", "doodles")
    with session() as db:
        db.add(Run(model="doodles", trigger=Trigger.manual, requested_by="test", status=status))
    assert exit_code("reproduce", "1") == 1
    assert says in capsys.readouterr().err


def test_why_a_stage_failed_is_told_by_its_run_only() -> None:
    assert sentence(Event(8, "train", "failed", "it is Friday", {})) == "  train      failed"


def test_an_epoch_tells_how_long_training_still_takes() -> None:
    figures = {"epoch": 3, "epochs": 8, "train_loss": 0.4123, "validation_accuracy": 0.85, "seconds_left": 80}
    assert (
        sentence(Event(7, "train", "epoch", None, figures))
        == "  train      epoch 3/8: loss 0.412, 85.0 % of validation right, 1 min 20 s left"
    )
    last = figures | {"epoch": 8, "validation_accuracy": None, "seconds_left": 0.0}
    assert sentence(Event(8, "train", "epoch", None, last)) == "  train      epoch 8/8: loss 0.412"


def test_the_addresses_begin_with_the_page_to_draw_on(capsys: pytest.CaptureFixture[str]) -> None:
    start._print_addresses()
    lines = capsys.readouterr().out.split("Emend is up.\n")[1].splitlines()
    assert lines[0].split()[:2] == ["draw", settings().ui_url]


def test_a_stage_tells_its_figures_in_words_and_in_an_order_that_does_not_hang_on_the_database() -> None:
    figures = {"holdout": 5, "train": 32, "new_images": 40, "excluded": 0, "validation": 3, "conflicts": 0}
    event = Event(7, "merge", "succeeded", None, figures | {"duration_seconds": 0.3})
    told = sentence(event)
    assert told is not None
    assert told.endswith("new images 40, train 32, validation 3, holdout 5, conflicts 0")


def test_figures_are_told_with_their_units_and_those_that_matter_little_not_at_all() -> None:
    judged = {
        "accuracy_low": 0.5, "corrections_broke": 1, "corrections_fixed": 4, "exam_fixed": 1, "exam_images": 8,
        "holdout_accuracy": 0.93217, "holdout_accuracy_champion": 0.92, "holdout_images": 500, "learned_fixed": 3,
    }  # fmt: skip
    assert figures_in_words("evaluate", judged) == [
        "holdout images 500",
        "of these right 93.2 %",
        "right before 92.0 %",
        "corrections fixed 4",
        "of these learned from 3",
        "exam questions 1",
        "broken 1",
    ]
    assert figures_in_words("promote", {"promoted": "yes", "live_after_seconds": 0.561}) == [
        "promoted yes",
        "live after 0.561 s",
    ]
    assert figures_in_words("cleanup", {"weights_freed_bytes": 2_340_000}) == ["weights freed 2.3 MB"]


def test_every_stage_has_figures_worth_telling() -> None:
    assert tuple(TOLD) == STAGES


@pytest.mark.usefixtures("emend_environment")
def test_the_seconds_of_a_stage_that_runs_count_on(capsys: pytest.CaptureFixture[str]) -> None:
    add_model()
    with session() as db:
        run = Run(model="doodles", trigger=Trigger.manual, requested_by="test", status=RunStatus.running)
        db.add(run)
        db.flush()
        began = datetime.now(UTC) - timedelta(seconds=3_600)
        db.add(
            Stage(
                run_id=run.id, name="train", position=4, attempt=1, status=StageStatus.running,
                started_at=began,
            )
        )  # fmt: skip
    assert exit_code("show", "1") == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[:2] == ["train", "running"]
    assert 3_600 <= float(row[2]) < 3_660


@pytest.mark.usefixtures("emend_environment")
def test_a_rejected_first_version_is_followed_by_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    add_model("pets")
    with session() as db:
        for status in (RunStatus.rejected, RunStatus.cancelled):
            db.add(Run(model="pets", trigger=Trigger.manual, requested_by="test", status=status))
            db.flush()
    assert exit_code("show", "1") == 0
    shown = capsys.readouterr().out
    assert "Next: more images of each category (`emend import folder DIRECTORY --model pets`)" in shown
    assert "docs/gate.md" in shown
    assert exit_code("show", "2") == 0
    assert "Next:" not in capsys.readouterr().out


# Corrections


@pytest.mark.usefixtures("emend_environment")
def test_what_is_no_corrections_id_is_told_where_ids_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("withdraw", "nosuch") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "'nosuch' is no correction's id; `emend corrections` lists" in told
    unknown = uuid.uuid4()
    assert exit_code("withdraw", str(unknown)) == 1
    assert f"there is no correction {unknown}; `emend corrections` lists" in capsys.readouterr().err


# emend up


def test_up_names_a_taken_port_and_does_not_say_that_something_was_stopped(
    emend_environment: dict[str, str],
) -> None:
    others = {f"EMEND_{name}_PORT": str(free_port()) for name in ("SERVING", "VIEWER", "UI", "ORCHESTRATOR")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", "up"],
            cwd=ROOT,
            env=emend_environment
            | others
            | {"EMEND_API_PORT": str(port), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert f"port {port} (gateway) is taken" in done.stderr
    assert "stop" not in done.stderr.replace("stop what listens there", "")


# Trials


@pytest.mark.usefixtures("emend_environment")
def test_the_end_of_a_trial_names_the_command_that_goes_back_further(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(200, monkeypatch)
    add_model("pets")
    begin_trial("pets")
    assert exit_code("rollback", "--model", "pets") == 0
    told = capsys.readouterr().out
    assert "the canary of pets, version 7, is over; version 6 stays live" in told
    assert "`emend rollback --model pets --version 6` would put the version before it back" in told


@pytest.mark.usefixtures("emend_environment")
def test_a_second_trial_is_refused_with_commands_that_say_which(capsys: pytest.CaptureFixture[str]) -> None:
    add_model("pets")
    begin_trial("pets")
    assert exit_code("shadow", "8", "--model", "pets") == 1
    told = capsys.readouterr().err
    assert "version 7 is a canary of pets already" in told
    assert (
        "`emend rollback --model pets --version 7` ends it, `emend promote 7 --model pets` puts it live"
        in told
    )


@pytest.mark.usefixtures("emend_environment")
def test_trials_say_whose_figures_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(200, monkeypatch)
    add_model("pets")
    counted = trials.Counted()
    for _ in range(4):
        counted.count(3, None, agrees=False)
    begin_trial(
        "pets",
        images=4,
        champion_errors=4,
        latencies=counted.latencies,
        champion_latencies=counted.champion_latencies,
    )
    assert exit_code("trials", "--model", "pets") == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert re.split(r"  +", heading.strip()) == [
        *("kind", "version", "share", "images", "agree", "errors (live)", "p95 ms (live)", "since (UTC)"),
        "outcome",
    ]
    assert re.split(r"  +", row.strip())[:7] == ["canary", "7 beside 6", "10 %", "4", "-", "0 (4)", "3 (-)"]
