"""Training's curve: `runs/<run>/metrics.jsonl`, a line an epoch, which `train` appends to and others read on from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Read:
    """epochs: figures in the order of their lines. end_bytes: where the next reading goes on."""

    epochs: list[dict[str, Any]]
    end_bytes: int


def read_curve(path: Path, start_bytes: int = 0) -> Read:
    """Whole lines from there on: a half-written one waits. One that a crash cut off is passed over.

    Nothing when there is no file (yet).
    """
    try:
        with path.open("rb") as file:
            file.seek(start_bytes)
            chunk = file.read()
    except FileNotFoundError:
        return Read([], start_bytes)
    whole = chunk[: chunk.rfind(b"\n") + 1]
    epochs = [figures for line in whole.splitlines() if (figures := _figures(line)) is not None]
    return Read(epochs, start_bytes + len(whole))


def _figures(line: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) and "epoch" in told else None
