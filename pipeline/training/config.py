"""What a training is told: one typed configuration for every trainer. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class TrainingConfig(BaseModel):
    """The section `train` of params.yaml. Every trainer gets all of it, and leaves alone what it has no use for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trainer: str = Field(
        "classifier",
        min_length=1,
        description="What trains: the built-in `classifier`, or one that an installed package offers.",
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Of another trainer: what only it knows. Empty for the built-in one.",
    )
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
