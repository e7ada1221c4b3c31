"""The services of a deployment: how each is started, and how one knows that it answers."""

from __future__ import annotations

import errno
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import ConfigurationError
from core.settings import Settings, url_of


@dataclass(frozen=True)
class Service:
    """argv: the command. ready_url: answers 200 when the service works. setting: the variable that moves its port."""

    name: str
    argv: list[str]
    port: int
    setting: str
    ready_url: str
    environment: dict[str, str] = field(default_factory=dict)


def services(chosen: Settings, mlflow_database_url: str | None) -> list[Service]:
    """In the order they are started. mlflow_database_url: None when MLflow runs elsewhere."""
    listed = [
        _own(chosen, "serving", "serving", chosen.serving_port, "EMEND_SERVING_PORT", "/version"),
        _own(chosen, "gateway", "api", chosen.api_port, "EMEND_API_PORT", "/healthz"),
        _own(chosen, "viewer", "viewer", chosen.viewer_port, "EMEND_VIEWER_PORT", "/healthz"),
        _own(chosen, "pages", "ui", chosen.ui_port, "EMEND_UI_PORT", "/healthz"),
        _own(
            chosen,
            "orchestrator",
            "pipeline.orchestrator",
            chosen.orchestrator_port,
            "EMEND_ORCHESTRATOR_PORT",
            "/metrics",
        ),
    ]
    if mlflow_database_url is not None:
        listed.insert(0, _mlflow(chosen, mlflow_database_url))
    return listed


def check_ports(listed: list[Service], host: str) -> None:
    """Raises ConfigurationError that names every taken port, its service, and what to set instead."""
    _check_each_has_its_own(listed)
    taken = [service for service in listed if _is_taken(host, service.port)]
    if taken:
        named = "; ".join(
            f"port {s.port} ({s.name}) is taken: stop what listens there, or set {s.setting} to another"
            for s in taken
        )
        raise ConfigurationError(named)


def _check_each_has_its_own(listed: list[Service]) -> None:
    for port in sorted({service.port for service in listed}):
        sharing = [service for service in listed if service.port == port]
        if len(sharing) > 1:
            named = " and ".join(f"{s.name} ({s.setting})" for s in sharing)
            raise ConfigurationError(f"{named} would share port {port}; give each a port of its own")


def _is_taken(host: str, port: int) -> bool:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as exc:
        raise ConfigurationError(f"EMEND_HOST={host} is no address: {exc.strerror}") from exc
    with socket.socket(family) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(address)
        except OSError as exc:
            if exc.errno == errno.EADDRNOTAVAIL:
                raise ConfigurationError(
                    f"EMEND_HOST={host} is no address of this machine; 0.0.0.0 is all of them"
                ) from exc
            return True
    return False


def _own(chosen: Settings, name: str, module: str, port: int, setting: str, ready_path: str) -> Service:
    ready_url = url_of(chosen.host, port) + ready_path
    return Service(name, [sys.executable, "-m", module], port, setting, ready_url)


def _mlflow(chosen: Settings, database_url: str) -> Service:
    artifacts = str((chosen.data_dir / "mlflow" / "artifacts").resolve())
    if chosen.storage_url is not None:
        artifacts = f"{chosen.storage_url}/mlflow/artifacts"
    else:
        Path(artifacts).mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--serve-artifacts"]
    argv += ["--host", chosen.host, "--port", str(chosen.mlflow_port)]
    argv += ["--backend-store-uri", database_url, "--artifacts-destination", artifacts]
    return Service(
        "mlflow",
        argv,
        chosen.mlflow_port,
        "EMEND_MLFLOW_PORT",
        url_of(chosen.host, chosen.mlflow_port) + "/health",
        # Its job runners hold 2 GB and start in 25 s; nothing here uses them.
        {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        },
    )


def log_path(data_dir: Path, name: str) -> Path:
    return data_dir / "logs" / "services" / f"{name}.log"
