"""The gateway's own metrics, beside those every service has (core/telemetry.py).

Labels are bounded, whatever is sent and however many categories people name: models that the database knows, their
newest versions, and categories that these versions can answer. `publish` says which those are; all else is "other".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from prometheus_client import Counter, Gauge, Histogram

from core.telemetry import MOST_CATEGORIES, MOST_VERSIONS, OTHER, keep_versions

AGREEMENTS = ("agrees", "disagrees", "unknown")

PREDICTIONS = Counter(
    "emend_predictions_total",
    "Predictions answered, by the category answered; drafts are those made while somebody still draws.",
    ["model", "version", "category", "draft"],
)
CONFIDENCE = Histogram(
    "emend_prediction_confidence",
    "Probability of the answered category, drafts left out.",
    ["model", "version"],
    buckets=(0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
)
UPSTREAM_SECONDS = Histogram(
    "emend_upstream_duration_seconds",
    "Time of one call to the model server, which may carry several images.",
    ["model"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
BATCH_IMAGES = Histogram(
    "emend_upstream_batch_images",
    "Images in one call to the model server.",
    ["model"],
    buckets=(1, 2, 4, 8, 16, 32, 64),
)
RETRIES = Counter(
    "emend_upstream_retries_total",
    "Calls asked of another model server because the first failed, or again of the only one.",
    ["model"],
)
REFUSED = Counter(
    "emend_predictions_refused_total", "Requests refused because enough images waited already.", ["model"]
)
CANARIES_FAILED = Counter(
    "emend_canaries_failed_total",
    "Canaries that this gateway ended because they went beyond their bounds.",
    ["model"],
)
CORRECTIONS = Counter(
    "emend_corrections_total",
    "Corrections acknowledged, by what they said and whether that agrees with the prediction they speak of, "
    "which was this version's.",
    ["model", "version", "category", "agreement"],  # agrees, disagrees, unknown
)
INBOX = Gauge("emend_inbox_corrections", "Accepted corrections that wait for a run.", ["model"])
INBOX_OLDEST = Gauge(
    "emend_inbox_oldest_timestamp_seconds",
    "When the correction that has waited longest came; absent while none waits.",
    ["model"],
)
CHAMPION = Gauge("emend_champion_version", "The version that the ledger says is live.", ["model"])
HOLDOUT_ACCURACY = Gauge(
    "emend_champion_holdout_accuracy", "The champion's accuracy on the frozen holdout, 0..1.", ["model"]
)
HISTORY_WAITING = Gauge("emend_history_buffer_predictions", "Predictions not yet written to the database.")
HISTORY_DROPPED = Counter(
    "emend_history_dropped_total", "Predictions never written: the database was away for too long."
)

_BY_VERSION = (PREDICTIONS, CONFIDENCE, CORRECTIONS)


@dataclass(frozen=True)
class _Known:
    versions: frozenset[int]
    categories: frozenset[str]
    champion: int | None


_known: dict[str, _Known] = {}


@dataclass(frozen=True)
class Inbox:
    """waiting: how many corrections. oldest: when the first of them came, seconds since 1970."""

    waiting: int = 0
    oldest: float | None = None


def publish(
    model: str,
    champion: int | None,
    outputs: Mapping[int, Sequence[str]],
    inbox: Inbox,
    holdout: float | None,
) -> None:
    """What the database says of a model now. outputs: of each version, the names of what it can answer."""
    INBOX.labels(model).set(inbox.waiting)
    if inbox.oldest is None:
        INBOX_OLDEST.remove_by_labels({"model": model})
    else:
        INBOX_OLDEST.labels(model).set(inbox.oldest)
    if champion is not None:
        CHAMPION.labels(model).set(champion)
    if holdout is not None:
        HOLDOUT_ACCURACY.labels(model).set(holdout)
    known = _bounded(champion, outputs)
    if known != _known.get(model):
        _known[model] = known
        keep_versions(_BY_VERSION, model, {str(version) for version in known.versions})
        _begin_at_zero(model, known)


def version_label(model: str, version: int | None) -> str:
    """Of a version that answered; "unknown" for a stock server's."""
    if version is None:
        return "unknown"
    known = _known.get(model)
    return str(version) if known is not None and version in known.versions else OTHER


def category_label(model: str, name: str) -> str:
    known = _known.get(model)
    return name if known is not None and name in known.categories else OTHER


def _bounded(champion: int | None, outputs: Mapping[int, Sequence[str]]) -> _Known:
    versions = set(sorted(outputs, reverse=True)[:MOST_VERSIONS])
    if champion is not None:
        versions.add(champion)
    names: dict[str, None] = {}
    for version in sorted(versions & outputs.keys()):
        names.update(dict.fromkeys(outputs[version]))
    return _Known(frozenset(versions), frozenset(islice(names, MOST_CATEGORIES)), champion)


def _begin_at_zero(model: str, known: _Known) -> None:
    """A series that appears with its first event looks to Prometheus as if that event had always been there."""
    for counter in (RETRIES, REFUSED, CANARIES_FAILED):
        counter.labels(model)
    if known.champion is None:
        return
    version = str(known.champion)
    CONFIDENCE.labels(model, version)
    for category in _with_other(known.categories):
        for draft in ("false", "true"):
            PREDICTIONS.labels(model, version, category, draft)
        for agreement in AGREEMENTS[:2]:
            CORRECTIONS.labels(model, version, category, agreement)
        CORRECTIONS.labels(model, "unknown", category, AGREEMENTS[2])


def _with_other(names: Collection[str]) -> list[str]:
    return [*names, OTHER]
