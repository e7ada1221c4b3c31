"""The one stroke renderer: pen strokes in, the bitmap a model sees out.

The starter doodles, the import of Quick, Draw! strokes and (in its own language, ui/shared/drawing/) the browser's
canvas all draw by this rule, so a model sees the same pixels whoever drew them. It follows the data set's own
`numpy_bitmap` files: the longer side of the drawing becomes 255 units, centred in a square of 256; the line is 16 units
wide with round caps and joins; 304 units (256 + 2 x 16 padding + 16 line) map to 28 pixels by area coverage;
0 is paper, 255 is ink.

The coverage is exact: the outline of the ink is found, and its area in every pixel integrated, without samples:

1. Scale by 255 / longer side (by 1 when that is zero), move the centre of the bounding box to (152, 152), multiply
   by 28 / 304. Positions are now in pixels: column c, row r covers [c, c + 1) x [r, r + 1). Points that repeat the one
   before are left out. Join a stroke's consecutive points to segments; a lone point is a segment of length zero.
2. Point number i moves by NUDGE x (frac(i x 0.618...) - 1/2, frac(i x 0.754...) - 1/2): now no two outlines lie on
   each other, and no case needs a rule of its own. That is a millionth of what one step of 255 needs.
3. The ink is the union of all points closer than `radius` to a segment. Its outline is made of arcs around points and
   of sides along segments (at a distance of `radius`, both ways), less what of them lies inside another segment's ink:
   - of a point's circle, a segment's ink covers one arc (`_covered_arcs`), of the point's own segments' one half;
   - of a side, a segment's ink covers one stretch (`_covered_stretches`).
   What is left when these are taken out is the outline, with the ink on its left.
4. By Green's theorem the ink in pixel (c, r) is the integral of clamp(x - c, 0, 1) dy along the outline within row r.
   So the outline is cut where x or y is whole; a piece adds its dy to every pixel left of its own, and the integral
   of (x - c) dy, which is closed for lines and arcs, to its own.
5. A pixel is floor(255 x coverage + 1/2).

Overlapping ink counts once. About 1 ms a starter drawing (98 points) on one core of an AMD EPYC, numpy 2, in batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InvalidImage

Stroke = NDArray[np.floating[Any]]  # (P, 2): x to the right, y down, in any unit
Drawing = Sequence[Stroke]
Floats = NDArray[np.float64]
Integers = NDArray[np.intp]
Pairs = tuple[Integers, Integers]

LONGER_SIDE = 255.0
LINE = 16.0
VIEW = 304.0  # units along the bitmap's side: 256 + 2 x 16 padding + 16 line
FURTHEST = 1e9  # a point beyond this is no pen's, and differences would lose their digits
REPEATED = 1e-9  # pixels: a point this near to the one before it is left out
NUDGE = 1e-8  # pixels
NUDGES = np.array([0.6180339887498949, 0.7548776662466927])  # multiples of them lie apart in the unit square
TIE = 1e-4  # of 255: what lies on a half, but for NUDGE and rounding, goes up
BATCH = 8  # drawings rendered together: enough to amortise numpy's calls, few enough for the cache
TURN = 2 * np.pi


def render(strokes: Drawing, size: int = 28) -> NDArray[np.uint8]:
    """The strokes as a (size, size) bitmap, 0 = paper, 255 = ink. No strokes: all paper.

    Raises InvalidImage when a stroke is not (P, 2) or holds NaN, infinity or a number beyond FURTHEST.
    """
    bitmap: NDArray[np.uint8] = render_many([strokes], size)[0]
    return bitmap


def render_many(drawings: Iterable[Drawing], size: int = 28) -> NDArray[np.uint8]:
    """Each drawing as `render` draws it: (N, size, size)."""
    placed = [_placed(strokes, size) for strokes in drawings]
    bitmaps = np.zeros((len(placed), size, size), np.uint8)
    for start in range(0, len(placed), BATCH):
        _ink(placed[start : start + BATCH], bitmaps[start : start + BATCH])
    return bitmaps


def strokes_of_quickdraw(drawing: object) -> list[Stroke]:
    """The `drawing` value of a line of a Quick, Draw! `.ndjson` file: `[[xs, ys], …]`, or `[[xs, ys, times], …]`.

    Raises InvalidImage, naming the stroke, when it is anything else.
    """
    if not isinstance(drawing, list):
        raise InvalidImage(f"a drawing is a list of strokes, not {type(drawing).__name__}")
    return [_stroke_of_quickdraw(stroke, number) for number, stroke in enumerate(drawing, start=1)]


def _stroke_of_quickdraw(stroke: object, number: int) -> Stroke:
    if not isinstance(stroke, list) or len(stroke) not in (2, 3):
        raise InvalidImage(f"stroke {number} is not [xs, ys] or [xs, ys, times]")
    xs, ys = stroke[:2]
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys) or not xs:
        raise InvalidImage(f"stroke {number} needs as many xs as ys, and at least one")
    if not all(isinstance(value, int | float) for value in xs + ys):
        raise InvalidImage(f"stroke {number} holds something that is not a number")
    try:
        points = np.array([xs, ys], np.float64).T
    except OverflowError:  # JSON's integers have no upper end
        points = np.full((1, 2), np.inf)
    if not np.isfinite(points).all():
        raise InvalidImage(f"stroke {number} holds a number that is not finite")
    return points


@dataclass(frozen=True)
class _Lines:
    """What is drawn, in pixels: points (P, 2), and segments as the indices (S, 2) of either end."""

    points: Floats
    ends: Integers


@dataclass(frozen=True)
class _Segments:
    """From `a` along the unit vector `along` to `b`: (S, 2) each; `length` (S,) may be zero."""

    a: Floats
    b: Floats
    along: Floats
    length: Floats


@dataclass(frozen=True)
class _Sides:
    """Straight parts of outlines: from `start` along the unit vector `along`, (2S, 2) each, ink on the left."""

    start: Floats
    along: Floats


@dataclass(frozen=True)
class _Stretches:
    """Stretches from `start` to `end` of curve number `curve`: angles of a circle, or lengths along a side."""

    curve: Integers
    start: Floats
    end: Floats


def _placed(strokes: Drawing, size: int) -> _Lines:
    """Steps 1 and 2."""
    checked = [np.asarray(stroke, np.float64) for stroke in strokes if len(stroke)]
    if not checked:
        return _Lines(np.zeros((0, 2)), np.zeros((0, 2), np.intp))
    for number, stroke in enumerate(checked, start=1):
        if stroke.ndim != 2 or stroke.shape[1] != 2:
            raise InvalidImage(f"stroke {number} has the shape {stroke.shape}; (points, 2) is needed")
    points = np.concatenate(checked)
    if not (np.abs(points) < FURTHEST).all():
        raise InvalidImage(f"the strokes hold a number that is not finite, or beyond {FURTHEST:g}")
    low, high = points.min(axis=0), points.max(axis=0)
    longer = float((high - low).max())
    scale = LONGER_SIDE / longer if longer > 0 else 1.0
    placed = ((points - (low + high) / 2) * scale + VIEW / 2) * (size / VIEW)

    stroke_of = np.repeat(np.arange(len(checked)), [len(stroke) for stroke in checked])
    repeats = np.zeros(len(placed), bool)
    repeats[1:] = (np.abs(np.diff(placed, axis=0)).max(axis=1) < REPEATED) & (np.diff(stroke_of) == 0)
    placed, stroke_of = placed[~repeats], stroke_of[~repeats]
    order = np.arange(len(placed))[:, None]
    placed = placed + NUDGE * (order * NUDGES % 1 - 0.5)

    starts = np.flatnonzero(np.diff(stroke_of) == 0)
    alone = np.flatnonzero(np.bincount(stroke_of)[stroke_of] == 1)
    ends = np.concatenate([np.stack([starts, starts + 1], axis=1), np.stack([alone, alone], axis=1)])
    return _Lines(placed, ends)


def _ink(drawings: Sequence[_Lines], bitmaps: NDArray[np.uint8]) -> None:
    """Steps 3 to 5, for as many drawings as there are bitmaps (N, size, size), which are written."""
    size = bitmaps.shape[-1]
    radius = LINE / 2 * size / VIEW
    points = np.concatenate([each.points for each in drawings])
    if len(points) == 0:
        return
    before = np.cumsum([0, *(len(each.points) for each in drawings[:-1])])
    ends = np.concatenate([each.ends + offset for each, offset in zip(drawings, before, strict=True)])
    point_owner = np.repeat(np.arange(len(drawings)), [len(each.points) for each in drawings])
    segment_owner = np.repeat(np.arange(len(drawings)), [len(each.ends) for each in drawings])

    a, b = points[ends[:, 0]], points[ends[:, 1]]
    length = np.hypot(*(b - a).T)
    along = np.where(length[:, None] > 0, (b - a) / np.where(length > 0, length, 1)[:, None], [1.0, 0.0])
    segments = _Segments(a, b, along, length)

    arcs = _left(
        _covered_arcs(points, ends, segments, _pairs(point_owner, segment_owner), radius),
        np.full(len(points), TURN),
    )
    # The side on the right, going forward, then the one on the left, going back: the ink is on the left of both.
    right = np.stack([along[:, 1], -along[:, 0]], axis=1) * radius
    sides = _Sides(np.concatenate([a + right, b - right]), np.concatenate([along, -along]))
    stretches = _left(
        _covered_stretches(sides, segments, _pairs(segment_owner, segment_owner), radius),
        np.concatenate([length, length]),
    )

    pieces = [
        _arc_pieces(points[arcs.curve], arcs, radius, point_owner[arcs.curve]),
        _side_pieces(sides, stretches, np.tile(segment_owner, 2)[stretches.curve]),
    ]
    column, row, owner, dy, x_dy = (np.concatenate(values) for values in zip(*pieces, strict=True))
    pixel = ((owner * size + row) * size + column).astype(np.intp)
    own = np.bincount(pixel, x_dy, bitmaps.size).reshape(bitmaps.shape)
    cover = np.bincount(pixel, dy, bitmaps.size).reshape(bitmaps.shape)
    coverage = own + np.cumsum(cover[..., ::-1], axis=-1)[..., ::-1] - cover
    bitmaps[:] = np.clip(np.floor(255 * coverage + 0.5 + TIE), 0, 255).astype(np.uint8)


def _pairs(owners: Integers, others: Integers) -> Pairs:
    """Every pair of the same drawing; both are sorted."""
    first, last = np.searchsorted(others, owners, "left"), np.searchsorted(others, owners, "right")
    which = np.repeat(np.arange(len(owners)), last - first)
    index = np.arange(len(which)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
    return which, first[which] + index


def _near(pairs: Pairs, low: Floats, high: Floats, segments: _Segments, reach: float) -> Pairs:
    """The pairs of a thing (its box from `low` to `high`) and a segment whose boxes are within reach."""
    thing, segment = pairs
    for axis in (0, 1):
        least = np.minimum(segments.a[:, axis], segments.b[:, axis]) - reach
        most = np.maximum(segments.a[:, axis], segments.b[:, axis]) + reach
        near = (low[thing, axis] < most[segment]) & (high[thing, axis] > least[segment])
        thing, segment = thing[near], segment[near]
    return thing, segment


def _covered_arcs(
    points: Floats, ends: Integers, segments: _Segments, pairs: Pairs, radius: float
) -> _Stretches:
    """Of each point's circle what lies in a segment's ink, as angles from 0 to a whole turn.

    Circle and ink have the same radius, so the ink of one point q of a segment covers the arc towards q, to
    acos(|q - centre| / 2 radius) either way, and all of them together cover one arc. It ends where q is the foot of the
    place at which the circle leaves the segment's band, or an end of the segment when that foot is beyond it.
    """
    point, segment = _near(pairs, points, points, segments, 2 * radius)
    from_a = points[point] - segments.a[segment]
    along, length = segments.along[segment], segments.length[segment]
    u = from_a[:, 0] * along[:, 0] + from_a[:, 1] * along[:, 1]
    v = along[:, 0] * from_a[:, 1] - along[:, 1] * from_a[:, 0]  # above 0: the point is on the left
    at_start, at_end = ends[segment, 0] == point, ends[segment, 1] == point
    own = at_start | at_end
    near = ~own & ((u - np.clip(u, 0, length)) ** 2 + v**2 < 4 * radius**2)

    forward = np.arctan2(along[:, 1], along[:, 0])
    halves = own & (length > 0)
    facing = np.where(at_start, forward, forward + np.pi)[halves]

    u, v, length, forward = u[near], v[near], length[near], forward[near]
    w = np.abs(v)
    foot = np.sqrt(np.maximum(w * (2 * radius - w), 0))
    last, first = np.clip(u + foot, 0, length) - u, np.clip(u - foot, 0, length) - u
    most = np.arctan2(last, w) + np.arccos(np.minimum(np.hypot(last, w) / (2 * radius), 1))
    least = np.arctan2(first, w) - np.arccos(np.minimum(np.hypot(first, w) / (2 * radius), 1))
    left = (
        v > 0
    )  # then the segment is seen in the direction forward - 90 degrees, and forward is 90 degrees on
    start = np.where(left, forward - np.pi / 2 + least, forward + np.pi / 2 - most)

    curve = np.concatenate([point[near], point[halves]])
    start = np.concatenate([start, facing - np.pi / 2]) % TURN
    end = start + np.concatenate([most - least, np.full(len(facing), np.pi)])
    over = end > TURN
    return _Stretches(
        np.concatenate([curve, curve[over]]),
        np.concatenate([start, np.zeros(over.sum())]),
        np.concatenate([np.minimum(end, TURN), end[over] - TURN]),
    )


def _covered_stretches(sides: _Sides, segments: _Segments, pairs: Pairs, radius: float) -> _Stretches:
    """Of each side what lies in another segment's ink. pairs: of segments; side k and k + S are segment k's.

    Ink is convex, so that is one stretch: from the first to the last place in the disc about either end or in the
    rectangle between them.
    """
    of, other = pairs
    of, other = of[of != other], other[of != other]
    low, high = np.minimum(segments.a, segments.b), np.maximum(segments.a, segments.b)
    of, other = _near((of, other), low, high, segments, 2 * radius)
    side, other = np.concatenate([of, of + len(segments.a)]), np.tile(other, 2)
    own_length = np.tile(segments.length[of], 2)
    x, y = sides.along[side].T
    along_x, along_y = segments.along[other].T
    length = segments.length[other]

    start, end = np.full(len(side), np.inf), np.full(len(side), -np.inf)
    for middle in (segments.b, segments.a):
        from_x, from_y = (sides.start[side] - middle[other]).T
        half_squared = radius**2 - (x * from_y - y * from_x) ** 2
        half = np.sqrt(np.maximum(half_squared, 0))
        nearest = -(from_x * x + from_y * y)
        hit = half_squared > 0
        start = np.where(hit, np.minimum(start, nearest - half), start)
        end = np.where(hit, np.maximum(end, nearest + half), end)

    # `from` is still from a. Where the two are exactly parallel a crossing is infinitely far, this way or that.
    u, v = along_x * from_x + along_y * from_y, along_x * from_y - along_y * from_x
    du, dv = along_x * x + along_y * y, along_x * y - along_y * x
    with np.errstate(over="ignore"):
        du, dv = np.where(du == 0, 1e-300, du), np.where(dv == 0, 1e-300, dv)
        into, out = np.sort([-u / du, (length - u) / du], axis=0)
        above, below = np.sort([(-radius - v) / dv, (radius - v) / dv], axis=0)
    first, last = np.maximum(into, above), np.minimum(out, below)
    hit = first < last
    start = np.maximum(np.where(hit, np.minimum(start, first), start), 0)
    end = np.minimum(np.where(hit, np.maximum(end, last), end), own_length)
    covered = start < end
    return _Stretches(side[covered], start[covered], end[covered])


def _left(covered: _Stretches, lengths: Floats) -> _Stretches:
    """What is left of curves of these lengths, the covered stretches taken out."""
    count = len(lengths)
    curves, none = np.arange(count), np.zeros(count)
    curve = np.concatenate([covered.curve, curves, curves])
    start = np.concatenate([covered.start, none, lengths])
    end = np.concatenate([covered.end, none, lengths])
    order = np.lexsort((start, curve))
    curve, start, end = curve[order], start[order], end[order]
    # The furthest end so far on the same curve: later curves lie beyond earlier ones.
    shifted = end + curve * (lengths.max() + 1)
    furthest = np.maximum.accumulate(
        np.where(shifted >= np.maximum.accumulate(shifted), np.arange(len(end)), 0)
    )
    reached = end[furthest]
    free = np.flatnonzero((curve[1:] == curve[:-1]) & (start[1:] > reached[:-1]))
    return _Stretches(curve[free], reached[free], start[free + 1])


Pieces = tuple[
    Floats, Floats, Integers, Floats, Floats
]  # column, row, owner, integrals of dy and (x - column) dy


def _arc_pieces(centres: Floats, arcs: _Stretches, radius: float, owners: Integers) -> Pieces:
    """Arcs cut at the pixels' edges. A cut too many does no harm."""
    edges = np.floor(centres - radius)[:, :, None] + np.arange(1, int(2 * radius) + 2)
    away = np.clip((edges - centres[:, :, None]) / radius, -1, 1)  # (arcs, x and y, edges)
    from_x, from_y = np.arccos(away[:, 0]), np.arcsin(away[:, 1])
    cuts = np.concatenate([from_x, TURN - from_x, from_y % TURN, np.pi - from_y], axis=1)
    at = np.sort(np.clip(cuts, arcs.start[:, None], arcs.end[:, None]), axis=1)
    at = np.concatenate([arcs.start[:, None], at, arcs.end[:, None]], axis=1)
    arc, index = np.nonzero(at[:, 1:] > at[:, :-1])
    start, end = at[arc, index], at[arc, index + 1]
    middle = (start + end) / 2
    x, y = centres[arc].T
    column, row = np.floor(x + radius * np.cos(middle)), np.floor(y + radius * np.sin(middle))
    dy = radius * (np.sin(end) - np.sin(start))
    x_dy = (x - column) * dy + radius**2 / 2 * (end - start + (np.sin(2 * end) - np.sin(2 * start)) / 2)
    return column, row, owners[arc], dy, x_dy


def _side_pieces(sides: _Sides, stretches: _Stretches, owners: Integers) -> Pieces:
    """Straight stretches cut at the pixels' edges."""
    start, along = sides.start[stretches.curve], sides.along[stretches.curve]
    number = np.arange(len(start))
    stretch, cut = [number, number], [stretches.start, stretches.end]
    for axis in (0, 1):
        one = start[:, axis] + along[:, axis] * stretches.start
        two = start[:, axis] + along[:, axis] * stretches.end
        first = np.floor(np.minimum(one, two)) + 1
        count = np.maximum(np.ceil(np.maximum(one, two)) - first, 0).astype(np.intp)
        which = np.repeat(number, count)
        edge = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        stretch.append(which)
        cut.append((edge - start[which, axis]) / along[which, axis])
    which, at = np.concatenate(stretch), np.concatenate(cut)
    at = np.clip(at, stretches.start[which], stretches.end[which])
    order = np.lexsort((at, which))
    which, at = which[order], at[order]
    same = np.flatnonzero((which[1:] == which[:-1]) & (at[1:] > at[:-1]))
    which, begin, end = which[same], at[same], at[same + 1]
    middle = start[which] + along[which] * ((begin + end) / 2)[:, None]
    column, row = np.floor(middle).T
    dy = along[which, 1] * (end - begin)
    return column, row, owners[which], dy, (middle[:, 0] - column) * dy
