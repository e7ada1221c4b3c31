"""What the model server tells Prometheus, beside what every service does (core/telemetry.py).

Labels are bounded: models that it has, versions that went live here (the newest of them); a version that somebody asked
for to compare is "other".
"""

from __future__ import annotations

from collections import deque

from prometheus_client import Counter, Gauge, Histogram

from core.telemetry import MOST_VERSIONS, keep_versions

SCORED = Counter(
    "emend_serving_requests_total",
    "Scoring requests, by HTTP status; version is empty where no version was asked.",
    ["model", "version", "status"],
)
IMAGES = Counter("emend_serving_images_total", "Images classified.", ["model", "version"])
SCORE_SECONDS = Histogram(
    "emend_serving_score_seconds",
    "From a whole body to its answer: waiting for a thread, parsing, inference, rendering.",
    ["model", "version"],
    # An image takes a fraction of a millisecond, 256 photos on a busy machine a second.
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
LIVE_VERSION = Gauge("emend_serving_live_version", "The version that answers.", ["model"])
REJECTED = Counter("emend_serving_rejected_versions_total", "Versions turned down.", ["model"])
REGISTRY_UP = Gauge("emend_serving_registry_up", "1 when MLflow answered the last poll.")

_went_live: dict[str, deque[str]] = {}


def live(model: str, version: int) -> None:
    """From now on this one answers."""
    LIVE_VERSION.labels(model).set(version)
    REJECTED.labels(model)  # from zero: an increase that begins at 1 is none to Prometheus
    label = str(version)
    latest = _went_live.setdefault(model, deque(maxlen=MOST_VERSIONS))
    if label in latest:
        latest.remove(label)
    latest.append(label)
    keep_versions((SCORED, IMAGES, SCORE_SECONDS), model, {*latest, ""})
