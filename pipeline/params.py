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
from core.validation import told
from pipeline.gate import GateParams
from pipeline.training.config import TrainingConfig


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
    train: TrainingConfig
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
