"""Runs of the pipeline, asked for and looked at: /pipeline_runs. The orchestrator does the work."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request

from api.gateway import Gateway, gateway
from api.models import requester
from api.schemas import RunAccepted, RunAnswer, RunRequest, RunsPage, Text, errors
from core import telemetry
from core.settings import settings
from pipeline import runs

router = APIRouter(tags=["runs"])
The = Annotated[Gateway, Depends(gateway)]
RunId = Annotated[int, Path(ge=1, lt=2**63)]
MOST_LISTED = 500

log = telemetry.get_logger("runs")


@router.post(
    "/pipeline_runs",
    summary="Ask for a run",
    status_code=202,
    response_model=RunAccepted,
    responses=errors(400, 404, 409, 503),
)
def request_run(request: Request, the: The, body: RunRequest | None = None) -> dict[str, Any]:
    """202 with its id; 409 with the id of the run that is active already."""
    wanted = body or RunRequest()
    model = the.catalogue.find(wanted.model or settings().default_model)
    run_id = runs.request_run(model.name, requested_by=requester(request, the), force=wanted.force)
    log.info("run asked for", run_id=run_id, model=model.name)
    return {"run_id": run_id}


@router.get(
    "/pipeline_runs", summary="Runs, newest first", response_model=RunsPage, responses=errors(400, 503)
)
def list_runs(
    model: Annotated[Text | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 50,
    before: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
) -> dict[str, Any]:
    found = runs.list_runs(model, limit=limit, before=before)
    return {"runs": found, "next_before": found[-1]["run_id"] if len(found) == limit else None}


@router.get(
    "/pipeline_runs/{run_id}",
    summary="One run: stages, durations, figures, verdict",
    response_model=RunAnswer,
    responses=errors(400, 404, 503),
)
def show_run(run_id: RunId) -> dict[str, Any]:
    return runs.show_run(run_id)


@router.post(
    "/pipeline_runs/{run_id}/resume",
    summary="Go on from the first stage not finished",
    status_code=202,
    response_model=RunAccepted,
    responses=errors(400, 404, 409, 503),
)
def resume_run(run_id: RunId, request: Request, the: The) -> dict[str, Any]:
    """For a run that failed, was interrupted or cancelled, while no later one came."""
    runs.request_resume(run_id, requested_by=requester(request, the))
    return {"run_id": run_id}


@router.post(
    "/pipeline_runs/{run_id}/cancel",
    summary="End a run",
    status_code=202,
    response_model=RunAccepted,
    responses=errors(400, 404, 409, 503),
)
def cancel_run(run_id: RunId, request: Request, the: The) -> dict[str, Any]:
    """A queued run ends at once; a running one when its stage has been ended."""
    runs.request_cancel(run_id, requested_by=requester(request, the))
    return {"run_id": run_id}
