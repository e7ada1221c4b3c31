"""The gateway's own metrics, beside those every service has (core/telemetry.py).

Labels are bounded: models and categories that the database knows, versions that were promoted.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

PREDICTIONS = Counter(
    "emend_predictions_total",
    "Predictions answered; drafts are those made while somebody still draws.",
    ["model", "version", "label", "draft"],
)
CONFIDENCE = Histogram(
    "emend_prediction_confidence",
    "Probability of the answered label, drafts left out.",
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
CORRECTIONS = Counter(
    "emend_corrections_total",
    "Corrections acknowledged, by whether they agree with the prediction they speak of.",
    ["model", "agreement"],  # agrees, disagrees, unknown
)
INBOX = Gauge("emend_inbox_corrections", "Accepted corrections that wait for a run.", ["model"])
CHAMPION = Gauge("emend_champion_version", "The version that the ledger says is live.", ["model"])
HOLDOUT_ACCURACY = Gauge(
    "emend_champion_holdout_accuracy", "The champion's accuracy on the frozen holdout, 0..1.", ["model"]
)
HISTORY_WAITING = Gauge("emend_history_buffer_predictions", "Predictions not yet written to the database.")
HISTORY_DROPPED = Counter(
    "emend_history_dropped_total", "Predictions never written: the database was away for too long."
)
