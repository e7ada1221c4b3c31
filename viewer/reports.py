"""What a run measured and added, and an image by its hash: /pipeline_runs/{id}/report, …/images, /images."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from core.errors import NotFound
from pipeline import reports
from viewer import schemas
from viewer.schemas import errors

FOR_EVER = "private, max-age=31536000, immutable"  # a hash is always the same pixels
BIGGEST_ID = 2**63 - 1
router = APIRouter()
ModelName = Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


@router.get(
    "/images/{model}/{sha256}",
    tags=["images"],
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **errors(400, 404, 503)},
)
def show_image(
    request: Request, model: ModelName, sha256: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
) -> Response:
    """PNG of what the model sees, wherever it is by now."""
    png = request.app.state.pictures.png(model, sha256)
    if png is None:
        raise NotFound(f"{model} has no image {sha256}")
    return Response(png, media_type="image/png", headers={"Cache-Control": FOR_EVER})


@router.get(
    "/pipeline_runs/{run_id}/images",
    tags=["runs"],
    response_model=schemas.AddedImages,
    responses=errors(400, 404, 503),
)
def added_images(
    run_id: Annotated[int, Path(ge=1, le=BIGGEST_ID)],
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    before: Annotated[
        int | None, Query(ge=0, le=BIGGEST_ID, description="`next_before` of the page already seen.")
    ] = None,
    label: Annotated[str | None, Query(max_length=100, description="Only of this category.")] = None,
    split: Annotated[str | None, Query(max_length=20, description="Only in this split.")] = None,
) -> dict[str, Any]:
    """What its dataset version added, the last row first; nothing when it made none."""
    return reports.added_images(run_id, limit=limit, before=before, label=label, split=split)


@router.get(
    "/pipeline_runs/{run_id}/report",
    tags=["runs"],
    response_model=schemas.Report,
    responses=errors(400, 404, 503),
)
def show_report(run_id: Annotated[int, Path(ge=1, le=BIGGEST_ID)]) -> dict[str, Any]:
    """What it measured, decided, changed and added; what it has not got to is null."""
    return reports.report(run_id)
