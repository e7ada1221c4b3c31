"""When the certificate of the public address ends, for Prometheus.

Asked of the address itself, as a browser would, so it is the certificate that people get, whoever renews it. Nothing is
shown unless EMEND_PUBLIC_URL begins with https.
"""

from __future__ import annotations

import socket
import ssl
from datetime import datetime
from urllib.parse import urlsplit

from cryptography import x509
from prometheus_client import Gauge

TIMEOUT_SECONDS = 3.0

EXPIRY = Gauge(
    "emend_certificate_expiry_timestamp_seconds",
    "When the certificate of EMEND_PUBLIC_URL ends; absent without https, or before it was first read.",
    ["host"],
)


def show(public_url: str | None) -> None:
    """Raises OSError when the address cannot be reached; what was read last stays then."""
    parts = urlsplit(public_url or "")
    if parts.scheme == "https" and parts.hostname:
        ends = expiry(parts.hostname, parts.port or 443)
        EXPIRY.labels(parts.hostname).set(ends.timestamp())


def expiry(host: str, port: int) -> datetime:
    """In UTC. Of any certificate, valid or not: that it has ended already must be seen too. Raises OSError."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        encoded = secured.getpeercert(binary_form=True)
    if encoded is None:
        raise OSError(f"{host}:{port} showed no certificate")
    return x509.load_der_x509_certificate(encoded).not_valid_after_utc
