"""What no log may hold is taken out, and what people read stays."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from core.redaction import Redaction, redacted
from core.settings import Settings, settings


@pytest.fixture
def redaction() -> Redaction:
    given: dict[str, Any] = {
        "DATABASE_URL": "postgresql://emend:p%40ss-of-the-database@db/emend",
        "MLFLOW_TRACKING_URI": "http://team:mlflow-password@mlflow:5000",
        "AWS_SECRET_ACCESS_KEY": "the-secret-of-the-bucket",
        "SENTRY_DSN": "https://0123456789abcdef@sentry.example.org/1",
    }
    return Redaction.of(Settings(_env_file=None, **given))


@pytest.mark.parametrize(
    "secret",
    [
        "p%40ss-of-the-database",
        "p@ss-of-the-database",
        "mlflow-password",
        "the-secret-of-the-bucket",
        "https://0123456789abcdef@sentry.example.org/1",
    ],
)
def test_a_secret_of_the_settings_is_taken_out_wherever_it_stands(redaction: Redaction, secret: str) -> None:
    assert redaction.of_text(f"refused: {secret}!") == "refused: ***!"
    assert secret not in str(redaction.of_field("reason", {"deep": [{"er": (f"x{secret}",)}]}))


def test_a_password_in_any_address_is_taken_out(redaction: Redaction) -> None:
    told = redaction.of_text("cannot reach redis://broker:abc@broker:6379/0 nor http://host/a@b")
    assert told == "cannot reach redis://broker:***@broker:6379/0 nor http://host/a@b"


def test_an_image_is_taken_out_and_a_sentence_and_a_path_stay(redaction: Redaction) -> None:
    image = base64.b64encode(os.urandom(784)).decode()
    assert redaction.of_text(f"bad image {image} sent") == f"bad image <{len(image)} characters> sent"
    sentence = "run 12 of doodles: data/logs/runs/12/train.log says why. " * 20
    assert redaction.of_text(sentence) == sentence
    assert redaction.of_field("pixels", bytes(784)) == "<784 bytes>"


@pytest.mark.parametrize(
    "name", ["Authorization", "Cookie", "set-cookie", "Emend-Actor", "emend_actor", "password"]
)
def test_a_field_that_names_a_secret_is_hidden(redaction: Redaction, name: str) -> None:
    assert redaction.of_field("headers", {name: "abc", "Accept": "*/*"}) == {name: "***", "Accept": "*/*"}


def test_a_presigned_link_loses_what_it_is_signed_with(redaction: Redaction) -> None:
    link = "http://s3/b/k?X-Amz-Credential=AKIA%2F1&X-Amz-Expires=900&X-Amz-Signature=0a1b2c"
    assert redaction.of_text(link) == (
        "http://s3/b/k?X-Amz-Credential=***&X-Amz-Expires=900&X-Amz-Signature=***"
    )


def test_numbers_and_nothing_stay_what_they_are(redaction: Redaction) -> None:
    assert redaction.of_field("status", 200) == 200
    assert redaction.of_field("reason", None) is None
    assert redaction.of_field("ok", True) is True


def test_a_message_is_told_without_the_deployments_passwords_and_also_when_a_setting_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "postgresql://emend:hunter2hunter2@db/emend")
    settings.cache_clear()
    assert redacted("could not push to ssh://hunter2hunter2@there") == "could not push to ssh://***@there"
    monkeypatch.setenv("EMEND_API_PORT", "nonsense")
    settings.cache_clear()
    assert redacted("EMEND_API_PORT is no port") == "EMEND_API_PORT is no port"
    settings.cache_clear()
