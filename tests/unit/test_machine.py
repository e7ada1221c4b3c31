from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import psutil

from core.duration import in_words
from core.gpu import Gpu
from core.machine import FIGURES, Sampler
from pipeline.curve import read_curve


def test_samples_are_of_the_training_card_alone_and_taken_once() -> None:
    looks = iter(
        [
            [Gpu(0, "a", "A", 0.1, 9, 10, None), Gpu(1, "b", "B", 0.5, 4, 10, None)],
            [Gpu(0, "a", "A", 0.1, 9, 10, None), Gpu(1, "b", "B", 1.0, 6, 10, None)],
        ]
    )
    is_gone = threading.Event()

    def look() -> tuple[list[Gpu], str | None]:
        found = next(looks, [])
        if not found:
            is_gone.set()  # the driver: the card is not asked again
        return found, None

    with Sampler("b", look, seconds=0.01) as sampler:
        assert is_gone.wait(20)
        first, second = sampler.take(), sampler.take()
    told = {name: value for name, value in first.items() if name.startswith("gpu")}
    assert told == {
        "gpu_index": 1,
        "gpu_utilisation": 0.75,
        "gpu_memory_bytes": 6,
        "gpu_memory_total_bytes": 10,
    }
    assert not [name for name in second if name.startswith("gpu")]
    assert set(first) <= set(FIGURES)


def test_without_a_gpu_none_is_looked_for_and_the_machine_is_told_of() -> None:
    def look() -> tuple[list[Gpu], str | None]:
        raise AssertionError("looked")

    with Sampler(None, look) as sampler:
        held = np.ones(50_000_000, np.uint8)
        until = psutil.Process().cpu_times().user + 0.3
        while psutil.Process().cpu_times().user < until:
            held.sum()
        busy = sampler.take()
    assert set(busy) == {name for name in FIGURES if not name.startswith("gpu")}
    assert 0 < busy["process_cpu_utilisation"] <= 1
    assert 0 < busy["cpu_utilisation"] <= 1
    assert 50_000_000 < busy["process_memory_bytes"] <= busy["memory_total_bytes"]
    assert 0 < busy["memory_bytes"] <= busy["memory_total_bytes"]


def test_a_line_cut_off_by_a_crash_is_passed_over_and_one_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_curve(path).epochs == []
    path.write_text('{"epoch": 1}\n{"epoch": 2, "lo\n{"epoch": 2}\n{"epo')
    first = read_curve(path)
    assert [figures["epoch"] for figures in first.epochs] == [1, 2]
    with path.open("a") as file:
        file.write('ch": 3}\n')
    second = read_curve(path, first.end_bytes)
    assert [figures["epoch"] for figures in second.epochs] == [3]
    assert second.end_bytes == path.stat().st_size


def test_a_length_of_time_is_told_to_the_second() -> None:
    assert [in_words(seconds) for seconds in (0.2, 59.4, 59.6, 200, 7500)] == [
        "1 s",
        "59 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
