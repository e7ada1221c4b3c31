"""Following a run from a terminal: its transitions as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from core.database import ACTIVE_RUN, Run, Transition, session
from core.errors import Unavailable

LOOK_SECONDS = 0.25
# Of each stage, the figures worth a line. The database keeps them in no order that means anything.
TOLD_FIRST = {
    "ingest": ("new_images", "corrections", "import_images"),
    "convert": ("converted", "unreadable"),
    "merge": ("new_images", "train", "validation", "holdout", "duplicates", "conflicts"),
    "version": ("dataset_version",),
    "train": ("train images", "epochs", "validation_accuracy", "device"),
    "evaluate": ("holdout_images", "exam_images", "corrections_fixed", "corrections_broke"),
    "register": ("version", "categories"),
    "promote": ("promoted",),
    "cleanup": ("files_removed",),
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
        figures = event.figures
        return (
            f"  train      epoch {figures['epoch']}/{figures['epochs']}: "
            f"{100 * figures['validation_accuracy']:.1f} % of validation right"
        )
    seconds = event.figures.get("duration_seconds")
    took = f"{seconds:6.1f} s" if isinstance(seconds, int | float) else ""
    # Why a stage did not succeed is also how the run ended, which is told next.
    told = _told(event.stage, event.figures)
    return f"  {event.stage:<10} {event.status:<10} {took}  {told}".rstrip()


def figures_in_words(stage: str, figures: dict[str, Any]) -> list[str]:
    """ "train images 1619" and so on: those worth telling first, then all others."""
    first = [key for key in TOLD_FIRST.get(stage, ()) if key in figures]
    rest = [key for key in figures if key not in first and key != "duration_seconds"]
    return [f"{_words(key)} {_short(figures[key])}" for key in first + rest if figures[key] is not None]


def _told(stage: str, figures: dict[str, Any]) -> str:
    """Those worth telling; of a stage that is not listed, the first four."""
    listed = [key for key in TOLD_FIRST.get(stage, ()) if figures.get(key) is not None]
    return ", ".join(figures_in_words(stage, figures)[: len(listed) or 4])


def _words(key: str) -> str:
    """The word for a correction that no version is trained on is exam question."""
    return key.replace("exam_images", "exam_").replace("exam_", "exam questions ").replace("_", " ").strip()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
