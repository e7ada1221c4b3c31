"""Prometheus' configuration, rules and alerts, with the real promtool; what they name against what is exported."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import exported

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "prometheus"
CASES = [PROMETHEUS / "tests" / "alerts.yml", PROMETHEUS / "tests" / "slow_alerts.yml"]


def promtool(*arguments: str | Path) -> str:
    program = shutil.which("promtool")
    assert program is not None, "promtool is missing; `make test` installs it, or: apt-get install prometheus"
    done = subprocess.run(
        [program, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules(kind: str) -> list[dict[str, Any]]:
    """kind: `alert` or `record`."""
    return [
        rule
        for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if kind in rule
    ]


def cases() -> list[dict[str, Any]]:
    return [case for path in CASES for case in yaml.safe_load(path.read_text())["tests"]]


def jobs(name: str) -> dict[str, dict[str, Any]]:
    read = yaml.safe_load((PROMETHEUS / name).read_text())
    return {job["job_name"]: job for job in read["scrape_configs"]}


@pytest.mark.parametrize("name", ["prometheus.yml", "embedded.yml"])
def test_the_configuration_is_valid(name: str) -> None:
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS / name)


def test_the_rules_are_valid_and_pass_the_linter() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *sorted((PROMETHEUS / "rules").glob("*.yml")))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_alert_fires_when_it_should_and_is_silent_when_not(path: Path) -> None:
    promtool("test", "rules", path)


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for case in cases():
        name, does = case["name"].split(" ", 2)[:2]
        tested = case["promql_expr_test"]
        assert all(f'alertname="{name}"' in each["expr"] for each in tested), case["name"]
        expected = [sample for each in tested for sample in each.get("exp_samples", [])]
        assert (does, bool(expected)) in {("fires", True), ("is", False)}, case["name"]
        (fires if expected else silent).add(name)
    assert fires == silent == {alert["alert"] for alert in rules("alert")}


def test_an_alert_says_all_that_a_person_needs() -> None:
    for alert in rules("alert"):
        name, annotations = alert["alert"], alert["annotations"]
        assert alert["labels"]["severity"] in ("critical", "warning"), name
        assert sorted(annotations) == ["description", "runbook_url", "summary"], name
        assert all(text.strip().endswith(".") for key, text in annotations.items() if key != "runbook_url"), (
            name
        )


def test_an_alerts_words_use_labels_that_it_has() -> None:
    """A label that is not there would be left out without a word."""
    labels: dict[str, set[str]] = {}
    for case in cases():
        for tested in case["promql_expr_test"]:
            for sample in tested.get("exp_samples", []):
                name = case["name"].split(" ")[0]
                labels.setdefault(name, set()).update(re.findall(r"(\w+)=", sample["labels"]))
    for alert in rules("alert"):
        used = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
        assert used <= labels[alert["alert"]], alert["alert"]


def test_every_alert_has_a_section_in_the_runbook_and_nothing_else_has() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", runbook, re.DOTALL | re.MULTILINE))
    assert sorted(sections) == sorted(alert["alert"] for alert in rules("alert"))
    for alert in rules("alert"):
        name = alert["alert"]
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        for answer in ("**Means.**", "**People notice.**", "**Look at", "do.**"):
            assert answer.lower() in sections[name].lower(), f"{name}: {answer}"


def test_the_runbooks_links_lead_to_its_sections() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    anchors = {name.lower() for name in re.findall(r"^## (\w+)$", runbook, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", runbook)) <= anchors


def test_every_metric_of_the_rules_is_exported() -> None:
    known = exported.metrics() | {rule["record"] for rule in rules("record")}
    for rule in rules("alert") + rules("record"):
        unknown = exported.named_in(rule["expr"]) - known
        assert unknown == set(), rule.get("alert") or rule["record"]


def test_every_metric_of_the_alerts_cases_is_exported() -> None:
    known = exported.metrics()
    for case in cases():
        for series in case["input_series"]:
            assert exported.named_in(series["series"]) <= known, case["name"]


def test_what_is_recorded_is_used() -> None:
    """By an alert, a dashboard, or another rule."""
    texts = [rule["expr"] for rule in rules("alert") + rules("record")]
    texts += [path.read_text() for path in (ROOT / "grafana" / "dashboards").glob("*.json")]
    unused = [rule["record"] for rule in rules("record") if not any(rule["record"] in text for text in texts)]
    assert unused == []


def test_the_embedded_configuration_has_the_same_jobs() -> None:
    compose, embedded = jobs("prometheus.yml"), jobs("embedded.yml")
    assert set(compose) - set(embedded) == {"minio", "nginx", "grafana", "gpu"}  # not part of `make up`
    assert set(embedded) <= set(compose)
    for name, job in embedded.items():
        assert job.get("metrics_path") == compose[name].get("metrics_path"), name
        assert _port(job) == _port(compose[name]), name


def test_alerts_speak_of_jobs_that_are_scraped() -> None:
    for alert in rules("alert"):
        assert set(re.findall(r'job!?="(\w+)"', alert["expr"])) <= set(jobs("prometheus.yml")), alert["alert"]


def _port(job: dict[str, Any]) -> int:
    found: Iterator[int] = iter(
        [each["port"] for each in job.get("dns_sd_configs", [])]
        + [
            int(target.rpartition(":")[2])
            for each in job.get("static_configs", [])
            for target in each["targets"]
        ]
    )
    return next(found)
