"""No label takes what a stranger sent, and what the database knows is bounded too."""

from __future__ import annotations

import uuid

import pytest
from prometheus_client import Metric

from api import metrics
from core.telemetry import MOST_CATEGORIES, MOST_VERSIONS, OTHER
from serving import metrics as serving_metrics


@pytest.fixture
def model() -> str:
    return f"model-{uuid.uuid4().hex[:8]}"


def series(metric: object, model: str) -> list[dict[str, str]]:
    families: list[Metric] = list(metric.collect())  # type: ignore[attr-defined]
    return [s.labels for f in families for s in f.samples if s.labels["model"] == model]


def publish(model: str, champion: int | None, outputs: dict[int, list[str]]) -> None:
    metrics.publish(model, champion, outputs, metrics.Inbox(), None)


def test_what_a_version_can_answer_has_its_name_and_all_else_is_other(model: str) -> None:
    publish(model, 1, {1: ["cat", "dog"]})
    assert metrics.category_label(model, "cat") == "cat"
    for strange in ("igloo", "", "cat\n", "x" * 10_000, '"} 1\nevil 2'):
        assert metrics.category_label(model, strange) == OTHER
    assert metrics.category_label("never heard of", "cat") == OTHER


def test_only_versions_that_the_database_knows_have_a_label(model: str) -> None:
    publish(model, 1, {1: ["cat"], 2: ["cat"]})
    assert [metrics.version_label(model, v) for v in (1, 2, 3, None)] == ["1", "2", OTHER, "unknown"]
    assert metrics.version_label("never heard of", 1) == OTHER


def test_a_thousand_categories_make_a_hundred_labels(model: str) -> None:
    names = [f"category-{number:04d}" for number in range(1_000)]
    publish(model, 1, {1: names})
    labels = {metrics.category_label(model, name) for name in names}
    assert len(labels) == MOST_CATEGORIES + 1
    assert {each["category"] for each in series(metrics.PREDICTIONS, model)} == labels


def test_series_of_old_versions_end(model: str) -> None:
    for version in range(1, 31):
        publish(model, version, {v: ["cat", "dog"] for v in range(1, version + 1)})
        metrics.PREDICTIONS.labels(model, metrics.version_label(model, version), "cat", "false").inc()
    shown = {int(each["version"]) for each in series(metrics.PREDICTIONS, model)}
    assert shown == set(range(31 - MOST_VERSIONS, 31))


def test_the_live_version_keeps_its_label_however_old_it_is(model: str) -> None:
    publish(model, 1, {v: ["cat"] for v in range(1, 31)})
    assert metrics.version_label(model, 1) == "1"


def test_counts_begin_at_zero_so_that_the_first_event_is_an_increase(model: str) -> None:
    publish(model, 4, {4: ["cat"]})
    expected = {"model": model, "version": "4", "category": "cat", "agreement": "disagrees"}
    assert expected in series(metrics.CORRECTIONS, model)


def test_what_is_counted_of_a_model_begins_at_zero_before_it_has_a_champion(model: str) -> None:
    publish(model, None, {})
    for counter in (metrics.RETRIES, metrics.REFUSED, metrics.CANARIES_FAILED):
        assert {"model": model} in series(counter, model)


def test_the_oldest_of_an_empty_inbox_is_not_shown(model: str) -> None:
    metrics.publish(model, 1, {1: ["cat"]}, metrics.Inbox(2, 1_000.0), None)
    assert series(metrics.INBOX_OLDEST, model)
    metrics.publish(model, 1, {1: ["cat"]}, metrics.Inbox(), None)
    assert series(metrics.INBOX_OLDEST, model) == []
    assert series(metrics.INBOX, model)


def test_the_model_server_keeps_the_series_of_the_versions_that_were_live_last(model: str) -> None:
    for version in range(1, 31):
        serving_metrics.live(model, version)
        serving_metrics.IMAGES.labels(model, str(version)).inc()
    serving_metrics.IMAGES.labels(model, OTHER).inc()
    serving_metrics.live(model, 31)
    shown = {each["version"] for each in series(serving_metrics.IMAGES, model)}
    assert shown == {OTHER, *(str(v) for v in range(32 - MOST_VERSIONS, 31))}
