"""The end of a certificate, read from a real TLS server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from pipeline import certificate
from tests.support.processes import free_port
from tests.support.tls import tls_server

NOW = datetime.now(UTC).replace(microsecond=0)


def shown(host: str) -> float | None:
    return REGISTRY.get_sample_value("emend_certificate_expiry_timestamp_seconds", {"host": host})


@pytest.mark.parametrize("ends", [NOW + timedelta(days=10), NOW - timedelta(days=1)], ids=["valid", "ended"])
def test_the_end_of_the_public_certificate_is_shown(tmp_path: Path, ends: datetime) -> None:
    with tls_server(tmp_path, ends) as port:
        certificate.show(f"https://localhost:{port}")
    assert shown("localhost") == ends.timestamp()


def test_without_https_nothing_is_asked_or_shown() -> None:
    certificate.show(None)
    certificate.show("http://emend.invalid:1")
    assert shown("emend.invalid") is None


def test_an_address_that_does_not_answer_is_an_error_for_the_log() -> None:
    with pytest.raises(OSError, match="refused"):
        certificate.show(f"https://127.0.0.1:{free_port()}")
    assert shown("127.0.0.1") is None
