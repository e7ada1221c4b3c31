"""The JSON that goes in and out, with the examples that /docs shows.

Unknown fields are refused by name: a misspelt `prediction_id` would otherwise be lost without a word.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from core.labels import normalise

MOST_IMAGES = 64
_EXAMPLE_IMAGE = "<base64 of 784 raw bytes, or of a PNG, JPEG or WebP file>"
_PREDICTION_ID = "019a1c7e-5f0a-7c3e-8b1d-2f6a9c4e7d10"
_CORRECTION_ID = "019a1c7e-9d21-7a54-9c0e-5b8f1e2d3c4a"
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def _storable(text: str) -> str:
    """JSON can spell what neither PostgreSQL nor UTF-8 can: U+0000, and halves of surrogate pairs."""
    if "\0" in text or (not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)):
        raise ValueError("has characters that are no text (U+0000 or a lone surrogate)")
    return text


def _label(value: Any) -> Any:
    """As every bad label: InvalidLabel, which passes through pydantic because it is no ValueError."""
    return normalise(value) if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(_storable)]
Label = Annotated[str, BeforeValidator(_label)]
ModelName = Annotated[Text, Field(max_length=100, description="The default model when left out.")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _example(value: dict[str, Any]) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [value]})


class InvocationRequest(_Request):
    model_config = _example({"image": _EXAMPLE_IMAGE, "model": "doodles"})

    image: str | None = Field(None, description="Base64 of raw pixels or of an image file.")
    images: list[str] | None = Field(
        None, description=f"Or several of them, at most {MOST_IMAGES}; the answer then has `predictions`."
    )
    model: ModelName | None = None
    draft: bool = Field(
        False, description="While somebody still draws: counted, not recorded, and has no id."
    )
    version: int | None = Field(
        None, ge=1, lt=2**31, description="This one answers instead of the live one; not recorded, has no id."
    )


class PredictionAnswer(_Answer):
    model_config = _example(
        {
            "prediction_id": _PREDICTION_ID,
            "model": "doodles",
            "version": 3,
            "label": "cat",
            "confidence": 0.91,
            "probabilities": {"cat": 0.91, "dog": 0.09},
        }
    )

    prediction_id: UUID | None = Field(
        description="UUIDv7; null for a draft, and when a version was asked for."
    )
    model: str
    version: int | None = Field(description="Null when a stock model server answers, which does not say.")
    label: str
    confidence: float
    probabilities: dict[str, float]


class PredictionAnswers(_Answer):
    predictions: list[PredictionAnswer]


class SaveImageRequest(_Request):
    model_config = _example({"image": _EXAMPLE_IMAGE, "label": "cat", "prediction_id": _PREDICTION_ID})

    image: str = Field(description="Base64 of raw pixels or of an image file.")
    label: Label = Field(description="What the image really shows; may be new.")
    prediction_id: UUID | None = Field(None, description="The prediction this speaks of, if any.")
    model: ModelName | None = None
    source: Literal["correction", "sample"] = Field(
        "correction",
        description="`sample` for an example drawing that ships with the page: it never enters the holdout.",
    )


class CorrectionAnswer(_Answer):
    model_config = _example(
        {
            "correction_id": _CORRECTION_ID,
            "image_sha256": _SHA256,
            "label": "cat",
            "status": "accepted",
            "receipt": f"/corrections/{_CORRECTION_ID}",
        }
    )

    correction_id: UUID
    image_sha256: str
    label: str
    status: str
    receipt: str


class HistoryItem(_Answer):
    id: UUID
    filename: str | None
    prediction: str
    confidence: float
    timestamp: datetime
    version: int | None
    model: str
    image_sha256: str
    corrected: str | None = Field(description="What somebody said it really is; the latest word.")
    image: str


class HistoryPage(_Answer):
    model_config = _example(
        {
            "items": [
                {
                    "id": _PREDICTION_ID,
                    "filename": "whiskers.png",
                    "prediction": "dog",
                    "confidence": 0.52,
                    "timestamp": "2026-11-21T09:30:12.345+00:00",
                    "version": 3,
                    "model": "doodles",
                    "image_sha256": _SHA256,
                    "corrected": "cat",
                    "image": f"/predictions/{_PREDICTION_ID}/image",
                }
            ],
            "next_before": None,
        }
    )

    items: list[HistoryItem]
    next_before: str | None = Field(description="`before` of the next page; null on the last.")


class ReceiptCategory(_Answer):
    id: int
    name: str
    state: str
    train_images: int
    missing: int = Field(description="Training images a pending category still needs.")


class ReceiptOutcome(_Answer):
    version: int
    label: str
    correct: bool


class ReceiptPrediction(_Answer):
    id: UUID
    label: str
    version: int | None


class _CorrectionFields(_Answer):
    correction_id: UUID
    model: str
    image_sha256: str
    label: str
    source: str
    status: str
    reason: str | None
    dataset_version: int | None
    prediction_id: UUID | None
    received_at: datetime
    withdrawn_at: datetime | None = Field(description="When it was taken back.")
    reviewed_at: datetime | None
    reviewed_by: str | None = Field(
        description="Who decided of it, after it was set aside or while it waited."
    )
    review: Literal["accept", "relabel", "reject"] | None
    receipt: str
    image: str


class ReceiptAnswer(_CorrectionFields):
    model_config = _example(
        {
            "correction_id": _CORRECTION_ID,
            "model": "doodles",
            "image_sha256": _SHA256,
            "label": "cat",
            "source": "correction",
            "status": "merged",
            "reason": None,
            "sentence": "Now right: version 4 was trained on it and gets it right.",
            "received_at": "2026-11-21T09:30:14.120+00:00",
            "withdrawn_at": None,
            "reviewed_at": None,
            "reviewed_by": None,
            "review": None,
            "category": {"id": 4, "name": "cat", "state": "active", "train_images": 2411, "missing": 0},
            "dataset_version": 3,
            "split": "learned",
            "trained_versions": [4],
            "live": {"version": 4, "label": "cat", "correct": True},
            "history": [
                {"version": 3, "label": "dog", "correct": False},
                {"version": 4, "label": "cat", "correct": True},
            ],
            "prediction": {"id": _PREDICTION_ID, "label": "dog", "version": 3},
            "waiting": None,
            "prediction_id": _PREDICTION_ID,
            "receipt": f"/corrections/{_CORRECTION_ID}",
            "image": f"/corrections/{_CORRECTION_ID}/image",
        }
    )

    sentence: str = Field(description="What became of it, in plain English.")
    category: ReceiptCategory
    split: Literal["learned", "exam question"] | None
    trained_versions: list[int]
    live: ReceiptOutcome | None
    history: list[ReceiptOutcome]
    prediction: ReceiptPrediction | None
    waiting: dict[str, int | None] | None = Field(
        description="While it waits: how many corrections wait, and how many a run still needs."
    )


class CorrectionItem(_CorrectionFields):
    model_config = _example(
        {
            "correction_id": _CORRECTION_ID,
            "model": "doodles",
            "image_sha256": _SHA256,
            "label": "cat",
            "source": "correction",
            "status": "accepted",
            "reason": None,
            "dataset_version": None,
            "prediction_id": _PREDICTION_ID,
            "received_at": "2026-11-21T09:30:14.120+00:00",
            "withdrawn_at": None,
            "reviewed_at": None,
            "reviewed_by": None,
            "review": None,
            "reviewed_as": None,
            "live": None,
            "receipt": f"/corrections/{_CORRECTION_ID}",
            "image": f"/corrections/{_CORRECTION_ID}/image",
        }
    )

    reviewed_as: str | None = Field(description="The label with which a reviewer let it in.")
    live: ReceiptOutcome | None = Field(
        description="What the live version says of it; null: it was not asked."
    )


class CorrectionsPage(_Answer):
    items: list[CorrectionItem]
    next_before: str | None


MOST_DECISIONS = 500


class ReviewDecision(_Request):
    correction_id: UUID
    action: Literal["accept", "relabel", "reject"] = Field(
        description="accept: its label stands; relabel: `label` is right; reject: it stays out for good."
    )
    label: Label | None = Field(None, description="Of relabel alone; may be new.")


class ReviewRequest(_Request):
    model_config = _example(
        {"decisions": [{"correction_id": _CORRECTION_ID, "action": "relabel", "label": "dog"}]}
    )

    decisions: list[ReviewDecision] = Field(min_length=1, max_length=MOST_DECISIONS)


class ReviewResult(_Answer):
    correction_id: UUID
    status: str
    reason: str | None
    new_correction_id: UUID | None = Field(description="What was let in; null when it was rejected.")


class ReviewAnswer(_Answer):
    model_config = _example(
        {
            "results": [
                {
                    "correction_id": _CORRECTION_ID,
                    "status": "quarantined",
                    "reason": "conflict: another correction gave this image another label",
                    "new_correction_id": "019a1c7f-1b2c-7d3e-8f40-5a6b7c8d9e0f",
                }
            ]
        }
    )

    results: list[ReviewResult]


class InputAnswer(_Answer):
    mode: Literal["L", "RGB"]
    width: int
    height: int
    drawing: bool


class CategoryAnswer(_Answer):
    id: int
    name: str
    aliases: list[str]
    state: str
    images: int
    train_images: int
    missing: int


class ChampionAnswer(_Answer):
    version: int
    dataset_version: int | None
    holdout_accuracy: float | None
    run_id: int | None
    category_ids: list[int] = Field(
        description="What it can answer; other categories are taught, and not in it yet."
    )


class WaitingAnswer(_Answer):
    corrections: int
    withdrawals: int = Field(description="How many the next run takes out again; one is enough for a run.")
    missing_for_a_run: int = Field(description="How many more a run needs to start without force.")
    missing_for_the_trigger: int | None = Field(description="Null: no number of corrections starts a run.")


class RunEstimate(_Answer):
    seconds: float = Field(description="Median of the latest runs that went through all stages.")
    runs: int = Field(description="From how many, at most 10.")
    stages: dict[str, float] = Field(description="Median of each stage, in seconds.")


class ModelAnswer(_Answer):
    model_config = _example(
        {
            "name": "doodles",
            "input": {"mode": "L", "width": 28, "height": 28, "drawing": True},
            "champion": {
                "version": 3,
                "dataset_version": 3,
                "holdout_accuracy": 0.92,
                "run_id": 7,
                "category_ids": [0, 1, 2],
            },
            "promotion_paused": False,
            "promotion_paused_at": None,
            "waiting": {
                "corrections": 4,
                "withdrawals": 0,
                "missing_for_a_run": 6,
                "missing_for_the_trigger": None,
            },
            "run_estimate": {"seconds": 74.0, "runs": 5, "stages": {"ingest": 0.5, "train": 41.2}},
            "corrections_waiting": 4,
            "corrections_needed": 6,
            "corrections": 120,
            "predictions_24h": 1300,
            "active_run": None,
            "categories": [
                {
                    "id": 4,
                    "name": "cat",
                    "aliases": [],
                    "state": "active",
                    "images": 3012,
                    "train_images": 2411,
                    "missing": 0,
                }
            ],
        }
    )

    name: str
    input: InputAnswer
    champion: ChampionAnswer | None
    promotion_paused: bool = Field(description="After a rollback, until somebody resumes it.")
    promotion_paused_at: datetime | None
    waiting: WaitingAnswer
    run_estimate: RunEstimate | None = Field(description="Null until a run has gone through.")
    corrections_waiting: int
    corrections_needed: int = Field(description="How many more a run needs to start without force.")
    corrections: int
    predictions_24h: int
    active_run: int | None
    categories: list[CategoryAnswer]


class ModelsAnswer(_Answer):
    models: list[ModelAnswer]


class RunRequest(_Request):
    model_config = _example({"model": "doodles", "force": False})

    model: ModelName | None = None
    force: bool = Field(False, description="Goes on with too few new images; never goes past the gate.")


class LinkAnswer(_Answer):
    model_config = _example(
        {
            "url": "https://emend.example.org/emend/production/mlflow/artifacts/1/models/m-1/artifacts/model.onnx?X-Amz-…",
            "file_name": "doodles-7.onnx",
            "expires_at": "2026-11-21T12:15:00Z",
        }
    )

    url: str
    file_name: str
    expires_at: datetime


class RunAccepted(_Answer):
    model_config = _example({"run_id": 12})

    run_id: int


class RunAnswer(BaseModel):
    """As pipeline.runs tells it."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "run_id": 12,
                    "model": "doodles",
                    "status": "succeeded",
                    "message": "version 4 is live",
                    "verdict": {
                        "promote": True,
                        "sentence": "Promoted: 92.4 % on the holdout against 91.1 %.",
                    },
                    "stages": [
                        {
                            "name": "ingest",
                            "status": "succeeded",
                            "duration_seconds": 0.4,
                            "figures": {"new_images": 31},
                        }
                    ],
                }
            ]
        },
    )

    run_id: int
    model: str
    status: str
    message: str | None
    verdict: dict[str, Any] | None
    stages: list[dict[str, Any]]


class RunsPage(_Answer):
    runs: list[RunAnswer]
    next_before: int | None


class RollbackRequest(_Request):
    model_config = _example({"reason": "version 4 mistakes every cat for a dog"})

    reason: Text = Field(
        "asked for over HTTP", min_length=1, max_length=500, description="Kept in the ledger for ever."
    )
    version: int | None = Field(
        None,
        ge=1,
        lt=2**31,
        description="What is to be taken back, tried out or live: 409 when it is neither. Null: what is newest.",
    )


class RollbackAnswer(_Answer):
    model_config = _example(
        {"model": "doodles", "version": 3, "replaced_version": 4, "promotion_paused": True}
    )

    model: str
    version: int = Field(description="The one that is live now.")
    replaced_version: int = Field(description="The one that is not any more, wholly or in part.")
    promotion_paused: bool
    ended_trial: Literal["shadow", "canary"] | None = Field(
        None, description="What was under way and is over; the champion stays then."
    )


class TrialRequest(_Request):
    model_config = _example({"version": 7, "percent": 10, "reason": "is it as good on this week's photos?"})

    version: int = Field(ge=1, lt=2**31, description="Any version that is still there, but the live one.")
    percent: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Share of the images; the same image always meets the same version. Null: 10 for a canary, 100 for "
        "a shadow.",
    )
    reason: Text = Field("asked for over HTTP", min_length=1, max_length=500)


class LatestAnswer(_Answer):
    """Of the last 1,000 to 2,000 images: what a canary's bounds are judged by."""

    images: int
    errors: int
    champion_errors: int
    p95_ms: float | None
    champion_p95_ms: float | None


class TrialAnswer(_Answer):
    model_config = _example(
        {
            "id": 3,
            "model": "doodles",
            "kind": "canary",
            "version": 7,
            "champion": 6,
            "percent": 10,
            "started_by": "somebody over HTTP",
            "reason": "is it as good on this week's photos?",
            "started_at": "2026-11-21T03:04:10.120+00:00",
            "ended_at": None,
            "outcome": None,
            "ended_because": None,
            "images": 1200,
            "agreement": 0.9642,
            "errors": 0,
            "champion_errors": 0,
            "skipped": 0,
            "p50_ms": 3.0,
            "p95_ms": 8.0,
            "champion_p50_ms": 3.0,
            "champion_p95_ms": 6.0,
            "latest": {
                "images": 1200,
                "errors": 0,
                "champion_errors": 0,
                "p95_ms": 8.0,
                "champion_p95_ms": 6.0,
            },
        }
    )

    id: int
    model: str
    kind: Literal["shadow", "canary"]
    version: int
    champion: int = Field(description="That it is compared with.")
    percent: int
    started_by: str
    reason: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Literal["promoted", "ended", "failed"] | None = Field(description="Null while it is under way.")
    ended_because: str | None
    images: int = Field(description="That both versions were asked about.")
    agreement: float | None = Field(
        description="Share that both named alike of those that both answered, 0..1."
    )
    errors: int = Field(description="Of its answers that did not come, or were none.")
    champion_errors: int
    skipped: int = Field(description="Images that were not compared because there was too much to do.")
    p50_ms: float | None = Field(description="Half of its answers came within this.")
    p95_ms: float | None
    champion_p50_ms: float | None
    champion_p95_ms: float | None
    latest: LatestAnswer


class TrialsAnswer(_Answer):
    trials: list[TrialAnswer]


class PromoteRequest(_Request):
    model_config = _example({"version": 7, "reason": "better on our own drawings"})

    version: int = Field(ge=1, lt=2**31, description="Any version that is still there.")
    reason: Text = Field(
        "asked for over HTTP", min_length=1, max_length=500, description="Kept in the ledger for ever."
    )


class PromoteAnswer(_Answer):
    model_config = _example(
        {"model": "doodles", "version": 7, "replaced_version": 6, "promotion_paused": False}
    )

    model: str
    version: int
    replaced_version: int | None
    promotion_paused: bool = Field(description="As it was before.")


class WithdrawnAnswer(_Answer):
    model_config = _example({"withdrawn": 3, "by_the_next_run": 24})

    withdrawn: int = Field(description="Out already.")
    by_the_next_run: int = Field(description="In the dataset until the next run has taken them out.")


class PromotionItem(_Answer):
    model_config = _example(
        {
            "id": 5,
            "action": "promote",
            "version": 4,
            "replaced_version": 3,
            "run_id": 12,
            "actor": "gate",
            "reason": "Promoted: 92.4 % on the holdout against 91.1 %.",
            "opened_at": "2026-11-21T03:04:10.120+00:00",
            "outcome": "done",
            "closed_at": "2026-11-21T03:04:12.340+00:00",
        }
    )

    id: int
    action: str
    version: int
    replaced_version: int | None
    run_id: int | None
    actor: str
    reason: str
    opened_at: datetime
    outcome: str | None = Field(description="Null while it is open.")
    closed_at: datetime | None


class PromotionsAnswer(_Answer):
    promotions: list[PromotionItem]


class ErrorBody(_Answer):
    code: str
    message: str
    field: str | None = None


class GpuAnswer(_Answer):
    index: int
    uuid: str
    name: str
    utilisation: float | None = Field(description="Share of the last moment it computed, 0..1.")
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_celsius: int | None


class GpusAnswer(_Answer):
    model_config = _example({"gpus": [], "reason": "no NVIDIA driver on this machine"})

    gpus: list[GpuAnswer]
    reason: str | None = Field(description="Why there are none.")


class ContainerAnswer(_Answer):
    name: str
    service: str | None = Field(description="Its name in docker-compose.yml.")
    image: str
    state: str = Field(description="created, running, paused, restarting, exited, dead …, as Docker says.")
    health: str | None = Field(description="starting, healthy or unhealthy; null without a health check.")
    exit_code: int | None = Field(description="null while it runs.")
    out_of_memory: bool = Field(description="The kernel ended it.")
    restarts: int
    started_at: datetime | None
    cpu_cores: float | None = Field(description="How many cores it keeps busy; null while it does not run.")
    memory_used_bytes: int | None
    memory_limit_bytes: int | None


class ContainersAnswer(_Answer):
    model_config = _example(
        {
            "measured_at": "2026-03-01T12:00:00Z",
            "containers": [
                {
                    "name": "emend-gateway-1",
                    "service": "gateway",
                    "image": "emend/gateway:dev",
                    "state": "running",
                    "health": "healthy",
                    "exit_code": None,
                    "out_of_memory": False,
                    "restarts": 0,
                    "started_at": "2026-03-01T11:58:03Z",
                    "cpu_cores": 0.03,
                    "memory_used_bytes": 181403648,
                    "memory_limit_bytes": 1073741824,
                }
            ],
        }
    )

    measured_at: datetime
    containers: list[ContainerAnswer]


class ErrorAnswer(BaseModel):
    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "code": "invalid_image",
                        "message": "12 bytes that are no PNG, JPEG or WebP image; send one of these, or 784 raw "
                        "bytes (28x28)",
                        "field": "image",
                    }
                }
            ]
        },
    )

    error: ErrorBody


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses=`: which errors an endpoint answers, all in the one shape."""
    said = {
        400: "The request cannot be used as it is.",
        403: "It is somebody else's.",
        404: "There is no such thing.",
        409: "The present state forbids it.",
        413: "The body is too large.",
        422: "The Idempotency-Key came with another body before.",
        429: "Too many of yours wait already.",
        502: "The model server answered nonsense.",
        503: "A part this needs is away; see Retry-After.",
        507: "The disk is full; nothing was kept.",
    }
    return {status: {"model": ErrorAnswer, "description": said[status]} for status in statuses}
