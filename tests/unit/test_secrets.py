"""What the settings keep, they do not tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.database import Run
from core.settings import settings
from pipeline.runs import _mlflow_url

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # not the checkout: its .env is none of a test's business
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (f"https://me:{SECRET}@mlflow.example:8443/base", "https://mlflow.example:8443/base"),
        (f"https://me:{SECRET}@[::1]:5000", "https://[::1]:5000"),
        ("http://mlflow.example", "http://mlflow.example"),
        ("", "http://127.0.0.1:5000"),
    ],
)
def test_mlflows_address_is_shown_without_user_and_password(
    monkeypatch: pytest.MonkeyPatch, given: str, shown: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert settings().mlflow_tracking_uri == (given or shown)  # what is asked keeps them
    assert settings().mlflow_display_url == shown
    assert _mlflow_url(Run(mlflow_run_id="a1")) == f"{shown}/#/runs/a1"


def test_no_secret_is_in_the_repr_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "MLFLOW_TRACKING_URI", "DVC_REMOTE_URL", "SENTRY_DSN"):
        monkeypatch.setenv(name, f"https://me:{SECRET}@example.org")
    assert SECRET not in repr(settings())
    assert SECRET not in str(settings())
