"""docker-compose.yml against what it must agree with; tests/compose runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.settings import COMPOSE_NAMES, Settings

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("docker-compose*.yml"))


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def defaults_in(text: str) -> dict[str, str]:
    return dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_compose_reads_from_env_is_no_unknown_setting_to_emend_up(path: Path) -> None:
    settings_names = {str(field.validation_alias.choices[0]) for field in Settings.model_fields.values()}  # type: ignore[union-attr]
    asked = set(re.findall(r"\$\{(\w+)", path.read_text()))
    assert asked - settings_names - set(COMPOSE_NAMES) == set()


def test_defaults_are_those_of_nginx() -> None:
    lines = (ROOT / "deploy/nginx/nginx.env").read_text().splitlines()
    nginx = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    here = defaults_in((ROOT / "docker-compose.yml").read_text())
    both = (set(here) & set(nginx)) - {"EMEND_ADMIN_USER", "EMEND_ADMIN_HASH"}
    assert {name: here[name] for name in both} == {name: nginx[name] for name in both}
    assert {"EMEND_PREDICTIONS_PER_SECOND", "EMEND_MAX_BODY_BYTES", "EMEND_PUBLIC_HOST"} <= both


def test_whoever_nginx_and_prometheus_ask_is_a_service() -> None:
    names = set(services())
    environment = services()["nginx"]["environment"]
    lines = (ROOT / "deploy/nginx/nginx.env").read_text().splitlines()
    nginx = (
        dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")) | environment
    )
    behind = {
        nginx[f"EMEND_{name}"].partition(":")[0]
        for name in ("GATEWAYS", "VIEWERS", "PAGES", "MLFLOW", "GRAFANA")
    }
    assert behind <= names

    asked = set()
    for job in yaml.safe_load((ROOT / "prometheus/prometheus.yml").read_text())["scrape_configs"]:
        for found in job.get("dns_sd_configs", []):
            asked |= set(found["names"])
        for fixed in job.get("static_configs", []):
            asked |= {target.partition(":")[0] for target in fixed["targets"]}
    in_the_gpu_file = set(yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"])
    assert asked - {"localhost"} <= names | in_the_gpu_file


def test_every_service_has_health_limits_and_a_version() -> None:
    for name, service in services().items():
        assert not service["image"].endswith(":latest"), name
        assert ":" in service["image"], name
        assert "restart" in service, name
        if name not in ("setup", "pgadmin"):  # one ends; the other is started by hand
            assert "healthcheck" in service, name
        if name != "setup":
            assert service["deploy"]["resources"]["limits"]["memory"], name


def test_only_nginx_is_published_and_on_loopback_unless_told_otherwise() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published.pop("pgadmin") == ["127.0.0.1:${PGADMIN_PORT:-5050}:80"]
    assert published == {"nginx": ["${EMEND_BIND:-127.0.0.1}:${EMEND_PORT:-80}:8080"]}
