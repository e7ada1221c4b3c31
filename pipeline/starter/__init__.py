"""The starter doodles: drawings made up by a program, so that version 1 has something to learn from.

Ten categories, each with several ways in which people draw the thing (`animals`, `objects`, `nature`), composed of
a few kinds of stroke (`shapes`) and traced by an unsteady hand (`hand`). The renderer is `core.drawing`. How well a
model trained on nothing else does on real people's drawings: `bench/starter.py`.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from numpy.typing import NDArray

from core.drawing import Stroke, render_many
from pipeline.starter import animals, nature, objects
from pipeline.starter.hand import Hand

WAYS = {
    "airplane": objects.airplane,
    "banana": nature.banana,
    "bird": animals.bird,
    "book": objects.book,
    "cat": animals.cat,
    "clock": objects.clock,
    "dog": animals.dog,
    "flower": nature.flower,
    "house": objects.house,
    "rainbow": nature.rainbow,
}
CATEGORIES = tuple(WAYS)


def draw(category: str, rng: np.random.Generator) -> list[Stroke]:
    """One made-up drawing, in a square of about 256 units. Raises KeyError for a category not in CATEGORIES."""
    hand = Hand(rng)
    return list(hand.trace(WAYS[category](hand)))


def generate(
    count_per_category: int, seed: int, processes: int | None = None
) -> tuple[NDArray[np.uint8], list[str]]:
    """(N, 28, 28) bitmaps, 0 = paper, 255 = ink, and their N labels, category after category.

    The same for the same count and seed, however many processes draw (as many as there are processors when None).
    """
    jobs = [(category, count_per_category, seed) for category in CATEGORIES]
    processes = min(processes or os.cpu_count() or 1, len(jobs))
    if processes == 1:
        parts = [_bitmaps(*job) for job in jobs]
    else:
        # spawn: a fork of a process with threads (torch, a supervisor) may hang in the child.
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            parts = list(pool.map(_bitmaps, *zip(*jobs, strict=True)))
    return np.concatenate(parts), [category for category in CATEGORIES for _ in range(count_per_category)]


def _bitmaps(category: str, count: int, seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng([seed, CATEGORIES.index(category)])
    return render_many([draw(category, rng) for _ in range(count)])
