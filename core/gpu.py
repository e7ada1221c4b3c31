"""NVIDIA's GPUs as their driver sees them (NVML): name, how busy, memory, temperature.

    found, reason = gpus()      # [], "no NVIDIA driver on this machine" without one

NVML answers also what other processes use, which torch cannot, and it needs neither torch nor CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import pynvml


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


@contextmanager
def held_open(wanted: bool = True) -> Iterator[None]:
    """NVML stays loaded while the block lasts, so that each `gpus()` in it need not load it anew."""
    opened = False
    if wanted:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            opened = True
    try:
        yield
    finally:
        if opened:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


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
