"""What starter doodles are made of: strokes of a pen in a square of 256 units, y pointing down.

Everything here is exact geometry without chance; `hand.py` makes it look drawn by somebody.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Stroke = NDArray[np.float64]  # (P, 2)
Point = tuple[float, float]


def path(*points: Point) -> Stroke:
    """Straight from point to point."""
    return np.array(points, np.float64)


def closed(*points: Point) -> Stroke:
    """A polygon, back to where it began."""
    return np.array([*points, points[0]], np.float64)


def box(left: float, top: float, right: float, bottom: float) -> Stroke:
    return closed((left, top), (right, top), (right, bottom), (left, bottom))


def curve(*points: Point, steps: int = 5) -> Stroke:
    """Smoothly through the points (Catmull-Rom); closed when the last is the first."""
    through = np.array(points, np.float64)
    if points[0] == points[-1]:
        before, after = through[-2], through[1]
    else:
        before, after = 2 * through[0] - through[1], 2 * through[-1] - through[-2]
    p = np.concatenate([[before], through, [after]])
    t = np.arange(steps)[None, :, None] / steps
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    pieces = b + t / 2 * ((c - a) + t * ((2 * a - 5 * b + 4 * c - d) + t * (3 * (b - c) + d - a)))
    return np.concatenate([pieces.reshape(-1, 2), through[-1:]])


def arc(x: float, y: float, wide: float, tall: float, start: float, end: float) -> Stroke:
    """Part of an ellipse with half axes `wide` and `tall`; degrees, 0 to the right, 90 down."""
    count = max(int(abs(end - start) / 24) + 2, 4)
    angle = np.radians(start + (end - start) / (count - 1) * np.arange(count))
    points = np.empty((count, 2))
    points[:, 0], points[:, 1] = x + wide * np.cos(angle), y + tall * np.sin(angle)
    return points


def ellipse(x: float, y: float, wide: float, tall: float, start: float = -90, turn: float = 360) -> Stroke:
    return arc(x, y, wide, tall, start, start + turn)


def loop(x: float, y: float, length: float, width: float, direction: float) -> Stroke:
    """A petal, ear or wing: out from (x, y) in `direction` (degrees) and back."""
    outline = curve((0, 0), (length * 0.45, -width), (length, 0), (length * 0.45, width), (0, 0), steps=4)
    return turned([outline], direction, (0, 0))[0] + [x, y]


def zigzag(left: float, right: float, y: float, height: float, count: int) -> Stroke:
    """A line of writing, a tuft of grass: `count` strokes up and down from left to right."""
    x = np.linspace(left, right, count + 1)
    return np.stack([x, y + height / 2 * (-1.0) ** np.arange(count + 1)], axis=1)


def scribble(left: float, top: float, right: float, bottom: float, count: int) -> Stroke:
    """Shading: to and fro between left and right, slanting from top to bottom."""
    y = np.linspace(top, bottom, count + 1)
    x = np.where(np.arange(count + 1) % 2, right, left)
    return np.stack([x, y], axis=1)


def turned(strokes: Sequence[Stroke], degrees: float, about: Point = (128, 128)) -> list[Stroke]:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array([[cos, sin], [-sin, cos]])
    return [(stroke - about) @ matrix + about for stroke in strokes]


def moved(strokes: Sequence[Stroke], x: float, y: float, scale: float = 1) -> list[Stroke]:
    """Scaled about the origin, then moved."""
    return [stroke * scale + [x, y] for stroke in strokes]


def mirrored(strokes: Sequence[Stroke]) -> list[Stroke]:
    """Left for right, about the middle of the square."""
    return [stroke * [-1, 1] + [256, 0] for stroke in strokes]
