"""What the database and the homes know, for Prometheus: runs, schedule, the live version's accuracy and training data.

The orchestrator reads it every few seconds and shows what it read last. Facts, not events of this process, so nothing
is lost or counted twice when an orchestrator is started again; where several work on one database all show the same,
and rules take the maximum. `emend_state_read_timestamp_seconds` says how old the figures are.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import Gauge, Histogram
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core import telemetry
from core.database import (
    ACTIVE_RUN,
    Category,
    Correction,
    LedgerAction,
    LedgerEntry,
    LedgerOutcome,
    Model,
    Run,
    RunStatus,
    Stage,
    StageStatus,
    Transition,
    Version,
    session,
)
from core.errors import EmendError
from core.receipts import champion_version
from core.settings import settings
from core.telemetry import MOST_CATEGORIES, MOST_VERSIONS, OTHER
from pipeline import certificate, execution, schedule
from pipeline.params import TriggerParams
from pipeline.stages import STAGES, StageError, read_json

READ = Gauge("emend_state_read_timestamp_seconds", "When the orchestrator last read the database's state.")
RUN_FINISHED = Gauge(
    "emend_run_finished_timestamp_seconds", "When a run last ended in this way.", ["model", "status"]
)
RUN_HEARD = Gauge(
    "emend_run_active_timestamp_seconds",
    "When the active run last changed its state or finished an epoch; absent while none is active.",
    ["model", "status"],
)
STAGE_LAST = Gauge(
    "emend_stage_last_duration_seconds", "Time the stage took when it last succeeded.", ["model", "stage"]
)
LAST_FIRING = Gauge(
    "emend_schedule_last_firing_timestamp_seconds",
    "When a run should last have started by the cron expression; absent without one.",
    ["model"],
)
NEXT_FIRING = Gauge(
    "emend_schedule_next_firing_timestamp_seconds",
    "When a run starts next by the cron expression.",
    ["model"],
)
PAUSED = Gauge(
    "emend_promotion_paused", "1 while nothing is promoted by itself, after a rollback.", ["model"]
)
ACCURACY = Gauge(
    "emend_version_accuracy",
    "Accuracy of versions that were promoted, 0..1, on the frozen holdout or on generated images.",
    ["model", "version", "slice"],
)
TRAINED_ON = Gauge(
    "emend_training_category_ratio",
    "Share of a category in the images that the live version was trained on, 0..1.",
    ["model", "category"],
)
TIME_TO_LIVE = Histogram(
    "emend_correction_live_seconds",
    "From a correction to the promotion of the first version whose dataset has it.",
    ["model"],
    buckets=(60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 3 * 86400, 7 * 86400, 30 * 86400),
)
DISK_FREE = Gauge("emend_data_disk_free_bytes", "Free on the disk of the data folder.")
DISK_SIZE = Gauge("emend_data_disk_size_bytes", "Size of the disk of the data folder.")

REFRESH_SECONDS = 5.0
CERTIFICATE_SECONDS = 600.0
ENDED = [status for status in RunStatus if status not in ACTIVE_RUN]
SLICES = {"holdout": "holdout_accuracy", "generated": "regression_accuracy"}

Values = Mapping[tuple[str, ...], float]
_log = telemetry.get_logger("gauges")


class Gauges:
    """Keeps the figures in step with the database, from a thread of its own between start and stop."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)
        self._ledger_seen: int | None = None  # entries up to this id have been looked at
        self._certificate_at = -float("inf")
        self._trained_on: dict[str, tuple[int, dict[str, float]]] = {}  # model to (live version, its mix)

    def start(self) -> None:
        READ.set_to_current_time()  # not 1970: a database that is a little later than we are is not away
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.refresh(datetime.now(UTC))
            except EmendError as exc:  # the orchestrator itself says so too
                _log.info("figures wait", reason=exc.message)
            except Exception:  # noqa: BLE001 - the thread's edge: runs go on whatever a figure does
                _log.exception("figures failed")
            self._look_at_certificate()
            self._stopping.wait(REFRESH_SECONDS)

    def _look_at_certificate(self) -> None:
        if time.monotonic() - self._certificate_at < CERTIFICATE_SECONDS:
            return
        self._certificate_at = time.monotonic()
        try:
            certificate.show(settings().public_url)
        except (OSError, ValueError) as exc:
            _log.warning("the public address's certificate was not read", reason=str(exc))

    def refresh(self, now: datetime) -> None:
        """Raises Unavailable; what was read last stays then."""
        with session() as db:
            models = list(db.scalars(select(Model).order_by(Model.name)))
            tables: dict[Gauge, dict[tuple[str, ...], float]] = {
                RUN_FINISHED: _finished(db),
                RUN_HEARD: _heard(db),
                STAGE_LAST: _stages(db),
                ACCURACY: _accuracies(db, models),
                PAUSED: {(m.name,): float(m.promotion_paused_at is not None) for m in models},
                TRAINED_ON: self._mixes(db, models),
            }
            promoted = self._newly_promoted(db)
        tables[LAST_FIRING], tables[NEXT_FIRING] = _firings(models, now)
        for gauge, values in tables.items():
            show(gauge, values)
        for model in models:
            _begin_at_zero(model.name)
        for name, seconds in promoted:
            TIME_TO_LIVE.labels(name).observe(seconds)
        _show_disk(settings().data_dir)
        READ.set(now.timestamp())

    def _mixes(self, db: Session, models: Sequence[Model]) -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {}
        for model in models:
            live = champion_version(db, model.name)
            if live is None:
                continue
            if self._trained_on.get(model.name, (None,))[0] != live:
                mix = _mix(db, model.name, live)
                if mix is None:
                    continue
                self._trained_on[model.name] = (live, mix)
            found |= {
                (model.name, category): share for category, share in self._trained_on[model.name][1].items()
            }
        return found

    def _newly_promoted(self, db: Session) -> list[tuple[str, float]]:
        """(model, seconds) of every correction that has gone live since the last look; none at the first."""
        if self._ledger_seen is None:
            closed = LedgerEntry.outcome.is_not(None)
            self._ledger_seen = db.scalar(select(func.max(LedgerEntry.id)).where(closed)) or 0
        found: list[tuple[str, float]] = []
        entries = db.scalars(
            select(LedgerEntry).where(LedgerEntry.id > self._ledger_seen).order_by(LedgerEntry.id)
        )
        for entry in entries:
            if entry.outcome is None:  # looked at again when it is closed, with those after it
                break
            self._ledger_seen = entry.id
            if entry.action is LedgerAction.promote and entry.outcome is LedgerOutcome.done:
                found += [(entry.model, seconds) for seconds in _waited(db, entry)]
        return found


def show(gauge: Gauge, values: Values) -> None:
    """These and no others: what is gone must not stay at its last value."""
    shown = {tuple(sample.labels.values()) for family in gauge.collect() for sample in family.samples}
    for labels in shown - values.keys():
        gauge.remove(*labels)
    for labels, value in values.items():
        gauge.labels(*labels).set(value)


def _finished(db: Session) -> dict[tuple[str, ...], float]:
    rows = db.execute(
        select(Run.model, Run.status, func.max(Run.finished_at))
        .where(Run.finished_at.is_not(None), Run.status.in_(ENDED))
        .group_by(Run.model, Run.status)
    )
    return {(model, str(status)): at.timestamp() for model, status, at in rows if at is not None}


def _heard(db: Session) -> dict[tuple[str, ...], float]:
    rows = db.execute(
        select(Run.model, Run.status, func.max(Transition.at))
        .join(Transition, Transition.run_id == Run.id)
        .where(Run.status.in_(ACTIVE_RUN))
        .group_by(Run.model, Run.status)
    )
    return {(model, str(status)): at.timestamp() for model, status, at in rows}


def _stages(db: Session) -> dict[tuple[str, ...], float]:
    timed = (Stage.status == StageStatus.succeeded, Stage.duration_seconds.is_not(None))
    latest = (
        select(Stage.name, func.max(Stage.run_id).label("run_id"))
        .join(Run, Run.id == Stage.run_id)
        .where(*timed)
        .group_by(Run.model, Stage.name)
        .subquery()
    )
    rows = db.execute(
        select(Run.model, Stage.name, Stage.duration_seconds)
        .join(latest, (latest.c.run_id == Stage.run_id) & (latest.c.name == Stage.name))
        .join(Run, Run.id == Stage.run_id)
    )
    return {(model, name): float(seconds or 0) for model, name, seconds in rows if name in STAGES}


def _accuracies(db: Session, models: Sequence[Model]) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for model in models:
        promoted = (
            select(LedgerEntry.version)
            .where(LedgerEntry.model == model.name, LedgerEntry.outcome == LedgerOutcome.done)
            .group_by(LedgerEntry.version)
            .order_by(func.max(LedgerEntry.id).desc())
            .limit(MOST_VERSIONS)
        )
        versions = db.scalars(
            select(Version).where(Version.model == model.name, Version.version.in_(promoted))
        )
        for version in versions:
            for name, key in SLICES.items():
                value = version.figures.get(key)
                if isinstance(value, int | float):
                    found[model.name, str(version.version), name] = float(value)
    return found


def _mix(db: Session, model: str, version: int) -> dict[str, float] | None:
    """From what its run's merge counted; once that is cleaned up, from the latest dataset version. None: no version."""
    row = db.get(Version, (model, version))
    if row is None:
        return None
    listed = db.scalars(select(Category).where(Category.model == model))
    names = {category.id: (category.name, category.train_images) for category in listed}
    counts = {number: images for number, (_, images) in names.items()}
    merged = settings().data_dir / model / "runs" / str(row.run_id) / "merge.json"
    try:
        counts |= {each["id"]: each["train_images"] for each in read_json(merged)["data"]["categories"]}
    except (StageError, ValueError, KeyError, TypeError):
        _log.info("the run's own counts are gone; taking the latest", model=model, version=version)
    known = [number for number in row.category_ids if number in names]
    total = sum(counts.get(number, 0) for number in known)
    if total == 0:
        return {}
    mix = {names[number][0]: counts.get(number, 0) / total for number in known[:MOST_CATEGORIES]}
    if len(known) > MOST_CATEGORIES:
        mix[OTHER] = 1 - sum(mix.values())
    return mix


def _waited(db: Session, entry: LedgerEntry) -> list[float]:
    """Seconds, of each correction that no version live before had in its dataset."""
    versions = select(Version.dataset_version).where(Version.model == entry.model)
    has = db.scalar(versions.where(Version.version == entry.version)) or 0
    earlier = select(LedgerEntry.version).where(
        LedgerEntry.model == entry.model,
        LedgerEntry.outcome == LedgerOutcome.done,
        LedgerEntry.id < entry.id,
    )
    had = db.scalar(
        select(func.coalesce(func.max(Version.dataset_version), 0)).where(
            Version.model == entry.model, Version.version.in_(earlier)
        )
    )
    received = db.scalars(
        select(Correction.received_at).where(
            Correction.model == entry.model,
            Correction.dataset_version > had,
            Correction.dataset_version <= has,
        )
    )
    live_at = entry.closed_at or entry.opened_at
    return [max(0.0, (live_at - at).total_seconds()) for at in received]


def _firings(
    models: Sequence[Model], now: datetime
) -> tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]]:
    """(latest, next). A firing from before the expression was written is none."""
    latest: dict[tuple[str, ...], float] = {}
    coming: dict[tuple[str, ...], float] = {}
    tz = settings().schedule_tz
    for model in models:
        try:
            cron = TriggerParams.model_validate(model.params.get("triggers", {})).cron
        except ValueError:  # the scheduler says so in its log
            continue
        if cron is None:
            continue
        last = schedule.due(cron, datetime.min.replace(tzinfo=UTC), now, tz)
        if last is not None and last >= model.schedule_seen_at:
            latest[model.name,] = last.timestamp()
        following = schedule.next_firing(cron, now, tz)
        if following is not None:
            coming[model.name,] = following.timestamp()
    return latest, coming


def _show_disk(folder: Path) -> None:
    disk = shutil.disk_usage(folder)
    DISK_FREE.set(disk.free)
    DISK_SIZE.set(disk.total)


def _begin_at_zero(model: str) -> None:
    """A series that appears with its first event looks to Prometheus as if that event had always been there."""
    TIME_TO_LIVE.labels(model)
    for status in ENDED:
        execution.RUNS.labels(model, str(status))
        execution.RUN_SECONDS.labels(model, str(status))
    for stage in STAGES:
        for ended in (StageStatus.succeeded, StageStatus.failed):
            execution.STAGE_SECONDS.labels(model, stage, str(ended))
