"""Telling people what happens: structured logs, Sentry, and the metrics every process shares.

Logs are JSON lines, or pretty on a terminal (LOG_FORMAT). `bind(request_id=...)` adds context to every line of
the task at hand. Sentry is on when SENTRY_DSN is set, and is sent no request bodies.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Iterable
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from core import __version__
from core.settings import settings

disable_created_metrics()  # type: ignore[no-untyped-call]

REQUESTS = Counter(
    "emend_http_requests_total", "HTTP requests answered.", ["service", "method", "route", "status"]
)
REQUEST_SECONDS = Histogram(
    "emend_http_request_duration_seconds",
    "Time from a request's head to its answer's end.",
    ["service", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
BODY_BYTES = Gauge("emend_http_body_bytes", "Bytes of request bodies under way.", ["service"])
BUILD = Gauge("emend_build_info", "Always 1; the labels say what runs.", ["service", "version"])

# A series once made stays until the process ends. So no label takes what a stranger sent, and what the database
# knows is bounded too: everything beyond has the label OTHER.
MOST_VERSIONS = 10  # of a model, the newest
MOST_CATEGORIES = 100  # of a model, the oldest: outputs of a model keep their places
OTHER = "other"

bind = structlog.contextvars.bind_contextvars
unbind = structlog.contextvars.unbind_contextvars


def keep_versions(metrics: Iterable[Counter | Gauge | Histogram], model: str, kept: Collection[str]) -> None:
    """Ends the series of the model's other versions. The metrics have the labels `model` and `version`."""
    for metric in metrics:
        found = {
            sample.labels["version"]
            for family in metric.collect()
            for sample in family.samples
            if sample.labels["model"] == model
        }
        for version in found - {*kept, OTHER, "unknown"}:
            metric.remove_by_labels({"model": model, "version": version})


def request_id() -> str | None:
    """Of the request that the task at hand works for."""
    bound: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return bound


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure(service: str) -> None:
    """Once per process, first thing. Libraries that use `logging` come out in the same form."""
    chosen = settings()
    pretty = chosen.log_format == "pretty" or (chosen.log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_service(service),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        ]  # no local variables
        if pretty
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(chosen.log_level.upper())
    for noisy in ("httpx", "httpcore", "urllib3", "uvicorn.access", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for own in ("uvicorn", "uvicorn.error"):
        logging.getLogger(own).handlers[:] = []
    BUILD.labels(service, __version__).set(1)
    _start_sentry(service)


def _add_service(service: str) -> Any:
    def add(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event["service"] = service
        return event

    return add


def _start_sentry(service: str) -> None:
    dsn = settings().sentry_dsn
    if dsn is None:
        return
    import sentry_sdk  # 0.3 s, and most installations have no Sentry

    sentry_sdk.init(
        dsn=dsn.get_secret_value(),
        release=f"emend@{__version__}",
        send_default_pii=False,
        max_request_body_size="never",
        include_local_variables=False,  # they may hold images and tokens
    )
    sentry_sdk.set_tag("service", service)
