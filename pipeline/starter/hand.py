"""The hand that draws: chances and sizes while a drawing is composed, and the unsteadiness when it is traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from pipeline.starter.shapes import Stroke

T = TypeVar("T")
SPACING = 10.0  # units between the points of a traced stroke


class Hand:
    """One person drawing one thing; how careful they are is theirs for the whole drawing."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.unsteady = float(np.exp(rng.normal(0, 0.45)))  # 1 = ordinary

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def count(self, low: int, high: int) -> int:
        """Both ends included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, options: Sequence[tuple[float, T]]) -> T:
        """One of the options, each with its weight."""
        at = self.rng.random() * sum(weight for weight, _ in options)
        for weight, option in options:
            at -= weight
            if at < 0:
                return option
        return options[-1][1]

    def trace(self, strokes: Sequence[Stroke]) -> list[Stroke]:
        """The strokes as a person would draw them: each a little off, wobbling, the whole askew and stretched."""
        kept = self._forgotten([stroke for stroke in strokes if len(stroke)])
        traced = [self._unsteady(_spaced(stroke)) for stroke in kept]
        if self.chance(0.04):
            traced.append(self._stray())
        return self._askew(traced)

    def _forgotten(self, strokes: list[Stroke]) -> list[Stroke]:
        if len(strokes) > 3 and self.chance(0.12):
            del strokes[self.count(1, len(strokes) - 1)]
        return strokes

    def _unsteady(self, stroke: Stroke) -> Stroke:
        """Off its place, its size and its angle; wobbling; corners cut; ends short of or past each other."""
        rng, unsteady = self.rng, self.unsteady
        middle = stroke.mean(axis=0)
        shift, (grow_x, grow_y), turn, waves = (
            rng.normal(0, 3.0 * unsteady, 2),
            1 + rng.normal(0, 0.04 * unsteady, 2),
            rng.normal(0, 0.035 * unsteady),
            rng.normal(0, 1.0, (4, 2)),
        )
        matrix = np.array([[grow_x, turn], [-turn, grow_y]])
        along = np.arange(len(stroke))[:, None] / max(len(stroke) - 1, 1)
        length = len(stroke) * SPACING
        phases = rng.random(4) * 2 * np.pi
        rate = np.array([0.5, 1.0, 1.8, 3.0])
        size = np.array([0.012, 0.010, 0.006, 0.004]) * min(length, 500) * unsteady
        wobble = (np.sin(2 * np.pi * along * rate + phases) * size) @ waves
        drawn: Stroke = (stroke - middle) @ matrix + middle + shift + wobble
        drawn += rng.normal(0, 0.7 * unsteady, drawn.shape)
        if len(drawn) > 6 and rng.random() < 0.5:
            drawn[1:-1] = (drawn[:-2] + 2 * drawn[1:-1] + drawn[2:]) / 4
        if len(drawn) > 10 and rng.random() < 0.25:
            drawn = drawn[int(rng.integers(0, 3)) : len(drawn) - int(rng.integers(0, 3))]
        return drawn

    def _stray(self) -> Stroke:
        start = self.rng.uniform(0, 256, 2)
        return start + np.cumsum(self.rng.normal(0, 6, (self.count(1, 4), 2)), axis=0)

    def _askew(self, strokes: list[Stroke]) -> list[Stroke]:
        """The whole drawing turned, slanted, stretched and gently bent."""
        rng = self.rng
        turn, slant, stretch = rng.normal(0, [0.10, 0.10, 0.11])
        matrix = np.array([[np.exp(stretch), turn], [slant - turn, np.exp(-stretch)]])
        rates, phases = rng.normal(0, 2 * np.pi / 350, (2, 2)), rng.random(2) * 2 * np.pi
        bend = rng.normal(0, 7, 2)
        points = np.concatenate(strokes)
        points = points + np.sin(points @ rates + phases) * bend
        points = (points - 128) @ matrix + 128
        ends = np.cumsum([len(stroke) for stroke in strokes]).tolist()
        return [points[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _spaced(stroke: Stroke) -> Stroke:
    """The stroke with points about SPACING apart, and at least six of them."""
    if len(stroke) < 2:
        return stroke
    steps = stroke[1:] - stroke[:-1]
    travelled = np.zeros(len(stroke))
    np.cumsum(np.hypot(steps[:, 0], steps[:, 1]), out=travelled[1:])
    count = max(int(travelled[-1] / SPACING), 5)
    at = np.arange(count + 1) * (travelled[-1] / count)
    spaced = np.empty((count + 1, 2))
    spaced[:, 0], spaced[:, 1] = (
        np.interp(at, travelled, stroke[:, 0]),
        np.interp(at, travelled, stroke[:, 1]),
    )
    return spaced
