"""Links that give one file of the object store to whoever has them, for a while: a version's graph, a run's report."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path

from api.runs import RunId
from api.schemas import LinkAnswer, Text, errors
from core import objects
from core.database import Run, Version, session
from core.errors import NotFound
from core.registry import Registry
from core.settings import settings

router = APIRouter(tags=["links"])
LINK_SECONDS = 900

VersionNumber = Annotated[int, Path(ge=1, lt=2**31)]


@router.get(
    "/models/{name}/versions/{version}/link",
    summary="A link to a version's ONNX file",
    response_model=LinkAnswer,
    responses=errors(400, 404, 503),
)
def version_link(name: Annotated[Text, Path(max_length=100)], version: VersionNumber) -> dict[str, Any]:
    """The graph takes uint8 pixels and normalises them itself. 404 without an object store (STORAGE_URL)."""
    store = _store()
    with session() as db:
        if db.get(Version, (name, version)) is None:
            raise NotFound(f"{name} has no version {version}", field="version")
    with Registry(settings().mlflow_tracking_uri) as registry:
        folder = registry.artifact_path(name, version)
    return _link(store, f"mlflow/artifacts/{folder}/model.onnx", f"{name}-{version}.onnx")


@router.get(
    "/pipeline_runs/{run_id}/report/link",
    summary="A link to a run's report",
    response_model=LinkAnswer,
    responses=errors(400, 404, 503),
)
def report_link(run_id: RunId) -> dict[str, Any]:
    """What `evaluate` found, as JSON: verdict, figures, what became of each correction."""
    store = _store()
    with session() as db:
        run = db.get(Run, run_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    return _link(store, f"{run.model}/runs/{run_id}/evaluate.json", f"{run.model}-run-{run_id}.json")


def _store() -> objects.Objects:
    store = objects.store()
    if store is None:
        raise NotFound("there are links only where there is an object store; set STORAGE_URL")
    return store


def _link(store: objects.Objects, name: str, file_name: str) -> dict[str, Any]:
    if store.etag(name) is None:
        raise NotFound(f"{file_name} is not in the object store: not made yet, or removed by retention")
    return {
        "url": store.link(name, file_name, LINK_SECONDS),
        "file_name": file_name,
        "expires_at": datetime.now(UTC) + timedelta(seconds=LINK_SECONDS),
    }
