"""How people draw bananas, flowers and rainbows. Each function is one way of drawing the thing."""

from __future__ import annotations

import numpy as np

from pipeline.starter.hand import Hand
from pipeline.starter.shapes import (
    Point,
    Stroke,
    arc,
    box,
    closed,
    curve,
    ellipse,
    loop,
    mirrored,
    moved,
    path,
    scribble,
    turned,
    zigzag,
)

# ------------------------------------------------------------------------------------------------------ banana


def banana(hand: Hand) -> list[Stroke]:
    """A hanging crescent, then turned: smiles and sickles are common, bridges are rare."""
    way = hand.pick(
        [(6, crescent), (2, banana_with_ridge), (1.6, banana_as_arcs), (1.2, bent_banana), (0.7, bunch)]
    )
    turn = hand.pick(
        [
            (4, 0.0),
            (3, -35.0),
            (2, 35.0),
            (2.2, 90.0),
            (1.8, -90.0),
            (1, 60.0),
            (1, -60.0),
            (0.3, 180.0),
            (0.4, -130.0),
        ]
    )
    strokes = turned(way(hand), turn + hand.between(-14, 14))
    return mirrored(strokes) if hand.chance(0.35) else strokes


def _crescent(hand: Hand) -> tuple[list[Point], list[Point]]:
    """The outer and the inner edge, each from the left tip to the right one."""
    sag, thick = hand.between(35, 100), hand.between(14, 62)
    lean, top = hand.between(-30, 30), 128 - sag / 2
    outer = [
        (16.0, top),
        (60 + lean * 0.3, top + sag * 0.75),
        (128 + lean, top + sag),
        (200 + lean * 0.3, top + sag * 0.7),
        (240.0, top + hand.between(-20, 10)),
    ]
    inner_sag = max(sag - thick, -10.0)
    inner = [
        (16.0, top),
        (75 + lean * 0.3, top + inner_sag * 0.75),
        (128 + lean, top + inner_sag),
        (185 + lean * 0.3, top + inner_sag * 0.7),
        outer[-1],
    ]
    return outer, inner


def crescent(hand: Hand) -> list[Stroke]:
    outer, inner = _crescent(hand)
    strokes = [curve(*outer), curve(*reversed(inner))]
    if hand.chance(0.5):
        strokes = [np.concatenate(strokes)]
    end_x, end_y = outer[-1]
    tip = hand.pick([(3, "none"), (2, "stub"), (1, "line"), (1, "square ends"), (0.6, "dark")])
    if tip == "stub":
        wide = hand.between(7, 14)
        strokes.append(
            path(
                (end_x - wide, end_y + 6),
                (end_x - wide + 4, end_y - 22),
                (end_x + wide, end_y - 20),
                (end_x + wide - 4, end_y + 8),
            )
        )
    elif tip == "line":
        strokes.append(path((end_x, end_y), (end_x + hand.between(-6, 12), end_y - hand.between(14, 34))))
    elif tip == "square ends":
        cut = hand.between(8, 16)
        blunt = (
            [(x, y) for x, y in outer],
            [(x + cut, y - cut * 0.3) for x, y in inner[:1]]
            + inner[1:-1]
            + [(end_x - cut * 1.4, end_y - cut * 0.4)],
        )
        strokes = [
            curve(*blunt[0]),
            path(blunt[0][-1], blunt[1][-1]),
            curve(*reversed(blunt[1])),
            path(blunt[0][0], blunt[1][0]),
        ]
    elif tip == "dark":
        strokes.append(scribble(end_x - 10, end_y - 10, end_x + 8, end_y + 10, 5))
    if hand.chance(0.05):
        strokes.append(scribble(50, 110, 200, 165, hand.count(10, 18)))
    return strokes


def banana_with_ridge(hand: Hand) -> list[Stroke]:
    """A crescent with one or two lines along it."""
    outer, inner = _crescent(hand)
    strokes = [curve(*outer), curve(*inner)]
    for share in (0.4, 0.65)[: hand.count(1, 2)]:
        between = [
            (a[0] * share + b[0] * (1 - share), a[1] * share + b[1] * (1 - share))
            for a, b in zip(outer, inner, strict=True)
        ]
        strokes.append(curve(*(between if hand.chance(0.5) else between[1:-1])))
    return strokes


def banana_as_arcs(hand: Hand) -> list[Stroke]:
    """Only its edges, not meeting; sometimes only one of them."""
    outer, inner = _crescent(hand)
    strokes = [curve(*outer)]
    if hand.chance(0.6):
        strokes += moved([curve(*inner[: hand.count(3, 4)])], hand.between(-10, 25), -hand.between(5, 20))
    return strokes


def bent_banana(hand: Hand) -> list[Stroke]:
    """A boomerang: two straight arms and a corner, the ends cut off."""
    knee, wide, inside = hand.between(70, 150), hand.between(20, 40), hand.between(0.25, 0.6)
    bottom, top = 200.0, hand.between(60, 120)
    outline = [
        (16, top),
        (knee - wide, bottom),
        (knee + wide, bottom),
        (240, top + 20),
        (228, top - 5),
        (knee + wide * 0.6, bottom - 90 * inside),
        (knee - wide * 0.3, bottom - 90 * inside),
        (32, top - 8),
    ]
    return [closed(*outline) if hand.chance(0.5) else curve(*outline, outline[0])]


def bunch(hand: Hand) -> list[Stroke]:
    """Two to four bananas from one stalk."""
    strokes: list[Stroke] = []
    for number in range(hand.count(2, 4)):
        outer, inner = _crescent(hand)
        one = [np.concatenate([curve(*outer), curve(*reversed(inner))])]
        strokes += turned(one, number * hand.between(14, 28), (236, 90))
    return strokes


# ------------------------------------------------------------------------------------------------------ flower


def flower(hand: Hand) -> list[Stroke]:
    """A head, mostly on a stem, the stem mostly with leaves."""
    head = hand.pick(
        [
            (4, petals_around_centre),
            (2.5, scalloped_head),
            (2.5, petals_from_one_point),
            (1.3, tulip),
            (1, scribbled_head),
            (0.8, rose),
            (0.6, rays),
        ]
    )
    strokes = head(hand)  # within 100 of the origin
    upright = head in (tulip, rose)
    if hand.chance(0.2) and not upright:
        return turned(moved(strokes, 128, 128), hand.between(-30, 30))
    size = hand.between(0.35, 0.8)
    strokes = moved(strokes, 128, 20 + 95 * size, size)
    neck = 20 + 95 * size + (size * (90 if upright else hand.pick([(3, 85.0), (1, 30.0)])))
    foot = 128 + hand.between(-35, 35)
    middle = (128 + foot) / 2 + hand.between(-25, 25)
    stem = (
        curve((128, neck), (middle, (neck + 245) / 2), (foot, 245))
        if hand.chance(0.7)
        else path((128, neck), (foot, 245))
    )
    strokes.append(stem)
    if hand.chance(0.1):
        strokes += moved([stem], hand.between(8, 14), 0)
    return turned(strokes + _leaves(hand, stem), hand.between(-10, 10))


def _leaves(hand: Hand, stem: Stroke) -> list[Stroke]:
    strokes: list[Stroke] = []
    for side in (-1, 1):
        if not hand.chance(0.3):
            continue
        x, y = stem[int(len(stem) * hand.between(0.4, 0.9))]
        length, direction = hand.between(25, 60), -90 + side * hand.between(25, 75)
        if hand.chance(0.8):
            strokes.append(loop(x, y, length, hand.between(6, 14), direction))
        else:
            strokes += turned([path((x, y), (x + length, y))], direction, (x, y))
    if hand.chance(0.05):
        strokes.append(zigzag(30, 226, 240, 20, 12))
    return strokes


def petals_around_centre(hand: Hand) -> list[Stroke]:
    """A disc with petals touching its rim."""
    disc, count = hand.between(20, 38), hand.count(4, 8)
    strokes = [ellipse(0, 0, disc, disc, hand.between(0, 360))]
    if hand.chance(0.1):
        strokes.append(scribble(-disc * 0.6, -disc * 0.5, disc * 0.6, disc * 0.5, 6))
    start, width = hand.between(0, 360), min(2.6 * (disc + 25) / count, 34)
    kind = hand.pick([(2, "round"), (2, "loops"), (1.5, "arcs"), (0.7, "points")])
    for number in range(count):
        angle = start + 360 / count * number + hand.between(-6, 6)
        length = hand.between(0.85, 1.1) * (95 - disc)
        x, y = arc(0, 0, disc, disc, angle, angle)[0]
        if kind == "round":
            middle = arc(0, 0, disc + length / 2, disc + length / 2, angle, angle)[0]
            petal = ellipse(middle[0], middle[1], length / 2, width * 0.9, 180)
            strokes += turned([petal], angle, (middle[0], middle[1]))
        elif kind == "loops":
            strokes.append(loop(x, y, length, width, angle))
        elif kind == "arcs":
            half = 180 / count * hand.between(0.8, 1.1)
            a, tip, b = (
                arc(0, 0, r, r, angle + d, angle + d)[0]
                for r, d in ((disc, -half), (disc + length, 0), (disc, half))
            )
            left, right = (
                arc(0, 0, disc + length * 0.7, disc + length * 0.7, angle + d, angle + d)[0]
                for d in (-half, half)
            )
            strokes.append(curve(tuple(a), tuple(left), tuple(tip), tuple(right), tuple(b)))
        else:
            half = 180 / count
            a, b = (arc(0, 0, disc, disc, angle + d, angle + d)[0] for d in (-half, half))
            tip = arc(0, 0, disc + length, disc + length, angle, angle)[0]
            strokes.append(path(tuple(a), tuple(tip), tuple(b)))
    return strokes


def scalloped_head(hand: Hand) -> list[Stroke]:
    """The petals as one wavy ring, round a disc or not."""
    count, depth = hand.count(4, 9), hand.between(0.12, 0.4)
    angle = np.linspace(0, 2 * np.pi, count * 8 + 1)
    wave = np.abs(np.sin(angle * count / 2)) if hand.chance(0.8) else (1 + np.sin(angle * count)) / 2
    radius = 95 * (1 - depth + depth * wave)
    ring = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    strokes = turned([ring], hand.between(0, 360), (0, 0))
    if hand.chance(0.75):
        disc = hand.between(15, 55)
        strokes.append(ellipse(0, 0, disc, disc, hand.between(0, 360)))
    return strokes


def petals_from_one_point(hand: Hand) -> list[Stroke]:
    """Loops out of the middle, often without lifting the pen."""
    count, width = hand.count(4, 7), hand.between(22, 44)
    start = hand.between(0, 360)
    strokes = [
        loop(0, 0, hand.between(70, 100), width * 4.5 / count, start + 360 / count * n) for n in range(count)
    ]
    if hand.chance(0.5):
        strokes = [np.concatenate(strokes)]
    if hand.chance(0.35):
        strokes.append(ellipse(0, 0, 16, 16))
    return strokes


def tulip(hand: Hand) -> list[Stroke]:
    """A cup with a zigzag rim."""
    wide, rim = hand.between(45, 75), hand.between(-95, -75)
    cup = curve((-wide, rim), (-wide, 20), (0, 90), (wide, 20), (wide, rim))
    middle = hand.between(-50, -20)
    points = [(-wide, rim), (-wide * 0.45, middle), (0, rim - 5), (wide * 0.45, middle), (wide, rim)]
    strokes = [cup, path(*points) if hand.chance(0.7) else curve(*points)]
    if hand.chance(0.25):
        strokes.append(curve((0, rim), (-wide * 0.4, 10), (0, 85)))
    return strokes


def scribbled_head(hand: Hand) -> list[Stroke]:
    turns, around = hand.count(8, 16), hand.between(35, 65)
    points = [tuple(hand.rng.normal(0, around, 2).clip(-95, 95)) for _ in range(turns)]
    return [curve(*points)]


def rose(hand: Hand) -> list[Stroke]:
    """A spiral, sometimes in a cup."""
    angle = np.linspace(0, 2 * np.pi * hand.between(1.8, 3.2), 40)
    radius = np.linspace(6, 85, 40)
    strokes = [np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)]
    if hand.chance(0.3):
        strokes.append(curve((-85, 0), (-60, 70), (0, 90), (60, 70), (85, 0)))
    return strokes


def rays(hand: Hand) -> list[Stroke]:
    """A disc with single lines for petals."""
    disc, count = hand.between(18, 45), hand.count(6, 12)
    strokes = [ellipse(0, 0, disc, disc)]
    for number in range(count):
        angle = 360 / count * number + hand.between(-8, 8)
        near, far = (arc(0, 0, r, r, angle, angle)[0] for r in (disc, hand.between(75, 100)))
        strokes.append(path(tuple(near), tuple(far)))
    return strokes


# ----------------------------------------------------------------------------------------------------- rainbow


def rainbow(hand: Hand) -> list[Stroke]:
    way = hand.pick(
        [
            (3.5, one_bow),
            (6, bows),
            (1.2, closed_band),
            (1.2, rainbow_with_clouds),
            (1.2, slanting_bows),
            (0.6, flat_bands),
        ]
    )
    strokes = way(hand)
    return turned(strokes, hand.pick([(5, 0.0), (1, 15.0), (1, -15.0)]) + hand.between(-6, 6))


def _bow(hand: Hand, tall: float, square: float, inset: float) -> Stroke:
    """A bridge from foot to foot; `square` 0 is round, 1 has shoulders, -1 is pointed; inset is from the outer bow."""
    left, right, top = 14 + inset, 242 - inset, 220 - tall + inset
    if left > 118 or top > 210:
        left, right, top = min(left, 118.0), max(right, 138.0), min(top, 205.0)
    out = 0.20 - 0.16 * square
    wide = right - left
    high = 220 - top
    shoulder = top + high * (0.30 - 0.25 * square)
    return curve(
        (left, 220),
        (left + wide * out * 0.35, top + high * 0.55),
        (left + wide * out * 1.2, shoulder),
        (128, top),
        (right - wide * out * 1.2, shoulder),
        (right - wide * out * 0.35, top + high * 0.55),
        (right, 220),
    )


def _manner(hand: Hand) -> tuple[float, float]:
    """How tall the bow is, and how square."""
    return hand.pick(
        [(3, hand.between(45, 95)), (4, hand.between(90, 140)), (1.5, hand.between(140, 200))]
    ), hand.pick([(3, 0.0), (2, hand.between(0, 0.9)), (1, hand.between(-0.8, 0))])


def one_bow(hand: Hand) -> list[Stroke]:
    if hand.chance(0.4):
        reach = hand.between(0, 45)
        return [
            arc(
                128,
                200,
                112,
                hand.between(40, 150),
                180 + hand.between(0, reach),
                360 - hand.between(0, reach),
            )
        ]
    strokes = [_bow(hand, *_manner(hand), 0)]
    if hand.chance(0.12):
        strokes.append(path((hand.between(20, 230), hand.between(120, 220))))
    return strokes


def bows(hand: Hand) -> list[Stroke]:
    """Two to seven bows, one within the other."""
    tall, square = _manner(hand)
    count = hand.pick([(4, 2), (4, 3), (2, 4), (1, 5), (0.7, 6)])
    gap = hand.between(14, 34) if count < 4 else hand.between(9, 20)
    strokes = []
    cut = hand.between(0, 0.2)
    for number in range(count):
        bow = _bow(hand, tall, square * hand.between(0.5, 1), gap * number * hand.between(0.8, 1.1))
        if hand.chance(0.3):
            bow = bow[int(len(bow) * hand.between(0, cut)) : int(len(bow) * hand.between(1 - cut, 1)) + 1]
        strokes.append(bow)
    if hand.chance(0.12):
        strokes.append(path((14, 220), (14 + gap * (count - 1), 220)))
        strokes.append(path((242 - gap * (count - 1), 220), (242, 220)))
    return strokes


def closed_band(hand: Hand) -> list[Stroke]:
    """One band, its feet drawn; perhaps a bow along it."""
    (tall, square), gap = _manner(hand), hand.between(22, 70)
    outer, inner = _bow(hand, tall, square, 0), _bow(hand, tall, square, gap)
    strokes = [np.concatenate([outer, inner[::-1], outer[:1]])]
    if hand.chance(0.5):
        strokes.append(_bow(hand, tall, square, gap / 2))
    if hand.chance(0.15):
        strokes.append(path((14, 220), (242, 220)))
    return strokes


def rainbow_with_clouds(hand: Hand) -> list[Stroke]:
    strokes = bows(hand)
    for x in (24, 232):
        if hand.chance(0.85):
            strokes.append(_cloud(hand, x, 222, hand.between(22, 42)))
    return strokes


def _cloud(hand: Hand, x: float, y: float, size: float) -> Stroke:
    if hand.chance(0.25):
        return ellipse(x, y, size, size * 0.6)
    bumps = hand.count(4, 7)
    angle = np.linspace(0, 2 * np.pi, bumps * 6 + 1)
    radius = size * (0.7 + 0.3 * np.abs(np.sin(angle * bumps / 2)))
    return np.stack([x + radius * np.cos(angle), y + radius * 0.65 * np.sin(angle)], axis=1)


def slanting_bows(hand: Hand) -> list[Stroke]:
    """Half a rainbow: curves side by side rising to one corner."""
    count, gap, bend = hand.count(1, 6), hand.between(14, 30), hand.between(0.1, 0.9)
    strokes = []
    for number in range(count):
        shift = gap * number
        corner = (40 + 60 * (1 - bend) + shift, 40 + 60 * (1 - bend) + shift * 0.8)
        strokes.append(
            curve(
                (20 + shift, 235 - hand.between(0, 15)),
                corner,
                (225 + hand.between(-10, 10), 20 + shift * 0.9),
            )
        )
    return mirrored(strokes) if hand.chance(0.25) else strokes


def flat_bands(hand: Hand) -> list[Stroke]:
    """Nearly straight lines one above the other."""
    rise, gap = hand.between(5, 25), hand.between(10, 20)
    strokes = [
        curve((16, 128 + gap * n), (128, 128 + gap * n - rise), (240, 128 + gap * n))
        for n in range(hand.count(2, 6))
    ]
    if hand.chance(0.2):
        strokes.append(box(16, 128 - rise, 240, 128 + gap * len(strokes)))
    return strokes
