"""The orchestrator: takes queued runs, runs their stages, keeps the schedule.

    python -m pipeline.orchestrator

A run is claimed by taking its advisory lock (held by a connection of its own, so it goes with the process that
held it) and then setting it to running. A run that is `running` while nobody holds its lock is an orphan: its
orchestrator was killed; it is marked interrupted and can be resumed. Several orchestrators may work on one
database. While the database is away a stage goes on; its transition waits.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import psycopg2
from prometheus_client import Gauge, start_http_server
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from core import objects, start, telemetry
from core.database import (
    ACTIVE_RUN,
    QUEUE_CHANNEL,
    Model,
    Run,
    RunStatus,
    dedicated_connection,
    engine,
    session,
)
from core.errors import ConfigurationError, Unavailable
from core.registry import RegistryError
from core.settings import settings
from pipeline import bookkeeping, first_start, mirror, promotion, schedule, workspace
from pipeline.execution import (
    RUNS,
    Execution,
    LostRun,
    end_running_stages,
    record_mlflow_run,
    try_lock,
)
from pipeline.gauges import Gauges
from pipeline.params import load
from pipeline.runs import record
from pipeline.tracking import Tracking

MOST_RUNS = max(2, (os.cpu_count() or 2) // 2)  # at once; the others wait in the queue
LOOK_SECONDS = 5.0  # NOTIFY wakes at once; this is for what it may have missed
SCHEDULE_SECONDS = 10.0
DAY_SECONDS = 86_400.0

ACTIVE = Gauge("emend_runs_active", "Runs this orchestrator works on.")

_log = telemetry.get_logger("orchestrator")


class Orchestrator:
    """Takes queued runs, one thread each, until told to stop."""

    def __init__(self) -> None:
        self._shutdown = threading.Event()
        self._executions: dict[int, Execution] = {}
        self._threads: dict[int, threading.Thread] = {}
        self._tracking = Tracking(settings().mlflow_tracking_uri, made=record_mlflow_run)
        self._left_curves = True  # of orchestrators that were stopped or killed: to be looked for

    def stop(self, *_: int | FrameType | None) -> None:
        self._shutdown.set()

    def serve(self) -> None:
        """Blocks until `stop`; then ends the stages under way and marks their runs interrupted."""
        wake = QueueWaker()
        next_schedule = 0.0
        if objects.store() is not None:
            threading.Thread(target=self._keep_store, name="object-store", daemon=True).start()
        while not self._shutdown.is_set():
            try:
                self._look()
                if self._left_curves:
                    self._tracking.take_up(settings().data_dir, _is_active)
                    self._left_curves = False
                if time.monotonic() >= next_schedule:
                    _reconcile()
                    follow_edited_params()
                    schedule.tick(datetime.now(UTC))
                    next_schedule = time.monotonic() + SCHEDULE_SECONDS
            except (Unavailable, DBAPIError) as exc:
                _log.warning("the database is away; looking again", reason=str(exc).splitlines()[0])
            wake.wait(LOOK_SECONDS, self._shutdown)
        for thread in self._threads.values():
            thread.join(30)
        self._tracking.close()

    def _look(self) -> None:
        self._threads = {i: t for i, t in self._threads.items() if t.is_alive()}
        self._executions = {i: e for i, e in self._executions.items() if i in self._threads}
        ACTIVE.set(len(self._threads))
        with session() as db:
            active = db.execute(
                select(Run.id, Run.status, Run.cancel_requested)
                .where(Run.status.in_(ACTIVE_RUN))
                .order_by(Run.id)
            ).all()
        for run_id, status, cancel_requested in active:
            if run_id in self._executions:
                if cancel_requested:
                    self._executions[run_id].cancel()
            elif status is RunStatus.running or len(self._executions) < MOST_RUNS:
                self._take(run_id)

    def _keep_store(self) -> None:
        """What a killed orchestrator had not sent yet goes there; then, daily, unfinished uploads leave."""
        store, sent = objects.store(), False
        assert store is not None
        while not self._shutdown.is_set():
            try:
                if not sent:
                    mirror.send_missing(settings().data_dir, _log.info)
                    sent = True
                _log.info("object store swept", unfinished_uploads=store.abort_old_uploads())
                wait_seconds = DAY_SECONDS
            except Unavailable as exc:
                _log.warning("the object store is looked after later", reason=exc.message)
                wait_seconds = 60.0
            self._shutdown.wait(wait_seconds)

    def _take(self, run_id: int) -> None:
        """Claims a queued run, ends a cancelled one, marks an orphan. Leaves what another process holds."""
        lock = dedicated_connection()
        model = None
        try:
            if try_lock(lock, run_id):
                model = self._claim(run_id)
        finally:
            if model is None:
                lock.close()
        if model is None:
            return
        execution = Execution(run_id, model, lock, self._shutdown, self._tracking)
        thread = threading.Thread(target=self._work, args=(execution,), name=f"run-{run_id}")
        self._executions[run_id], self._threads[run_id] = execution, thread
        thread.start()

    def _claim(self, run_id: int) -> str | None:
        """With the run's lock held. Its model when it is ours to run."""
        with session() as db:
            model = db.get_one(Run, run_id).model
        aliases = bookkeeping.aliases_after_stop(run_id, model)
        with session() as db:
            run = db.get_one(Run, run_id, with_for_update=True)
            if run.status is RunStatus.running:
                stages, message = end_running_stages(
                    db,
                    run,
                    RunStatus.interrupted,
                    "its orchestrator was stopped or killed; `emend resume` goes on",
                    aliases,
                )
                run.status, run.message, run.finished_at = RunStatus.interrupted, message, datetime.now(UTC)
                for stage in stages:
                    workspace.remove_leftover_locks(
                        settings().data_dir / run.model, stage.started_at.timestamp()
                    )
                record(db, run, None, RunStatus.interrupted, message)
                RUNS.labels(run.model, run.status).inc()
                _log.warning("orphaned run marked interrupted", run_id=run_id)
                self._left_curves = True
                return None
            if run.status is not RunStatus.queued:
                return None
            if run.cancel_requested:
                run.status, run.finished_at = RunStatus.cancelled, datetime.now(UTC)
                run.message = "cancelled before it began"
                record(db, run, None, RunStatus.cancelled, run.message)
                RUNS.labels(run.model, run.status).inc()
                return None
            run.status, run.started_at = RunStatus.running, run.started_at or datetime.now(UTC)
            record(db, run, None, RunStatus.running)
            return run.model

    def _work(self, execution: Execution) -> None:
        try:
            execution.work()
        except (Unavailable, LostRun) as exc:  # found as an orphan later, or ended by somebody else
            _log.warning("could not record the end of a run", reason=str(exc) or "it was taken over")
        finally:
            execution.release()


def _is_active(run_id: int) -> bool:
    with session() as db:
        return db.scalar(select(Run.status).where(Run.id == run_id)) in ACTIVE_RUN


class QueueWaker:
    """Waits for NOTIFY on the queue's channel. Reconnects by itself; a missed one costs LOOK_SECONDS."""

    def __init__(self) -> None:
        self._connection: Any = None

    def wait(self, seconds: float, shutdown: threading.Event) -> None:
        import select as sockets

        until = time.monotonic() + seconds
        while time.monotonic() < until and not shutdown.is_set():
            try:
                connection = self._connected()
                if connection.notifies:
                    connection.notifies.clear()
                    return
                # Short, so that a signal's flag is seen at once.
                if sockets.select([connection], [], [], 0.2)[0]:
                    connection.poll()
            except psycopg2.Error:
                self._connection = None
                shutdown.wait(1.0)

    def _connected(self) -> Any:
        if self._connection is None:
            url = engine().url.set(drivername="postgresql")
            self._connection = psycopg2.connect(url.render_as_string(hide_password=False), connect_timeout=3)
            self._connection.autocommit = True
            with self._connection.cursor() as cursor:
                cursor.execute(f"listen {QUEUE_CHANNEL}")
        return self._connection


def _reconcile() -> None:
    """What a killed gateway or orchestrator left open in the ledger. Costs one query when there is nothing."""
    try:
        for sentence in promotion.reconcile():
            _log.warning("closed a promotion that was left open", what=sentence)
    except RegistryError as exc:
        _log.warning("open promotions not reconciled yet", reason=exc.message)


def follow_edited_params() -> None:
    """So that an edited trigger counts at once, not from the next run on. A run will refuse a faulty file."""
    with session() as db:
        for model in db.scalars(select(Model)):
            try:
                params = load(settings().data_dir / model.name).model_dump(mode="json")
            except ConfigurationError as exc:
                _log.warning("params.yaml not followed", model=model.name, reason=exc.message)
                continue
            if params != model.params:
                schedule.follow_params(model, params, datetime.now(UTC))


def _first_start() -> None:
    """The starter drawings and the first run, beside all else; what `emend up` does with more words."""
    while True:
        try:
            first_start.prepare(_log.info, _at_once)
            return
        except (Unavailable, DBAPIError, RegistryError) as exc:
            _log.warning("the first start is tried again", reason=str(exc).splitlines()[0])
        time.sleep(LOOK_SECONDS)  # between two tries


def _at_once(work: Callable[[], None]) -> bool:
    work()
    return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.orchestrator", description="Takes queued runs.")
    parser.add_argument(
        "--first-start", action="store_true", help="while no version is live, make the starter model"
    )
    arguments = parser.parse_args()
    start.begin("orchestrator")
    if arguments.first_start:
        threading.Thread(target=_first_start, name="first-start", daemon=True).start()
    orchestrator = Orchestrator()
    signal.signal(signal.SIGTERM, orchestrator.stop)
    signal.signal(signal.SIGINT, orchestrator.stop)
    start_http_server(settings().orchestrator_port, settings().host)
    gauges = Gauges()
    gauges.start()
    orchestrator.serve()
    gauges.stop()


if __name__ == "__main__":
    main()
