"""A model's versions: what each is worth, what was live when, and two of them side by side: /models/{name}/…"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from core.errors import InvalidInput
from pipeline import comparison, versions
from viewer import schemas
from viewer.schemas import errors

MOST_LISTED = 1_000
BIGGEST_VERSION = 2**31 - 1

router = APIRouter(prefix="/models/{name}", tags=["versions"])
ModelName = Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
OfVersion = Annotated[int, Query(ge=1, le=BIGGEST_VERSION)]


@router.get("/versions", response_model=schemas.ModelVersions, responses=errors(400, 404, 503))
def list_versions(
    name: ModelName,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 500,
    before: Annotated[
        int | None, Query(ge=1, le=BIGGEST_VERSION, description="`next_before` of the page already seen.")
    ] = None,
) -> dict[str, Any]:
    """Newest first, each with its figures and when it was live."""
    return versions.list_versions(name, limit=limit, before=before)


@router.get("/live", response_model=schemas.LiveAt, responses=errors(400, 404, 503))
def show_live(
    name: ModelName,
    at: Annotated[
        datetime | None, Query(description="ISO 8601, in UTC unless it says otherwise; now when left out.")
    ] = None,
) -> dict[str, Any]:
    """Which version answered at that moment."""
    moment = at or datetime.now(UTC)
    return versions.live(name, moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


@router.get("/compare", response_model=schemas.Comparison, responses=errors(400, 404, 503))
def compare(name: ModelName, a: OfVersion, b: OfVersion) -> dict[str, Any]:
    """Two versions: on corrections both were judged by and, where both graphs are there still, on the holdout.

    The first question of a pair asks both about the holdout, which takes seconds; the answer is kept.
    """
    if a == b:
        raise InvalidInput(f"a and b are both version {a}; name two different ones", field="b")
    return comparison.compare(name, a, b)
