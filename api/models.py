"""The models: what they see, what they know, which version is live: /models."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.catalogue import holdout_accuracy
from api.errors import UnknownModel
from api.gateway import Gateway, gateway
from api.schemas import (
    ModelAnswer,
    ModelsAnswer,
    PromoteAnswer,
    PromoteRequest,
    PromotionsAnswer,
    RollbackAnswer,
    RollbackRequest,
    Text,
    TrialAnswer,
    TrialRequest,
    TrialsAnswer,
    WithdrawnAnswer,
    errors,
)
from core import receipts, withdrawal
from core.database import (
    ACTIVE_RUN,
    Category,
    Correction,
    Model,
    Prediction,
    Run,
    TrialKind,
    Version,
    session,
)
from core.settings import settings
from pipeline import runs

router = APIRouter(tags=["models"])
The = Annotated[Gateway, Depends(gateway)]
Name = Annotated[Text, Path(max_length=100)]


@router.get("/models", summary="Every model", response_model=ModelsAnswer, responses=errors(400, 503))
def models() -> dict[str, Any]:
    with session() as db:
        return {"models": [_as_json(db, model) for model in db.scalars(select(Model).order_by(Model.name))]}


@router.get(
    "/models/{name}",
    summary="Categories, input, champion, counts",
    response_model=ModelAnswer,
    responses=errors(400, 404, 503),
)
def model(name: Name) -> dict[str, Any]:
    with session() as db:
        return _as_json(db, _existing(db, name))


@router.post(
    "/models/{name}/rollback",
    summary="Put the previous version back",
    response_model=RollbackAnswer,
    responses=errors(400, 404, 409, 503),
)
def rollback(name: Name, request: Request, the: The, body: RollbackRequest | None = None) -> dict[str, Any]:
    """Ends a shadow or canary while one is under way. Else the version before is live again, and automatic promotion of
    this model pauses until somebody resumes it. The ledger keeps the reason.
    """
    with session() as db:
        _existing(db, name)
    asked = body or RollbackRequest()
    return runs.rollback(name, actor=requester(request, the), reason=asked.reason, version=asked.version)


@router.post(
    "/models/{name}/promote",
    summary="Put a version live by hand",
    response_model=PromoteAnswer,
    responses=errors(400, 404, 409, 503),
)
def promote(name: Name, body: PromoteRequest, request: Request, the: The) -> dict[str, Any]:
    """Any version that is still there, whatever the gate said of it. The ledger keeps who and why.

    Automatic promotion does not pause. 404 when retention has removed the version, 409 when it is live already.
    """
    with session() as db:
        _existing(db, name)
    return runs.promote(name, body.version, actor=requester(request, the), reason=body.reason)


@router.post(
    "/models/{name}/shadow",
    summary="Ask a version about copies of images",
    response_model=TrialAnswer,
    responses=errors(400, 404, 409, 503),
)
def shadow(name: Name, body: TrialRequest, request: Request, the: The) -> dict[str, Any]:
    """Nobody sees its answers; they are compared with the live version's. Ended by a rollback or a promotion."""
    return _start_trial(name, body, TrialKind.shadow, requester(request, the))


@router.post(
    "/models/{name}/canary",
    summary="Let a version answer a share of the images",
    response_model=TrialAnswer,
    responses=errors(400, 404, 409, 503),
)
def canary(name: Name, body: TrialRequest, request: Request, the: The) -> dict[str, Any]:
    """The live version is asked about the same images, behind the answers. The canary goes back by itself when it fails
    far more often or is far slower than the live one; else it is ended by a rollback or a promotion.
    """
    return _start_trial(name, body, TrialKind.canary, requester(request, the))


@router.get(
    "/models/{name}/trials",
    summary="Shadows and canaries, newest first, with what was counted",
    response_model=TrialsAnswer,
    responses=errors(400, 404, 503),
)
def list_trials(name: Name) -> dict[str, Any]:
    with session() as db:
        _existing(db, name)
    return {"trials": runs.list_trials(name)}


def _start_trial(name: str, body: TrialRequest, kind: TrialKind, actor: str) -> dict[str, Any]:
    with session() as db:
        _existing(db, name)
    return runs.start_trial(
        name, body.version, kind=kind, percent=body.percent, actor=actor, reason=body.reason
    )


@router.post(
    "/models/{name}/promotion/resume",
    summary="Let runs promote again after a rollback",
    response_model=ModelAnswer,
    responses=errors(400, 404, 503),
)
def resume_promotion(name: Name, request: Request, the: The) -> dict[str, Any]:
    with session() as db:
        _existing(db, name)
    runs.resume_promotion(name, actor=requester(request, the))
    with session() as db:
        return _as_json(db, _existing(db, name))


@router.post(
    "/models/{name}/samples/withdraw",
    summary="Take all sample corrections back",
    response_model=WithdrawnAnswer,
    responses=errors(400, 404, 503, 507),
)
def withdraw_samples(name: Name) -> dict[str, Any]:
    """What waits is out at once; what is in the dataset leaves with the next run, which trains without it."""
    with session() as db:
        _existing(db, name)
        done = withdrawal.withdraw_samples(db, name, settings().data_dir)
    return {"withdrawn": done.at_once, "by_the_next_run": done.by_the_next_run}


@router.get(
    "/models/{name}/promotions",
    summary="The ledger: which version went live when, by whom, why",
    response_model=PromotionsAnswer,
    responses=errors(400, 404, 503),
)
def promotions(name: Name, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> dict[str, Any]:
    with session() as db:
        _existing(db, name)
    return {"promotions": runs.ledger(name, limit)}


def requester(request: Request, the: Gateway) -> str:
    """Who asked, for the ledger and the list of runs: never a name, since actors are stored hashed."""
    actor = the.actors.known(request)
    return "somebody over HTTP" if actor is None else f"actor {actor[:12]}"


def _existing(db: Session, name: str) -> Model:
    found = db.get(Model, name)
    if found is None:
        known = ", ".join(db.scalars(select(Model.name).order_by(Model.name))) or "none yet"
        raise UnknownModel(f"there is no model {name!r}; the known ones: {known}", field="name")
    return found


def _as_json(db: Session, model: Model) -> dict[str, Any]:
    waiting = receipts.waiting(db, model)
    categories = db.scalars(select(Category).where(Category.model == model.name).order_by(Category.id))
    given = model.params["input"]
    return {
        "name": model.name,
        "input": {
            "mode": given["mode"],
            "width": given["width"],
            "height": given["height"],
            "drawing": bool(given.get("drawing", False)),
        },
        "champion": _champion(db, model.name),
        "promotion_paused": model.promotion_paused_at is not None,
        "promotion_paused_at": model.promotion_paused_at,
        "waiting": waiting,
        "run_estimate": runs.estimate(db, model.name),
        "corrections_waiting": waiting["corrections"],
        "corrections_needed": waiting["missing_for_a_run"],
        "corrections": db.scalar(select(func.count()).where(Correction.model == model.name)),
        "predictions_24h": _recent_predictions(db, model.name),
        "active_run": db.scalar(
            select(Run.id).where(Run.model == model.name, Run.status.in_(ACTIVE_RUN)).limit(1)
        ),
        "categories": [
            {
                "id": category.id,
                "name": category.name,
                "aliases": category.aliases,
                "state": category.state,
                "images": category.images,
                "train_images": category.train_images,
                "missing": receipts.missing_images(category, model),
            }
            for category in categories
        ],
    }


def _champion(db: Session, name: str) -> dict[str, Any] | None:
    number = receipts.champion_version(db, name)
    if number is None:
        return None
    version = db.get(Version, (name, number))
    return {
        "version": number,
        "dataset_version": None if version is None else version.dataset_version,
        "holdout_accuracy": None if version is None else holdout_accuracy(version.figures),
        "category_ids": [] if version is None else sorted(version.category_ids),
        "run_id": None if version is None else version.run_id,
    }


def _recent_predictions(db: Session, name: str) -> int:
    """Of the last 24 hours: two partitions at most, however long the history is."""
    since = datetime.now(UTC) - timedelta(days=1)
    counted = select(func.count()).where(Prediction.model == name, Prediction.created_at >= since)
    return db.scalar(counted) or 0
