"""How people draw airplanes, books, clocks and houses. Each function is one way of drawing the thing."""

from __future__ import annotations

from pipeline.starter.hand import Hand
from pipeline.starter.shapes import (
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

# ---------------------------------------------------------------------------------------------------- airplane


def airplane(hand: Hand) -> list[Stroke]:
    """Nose to the right, then turned over and tilted as people do."""
    way = hand.pick(
        [
            (4.5, fuselage_with_wings_across),
            (3, airplane_from_the_side),
            (2, airplane_in_one_line),
            (1.2, airplane_of_sticks),
            (2, airplane_of_loops),
            (0.5, jet),
        ]
    )
    strokes = way(hand)
    if hand.chance(0.35):
        strokes = mirrored(strokes)
    tilt = hand.pick([(9, 0.0), (2.2, -25.0), (1, -45.0), (0.8, 20.0), (0.5, 45.0), (0.4, -90.0)])
    return turned(strokes, tilt + hand.between(-10, 10))


def fuselage_with_wings_across(hand: Hand) -> list[Stroke]:
    tall = hand.between(10, 32)
    strokes = [_fuselage(hand, tall)]
    root, sweep = hand.between(110, 150), hand.between(-10, 60)
    chord, span = hand.between(14, 34), hand.between(40, 115)
    across = hand.chance(0.3)  # wings drawn over the fuselage, or out from its sides
    inner = 0.0 if across else tall * 0.8
    if hand.chance(0.3):
        strokes.append(ellipse(root, 128, chord, span, hand.between(0, 360)))
    else:
        for side in (-1, 1):
            length = span if side < 0 or hand.chance(0.5) else span * hand.between(0.5, 1)
            strokes.append(_wing(hand, root, 128 + side * inner, side * length, chord, sweep))
    strokes += _tail(hand, tall)
    if hand.chance(0.3):
        strokes += [ellipse(x, 128 - tall * 0.2, 5, 5) for x in range(85, 190, hand.count(20, 34))]
    if hand.chance(0.2):
        strokes.append(arc(205, 128, 18, tall, 110, 250))
    return strokes


def _fuselage(hand: Hand, tall: float) -> Stroke:
    nose, end = 240.0, 16.0
    if hand.chance(0.5):
        return ellipse(128, 128, 112, tall, hand.between(0, 360), hand.between(340, 380))
    if hand.chance(0.6):
        slim = hand.between(0.2, 0.7) * tall
        return curve(
            (end, 128 - slim),
            (120, 128 - tall),
            (nose - 20, 128 - tall * 0.7),
            (nose, 128),
            (nose - 20, 128 + tall * 0.7),
            (120, 128 + tall),
            (end, 128 + slim),
            (end, 128 - slim),
        )
    return closed(
        (end, 128 - tall * 0.6), (210, 128 - tall), (nose, 128), (210, 128 + tall), (end, 128 + tall * 0.6)
    )


def _wing(hand: Hand, x: float, y: float, length: float, chord: float, sweep: float) -> Stroke:
    """Out from (x, y), backwards by `sweep`; pointed, square or round at its tip."""
    tip = hand.pick([(2, 0.1), (2, 0.6), (1, 1.0)])
    if hand.chance(0.4):
        return curve(
            (x + chord, y),
            (x - sweep + chord * tip, y + length),
            (x - sweep - chord * tip, y + length),
            (x - chord, y),
        )
    return path(
        (x + chord, y),
        (x - sweep + chord * tip, y + length),
        (x - sweep - chord * tip, y + length),
        (x - chord, y),
    )


def _tail(hand: Hand, tall: float) -> list[Stroke]:
    kind = hand.pick([(3, "two fins"), (3, "one fin"), (1, "bar"), (1.5, "none")])
    if kind == "two fins":
        high = hand.between(18, 40)
        return [_wing(hand, 32, 128 + side * tall * 0.4, side * high, 12, 16) for side in (-1, 1)]
    if kind == "one fin":
        return [_wing(hand, 34, 128 - tall * 0.5, -hand.between(25, 55), 16, hand.between(10, 30))]
    if kind == "bar":
        return [path((22, 128 - hand.between(20, 40)), (22, 128 + hand.between(20, 40)))]
    return []


def airplane_from_the_side(hand: Hand) -> list[Stroke]:
    """A body with an upswept tail, and one wing down in front of it."""
    tall, fin = hand.between(14, 30), hand.between(28, 60)
    body = (
        (20, 128 - fin),
        (48, 128 - fin),
        (75, 128 - tall),
        (195, 128 - tall),
        (240, 128),
        (205, 128 + tall),
        (60, 128 + tall * 0.8),
        (20, 128 - fin),
    )
    strokes = [curve(*body) if hand.chance(0.6) else path(*body)]
    root, length = hand.between(110, 145), hand.between(35, 80)
    strokes.append(
        _wing(hand, root, 128 + hand.between(-5, tall), length, hand.between(12, 24), hand.between(20, 60))
    )
    if hand.chance(0.55):
        up = hand.between(25, 70)
        strokes.append(_wing(hand, root, 128 - tall, -up, hand.between(10, 18), hand.between(10, 50)))
    if hand.chance(0.4):
        strokes += [ellipse(x, 122, 5, 5) for x in range(90, 200, hand.count(18, 34))]
    if hand.chance(0.25):
        strokes.append(path((208, 128 - tall), (212, 126), (236, 126)))
    return strokes


def airplane_in_one_line(hand: Hand) -> list[Stroke]:
    """The outline from above without lifting the pen."""
    body, span, chord = hand.between(8, 18), hand.between(55, 100), hand.between(12, 26)
    sweep, fin, root = hand.between(0, 65), hand.between(15, 45), hand.between(125, 165)
    upper = [
        (240, 128),
        (215, 128 - body),
        (root + chord, 128 - body),
        (root - sweep + chord * 0.5, 128 - span),
        (root - sweep - chord * 0.5, 128 - span),
        (root - chord, 128 - body),
        (50, 128 - body * 0.8),
        (28, 128 - fin),
        (14, 128 - fin),
        (30, 128),
    ]
    lower = [(x, 256 - y) for x, y in reversed(upper)]
    if hand.chance(0.35):
        return [curve(*upper, *lower)]
    return [path(*upper, *lower)]


def airplane_of_sticks(hand: Hand) -> list[Stroke]:
    """A line or thin body with bars across."""
    root, span, sweep = hand.between(110, 160), hand.between(35, 90), hand.between(-10, 50)
    strokes = [
        path((16, 128), (240, 128)) if hand.chance(0.4) else ellipse(128, 128, 112, hand.between(6, 12), 180)
    ]
    if hand.chance(0.5):
        strokes.append(path((root - sweep, 128 - span), (root, 128), (root - sweep, 128 + span)))
    else:
        strokes.append(ellipse(root, 128, hand.between(5, 12), span, -90))
    if hand.chance(0.7):
        fin = hand.between(12, 36)
        strokes.append(path((20, 128 - fin), (34, 128), (20, 128 + fin * (hand.chance(0.6)))))
    return strokes


def airplane_of_loops(hand: Hand) -> list[Stroke]:
    """Round body, wings as petals or long rings, a fish's tail."""
    tall, sweep = hand.between(14, 34), hand.between(75, 130)
    strokes = [ellipse(128, 128, 112, tall, hand.between(0, 360))]
    long, width = hand.between(45, 100), hand.between(14, 30)
    rings = hand.chance(0.4)
    for side in (-1, 1):
        if side > 0 and hand.chance(0.15):
            continue
        if rings:
            strokes.append(
                ellipse(135, 128 + side * (tall + long * 0.45), width, long * 0.5, hand.between(0, 360))
            )
        else:
            strokes.append(loop(140, 128 + side * tall * hand.between(0.2, 0.9), long, width, side * sweep))
    tail = hand.pick([(2, "loops"), (1.5, "fish"), (1, "none")])
    if tail == "loops":
        strokes += [
            loop(36, 128, hand.between(25, 50), 12, direction)
            for direction in (-130, 130)
            if hand.chance(0.7)
        ]
    elif tail == "fish":
        high = hand.between(20, 40)
        strokes.append(path((32, 124), (8, 128 - high), (14, 128), (8, 128 + high), (32, 132)))
    return strokes + (_windows(hand, 126) if hand.chance(0.3) else [])


def _windows(hand: Hand, y: float) -> list[Stroke]:
    size = hand.between(3, 7)
    return [ellipse(x, y, size, size) for x in range(85, 200, hand.count(20, 36))]


def jet(hand: Hand) -> list[Stroke]:
    """A dart: a long triangle with small triangles behind."""
    span, fin = hand.between(40, 90), hand.between(15, 35)
    outline = [(240, 128), (160, 112), (60, 128 - span), (75, 114), (30, 128 - fin), (40, 128)]
    return [path(*outline, *[(x, 256 - y) for x, y in reversed(outline)])]


# -------------------------------------------------------------------------------------------------------- book


def book(hand: Hand) -> list[Stroke]:
    way = hand.pick(
        [
            (4.5, open_book),
            (1.2, open_book_flat),
            (0.8, framed_book),
            (2, open_book_standing),
            (2.5, closed_book),
            (3, book_as_a_block),
            (1.5, page),
            (0.7, book_lying),
        ]
    )
    strokes = way(hand)
    if hand.chance(0.4):
        strokes = mirrored(strokes)
    return turned(strokes, hand.pick([(4, 0.0), (1, 15.0), (1, -15.0)]) + hand.between(-6, 6))


def open_book(hand: Hand) -> list[Stroke]:
    """Two pages side by side; their edges straight, curved, or dipping to the spine."""
    high, dip = hand.between(45, 105), hand.pick([(2, 0.0), (2, 14.0), (2, 28.0), (1, -16.0)])
    spread, bulge = hand.between(-14, 14), hand.pick([(1, 0.0), (1, 12.0), (1, 22.0)])
    top, bottom = 128 - high, 128 + high
    corners = {"left": 14 + spread, "right": 242 - spread}

    def edge(outer: float, y: float, sag: float) -> Stroke:
        middle = (outer + 128) / 2
        return curve((outer, y), (middle, y - bulge + sag * 0.4), (128, y + sag))

    strokes: list[Stroke] = []
    below = dip if hand.chance(0.8) else -dip
    if bulge == 0 and hand.chance(0.5):
        strokes.append(
            closed(
                (14, top),
                (128, top + dip),
                (242, top),
                (242 - spread, bottom),
                (128, bottom + below),
                (14 + spread, bottom),
            )
        )
    else:
        for name, outer in (("left", 14.0), ("right", 242.0)):
            strokes += [
                edge(outer, top, dip),
                path((outer, top), (corners[name], bottom)),
                edge(corners[name], bottom, below),
            ]
    strokes.append(path((128, top + dip), (128, bottom + below)))
    if hand.chance(0.15):
        strokes.append(path((136, top + dip), (136, bottom + below)))
    if hand.chance(0.15):
        strokes.append(
            path((14 + spread, bottom + 12), (128, bottom + below + 14), (242 - spread, bottom + 12))
        )
    for left, right in ((26, 116), (140, 230)):
        if hand.chance(0.55):
            strokes += _writing(hand, left, top + max(dip, 0) + 14, right, bottom - 12)
    return strokes


def open_book_flat(hand: Hand) -> list[Stroke]:
    """Wide and low, perhaps a cover showing behind the pages, perhaps with rounded corners."""
    high, slant = hand.between(35, 60), hand.between(-20, 20)
    outline = [
        (14.0, 128 - high),
        (242.0, 128 - high),
        (242.0 + slant, 128 + high),
        (14.0 + slant, 128 + high),
    ]
    strokes = [closed(*outline)]
    for x in (128, hand.between(120, 136))[: hand.count(1, 2)]:
        strokes.append(path((x, 128 - high), (x + slant, 128 + high)))
    if hand.chance(0.3):
        strokes.append(closed(*((128 + (px - 128) * 0.85, 128 + (py - 128) * 0.75) for px, py in outline)))
    for left, right in ((26, 116), (140, 230)):
        if hand.chance(0.6):
            strokes += _writing(hand, left, 128 - high + 8, right, 120 + high)
    return strokes


def framed_book(hand: Hand) -> list[Stroke]:
    """A cover with another frame, a picture or a title in it."""
    wide = hand.between(65, 100)
    strokes = [box(128 - wide, 18, 128 + wide, 238), box(145 - wide, 36, 115 + wide, 220)]
    if hand.chance(0.5):
        strokes.append(ellipse(128, 128, hand.between(12, 35), hand.between(12, 45)))
    else:
        strokes += _writing(hand, 155 - wide, 50, 105 + wide, hand.between(110, 200))
    if hand.chance(0.5):
        strokes.append(path((118 - wide, 18), (118 - wide, 238)))
    return strokes


def _writing(hand: Hand, left: float, top: float, right: float, bottom: float) -> list[Stroke]:
    lines = hand.count(2, 5)
    step = (bottom - top) / lines
    kind = hand.pick([(2, "lines"), (2, "wavy"), (1, "tight")])
    strokes = []
    for number in range(lines):
        y, end = top + step * (number + 0.5), right - hand.between(0, 0.35) * (right - left)
        start = left + hand.between(0, 0.2) * (right - left)
        if kind == "lines":
            strokes.append(path((start, y), (end, y)))
        else:
            strokes.append(
                zigzag(
                    start,
                    end,
                    y,
                    hand.between(6, 14),
                    hand.count(3, 6) if kind == "wavy" else hand.count(7, 12),
                )
            )
    return strokes


def open_book_standing(hand: Hand) -> list[Stroke]:
    """A V of two covers, seen from the front."""
    high, dip = hand.between(60, 100), hand.between(18, 60)
    narrow = hand.between(0, 40)
    strokes = [
        closed(
            (14 + narrow, 128 - high),
            (128, 128 - high + dip),
            (128, 128 + high),
            (14 + narrow, 128 + high - dip),
        ),
        path(
            (128, 128 - high + dip),
            (242 - narrow, 128 - high),
            (242 - narrow, 128 + high - dip),
            (128, 128 + high),
        ),
    ]
    if hand.chance(0.4):
        strokes += _writing(hand, 30 + narrow, 128 - high + dip, 116, 128 + high - dip)
    if hand.chance(0.4):
        strokes += _writing(hand, 140, 128 - high + dip, 226 - narrow, 128 + high - dip)
    return strokes


def closed_book(hand: Hand) -> list[Stroke]:
    """A cover with its spine, perhaps a title or a picture."""
    wide = hand.between(55, 100)
    left, right, top, bottom = 128 - wide, 128 + wide, 16.0, 240.0
    strokes = [box(left, top, right, bottom)]
    if hand.chance(0.7):
        strokes += [path((left + gap, top), (left + gap, bottom)) for gap in (14, 24, 34)[: hand.count(1, 3)]]
    if hand.chance(0.35):
        strokes += _writing(hand, left + 40, 40, right - 15, hand.between(80, 200))
    if hand.chance(0.15):
        strokes.append(ellipse(140, 140, hand.between(15, 40), hand.between(15, 50)))
    if hand.chance(0.3):
        strokes.append(
            path(
                (left, bottom),
                (left + 12, bottom + 14),
                (right + 10, bottom + 14),
                (right + 10, top + 14),
                (right, top),
            )
        )
    return strokes


def book_as_a_block(hand: Hand) -> list[Stroke]:
    """A cover in front, and its thickness to one side and above or below, with the leaves' edges."""
    wide, lean = hand.between(50, 90), hand.between(-25, 25)
    deep, rise = hand.between(10, 45), hand.between(10, 40)
    left, right, top, bottom = 110 - wide, 110 + wide, 50.0, 235.0
    front = [(left + lean, top), (right + lean, top), (right, bottom), (left, bottom)]
    strokes = [closed(*front)]
    if hand.chance(0.75):
        strokes.append(
            path(front[0], (left + lean + deep, top - rise), (right + lean + deep, top - rise), front[1])
        )
    if hand.chance(0.7):
        strokes.append(path((right + lean + deep, top - rise), (right + deep, bottom - rise), front[2]))
    if hand.chance(0.4):
        for share in (0.35, 0.65)[: hand.count(1, 2)]:
            x, y = deep * share, rise * share
            strokes.append(path((left + lean + x, top - y), (right + lean + x, top - y)))
            strokes.append(path((right + lean + x, top - y), (right + x, bottom - y)))
    if hand.chance(0.25):
        strokes += _writing(hand, left + 20, top + 25, right - 10, top + hand.between(60, 120))
    return strokes


def page(hand: Hand) -> list[Stroke]:
    """One sheet or cover, with or without writing."""
    wide = hand.between(60, 105)
    strokes = [
        closed(
            (128 - wide, 18),
            (128 + wide, 18 + hand.between(-8, 8)),
            (128 + wide + hand.between(-8, 8), 238),
            (128 - wide, 238),
        )
    ]
    if hand.chance(0.6):
        strokes += _writing(hand, 138 - wide, 40, 118 + wide, 215)
    elif hand.chance(0.4):
        strokes.append(path((128, 18), (128, 238)))
    if hand.chance(0.25):
        strokes += [
            path((128 - wide - 6, y), (128 - wide + 10, y)) for y in range(30, 230, hand.count(20, 40))
        ]
    return strokes


def book_lying(hand: Hand) -> list[Stroke]:
    """Flat on a table: two covers, the leaves between, the spine round."""
    high, slant = hand.between(25, 50), hand.between(20, 60)
    strokes = [
        closed((20, 110), (20 + slant, 110 - high), (230, 110 - high), (230 - slant, 110)),
        path((20, 110), (20, 110 + high), (230 - slant, 110 + high), (230 - slant, 110)),
        path((230 - slant, 110 + high), (230, 110), (230, 110 - high)),
    ]
    strokes += [
        path((20, 110 + high * part), (230 - slant, 110 + high * part))
        for part in (0.3, 0.6)
        if hand.chance(0.5)
    ]
    return strokes


# ------------------------------------------------------------------------------------------------------- clock


def clock(hand: Hand) -> list[Stroke]:
    way = hand.pick(
        [(7, alarm_clock), (1.0, clock_on_the_wall), (1.1, digital_clock), (0.2, clock_with_pendulum)]
    )
    return turned(way(hand), hand.between(-8, 8))


def alarm_clock(hand: Hand) -> list[Stroke]:
    """A round face with bells on top and feet below, some of them left out."""
    wide, tall = hand.between(68, 92), hand.between(62, 90)
    x, y = 128.0, 140.0
    if hand.chance(0.1):
        face = [box(x - wide, y - tall, x + wide, y + tall)]
    elif hand.chance(0.12):
        face = [
            curve(
                (x, y - tall),
                (x + wide, y + tall * 0.4),
                (x + wide * 0.5, y + tall),
                (x - wide * 0.5, y + tall),
                (x - wide, y + tall * 0.4),
                (x, y - tall),
            )
        ]
    else:
        face = [ellipse(x, y, wide, tall, hand.between(-130, -50), hand.between(345, 385))]
    if hand.chance(0.22):
        face.append(ellipse(x, y, wide * 0.78, tall * 0.78))
    strokes = face
    if hand.chance(0.92):
        strokes = strokes + _bells(hand, x, y, wide, tall)
    if hand.chance(0.55):
        strokes = strokes + _feet(hand, x, y, wide, tall)
    if hand.chance(0.72):
        strokes = strokes + _hands(hand, x, y, min(wide, tall))
    if hand.chance(0.3):
        strokes = strokes + _hours(hand, x, y, wide * 0.82, tall * 0.82)
    if hand.chance(0.13):
        strokes = strokes + _ringing(hand, x, y, wide, tall)
    return strokes


def _ringing(hand: Hand, x: float, y: float, wide: float, tall: float) -> list[Stroke]:
    """Lines flying off to both sides, or all round."""
    angles = hand.pick(
        [
            (1, (-160, -20)),
            (1, (180, 200, -20, 0)),
            (1, (-150, -120, -90, -60, -30)),
            (1, tuple(range(0, 360, 40))),
        ]
    )
    near, far = hand.between(1.3, 1.6), hand.between(1.7, 2.2)
    strokes = []
    for angle in angles:
        ends = (arc(x, y, wide * r, tall * r, angle, angle)[0] for r in (near, far))
        strokes.append(path(*((float(end[0]), float(end[1])) for end in ends)))
    return strokes


def _bells(hand: Hand, x: float, y: float, wide: float, tall: float) -> list[Stroke]:
    kind = hand.pick(
        [
            (4, "domes"),
            (3.5, "circles"),
            (1.5, "knob"),
            (0.8, "one bell"),
            (1, "horns"),
            (1.6, "stalks"),
            (0.7, "caps on stalks"),
        ]
    )
    if kind == "knob":
        high, half = hand.between(12, 34), hand.between(8, 26)
        top = y - tall
        knob = [
            path((x - half, top + 3), (x - half, top - high), (x + half, top - high), (x + half, top + 3))
        ]
        if hand.chance(0.4):
            knob = [path((x, top), (x, top - high)), ellipse(x, top - high - half * 0.6, half, half * 0.6)]
        return knob
    out, size = hand.between(24, 58), hand.between(15, 40)
    strokes: list[Stroke] = []
    if kind == "one bell":
        lift = y - tall - hand.between(0, 20)
        strokes = [
            arc(x, lift, size * 1.3, size, 180, 360),
            path((x - size * 1.3, lift), (x + size * 1.3, lift)),
        ]
        return [*strokes, path((x - 4, y - tall), (x - 4, lift)), path((x + 4, y - tall), (x + 4, lift))]
    for side in (-1, 1):
        angle = -90 + side * out
        edge = arc(x, y, wide, tall, angle, angle)[0]
        away = arc(0, 0, 1, 1, angle, angle)[0]
        if kind == "domes":
            dome = arc(0, 0, size, size * hand.between(0.7, 1.3), 180, 360)
            base = [path((-size, 0), (size, 0))] if hand.chance(0.6) else []
            lift = hand.between(-2, 10)
            strokes += moved(
                turned([dome, *base], side * out, (0, 0)), edge[0] + away[0] * lift, edge[1] + away[1] * lift
            )
        elif kind == "circles":
            at = edge + away * size * hand.between(0.7, 1.1)
            strokes.append(ellipse(at[0], at[1], size, size * hand.between(0.6, 1.1), hand.between(0, 360)))
        elif kind == "horns":
            tip = edge + away * hand.between(20, 45)
            strokes.append(path((edge[0] - 14, edge[1] + 4), (tip[0], tip[1]), (edge[0] + 14, edge[1] + 4)))
        elif kind == "caps on stalks":
            length = hand.between(10, 26)
            cap = [
                path((0, 0), (0, -length)),
                arc(0, -length, size, size * 0.8, 180, 360),
                path((-size, -length), (size, -length)),
            ]
            strokes += moved(turned(cap, side * out, (0, 0)), edge[0], edge[1])
        else:
            tip = edge + away * hand.between(15, 50)
            strokes.append(path((edge[0], edge[1]), (tip[0], tip[1])))
            if hand.chance(0.6):
                strokes.append(
                    ellipse(
                        tip[0] + away[0] * size * 0.5, tip[1] + away[1] * size * 0.5, size * 0.8, size * 0.6
                    )
                )
    if hand.chance(0.25):
        strokes.append(path((x, y - tall), (x, y - tall - hand.between(10, 30))))
    return strokes[:-1] if hand.chance(0.08) else strokes


def _feet(hand: Hand, x: float, y: float, wide: float, tall: float) -> list[Stroke]:
    out, length = hand.between(0.35, 0.7), hand.between(14, 40)
    round_feet = hand.chance(0.2)
    strokes = []
    for side in (-1, 1):
        foot_x, foot_y = x + side * wide * out, y + tall * (1 - out**2) ** 0.5
        if round_feet:
            strokes.append(ellipse(foot_x, foot_y + length * 0.4, length * 0.5, length * 0.4))
        else:
            strokes.append(
                path((foot_x, foot_y), (foot_x + side * length * hand.between(0.1, 0.9), foot_y + length))
            )
    return strokes


def _hands(hand: Hand, x: float, y: float, radius: float) -> list[Stroke]:
    long, short = radius * hand.between(0.55, 0.85), radius * hand.between(0.3, 0.6)
    first, second = hand.pick(
        [
            (2, (-90.0, 0.0)),
            (2, (-90.0, 45.0)),
            (1, (-60.0, -180.0)),
            (3, (hand.between(-180, 180), hand.between(-180, 180))),
        ]
    )
    tips = [arc(x, y, long, long, first, first)[0], arc(x, y, short, short, second, second)[0]]
    if hand.chance(0.5):
        strokes = [path(tuple(tips[0]), (x, y), tuple(tips[1]))]
    else:
        strokes = [path((x, y), tuple(tip)) for tip in tips]
    if hand.chance(0.15):
        strokes.append(ellipse(x, y, 6, 6))
    if hand.chance(0.08):
        strokes = [path((x, y), tuple(tips[0]))]
    return strokes


def _hours(hand: Hand, x: float, y: float, wide: float, tall: float) -> list[Stroke]:
    count = hand.pick([(2, 12), (2, 4), (1, 8)])
    digits = hand.chance(0.3)
    inner = hand.between(0.8, 0.9)
    strokes = []
    for number in range(count):
        angle = 360 / count * number
        outer, near = (
            arc(x, y, wide, tall, angle, angle)[0],
            arc(x, y, wide * inner, tall * inner, angle, angle)[0],
        )
        if digits:
            strokes += moved([_digit(hand)], near[0] - 6, near[1] - 8, 0.7)
        else:
            strokes.append(path(tuple(outer), tuple(near)))
    return strokes


def _digit(hand: Hand) -> Stroke:
    """A figure 18 wide and 24 high, at the origin."""
    return hand.pick(
        [
            (3, path((9, 0), (9, 24))),
            (1, path((0, 3), (9, 0), (16, 6), (0, 24), (18, 24))),
            (1, path((0, 0), (16, 0), (6, 10), (16, 16), (8, 24), (0, 21))),
            (1, path((14, 24), (14, 0), (0, 15), (18, 15))),
            (1, path((0, 0), (18, 0), (6, 24))),
            (2, ellipse(9, 12, 9, 12)),
            (1, curve((16, 2), (4, 4), (2, 18), (12, 23), (15, 15), (3, 15))),
        ]
    )


def clock_on_the_wall(hand: Hand) -> list[Stroke]:
    """A face alone, round or square."""
    tall = hand.between(75, 112)
    strokes = (
        [box(16, 128 - tall, 240, 128 + tall)]
        if hand.chance(0.2)
        else [ellipse(128, 128, 112, tall, hand.between(0, 360))]
    )
    if hand.chance(0.2):
        strokes.append(ellipse(128, 128, 92, tall * 0.82))
    strokes += _hands(hand, 128, 128, tall)
    if hand.chance(0.65):
        strokes += _hours(hand, 128, 128, 96, tall * 0.86)
    return strokes


def digital_clock(hand: Hand) -> list[Stroke]:
    """A wide box with a time in figures."""
    high = hand.between(35, 75)
    strokes = [box(14, 128 - high, 242, 128 + high)]
    size = min(high * hand.between(0.9, 1.4) / 24, 2.4)
    figures = [44, 88, 140, 186] if hand.chance(0.7) else [62, 140, 186]
    for left in figures:
        strokes += moved([_digit(hand)], left - 6, 128 - 12 * size, size)
    if hand.chance(0.8):
        strokes += [ellipse(126, 128 + up, 3, 3) for up in (-high * 0.25, high * 0.25)]
    if hand.chance(0.3):
        strokes.append(box(30, 128 - high * 0.75, 226, 128 + high * 0.75))
    if hand.chance(0.3):
        strokes.append(box(90, 128 - high - hand.between(10, 25), 166, 128 - high))
    if hand.chance(0.3):
        strokes += [path((x, 128 + high), (x, 128 + high + 15)) for x in (40, 216)]
    return strokes


def clock_with_pendulum(hand: Hand) -> list[Stroke]:
    strokes = [ellipse(128, 80, 60, 60), *_hands(hand, 128, 80, 60), box(62, 10, 194, 245)]
    return [*strokes, path((128, 140), (120, 205)), ellipse(120, 215, 14, 14)]


# ------------------------------------------------------------------------------------------------------- house


def house(hand: Hand) -> list[Stroke]:
    way = hand.pick(
        [
            (5, house_with_gable),
            (2.5, house_in_one_line),
            (1, house_with_hip_roof),
            (1.3, house_from_the_corner),
            (0.5, house_of_arcs),
        ]
    )
    return turned(way(hand), hand.between(-7, 7))


def house_with_gable(hand: Hand) -> list[Stroke]:
    """Walls, and a triangle on top which may stand out over them."""
    wide, eaves = hand.between(50, 105), hand.between(95, 150)
    left, right, over = 128 - wide, 128 + wide, hand.pick([(3, 0.0), (2, 12.0), (2, 30.0)])
    peak = 128 + hand.between(-0.25, 0.25) * wide
    roof = [(left - over, eaves), (peak, 16), (right + over, eaves)]
    strokes: list[Stroke] = []
    if hand.chance(0.5):
        strokes.append(box(left, eaves, right, 240))
        strokes.append(path(*roof) if over == 0 or hand.chance(0.3) else closed(*roof))
    else:
        strokes.append(path((left, eaves), (left, 240), (right, 240), (right, eaves)))
        strokes.append(path(*roof) if hand.chance(0.4) else closed(*roof))
    if hand.chance(0.08):
        strokes[0] = path((left, eaves), (left, 240))
        strokes.append(path((right, eaves), (right, 240)))
    return strokes + _details(hand, left, eaves, right, 240)


def _details(hand: Hand, left: float, top: float, right: float, bottom: float) -> list[Stroke]:
    """A door, windows and a chimney, some or none of them."""
    wide, high = right - left, bottom - top
    strokes: list[Stroke] = []
    if hand.chance(0.55):
        door, x = wide * hand.between(0.1, 0.17), left + wide * hand.pick([(3, 0.5), (1, 0.28), (1, 0.72)])
        lintel = bottom - high * hand.between(0.4, 0.7)
        if hand.chance(0.25):
            strokes.append(
                curve(
                    (x - door, bottom),
                    (x - door * 0.9, lintel + door),
                    (x, lintel),
                    (x + door * 0.9, lintel + door),
                    (x + door, bottom),
                )
            )
        else:
            strokes.append(
                path((x - door, bottom), (x - door, lintel), (x + door, lintel), (x + door, bottom))
            )
        if hand.chance(0.2):
            strokes.append(ellipse(x + door * 0.5, (lintel + bottom) / 2, 3, 3))
    if hand.chance(0.42):
        size = min(wide, high) * hand.between(0.1, 0.16)
        places = hand.pick([(2, (0.25, 0.75)), (1.5, (0.75,)), (1, (0.25,)), (0.5, (0.2, 0.5, 0.8))])
        y = top + high * hand.between(0.25, 0.45)
        cross = hand.chance(0.4)
        for place in places:
            x = left + wide * place
            strokes.append(
                ellipse(x, y, size, size)
                if hand.chance(0.12)
                else box(x - size, y - size, x + size, y + size)
            )
            if cross:
                strokes += [path((x - size, y), (x + size, y)), path((x, y - size), (x, y + size))]
    if hand.chance(0.14):
        x, up = left + wide * hand.between(0.65, 0.85), top * hand.between(0.3, 0.55)
        strokes.append(path((x - 12, up + 14), (x - 12, up - 30), (x + 12, up - 30), (x + 12, up + 34)))
        if hand.chance(0.3):
            strokes.append(curve((x, up - 38), (x + 16, up - 52), (x - 4, up - 64), (x + 14, up - 78)))
    if hand.chance(0.06):
        strokes.append(scribble(left + wide * 0.2, top * 0.5, right - wide * 0.2, top, hand.count(5, 9)))
    if hand.chance(0.05):
        strokes.append(path((left - 30, bottom), (right + 30, bottom)))
    return strokes


def house_in_one_line(hand: Hand) -> list[Stroke]:
    """Five corners, with or without the line of the eaves."""
    wide, eaves = hand.between(50, 110), hand.between(75, 140)
    left, right, peak = 128 - wide, 128 + wide, 128 + hand.between(-0.3, 0.3) * wide
    outline = [(left, 240.0), (left, eaves), (peak, 16.0), (right, eaves), (right, 240.0)]
    strokes = [closed(*outline) if hand.chance(0.8) else path(*outline)]
    if hand.chance(0.45):
        strokes.append(path((left, eaves), (right, eaves)))
    return strokes + _details(hand, left, eaves, right, 240)


def house_with_hip_roof(hand: Hand) -> list[Stroke]:
    wide, eaves, ridge = hand.between(80, 108), hand.between(95, 140), hand.between(0.3, 0.8)
    left, right, over = 128 - wide, 128 + wide, hand.pick([(2, 0.0), (1, 16.0)])
    top = hand.between(30, 60)
    roof = closed(
        (left - over, eaves), (128 - wide * ridge, top), (128 + wide * ridge, top), (right + over, eaves)
    )
    return [
        path((left, eaves), (left, 220), (right, 220), (right, eaves)),
        roof,
        *_details(hand, left, eaves, right, 220),
    ]


def house_from_the_corner(hand: Hand) -> list[Stroke]:
    """A gable and a long side with its roof."""
    split, eaves = hand.between(85, 130), hand.between(105, 140)
    lift = hand.between(-15, 25)
    strokes = [
        closed((16, eaves), (16 + (split - 16) / 2, 40), (split, eaves), (split, 225), (16, 225)),
        path((16 + (split - 16) / 2, 40), (205, 40 - lift * 0.3), (240, eaves - lift), (split, eaves)),
        path((240, eaves - lift), (240, 225 - lift * 0.6), (split, 225)),
    ]
    if hand.chance(0.5):
        strokes.append(path((16, eaves), (split, eaves)))
    strokes += _details(hand, 16, eaves, split, 225)[:2]
    if hand.chance(0.4):
        strokes.append(box(split + 30, eaves + 20, split + 60, eaves + 50))
    return mirrored(strokes) if hand.chance(0.5) else strokes


def house_of_arcs(hand: Hand) -> list[Stroke]:
    """A roof like a hat or a mushroom's cap."""
    wide, eaves = hand.between(55, 95), hand.between(95, 135)
    over = hand.between(0, 30)
    roof = curve(
        (128 - wide - over, eaves),
        (128 - wide * 0.6, 55),
        (128, 20),
        (128 + wide * 0.6, 55),
        (128 + wide + over, eaves),
    )
    strokes = [roof, path((128 - wide, eaves), (128 - wide, 240), (128 + wide, 240), (128 + wide, eaves))]
    if hand.chance(0.7):
        strokes.append(path((128 - wide - over, eaves), (128 + wide + over, eaves)))
    return strokes + _details(hand, 128 - wide, eaves, 128 + wide, 240)
