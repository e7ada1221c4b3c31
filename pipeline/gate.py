"""The gate: from paired answers of champion and challenger to a verdict.

A pure function, `judge(evidence, rule)`. It reads no file and knows no run, and nobody can tell it to let a
challenger through. The rule in words, and how often which challenger passes: docs/gate.md, measured by
bench/gate.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.metrics import Ids, normal_quantile, wilson_interval

Figures = dict[str, int | float]


class GateParams(BaseModel):
    """The section `gate` of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    confidence: float = Field(
        0.95,
        ge=0.5,
        lt=1,
        description="Of every interval, two-sided: no more than one in forty equal challengers shows a gain.",
    )
    margin_points: float = Field(
        1.0,
        gt=0,
        le=100,
        description="What the holdout may lose at most, with confidence. Smaller protects better, but equal "
        "challengers then hardly pass: with 0.5 an equal one with fixes passes 47 % of the time on 3,000 images, "
        "with 1.0 it is 95 %.",
    )
    min_holdout_images: int = Field(
        400,
        ge=1,
        description="Fewer real held-out images cannot rule out a loss of margin_points: even a challenger that "
        "answers everything the same proves it from 381 images on.",
    )
    generated_margin_points: float = Field(
        5.0,
        gt=0,
        le=100,
        description="Loose bound on generated drawings while real ones are few: learning real drawings may "
        "cost a little there; a collapse costs more.",
    )
    category_alpha: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Chance that any category of an equal challenger is said to fall, all together (Holm).",
    )
    new_category_recall_floor: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Of a new category's held-out images: one that is missed more often than found is not "
        "ready to be offered.",
    )
    first_version_margin: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="How much of the way from chance to perfect the first version must have come, with "
        "confidence: below that its answers are noise, not something to correct.",
    )


@dataclass(frozen=True, eq=False)
class Slice:
    """Answers for the same images, as category ids, each (N,). champion is None for a first version."""

    truth: Ids
    challenger: Ids
    champion: Ids | None = None

    def __post_init__(self) -> None:
        answers = [self.challenger] if self.champion is None else [self.challenger, self.champion]
        if any(a.shape != self.truth.shape for a in answers) or self.truth.ndim != 1:
            raise ValueError(f"answers must be as many as the {self.truth.shape} truths, in one dimension")

    def __len__(self) -> int:
        return len(self.truth)

    def of(self, categories: Iterable[int]) -> Slice:
        """The images whose truth is one of `categories`."""
        keep = np.isin(self.truth, sorted(categories))
        champion = None if self.champion is None else self.champion[keep]
        return Slice(self.truth[keep], self.challenger[keep], champion)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a challenger is judged by.

    holdout: real images, never trained on. regression: generated and sample images, never trained on.
    learned: corrections that were trained on. exam: corrections that were not. samples: those of both that were
    made of a person's drawing. validation: only read for new categories, of which the other slices hold few.
    champion_knows is None for a first version.
    """

    holdout: Slice
    regression: Slice
    learned: Slice
    exam: Slice
    samples: Slice
    validation: Slice
    challenger_knows: frozenset[int]
    champion_knows: frozenset[int] | None
    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        slices = (self.holdout, self.regression, self.learned, self.exam, self.samples, self.validation)
        if any((s.champion is None) != (self.champion_knows is None) for s in slices):
            raise ValueError("every slice needs the champion's answers, or none when there is no champion")


@dataclass(frozen=True)
class Outcome:
    """Of one rule. sentence: a clause that stands after "because"."""

    name: str
    passed: bool
    sentence: str
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    promoted: bool
    sentence: str
    reasons: tuple[Outcome, ...]
    figures: Figures

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "reasons": [asdict(reason) for reason in self.reasons]}


def judge(evidence: Evidence, rule: GateParams) -> Verdict:
    """Every rule is applied, also after one has failed, so that a verdict names all that was wrong."""
    if evidence.champion_knows is None:
        return _judge_first(evidence, rule)
    both = evidence.challenger_knows & evidence.champion_knows
    holdout = compare(evidence.holdout.of(both), rule.confidence)
    generated = compare(evidence.regression.of(both), rule.confidence)
    learned, exam = count_corrections(evidence.learned), count_corrections(evidence.exam)
    corrections, samples = learned + exam, count_corrections(evidence.samples)
    enough = holdout.images >= rule.min_holdout_images

    if enough:
        said = [_against(holdout, "the holdout", rule)]
        reasons = [_holdout_not_worse(holdout, rule), _gains_or_fixes(holdout, corrections)]
    else:
        said = [_against(holdout, "real images", rule)] if holdout.images else []
        said += [_against(generated, "generated images", rule)] if generated.images else []
        said += [f"real images are still few ({holdout.images} of {rule.min_holdout_images})"]
        reasons = [_no_sign_of_loss(holdout, generated, rule), _gains_or_fixes(holdout, corrections)]
    reasons += [
        _no_category_falls(evidence.holdout.of(both), evidence.names, rule),
        *_new_categories(evidence, rule),
    ]
    figures = {
        **holdout.figures("holdout"),
        **generated.figures("regression"),
        **corrections.figures("corrections"),
        **learned.figures("learned"),
        **exam.figures("exam"),
        **samples.figures("samples"),
    }
    return _verdict([*said, _corrections_said(corrections, samples)], reasons, figures)


def _judge_first(evidence: Evidence, rule: GateParams) -> Verdict:
    """There is nothing to compare it with but chance."""
    holdout = evidence.holdout.of(evidence.challenger_knows)
    generated = evidence.regression.of(evidence.challenger_knows)
    figures: Figures = {}
    for name, part in (("holdout", holdout), ("regression", generated)):
        figures[f"{name}_images"] = len(part)
        if len(part):
            figures[f"{name}_accuracy"] = float(np.mean(part.truth == part.challenger))

    pooled = [holdout] if len(holdout) >= rule.min_holdout_images else [holdout, generated]
    truth = np.concatenate([part.truth for part in pooled])
    right = np.concatenate([part.truth == part.challenger for part in pooled])
    if len(truth) == 0:
        reason = Outcome("beats_chance", False, "there is no held-out image to try it on")
        return _verdict(["first version"], [reason], figures)

    low, high = (float(bound) for bound in wilson_interval(right.sum(), len(right), rule.confidence))
    # Always answering the most frequent category; 1/C only when all are equally frequent.
    chance = float(np.unique(truth, return_counts=True)[1].max()) / len(truth)
    needed = chance + rule.first_version_margin * (1 - chance)
    passed = low > needed
    reason = Outcome(
        "beats_chance",
        passed,
        f"{_percent(needed)} or less {'is' if passed else 'is not'} ruled out",
        {"chance_accuracy": chance, "needed_accuracy": needed, "accuracy_low": low},
    )
    said = (
        f"first version; {_percent(right.mean())} on {len(right)} held-out images"
        f"{'' if len(holdout) == len(right) else f', {len(holdout)} of them real'}"
        f" ({_level(rule)} {100 * low:.1f} to {100 * high:.1f}) against {_percent(chance)} by chance"
    )
    return _verdict([said], [reason], figures)


def _verdict(said: list[str], reasons: list[Outcome], figures: Figures) -> Verdict:
    failed = [reason.sentence for reason in reasons if not reason.passed]
    sentence = "; ".join(said)
    sentence = (
        f"Rejected: {sentence}; because {', and '.join(failed)}." if failed else f"Promoted: {sentence}."
    )
    for reason in reasons:
        figures = figures | reason.figures
    return Verdict(not failed, sentence, tuple(reasons), {k: round(v, 6) for k, v in sorted(figures.items())})


# The rules: one Outcome each.


def _holdout_not_worse(holdout: Paired, rule: GateParams) -> Outcome:
    margin = rule.margin_points
    passed = 100 * holdout.low > -margin
    if passed:
        sentence = f"a loss of {margin:g} {'point' if margin == 1 else 'points'} on the holdout is ruled out"
    else:
        sentence = (
            f"a loss of {-100 * holdout.low:.2f} points on the holdout is not ruled out ({margin:g} allowed)"
        )
    return Outcome("holdout_not_worse", passed, sentence)


def _gains_or_fixes(holdout: Paired, corrections: Corrections) -> Outcome:
    if holdout.low > 0:
        return Outcome("gains_or_fixes", True, "the gain on real images is significant")
    if corrections.fixed > corrections.broke:
        return Outcome("gains_or_fixes", True, "it fixes more corrections than it breaks")
    sentence = "it neither gains significantly nor fixes more corrections than it breaks"
    return Outcome("gains_or_fixes", False, sentence)


def _no_sign_of_loss(holdout: Paired, generated: Paired, rule: GateParams) -> Outcome:
    """While real images are few: not clearly worse on them, and within a loose bound on generated ones.

    Generated images stand in for real ones. Where those show a significant gain, a loss here must be proven too, not
    ruled out: it still stops a challenger that learned the few and forgot the rest.
    """
    found = []
    if holdout.high < 0:
        found.append(f"it is significantly worse on the {holdout.images} real images")
    margin = rule.generated_margin_points
    if holdout.low > 0:
        if 100 * generated.high < -margin:
            lost = f"{-100 * generated.high:.2f} points on generated images"
            found.append(f"it loses at least {lost} ({margin:g} allowed)")
    elif generated.images < rule.min_holdout_images:  # the bound could not be met with so few
        if generated.high < 0:
            found.append(f"it is significantly worse on the {generated.images} generated images")
    elif 100 * generated.low <= -margin:
        lost = f"{-100 * generated.low:.2f} points on generated images"
        found.append(f"a loss of {lost} is not ruled out ({margin:g} allowed)")
    return Outcome("no_sign_of_loss", not found, " and ".join(found) or "there is no sign of a loss")


def _no_category_falls(holdout: Slice, names: Mapping[int, str], rule: GateParams) -> Outcome:
    champion, challenger = _right(holdout)
    of = {int(c): holdout.truth == c for c in np.unique(holdout.truth)}
    p_values = {
        c: sign_test(
            lost=int(np.count_nonzero(champion & ~challenger & images)),
            gained=int(np.count_nonzero(challenger & ~champion & images)),
        )
        for c, images in of.items()
    }
    fallen = holm(p_values, rule.category_alpha)
    listed = [
        f"{_name(names, c)} falls from {_percent(champion[of[c]].mean())} "
        f"to {_percent(challenger[of[c]].mean())}"
        for c in fallen
    ]
    sentence = " and ".join(listed) or "no category falls significantly"
    return Outcome("no_category_falls", not fallen, sentence, {"categories_fallen": len(fallen)})


def _new_categories(evidence: Evidence, rule: GateParams) -> list[Outcome]:
    """One outcome when there is any new category; one without held-out images cannot fail."""
    new = sorted(evidence.challenger_knows - (evidence.champion_knows or frozenset()))
    if not new:
        return []
    counted, missed, recalls = [], [], []
    for category in new:
        parts = [s.of([category]) for s in (evidence.holdout, evidence.regression, evidence.validation)]
        images = sum(len(part) for part in parts)
        found = sum(int(np.count_nonzero(part.truth == part.challenger)) for part in parts)
        clause = f"the new {_name(evidence.names, category)} is found in {found} of {images} held-out images"
        counted.append(clause)
        if images:
            recalls.append(found / images)
        if images and found < rule.new_category_recall_floor * images:
            missed.append(f"{clause} ({_percent(rule.new_category_recall_floor)} needed)")
    figures: Figures = {"new_categories": len(new)}
    if recalls:
        figures["new_category_recall_lowest"] = min(recalls)
    return [Outcome("new_categories", not missed, " and ".join(missed or counted), figures)]


# What the rules are made of.


@dataclass(frozen=True)
class Paired:
    """Two sets of answers to the same images. low, high: interval of the difference, a fraction."""

    images: int
    champion_right: int
    gained: int  # champion wrong, challenger right
    lost: int
    low: float
    high: float

    @property
    def champion_accuracy(self) -> float:
        return self.champion_right / self.images

    @property
    def challenger_accuracy(self) -> float:
        return (self.champion_right + self.gained - self.lost) / self.images

    def figures(self, name: str) -> Figures:
        if self.images == 0:
            return {f"{name}_images": 0}
        return {
            f"{name}_images": self.images,
            f"{name}_accuracy": self.challenger_accuracy,
            f"{name}_accuracy_champion": self.champion_accuracy,
            f"{name}_gain_points": 100 * (self.gained - self.lost) / self.images,
            f"{name}_gain_points_low": 100 * self.low,
            f"{name}_gain_points_high": 100 * self.high,
        }


@dataclass(frozen=True)
class Corrections:
    images: int
    champion_wrong: int
    fixed: int  # of those the champion got wrong
    broke: int  # champion right, challenger wrong

    def __add__(self, other: Corrections) -> Corrections:
        return Corrections(
            self.images + other.images,
            self.champion_wrong + other.champion_wrong,
            self.fixed + other.fixed,
            self.broke + other.broke,
        )

    def figures(self, name: str) -> Figures:
        return {f"{name}_{key}": value for key, value in asdict(self).items()}


def compare(answers: Slice, confidence: float) -> Paired:
    champion, challenger = _right(answers)
    gained = int(np.count_nonzero(challenger & ~champion))
    lost = int(np.count_nonzero(champion & ~challenger))
    low, high = paired_interval(gained, lost, len(answers), confidence)
    return Paired(len(answers), int(np.count_nonzero(champion)), gained, lost, low, high)


def count_corrections(answers: Slice) -> Corrections:
    champion, challenger = _right(answers)
    return Corrections(
        images=len(answers),
        champion_wrong=int(np.count_nonzero(~champion)),
        fixed=int(np.count_nonzero(challenger & ~champion)),
        broke=int(np.count_nonzero(champion & ~challenger)),
    )


def paired_interval(gained: int, lost: int, images: int, confidence: float) -> tuple[float, float]:
    """Tango's score interval for the difference of two proportions of the same images, -1..1.

    T. Tango, Statistics in Medicine 17:891-908 (1998); of the intervals without resampling it keeps its level
    best from few images to many (Fagerland, Lydersen, Laake, Statistics in Medicine 33:2850-2875, 2014). The
    normal interval does not: it has width 0 when no answer changed.
    """
    if images == 0:
        return -1.0, 1.0
    z = normal_quantile(confidence)
    estimate = (gained - lost) / images
    low = _bisect(lambda d: _tango_score(gained, lost, images, d) - z, -1.0, estimate)
    high = _bisect(lambda d: _tango_score(gained, lost, images, d) + z, estimate, 1.0)
    return low, high


def _tango_score(gained: int, lost: int, images: int, difference: float) -> float:
    """Standard normal if `difference` is the true one; falls as `difference` grows."""
    b = -(gained + lost) + (2 * images - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    # The probability of a loss that fits best, given the difference.
    loss = (math.sqrt(max(b * b - 8 * images * c, 0.0)) - b) / (4 * images)
    variance = images * (2 * loss + difference * (1 - difference))
    distance = gained - lost - images * difference
    if variance <= 0:  # nothing changed and difference 0, or an end of the range
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _bisect(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where `falling` crosses 0, to 1e-12."""
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def sign_test(*, lost: int, gained: int) -> float:
    """One-sided exact McNemar test: the chance of at least so many losses among the answers that changed,
    were losses and gains equally likely."""
    changed = lost + gained
    term = total = math.comb(changed, lost)
    for k in range(lost, changed):
        term = term * (changed - k) // (k + 1)  # comb(changed, k + 1)
        total += term
    return total / (1 << changed)


def holm(p_values: Mapping[int, float], alpha: float) -> list[int]:
    """Which null hypotheses fall, at a chance of alpha for any false one (S. Holm, 1979)."""
    rejected: list[int] = []
    for position, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > alpha / (len(p_values) - position):
            break
        rejected.append(key)
    return sorted(rejected)


def _right(answers: Slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if answers.champion is None:
        raise ValueError("a first version has no champion to compare it with")
    return answers.champion == answers.truth, answers.challenger == answers.truth


# Words.


def _against(part: Paired, where: str, rule: GateParams) -> str:
    difference = _points(part.challenger_accuracy - part.champion_accuracy)
    interval = f"{_level(rule)} {_points(part.low)} to {_points(part.high)}"
    return (
        f"{_percent(part.challenger_accuracy)} on {where} against {_percent(part.champion_accuracy)} "
        f"({difference}, {interval})"
    )


def _corrections_said(corrections: Corrections, samples: Corrections) -> str:
    if corrections.images == 0:
        return "no corrections to judge by"
    wrong = corrections.champion_wrong - samples.champion_wrong
    fixed = f"{corrections.fixed - samples.fixed} of {_counted(wrong, 'correction')}"
    if samples.champion_wrong:
        fixed += f" and {samples.fixed} of {_counted(samples.champion_wrong, 'sample')}"
    return f"fixed {fixed}, broke {corrections.broke}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _level(rule: GateParams) -> str:
    return f"{100 * rule.confidence:g} % CI"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _points(fraction: float) -> str:
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"  # + 0.0: no "-0.0"


def _name(names: Mapping[int, str], category: int) -> str:
    return names.get(category, f"category {category}")
