"""Corrections and their receipts: /save-image/, /corrections."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import anyio
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from api import history, inbox, metrics, review
from api.errors import NotYours
from api.gateway import CHARACTERS_AT_ONCE, Gateway, decode_base64, gateway, in_thread
from api.history import Recorded
from api.inbox import Kept, Predicted, Statement
from api.predictions import png
from api.review import Decision, Reviewer
from api.schemas import (
    CorrectionAnswer,
    CorrectionsPage,
    Label,
    ReceiptAnswer,
    ReviewAnswer,
    ReviewDecision,
    ReviewRequest,
    SaveImageRequest,
    Text,
    errors,
)
from core import receipts, telemetry, withdrawal
from core.database import Correction, CorrectionStatus, Review, session
from core.errors import InvalidInput, NotFound
from core.images import from_bytes
from core.labels import key_of
from core.settings import settings

router = APIRouter(tags=["corrections"])
The = Annotated[Gateway, Depends(gateway)]
MOST_LISTED = 500

log = telemetry.get_logger("corrections")


@router.post("/save-image", include_in_schema=False, status_code=201)
@router.post(
    "/save-image/",
    summary="Say what an image really is",
    status_code=201,
    response_model=CorrectionAnswer,
    responses=errors(400, 404, 409, 413, 422, 429, 503, 507),
)
async def save_image(
    body: SaveImageRequest,
    request: Request,
    the: The,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=200,
            pattern=r"^[\x21-\x7e]+$",
            description="Your own id of this correction: sent again it gives the first answer again.",
        ),
    ] = None,
    emend_actor: Annotated[
        str | None, Header(description="Who says it; else a cookie does.")
    ] = None,  # for /docs
) -> Response:
    """Answered only when the image is on disk and its row committed.

    A label may be new: its category stays pending until it has enough images. Sent again with the same
    `Idempotency-Key`, or without one while the same actor's same image and label still wait, it gives the first
    answer again with the header `Idempotent-Replay: true`.
    """
    _check_prediction_id(body.prediction_id)
    model = await the.model(body.model)
    known_actor = the.actors.known(request)
    decode = partial(decode_base64, body.image, "image")
    data = decode() if len(body.image) <= CHARACTERS_AT_ONCE else await in_thread(decode, the.decoding)
    decoded = await anyio.to_thread.run_sync(from_bytes, data, model.spec, limiter=the.decoding)
    cookie = Response()  # carries the cookie of somebody new until there is an answer
    statement = Statement(
        model=model.name,
        image=decoded,
        label=body.label,
        actor=known_actor or the.actors.introduce(cookie, idempotency_key),
        source=body.source,
        prediction_id=body.prediction_id,
        idempotency_key=idempotency_key,
        request_sha256=inbox.digest(model.name, data, body.label, body.prediction_id, body.source),
    )
    # Before the database is asked: what leaves the buffer is written by then.
    buffered = None if body.prediction_id is None else the.history.buffered(body.prediction_id)
    kept = await anyio.to_thread.run_sync(inbox.keep, statement, settings().data_dir)
    telemetry.bind(correction_id=str(kept.correction.id))
    response = JSONResponse(_answer(kept.correction), status_code=201)
    if "set-cookie" in cookie.headers:
        response.headers["Set-Cookie"] = cookie.headers["set-cookie"]
    if kept.replayed:
        response.headers["Idempotent-Replay"] = "true"
    else:
        log.info("correction kept", model=model.name)
        _count(kept, buffered)
    return response


@router.get(
    "/corrections",
    summary="What people said, newest first",
    response_model=CorrectionsPage,
    responses=errors(400, 503),
)
def corrections(
    request: Request,
    the: The,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 50,
    before: Annotated[UUID | None, Query(description="`next_before` of the page already seen.")] = None,
    model: Annotated[Text | None, Query(max_length=100)] = None,
    status: Annotated[CorrectionStatus | None, Query()] = None,
    source: Annotated[
        list[Literal["correction", "sample", "review"]] | None, Query(description="Once or more often.")
    ] = None,
    reason: Annotated[Text | None, Query(max_length=500, description="How the reason begins.")] = None,
    label: Annotated[Label | None, Query(max_length=200, description="What was said.")] = None,
    reviewed: Annotated[
        bool | None, Query(description="True: a reviewer decided of them, the newest decision first.")
    ] = None,
    mine: Annotated[bool, Query(description="Only those of the actor who asks.")] = False,
) -> dict[str, Any]:
    actor = the.actors.known(request) if mine else None
    if mine and actor is None:
        return {"items": [], "next_before": None}
    items = receipts.list_corrections(
        limit=limit,
        before=before,
        model=model,
        status=status,
        actor=actor,
        sources=source,
        reason=reason,
        label=label,
        reviewed=reviewed,
    )
    return {"items": items, "next_before": items[-1]["correction_id"] if len(items) == limit else None}


@router.get(
    "/corrections/{correction_id}",
    summary="What became of a correction",
    response_model=ReceiptAnswer,
    responses=errors(400, 404, 503),
)
def correction(correction_id: UUID, the: The) -> dict[str, Any]:
    """The receipt: from "received" down to "Now right: version 7 was trained on it"."""
    found = receipts.receipt(correction_id)
    if found["prediction"] is None and found["prediction_id"] is not None:
        waiting = the.history.buffered(UUID(found["prediction_id"]))
        if waiting is None:  # it never was, or has been written meanwhile
            return receipts.receipt(correction_id)
        found["prediction"] = {"id": waiting.id, "label": waiting.label, "version": waiting.version}
    return found


@router.post(
    "/corrections/review",
    summary="Decide of corrections that were set aside, or that wait",
    response_model=ReviewAnswer,
    responses=errors(400, 404, 409, 413, 503, 507),
)
def review_corrections(body: ReviewRequest, request: Request, response: Response, the: The) -> dict[str, Any]:
    """All decisions or none. One that was set aside can be accepted, relabelled or rejected; one that waits,
    relabelled or rejected. What is let in is a new correction that stands over everybody's labels of the image.
    """
    decisions = [_decision(number, each) for number, each in enumerate(body.decisions)]
    if len({each.correction_id for each in decisions}) < len(decisions):
        raise InvalidInput("a correction is decided twice; send each once", field="decisions")
    actor = the.actors.known(request) or the.actors.introduce(response, None)
    results = review.decide(decisions, Reviewer(actor, f"actor {actor[:12]}"), settings().data_dir)
    log.info("corrections reviewed", count=len(results), reviewer=actor[:12])
    return {"results": results}


@router.post(
    "/corrections/{correction_id}/withdraw",
    summary="Take a correction back",
    response_model=ReceiptAnswer,
    responses=errors(400, 403, 404, 503, 507),
)
def withdraw(correction_id: UUID, request: Request, the: The) -> dict[str, Any]:
    """One that waits is out at once; one that is in a dataset leaves with the next run, which trains without it.

    Only who made it may, which the header `Emend-Actor` or the cookie says; a sample, anybody. Taking the same one back
    again changes nothing.
    """
    with session() as db:
        found = receipts.known_correction(db, correction_id)
        if found.source != withdrawal.SAMPLE and found.actor != the.actors.known(request):
            raise NotYours(f"correction {correction_id} is somebody else's; only who made it takes it back")
        withdrawal.withdraw(db, [correction_id], settings().data_dir)
    return receipts.receipt(correction_id)


@router.get(
    "/corrections/{correction_id}/image",
    summary="The corrected image as the model sees it",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **errors(400, 404, 503)},
)
def correction_image(correction_id: UUID) -> Response:
    with session() as db:
        found = receipts.known_correction(db, correction_id)
    data = inbox.stored_image(found, settings().data_dir)
    if data is None:
        raise NotFound(
            f"the image of correction {correction_id} is not on this machine; see its dataset version"
        )
    return png(data)


def _check_prediction_id(given: UUID | None) -> None:
    """One of another kind may be a stranger's own and stays unlinked; a UUIDv7 without a moment was made up."""
    if given is not None and given.version == 7 and not history.is_id(given):
        raise InvalidInput(
            "prediction_id is a UUIDv7 past the year 9999; send the one of the answer, or none",
            field="prediction_id",
        )


def _decision(number: int, given: ReviewDecision) -> Decision:
    action = Review(given.action)
    if (action is Review.relabel) != (given.label is not None):
        raise InvalidInput(
            "relabel needs a label, and nothing else takes one", field=f"decisions.{number}.label"
        )
    return Decision(given.correction_id, action, given.label)


def _answer(correction: Correction) -> dict[str, Any]:
    """The same whenever it is asked for again: what became of it since is for the receipt to tell."""
    return {
        "correction_id": str(correction.id),
        "image_sha256": correction.image_sha256,
        "label": correction.label,
        "status": CorrectionStatus.accepted,
        "receipt": f"/corrections/{correction.id}",
    }


def _count(kept: Kept, buffered: Recorded | None) -> None:
    """Does it agree with the prediction it speaks of, written or still in the buffer? And whose was that?"""
    model = kept.correction.model
    predicted = kept.predicted
    if predicted is None and buffered is not None and buffered.model == model:
        predicted = Predicted(buffered.label, buffered.version)
    if predicted is None:
        version, agreement = "unknown", "unknown"
    else:
        version = metrics.version_label(model, predicted.version)
        agreement = "agrees" if key_of(predicted.label) == kept.category.key else "disagrees"
    category = metrics.category_label(model, kept.category.name)
    metrics.CORRECTIONS.labels(model, version, category, agreement).inc()
