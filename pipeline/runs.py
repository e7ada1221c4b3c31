"""Runs as the services see them: asking for one, resuming, cancelling, looking. The orchestrator does the work.

Every function opens its own transaction. What they return is plain JSON: the services' contract.
"""

from __future__ import annotations

import statistics
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core import telemetry
from core.database import ACTIVE_RUN, Model, Run, RunStatus, Stage, Transition, Trigger, session
from core.errors import Conflict, NotFound
from core.settings import settings
from pipeline.promotion import ledger, previous_version, promote, resume_promotion, rollback
from pipeline.stages import STAGES
from pipeline.trials import list_trials, start_trial

__all__ = [
    "STAGES",
    "RunActive",
    "active_run",
    "estimate",
    "ledger",
    "list_runs",
    "list_trials",
    "previous_version",
    "promote",
    "request_cancel",
    "request_resume",
    "request_run",
    "resume_promotion",
    "rollback",
    "show_run",
    "start_trial",
]

ESTIMATED_FROM = 10  # runs; older ones trained on less
WENT_THROUGH = (RunStatus.succeeded, RunStatus.rejected)
RESUMABLE = (RunStatus.failed, RunStatus.interrupted, RunStatus.cancelled)


class RunActive(Conflict):
    """One run per model at a time."""

    code = "run_active"

    def __init__(self, model: str, run_id: int) -> None:
        super().__init__(f"run {run_id} of {model} is active; wait for it or cancel it")
        self.run_id = run_id

    def as_json(self) -> dict[str, Any]:
        return {**super().as_json(), "run_id": self.run_id}


def request_run(
    model: str, *, requested_by: str, trigger: Trigger = Trigger.manual, force: bool = False
) -> int:
    """Queues a run and returns its id. Raises NotFound, or RunActive with the id of the one that is."""
    try:
        with session() as db:
            if db.get(Model, model) is None:
                raise NotFound(f"there is no model {model!r}; `emend status` lists them", field="model")
            return queue(db, model, trigger=trigger, requested_by=requested_by, force=force)
    except IntegrityError as exc:  # the partial unique index
        active = active_run(model)
        if active is None:  # it ended between the two transactions
            return request_run(model, requested_by=requested_by, trigger=trigger, force=force)
        raise RunActive(model, active) from exc


def queue(db: Session, model: str, *, trigger: Trigger, requested_by: str, force: bool = False) -> int:
    """In the caller's transaction. Raises IntegrityError when a run of the model is active."""
    run = Run(model=model, trigger=trigger, force=force, requested_by=requested_by, status=RunStatus.queued)
    run.request_id = telemetry.request_id()
    db.add(run)
    db.flush()
    record(db, run, None, RunStatus.queued, f"asked for by {requested_by}")
    return run.id


def active_run(model: str | None = None) -> int | None:
    """Of this model; None: of any."""
    query = select(Run.id).where(Run.status.in_(ACTIVE_RUN)).limit(1)
    with session() as db:
        return db.scalar(query if model is None else query.where(Run.model == model))


def request_resume(run_id: int, *, requested_by: str) -> None:
    """Queues a run again that failed, was interrupted or cancelled: it goes on from the first stage not finished."""
    try:
        with session() as db:
            run = _run(db, run_id, lock=True)
            if run.status not in RESUMABLE:
                raise Conflict(f"run {run_id} is {run.status}; only {_list(RESUMABLE)} runs can be resumed")
            newer = db.scalar(select(Run.id).where(Run.model == run.model, Run.id > run_id).limit(1))
            if newer is not None:
                raise Conflict(f"run {newer} came after run {run_id}; start a new run instead")
            run.status, run.finished_at, run.message = RunStatus.queued, None, None
            run.cancel_requested = False
            run.request_id = telemetry.request_id()
            record(db, run, None, RunStatus.queued, f"resume asked for by {requested_by}")
    except IntegrityError as exc:
        model = show_run(run_id)["model"]
        raise RunActive(model, active_run(model) or run_id) from exc


def request_cancel(run_id: int, *, requested_by: str) -> None:
    """A queued run ends at once; a running one when the orchestrator has ended its stage."""
    with session() as db:
        run = _run(db, run_id, lock=True)
        if run.status not in ACTIVE_RUN:
            raise Conflict(f"run {run_id} is {run.status}; only {_list(ACTIVE_RUN)} runs can be cancelled")
        run.cancel_requested = True
        record(db, run, None, run.status, f"cancel asked for by {requested_by}")


def list_runs(
    model: str | None = None, *, limit: int = 50, before: int | None = None
) -> list[dict[str, Any]]:
    """Newest first; `before` is the last id of the page already seen."""
    with session() as db:
        query = select(Run).order_by(Run.id.desc()).limit(limit)
        if model is not None:
            query = query.where(Run.model == model)
        if before is not None:
            query = query.where(Run.id < before)
        runs = db.scalars(query).all()
        stages = db.scalars(
            select(Stage).where(Stage.run_id.in_([r.id for r in runs])).order_by(Stage.position)
        ).all()
        by_run: dict[int, list[Stage]] = {}
        for stage in stages:
            by_run.setdefault(stage.run_id, []).append(stage)
        return [as_json(run, by_run.get(run.id, [])) for run in runs]


def estimate(db: Session, model: str) -> dict[str, Any] | None:
    """How long a run will take: medians of the latest that went through all stages. None: none did yet.

    {"seconds": 74.0, "runs": 5, "stages": {"ingest": 0.5, …}}; seconds is the median of whole runs, without the time
    an interrupted one lay still, so it need not be the stages' sum.
    """
    latest = (
        select(Run.id)
        .where(Run.model == model, Run.status.in_(WENT_THROUGH))
        .order_by(Run.id.desc())
        .limit(ESTIMATED_FROM)
    )
    rows = db.execute(
        select(Stage.run_id, Stage.name, func.coalesce(Stage.duration_seconds, 0.0)).where(
            Stage.run_id.in_(latest)
        )
    ).all()
    if not rows:
        return None
    of_run: dict[int, float] = {}
    of_stage: dict[str, list[float]] = {}
    for run_id, stage, seconds in rows:
        of_run[run_id] = of_run.get(run_id, 0.0) + seconds
        of_stage.setdefault(stage, []).append(seconds)
    return {
        "seconds": round(statistics.median(of_run.values()), 1),
        "runs": len(of_run),
        "stages": {
            stage: round(statistics.median(of_stage[stage]), 1) for stage in STAGES if stage in of_stage
        },
    }


def show_run(run_id: int) -> dict[str, Any]:
    with session() as db:
        run = _run(db, run_id)
        stages = db.scalars(select(Stage).where(Stage.run_id == run_id).order_by(Stage.position)).all()
        return as_json(run, list(stages))


def as_json(run: Run, stages: list[Stage]) -> dict[str, Any]:
    return {
        "run_id": run.id,
        "model": run.model,
        "trigger": run.trigger,
        "force": run.force,
        "requested_by": run.requested_by,
        "request_id": run.request_id,
        "status": run.status,
        "message": run.message,
        "new_images": run.new_images,
        "dataset_version": run.dataset_version,
        "version": run.version,
        "verdict": run.verdict,
        "mlflow_run_id": run.mlflow_run_id,
        "mlflow_url": _mlflow_url(run),
        "weights_removed_at": run.weights_removed_at.isoformat() if run.weights_removed_at else None,
        "requested_at": run.requested_at.isoformat(),
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "stages": [
            {
                "name": stage.name,
                "status": stage.status,
                "attempt": stage.attempt,
                "started_at": stage.started_at.isoformat(),
                "finished_at": stage.finished_at.isoformat() if stage.finished_at else None,
                "duration_seconds": stage.duration_seconds,
                "figures": stage.figures,
                "message": stage.message,
            }
            for stage in stages
        ],
    }


def record(
    db: Session,
    run: Run,
    stage: str | None,
    status: str,
    message: str | None = None,
    figures: dict[str, Any] | None = None,
) -> None:
    """Appends a transition; a trigger wakes whoever follows."""
    db.add(
        Transition(
            run_id=run.id, model=run.model, stage=stage, status=status, message=message, figures=figures or {}
        )
    )


def _run(db: Session, run_id: int, *, lock: bool = False) -> Run:
    run = db.get(Run, run_id, with_for_update=lock)
    if run is None:
        raise NotFound(f"there is no run {run_id}; `emend runs` lists them")
    return run


def _mlflow_url(run: Run) -> str | None:
    if run.mlflow_run_id is None:
        return None
    return f"{settings().mlflow_display_url}/#/runs/{run.mlflow_run_id}"


def _list(states: tuple[RunStatus, ...]) -> str:
    return ", ".join(states[:-1]) + f" and {states[-1]}"
