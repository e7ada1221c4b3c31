"""How busy the machine, this process and one GPU are, for as long as a training lasts.

    with Sampler(uuid) as sampler:
        ...
        sampler.take()      # {"cpu_utilisation": 0.93, "memory_bytes": 4831838208, ...}, since the last time

A look costs 0.15 ms on Linux without a GPU (x86-64, 2 cores), one a second.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Self

import psutil

from core.gpu import Gpu, gpus, held_open

SAMPLE_SECONDS = 1.0

FIGURES = (
    "cpu_utilisation",
    "process_cpu_utilisation",
    "memory_bytes",
    "memory_total_bytes",
    "process_memory_bytes",
    "gpu_index",
    "gpu_utilisation",
    "gpu_memory_bytes",
    "gpu_memory_total_bytes",
)


class Sampler:
    """Looks now and then while its block lasts. uuid: the GPU's, as NVML and torch have it; None: there is none."""

    def __init__(
        self,
        uuid: str | None,
        look: Callable[[], tuple[list[Gpu], str | None]] = gpus,
        seconds: float = SAMPLE_SECONDS,
    ) -> None:
        self._seconds = seconds
        self._uuid = uuid
        self._look = look
        self._process = psutil.Process()
        self._memory_bytes = self._process_memory_bytes = 0
        self._seen: list[Gpu] = []
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        psutil.cpu_percent()  # from here on: it tells of the time since it was asked last, by the same thread
        self._process.cpu_percent()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def take(self) -> dict[str, float | int]:
        """Since the last call: mean shares (0..1) of all cores and of the GPU, and the most memory in use.

        `process_`: of this process alone. GPU figures are those of all its users; absent when none were seen.
        Call it from the thread that entered.
        """
        self._look_at_memory()
        with self._changing:
            seen, self._seen = self._seen, []
            memory_bytes, self._memory_bytes = self._memory_bytes, 0
            process_memory_bytes, self._process_memory_bytes = self._process_memory_bytes, 0
        cores = os.cpu_count() or 1
        return {
            "cpu_utilisation": round(psutil.cpu_percent() / 100, 3),
            "process_cpu_utilisation": round(min(1.0, self._process.cpu_percent() / 100 / cores), 3),
            "memory_bytes": memory_bytes,
            "memory_total_bytes": int(psutil.virtual_memory().total),
            "process_memory_bytes": process_memory_bytes,
            **_gpu_figures(seen),
        }

    def _look_at_memory(self) -> None:
        used, own = int(psutil.virtual_memory().used), int(self._process.memory_info().rss)
        with self._changing:
            self._memory_bytes = max(self._memory_bytes, used)
            self._process_memory_bytes = max(self._process_memory_bytes, own)

    def _run(self) -> None:
        with held_open(self._uuid is not None):
            is_there = self._uuid is not None
            while True:
                self._look_at_memory()
                if is_there:
                    found, _ = self._look()
                    is_there = bool(found)
                    with self._changing:
                        self._seen += [gpu for gpu in found if gpu.uuid == self._uuid]
                if self._stopping.wait(self._seconds):
                    return


def _gpu_figures(seen: list[Gpu]) -> dict[str, float | int]:
    if not seen:
        return {}
    busy = [each.utilisation for each in seen if each.utilisation is not None]
    used = [each.memory_used_bytes for each in seen if each.memory_used_bytes is not None]
    total_bytes = seen[-1].memory_total_bytes
    figures: dict[str, float | int] = {"gpu_index": seen[-1].index}
    if busy:
        figures["gpu_utilisation"] = round(sum(busy) / len(busy), 3)
    if used:
        figures["gpu_memory_bytes"] = max(used)
    if total_bytes is not None:
        figures["gpu_memory_total_bytes"] = total_bytes
    return figures
