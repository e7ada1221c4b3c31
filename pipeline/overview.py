"""What `emend status` and `emend corrections` show."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from sqlalchemy import func, make_url, select, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from core import receipts
from core.database import (
    ACTIVE_RUN,
    Correction,
    CorrectionStatus,
    Import,
    ImportStatus,
    Model,
    Outcome,
    Run,
    RunStatus,
    Stage,
    StageStatus,
    Version,
    session,
)
from core.errors import ConfigurationError, InvalidInput, Unavailable
from core.settings import settings


def overview() -> dict[str, Any]:
    """{"services": [{name, url, answers}], "models": [...]}; models is empty while the database is away."""
    chosen = settings()
    asked = [  # name, address to show, what is asked
        ("drawing page", chosen.ui_url, f"{chosen.ui_url}/healthz"),
        ("gateway", chosen.api_url, f"{chosen.api_url}/healthz"),
        ("viewer", chosen.viewer_url, f"{chosen.viewer_url}/healthz"),
        *(("model server", url, f"{url}/ping") for url in chosen.model_server_urls),
        ("MLflow", chosen.mlflow_display_url, f"{chosen.mlflow_tracking_uri}/health"),
        ("orchestrator", chosen.orchestrator_url, f"{chosen.orchestrator_url}/metrics"),
    ]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(_answers, [asks for _, _, asks in asked]))
    services = [
        {"name": name, "url": url, "answers": ok} for (name, url, _), ok in zip(asked, answers, strict=True)
    ]
    try:
        with session() as db:
            db.execute(text("select 1"))
            models = [_model(db, model) for model in db.scalars(select(Model).order_by(Model.created_at))]
        database = True
    except (Unavailable, ConfigurationError):
        models, database = [], False
    services.append({"name": "PostgreSQL", "url": _database_address(), "answers": database})
    return {"services": services, "models": models}


def corrections(model: str | None, status: str | None, limit: int) -> list[dict[str, Any]]:
    """Newest first, each with what the live version says of it (null: not asked yet)."""
    if status is not None and status not in list(CorrectionStatus):
        raise InvalidInput(f"{status!r} is no status; the statuses are: {', '.join(CorrectionStatus)}")
    chosen = CorrectionStatus(status) if status is not None else None
    listed = receipts.list_corrections(limit=limit, model=model, status=chosen)
    with session() as db:
        live = {name: receipts.champion_version(db, name) for name in {c["model"] for c in listed}}
        outcomes = {
            (str(o.correction_id), o.version): o.correct
            for o in db.scalars(
                select(Outcome).where(Outcome.correction_id.in_([c["correction_id"] for c in listed]))
            )
        }
    return [c | {"live_correct": outcomes.get((c["correction_id"], live[c["model"]] or 0))} for c in listed]


def interrupted_runs() -> list[dict[str, Any]]:
    """[{run_id, model}]: those that `emend resume` goes on with, because no newer run came after them."""
    with session() as db:
        latest = select(func.max(Run.id)).group_by(Run.model)
        found = db.scalars(
            select(Run).where(Run.id.in_(latest), Run.status == RunStatus.interrupted).order_by(Run.id)
        )
        return [{"run_id": run.id, "model": run.model} for run in found]


def _model(db: Session, model: Model) -> dict[str, Any]:
    champion = receipts.champion_version(db, model.name)
    version = db.get(Version, (model.name, champion)) if champion is not None else None
    return {
        "name": model.name,
        "champion": champion,
        "dataset_version": version.dataset_version if version is not None else None,
        "holdout_accuracy": version.figures.get("holdout_accuracy") if version is not None else None,
        "waiting_corrections": db.scalar(
            select(func.count()).where(
                Correction.model == model.name, Correction.status == CorrectionStatus.accepted
            )
        ),
        "waiting_imports": db.scalar(
            select(func.count()).where(Import.model == model.name, Import.status == ImportStatus.staged)
        ),
        "quarantined": receipts.set_aside(db, model.name),
        "active_run": _active_run(db, model.name),
        "promotion_paused": model.promotion_paused_at is not None,
    }


def _active_run(db: Session, model: str) -> dict[str, Any] | None:
    """{run_id, status, stage}; stage: the one it is at."""
    run = db.scalar(select(Run).where(Run.model == model, Run.status.in_(ACTIVE_RUN)))
    if run is None:
        return None
    at = select(Stage.name).where(Stage.run_id == run.id, Stage.status == StageStatus.running)
    return {"run_id": run.id, "status": run.status, "stage": db.scalar(at.limit(1))}


def _database_address() -> str:
    """Without password; of the embedded server its socket's folder, or where it lies while it does not run."""
    chosen = settings()
    try:
        url = make_url(chosen.database_url)
    except ArgumentError:
        return "DATABASE_URL, which is no database address"
    except ConfigurationError:
        return f"{chosen.data_dir.resolve() / 'postgres'} (embedded)"
    if chosen.database_url_setting is None:
        return f"{url.query['host']} (embedded)"
    return url.render_as_string(hide_password=True)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=3).is_success
    except httpx.HTTPError:
        return False
