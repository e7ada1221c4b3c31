"""A home's `params.yaml`: everything that changes a model, each key with its reason.

Unknown keys and values out of range are refused by name. The presets are what a new home starts from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from croniter import croniter
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from core.errors import ConfigurationError
from core.images import InputSpec
from pipeline.gate import GateParams


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputParams(_Section):
    mode: Literal["L", "RGB"] = Field(
        description="Grey (L) or colour (RGB): what the network is built for."
    )
    width: int = Field(
        ge=8, le=512, description="Pixels; what the network was tuned for."
    )
    height: int = Field(
        ge=8, le=512, description="Pixels; what the network was tuned for."
    )
    drawing: bool = Field(
        False,
        description="Ink on paper: uploads are inverted, cropped to their ink, centred.",
    )

    @property
    def spec(self) -> InputSpec:
        return InputSpec(self.mode, self.width, self.height, self.drawing)


class IngestParams(_Section):
    min_new_images: int = Field(
        10,
        ge=1,
        description="Fewer can hardly move a model; a run is minutes of two cores.",
    )


class MergeParams(_Section):
    min_images: int = Field(
        20,
        ge=2,
        description="Training images a pending category needs to become active: fewer give chance recall.",
    )
    near_duplicate_similarity: float = Field(
        0.985,
        ge=0.5,
        le=1.0,
        description="Correlation of pixels above which an image counts as a copy of a holdout image; "
        "measured in bench/near_duplicates.py so that different people's drawings stay.",
    )


class TrainParams(_Section):
    seed: int = Field(
        1, ge=0, description="Same seed, data, lock and kind of CPU: same weights."
    )
    epochs: int = Field(
        8,
        ge=1,
        le=1000,
        description="Passes over the training images, of at most max_steps steps.",
    )
    batch_size: int = Field(
        256, ge=1, le=65536, description="Fills two cores; larger needs more epochs."
    )
    learning_rate: float = Field(
        3e-3, gt=0, le=10, description="Peak of the one-cycle schedule."
    )
    weight_decay: float = Field(
        0.05, ge=0, le=1, description="AdamW's; without it the small sets overfit."
    )
    label_smoothing: float = Field(
        0.05, ge=0, lt=1, description="A few percent of labels are wrong."
    )
    augmentation: Literal["none", "drawing", "photo"] = Field(
        description="Which random changes keep the label."
    )
    warm_start: bool = Field(
        True,
        description="Start from the champion's weights: fewer epochs for the same figure.",
    )
    correction_weight: float = Field(
        3.0,
        ge=1,
        le=100,
        description="Loss weight of corrected images: they are few, and where the model was wrong.",
    )
    threads: int = Field(
        2,
        ge=1,
        le=256,
        description="Fixed, because the sum's order, so the weights, depend on it.",
    )


class TriggerParams(_Section):
    cron: str | None = Field(
        None, description="When a run starts by itself, e.g. '0 3 * * *' (SCHEDULE_TZ)."
    )
    corrections: int | None = Field(
        None,
        ge=1,
        description="A run starts by itself when this many corrections wait; null: never.",
    )

    @field_validator("cron")
    @classmethod
    def _valid_cron(cls, value: str | None) -> str | None:
        if value is not None and not croniter.is_valid(value):
            raise ValueError(
                f"{value!r} is no cron expression of five fields, e.g. '0 3 * * *'"
            )
        return value


class StageParams(_Section):
    timeout_seconds: int = Field(
        3600, ge=1, description="A stage that takes longer hangs; train apart."
    )
    train_timeout_seconds: int = Field(
        24 * 3600, ge=1, description="Training may be long on real data."
    )
    promote_timeout_seconds: int = Field(
        60, ge=1, description="The server loads a version in about a second."
    )


class CleanupParams(_Section):
    keep_runs: int = Field(
        50,
        ge=1,
        description="Logs and working folders of older runs go; the database keeps all.",
    )


class Params(_Section):
    """The whole of params.yaml."""

    input: InputParams
    ingest: IngestParams = IngestParams()
    merge: MergeParams = MergeParams()
    train: TrainParams
    gate: GateParams = GateParams()
    triggers: TriggerParams = TriggerParams()
    stages: StageParams = StageParams()
    cleanup: CleanupParams = CleanupParams()


def load(home: Path) -> Params:
    """Raises ConfigurationError that names the file and every key at fault."""
    path = home / "params.yaml"
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as exc:
        raise ConfigurationError(
            f"cannot read {path}: {exc.strerror}; `git checkout params.yaml` in {home}"
        ) from exc
    except yaml.YAMLError as exc:
        raise ConfigurationError(f"{path} is not YAML: {exc}") from exc
    return parse(raw, str(path))


def parse(raw: object, source: str) -> Params:
    try:
        return Params.model_validate(raw)
    except ValidationError as exc:
        faults = "; ".join(
            f"{'.'.join(str(p) for p in e['loc']) or 'file'}: {e['msg']}"
            for e in exc.errors()
        )
        raise ConfigurationError(f"{source}: {faults}") from exc
