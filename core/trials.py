"""Trials: a version is asked beside the champion, and what the two answered is counted. The numbers, and their bounds.

Gateways count (api/trials.py), people start and end them (pipeline/trials.py); a canary beyond its bounds is ended by
the gateway that sees it first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core import telemetry
from core.database import LedgerAction, LedgerEntry, LedgerOutcome, Trial, TrialKind, TrialOutcome

# Upper ends of what latencies are counted in; those beyond the last are counted in one more.
LATENCY_BOUNDS_MS = (
    1,
    1.5,
    2,
    3,
    4,
    6,
    8,
    12,
    16,
    24,
    32,
    48,
    64,
    96,
    128,
    192,
    256,
    512,
    1024,
    2048,
    4096,
    10_000,
)

USUAL_PERCENT = {TrialKind.shadow: 100, TrialKind.canary: 10}

# A canary is judged by its latest images, so that one which goes wrong after a million good ones goes back as one that
# is wrong from the start: by two blocks of so many images, of which the second is still being filled.
BLOCK_IMAGES = 1_000
# Answers failed: more than the champion's by two in a hundred, and not by one or two accidents.
MOST_EXCESS_ERRORS = 0.02
FEWEST_ERRORS = 5
# Slower: the slowest twentieth takes twice as long and 10 ms more, once there are enough to tell.
MOST_TIMES_AS_SLOW = 2.0
SLOWER_BY_MS = 10.0
FEWEST_LATENCIES = 200

_log = telemetry.get_logger("trials")


@dataclass
class Counted:
    """What was counted since it was last written. Latencies in milliseconds, None for an error."""

    images: int = 0
    compared: int = 0  # of them, those that both answered
    agreed: int = 0
    errors: int = 0
    champion_errors: int = 0
    skipped: int = 0
    latencies: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_MS) + 1))
    champion_latencies: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_MS) + 1))

    def count(self, latency_ms: float | None, champion_latency_ms: float | None, *, agrees: bool) -> None:
        self.images += 1
        self.compared += latency_ms is not None and champion_latency_ms is not None
        self.agreed += agrees
        self.errors += latency_ms is None
        self.champion_errors += champion_latency_ms is None
        if latency_ms is not None:
            self.latencies[bisect_left(LATENCY_BOUNDS_MS, latency_ms)] += 1
        if champion_latency_ms is not None:
            self.champion_latencies[bisect_left(LATENCY_BOUNDS_MS, champion_latency_ms)] += 1

    def merge(self, later: Counted) -> Counted:
        return Counted(
            self.images + later.images,
            self.compared + later.compared,
            self.agreed + later.agreed,
            self.errors + later.errors,
            self.champion_errors + later.champion_errors,
            self.skipped + later.skipped,
            _sum(self.latencies, later.latencies),
            _sum(self.champion_latencies, later.champion_latencies),
        )


def open_trial(db: Session, model: str, *, for_update: bool = False) -> Trial | None:
    query = select(Trial).where(Trial.model == model, Trial.ended_at.is_(None))
    return db.scalar(query.with_for_update() if for_update else query)


def add(db: Session, trial_id: int, counted: Counted) -> Trial | None:
    """Adds to what is written; gives the trial, None when it has ended meanwhile."""
    trial = db.get(Trial, trial_id, with_for_update=True)
    if trial is None or trial.ended_at is not None:
        return None
    add_to(trial, counted)
    return trial


def add_to(trial: Trial, counted: Counted) -> None:
    trial.images += counted.images
    trial.compared += counted.compared
    trial.agreed += counted.agreed
    trial.errors += counted.errors
    trial.champion_errors += counted.champion_errors
    trial.skipped += counted.skipped
    trial.latencies = _sum(trial.latencies, counted.latencies)
    trial.champion_latencies = _sum(trial.champion_latencies, counted.champion_latencies)
    blocks = [Counted(**block) for block in trial.latest or [{}]]
    blocks[-1] = blocks[-1].merge(counted)
    if blocks[-1].images >= BLOCK_IMAGES:
        blocks.append(Counted())
    trial.latest = [asdict(block) for block in blocks[-2:]]


def latest(trial: Trial) -> Counted:
    """Of up to the last 2,000 images (of more when they come faster than they are written)."""
    counted = Counted()
    for block in trial.latest or []:
        counted = counted.merge(Counted(**block))
    return counted


def beyond_bounds(trial: Trial) -> str | None:
    """Why a canary must go back, in a sentence; None while it may go on."""
    if trial.kind is not TrialKind.canary:
        return None
    last = latest(trial)
    excess = (last.errors - last.champion_errors) / max(1, last.images)
    if last.errors >= FEWEST_ERRORS and excess > MOST_EXCESS_ERRORS:
        return (
            f"{last.errors} of the latest {last.images} answers failed, of version {trial.champion} "
            f"{last.champion_errors}: more than {100 * MOST_EXCESS_ERRORS:g} % of difference"
        )
    if min(sum(last.latencies), sum(last.champion_latencies)) < FEWEST_LATENCIES:
        return None
    own, champions = percentile_ms(last.latencies, 0.95), percentile_ms(last.champion_latencies, 0.95)
    assert own is not None
    assert champions is not None
    if own > MOST_TIMES_AS_SLOW * champions + SLOWER_BY_MS:
        return (
            f"19 of 20 of the latest {last.images} answers came within {own:g} ms, of version {trial.champion} "
            f"within {champions:g} ms: more than {MOST_TIMES_AS_SLOW:g} times and {SLOWER_BY_MS:g} ms more"
        )
    return None


def end(db: Session, trial: Trial, outcome: TrialOutcome, because: str, *, actor: str) -> None:
    """The trial must be locked. The ledger has an entry of its own unless it was promoted, which has one already."""
    trial.ended_at, trial.outcome, trial.ended_because = datetime.now(UTC), outcome, because
    if outcome is not TrialOutcome.promoted:
        db.add(
            LedgerEntry(
                model=trial.model,
                action=LedgerAction(trial.kind.value),
                version=trial.version,
                replaced_version=trial.champion,
                actor=actor,
                reason=because,
                opened_at=trial.started_at,
                outcome=LedgerOutcome.reverted,
                closed_at=trial.ended_at,
            )
        )
    _log.info("trial ended", model=trial.model, version=trial.version, outcome=outcome.value, reason=because)


def champion_moved(db: Session, model: str, version: int, *, actor: str) -> None:
    """The open trial is over: it was promoted, or what it was compared with is live no more."""
    trial = open_trial(db, model, for_update=True)
    if trial is not None and trial.version == version:
        end(db, trial, TrialOutcome.promoted, f"version {version} was promoted", actor=actor)
    elif trial is not None:
        end(db, trial, TrialOutcome.ended, f"version {version} became champion meanwhile", actor=actor)


def percentile_ms(counts: Sequence[int], share: float) -> float | None:
    """The upper end of the bounds in which it lies; None of nothing."""
    total = sum(counts)
    if total == 0:
        return None
    reached = 0
    for bound, count in zip((*LATENCY_BOUNDS_MS, 2 * LATENCY_BOUNDS_MS[-1]), counts, strict=True):
        reached += count
        if reached >= share * total:
            return float(bound)
    raise AssertionError("unreachable")


def as_json(trial: Trial) -> dict[str, Any]:
    last = latest(trial)
    return {
        "id": trial.id,
        "model": trial.model,
        "kind": trial.kind,
        "version": trial.version,
        "champion": trial.champion,
        "percent": trial.percent,
        "started_by": trial.started_by,
        "reason": trial.reason,
        "started_at": trial.started_at.isoformat(),
        "ended_at": trial.ended_at.isoformat() if trial.ended_at else None,
        "outcome": trial.outcome,
        "ended_because": trial.ended_because,
        "images": trial.images,
        "agreement": round(trial.agreed / trial.compared, 4) if trial.compared > 0 else None,
        "errors": trial.errors,
        "champion_errors": trial.champion_errors,
        "skipped": trial.skipped,
        **_percentiles(trial, 50, 95),
        "latest": {
            "images": last.images,
            "errors": last.errors,
            "champion_errors": last.champion_errors,
            **_percentiles(last, 95),
        },
    }


def _percentiles(counted: Trial | Counted, *percents: int) -> dict[str, float | None]:
    return {
        f"{whose}p{percent}_ms": percentile_ms(counts, percent / 100)
        for whose, counts in (("", counted.latencies), ("champion_", counted.champion_latencies))
        for percent in percents
    }


def _sum(before: Sequence[int], more: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(before or [0] * len(more), more, strict=True)]
