"""The JSON that the viewer answers with, with the examples that /docs shows; the pages' types come from here."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from core.database import RunStatus, StageStatus, Trigger

_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_CORRECTION_ID = "019a1c7e-9d21-7a54-9c0e-5b8f1e2d3c4a"
_IMAGE = f"/images/doodles/{_SHA256}"
_SENTENCE = (
    "Promoted: 92.4 % on the holdout against 91.1 % (+1.3, 95 % CI +0.4 to +2.2); "
    "fixed 9 of 12 corrections, broke 1."
)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _example(value: dict[str, Any]) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [value]})


# Runs.


class StageOfRun(_Answer):
    name: str
    status: StageStatus
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    duration_seconds: float | None
    figures: dict[str, float | int | str | None]
    message: str | None


class RuleOutcome(_Answer):
    name: str
    passed: bool
    sentence: str = Field(description="A clause that stands after *because*.")
    figures: dict[str, float | int]


class Verdict(BaseModel):
    model_config = ConfigDict(extra="allow")

    promoted: bool
    sentence: str
    reasons: list[RuleOutcome]
    figures: dict[str, float | int]


class Run(_Answer):
    model_config = _example(
        {
            "run_id": 12,
            "model": "doodles",
            "trigger": "manual",
            "force": False,
            "requested_by": "somebody at the gateway",
            "request_id": "019a1c7e-0000-7000-8000-000000000000",
            "status": "succeeded",
            "message": _SENTENCE,
            "new_images": 40,
            "dataset_version": 3,
            "version": 4,
            "verdict": {"promoted": True, "sentence": _SENTENCE, "reasons": [], "figures": {}},
            "mlflow_run_id": "0f1e2d3c",
            "mlflow_url": "http://127.0.0.1:5000/#/runs/0f1e2d3c",
            "weights_removed_at": None,
            "requested_at": "2026-11-21T09:30:12.345000+00:00",
            "started_at": "2026-11-21T09:30:12.500000+00:00",
            "finished_at": "2026-11-21T09:31:26.100000+00:00",
            "stages": [
                {
                    "name": "ingest",
                    "status": "succeeded",
                    "attempt": 1,
                    "started_at": "2026-11-21T09:30:12.600000+00:00",
                    "finished_at": "2026-11-21T09:30:13.010000+00:00",
                    "duration_seconds": 0.41,
                    "figures": {"new_images": 40},
                    "message": None,
                }
            ],
        }
    )

    run_id: int
    model: str
    trigger: Trigger
    force: bool
    requested_by: str
    request_id: str | None
    status: RunStatus
    message: str | None = Field(description="Why it ended as it did, in one sentence.")
    new_images: int | None
    dataset_version: int | None
    version: int | None = Field(description="The model version it registered.")
    verdict: Verdict | None
    mlflow_run_id: str | None
    mlflow_url: str | None
    weights_removed_at: datetime | None
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    stages: list[StageOfRun]


class RunsPage(_Answer):
    runs: list[Run]
    next_before: int | None = Field(description="`before` of the next page; null on the last.")


# Overview.


class LiveVersion(_Answer):
    version: int
    since: datetime | None
    holdout_accuracy: float | None


class Waiting(BaseModel):
    """More may come: what core.receipts.waiting says."""

    model_config = ConfigDict(extra="allow")

    corrections: int
    missing_for_a_run: int
    missing_for_the_trigger: int | None = Field(
        description="Null: no number of corrections starts a run by itself."
    )


class Schedule(_Answer):
    cron: str
    timezone: str
    next_at: datetime | None = Field(description="Null: it never fires.")


class RunEstimate(_Answer):
    """Medians of the latest runs that went through all stages."""

    seconds: float
    runs: int
    stages: dict[str, float]


class ModelOverview(_Answer):
    name: str
    champion: LiveVersion | None
    previous: int | None = Field(description="What a rollback would put back, by the ledger.")
    promotion_paused_at: datetime | None
    waiting: Waiting
    schedule: Schedule | None
    active_run: int | None
    last_run: Run | None = Field(description="Also while it is under way.")
    run_estimate: RunEstimate | None
    quarantined: int = Field(description="Set aside, and nobody has looked at them yet.")


class Overview(_Answer):
    model_config = _example(
        {
            "models": [
                {
                    "name": "doodles",
                    "champion": {
                        "version": 4,
                        "since": "2026-11-21T09:31:25+00:00",
                        "holdout_accuracy": 0.924,
                    },
                    "previous": 3,
                    "promotion_paused_at": None,
                    "waiting": {"corrections": 4, "missing_for_a_run": 6, "missing_for_the_trigger": 46},
                    "schedule": {
                        "cron": "0 3 * * *",
                        "timezone": "UTC",
                        "next_at": "2026-11-22T03:00:00+00:00",
                    },
                    "active_run": None,
                    "last_run": None,
                    "run_estimate": {"seconds": 74.0, "runs": 5, "stages": {"ingest": 0.5, "train": 41.2}},
                    "quarantined": 2,
                }
            ],
            "orchestrator_alive": True,
            "mlflow_url": "http://127.0.0.1:5000",
            "gateway_url": "http://127.0.0.1:8000",
            "ui_url": "http://127.0.0.1:9080/",
        }
    )

    models: list[ModelOverview]
    orchestrator_alive: bool
    mlflow_url: str
    gateway_url: str
    ui_url: str


# A run's report.


class Side(_Answer):
    """Fractions, 0..1; low and high: the ends of the interval."""

    accuracy: float
    low: float
    high: float
    images: int


class Difference(_Answer):
    """Challenger less champion, in points; low and high: the ends of the paired interval."""

    points: float
    low: float
    high: float


class SliceReport(_Answer):
    champion: Side | None
    challenger: Side | None
    difference: Difference | None


class CategoryReport(_Answer):
    """Recalls on the holdout; low and high: the ends of the challenger's interval."""

    id: int | None = Field(description="Null for one that is no longer called so.")
    name: str
    images: int
    champion_recall: float | None
    challenger_recall: float | None
    low: float | None
    high: float | None
    generated_images: int
    champion_generated_recall: float | None
    challenger_generated_recall: float | None


class Confusion(_Answer):
    """What the challenger said: counts[actual][predicted]."""

    of: Literal["holdout", "generated"]
    categories: list[str]
    counts: list[list[int]]
    missing: str | None = Field(description="What is not shown, and why.")


Change = Literal["fixed", "broke", "still wrong", "still right"]


class JudgedCorrection(_Answer):
    correction_id: str
    label: str
    image: str
    split: Literal["learned", "exam"]
    champion_label: str | None
    challenger_label: str | None
    change: Change


class Corrections(_Answer):
    images: int
    fixed: int
    broke: int
    items: list[JudgedCorrection] = Field(description="Fixed and broken ones first.")
    left_out: int = Field(description="How many of `images` are not in `items`.")


class Epoch(BaseModel):
    model_config = ConfigDict(extra="allow")

    epoch: int
    epochs: int | None = None
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    learning_rate: float | None = None
    images_per_second: float | None = None
    seconds: float | None = None
    seconds_left: float | None = Field(
        default=None, description="Until the last epoch is over, at this pace."
    )
    at: datetime | None = Field(default=None, description="When it was over.")
    device: str | None = None
    cpu_utilisation: float | None = Field(default=None, description="Of all cores, 0..1, as the GPU's.")
    process_cpu_utilisation: float | None = Field(default=None, description="Training's own share.")
    memory_bytes: int | None = None
    memory_total_bytes: int | None = None
    process_memory_bytes: int | None = None
    gpu_utilisation: float | None = None
    gpu_memory_bytes: int | None = None
    gpu_memory_total_bytes: int | None = None


class ParamChange(_Answer):
    key: str
    before: Any = None
    after: Any = None


class Added(_Answer):
    """images: rows with a label; withdrawn: rows that take one back."""

    images: int
    withdrawn: int
    by_label: dict[str, int]
    by_source: dict[str, int]
    by_split: dict[str, int]


class GateRule(_Answer):
    name: str
    limit: float | None
    value: float | None
    unit: Literal["points", "fraction", "categories", "corrections"] | None
    held: bool
    sentence: str


class Gate(_Answer):
    rules: list[GateRule]


class Report(_Answer):
    """What the run has not got to, or what retention removed, is null; `missing` says what was removed."""

    model_config = _example(
        {
            "run_id": 12,
            "model": "doodles",
            "version": 4,
            "champion_version": 3,
            "dataset_version": 3,
            "commit": "5f0a7c3e8b1d2f6a9c4e7d1019a1c7e5f0a7c3e8",
            "holdout": {
                "champion": {"accuracy": 0.911, "low": 0.9, "high": 0.921, "images": 3000},
                "challenger": {"accuracy": 0.924, "low": 0.914, "high": 0.933, "images": 3000},
                "difference": {"points": 1.3, "low": 0.4, "high": 2.2},
            },
            "generated": None,
            "categories": [
                {
                    "id": 4,
                    "name": "cat",
                    "images": 300,
                    "champion_recall": 0.88,
                    "challenger_recall": 0.91,
                    "low": 0.872,
                    "high": 0.937,
                    "generated_images": 0,
                    "champion_generated_recall": None,
                    "challenger_generated_recall": None,
                }
            ],
            "confusion": {
                "of": "holdout",
                "categories": ["cat", "dog"],
                "counts": [[273, 27], [20, 280]],
                "missing": None,
            },
            "corrections": {
                "images": 12,
                "fixed": 9,
                "broke": 1,
                "items": [
                    {
                        "correction_id": _CORRECTION_ID,
                        "label": "cat",
                        "image": _IMAGE,
                        "split": "learned",
                        "champion_label": "dog",
                        "challenger_label": "cat",
                        "change": "fixed",
                    }
                ],
                "left_out": 11,
            },
            "curve": [{"epoch": 1, "epochs": 8, "train_loss": 0.41, "validation_accuracy": 0.9}],
            "params": {"train": {"epochs": 8}},
            "params_changed": [{"key": "train.epochs", "before": 6, "after": 8}],
            "added": {
                "images": 40,
                "withdrawn": 0,
                "by_label": {"cat": 40},
                "by_source": {"correction": 40},
                "by_split": {"train": 32, "validation": 4, "holdout": 4},
            },
            "gate": {
                "rules": [
                    {
                        "name": "holdout_not_worse",
                        "limit": -1.0,
                        "value": 0.4,
                        "unit": "points",
                        "held": True,
                        "sentence": "a loss of 1 point on the holdout is ruled out",
                    }
                ]
            },
            "missing": [],
        }
    )

    run_id: int
    model: str
    version: int | None
    champion_version: int | None
    dataset_version: int | None
    commit: str | None = Field(description="Of the home, with tag `run-<id>`.")
    holdout: SliceReport | None
    generated: SliceReport | None = Field(description="Generated and sample drawings kept out of training.")
    categories: list[CategoryReport] | None
    confusion: Confusion | None
    corrections: Corrections | None
    curve: list[Epoch] | None
    params: dict[str, Any] | None
    params_changed: list[ParamChange] | None = Field(
        description="Against the run before; null: there is none."
    )
    added: Added | None = Field(description="What its dataset version added; null when it made none.")
    gate: Gate | None
    missing: list[str]


class AddedImage(_Answer):
    sha256: str
    label: str | None = Field(description="Null: it was withdrawn.")
    source: str
    split: str
    image: str


class AddedImages(_Answer):
    model_config = _example(
        {
            "items": [
                {
                    "sha256": _SHA256,
                    "label": "cat",
                    "source": "correction",
                    "split": "train",
                    "image": _IMAGE,
                }
            ],
            "next_before": None,
        }
    )

    items: list[AddedImage]
    next_before: int | None = Field(description="`before` of the next page; null on the last.")


# Versions.


class LiveSpan(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    from_: datetime = Field(alias="from")
    to: datetime | None = Field(description="Null: it is live now.")


_VERSION: dict[str, Any] = {
    "version": 4,
    "run_id": 12,
    "created_at": "2026-11-21T09:31:20+00:00",
    "dataset_version": 3,
    "verdict_sentence": _SENTENCE,
    "promoted": True,
    "holdout_accuracy": 0.924,
    "figures": {"holdout_accuracy": 0.924, "holdout_images": 3000},
    "weights_removed_at": None,
    "aliases": ["champion", "challenger"],
    "live": [{"from": "2026-11-21T09:31:25+00:00", "to": None}],
    "mlflow_url": "http://127.0.0.1:5000/#/runs/0f1e2d3c",
}


class ModelVersion(_Answer):
    model_config = _example(_VERSION)

    version: int
    run_id: int
    created_at: datetime
    dataset_version: int
    verdict_sentence: str | None
    promoted: bool = Field(description="It was live at some time, or is.")
    holdout_accuracy: float | None
    figures: dict[str, float | int]
    weights_removed_at: datetime | None
    aliases: list[str]
    live: list[LiveSpan] = Field(description="When it was live, oldest first.")
    mlflow_url: str | None


class ModelVersions(_Answer):
    items: list[ModelVersion]
    next_before: int | None = Field(description="`before` of the next page; null on the last.")
    aliases_from: Literal["registry", "ledger"] = Field(
        description="`ledger` while MLflow is away: `champion` alone is then known for sure."
    )


class LiveAt(_Answer):
    model_config = _example({"version": 4, "since": "2026-11-21T09:31:25+00:00"})

    version: int | None = Field(description="Null: none was live yet.")
    since: datetime | None


class ComparedCategory(_Answer):
    name: str
    images: int
    a_recall: float | None
    b_recall: float | None


class DifferingImage(_Answer):
    correction_id: str | None = Field(description="Null for an image of the holdout that is no correction.")
    sha256: str
    label: str
    image: str
    a_label: str | None
    b_label: str | None


class Differ(_Answer):
    count: int
    items: list[DifferingImage] = Field(description="Corrections first; not all when there are many.")


class ComparedHoldout(_Answer):
    """Both asked about the same images now; the difference is b less a."""

    of: Literal["holdout", "generated"]
    dataset_version: int
    images: int
    sampled_from: int = Field(description="How many there are; `images` were asked.")
    a: Side
    b: Side
    difference: Difference


class Comparison(_Answer):
    model_config = _example(
        {
            "a": {**_VERSION, "version": 3, "aliases": ["previous"]},
            "b": _VERSION,
            "holdout": {
                "of": "holdout",
                "dataset_version": 3,
                "images": 3000,
                "sampled_from": 3000,
                "a": {"accuracy": 0.911, "low": 0.9, "high": 0.921, "images": 3000},
                "b": {"accuracy": 0.924, "low": 0.914, "high": 0.933, "images": 3000},
                "difference": {"points": 1.3, "low": 0.4, "high": 2.2},
            },
            "categories": [{"name": "cat", "images": 300, "a_recall": 0.88, "b_recall": 0.91}],
            "differ": {
                "count": 71,
                "items": [
                    {
                        "correction_id": _CORRECTION_ID,
                        "sha256": _SHA256,
                        "label": "cat",
                        "image": _IMAGE,
                        "a_label": "dog",
                        "b_label": "cat",
                    }
                ],
            },
            "missing": [],
        }
    )

    a: ModelVersion
    b: ModelVersion
    holdout: ComparedHoldout | None
    categories: list[ComparedCategory] | None
    differ: Differ
    missing: list[str] = Field(description="What could not be compared, and why.")


# Errors.


class ErrorBody(_Answer):
    code: str
    message: str
    field: str | None = None


class ErrorAnswer(BaseModel):
    model_config = ConfigDict(extra="allow")

    error: ErrorBody


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses=`: which errors an endpoint answers, all in the one shape."""
    said = {
        400: "The request cannot be used as it is.",
        404: "There is no such thing.",
        503: "A part this needs is away; see Retry-After.",
    }
    return {status: {"model": ErrorAnswer, "description": said[status]} for status in statuses}
