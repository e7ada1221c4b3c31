"""Import of the Quick, Draw! data set's own files: `<category>.npy` bitmaps and `<category>.ndjson` strokes.

The Quick, Draw! Dataset is made available by Google, Inc. under CC BY 4.0
(https://github.com/googlecreativelab/quickdraw-dataset); every row says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import labels
from core.drawing import Stroke, render_many, strokes_of_quickdraw
from core.errors import InvalidImage, InvalidLabel
from core.images import InputSpec
from pipeline.imports.staging import (
    ImportFailed,
    Progress,
    StagedImport,
    Staging,
    checked_label,
    prepare_pixels,
    staging,
)

QUICKDRAW_LICENCE = "CC BY 4.0, the Quick, Draw! Dataset, Google"
SIDE = 28  # of the bitmaps
BATCH = 1_000
MAX_LINE_BYTES = 1_000_000  # the longest raw drawing has some tens of kilobytes
MAX_POINTS = 10_000  # of one drawing: keeps what the renderer allocates bounded


def stage_quickdraw(
    directory: Path,
    home: Path,
    spec: InputSpec,
    *,
    categories: Collection[str] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> StagedImport:
    """Stages the first `limit` drawings of each category found in `directory`, or of the `categories` named.

    Raises ImportFailed when there is none, and when a category asked for has no file.
    """
    files = _files(directory, categories)
    with staging(home, spec, "import", QUICKDRAW_LICENCE) as shard:
        for label, paths in files.items():
            for other in paths[1:]:
                shard.reject(other.name, f"not read: {paths[0].name} has the same drawings")
            for names, bitmaps in _bitmaps(paths[0], limit, shard):
                _add(label, names, bitmaps, spec, shard)
                if progress is not None:
                    progress(shard.categories.total())
        _reject_bad_names(directory, shard)
    return shard.result()


def _files(directory: Path, categories: Collection[str] | None) -> dict[str, list[Path]]:
    """Label to its files, bitmaps before strokes."""
    if not directory.is_dir():
        raise ImportFailed(f"{directory} is not a folder; name the one that holds the .npy or .ndjson files")
    found: dict[str, list[Path]] = {}
    for path in sorted(_candidates(directory), key=lambda p: (p.suffix != ".npy", p.name)):
        try:
            found.setdefault(_label_of(path), []).append(path)
        except InvalidLabel:
            continue  # named by _reject_bad_names
    if categories is not None:
        wanted = {labels.key_of(checked_label(c)): c for c in categories}
        found = {label: paths for label, paths in found.items() if labels.key_of(label) in wanted}
        missing = [c for key, c in wanted.items() if key not in {labels.key_of(label) for label in found}]
        if missing:
            raise ImportFailed(f"{directory} has no .npy or .ndjson file of {', '.join(sorted(missing))}")
    if not found:
        raise ImportFailed(f"{directory} has no .npy bitmaps and no .ndjson strokes to import")
    return dict(sorted(found.items()))


def _candidates(directory: Path) -> list[Path]:
    return [p for p in directory.iterdir() if p.suffix in (".npy", ".ndjson") and not p.name.startswith(".")]


def _label_of(path: Path) -> str:
    """The data set's mirrors add its folders to the names: full_numpy_bitmap_cat.npy, full_simplified_cat.ndjson."""
    return checked_label(re.sub(r"^full_(numpy_bitmap|simplified|raw)_", "", path.stem))


def _reject_bad_names(directory: Path, shard: Staging) -> None:
    for path in sorted(_candidates(directory)):
        try:
            _label_of(path)
        except InvalidLabel as exc:
            shard.reject(path.name, exc.message)


def _add(
    label: str, names: Sequence[str], bitmaps: NDArray[np.uint8], spec: InputSpec, shard: Staging
) -> None:
    for name, picture in zip(names, prepare_pixels(bitmaps, spec), strict=True):
        shard.add(label, picture, name)


def _bitmaps(path: Path, limit: int | None, shard: Staging) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    """Names and (<= BATCH, 28, 28) at a time; what cannot be read is named in `shard`."""
    batches = _from_npy(path, limit, shard) if path.suffix == ".npy" else _from_ndjson(path, limit, shard)
    for names, bitmaps in batches:
        inked = bitmaps.any(axis=(1, 2))
        for position in np.flatnonzero(~inked):
            shard.reject(names(int(position)), "shows nothing: all paper")
        yield [names(int(position)) for position in np.flatnonzero(inked)], bitmaps[inked]


def _from_npy(path: Path, limit: int | None, shard: Staging) -> Iterator[tuple[Any, NDArray[np.uint8]]]:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as exc:
        shard.reject(path.name, f"is no NumPy array of bytes, or is cut off ({type(exc).__name__})")
        return
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (SIDE * SIDE,):
        shape = getattr(rows, "shape", "?")
        shard.reject(path.name, f"holds {getattr(rows, 'dtype', '?')} {shape}; expected uint8 (N, 784)")
        return
    rows = rows[:limit]
    for start in range(0, len(rows), BATCH):
        batch = np.ascontiguousarray(rows[start : start + BATCH]).reshape(-1, SIDE, SIDE)
        yield (lambda i, start=start: f"{path.name} row {start + i}"), batch


def _from_ndjson(path: Path, limit: int | None, shard: Staging) -> Iterator[tuple[Any, NDArray[np.uint8]]]:
    waiting: list[tuple[int, list[Stroke]]] = []
    taken = 0

    def rendered() -> tuple[Any, NDArray[np.uint8]]:
        numbers = [number for number, _ in waiting]
        return (lambda i: f"{path.name} line {numbers[i]}"), render_many([strokes for _, strokes in waiting])

    with path.open("rb") as file:
        number = 0
        while (limit is None or taken < limit) and (line := file.readline(MAX_LINE_BYTES + 1)):
            number += 1
            try:
                waiting.append((number, _strokes(line)))
                taken += 1
            except InvalidImage as exc:
                shard.reject(f"{path.name} line {number}", exc.message)
            while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES + 1)  # the rest of a line that is too long
            if len(waiting) == BATCH:
                yield rendered()
                waiting = []
    if waiting:
        yield rendered()


def _strokes(line: bytes) -> list[Stroke]:
    """A line of the data set, {"drawing": [[xs, ys(, times)], ...]}, as (P, 2) arrays. Raises InvalidImage."""
    if len(line) > MAX_LINE_BYTES:
        raise InvalidImage(f"line is longer than {MAX_LINE_BYTES} bytes")
    try:
        strokes = strokes_of_quickdraw(json.loads(line)["drawing"])
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise InvalidImage(f"is no drawing ({type(exc).__name__})") from exc
    if not strokes:
        raise InvalidImage("has no strokes")
    if sum(map(len, strokes)) > MAX_POINTS:
        raise InvalidImage(f"has more than {MAX_POINTS} points")
    return strokes
