"""A home's `params.yaml`: everything that changes a model, each key with its reason.

Unknown keys and values out of range are refused by name. The presets are what a new home starts from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from croniter import croniter
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from core.errors import ConfigurationError
from core.images import InputSpec
from core.validation import told
from pipeline.gate import GateParams


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputParams(_Section):
    mode: Literal["L", "RGB"] = Field(description="Grey (L) or colour (RGB): what the network is built for.")
    width: int = Field(ge=8, le=512, description="Pixels; what the network was tuned for.")
    height: int = Field(ge=8, le=512, description="Pixels; what the network was tuned for.")
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
        0.96,
        ge=0.5,
        le=1.0,
        description="Correlation of pixels above which an image counts as a copy of a holdout image; "
        "measured in bench/near_duplicates.py so that different people's drawings stay.",
    )


class TrainParams(_Section):
    seed: int = Field(1, ge=0, description="Same seed, data, lock and kind of CPU: same weights.")
    threads: int = Field(
        2,
        ge=1,
        le=256,
        description="The weights do not depend on it. More than two are of no use: a batch is worked on in two parts.",
    )
    widths: tuple[Annotated[int, Field(ge=4, le=4096)], ...] = Field(
        (32, 64, 128),
        min_length=1,
        max_length=8,
        description="Channels of the network, one stage each; each stage halves the side.",
    )
    augmentation: Literal["none", "drawing", "photo"] = Field(
        description="Which random changes keep the label."
    )
    epochs: int = Field(
        8, ge=1, le=10_000, description="Of a first version, or when much is new. See `fresh_share`."
    )
    learning_rate: float = Field(
        0.24, gt=0, le=10, description="Its peak: the share of a filter's length that a step moves (Muon)."
    )
    warm_start: bool = Field(
        True,
        description="Start from the champion's weights: the new version differs where it learnt something.",
    )
    warm_epochs: int = Field(
        3, ge=1, le=10_000, description="Of a warm start with little new data: the rest is learnt already."
    )
    warm_learning_rate: float = Field(
        0.02,
        gt=0,
        le=10,
        description="Gentle: a higher one changes many answers at random, and the gate cannot tell those from harm.",
    )
    fresh_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of training images the champion has not seen above which `epochs` holds, not `warm_epochs`.",
    )
    batch_size: int = Field(
        256, ge=2, le=65536, description="Smaller measured no better; larger needs more epochs."
    )
    min_steps: int = Field(
        40,
        ge=1,
        le=100_000,
        description="Of an epoch: a small set is passed over several times, or nothing is learnt.",
    )
    weight_decay: float = Field(0.05, ge=0, le=1, description="AdamW's; without it small sets overfit.")
    label_smoothing: float = Field(0.05, ge=0, lt=1, description="A few percent of labels are wrong.")
    correction_weight: float = Field(
        8.0,
        ge=1,
        le=100,
        description="Loss weight of corrected images: they are few, and where the model was wrong.",
    )
    balance: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Loss weight of a category grows as (mean count / its count) to this power: lifts new ones.",
    )


class TriggerParams(_Section):
    cron: str | None = Field(None, description="When a run starts by itself, e.g. '0 3 * * *' (SCHEDULE_TZ).")
    corrections: int | None = Field(
        None,
        ge=1,
        description="A run starts by itself when this many corrections wait; null: never.",
    )

    @field_validator("cron")
    @classmethod
    def _valid_cron(cls, value: str | None) -> str | None:
        if value is not None and (len(value.split()) != 5 or "R" in value or not croniter.is_valid(value)):
            raise ValueError(f"{value!r} is no cron expression of five fields, e.g. '0 3 * * *'")
        return value


class StageParams(_Section):
    timeout_seconds: int = Field(3600, ge=1, description="A stage that takes longer hangs; train apart.")
    train_timeout_seconds: int = Field(24 * 3600, ge=1, description="Training may be long on real data.")
    promote_timeout_seconds: int = Field(
        60, ge=1, description="The server loads a version in about a second."
    )


class CleanupParams(_Section):
    keep_runs: int = Field(
        50,
        ge=3,
        description="Logs, working folders and weights of older runs go, but for as many of those promoted last; the "
        "database keeps all. Three: a rollback goes back to the one before, and names the one before that.",
    )
    keep_quarantine_days: int = Field(
        90,
        ge=1,
        description="Pictures set aside that nobody looked at for so long go; their receipts keep the reason.",
    )


class Params(_Section):
    """The whole of params.yaml. What dvc.yaml names (input, train, gate) must be there, for DVC to record it."""

    input: InputParams
    ingest: IngestParams = IngestParams()
    merge: MergeParams = MergeParams()
    train: TrainParams
    gate: GateParams
    triggers: TriggerParams = TriggerParams()
    stages: StageParams = StageParams()
    cleanup: CleanupParams = CleanupParams()


def load(home: Path) -> Params:
    """Raises ConfigurationError that names the file and every key at fault."""
    path = home / "params.yaml"
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"cannot read {path}: {exc}; `git checkout params.yaml` in {home}") from exc
    except yaml.YAMLError as exc:
        raise ConfigurationError(f"{path} is not YAML: {exc}") from exc
    return parse(raw, str(path))


def parse(raw: object, source: str) -> Params:
    try:
        return Params.model_validate(raw)
    except ValidationError as exc:
        faults = "; ".join(told(".".join(str(p) for p in e["loc"]) or "the file", e) for e in exc.errors())
        raise ConfigurationError(f"{source}: {faults}") from exc
