"""Telling people what happens: structured logs, Sentry, and the metrics every process shares.

Logs are JSON lines, or pretty on a terminal (LOG_FORMAT). `bind(request_id=...)` adds context to every line of
the task at hand. Sentry is on when SENTRY_DSN is set: every line of level error goes there too. Neither is told an
image, a password or whose request it is: core/redaction.py.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from core import __version__
from core.redaction import Redaction
from core.settings import settings

disable_created_metrics()  # type: ignore[no-untyped-call]

REQUESTS = Counter(
    "emend_http_requests_total", "HTTP requests answered.", ["service", "method", "route", "status"]
)
REQUEST_SECONDS = Histogram(
    "emend_http_request_duration_seconds",
    "Time from a request's head to its answer's end, without those refused at once for want of room.",
    ["service", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
CUT_OFF = Counter(
    "emend_http_cut_off_total", "Connections ended because a request's head or body did not come in its time."
)
BODY_BYTES = Gauge("emend_http_body_bytes", "Bytes of request bodies under way.", ["service"])
BUILD = Gauge("emend_build_info", "Always 1; the labels say what runs.", ["service", "version"])

# A series once made stays until the process ends. So no label takes what a stranger sent, and what the database
# knows is bounded too: everything beyond has the label OTHER.
MOST_VERSIONS = 10  # of a model, the newest
MOST_CATEGORIES = 100  # of a model, the oldest: outputs of a model keep their places
OTHER = "other"

# Their debug lines hold signatures, SQL and requests.
QUIET_LIBRARIES = (
    *("httpx", "httpcore", "urllib3", "requests", "docker", "uvicorn.access", "alembic", "sqlalchemy"),
    *("botocore", "boto3", "aiobotocore", "s3transfer", "s3fs", "fsspec", "PIL", "multipart", "asyncio"),
)
IDS = ("request_id", "run_id", "correction_id")  # on every line of what they name, and tags in Sentry

bind = structlog.contextvars.bind_contextvars
unbind = structlog.contextvars.unbind_contextvars


@lru_cache(maxsize=4096)  # routes and statuses are few; to look a series up takes longer than to count
def _request_series(service: str, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    total = REQUESTS.labels(service, method, route, str(status))
    return total, REQUEST_SECONDS.labels(service, route)


def count_request(service: str, method: str, route: str, status: int, seconds: float | None) -> None:
    """An HTTP request was answered. No label may be what a stranger sent.

    seconds: None for one that was refused at once for want of room: many of them would hide how long answers take.
    """
    total, duration = _request_series(service, method, route, status)
    total.inc()
    if seconds is not None:
        duration.observe(seconds)


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
    """Once per process, first thing. Libraries that use `logging` come out in the same form, without debug lines."""
    chosen = settings()
    pretty = chosen.log_format == "pretty" or (chosen.log_format == "auto" and sys.stderr.isatty())
    redaction = Redaction.of(chosen)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_service(service),
    ]
    if chosen.sentry_dsn is not None:
        shared.append(_start_sentry(service, chosen.sentry_dsn.get_secret_value(), redaction))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if pretty
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_is_ours_or_not_debug)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,  # without local variables
                _redact(redaction),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(chosen.log_level.upper())
    for noisy in QUIET_LIBRARIES:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(
        logging.ERROR
    )  # three lines for each error that an absent Sentry misses
    for own in ("uvicorn", "uvicorn.error"):
        logging.getLogger(own).handlers[:] = []
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda ended: _log_uncaught(
        ended.exc_type, ended.exc_value or ended.exc_type(), ended.exc_traceback
    )
    BUILD.labels(service, __version__).set(1)


def _is_ours_or_not_debug(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.INFO or isinstance(record.msg, dict)  # structlog's are dicts


def _log_uncaught(kind: type[BaseException], exc: BaseException, traceback: Any) -> None:
    """What would end a process, or a thread of it, as lines that no reader of JSON understands."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, exc, traceback)
    else:
        get_logger("process").critical("unexpected end", exc_info=(kind, exc, traceback))


def _redact(redaction: Redaction) -> Any:
    def redact(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        return {name: redaction.of_field(name, value) for name, value in event.items()}

    return redact


def _add_service(service: str) -> Any:
    def add(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event["service"] = service
        return event

    return add


# Of a request's headers Sentry is told these.
_TOLD_HEADERS = ("content-type", "content-length", "user-agent", "x-request-id")
_OWN_FIELDS = ("event", "level", "logger", "timestamp", "service", "exc_info", *IDS)


def _start_sentry(service: str, dsn: str, redaction: Redaction) -> Any:
    """Returns the processor that sends what is logged as an error."""
    import sentry_sdk  # 0.3 s, and most installations have no Sentry
    from sentry_sdk.integrations.argv import ArgvIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration
    from sentry_sdk.integrations.starlette import StarletteIntegration

    def scrub(event: dict[str, Any], _hint: dict[str, Any]) -> dict[str, Any]:
        bound = structlog.contextvars.get_contextvars() | event.get("tags", {})
        event["tags"] = {"service": service, **{name: str(bound[name]) for name in IDS if bound.get(name)}}
        request = event.pop("request", None)
        if request is not None:
            headers = {
                name: value
                for name, value in request.get("headers", {}).items()
                if name.lower() in _TOLD_HEADERS
            }
            event["request"] = {
                "method": request.get("method"),
                "url": str(request.get("url", "")).partition("?")[0],
                "headers": headers,
            }
        for told_elsewhere in ("user", "extra", "breadcrumbs"):
            event.pop(told_elsewhere, None)
        cleaned: dict[str, Any] = redaction.of_field("", event)
        return cleaned

    options: dict[str, Any] = {
        "dsn": dsn,
        "release": f"emend@{__version__}",
        "environment": settings().sentry_environment,
        "server_name": socket.gethostname(),
        "send_default_pii": False,
        "max_request_body_size": "never",
        "include_local_variables": False,  # they may hold images and tokens
        "max_breadcrumbs": 0,  # the log has what came before, by request id
        "auto_enabling_integrations": False,  # others would send SQL and addresses
        "disabled_integrations": [ArgvIntegration()],
        "integrations": [
            # The processor below sends what is logged, with its fields; this one would send each line again.
            LoggingIntegration(level=None, event_level=None, sentry_logs_level=None),
            StarletteIntegration(failed_request_status_codes=set()),  # which request it was
        ],
        "before_send": scrub,
    }
    sentry_sdk.init(**options)

    def send(_logger: Any, _method: str, line: dict[str, Any]) -> dict[str, Any]:
        if line["level"] not in ("error", "critical"):
            return line
        exc = line.get("exc_info")
        with sentry_sdk.new_scope() as scope:
            scope.set_tags({name: line[name] for name in IDS if line.get(name)})
            scope.set_context("log", {name: each for name, each in line.items() if name not in _OWN_FIELDS})
            if exc:
                scope.capture_exception(None if exc is True else exc)
            else:
                scope.capture_message(str(line["event"]), level=line["level"])
        return line

    return send
