"""GPUs and containers as the gateway tells of them; Docker's engine is a small server with recorded answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from fastapi import FastAPI

from api import monitoring
from core import gpu, web
from core.gpu import Gpu
from core.settings import settings
from tests.support.docker_engine import PASSWORD, container, docker_engine
from tests.support.http_server import http_client
from tests.support.processes import free_port


@pytest.fixture
def app(emend_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setattr(monitoring, "_measured", monitoring._Measured())
    app = web.application("gateway", "for tests")
    app.include_router(monitoring.router)
    return app


def test_containers_are_not_looked_at_unless_told_where(app: FastAPI) -> None:
    with http_client(app) as client:
        refused = client.get("/monitoring/containers")
    assert refused.status_code == 404
    assert "set EMEND_DOCKER_URL" in refused.json()["error"]["message"]


def test_the_deployments_containers_are_told_without_their_environment(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [
        container("viewer", Health={"Status": "unhealthy"}, restarts=3),
        container("gateway", Health={"Status": "healthy"}),
        container("setup", Status="exited", Running=False, ExitCode=1, OOMKilled=True),
        container("created", Status="created", Running=False, StartedAt="0001-01-01T00:00:00Z"),
        container("somebody", project="elses"),
    ]
    with docker_engine(listed) as engine, http_client(app) as client:
        monkeypatch.setenv("EMEND_DOCKER_URL", engine.url)
        settings.cache_clear()
        answered = client.get("/monitoring/containers")
        asked = len(engine.asked)
        again = client.get("/monitoring/containers")
        assert len(engine.asked) == asked  # a dashboard's many readers measure once
    assert answered.status_code == 200, answered.text
    assert again.json() == answered.json()
    assert PASSWORD not in answered.text
    found = {each["service"]: each for each in answered.json()["containers"]}
    assert list(found) == ["created", "gateway", "setup", "viewer"]
    gateway = found["gateway"]
    assert gateway["name"] == "emend-gateway-1"
    assert (gateway["state"], gateway["health"], gateway["restarts"]) == ("running", "healthy", 0)
    assert gateway["cpu_cores"] == 0.5  # half a second, while each of two cores had one
    assert gateway["memory_used_bytes"] == 195_342_336 - 53_022_720
    assert gateway["memory_limit_bytes"] == 1_073_741_824
    assert gateway["exit_code"] is None
    assert (found["viewer"]["health"], found["viewer"]["restarts"]) == ("unhealthy", 3)
    assert (found["setup"]["exit_code"], found["setup"]["out_of_memory"]) == (1, True)
    assert (found["setup"]["cpu_cores"], found["setup"]["memory_used_bytes"]) == (None, None)
    assert found["created"]["started_at"] is None


def test_a_container_that_goes_while_it_is_looked_at_is_left_out() -> None:
    listed = [container("gateway"), container("going")]
    with docker_engine(listed, gone=[listed[1]["Id"]]) as engine:
        assert [each["service"] for each in monitoring.measure(engine.url, "emend")] == ["gateway"]


def test_an_engine_that_does_not_answer_is_503_and_named(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMEND_DOCKER_URL", f"tcp://127.0.0.1:{free_port()}")
    settings.cache_clear()
    with http_client(app) as client:
        refused = client.get("/monitoring/containers")
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "engine_unavailable"
    assert "EMEND_DOCKER_URL" in refused.json()["error"]["message"]


def test_the_gpus_of_this_machine_or_why_there_are_none(app: FastAPI) -> None:
    with http_client(app) as client:
        answered = client.get("/monitoring/gpu").json()
    assert (answered["gpus"] == []) == (answered["reason"] is not None)
    for each in answered["gpus"]:
        assert 0 <= each["memory_used_bytes"] <= each["memory_total_bytes"]


@pytest.mark.gpu
def test_a_real_gpu_is_told_with_its_figures() -> None:
    found, reason = gpu.gpus()
    if not found:
        pytest.skip(f"needs an NVIDIA GPU: {reason}")
    assert found[0].name
    assert found[0].memory_total_bytes
    assert gpu.driver_version()


class Driver:
    """What of NVML is asked. The second card, as a part of one may, does not tell everything."""

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self) -> None:
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-0000-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"Card {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=3 << 30, total=8 << 30)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        if handle == 1:
            raise self.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=87, memory=40)

    def nvmlDeviceGetTemperature(self, handle: int, _kind: int) -> int:
        return 61 + handle


def test_cards_are_told_with_what_each_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(gpu, "pynvml", driver)
    found, reason = gpu.gpus()
    assert reason is None
    assert found == [
        Gpu(0, "0000-0", "Card 0", 0.87, 3 << 30, 8 << 30, 61),
        Gpu(1, "0000-1", "Card 1", None, 3 << 30, 8 << 30, 62),
    ]
    assert driver.open == 0
