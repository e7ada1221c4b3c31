"""Promotions and their ledger on bad days, with a real MLflow, a real model server and a real database."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from sqlalchemy import select

from core.database import (
    LedgerAction,
    LedgerOutcome,
    Model,
    Run,
    RunStatus,
    Trial,
    TrialKind,
    TrialOutcome,
    Trigger,
    session,
)
from core.errors import ConfigurationError, Conflict, EmendError, NotFound
from core.receipts import champion_version
from core.registry import Registry
from core.settings import settings
from core.storage import write_json
from core.wake import announce
from pipeline import bookkeeping, promotion
from pipeline.champion import Aliases, aliases_of, wait_until_served
from pipeline.params import load
from pipeline.stages import StageRun, read_json
from pipeline.stages.cleanup import cleanup
from pipeline.stages.promote import promote
from pipeline.trials import start_trial
from tests.support.kills import stopped
from tests.support.mlflow_server import MlflowServer, mlflow_environment
from tests.support.model_server import ROOT, ModelServer
from tests.support.trials import begin_trial

MODEL = "doodles"
LIVE, GOOD, NOT_A_NUMBER, LIAR = 1, 2, 3, 4
PARAMS = {
    "input": {"mode": "L", "width": 28, "height": 28},
    "train": {"augmentation": "none"},
    "gate": {},
    "stages": {"promote_timeout_seconds": 2},
}


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        kinds = ["good:1", "good:2", "nan:3", "liar:4", "good:5", "good:6", "good:7"]
        subprocess.run(
            [sys.executable, "-m", "tests.support.tiny_model", server.url, MODEL, *kinds],
            cwd=ROOT,
            env=mlflow_environment(),
            check=True,
            capture_output=True,
        )
        yield server


@pytest.fixture
def registry(mlflow: MlflowServer) -> Iterator[Registry]:
    with Registry(mlflow.url) as opened:
        opened.set_alias(MODEL, "champion", LIVE)
        opened.delete_alias(MODEL, "previous")
        yield opened


@pytest.fixture
def server(mlflow: MlflowServer, registry: Registry, tmp_path: Path) -> Iterator[ModelServer]:
    with ModelServer(tmp_path / "server", mlflow.url, MODEL) as started:
        started.wait_ready()
        yield started


@pytest.fixture
def home(
    emend_environment: dict[str, str],
    mlflow: MlflowServer,
    server: ModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
    monkeypatch.setenv("MODEL_SERVER_URLS", server.url)
    settings.cache_clear()
    folder = settings().data_dir / MODEL
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    with session() as db:
        db.add(Model(name=MODEL, params=load(folder).model_dump(mode="json")))
    return folder


def run_up_to_promote(
    home: Path, version: int, *, promoted: bool = True, status: RunStatus = RunStatus.running
) -> int:
    """A run whose next stage is promote."""
    verdict = {"promoted": promoted, "sentence": "because", "figures": {}}
    with session() as db:
        run = Run(model=MODEL, trigger=Trigger.manual, requested_by="test", status=status)
        run.version, run.verdict = version, verdict
        db.add(run)
        db.flush()
        folder = home / "runs" / str(run.id)
        write_json(folder / "manifest.json", {"model": MODEL, "champion_version": LIVE})
        for stage, data in (
            ("version", {"base_version": LIVE}),
            ("evaluate", {"verdict": verdict}),
            ("register", {"version": version}),
        ):
            write_json(folder / f"{stage}.json", {"figures": {}, "halted": None, "data": data})
        return run.id


def begin(home: Path, run_id: int) -> StageRun:
    """As the orchestrator does before the stage: the intent is in the ledger."""
    path = home / "runs" / str(run_id) / "manifest.json"
    manifest = read_json(path)
    aliases = asked_aliases()
    with session() as db:
        manifest |= bookkeeping.before("promote", db, db.get_one(Run, run_id), manifest, aliases)
    write_json(path, manifest)
    return StageRun(home, run_id)


def stop(run_id: int) -> str | None:
    """As the orchestrator does after the stage failed or was killed; what it says besides."""
    aliases = asked_aliases()
    with session() as db:
        return bookkeeping.after_stop("promote", db, db.get_one(Run, run_id), aliases)


def asked_aliases() -> Aliases:
    with Registry(settings().mlflow_tracking_uri) as registry:
        return aliases_of(registry, MODEL)


def attempt(home: Path, run_id: int) -> str | None:
    """A whole attempt; what it failed with."""
    stage = begin(home, run_id)
    try:
        result = promote(stage)
    except EmendError as exc:
        stop(run_id)
        return exc.message
    with session() as db:
        results = {"promote": result.data, "version": stage.result_of("version")}
        bookkeeping.after("promote", db, db.get_one(Run, run_id), stage.manifest, results)
    return None


def ledger() -> list[tuple[str, int, int | None, str | None]]:
    """Oldest first: what, which version, instead of which, how it ended."""
    return [
        (e["action"], e["version"], e["replaced_version"], e["outcome"])
        for e in reversed(promotion.ledger(MODEL))
    ]


def live() -> int | None:
    with session() as db:
        return champion_version(db, MODEL)


def previous() -> int | None:
    with session() as db:
        return promotion.previous_version(db, MODEL)


def test_a_promotion_moves_both_aliases_and_is_in_the_ledger_once(
    home: Path, server: ModelServer, registry: Registry
) -> None:
    run = run_up_to_promote(home, GOOD)
    assert attempt(home, run) is None
    assert aliases_of(registry, MODEL) == Aliases(GOOD, LIVE)
    assert server.state(MODEL)["version"] == GOOD
    assert ledger() == [("promote", GOOD, LIVE, "done")]
    assert attempt(home, run) is None  # repeated, as after a kill before the result was recorded
    assert ledger() == [("promote", GOOD, LIVE, "done")]


@pytest.mark.parametrize("version", [NOT_A_NUMBER, LIAR])
def test_a_version_that_answers_nonsense_never_goes_live(
    home: Path, server: ModelServer, registry: Registry, version: int
) -> None:
    said = attempt(home, run_up_to_promote(home, version))
    assert said is not None
    assert f"turned down {MODEL} version {version}" in said
    assert aliases_of(registry, MODEL) == Aliases(LIVE, None)
    assert server.state(MODEL)["version"] == LIVE
    assert ledger() == [("promote", version, LIVE, "reverted")]
    assert live() is None  # nothing was ever done in this test's ledger


def test_a_server_that_does_not_serve_it_in_time_puts_the_old_one_back_and_a_resume_works(
    home: Path, server: ModelServer, registry: Registry
) -> None:
    run = run_up_to_promote(home, GOOD)
    with stopped(psutil.Process(server.pid)):
        said = attempt(home, run)
        assert said is not None
        assert "did not answer with doodles version 2 within 2 s" in said
        assert aliases_of(registry, MODEL) == Aliases(LIVE, None)
        assert ledger() == [("promote", GOOD, LIVE, "reverted")]
    assert attempt(home, run) is None
    assert aliases_of(registry, MODEL) == Aliases(GOOD, LIVE)
    assert ledger() == [("promote", GOOD, LIVE, "reverted"), ("promote", GOOD, LIVE, "done")]


def test_killed_after_champion_moved_it_is_done_and_a_resume_does_not_promote_twice(
    home: Path, server: ModelServer, registry: Registry
) -> None:
    run = run_up_to_promote(home, GOOD)
    begin(home, run)
    registry.set_alias(MODEL, "champion", GOOD)
    assert stop(run) == "version 2 is live already; `emend rollback --model doodles --version 2` undoes that"
    assert (ledger(), live()) == ([("promote", GOOD, LIVE, "done")], GOOD)
    assert attempt(home, run) is None
    assert ledger() == [("promote", GOOD, LIVE, "done")]
    assert aliases_of(registry, MODEL) == Aliases(GOOD, LIVE)


def test_killed_after_champion_moved_and_then_not_served_it_is_rolled_back_in_the_ledger_too(
    home: Path, server: ModelServer, registry: Registry
) -> None:
    run = run_up_to_promote(home, GOOD)
    begin(home, run)
    with stopped(psutil.Process(server.pid)):
        registry.set_alias(MODEL, "champion", GOOD)
        stop(run)
        assert attempt(home, run) is not None
    assert aliases_of(registry, MODEL) == Aliases(LIVE, None)
    assert ledger() == [("promote", GOOD, LIVE, "done"), ("rollback", LIVE, GOOD, "done")]
    assert live() == LIVE


def test_killed_before_champion_moved_it_is_abandoned(home: Path, registry: Registry) -> None:
    run = run_up_to_promote(home, GOOD)
    begin(home, run)
    assert stop(run) is None
    assert ledger() == [("promote", GOOD, LIVE, "abandoned")]
    assert attempt(home, run) is None
    assert ledger()[1:] == [("promote", GOOD, LIVE, "done")]


def test_a_champion_that_moved_meanwhile_is_not_replaced(home: Path, registry: Registry) -> None:
    run = run_up_to_promote(home, GOOD)
    registry.set_alias(MODEL, "champion", LIAR)
    said = attempt(home, run)
    assert said is not None
    assert "champion moved to version 4" in said
    assert aliases_of(registry, MODEL).champion == LIAR
    assert [entry[3] for entry in ledger()] == ["abandoned"]


def test_a_rejected_version_that_is_killed_in_promote_is_not_in_the_ledger(
    home: Path, registry: Registry
) -> None:
    run = run_up_to_promote(home, GOOD, promoted=False)
    begin(home, run)
    stop(run)
    assert attempt(home, run) is None
    assert ledger() == []
    assert aliases_of(registry, MODEL).champion == LIVE


def test_what_a_killed_process_left_open_is_closed_by_where_champion_is(
    home: Path, registry: Registry
) -> None:
    begin(home, run_up_to_promote(home, GOOD))
    with promotion.promotion_lock(MODEL):
        assert promotion.reconcile() == []  # it goes on just now
        with pytest.raises(promotion.PromotionUnderWay):
            promotion.rollback(MODEL, actor="test", reason="test")
    assert promotion.reconcile() == ["promote of doodles to version 2: abandoned"]
    with session() as db:
        promotion.open_entry(
            db,
            action=LedgerAction.rollback,
            model=MODEL,
            version=LIVE,
            replaced=GOOD,
            actor="test",
            reason="test",
        )
    assert promotion.reconcile() == ["rollback of doodles to version 1: done"]
    assert [entry[3] for entry in ledger()] == [LedgerOutcome.abandoned, LedgerOutcome.done]


def test_a_rollback_that_is_not_served_leaves_all_as_it_was(
    home: Path, server: ModelServer, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempt(home, run_up_to_promote(home, GOOD)) is None
    registry.set_alias(MODEL, "previous", NOT_A_NUMBER)
    with pytest.raises(EmendError, match="turned down doodles version 3"):
        promotion.rollback(MODEL, actor="test", reason="test")
    assert aliases_of(registry, MODEL) == Aliases(GOOD, NOT_A_NUMBER)
    assert server.state(MODEL)["version"] == GOOD
    assert ledger()[1:] == [("rollback", NOT_A_NUMBER, GOOD, "reverted")]
    registry.set_alias(MODEL, "previous", LIVE)
    done: dict[str, Any] = promotion.rollback(MODEL, actor="test", reason="test")
    assert (done["version"], live(), server.state(MODEL)["version"]) == (LIVE, LIVE, LIVE)


def test_a_person_puts_a_version_live_and_can_go_back_from_it(
    home: Path, server: ModelServer, registry: Registry
) -> None:
    """Also one that the gate refused; automatic promotion does not pause."""
    runs = ended_runs(home, (LIVE, GOOD))
    promoted(runs[LIVE], None)
    done = promotion.promote(MODEL, GOOD, actor="me", reason="better on our own")
    assert done == {"model": MODEL, "version": GOOD, "replaced_version": LIVE, "promotion_paused": False}
    assert aliases_of(registry, MODEL) == Aliases(GOOD, LIVE)
    assert (live(), previous(), server.state(MODEL)["version"]) == (GOOD, LIVE, GOOD)
    newest = promotion.ledger(MODEL)[0]
    assert (newest["actor"], newest["reason"], newest["run_id"]) == ("me", "better on our own", None)
    with session() as db:
        assert db.get_one(Model, MODEL).promotion_paused_at is None
    with pytest.raises(Conflict, match="version 2 of doodles is live already"):
        promotion.promote(MODEL, GOOD, actor="me", reason="again")
    promotion.rollback(MODEL, actor="me", reason="it was not")
    assert (live(), server.state(MODEL)["version"]) == (LIVE, LIVE)
    assert previous() is asked_aliases().previous is None
    with pytest.raises(
        Conflict, match="no previous version to go back to; `emend promote VERSION --model doodles`"
    ):
        promotion.rollback(MODEL, actor="me", reason="once more")
    with pytest.raises(
        Conflict, match="neither live nor tried out now; `emend promote VERSION --model doodles`"
    ):
        promotion.rollback(MODEL, actor="me", reason="once more", version=GOOD)
    assert promotion.promote(MODEL, GOOD, actor="me", reason="it was")["promotion_paused"] is True
    with session() as db:
        assert db.get_one(Model, MODEL).promotion_paused_at is not None


def test_a_person_cannot_put_a_version_live_that_is_gone(home: Path, registry: Registry) -> None:
    there_are = (
        "version 99; its versions, newest first: 7, 6, 5, 4, 3; `emend runs --model doodles` lists all"
    )
    with pytest.raises(NotFound, match=there_are):
        promotion.promote(MODEL, 99, actor="me", reason="test")
    with pytest.raises(NotFound, match=there_are):
        start_trial(MODEL, 99, kind=TrialKind.shadow, percent=None, actor="me", reason="test")
    runs = ended_runs(home, (GOOD,))
    with session() as db:
        db.get_one(Run, runs[GOOD]).weights_removed_at = datetime.now(UTC)
    with pytest.raises(NotFound, match="retention removed its weights"):
        promotion.promote(MODEL, GOOD, actor="me", reason="test")
    assert ledger() == []
    assert aliases_of(registry, MODEL) == Aliases(LIVE, None)


def test_a_persons_promotion_that_is_not_served_leaves_all_as_it_was(
    home: Path, server: ModelServer, registry: Registry
) -> None:
    with pytest.raises(EmendError, match="turned down doodles version 3"):
        promotion.promote(MODEL, NOT_A_NUMBER, actor="me", reason="test")
    assert aliases_of(registry, MODEL) == Aliases(LIVE, None)
    assert server.state(MODEL)["version"] == LIVE
    assert ledger() == [("promote", NOT_A_NUMBER, LIVE, "reverted")]


def test_a_persons_promotion_killed_after_champion_moved_is_done_once(home: Path, registry: Registry) -> None:
    with session() as db:
        promotion.open_entry(
            db,
            action=LedgerAction.promote,
            model=MODEL,
            version=GOOD,
            replaced=LIVE,
            actor="me",
            reason="test",
        )
    registry.set_alias(MODEL, "champion", GOOD)
    assert promotion.promote(MODEL, GOOD, actor="me", reason="test")["replaced_version"] == LIVE
    assert ledger() == [("promote", GOOD, LIVE, "done")]


def tried_out() -> list[tuple[int, int, TrialOutcome | None]]:
    """Oldest first: which version, beside which, how it ended."""
    with session() as db:
        return [(t.version, t.champion, t.outcome) for t in db.scalars(select(Trial).order_by(Trial.id))]


def test_a_trial_is_ended_while_something_else_of_the_model_goes_on(home: Path, registry: Registry) -> None:
    begin_trial(MODEL, GOOD, LIVE)
    with promotion.promotion_lock(MODEL):
        done = promotion.rollback(MODEL, actor="me", reason="seen enough")
    assert (done["ended_trial"], done["version"], done["replaced_version"]) == ("canary", LIVE, GOOD)
    assert tried_out() == [(GOOD, LIVE, TrialOutcome.ended)]
    assert aliases_of(registry, MODEL) == Aliases(LIVE, None)


def left_open(version: int) -> None:
    """The ledger's entry of a person's promotion that was killed."""
    with session() as db:
        promotion.open_entry(
            db,
            action=LedgerAction.promote,
            model=MODEL,
            version=version,
            replaced=LIVE,
            actor="me",
            reason="test",
        )


@pytest.mark.parametrize("asked", [None, GOOD])
def test_a_killed_promotion_of_the_tried_version_is_what_a_rollback_takes_back(
    home: Path, server: ModelServer, registry: Registry, asked: int | None
) -> None:
    """It was killed between the two aliases."""
    begin_trial(MODEL, GOOD, LIVE)
    left_open(GOOD)
    registry.set_alias(MODEL, "champion", GOOD)
    announce()
    wait_until_served([server.url], MODEL, GOOD, 20)
    done = promotion.rollback(MODEL, actor="me", reason="test", version=asked)
    assert (done["ended_trial"], done["version"], done["replaced_version"]) == (None, LIVE, GOOD)
    assert tried_out() == [(GOOD, LIVE, TrialOutcome.promoted)]
    assert aliases_of(registry, MODEL) == Aliases(LIVE, None)
    assert server.state(MODEL)["version"] == LIVE
    assert ledger() == [("promote", GOOD, LIVE, "done"), ("rollback", LIVE, GOOD, "done")]


def test_a_promotion_of_the_tried_version_killed_before_champion_moved_leaves_the_trial_to_be_ended(
    home: Path, registry: Registry
) -> None:
    begin_trial(MODEL, GOOD, LIVE)
    left_open(GOOD)
    assert promotion.rollback(MODEL, actor="me", reason="test")["ended_trial"] == "canary"
    assert tried_out() == [(GOOD, LIVE, TrialOutcome.ended)]
    assert ledger() == [("promote", GOOD, LIVE, "abandoned"), ("canary", GOOD, LIVE, "reverted")]
    assert aliases_of(registry, MODEL) == Aliases(LIVE, None)


def test_others_may_promote_while_a_trial_waits_for_its_version(
    home: Path, server: ModelServer, registry: Registry
) -> None:
    """It is compared with what is live once it begins."""
    port = int(server.url.rpartition(":")[2])
    this = psutil.Process()
    with ThreadPoolExecutor(1) as pool:
        with stopped(psutil.Process(server.pid)):
            started = pool.submit(
                start_trial, MODEL, 5, kind=TrialKind.shadow, percent=None, actor="me", reason="test"
            )
            deadline = time.monotonic() + 20
            while not any(each.raddr and each.raddr.port == port for each in this.net_connections("tcp")):
                assert not started.done(), started.result()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            with promotion.promotion_lock(MODEL):
                registry.set_alias(MODEL, "champion", GOOD)
        told = started.result(timeout=60)
    assert (told["version"], told["champion"], told["percent"]) == (5, GOOD, 100)
    assert tried_out() == [(5, GOOD, None)]


def test_a_stage_alone_promotes_without_a_database(
    home: Path, server: ModelServer, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The model server is not woken, and looks by itself."""
    patient = {**PARAMS, "stages": {"promote_timeout_seconds": 30}}
    (home / "params.yaml").write_text(yaml.safe_dump(patient))
    stage = begin(home, run_up_to_promote(home, GOOD))
    with monkeypatch.context() as elsewhere:
        elsewhere.delenv("DATABASE_URL")
        elsewhere.setenv("EMEND_DATA_DIR", str(tmp_path / "nothing"))
        settings.cache_clear()
        with pytest.raises(ConfigurationError):
            _ = settings().database_url
        promote(stage)
    settings.cache_clear()
    assert aliases_of(registry, MODEL) == Aliases(GOOD, LIVE)
    assert server.state(MODEL)["version"] == GOOD


def test_retention_keeps_what_is_named_or_can_be_gone_back_to(
    home: Path, registry: Registry, mlflow: MlflowServer
) -> None:
    """Keeping three: versions 1, 2 and 5 were promoted last, 5 to 7 are the newest; 3 and 4 were rejected."""
    (home / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "cleanup": {"keep_runs": 3}}))
    runs = ended_runs(home, range(1, 8))
    for version, replaced in ((1, None), (2, 1), (5, 2)):
        promoted(runs[version], replaced)
    files = mlflow.directory / "artifacts"
    size_bytes = sum(path.stat().st_size for path in files.rglob("*") if path.is_file())

    registry.set_alias(MODEL, "somebodys", LIAR)
    assert clean_up(home, runs[7]) == [runs[NOT_A_NUMBER]]
    assert [v.version for v in registry.versions(MODEL)] == [1, 2, 4, 5, 6, 7]
    left_bytes = sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
    assert left_bytes < size_bytes * 6.5 / 7

    registry.delete_alias(MODEL, "somebodys")
    liar = registry.version(MODEL, LIAR).source.removeprefix("models:/")
    (gone,) = files.rglob(liar)  # as after an attempt that was killed half way
    shutil.rmtree(gone)
    assert clean_up(home, runs[7]) == [runs[LIAR]]
    assert [v.version for v in registry.versions(MODEL)] == [1, 2, 5, 6, 7]
    assert clean_up(home, runs[7]) == []


def test_a_rollback_names_no_version_that_retention_removed(home: Path, registry: Registry) -> None:
    runs = ended_runs(home, (LIVE, GOOD, 5))
    for version, replaced in ((LIVE, None), (GOOD, LIVE), (5, GOOD)):
        promoted(runs[version], replaced)
    with session() as db:
        db.get_one(Run, runs[LIVE]).weights_removed_at = datetime.now(UTC)
    registry.set_alias(MODEL, "champion", 5)
    registry.set_alias(MODEL, "previous", GOOD)
    promotion.rollback(MODEL, actor="test", reason="test")
    assert aliases_of(registry, MODEL) == Aliases(GOOD, None)


def ended_runs(home: Path, versions: Iterable[int]) -> dict[int, int]:
    """By the version each made."""
    return {v: run_up_to_promote(home, v, status=RunStatus.succeeded) for v in versions}


def promoted(run_id: int, replaced: int | None) -> None:
    """In the ledger, done."""
    with session() as db:
        run = db.get_one(Run, run_id)
        assert run.version is not None
        entry = promotion.open_entry(
            db,
            action=LedgerAction.promote,
            model=MODEL,
            version=run.version,
            replaced=replaced,
            actor=f"run {run_id}",
            reason="because",
            run_id=run_id,
        )
        promotion.close_entry(db, entry, LedgerOutcome.done)


def clean_up(home: Path, run_id: int) -> list[int]:
    """The stage, with what the database knows before and after it. Returns the runs whose weights went."""
    folder = home / "runs" / str(run_id)
    (folder / "params.yaml").write_bytes((home / "params.yaml").read_bytes())
    with session() as db:
        known = bookkeeping.before("cleanup", db, db.get_one(Run, run_id), {}, None)
    write_json(folder / "manifest.json", {"model": MODEL, "snapshot_at": 0.0, **known})
    result = cleanup(StageRun(home, run_id))
    with session() as db:
        bookkeeping.after("cleanup", db, db.get_one(Run, run_id), {}, {"cleanup": result.data})
    removed: list[int] = result.data["weights_removed"]
    return removed
