"""One run, from claim to end: its stages one after another, each transition in the database.

While the database is away a stage goes on; its transition waits. The run's advisory lock says to everybody that
somebody is at work on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import Counter, Histogram
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from core import telemetry
from core.database import (
    ACTIVE_RUN,
    Run,
    RunStatus,
    Stage,
    StageStatus,
    Transition,
    dedicated_connection,
    session,
)
from core.errors import EmendError, Unavailable
from core.patience import PATIENCE_SECONDS
from core.registry import Registry, RegistryUnavailable
from core.registry import RunStatus as MlflowStatus
from core.settings import settings
from core.storage import write_json
from pipeline import bookkeeping, mirror, promotion, workspace
from pipeline.champion import Aliases, aliases_of
from pipeline.curve import read_curve
from pipeline.params import load
from pipeline.processes import StageProcess, WarmStages
from pipeline.runs import record
from pipeline.stages import STAGES, read_json
from pipeline.tracking import TrackedRun, Tracking

RUN_LOCK = 7_306  # first key of the advisory lock of a run; the second is its id
SENT_SECONDS = 2.0
LOG_SECONDS = 2.0  # how late a log may be in the object store
REGISTRY_SECONDS = PATIENCE_SECONDS  # for MLflow, as stages wait: its start may take long on a cold disk

RUNS = Counter("emend_runs_total", "Runs that ended, by how.", ["model", "status"])
STAGE_SECONDS = Histogram(
    "emend_stage_duration_seconds",
    "Time a stage took.",
    ["model", "stage", "status"],
    buckets=(0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400),
)
RUN_SECONDS = Histogram(
    "emend_run_duration_seconds",
    "Time from a run's start to its end.",
    ["model", "status"],
    buckets=(5, 10, 30, 60, 120, 300, 900, 3600, 14400),
)

_MLFLOW_STATUS: dict[RunStatus, MlflowStatus] = {
    RunStatus.succeeded: "FINISHED",
    RunStatus.rejected: "FINISHED",
    RunStatus.failed: "FAILED",
    RunStatus.cancelled: "KILLED",
}

_log = telemetry.get_logger("orchestrator")
_T = TypeVar("_T")


class Stopped(Exception):
    """The run ends here. status: what it and its stage become."""

    def __init__(self, status: RunStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class LostRun(Exception):
    """Another process holds the run now, or took it for an orphan: hands off."""


class Execution:
    """One run, from claim to end. `stop` may be called from any thread."""

    def __init__(
        self, run_id: int, model: str, lock: Connection, shutdown: threading.Event, tracking: Tracking
    ) -> None:
        self._run_id = run_id
        self._model = model
        self._lock = lock
        self._shutdown = shutdown
        self._cancelled = threading.Event()
        self._promoting = False
        self._home = (settings().data_dir / self._model).resolve()
        self._folder = self._home / "runs" / str(run_id)
        self._logs = (settings().data_dir / "logs" / "runs" / str(run_id)).resolve()
        self._results: dict[str, Any] = {}
        self._request_id: str | None = None
        self._tracking = tracking
        self._curve_bytes = 0  # of metrics.jsonl: those that are recorded

    def cancel(self) -> None:
        self._cancelled.set()

    def work(self) -> None:
        """Runs every stage that has not succeeded yet, and records how the run ended."""
        started = time.monotonic()
        try:
            telemetry.bind(run_id=self._run_id)  # on every log line of this run, as who asked for it
            self._request_id = self._transaction(lambda _, run: run.request_id)
            if self._request_id is not None:
                telemetry.bind(request_id=self._request_id)
            self._folder.mkdir(parents=True, exist_ok=True)
            status, message = self._stages()
        except Stopped as stop:
            status, message = stop.status, stop.message
        except LostRun:
            _log.warning("run was taken over; leaving it")
            self._tracking.end(self._run_id, None)
            return
        except Unavailable:
            raise  # shut down while the database is away: nothing can be recorded
        except EmendError as exc:
            status, message = RunStatus.failed, exc.message
        except Exception as exc:  # noqa: BLE001 - the thread's edge: a run must not stay `running` whatever happened
            _log.exception("run failed unexpectedly")
            status, message = RunStatus.failed, f"{type(exc).__name__} in the orchestrator; see its log"
        aliases = self._patiently(lambda: bookkeeping.aliases_after_stop(self._run_id, self._model))
        # Before the run ends: killed in between, nobody would tell MLflow. An interrupted one may go on.
        self._tracking.end(self._run_id, _MLFLOW_STATUS.get(status))
        # A moment, so that whoever hears of the run's end finds its curve in MLflow; what is left goes there later.
        self._tracking.flush(self._run_id, SENT_SECONDS)
        self._transaction(lambda db, run: self._end(db, run, status, message, aliases))
        RUNS.labels(self._model, status).inc()
        RUN_SECONDS.labels(self._model, status).observe(time.monotonic() - started)
        _log.info("run ended", model=self._model, status=status, message=message)

    def _stages(self) -> tuple[RunStatus, str]:
        done = self._transaction(self._succeeded_stages)
        for stage in done:
            self._results[stage] = read_json(self._folder / f"{stage}.json")["data"]
        todo = [stage for stage in STAGES if stage not in done]
        if "train" in done:
            self._track()
        with WarmStages(self._home, self._run_id, self._logs, todo) as warm:
            for stage in todo:
                self._stage(stage, warm)
        run = self._transaction(lambda _, run: run)
        return bookkeeping.final_status(run, self._results)

    def _stage(self, name: str, warm: WarmStages) -> None:
        if name in (
            "promote",
            "cleanup",
        ):  # until the run ends: nobody promotes, rolls back or reconciles meanwhile
            self._patiently(self._take_promotion_lock)
        aliases = self._patiently(self._ask_aliases) if name in bookkeeping.ASKS_ALIASES else None
        if name == "train":
            self._track()
        if name == "register":
            self._patiently(self._await_mlflow_run)
        manifest = self._transaction(lambda db, run: self._begin(db, run, name, aliases))
        process = warm.take(name)
        started, started_at = time.monotonic(), time.time()
        try:
            process.go(self._attempt, self._request_id)
            self._watch(process, name)
            result = read_json(self._folder / f"{name}.json")
        finally:
            if process.end() < 0:  # before its end is recorded: a resume must find nobody at work
                workspace.remove_leftover_locks(self._home, started_at)
            self._send(process.log, *self._folder.glob("*.json"), self._folder / "params.yaml")
            self._wait_until_sent()
        self._results[name] = result["data"]
        halted: str | None = result["halted"]

        def succeeded(db: Session, run: Run) -> None:
            row = db.get_one(Stage, (run.id, name))
            row.status = StageStatus.halted if halted else StageStatus.succeeded
            row.finished_at = datetime.now(UTC)
            row.duration_seconds = round(time.monotonic() - started, 3)
            row.figures = result["figures"]
            row.message = halted
            bookkeeping.after(name, db, run, manifest, self._results)
            record(
                db, run, name, row.status, halted, {**row.figures, "duration_seconds": row.duration_seconds}
            )

        self._transaction(succeeded)
        STAGE_SECONDS.labels(self._model, name, "halted" if halted else "succeeded").observe(
            time.monotonic() - started
        )
        if halted:
            raise Stopped(RunStatus.halted, halted)

    def _begin(self, db: Session, run: Run, name: str, aliases: Aliases | None) -> dict[str, Any]:
        """The stage's row, its transition, and the manifest with what this stage must know."""
        row = db.get(Stage, (run.id, name))
        if row is None:
            row = Stage(run_id=run.id, name=name, position=STAGES.index(name), attempt=0)
            db.add(row)
        row.status, row.started_at = StageStatus.running, datetime.now(UTC)
        row.attempt += 1
        row.finished_at = row.duration_seconds = row.message = None
        self._attempt = row.attempt
        path = self._folder / "manifest.json"
        known: dict[str, Any] = read_json(path) if path.exists() else {}
        manifest = known | bookkeeping.before(name, db, run, known, aliases)
        if name == "register":
            manifest["mlflow_run_id"] = run.mlflow_run_id
        write_json(path, manifest)
        (self._folder / f"{name}.json").unlink(missing_ok=True)
        record(db, run, name, StageStatus.running, f"attempt {row.attempt}" if row.attempt > 1 else None)
        return manifest

    def _watch(self, process: StageProcess, name: str) -> None:
        """Returns when the stage has succeeded. Raises Stopped, or LostRun after ending the stage."""
        limits = load(self._folder).stages
        limit_seconds = limits.train_timeout_seconds if name == "train" else limits.timeout_seconds
        if name == "promote":  # has a limit of its own, after which it moves champion back
            limit_seconds += limits.promote_timeout_seconds
        deadline = time.monotonic() + limit_seconds
        send_log_at = 0.0
        while (code := process.wait(0.1)) is None:
            self._check_stop(f"in stage {name}")
            if time.monotonic() > deadline:
                raise Stopped(
                    RunStatus.failed, f"stage {name} took longer than {limit_seconds} s; log: {process.log}"
                )
            if name == "train":
                self._record_curve()
            if time.monotonic() >= send_log_at and process.log.exists():
                self._send(process.log)
                # Sent whole each time: a longer one less often.
                send_log_at = time.monotonic() + max(LOG_SECONDS, process.log.stat().st_size / 1e6)
        if name == "train":
            self._record_curve()
        if code != 0:
            how = f"exited with code {code}" if code > 0 else f"was killed by signal {-code}"
            why = process.last_error() if code > 0 else None  # a killed one's last words are not the reason
            raise Stopped(
                RunStatus.failed,
                f"stage {name} of run {self._run_id} {how}{': ' + why if why else ''}; log: {process.log}",
            )

    def _send(self, *paths: Path) -> None:
        """To the object store, if there is one, in the background."""
        uploads = mirror.uploads()
        if uploads is not None:
            uploads.send(*paths)

    def _wait_until_sent(self) -> None:
        """A moment, so that whoever hears of the stage's end finds the end of its log."""
        uploads = mirror.uploads()
        if uploads is not None:
            uploads.flush(SENT_SECONDS)

    def _end(self, db: Session, run: Run, status: RunStatus, message: str, aliases: Aliases | None) -> None:
        message = end_running_stages(db, run, status, message, aliases)[1]
        run.status, run.message, run.finished_at = status, message, datetime.now(UTC)
        record(db, run, None, status, message)

    def _succeeded_stages(self, db: Session, run: Run) -> list[str]:
        done = set(
            db.scalars(
                select(Stage.name).where(Stage.run_id == run.id, Stage.status == StageStatus.succeeded)
            )
        )
        return [stage for stage in STAGES if stage in done]

    def _transaction(self, work: Callable[[Session, Run], _T]) -> _T:
        """Waits while the database is away. Raises LostRun when the run is not ours any more, and as `_patiently`."""

        def transaction() -> _T:
            with session() as db:
                run = db.get_one(Run, self._run_id, with_for_update=True)
                if run.status not in ACTIVE_RUN:
                    raise LostRun
                return work(db, run)

        return self._patiently(transaction)

    def _patiently(self, work: Callable[[], _T]) -> _T:
        """Again while the database is away; for the registry, or somebody's rollback, REGISTRY_SECONDS.

        Raises Stopped when told to stop while waiting for the registry, Unavailable when told to shut down while
        waiting for the database.
        """
        delay_seconds = 0.2
        give_up_at = time.monotonic() + REGISTRY_SECONDS
        while True:
            try:
                self._hold_lock()
                return work()
            except (RegistryUnavailable, promotion.PromotionUnderWay) as exc:
                self._check_stop("while it waited")
                if time.monotonic() > give_up_at:
                    message = f"{exc.message} Waited {REGISTRY_SECONDS:g} s; then `emend resume`"
                    raise Stopped(RunStatus.failed, message) from exc
                reason = exc.message
            except Unavailable as exc:
                if self._shutdown.is_set():
                    raise
                reason = exc.message
            _log.warning("waiting", reason=reason)
            self._shutdown.wait(delay_seconds)
            delay_seconds = min(5.0, delay_seconds * 2)

    def _take_promotion_lock(self) -> None:
        if not self._promoting:
            promotion.take_promotion_lock(self._lock, self._model)
            self._promoting = True

    def _ask_aliases(self) -> Aliases:
        with Registry(settings().mlflow_tracking_uri) as registry:
            return aliases_of(registry, self._model)

    def _check_stop(self, where: str) -> None:
        if self._shutdown.is_set():
            raise Stopped(RunStatus.interrupted, "the orchestrator was stopped; `emend resume` goes on")
        if self._cancelled.is_set():
            raise Stopped(RunStatus.cancelled, f"cancelled {where}; `emend resume` goes on")

    def _hold_lock(self) -> None:
        """The lock goes with its connection: after a restart of the database it is taken again.

        Raises LostRun, or Unavailable when there is no connection to be had.
        """
        try:
            if not self._lock.closed:
                self._lock.execute(text("select 1"))
                return
        except DBAPIError:
            self._lock.close()
        try:
            self._lock = dedicated_connection()
            if not try_lock(self._lock, self._run_id):
                raise LostRun
            if self._promoting:
                promotion.take_promotion_lock(self._lock, self._model)
        except DBAPIError as exc:
            raise Unavailable("the database does not answer") from exc

    def release(self) -> None:
        self._lock.close()

    def _track(self) -> None:
        """The curve goes to MLflow in the background, from where it was left; training does not wait for that."""
        requested_at, mlflow_run = self._transaction(lambda _, run: (run.requested_at, run.mlflow_run_id))
        run = TrackedRun(self._run_id, self._model, self._folder, requested_at)
        self._tracking.follow(run, mlflow_run)

    def _await_mlflow_run(self) -> None:
        """Raises RegistryUnavailable while MLflow, away since training began, has not made it."""
        if self._transaction(lambda _, run: run.mlflow_run_id) is None:
            trouble = self._tracking.trouble(self._run_id)
            raise trouble or RegistryUnavailable(f"MLflow has made no run of run {self._run_id} yet.")

    def _record_curve(self) -> None:
        """New epochs to those who follow the run, as transitions: one a line, so their number says which are known."""
        curve = read_curve(self._folder / "metrics.jsonl", self._curve_bytes)
        if curve.end_bytes == self._curve_bytes:
            return

        def as_transitions(db: Session, run: Run) -> None:
            known = _epochs_recorded(db, run.id) if self._curve_bytes == 0 else 0
            for epoch in curve.epochs[known:]:
                record(db, run, "train", "epoch", None, epoch)

        self._transaction(as_transitions)
        self._curve_bytes = curve.end_bytes


def record_mlflow_run(run_id: int, mlflow_run: str) -> None:
    """As `Tracking` tells it, from its own thread."""
    with session() as db:
        run = db.get_one(Run, run_id, with_for_update=True)
        run.mlflow_run_id = run.mlflow_run_id or mlflow_run


def _epochs_recorded(db: Session, run_id: int) -> int:
    rows = select(func.count()).where(Transition.run_id == run_id, Transition.status == "epoch")
    return db.scalar(rows) or 0


def end_running_stages(
    db: Session, run: Run, status: RunStatus, message: str, aliases: Aliases | None
) -> tuple[list[Stage], str]:
    """Normally the one at which the run ends. Returns their rows, and the message with what else is to be known.

    aliases: `bookkeeping.aliases_after_stop`.
    """
    rows = db.scalars(select(Stage).where(Stage.run_id == run.id, Stage.status == StageStatus.running)).all()
    for row in rows:
        said = bookkeeping.after_stop(row.name, db, run, aliases)
        message = f"{message}. But {said}" if said else message
        row.status, row.message, row.finished_at = StageStatus(status), message, datetime.now(UTC)
        row.duration_seconds = round((row.finished_at - row.started_at).total_seconds(), 3)
        record(db, run, row.name, row.status, message)
        STAGE_SECONDS.labels(run.model, row.name, row.status).observe(row.duration_seconds)
    return list(rows), message


def try_lock(connection: Connection, run_id: int) -> bool:
    """The lock lasts as long as the connection."""
    got = connection.scalar(
        text("select pg_try_advisory_lock(:kind, :run)"), {"kind": RUN_LOCK, "run": run_id}
    )
    return bool(got)
