"""Addresses at which services that listen somewhere are reached, and ports that cannot be."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from core.errors import ConfigurationError
from core.settings import Settings, embedded_database_url, settings, url_of
from pipeline.services import check_ports, services


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("192.0.2.7", "http://192.0.2.7:8000"),
        ("emend.example.org", "http://emend.example.org:8000"),
    ],
)
def test_a_service_is_asked_where_it_listens(host: str, url: str) -> None:
    assert url_of(host, 8000) == url


def test_every_service_of_one_host_is_asked_there(tmp_path: Path) -> None:
    chosen = Settings(EMEND_HOST="192.0.2.7", EMEND_DATA_DIR=tmp_path)
    urls = [*chosen.model_server_urls, chosen.api_url, chosen.viewer_url, chosen.mlflow_tracking_uri]
    urls += [chosen.orchestrator_url] + [service.ready_url for service in services(chosen, "")]
    assert all(url.startswith("http://192.0.2.7:") for url in urls)


def test_each_service_may_be_elsewhere(tmp_path: Path) -> None:
    chosen = Settings(
        EMEND_HOST="0.0.0.0",
        EMEND_API_URL="http://gateway:8000/",
        EMEND_VIEWER_URL="http://viewer:9081",
        EMEND_UI_URL="http://pages:9080",
        EMEND_ORCHESTRATOR_URL="http://orchestrator:9108",
        EMEND_DATA_DIR=tmp_path,
    )
    assert (chosen.api_url, chosen.viewer_url) == ("http://gateway:8000", "http://viewer:9081")
    assert (chosen.ui_url, chosen.orchestrator_url) == ("http://pages:9080", "http://orchestrator:9108")
    assert all(service.ready_url.startswith("http://127.0.0.1:") for service in services(chosen, ""))


def test_mlflow_is_shown_below_the_public_address_and_asked_where_it_is(tmp_path: Path) -> None:
    chosen = Settings(
        MLFLOW_TRACKING_URI="http://mlflow:5000",
        EMEND_PUBLIC_URL="https://emend.example",
        EMEND_DATA_DIR=tmp_path,
    )
    assert chosen.mlflow_display_url == "https://emend.example/mlflow"
    assert chosen.mlflow_tracking_uri == "http://mlflow:5000"


@pytest.mark.parametrize(
    "value",
    ["emend.example", "ftp://emend.example", "http://", "http://emend.example/below", "http://me:it@emend.example",
     "http://emend.example:http", "http://emend.example?x=1", "http://[::1"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["EMEND_PUBLIC_URL", "EMEND_API_URL"])
def test_what_is_no_address_of_a_service_is_refused_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    settings.cache_clear()
    try:
        with pytest.raises(ConfigurationError, match=f"{name}.*http://host"):
            settings()
    finally:
        settings.cache_clear()


@pytest.mark.parametrize(
    "value",
    ["http://a:5002,b:5002", "http://a:5002/below", "http://me:it@a:5002", "http://a:5002, http://a:5002/"],
)
def test_what_is_no_list_of_model_servers_is_refused_by_name(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_SERVER_URLS", value)
    settings.cache_clear()
    try:
        with pytest.raises(
            ConfigurationError, match=r"MODEL_SERVER_URLS: (must be http://host|names a server twice)"
        ):
            settings()
    finally:
        settings.cache_clear()


def test_several_model_servers_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_SERVER_URLS", "http://a:5002/, https://b ,")
    assert Settings().model_server_urls == ("http://a:5002", "https://b")


@pytest.mark.parametrize("in_file", [False, True])
def test_a_setting_that_has_another_name_now_is_refused_with_it(
    in_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if in_file:
        (tmp_path / ".env").write_text("EMEND_SERVING_URL=http://a:5002\n")
    else:
        monkeypatch.setenv("EMEND_SERVING_URL", "http://a:5002")
    settings.cache_clear()
    try:
        with pytest.raises(
            ConfigurationError, match=r"(?i)EMEND_SERVING_URL \(it is MODEL_SERVER_URLS now\)"
        ):
            settings()
    finally:
        settings.cache_clear()


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_a_port_taken_on_ipv6_is_found(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as taken:
        try:
            taken.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        taken.listen()
        port = taken.getsockname()[1]
        listed = services(Settings(EMEND_API_PORT=port, EMEND_DATA_DIR=tmp_path), None)
        gateway = [s for s in listed if s.name == "gateway"]
        with pytest.raises(ConfigurationError, match="EMEND_API_PORT"):
            check_ports(gateway, "::1")
    check_ports(gateway, "::1")


def test_an_address_of_another_machine_is_said_by_name(tmp_path: Path) -> None:
    listed = services(Settings(EMEND_DATA_DIR=tmp_path), None)
    with pytest.raises(ConfigurationError, match=r"EMEND_HOST=192\.0\.2\.7 is no address of this machine"):
        check_ports(listed, "192.0.2.7")


@pytest.mark.parametrize("content", ["", "123\n/somewhere\n"])
def test_a_half_written_pid_file_names_no_database(content: str, tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "postmaster.pid").write_text(content)
    with pytest.raises(ConfigurationError, match="no database"):
        embedded_database_url(tmp_path)


@pytest.mark.parametrize("service", ["API", "SERVING", "MLFLOW", "VIEWER", "UI", "ORCHESTRATOR"])
@pytest.mark.parametrize(
    ("value", "says"),
    [("0", "must be at least 1"), ("99999", "must be at most 65535"), ("http", "must be a whole number")],
)
def test_what_is_no_port_is_refused_by_name(
    service: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"EMEND_{service}_PORT", value)
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match=f"EMEND_{service}_PORT {says}"):
        settings()


def test_two_services_on_one_port_are_refused_by_name(tmp_path: Path) -> None:
    chosen = Settings(EMEND_API_PORT=9081, EMEND_VIEWER_PORT=9081, EMEND_DATA_DIR=tmp_path)
    with pytest.raises(
        ConfigurationError,
        match=r"gateway \(EMEND_API_PORT\) and viewer \(EMEND_VIEWER_PORT\) would share port 9081",
    ):
        check_ports(services(chosen, None), "127.0.0.1")


def test_env_may_hold_what_is_only_composes_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=x\nEMEND_ADMIN_HASH='$6$a$b'\nEMEND_HISTORY_DAYS=7\n")
    try:
        assert settings().history_days == 7
        settings.cache_clear()
        (tmp_path / ".env").write_text("POSTGRES_PASWORD=x\n")
        with pytest.raises(ConfigurationError, match=r"(?i)POSTGRES_PASWORD"):
            settings()
    finally:
        settings.cache_clear()


def test_the_environment_may_hold_what_is_only_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMEND_ADMIN_USER", "me")
    settings.cache_clear()
    assert settings().history_days == 30
    monkeypatch.setenv("EMEND_ADMIN_USR", "me")
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="EMEND_ADMIN_USR"):
        settings()
