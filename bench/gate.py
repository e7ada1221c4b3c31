"""How often which challenger passes the gate: the tables of docs/gate.md.

    python -m bench.gate [--draws 2000]

Draws challengers whose true quality is known, judges each, and prints the share that is promoted, one line
per case; the last line is JSON. Ten categories; a champion that is right on 92 % of the holdout; corrections:
8 that it got wrong, of which the challenger fixes 85 %, and 20 that it got right, of which 1 % break.
`churn_percent` is the share of images on which one of the two is right and the other wrong, beside the gain.
Of 2,000 draws a share near 50 % is known to 2 points.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.gate import Evidence, GateParams, Slice, judge

CATEGORIES = 10
CHAMPION_ACCURACY = 0.92


@dataclass(frozen=True)
class Case:
    images: int  # real ones, in the holdout
    gain_points: float = 0.0  # the true difference
    churn_percent: float = 2.0
    fallen_points: float = 0.0  # what the recall of category 0 loses besides
    generated: int = 0
    generated_gain_points: float = 0.0
    corrections: bool = True
    margin_points: float = 1.0


def draw_slice(
    rng: np.random.Generator,
    images: int,
    gain_points: float,
    churn_percent: float,
    fallen_points: float = 0.0,
) -> Slice:
    gained = (churn_percent / 2 + max(gain_points, 0.0)) / 100
    lost = (churn_percent / 2 + max(-gain_points, 0.0)) / 100
    shares = [CHAMPION_ACCURACY - lost, lost, gained, 1 - CHAMPION_ACCURACY - gained]
    kind = rng.choice(4, images, p=shares)  # both right, lost, gained, both wrong
    truth = rng.integers(0, CATEGORIES, images)
    fallen = (truth == 0) & (rng.random(images) < fallen_points / 100 / CHAMPION_ACCURACY)
    return Slice(
        truth,
        challenger=_answers(rng, truth, ((kind == 0) | (kind == 2)) & ~fallen),
        champion=_answers(rng, truth, kind <= 1),
    )


def draw_corrections(
    rng: np.random.Generator, *, wrong: int = 8, right: int = 20, fixed: float = 0.85, broken: float = 0.01
) -> Slice:
    """wrong, right: how many of the corrections the champion gets so."""
    truth = rng.integers(0, CATEGORIES, wrong + right)
    champion_right = np.arange(wrong + right) >= wrong
    challenger_right = rng.random(wrong + right) < np.where(champion_right, 1 - broken, fixed)
    return Slice(
        truth,
        challenger=_answers(rng, truth, challenger_right),
        champion=_answers(rng, truth, champion_right),
    )


def evidence_of(holdout: Slice, **others: Slice) -> Evidence:
    """others: slices by name; those not named are empty."""
    knows, none = frozenset(range(CATEGORIES)), holdout.of([])
    return Evidence(
        holdout=holdout,
        regression=others.get("regression", none),
        learned=others.get("learned", none),
        exam=others.get("exam", none),
        samples=others.get("samples", none),
        validation=others.get("validation", none),
        challenger_knows=knows,
        champion_knows=None if holdout.champion is None else knows,
    )


def _answers(
    rng: np.random.Generator, truth: NDArray[np.int64], right: NDArray[np.bool_]
) -> NDArray[np.int64]:
    return np.where(right, truth, (truth + rng.integers(1, CATEGORIES, len(truth))) % CATEGORIES)


def draw(rng: np.random.Generator, case: Case) -> Evidence:
    holdout = draw_slice(rng, case.images, case.gain_points, case.churn_percent, case.fallen_points)
    learned = draw_corrections(rng) if case.corrections else holdout.of([])
    generated = draw_slice(rng, case.generated, case.generated_gain_points, churn_percent=4)
    return evidence_of(holdout, learned=learned, regression=generated)


def percent_of(rng: np.random.Generator, case: Case, draws: int) -> dict[str, float]:
    """Of the draws, how many were promoted and in how many a category was said to fall."""
    rule = GateParams(margin_points=case.margin_points)
    verdicts = [judge(draw(rng, case), rule) for _ in range(draws)]
    fell = [verdict.figures["categories_fallen"] > 0 for verdict in verdicts]
    promoted = [verdict.promoted for verdict in verdicts]
    return {
        "promoted": round(100 * float(np.mean(promoted)), 1),
        "fell": round(100 * float(np.mean(fell)), 1),
    }


def cases() -> list[Case]:
    sizes, churns, gains = (400, 1_000, 3_000, 10_000), (0.5, 1, 2, 5), (-3, -2, -1, -0.5, 0.5, 1, 2, 3)
    return [
        *(Case(n, churn_percent=c) for n in sizes for c in churns),
        *(Case(n, churn_percent=c, margin_points=0.5) for n in sizes for c in churns),
        *(Case(n, gain_points=g) for n in sizes for g in gains),
        *(Case(n, gain_points=g, corrections=False) for n in sizes for g in (0, 1, 2, 3)),
        *(Case(n, gain_points=1, fallen_points=f) for n in sizes for f in (10, 20, 40)),
        *(Case(100, generated=600, generated_gain_points=g) for g in (0, -2, -4, -8)),
        *(Case(n, generated=600, corrections=False) for n in (20, 100, 300)),
        *(Case(100, gain_points=g) for g in (0, -10, -20, -40)),
        # Real images that are learnt while generated ones are forgotten.
        *(
            Case(images, gain_points=6, generated=600, generated_gain_points=g, corrections=False)
            for images in (100, 300)
            for g in (0, -4, -8, -16)
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="How often which challenger passes the gate.")
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    rng, started, results = np.random.default_rng(1), time.monotonic(), []
    for case in cases():
        results.append({**asdict(case), **percent_of(rng, case, draws)})
        print(results[-1], flush=True)
    print(json.dumps({"draws": draws, "seconds": round(time.monotonic() - started, 1), "cases": results}))


if __name__ == "__main__":
    main()
