"""What a deployment runs on: its GPUs and its containers, for dashboards and for whoever looks after it.

Both say what is, and nothing of what a container was started with: its environment holds passwords.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.to_thread
from fastapi import APIRouter

from api.schemas import ContainersAnswer, GpusAnswer, errors
from core import gpu
from core.errors import NotFound, Unavailable
from core.settings import settings

router = APIRouter(prefix="/monitoring", tags=["monitoring"])
ENGINE_SECONDS = 5  # in which Docker's engine answers
FRESH_SECONDS = 10.0  # what was measured is told again; measuring takes the engine one to two seconds
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"


class EngineUnavailable(Unavailable):
    """Docker's engine does not answer, or does not let the gateway look."""

    code = "engine_unavailable"


# A driver or an engine that hangs must not take the threads that answer everything else.
_driver, _engine = anyio.CapacityLimiter(1), anyio.CapacityLimiter(1)


@router.get("/gpu", summary="The GPUs of the gateway's machine", response_model=GpusAnswer)
async def gpus() -> dict[str, Any]:
    """Name, how busy, memory, temperature; without a GPU an empty list and the reason."""
    found, reason = await anyio.to_thread.run_sync(gpu.gpus, limiter=_driver)
    return {"gpus": [each.as_json() for each in found], "reason": reason}


@router.get(
    "/containers",
    summary="The containers of this deployment",
    response_model=ContainersAnswer,
    responses=errors(404, 503),
)
async def containers() -> dict[str, Any]:
    """State, health, restarts, CPU and memory. 404 unless `EMEND_DOCKER_URL` says where Docker's engine is."""
    here = settings()
    if here.docker_url is None:
        raise NotFound(
            "containers are not looked at: set EMEND_DOCKER_URL to a proxy that lets only reading through "
            "(docs/operations.md)"
        )
    return await anyio.to_thread.run_sync(
        _measured.get, here.docker_url, here.docker_project, limiter=_engine
    )


class _Measured:
    """The last measurement, told to all who ask soon after. One thread at a time."""

    def __init__(self) -> None:
        self._at = -float("inf")
        self._answer: dict[str, Any] = {}

    def get(self, url: str, project: str) -> dict[str, Any]:
        if time.monotonic() - self._at > FRESH_SECONDS:
            self._answer = {"measured_at": datetime.now(UTC), "containers": measure(url, project)}
            self._at = time.monotonic()
        return self._answer


_measured = _Measured()


def measure(url: str, project: str) -> list[dict[str, Any]]:
    """In order of their names. Raises EngineUnavailable."""
    from docker import DockerClient  # with requests 0.2 s, which nobody pays who does not look
    from docker.errors import DockerException
    from requests import RequestException

    try:
        with closing(DockerClient(base_url=url, timeout=ENGINE_SECONDS)) as engine:
            found = engine.containers.list(
                all=True, filters={"label": f"{PROJECT_LABEL}={project}"}, ignore_removed=True
            )
            running = [each for each in found if each.attrs["State"]["Status"] == "running"]
            with ThreadPoolExecutor(max(1, len(running)), thread_name_prefix="engine") as pool:
                used = dict(zip((each.id for each in running), pool.map(_used, running), strict=True))
    except (DockerException, RequestException, OSError) as exc:
        raise EngineUnavailable(
            f"Docker's engine at {url} does not answer as it should ({type(exc).__name__}); check EMEND_DOCKER_URL, "
            "and that the proxy lets GET /containers through"
        ) from exc
    return sorted(
        (_told(each.attrs, used.get(each.id, {})) for each in found), key=lambda each: str(each["name"])
    )


def _used(container: Any) -> dict[str, Any]:
    """Empty for one that is gone meanwhile."""
    from docker.errors import NotFound as Gone

    try:
        figures: dict[str, Any] = container.stats(stream=False)
    except Gone:
        return {}
    return figures


def _told(about: dict[str, Any], used: dict[str, Any]) -> dict[str, Any]:
    state, labels = about["State"], about["Config"].get("Labels") or {}
    memory = used.get("memory_stats", {})
    detail = memory.get("stats", {})
    # The kernel gives it back when asked, so `docker stats` leaves it out too; the first name is of cgroup v1.
    cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    return {
        "name": about["Name"].lstrip("/"),
        "service": labels.get(SERVICE_LABEL),
        "image": about["Config"]["Image"],
        "state": state["Status"],
        "health": state.get("Health", {}).get("Status"),
        "exit_code": None if state["Status"] == "running" else state["ExitCode"],
        "out_of_memory": state.get("OOMKilled", False),
        "restarts": about["RestartCount"],
        "started_at": state["StartedAt"] if not state["StartedAt"].startswith("0001-") else None,
        "cpu_cores": _cores(used),
        "memory_used_bytes": max(0, memory["usage"] - cache) if "usage" in memory else None,
        "memory_limit_bytes": memory.get("limit"),
    }


def _cores(used: dict[str, Any]) -> float | None:
    """How many it kept busy between the engine's two looks. None: it has looked once only."""
    now, before = used.get("cpu_stats", {}), used.get("precpu_stats", {})
    system = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    if not before.get("system_cpu_usage") or system <= 0:
        return None
    busy: int = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    cores: int = now.get("online_cpus", 1)
    return round(max(0.0, busy / float(system) * cores), 4)
