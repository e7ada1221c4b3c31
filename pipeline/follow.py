"""Following a run from a terminal: its transitions as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from core.database import ACTIVE_RUN, Run, Transition, session
from core.duration import in_words
from core.errors import Unavailable

LOOK_SECONDS = 0.25
# Of each stage the figures worth telling, in this order: key, words, and the unit. "%": kept as a fraction, 0 to 1.
TOLD = {
    "ingest": (
        ("new_images", "new images", ""),
        ("corrections", "corrections", ""),
        ("withdrawals", "withdrawals", ""),
        ("import_images", "imported images", ""),
    ),
    "convert": (("converted", "converted", ""), ("unreadable", "unreadable", "")),
    "merge": (
        ("new_images", "new images", ""),
        ("train", "train", ""),
        ("validation", "validation", ""),
        ("holdout", "holdout", ""),
        ("duplicates", "duplicates", ""),
        ("conflicts", "conflicts", ""),
    ),
    "version": (("dataset_version", "dataset version", ""),),
    "train": (
        ("train_images", "train images", ""),
        ("train images", "train images", ""),  # as older runs named it
        ("epochs", "epochs", ""),
        ("validation_accuracy", "validation right", "%"),
        ("device", "device", ""),
    ),
    "evaluate": (
        ("holdout_images", "holdout images", ""),
        ("holdout_accuracy", "of these right", "%"),
        ("holdout_accuracy_champion", "right before", "%"),
        ("regression_images", "generated images", ""),
        ("regression_accuracy", "of these right", "%"),
        ("regression_accuracy_champion", "right before", "%"),
        ("corrections_fixed", "corrections fixed", ""),
        ("learned_fixed", "of these learned from", ""),
        ("exam_fixed", "exam questions", ""),
        ("corrections_broke", "broken", ""),
    ),
    "register": (("version", "version", ""), ("categories", "categories", "")),
    "promote": (("promoted", "promoted", ""), ("live_after_seconds", "live after", " s")),
    "cleanup": (("files_removed", "files removed", ""), ("weights_freed_bytes", "weights freed", " MB")),
}
# A run's transitions are written by one thread in order, one asker's aside: reading by id misses none that matter.


@dataclass(frozen=True)
class Event:
    id: int
    stage: str | None
    status: str
    message: str | None
    figures: dict[str, Any]


def follow(run_id: int, after: int = 0, gone: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Yields transitions until the run has ended or `gone` says stop. Waits while the database is away."""
    last = after
    while not gone():
        try:
            with session() as db:
                ended = db.scalar(select(Run.status).where(Run.id == run_id)) not in ACTIVE_RUN
                rows = db.scalars(
                    select(Transition)
                    .where(Transition.run_id == run_id, Transition.id > last)
                    .order_by(Transition.id)
                ).all()
        except Unavailable:
            time.sleep(1)
            continue
        for row in rows:
            last = row.id
            yield Event(row.id, row.stage, row.status, row.message, row.figures)
        if ended:
            return
        time.sleep(LOOK_SECONDS)


def latest_event(run_id: int) -> int:
    """0 when there is none."""
    with session() as db:
        found = db.scalar(
            select(Transition.id).where(Transition.run_id == run_id).order_by(Transition.id.desc()).limit(1)
        )
        return found or 0


def sentence(event: Event) -> str | None:
    """One line for a person; None for what is not worth a line."""
    if event.stage is None:
        return None
    if event.status == "running":
        return None
    if event.status == "epoch":
        return f"  train      {_epoch_in_words(event.figures)}"
    seconds = event.figures.get("duration_seconds")
    took = f"{seconds:6.1f} s" if isinstance(seconds, int | float) else ""
    # Why a stage did not succeed is also how the run ended, which is told next.
    told = ", ".join(figures_in_words(event.stage, event.figures))
    return f"  {event.stage:<10} {event.status:<10} {took}  {told}".rstrip()


def _epoch_in_words(figures: dict[str, Any]) -> str:
    """ "epoch 3/8: loss 0.412, 85.0 % of validation right, 12 s left"."""
    right, left = figures.get("validation_accuracy"), figures.get("seconds_left")
    told = [f"loss {figures['train_loss']:.3f}"]
    if right is not None:
        told.append(f"{100 * right:.1f} % of validation right")
    if left:
        told.append(f"{in_words(left)} left")
    return f"epoch {figures['epoch']}/{figures['epochs']}: {', '.join(told)}"


def figures_in_words(stage: str, figures: dict[str, Any]) -> list[str]:
    """ "train images 1619", "validation right 95.0 %" and so on. All figures are in `emend show --json`."""
    return [
        f"{words} {_with_unit(figures[key], unit)}"
        for key, words, unit in TOLD[stage]
        if figures.get(key) is not None
    ]


def _with_unit(value: Any, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.1f} %"
    if unit == " MB":
        return f"{value / 1e6:.1f} MB"
    return f"{value:.3g}{unit}" if isinstance(value, float) else f"{value}{unit}"
