"""Answering, and what was answered: /invocations/, /predict, /predictions."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import anyio
import numpy as np
from fastapi import APIRouter, Depends, File, Form, Query, Request, Response, UploadFile

from api import history, metrics
from api.batching import MOST_BYTES, Answer, answers_of
from api.catalogue import KnownModel
from api.errors import BadAnswer
from api.gateway import CHARACTERS_AT_ONCE, Gateway, decode_base64, gateway, in_thread
from api.history import Recorded
from api.lean import LeanRoute, json_answer
from api.schemas import (
    MOST_IMAGES,
    HistoryPage,
    InvocationRequest,
    ModelName,
    PredictionAnswer,
    PredictionAnswers,
    Text,
    errors,
)
from core.database import Prediction
from core.errors import InvalidImage, InvalidInput, NotFound, TooLarge
from core.images import Decoded, InputSpec, decode_at_once, from_bytes, from_file

router = APIRouter(tags=["predictions"])
lean = APIRouter(tags=["predictions"], route_class=LeanRoute)
The = Annotated[Gateway, Depends(gateway)]
MOST_LISTED = 500


@lean.post("/invocations", include_in_schema=False)
@lean.post(
    "/invocations/",
    summary="What does the model see?",
    response_model=PredictionAnswer | PredictionAnswers,
    responses=errors(400, 404, 409, 413, 502, 503),
)
async def invocations(body: InvocationRequest, request: Request, the: The) -> Response:
    """One image, or several at once. A prediction's id can be used in a correction from now on.

    With `version` that one answers instead of the live one, to compare: it is not recorded and has no id. The first
    such answer takes a moment, since the version is fetched. 409 when it does not pass the model server's checks.
    """
    texts = _texts(body)
    model = await the.model(body.model)
    batcher = the.batcher
    with batcher.admit_replay(model.name) if body.version else batcher.admit(model.name, len(texts)):
        answers = await _answers(the, model, texts, body, the.actors.known_by_now(request))
    return json_answer(answers[0] if body.images is None else {"predictions": answers})


async def _answers(
    the: Gateway, model: KnownModel, texts: Sequence[str], body: InvocationRequest, actor: str | None
) -> list[dict[str, Any]]:
    fields = ["image"] if body.images is None else [f"images.{index}" for index in range(len(texts))]
    if body.version is not None and body.version in model.removed:
        raise NotFound(
            f"version {body.version} of '{model.name}' is gone: retention removed its weights",
            field="version",
        )
    if sum(map(len, texts)) <= CHARACTERS_AT_ONCE:
        data = _bytes_of(texts, fields)
    else:
        data = await in_thread(partial(_bytes_of, texts, fields), the.decoding)
    if decode_at_once(data, model.spec):
        decoded = _decode_all(data, fields, model.spec)
    else:
        decoded = await in_thread(partial(_decode_all, data, fields, model.spec), the.decoding)
    if body.version is not None:
        return await _replay(the, model, decoded, body.version)
    return await _predict(the, model, decoded, draft=body.draft, filename=None, actor=actor)


@router.post(
    "/predict",
    summary="What does the model see in this file?",
    response_model=PredictionAnswer,
    responses=errors(400, 404, 413, 502, 503),
)
async def predict(
    request: Request,
    the: The,
    file: Annotated[UploadFile, File(description="A PNG, JPEG or WebP file.")],
    model: Annotated[ModelName | None, Form()] = None,
) -> Response:
    """Upload one file as `multipart/form-data`; the answer is that of /invocations/."""
    known = await the.model(model)
    with the.batcher.admit(known.name, 1):
        actor = the.actors.known_by_now(request)
        data = await file.read()
        if not data:
            raise InvalidImage("the file is empty; send a PNG, JPEG or WebP image", field="file")
        decoded = await anyio.to_thread.run_sync(
            _decode, from_file, data, known.spec, "file", limiter=the.decoding
        )
        filename = _plain_filename(file.filename)
        answers = await _predict(the, known, [decoded], draft=False, filename=filename, actor=actor)
    return json_answer(answers[0])


@router.get(
    "/predictions",
    summary="What was answered, newest first",
    response_model=HistoryPage,
    responses=errors(400, 503),
)
def predictions(
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 50,
    before: Annotated[UUID | None, Query(description="`next_before` of the page already seen.")] = None,
    model: Annotated[Text | None, Query(max_length=100)] = None,
    label: Annotated[Text | None, Query(max_length=200, description="What was answered.")] = None,
    version: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
    corrected: Annotated[
        bool | None, Query(description="Only those that were (or were not) corrected.")
    ] = None,
) -> dict[str, Any]:
    """Recorded predictions appear within a quarter of a second, and stay for 30 days unless told otherwise."""
    if before is not None and not history.is_id(before):
        raise InvalidInput(
            "before is no prediction's id; take `next_before` of the last page", field="before"
        )
    items = history.page(
        limit=limit, before=before, model=model, label=label, version=version, corrected=corrected
    )
    return {"items": items, "next_before": items[-1]["id"] if len(items) == limit else None}


@router.get(
    "/predictions/{prediction_id}/image",
    summary="The image as the model saw it",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **errors(400, 404, 503)},
)
def prediction_image(prediction_id: UUID, the: The) -> Response:
    buffered = the.history.buffered(prediction_id)
    if buffered is not None:
        return png(buffered.png)
    found = history.find(prediction_id, Prediction.pixels)
    if found is None:
        raise NotFound(f"there is no prediction {prediction_id}, or it is older than the history goes back")
    return png(found.pixels)


def png(data: bytes) -> Response:
    """An id's image never changes; it may be private, so only the browser itself keeps it."""
    return Response(
        data, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"}
    )


def _texts(body: InvocationRequest) -> Sequence[str]:
    if (body.image is None) == (body.images is None):
        raise InvalidInput("send either `image` or `images`", field="image")
    if body.images is None:
        assert body.image is not None
        return [body.image]
    if not body.images:
        raise InvalidInput(f"images is empty; send 1 to {MOST_IMAGES}", field="images")
    if len(body.images) > MOST_IMAGES:
        raise TooLarge(f"{len(body.images)} images at once; send at most {MOST_IMAGES}", field="images")
    return body.images


def _bytes_of(texts: Sequence[str], fields: Sequence[str]) -> list[bytes]:
    return [decode_base64(text, field) for text, field in zip(texts, fields, strict=True)]


def _decode_all(data: Sequence[bytes], fields: Sequence[str], spec: InputSpec) -> list[Decoded]:
    return [_decode(from_bytes, each, spec, field) for each, field in zip(data, fields, strict=True)]


def _decode(read: Callable[[bytes, InputSpec], Decoded], data: bytes, spec: InputSpec, field: str) -> Decoded:
    try:
        return read(data, spec)
    except InvalidImage as exc:
        raise InvalidImage(exc.message, field=field) from exc


async def _predict(
    the: Gateway,
    model: KnownModel,
    decoded: Sequence[Decoded],
    *,
    draft: bool,
    filename: str | None,
    actor: str | None,
) -> list[dict[str, Any]]:
    """All or nothing: one bad answer refuses the request, and nothing of it is recorded."""
    trial = None if draft else model.trial
    answers = await the.trials.answer(trial, model.name, decoded, model.outputs)
    for answer in answers:
        answer.check()
    named = [await _named(the, model.name, answer) for answer in answers]
    for prediction in named:
        _count(prediction, draft=draft)
    if draft:
        return [{"prediction_id": None, **prediction} for prediction in named]
    recorded = [
        Recorded(
            id=history.new_id(),
            image_sha256=image.sha256,
            pixels=image.pixels,
            given_png=image.png,
            filename=filename,
            actor=actor,
            **prediction,
        )
        for prediction, image in zip(named, decoded, strict=True)
    ]
    for each in recorded:
        the.history.record(each)
    return [
        {"prediction_id": str(each.id), **prediction}
        for each, prediction in zip(recorded, named, strict=True)
    ]


async def _replay(
    the: Gateway, model: KnownModel, decoded: Sequence[Decoded], version: int
) -> list[dict[str, Any]]:
    """As `_predict`, but of one version, past the batches of the live one, and kept nowhere."""
    answers: list[Answer] = []
    pixels = [each.pixels for each in decoded]
    at_once = max(1, MOST_BYTES // pixels[0].nbytes)
    for start in range(0, len(pixels), at_once):
        part = await the.model_servers.probabilities(
            model.name, np.stack(pixels[start : start + at_once]), version
        )
        if part.version != version:
            raise BadAnswer(f"the model server was asked for version {version} and says it is {part.version}")
        answers += answers_of(part)
    for answer in answers:
        answer.check()
    return [{"prediction_id": None, **await _named(the, model.name, answer)} for answer in answers]


async def _named(the: Gateway, model: str, answer: Answer) -> dict[str, Any]:
    count = len(answer.probabilities)
    names = the.catalogue.known_outputs(model, answer.version, count)
    if names is None:
        names = await in_thread(partial(the.catalogue.find_outputs, model, answer.version, count))
    figures = answer.probabilities.tolist()
    confidence = max(
        figures
    )  # numpy's argmax lets go of the interpreter, and another thread may keep it for long
    return {
        "model": model,
        "version": answer.version,
        "label": names[figures.index(confidence)],
        "confidence": confidence,
        "probabilities": dict(zip(names, figures, strict=True)),
    }


def _count(prediction: dict[str, Any], *, draft: bool) -> None:
    model = prediction["model"]
    version = metrics.version_label(model, prediction["version"])
    category = metrics.category_label(model, prediction["label"])
    metrics.PREDICTIONS.labels(model, version, category, str(draft).lower()).inc()
    if not draft:
        metrics.CONFIDENCE.labels(model, version).observe(prediction["confidence"])


def _plain_filename(given: str | None) -> str | None:
    """The last part, without what cannot be printed: it is shown on pages and stored in the database."""
    name = (given or "").replace("\\", "/").rpartition("/")[2]
    printable = "".join(c for c in name if unicodedata.category(c)[0] != "C").strip()
    return printable[:200] or None
