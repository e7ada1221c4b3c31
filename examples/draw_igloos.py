"""Draws the igloos of `examples/igloos`, for the walk in the README.

    python -m examples.draw_igloos

Made up by this program, nobody's drawings (CC0). Version 1 has never seen an igloo: the walk teaches it what one is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pipeline.starter.hand import Hand
from pipeline.starter.shapes import Stroke

FOLDER = Path(__file__).parent / "igloos"
COUNT = 40
SIDE = 256  # pixels of the file; the pen is PEN wide
PEN = 7
FINER = 4  # drawn so much larger, then shrunk, for smooth edges


def igloo(hand: Hand) -> list[Stroke]:
    """A dome on the snow, its door, a few rows of blocks."""
    wide, high = hand.between(95, 115), hand.between(85, 125)
    base = 200.0
    door = hand.between(22, 34)
    middle = 128 + hand.between(-30, 30)
    strokes = [
        _arch(128, base, wide, high),
        np.array([[128 - wide - 8, base], [128 + wide + 8, base]]),
        _arch(middle, base, door, hand.between(38, 55)),
    ]
    for row in np.linspace(0.3, 0.75, hand.count(2, 3)):
        y, reach = base - row * high, wide * np.sqrt(1 - row**2)
        left, right = 128 - reach, 128 + reach
        above_the_door = row > 0.5
        for start, end in (
            [(left, right)] if above_the_door else [(left, middle - door - 6), (middle + door + 6, right)]
        ):
            strokes.append(np.array([[start, y], [end, y]]))
    for _ in range(hand.count(2, 5)):
        x, y = 128 + hand.between(-0.6, 0.6) * wide, base - hand.between(0.3, 0.7) * high
        if abs(x - middle) > door + 8:
            strokes.append(np.array([[x, y], [x, y - 0.2 * high]]))
    return strokes


def _arch(x: float, base: float, radius: float, height: float) -> Stroke:
    angle = np.linspace(np.pi, 0, 24)
    return np.stack([x + radius * np.cos(angle), base - height * np.sin(angle)], axis=1)


def draw(seed: int) -> Image.Image:
    """Dark ink on white paper."""
    hand = Hand(np.random.default_rng([2026, seed]))
    strokes = _centred(hand.trace(igloo(hand)))
    paper = Image.new("L", (SIDE * FINER, SIDE * FINER), 255)
    pen = ImageDraw.Draw(paper)
    for stroke in strokes:
        points = [(float(x) * FINER, float(y) * FINER) for x, y in stroke]
        pen.line(points, fill=0, width=PEN * FINER, joint="curve")
    return paper.resize((SIDE, SIDE), Image.Resampling.BOX)


def _centred(strokes: list[Stroke]) -> list[Stroke]:
    """Within the paper, with a margin."""
    points = np.concatenate(strokes)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = min(1.0, (SIDE - 4 * PEN) / float((high - low).max()))
    return [(stroke - (low + high) / 2) * scale + SIDE / 2 for stroke in strokes]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for number in range(1, COUNT + 1):
        draw(number).quantize(8).save(FOLDER / f"igloo-{number:02d}.png", optimize=True)
    print(f"{COUNT} igloos in {FOLDER}")


if __name__ == "__main__":
    main()
