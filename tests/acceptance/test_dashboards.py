"""Every query of every dashboard, asked of a real Prometheus that has scraped the real services while they worked.

The GPU's panels read a page in the form of NVIDIA's exporter, which needs a GPU of its own to answer.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.integration.test_grafana import FILES, Panel, panels, read
from tests.integration.test_prometheus import rules
from tests.support.prometheus import DCGM_PAGE, NodeExporter, Prometheus, finite, page_server
from tests.support.stack import Stack, drawings, encode

pytestmark = pytest.mark.timeout(900)

CATEGORIES = ("airplane", "banana", "bird", "book", "cat", "clock", "dog", "flower", "house", "rainbow")
SERVICES = {
    "gateway": "API",
    "serving": "SERVING",
    "viewer": "VIEWER",
    "ui": "UI",
    "orchestrator": "ORCHESTRATOR",
}
PANELS = [(path.stem, panel) for path in FILES for panel in panels(read(path))]


@dataclass(frozen=True)
class Watched:
    prometheus: Prometheus
    since: float


@pytest.fixture(scope="module")
def watched(stack: Stack, quickdraw: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Somebody asks and corrects, a run promotes, another halts, and one correction waits."""
    folder = tmp_path_factory.mktemp("prometheus")
    targets = {job: [stack.url(name).removeprefix("http://")] for job, name in SERVICES.items()}
    with page_server(DCGM_PAGE) as gpu, NodeExporter(folder) as node:
        targets |= {"gpu": [gpu], "node": [node.target]}
        with Prometheus(folder, targets) as prometheus:
            since = time.time()
            prometheus.wait_for_targets()
            stack.api.post("/models/doodles/promotion/resume")
            stack.edit_params(
                gate={"margin_points": 100.0, "generated_margin_points": 100.0, "category_alpha": 1e-6},
                triggers={"cron": "0 0 1 1 *"},
            )
            with SomebodyAsks(stack, quickdraw):
                for name in CATEGORIES:
                    for pixels in drawings(quickdraw, name, 1_400, 6):
                        answer = stack.predict(pixels)
                        stack.correct(pixels, name, prediction_id=answer["prediction_id"])
                run = stack.finish(stack.start_run())
                assert run["status"] == "succeeded", run
                assert stack.finish(stack.start_run())["status"] == "halted"
                (waiting,) = drawings(quickdraw, "cat", 1_450, 1)
                stack.correct(waiting, "cat", prediction_id=stack.predict(waiting)["prediction_id"])
                answered = (
                    f'rate(emend_serving_images_total{{model="doodles", version="{run["version"]}"}}[5s]) > 0'
                )
                prometheus.wait_until(lambda: bool(prometheus.ask(answered)), 30, "the new version answers")
            yield Watched(prometheus, since)
    stack.edit_params(triggers={"cron": None})


class SomebodyAsks:
    """Keeps predicting in a thread of its own."""

    def __init__(self, stack: Stack, quickdraw: Path) -> None:
        self._url = stack.url("API")
        self._images = [encode(drawings(quickdraw, name, 1_460, 1)[0]) for name in CATEGORIES]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=10) as client:
            while not self._stop.is_set():
                for image in self._images:
                    client.post("/invocations/", json={"image": image})
                    self._stop.wait(0.05)


def shown(query: str, seconds: float) -> str:
    """As Grafana asks it, with all models and versions chosen."""
    query = query.replace("$__rate_interval", "5s").replace("$__range", f"{seconds:.0f}s")
    for variable in ("$model", "$version", "$machine"):
        query = query.replace(variable, ".*")
    assert "$" not in query, query
    return query


@pytest.mark.parametrize(
    ("dashboard", "panel"), PANELS, ids=[f"{dashboard}: {panel.title}" for dashboard, panel in PANELS]
)
def test_every_query_of_a_panel_brings_data(watched: Watched, dashboard: str, panel: Panel) -> None:
    prometheus = watched.prometheus
    for target in panel.targets:

        def data(expr: str = target.expr, instant: bool = target.instant) -> bool:
            query = shown(expr, time.time() - watched.since)
            found = prometheus.ask(query) if instant else prometheus.ask_range(query, watched.since, 1)
            return bool(finite(found))

        prometheus.wait_until(data, 20, f"{dashboard}, {panel.title}: {target.expr} brings data")


def test_what_is_recorded_has_values(watched: Watched) -> None:
    for rule in rules("record"):
        assert finite(watched.prometheus.ask_range(rule["record"], watched.since, 1)), rule["record"]


def test_the_variables_offer_the_model_and_its_versions(watched: Watched) -> None:
    def values(metric: str, label: str) -> set[str]:
        return {sample["metric"][label] for sample in watched.prometheus.ask(metric)}

    assert values("emend_champion_version", "model") == {"doodles"}
    assert len(values("emend_predictions_total", "version")) >= 2
    assert len(values("node_boot_time_seconds", "instance")) == 1


def test_no_rule_failed_and_no_alert_was_raised_by_a_deployment_that_is_well(watched: Watched) -> None:
    answer = httpx.get(f"{watched.prometheus.url}/api/v1/rules", timeout=30).json()
    for group in answer["data"]["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule
    firing = watched.prometheus.ask('ALERTS{alertstate="firing", alertname!~"MachineDiskFull|DataDisk.*"}')
    assert [
        sample["metric"]["alertname"] for sample in firing
    ] == []  # this machine's disks are its own affair


def test_corrections_that_went_live_were_timed(watched: Watched) -> None:
    (sample,) = watched.prometheus.ask("sum(emend_correction_live_seconds_count)")
    assert float(sample["value"][1]) >= 60


def test_shares_of_the_training_images_add_up_to_one(watched: Watched) -> None:
    (sample,) = watched.prometheus.ask("sum(emend_training_category_ratio)")
    assert float(sample["value"][1]) == pytest.approx(1)


def test_no_request_can_make_a_series(stack: Stack) -> None:
    """Whatever is sent: after the first round of nonsense a second one adds nothing."""

    def nonsense() -> str:
        token = uuid.uuid4().hex
        image = encode(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8))
        for name in SERVICES.values():
            if name == "ORCHESTRATOR":
                continue
            with httpx.Client(base_url=stack.url(name), timeout=10) as client:
                client.get(f"/{token}")
                client.get(f"/metrics?{token}={token}")
                client.request(token.upper(), "/")
                client.post(f"/models/{token}/invocations", content=b"x")
                client.post("/models/doodles/versions/1/invocations", content=b"x")
        with httpx.Client(base_url=stack.url("API"), timeout=10, headers={"Emend-Actor": token}) as client:
            client.post("/invocations/", json={"image": image, "model": token})
            client.post("/invocations/", json={"image": image, token: token})
            client.get(f"/models/{token}")
            kept = client.post("/save-image/", json={"image": image, "label": token[:20]})
            assert kept.status_code == 201, kept.text
            client.post(f"/corrections/{kept.json()['correction_id']}/withdraw")
        return token

    def series() -> set[str]:
        texts = [httpx.get(f"{stack.url(name)}/metrics", timeout=10).text for name in SERVICES.values()]
        return {line.rpartition(" ")[0] for text in texts for line in text.splitlines() if line[:1] != "#"}

    first = nonsense()
    before = series()
    second = nonsense()
    after = series()
    assert {line for line in after if first[:20] in line or second[:20] in line} == set()
    assert after - before == set()
