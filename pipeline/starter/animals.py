"""How people draw birds, cats and dogs. Each function is one way of drawing the animal."""

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
    turned,
    zigzag,
)


def _eye(hand: Hand, x: float, y: float, size: float = 6) -> list[Stroke]:
    """A dot, a ring, a ring with a dot, a dash or a closed lid."""
    kind = hand.pick([(4, "dot"), (3, "ring"), (1, "both"), (0.7, "dash"), (0.5, "lid")])
    if kind == "dot":
        return [ellipse(x, y, size * 0.4, size * 0.4)]
    if kind == "ring":
        return [ellipse(x, y, size, size * hand.between(0.7, 1.4))]
    if kind == "both":
        return [ellipse(x, y, size * 1.6, size * 1.5), ellipse(x, y, size * 0.4, size * 0.4)]
    if kind == "dash":
        return [path((x, y - size), (x, y + size))]
    return [arc(x, y, size * 1.5, size, 180, 360)]


# -------------------------------------------------------------------------------------------------------- bird


def bird(hand: Hand) -> list[Stroke]:
    """Looking left, then turned over half the time."""
    way = hand.pick(
        [
            (2.2, gulls),
            (3.5, bird_standing),
            (2.5, bird_upright),
            (1.6, bird_soaring),
            (2.2, bird_in_one_line),
            (2.5, bird_as_a_drop),
            (1.5, bird_flying),
            (1, bird_between_two_loops),
            (1, bird_from_the_front),
            (1.2, chick),
            (1, bird_on_stilts),
            (0.6, bird_from_above),
            (0.5, swallow),
            (0.4, head_of_a_bird),
        ]
    )
    strokes = turned(way(hand), hand.between(-14, 14))
    return mirrored(strokes) if hand.chance(0.5) else strokes


def gulls(hand: Hand) -> list[Stroke]:
    """Birds far away: two wings each, like a flat m or a v."""
    strokes: list[Stroke] = []
    count = hand.pick([(3, 1), (1.5, 2), (2, 3), (1, 4), (0.7, 6)])
    pointed = hand.chance(0.3)
    for _ in range(count):
        rise, dip = hand.between(0.15, 0.55), hand.between(0.0, 0.4)
        tilt = hand.between(-0.15, 0.15)
        if pointed:
            wings = [path((-1, -rise - tilt), (0, 0), (1, -rise + tilt))]
        else:
            wings = [
                curve((-1, dip * rise), (-0.5, -rise), (-0.08, -0.05), (0, 0)),
                curve((0, 0), (0.08, -0.05), (0.5, -rise + tilt), (1, dip * rise + tilt)),
            ]
            wings = [np.concatenate(wings)]
        size = 110 if count == 1 else hand.between(35, 65)
        strokes += moved(wings, hand.between(60, 200), hand.between(60, 200), size)
    return strokes


def _beak(hand: Hand, x: float, y: float, size: float) -> list[Stroke]:
    long = size * hand.between(0.8, 2.2)
    kind = hand.pick([(4, "triangle"), (2, "open"), (1, "line")])
    if kind == "triangle":
        return [path((x, y - size * 0.6), (x - long, y + hand.between(-4, 8)), (x, y + size * 0.6))]
    if kind == "open":
        return [
            path(
                (x, y - size),
                (x - long, y - size * 0.4),
                (x - 4, y),
                (x - long, y + size * 0.6),
                (x, y + size),
            )
        ]
    return [path((x, y), (x - long, y))]


def _bird_legs(hand: Hand, x: float, y: float, apart: float, length: float) -> list[Stroke]:
    strokes: list[Stroke] = []
    feet = hand.pick([(2, "none"), (2, "one toe"), (3, "toes")])
    lean = hand.between(-10, 10)
    for foot in (x - apart, x + apart):
        end = y + length
        strokes.append(path((foot, y), (foot + lean, end)))
        if feet == "one toe":
            strokes[-1] = path((foot, y), (foot + lean, end), (foot + lean - 16, end + 3))
        elif feet == "toes":
            strokes.append(
                path((foot + lean - 14, end + 10), (foot + lean, end), (foot + lean + 2, end + 12))
            )
            if hand.chance(0.5):
                strokes.append(path((foot + lean, end), (foot + lean + 14, end + 8)))
    return strokes


def bird_standing(hand: Hand) -> list[Stroke]:
    """Body, head, beak, tail, wing and legs, joined from separate shapes."""
    long, tall = hand.between(48, 82), hand.between(30, 58)
    slope = hand.between(-45, 15)
    x, y = 140.0, 140.0
    head = hand.between(20, 36)
    angle = hand.between(195, 245)
    head_x, head_y = (float(v) for v in arc(x, y, long * 0.95, tall * 1.15 + head * 0.4, angle, angle)[0])
    body = turned(
        [ellipse(0, 0, long, tall, hand.between(150, 260), hand.between(330, 370))], slope * 0.5, (0, 0)
    )
    strokes = moved(body, x, y)
    if hand.chance(0.2):
        neck = hand.between(25, 60)
        head_y -= neck
        strokes += [
            path((head_x - 8, head_y + head), (x - long * 0.8, y)),
            path((head_x + 10, head_y + head), (x - long * 0.45, y - tall * 0.8)),
        ]
    strokes.append(
        ellipse(
            head_x, head_y, head, head * hand.between(0.8, 1.1), hand.between(60, 180), hand.between(300, 370)
        )
    )
    strokes += _beak(hand, head_x - head, head_y, head * 0.45)
    if hand.chance(0.75):
        strokes += _eye(hand, head_x - head * 0.2, head_y - head * 0.15, 5)
    if hand.chance(0.55):
        strokes += _bird_tail(hand, x + long * 0.9, y - tall * 0.1)
    if hand.chance(0.55):
        strokes += _folded_wing(hand, x, y, long, tall)
    if hand.chance(0.75):
        strokes += _bird_legs(hand, x, y + tall * 0.9, hand.between(8, 26), hand.between(20, 60))
    return strokes


def _bird_tail(hand: Hand, x: float, y: float) -> list[Stroke]:
    long, open_ = hand.between(25, 60), hand.between(8, 25)
    lift = hand.between(-30, 20)
    if hand.chance(0.4):
        return [
            path(
                (x, y - 8),
                (x + long, y + lift - open_),
                (x + long * 0.8, y + lift),
                (x + long, y + lift + open_),
                (x, y + 8),
            )
        ]
    if hand.chance(0.5):
        return [path((x, y - 8), (x + long, y + lift - open_), (x + long, y + lift + open_), (x, y + 10))]
    return [path((x, y), (x + long, y + lift + (n - 1) * open_)) for n in range(hand.count(2, 3))]


def _folded_wing(hand: Hand, x: float, y: float, long: float, tall: float) -> list[Stroke]:
    kind = hand.pick([(2, "arc"), (2, "loop"), (1, "raised")])
    if kind == "arc":
        return [arc(x + 5, y - tall * 0.2, long * 0.5, tall * 0.6, hand.between(-10, 20), 180)]
    if kind == "loop":
        return [loop(x - long * 0.35, y, long * hand.between(0.8, 1.2), tall * 0.4, hand.between(-20, 30))]
    return [
        curve(
            (x - long * 0.3, y),
            (x + 10, y - tall - hand.between(10, 60)),
            (x + long * 0.6, y - tall * 1.2),
            (x + long * 0.4, y),
        )
    ]


def bird_in_one_line(hand: Hand) -> list[Stroke]:
    """Beak, head, back, tail and belly without lifting the pen; a duck if the neck is long."""
    crown, neck, fat = hand.between(25, 60), hand.between(0, 40), hand.between(20, 60)
    tail_y, tail_x = hand.between(90, 175), hand.between(215, 245)
    outline: list[Point] = [
        (14, crown + 28),
        (40, crown + 10),
        (62, crown - 4),
        (90, crown + 12),
        (96, crown + 45 + neck * 0.5),
        (130, 108 + neck * 0.4),
        (185, 118),
        (tail_x, tail_y),
        (200, 165),
        (150, 165 + fat * 0.5),
        (95, 160 + fat * 0.5),
        (58, 135),
        (54, 95),
        (40, crown + 40),
        (14, crown + 28),
    ]
    body = curve(*outline)
    strokes = [body[: len(body) - hand.count(0, 8)]]
    if hand.chance(0.7):
        strokes += _eye(hand, 64, crown + 18, 5)
    if hand.chance(0.5):
        strokes += _folded_wing(hand, 135, 145, 60, 32)
    if hand.chance(0.5):
        strokes += _bird_legs(hand, 130, 165 + fat * 0.5, hand.between(8, 20), hand.between(18, 45))
    return turned(strokes, hand.pick([(3, 0.0), (2, -25.0), (1, -45.0)]))


def bird_as_a_drop(hand: Hand) -> list[Stroke]:
    """A round breast running out into a pointed tail; the head in it or a ring on it."""
    fat, tail = hand.between(35, 62), hand.between(-20, 40)
    top = hand.between(60, 95)
    strokes: list[Stroke] = []
    if hand.chance(0.5):
        outline = curve(
            (66, top), (95, top - 8), (118, top + 30), (170, 120), (244, 140 + tail), (180, 150 + fat * 0.7),
            (110, 150 + fat * 0.7), (62, 145), (48, top + 35), (66, top),
        )  # fmt: skip
        strokes.append(outline)
        beak_x, beak_y = 48.0, top + 18
    else:
        size = hand.between(24, 38)
        strokes.append(ellipse(70, top + 10, size, size, 40, hand.between(290, 365)))
        strokes.append(
            curve(
                (90, top + 35),
                (160, 110),
                (244, 140 + tail),
                (180, 150 + fat * 0.7),
                (100, 150 + fat * 0.6),
                (60, 135),
                (56, top + 42),
            )
        )
        beak_x, beak_y = 70 - size, top + 10
    strokes += _beak(hand, beak_x, beak_y, hand.between(9, 18))
    if hand.chance(0.75):
        strokes += _eye(hand, beak_x + 22, beak_y - 6, 5)
    if hand.chance(0.6):
        strokes += _folded_wing(hand, 130, 140, 62, 34)
    if hand.chance(0.75):
        strokes += _bird_legs(hand, 125, 150 + fat * 0.7, hand.between(8, 24), hand.between(18, 50))
    return turned(strokes, hand.pick([(2, 0.0), (2, -25.0), (2, -50.0)]))


def bird_upright(hand: Hand) -> list[Stroke]:
    """A crow on a branch: one slanting outline, beak at the top, tail pointing down behind, breast rounded."""
    lean, breast = hand.between(-15, 35), hand.between(20, 60)
    crown, tail = hand.between(20, 40), hand.between(185, 240)
    tail_x = 175 + lean * 1.5
    outline: list[Point] = [
        (72, crown + 25), (84, crown + 4), (108, crown), (128, crown + 22), (140 + lean * 0.3, 100), (165 + lean, 150),
        (tail_x + 10, tail), (tail_x - 14, tail - 4), (140 + lean * 0.5, 185), (105 - breast * 0.4, 180),
        (88 - breast * 0.7, 135), (86, 85), (76, crown + 44),
    ]  # fmt: skip
    beak = (hand.between(25, 55), crown + hand.between(22, 42))
    strokes = [curve(*outline)]
    if hand.chance(0.6):
        strokes.append(path(outline[-1], beak, outline[0]))
    else:
        strokes.append(
            path((72, crown + 25), beak, (74, crown + 34), (beak[0] + 4, beak[1] + 14), (76, crown + 44))
        )
    if hand.chance(0.75):
        strokes += _eye(hand, 96, crown + 20, 5)
    if hand.chance(0.5):
        top = (112.0 + lean * 0.3, 95.0)
        tip = (150.0 + lean, 178.0)
        strokes.append(
            curve(top, (100, 140), tip, (145 + lean * 0.6, 130))
            if hand.chance(0.6)
            else path(top, (112, 150), tip)
        )
    if hand.chance(0.75):
        strokes += _bird_legs(hand, 118 + lean * 0.2, 184, hand.between(6, 18), hand.between(22, 55))
    return strokes


def bird_soaring(hand: Hand) -> list[Stroke]:
    """Coming towards us: a small body, both wings wide open, perhaps with feathers."""
    span, lift = hand.between(70, 112), hand.between(-20, 70)
    body = hand.between(12, 26)
    strokes = [ellipse(128, 130, body, body * hand.between(1.0, 2.0), hand.between(0, 360))]
    head = body * hand.between(0.5, 0.9)
    if hand.chance(0.75):
        strokes.append(ellipse(128, 130 - body * 1.3 - head * 0.6, head, head))
        strokes.append(path((124, 126 - body * 1.3), (128, 136 - body * 1.3), (132, 126 - body * 1.3)))
    feathers = hand.chance(0.35)
    for side in (-1, 1):
        tip = (128 + side * span, 125 - lift * hand.between(0.6, 1.1))
        root, elbow = (128 + side * body * 0.8, 120.0), (128 + side * span * 0.5, 95 - lift * 0.9)
        under = (128 + side * body * 0.9, 145.0)
        if feathers:
            comb = [
                (128 + side * span * part, 125 - lift * part + drop)
                for part, drop in ((0.85, 28), (0.75, 5), (0.6, 35), (0.5, 12), (0.35, 38))
            ]
            strokes.append(path(root, elbow, tip, *comb, under))
        else:
            strokes.append(curve(root, elbow, tip, (128 + side * span * 0.55, 135 - lift * 0.3), under))
    tail = hand.pick([(2, "fan"), (1, "legs"), (1, "none")])
    if tail == "fan":
        strokes.append(path((124, 130 + body * 1.3), (108, 200), (148, 200), (132, 130 + body * 1.3)))
    elif tail == "legs":
        strokes += _bird_legs(hand, 128, 130 + body * 1.4, 8, hand.between(12, 30))
    return turned(strokes, hand.between(-25, 25))


def bird_between_two_loops(hand: Hand) -> list[Stroke]:
    """Seen flying, a long body with a loop of a wing to either side, a round head and a beak."""
    long, tall = hand.between(50, 75), hand.between(14, 24)
    strokes = [ellipse(140, 128, long, tall, hand.between(0, 360))]
    head = hand.between(14, 24)
    strokes.append(ellipse(140 - long - head * 0.6, 124, head, head))
    strokes += _beak(hand, 140 - long - head * 1.6, 124, head * 0.5)
    lean = hand.between(40, 100)
    for side in (-1, 1):
        length, width = hand.between(50, 95), hand.between(14, 30)
        strokes.append(loop(135, 128 + side * tall * 0.7, length, width, side * lean))
    if hand.chance(0.5):
        strokes += _eye(hand, 138 - long - head * 0.6, 121, 4)
    return strokes + (_bird_tail(hand, 138 + long, 128) if hand.chance(0.7) else [])


def bird_on_stilts(hand: Hand) -> list[Stroke]:
    """A heron or an ostrich: small head, long neck, long legs."""
    body = hand.between(32, 55)
    strokes = [ellipse(150, 120, body, body * hand.between(0.55, 0.9), hand.between(0, 360))]
    head_x, head_y = hand.between(55, 95), hand.between(25, 50)
    neck = curve((head_x + 8, head_y + 14), (head_x + hand.between(0, 30), 75), (150 - body * 0.8, 110))
    strokes += (
        [neck, *moved([neck], hand.between(10, 16), hand.between(-4, 4))] if hand.chance(0.5) else [neck]
    )
    strokes.append(ellipse(head_x, head_y, 16, 13))
    strokes += _beak(hand, head_x - 15, head_y, hand.between(9, 14))
    strokes += _bird_legs(hand, 150, 120 + body * 0.6, hand.between(5, 18), hand.between(60, 95))
    return strokes + (_bird_tail(hand, 150 + body, 115) if hand.chance(0.6) else [])


def swallow(hand: Hand) -> list[Stroke]:
    """One outline: a beak, two swept wings, a forked tail."""
    span, sweep = hand.between(60, 100), hand.between(0, 60)
    upper = [
        (20.0, 128.0),
        (70, 112),
        (120, 108),
        (140 + sweep, 128 - span),
        (165 + sweep * 0.5, 110),
        (200, 118),
        (240, 100),
    ]
    outline = [*upper, (222, 128), *[(x, 256 - y) for x, y in reversed(upper)]]
    return turned(
        [curve(*outline, steps=3) if hand.chance(0.6) else path(*outline)],
        hand.pick([(2, 0.0), (1, 45.0), (1, 90.0)]),
    )


def head_of_a_bird(hand: Hand) -> list[Stroke]:
    """Only the head, its beak, and a line or two of the neck."""
    size = hand.between(50, 75)
    strokes = [ellipse(140, 100, size, size, hand.between(60, 200), hand.between(290, 365))]
    strokes += _beak(hand, 140 - size, 100, size * 0.3) + _eye(hand, 125, 85, 7)
    if hand.chance(0.7):
        strokes += [
            curve((115, 100 + size), (105, 190), (80, 235)),
            curve((175, 90 + size), (190, 190), (215, 235)),
        ]
    return strokes


def bird_flying(hand: Hand) -> list[Stroke]:
    """From the side, one wing up and one down or behind."""
    tall = hand.between(18, 34)
    strokes = [ellipse(140, 140, hand.between(60, 85), tall, hand.between(0, 360))]
    head = hand.between(16, 26)
    strokes.append(ellipse(70, 125, head, head))
    strokes += _beak(hand, 70 - head, 125, head * 0.5)
    if hand.chance(0.7):
        strokes += _eye(hand, 66, 121, 5)
    for side in (-1, 1):
        if side < 0 or hand.chance(0.6):
            up = hand.between(50, 100) * (1 if side < 0 else hand.between(0.5, 0.9))
            y = 140 + side * tall * 0.7
            strokes.append(
                curve(
                    (110, y),
                    (150, y + side * up * 0.6),
                    (185, y + side * up),
                    (175, y + side * up * 0.4),
                    (160, y),
                )
            )
    return strokes + _bird_tail(hand, 210, 140)


def bird_from_the_front(hand: Hand) -> list[Stroke]:
    tall, wide = hand.between(45, 70), hand.between(28, 50)
    strokes = [ellipse(128, 150, wide, tall), ellipse(128, 150 - tall - 22, 26, 24)]
    y = 150 - tall - 24
    strokes += [*_eye(hand, 118, y, 5), *_eye(hand, 138, y, 5)] if hand.chance(0.8) else []
    strokes.append(closed((122, y + 8), (134, y + 8), (128, y + 22)))
    for side in (-1, 1):
        reach = hand.between(20, 80)
        strokes.append(
            curve(
                (128 + side * wide * 0.8, 120),
                (128 + side * (wide + reach), 110 - hand.between(-30, 40)),
                (128 + side * (wide + reach * 0.5), 150),
                (128 + side * wide, 165),
            )
        )
    return strokes + (_bird_legs(hand, 128, 150 + tall, 12, hand.between(15, 35)) if hand.chance(0.8) else [])


def chick(hand: Hand) -> list[Stroke]:
    """A round head on a round body, or all in one ball."""
    size = hand.between(50, 80)
    strokes = [ellipse(135, 150, size, size * hand.between(0.75, 1.1))]
    x, y, head = 110.0, 85.0, hand.between(28, 42)
    strokes.append(ellipse(x, y, head, head, 60, hand.between(300, 365)))
    strokes += _beak(hand, x - head, y, 12) + _eye(hand, x - 8, y - 6, 5)
    if hand.chance(0.6):
        strokes += _folded_wing(hand, 145, 150, size * 0.8, size * 0.5)
    if hand.chance(0.6):
        strokes += _bird_legs(hand, 135, 150 + size * 0.85, 14, hand.between(18, 45))
    return strokes


def bird_from_above(hand: Hand) -> list[Stroke]:
    """Spread wings and a fan of a tail."""
    strokes = [ellipse(128, 128, hand.between(16, 26), hand.between(55, 75))]
    strokes.append(ellipse(128, 50, 18, 18))
    strokes.append(path((122, 34), (128, 18), (134, 34)))
    for side in (-1, 1):
        strokes.append(
            curve(
                (128 + side * 20, 95),
                (128 + side * 75, 70),
                (128 + side * 112, 110),
                (128 + side * 60, 130),
                (128 + side * 20, 150),
            )
        )
    return [*strokes, path((120, 190), (105, 230), (150, 230), (136, 190))]


# --------------------------------------------------------------------------------------------------------- cat


def cat(hand: Hand) -> list[Stroke]:
    way = hand.pick(
        [
            (8, cat_face),
            (1.3, cat_from_the_side),
            (0.6, cat_in_one_line),
            (1.1, cat_sitting),
            (0.9, cat_head_and_body),
        ]
    )
    return way(hand)


def cat_face(hand: Hand) -> list[Stroke]:
    """A head with pointed ears, and what goes into a face."""
    wide, tall = hand.between(70, 100), hand.between(62, 92)
    x, y = 128.0, 150.0
    ear = hand.between(28, 85) if hand.chance(0.9) else hand.between(85, 125)
    head = hand.pick([(3, "round, ears on it"), (4, "one line"), (1.5, "triangular"), (0.8, "flat top")])
    strokes: list[Stroke] = []
    if head == "round, ears on it":
        strokes.append(ellipse(x, y, wide, tall, hand.between(-130, -50), hand.between(345, 375)))
        for side in (-1, 1):
            near, far = (
                arc(x, y, wide, tall, -90 + side * a, -90 + side * a)[0]
                for a in (hand.between(12, 30), hand.between(50, 75))
            )
            tip = arc(x, y, wide + ear, tall + ear, -90 + side * 42, -90 + side * hand.between(30, 52))[-1]
            strokes.append(path(tuple(near), tuple(tip), tuple(far)))
            if hand.chance(0.15):
                strokes.append(path(*(tuple((p - [x, y]) * 0.92 + [x, y]) for p in (near, tip, far))))
    else:
        chin = 1.0 if head != "triangular" else hand.between(0.1, 0.35)
        inner = hand.between(0.25, 0.6)
        top = y - tall * hand.between(0.6, 0.9)
        tip_x = hand.between(0.65, 1.05)
        tips = [(x - wide * tip_x, top - ear), (x + wide * tip_x, top - ear * hand.between(0.8, 1.2))]
        crown = [tips[0], (x - wide * inner, top), (x + wide * inner, top), tips[1]]
        jaw = curve(
            tips[1],
            (x + wide, y),
            (x + wide * 0.62 * chin, y + tall * 0.85),
            (x, y + tall),
            (x - wide * 0.62 * chin, y + tall * 0.85),
            (x - wide, y),
            tips[0],
        )
        if head == "flat top":
            jaw = path(
                tips[1],
                (x + wide, y + tall * 0.6),
                (x + wide * 0.5, y + tall),
                (x - wide * 0.5, y + tall),
                (x - wide, y + tall * 0.6),
                tips[0],
            )
        strokes.append(np.concatenate([path(*crown), jaw]))
    return turned(strokes + _cat_features(hand, x, y, wide, tall), hand.between(-14, 14))


def _cat_features(hand: Hand, x: float, y: float, wide: float, tall: float) -> list[Stroke]:
    strokes: list[Stroke] = []
    apart, size = wide * hand.between(0.28, 0.48), hand.between(5, 12)
    eyes = y - tall * hand.between(0.1, 0.35)
    if hand.chance(0.85):
        strokes += [*_eye(hand, x - apart, eyes, size), *_eye(hand, x + apart, eyes, size)]
    nose = y + tall * hand.between(0.05, 0.25)
    kind = hand.pick([(3, "triangle"), (1.5, "dot"), (1.5, "none"), (1, "line")])
    if kind == "triangle":
        half = hand.between(6, 13)
        strokes.append(closed((x - half, nose - half), (x + half, nose - half), (x, nose + half * 0.6)))
    elif kind == "dot":
        strokes.append(ellipse(x, nose, 5, 4))
    elif kind == "line":
        strokes.append(path((x, nose - 12), (x, nose + 12)))
    mouth = nose + tall * hand.between(0.15, 0.3)
    kind = hand.pick([(2, "smile"), (2.5, "w"), (1, "straight"), (2, "none")])
    half = wide * hand.between(0.15, 0.4)
    if kind == "smile":
        strokes.append(arc(x, mouth - 8, half, 16, 160, 20))
    elif kind == "w":
        strokes.append(
            curve(
                (x - half, mouth - 5),
                (x - half * 0.5, mouth + 9),
                (x, mouth - 7),
                (x + half * 0.5, mouth + 9),
                (x + half, mouth - 5),
            )
        )
    elif kind == "straight":
        strokes.append(path((x - half, mouth), (x + half, mouth)))
    if hand.chance(0.68):
        strokes += _whiskers(hand, x, nose + 6, wide)
    return strokes


def _whiskers(hand: Hand, x: float, y: float, wide: float) -> list[Stroke]:
    count, near = hand.count(1, 3), wide * hand.between(0.05, 0.8)
    far = wide * hand.pick(
        [(2, hand.between(0.8, 1.2)), (2, hand.between(1.2, 1.6)), (1, hand.between(1.6, 2.6))]
    )
    spread = hand.between(8, 24)
    strokes = []
    for side in (-1, 1):
        for number in range(count):
            lift = (number - (count - 1) / 2) * spread
            strokes.append(
                path(
                    (x + side * near, y + lift * 0.4),
                    (x + side * far * hand.between(0.85, 1.1), y + lift + hand.between(-6, 6)),
                )
            )
    return strokes


def _small_cat_head(hand: Hand, x: float, y: float, size: float) -> list[Stroke]:
    strokes = [ellipse(x, y, size, size * 0.85, hand.between(0, 360))]
    for side in (-1, 1):
        strokes.append(
            path(
                (x + side * size * 0.2, y - size * 0.8),
                (x + side * size * 0.75, y - size * 1.6),
                (x + side * size * 0.9, y - size * 0.3),
            )
        )
    if hand.chance(0.7):
        strokes += [ellipse(x + side * size * 0.35, y - size * 0.1, 2.5, 2.5) for side in (-1, 1)]
    if hand.chance(0.4):
        strokes += _whiskers(hand, x, y + size * 0.3, size)
    return strokes


def cat_from_the_side(hand: Hand) -> list[Stroke]:
    """A long body on four legs, the tail up, the head with its ears to the left."""
    long, tall = hand.between(60, 85), hand.between(22, 42)
    strokes = _small_cat_head(hand, 60, 95, hand.between(24, 40))
    strokes.append(ellipse(150, 140, long, tall, hand.between(0, 360)))
    strokes += _four_legs(hand, 150, 140 + tall * 0.8, long * 0.75, hand.between(25, 60))
    end = 150 + long
    up = hand.between(30, 90)
    strokes.append(
        curve(
            (end - 4, 135),
            (end + 20, 120),
            (end + hand.between(5, 30), 135 - up * 0.7),
            (end + hand.between(-5, 40), 135 - up),
        )
    )
    return mirrored(strokes) if hand.chance(0.5) else strokes


def cat_in_one_line(hand: Hand) -> list[Stroke]:
    """Standing, one outline from the ears along the back to a raised tail and round the legs."""
    back, belly, foot = hand.between(100, 120), hand.between(140, 160), hand.between(185, 225)
    ear, leg = hand.between(16, 32), hand.between(8, 13)
    top = back - hand.between(15, 45)
    tail = hand.between(20, 80)
    points: list[Point] = [
        (24, top + 30), (30, top), (34, top - ear), (50, top - 2), (64, top - 2), (80, top - ear), (84, top + 14),
        (100, back), (200, back), (222, back - tail * 0.6), (236, back - tail), (228, back), (212, back + 30),
        (212, foot), (212 - 2 * leg, foot), (206 - 2 * leg, belly), (96 + 2 * leg, belly), (92 + 2 * leg, foot),
        (92, foot), (84, back + 30), (60, top + 52), (34, top + 48), (24, top + 30),
    ]  # fmt: skip
    strokes = [path(*points) if hand.chance(0.5) else curve(*points, steps=3)]
    if hand.chance(0.7):
        strokes += [ellipse(x, top + 18, 2.5, 2.5) for x in (44, 66)]
    if hand.chance(0.5):
        strokes += _whiskers(hand, 54, top + 30, 32)
    return mirrored(strokes) if hand.chance(0.5) else strokes


def cat_sitting(hand: Hand) -> list[Stroke]:
    """An egg of a body under the head, the tail to one side."""
    wide, tall = hand.between(40, 62), hand.between(50, 70)
    strokes = _small_cat_head(hand, 128, 75, hand.between(34, 50))
    strokes.append(ellipse(128, 115 + tall, wide, tall))
    strokes.append(
        curve(
            (128 + wide * 0.8, 100 + tall * 1.6),
            (128 + wide + 35, 100 + tall * 1.4),
            (128 + wide + 25, 120),
            (128 + wide + hand.between(20, 50), 105),
        )
    )
    if hand.chance(0.5):
        strokes += [
            path((128 + side * 12, 120 + tall), (128 + side * 12, 115 + tall * 2)) for side in (-1, 1)
        ]
    return mirrored(strokes) if hand.chance(0.5) else strokes


def cat_head_and_body(hand: Hand) -> list[Stroke]:
    """A big face with a small body behind it."""
    strokes = moved(cat_face(hand), 0, 10, 0.62)
    strokes.append(curve((140, 130), (200, 115), (235, 160), (225, 210), (130, 215), (110, 160)))
    strokes.append(curve((232, 170), (250, 140), (240, 100)))
    return mirrored(strokes) if hand.chance(0.5) else strokes


# --------------------------------------------------------------------------------------------------------- dog


def dog(hand: Hand) -> list[Stroke]:
    way = hand.pick(
        [
            (4.2, dog_face),
            (1, dog_face_between_ears),
            (4.2, dog_from_the_side),
            (1.8, dog_in_one_line),
            (1.8, dog_with_legs_in_its_outline),
            (1.3, dog_of_sticks),
            (0.7, dog_sitting),
            (0.9, dog_lying),
            (0.5, head_of_a_dog),
        ]
    )
    return way(hand)


def dog_face(hand: Hand) -> list[Stroke]:
    """A head with hanging ears."""
    wide, tall = hand.between(48, 80), hand.between(55, 90)
    x, y = 128.0, 135.0
    narrow = hand.between(0.5, 1.0)
    strokes: list[Stroke] = []
    if hand.chance(0.5):
        strokes.append(ellipse(x, y, wide, tall, hand.between(-130, -50), hand.between(340, 375)))
    else:
        strokes.append(
            curve(
                (x - wide, y - tall * 0.6),
                (x, y - tall),
                (x + wide, y - tall * 0.6),
                (x + wide * narrow, y + tall * 0.3),
                (x + wide * 0.5 * narrow, y + tall),
                (x - wide * 0.5 * narrow, y + tall),
                (x - wide * narrow, y + tall * 0.3),
                (x - wide, y - tall * 0.6),
            )
        )
    strokes += _hanging_ears(hand, x, y, wide, tall)
    return turned(strokes + _dog_features(hand, x, y, wide, tall), hand.between(-10, 10))


def dog_face_between_ears(hand: Hand) -> list[Stroke]:
    """A cap from ear to ear, long ears, and between them a snout like a U."""
    wide, length = hand.between(45, 75), hand.between(90, 150)
    top, lean, thick = hand.between(40, 60), hand.between(0, 40), hand.between(25, 45)
    strokes = [curve((128 - wide, top + 15), (128, top - 10), (128 + wide, top + 15))]
    for side in (-1, 1):
        x = 128 + side * wide
        strokes.append(
            curve(
                (x, top + 15),
                (x + side * (thick + lean * 0.5), top + length * 0.4),
                (x + side * (lean + thick * 0.6), top + length),
                (x + side * (lean - thick * 0.3), top + length * 0.7),
                (x - side * 4, top + 35),
            )
        )
    chin = top + length * hand.between(0.9, 1.3)
    strokes.append(
        curve(
            (128 - wide, top + 40),
            (128 - wide * 0.8, chin - 30),
            (128, chin),
            (128 + wide * 0.8, chin - 30),
            (128 + wide, top + 40),
        )
    )
    return strokes + _dog_features(hand, 128, (top + chin) / 2, wide * 0.9, (chin - top) / 2)


def head_of_a_dog(hand: Hand) -> list[Stroke]:
    """The head alone from the side."""
    size = hand.between(48, 60)
    strokes = _dog_head(hand, 140, 110, size)
    if hand.chance(0.5):
        strokes += [path((120, 110 + size), (125, 235)), path((140 + size, 110 + size * 0.6), (205, 235))]
    return mirrored(strokes) if hand.chance(0.5) else strokes


def _hanging_ears(hand: Hand, x: float, y: float, wide: float, tall: float) -> list[Stroke]:
    length, width = tall * hand.between(0.6, 1.9), hand.between(13, 42)
    out = hand.between(5, 50)
    kind = hand.pick(
        [
            (4, "loops"),
            (3, "arcs"),
            (1, "tips folded"),
            (1.5, "ellipses"),
            (0.8, "round, on top"),
            (0.5, "pointed"),
        ]
    )
    strokes: list[Stroke] = []
    for side in (-1, 1):
        root_x, root_y = x + side * wide * hand.between(0.55, 0.85), y - tall * hand.between(0.55, 0.85)
        if kind == "loops":
            strokes.append(loop(root_x, root_y, length, width, 90 - side * out))
        elif kind == "arcs":
            lean = length * np.sin(np.radians(out))
            strokes.append(
                curve(
                    (root_x, root_y),
                    (root_x + side * (lean * 0.6 + width), root_y - 4),
                    (root_x + side * (lean + width * 1.3), root_y + length * 0.6),
                    (root_x + side * lean, root_y + length),
                    (x + side * wide, y),
                )
            )
        elif kind == "tips folded":
            strokes.append(
                path(
                    (root_x, root_y),
                    (root_x + side * 14, root_y - 30),
                    (root_x + side * 44, root_y + 15),
                    (root_x + side * 20, root_y + 18),
                )
            )
        elif kind == "round, on top":
            strokes.append(
                arc(x + side * wide * 0.75, y - tall * 0.75, width, width, 90 - side * 140, 90 + side * 130)
            )
        elif kind == "pointed":
            strokes.append(
                path(
                    (root_x - side * 8, root_y),
                    (root_x + side * 22, root_y - 50),
                    (root_x + side * 24, root_y + 16),
                )
            )
        else:
            strokes.append(ellipse(x + side * (wide + width * 0.4), y - tall * 0.1, width, length * 0.5))
    return strokes


def _dog_features(hand: Hand, x: float, y: float, wide: float, tall: float) -> list[Stroke]:
    strokes: list[Stroke] = []
    apart, eyes = wide * hand.between(0.28, 0.5), y - tall * hand.between(0.1, 0.4)
    size = hand.between(5, 11)
    if hand.chance(0.92):
        strokes += [*_eye(hand, x - apart, eyes, size), *_eye(hand, x + apart, eyes, size)]
    nose, half = y + tall * hand.between(0.1, 0.45), hand.between(7, 17)
    if hand.chance(0.85):
        strokes.append(ellipse(x, nose, half, half * 0.7))
        if hand.chance(0.4):
            strokes.append(
                path((x - half * 0.7, nose), (x + half * 0.7, nose + 2), (x - half * 0.5, nose + 4))
            )
    kind = hand.pick([(2, "none"), (2.5, "lips"), (1.5, "smile"), (1.5, "tongue"), (1, "muzzle")])
    if kind == "lips":
        drop = hand.between(8, 22)
        strokes.append(path((x, nose + half * 0.7), (x, nose + half * 0.7 + drop)))
        strokes.append(
            curve(
                (x - wide * 0.4, nose + drop),
                (x - wide * 0.2, nose + drop + 14),
                (x, nose + half * 0.7 + drop),
                (x + wide * 0.2, nose + drop + 14),
                (x + wide * 0.4, nose + drop),
            )
        )
    elif kind == "smile":
        strokes.append(arc(x, nose + 8, wide * 0.45, tall * 0.25, 170, 10))
    elif kind == "tongue":
        strokes.append(path((x - wide * 0.4, nose + 18), (x + wide * 0.4, nose + 18)))
        strokes.append(
            curve(
                (x - 10, nose + 18),
                (x - 10, nose + 38),
                (x, nose + 46),
                (x + 10, nose + 38),
                (x + 10, nose + 18),
            )
        )
    elif kind == "muzzle":
        strokes.append(ellipse(x, nose + 10, wide * hand.between(0.4, 0.6), tall * hand.between(0.25, 0.4)))
    return strokes


def _four_legs(hand: Hand, x: float, y: float, reach: float, length: float) -> list[Stroke]:
    """Lines, or narrow U's; pairs before and behind."""
    thick = hand.chance(0.5)
    pair = hand.between(14, 30)
    strokes = []
    for leg in (x - reach, x - reach + pair, x + reach - pair, x + reach)[: 4 if hand.chance(0.85) else 3]:
        end, lean = y + length * hand.between(0.85, 1.1), hand.between(-6, 6)
        if thick:
            strokes.append(path((leg - 6, y), (leg - 6 + lean, end), (leg + 6 + lean, end), (leg + 6, y)))
        elif hand.chance(0.25):
            strokes.append(path((leg, y), (leg + lean, end), (leg + lean - 12, end)))
        else:
            strokes.append(path((leg, y), (leg + lean, end)))
    return strokes


def _dog_head(hand: Hand, x: float, y: float, size: float) -> list[Stroke]:
    """In profile or round, an ear hanging or standing."""
    strokes: list[Stroke] = []
    if hand.chance(0.55):
        muzzle = size * hand.between(0.7, 1.6)
        strokes.append(
            curve(
                (x + size * 0.8, y + size * 0.6),
                (x + size * 0.6, y - size * 0.6),
                (x, y - size * 0.9),
                (x - size * 0.6, y - size * 0.3),
                (x - size - muzzle * 0.6, y),
                (x - size - muzzle * 0.5, y + size * 0.5),
                (x, y + size * 0.8),
            )
        )
        if hand.chance(0.4):
            strokes.append(ellipse(x - size - muzzle * 0.55, y + 2, 5, 4))
    else:
        strokes.append(ellipse(x, y, size * 1.1, size, hand.between(0, 360)))
        if hand.chance(0.5):
            strokes.append(ellipse(x - size, y + size * 0.3, size * 0.5, size * 0.4))
    kind = hand.pick([(3, "hanging"), (2, "standing"), (1, "both"), (1, "none")])
    if kind == "hanging":
        strokes.append(
            loop(
                x + size * 0.3,
                y - size * 0.7,
                size * hand.between(1.0, 1.7),
                size * 0.35,
                hand.between(50, 110),
            )
        )
    elif kind != "none":
        for at in (0.0, -0.6)[: 1 if kind == "standing" else 2]:
            high = hand.between(1.3, 1.8)
            strokes.append(
                path(
                    (x + at * size, y - size * 0.8),
                    (x + (at + 0.3) * size, y - size * high),
                    (x + (at + 0.6) * size, y - size * 0.6),
                )
            )
    if hand.chance(0.7):
        strokes += _eye(hand, x - size * 0.25, y - size * 0.25, 5)
    if hand.chance(0.25):
        strokes.append(path((x - size * 1.2, y + size * 0.4), (x - size * 0.4, y + size * 0.4)))
    return strokes


def _dog_tail(hand: Hand, x: float, y: float) -> Stroke:
    up, out = hand.between(-20, 70), hand.between(15, 40)
    if hand.chance(0.2):
        return loop(x, y, hand.between(35, 60), 8, -hand.between(20, 80))
    return curve((x, y), (x + out * 0.7, y - up * 0.4), (x + out, y - up))


def dog_from_the_side(hand: Hand) -> list[Stroke]:
    long, tall = hand.between(55, 85), hand.between(18, 38)
    shape = hand.pick([(3, "round"), (2, "box"), (1.5, "open")])
    x, y, size = 148.0, 140.0, hand.between(20, 34)
    if shape == "round":
        body = [ellipse(x, y, long, tall, hand.between(0, 360))]
    elif shape == "box":
        body = [box(x - long, y - tall, x + long, y + tall)]
    else:
        body = [
            path((x - long, y - tall), (x + long, y - tall), (x + long, y + tall)),
            path((x - long * 0.8, y + tall), (x + long * 0.7, y + tall)),
        ]
    head_x, head_y = x - long - size * hand.between(-0.2, 0.5), y - tall - size * hand.between(0.1, 1.0)
    strokes = _dog_head(hand, head_x, head_y, size) + body
    if hand.chance(0.3):
        strokes.append(path((head_x, head_y + size), (x - long, y)))
    strokes += _four_legs(hand, x, y + tall * 0.85, long * hand.between(0.65, 0.95), hand.between(25, 60))
    if hand.chance(0.9):
        strokes.append(_dog_tail(hand, x + long, y - tall * 0.5))
    return mirrored(strokes) if hand.chance(0.5) else strokes


def dog_in_one_line(hand: Hand) -> list[Stroke]:
    """The whole outline from nose to tail and back along the legs."""
    back, belly = hand.between(85, 110), hand.between(135, 155)
    foot = belly + hand.between(30, 75)
    leg = hand.between(9, 16)
    ear = hand.between(15, 40)
    tail = back - hand.between(-15, 60)
    crown = back - hand.between(20, 45)
    points: list[Point] = [
        (16, crown + 32),
        (42, crown + 14),
        (58, crown),
        (66, crown - ear),
        (80, crown),
        (92, back),
        (198, back),
        (238, tail),
        (214, back + 18),
        (212, foot),
        (212 - 2 * leg, foot),
        (204 - 2 * leg, belly),
        (94 + 2 * leg, belly),
        (88 + 2 * leg, foot),
        (88, foot),
        (78, back + 32),
        (44, crown + 50),
        (20, crown + 46),
        (16, crown + 32),
    ]
    strokes = [path(*points) if hand.chance(0.5) else curve(*points, steps=3)]
    if hand.chance(0.6):
        strokes += _eye(hand, 56, crown + 18, 5)
    if hand.chance(0.4):
        strokes += [path((x, belly), (x - 4, foot - 6)) for x in (100 + 3 * leg, 196 - 3 * leg)]
    if hand.chance(0.4):
        strokes.append(loop(72, crown + 4, hand.between(25, 45), 9, hand.between(60, 110)))
    return mirrored(strokes) if hand.chance(0.5) else strokes


def dog_with_legs_in_its_outline(hand: Hand) -> list[Stroke]:
    """A head of its own, then the back, the tail, four legs and the belly in one line."""
    back, belly = hand.between(95, 115), hand.between(135, 160)
    foot, leg, step = belly + hand.between(25, 65), hand.between(5, 10), hand.between(6, 16)
    tail = hand.between(-30, 60)
    size = hand.between(20, 34)
    line: list[Point] = [
        (85, back),
        (150, back + hand.between(-6, 10)),
        (205, back),
        (242, back - tail),
        (215, back + 16),
    ]
    right = 214.0
    for gap in (step, 200 - 90 - 6 * leg - 2 * step, step, 0):
        line += [(right, belly), (right, foot), (right - 2 * leg, foot), (right - 2 * leg, belly)]
        right -= 2 * leg + gap
    line += [(78, belly), (72, back + 25)]
    strokes = _dog_head(hand, 66 - hand.between(0, 12), back - size * hand.between(-0.2, 0.8), size)
    strokes.append(path(*line) if hand.chance(0.6) else curve(*line, steps=3))
    return mirrored(strokes) if hand.chance(0.5) else strokes


def dog_of_sticks(hand: Hand) -> list[Stroke]:
    """A line for a back, lines for legs, a head of any kind."""
    back, length = hand.between(110, 135), hand.between(40, 75)
    strokes = [path((70, back), (205, back + hand.between(-10, 10)))]
    for x in (78, 96, 182, 202):
        strokes.append(path((x, back), (x + hand.between(-14, 14), back + length)))
    strokes += _dog_head(hand, 58, back - hand.between(5, 35), hand.between(18, 30))
    strokes.append(_dog_tail(hand, 205, back))
    return mirrored(strokes) if hand.chance(0.5) else strokes


def dog_lying(hand: Hand) -> list[Stroke]:
    """A face to the left, and behind it a loaf of a body."""
    strokes = moved(dog_face(hand), 5, 25, 0.5) if hand.chance(0.7) else _dog_head(hand, 70, 95, 38)
    high = hand.between(90, 130)
    strokes.append(
        curve((100, high), (160, high - 15), (225, high + 20), (240, 175), (215, 195), (95, 195), (75, 160))
    )
    if hand.chance(0.5):
        strokes.append(path((110, 195), (85, 205), (60, 203)))
    if hand.chance(0.6):
        strokes.append(_dog_tail(hand, 236, 165))
    return mirrored(strokes) if hand.chance(0.5) else strokes


def dog_sitting(hand: Hand) -> list[Stroke]:
    """A face over a body, with front paws."""
    strokes = moved(dog_face(hand), 50, 0, 0.6)
    wide = hand.between(38, 58)
    strokes.append(
        curve(
            (108, 125), (128 - wide, 190), (128 - wide, 240), (128 + wide, 240), (128 + wide, 190), (148, 125)
        )
    )
    strokes += [path((128 + side * 10, 180), (128 + side * 10, 238)) for side in (-1, 1)]
    if hand.chance(0.6):
        strokes.append(curve((128 + wide, 225), (128 + wide + 30, 215), (128 + wide + 35, 180)))
    if hand.chance(0.1):
        strokes.append(zigzag(60, 200, 244, 8, 8))
    return mirrored(strokes) if hand.chance(0.5) else strokes
