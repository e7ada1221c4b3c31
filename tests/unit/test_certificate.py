"""The end of a certificate, read from a real TLS server."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import REGISTRY

from pipeline import certificate
from tests.support.processes import free_port

NOW = datetime.now(UTC).replace(microsecond=0)


def shown(host: str) -> float | None:
    return REGISTRY.get_sample_value("emend_certificate_expiry_timestamp_seconds", {"host": host})


@contextmanager
def tls_server(folder: Path, ends: datetime) -> Iterator[int]:
    """Its port. The certificate is its own authority's, as a browser would refuse it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(ends - timedelta(days=90))
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = folder / "server.pem"
    pem.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


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
