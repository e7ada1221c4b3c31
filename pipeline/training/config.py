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
        description="What trains: `classifier`, `backbone` (larger photos), or one that an installed package offers.",
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="What only the trainer knows, see trainers.md. Empty for `classifier`.",
    )
    seed: int = Field(1, ge=0, description="Same seed, data, lock and kind of CPU: same weights.")
    threads: int = Field(
        2,
        ge=1,
        le=256,
        description="The weights do not depend on it. More than two are of no use: a batch is worked on in two parts.",
    )
    processes: int = Field(
        1,
        ge=1,
        le=1024,
        description="That train together on this machine: one for each GPU. On a CPU two give the bits of one.",
    )
    widths: tuple[Annotated[int, Field(ge=4, le=4096)], ...] = Field(
        (32, 48, 96),
        min_length=1,
        max_length=8,
        description="Channels of the network, one stage each; each stage halves the side.",
    )
    augmentation: Literal["none", "drawing", "photo"] = Field(
        description="Which random changes keep the label."
    )
    epochs: int = Field(5, ge=1, le=10_000, description="Of a start from new weights. See `mode`.")
    learning_rate: float = Field(
        0.24, gt=0, le=10, description="Its peak: the share of a filter's length that a step moves (Muon)."
    )
    mode: Literal["auto", "scratch", "warm"] = Field(
        "auto",
        description="Where training starts: `warm` from the champion's weights, `scratch` from new ones, `auto` from "
        "the champion's while little is new (`warm_share`).",
    )
    warm_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Of the training images, the share that the champion has not seen above which `auto` starts anew.",
    )
    warm_epochs: int = Field(1, ge=1, le=10_000, description="Of a warm start: the rest is learnt already.")
    warm_learning_rate: float = Field(
        0.06,
        gt=0,
        le=10,
        description="Lower ones leave corrections wrong; higher ones change more answers at random.",
    )
    replay: float = Field(
        0.25,
        gt=0,
        le=1,
        description="Of a warm start: the share of the images that the champion was trained on that is seen again. "
        "Corrected ones all are, and what is new.",
    )
    perturb: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Of a warm start: how much of each filter is made random again (shrink and perturb, Ash and Adams "
        "2020), against settling where the champion has settled.",
    )
    low_resolution: float = Field(
        0.7,
        gt=0,
        le=1,
        description="Side of the images in the first steps, as a share of the whole side: half the work, and later "
        "steps make up for it.",
    )
    low_resolution_share: float = Field(
        0.6, ge=0, le=1, description="Of all steps of a start from new weights; 0 for none."
    )
    batch_size: int = Field(
        256, ge=2, le=65536, description="Smaller measured no better; larger needs more epochs."
    )
    min_steps: int = Field(
        100,
        ge=1,
        le=100_000,
        description="Of an epoch: a small set is passed over several times, or nothing is learnt.",
    )
    mirror: bool = Field(
        True,
        description="Whether the model may answer with the mean over an image and its mirror image. It does unless "
        "that costs half a point on the validation images, as it does where a mirror changes what an image is.",
    )
    unmirrored: tuple[str, ...] = Field(
        (),
        description="Categories whose mirror image is something else, as a letter's: their images are never mirrored, "
        "and the model then answers without mirror images.",
    )
    weight_decay: float = Field(0.05, ge=0, le=1, description="AdamW's; without it small sets overfit.")
    label_smoothing: float = Field(0.05, ge=0, lt=1, description="A few percent of labels are wrong.")
    correction_weight: float = Field(
        16.0,
        ge=1,
        le=100,
        description="How many times a corrected image is seen where another is seen once: they are few, and where the "
        "model was wrong. Many of them count less each: in all no more than the images do.",
    )
    actor_share: float = Field(
        0.5,
        ge=0,
        le=100,
        description="What one person's corrected images may count more than other images in one training, as a share "
        "of an average category: one person does not tip what a whole category of images says.",
    )
    balance: float = Field(
        0.5,
        ge=0,
        le=1,
        description="How much an image of a category counts: (mean count / its count) to this power. Lifts new ones.",
    )
