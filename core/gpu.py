"""NVIDIA's GPUs as their driver sees them (NVML): name, how busy, memory, temperature.

    found, reason = gpus()      # [], "no NVIDIA driver on this machine" without one

NVML answers also what other processes use, which torch cannot, and it needs neither torch nor CUDA.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

import pynvml

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Gpu:
    """utilisation: share of the last moment in which something was computed, 0..1. None: the card does not tell."""

    index: int
    uuid: str
    name: str
    utilisation: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_celsius: int | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def gpus() -> tuple[list[Gpu], str | None]:
    """All there are, and when there are none, why."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as exc:
        return [], _reason(exc)
    try:
        count = pynvml.nvmlDeviceGetCount()
        found = [_gpu(index) for index in range(count)]
    except pynvml.NVMLError as exc:
        return [], _reason(exc)
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    return found, None if found else "the NVIDIA driver sees no GPU"


def driver_version() -> str | None:
    """Of NVIDIA's driver; None without one."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


class Sampler:
    """Looks at one GPU now and then while its block lasts. uuid: as NVML and torch have it; None: there is none.

    with Sampler(uuid) as sampler:
        ...
        sampler.take()      # {"gpu_utilisation": 0.93, "gpu_memory_bytes": 4831838208}, since the last time
    """

    def __init__(
        self,
        uuid: str | None,
        look: Callable[[], tuple[list[Gpu], str | None]] = gpus,
        seconds: float = SAMPLE_SECONDS,
    ) -> None:
        self._seconds = seconds
        self._uuid = uuid
        self._look = look
        self._seen: list[Gpu] = []
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def wait(self, seconds: float) -> None:
        """Until it has no more to see, or so long."""
        self._thread.join(seconds)

    def take(self) -> dict[str, float | int]:
        """Mean utilisation and most memory since the last call; empty when nothing was seen."""
        with self._changing:
            seen, self._seen = self._seen, []
        busy = [each.utilisation for each in seen if each.utilisation is not None]
        used = [each.memory_used_bytes for each in seen if each.memory_used_bytes is not None]
        figures: dict[str, float | int] = {}
        if busy:
            figures["gpu_utilisation"] = round(sum(busy) / len(busy), 3)
        if used:
            figures["gpu_memory_bytes"] = max(used)
        return figures

    def _run(self) -> None:
        while self._uuid is not None:
            found, _ = self._look()
            with self._changing:
                self._seen += [gpu for gpu in found if gpu.uuid == self._uuid]
            if self._stopping.wait(self._seconds) or not found:
                return


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = _told(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    busy = _told(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    return Gpu(
        index=index,
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)).removeprefix("GPU-"),
        name=str(pynvml.nvmlDeviceGetName(handle)),
        utilisation=None if busy is None else busy.gpu / 100,
        memory_used_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        temperature_celsius=_told(
            lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
        ),
    )


def _told(ask: Callable[[], Any]) -> Any:
    """Some cards, and parts of a card, do not tell everything."""
    try:
        return ask()
    except pynvml.NVMLError:
        return None


def _reason(exc: Exception) -> str:
    if isinstance(exc, pynvml.NVMLError_LibraryNotFound | pynvml.NVMLError_DriverNotLoaded):
        return "no NVIDIA driver on this machine, or none is passed into this container"
    return f"NVIDIA's driver does not answer: {exc}"
