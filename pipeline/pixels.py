"""A home's images decoded once: uint8 pixels in one memory-mapped file, beside the Parquet shards they come from.

    images = Decoded(home, spec).images(rows)     # rows: of dataset.read_rows
    images[chosen]                                # (len(chosen), H, W[, 3]), read from the disk as asked for

`runs/.pixels/<mode>-<width>x<height>/` holds `pixels`, every row of every shard in order, and `index.json`, which says
which shards those are. A new shard is appended; only when an old one has changed (erasure rewrites it) is all decoded
again. Nothing depends on it: it can be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.images import InputSpec, decode_png
from core.storage import write_json

FOOTER_BYTES = 8_192  # of a shard's end, which says where its columns are and how long: no two have the same


class Images:
    """Images on disk. Asked for with positions (N,), gives uint8 (N, H, W[, 3]); never in memory as a whole."""

    def __init__(self, stored: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        self._stored = stored
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._rows), *self._stored.shape[1:])

    def __getitem__(self, chosen: NDArray[np.int64] | slice) -> NDArray[np.uint8]:
        return self._stored[self._rows[chosen]]

    def take(self, chosen: NDArray[np.int64]) -> Images:
        """Some of them, still on disk."""
        return Images(self._stored, self._rows[chosen])


@dataclass(frozen=True)
class _Shard:
    version: int
    rows: int
    size_bytes: int
    footer_sha256: str


class Decoded:
    """The decoded shards of a home, as they are when it is made; decodes what is not there yet.

    shards: (dataset version, file), in order. Waits while another process decodes.
    """

    def __init__(self, home: Path, spec: InputSpec, shards: Sequence[tuple[int, Path]]) -> None:
        folder = home / "runs" / ".pixels" / f"{spec.mode}-{spec.width}x{spec.height}"
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [_described(version, path) for version, path in shards]
        with _alone(folder):
            _bring_up_to_date(folder, spec, wanted, [path for _, path in shards])
            rows = sum(shard.rows for shard in wanted)
            shape = (rows, *spec.shape)
            self._stored = (
                np.memmap(folder / "pixels", np.uint8, "r", shape=shape)
                if rows
                else np.zeros(shape, np.uint8)
            )
        self._first_rows = np.zeros(max((shard.version for shard in wanted), default=0) + 1, np.int64)
        first = 0
        for shard in wanted:
            self._first_rows[shard.version] = first
            first += shard.rows

    def images(self, rows: pa.Table) -> Images:
        """Of rows that have `dataset_version` and `shard_row`, in their order."""
        return Images(
            self._stored, self._first_rows[rows["dataset_version"].to_numpy()] + rows["shard_row"].to_numpy()
        )


def _bring_up_to_date(folder: Path, spec: InputSpec, wanted: list[_Shard], paths: list[Path]) -> None:
    kept = _index(folder)
    stored_bytes = sum(shard.rows for shard in kept) * spec.size_bytes
    path = folder / "pixels"
    if not path.exists() or path.stat().st_size < stored_bytes or kept != wanted[: len(kept)]:
        # Another file: somebody may have this one mapped, and would be killed for reading what was cut off.
        (folder / "index.json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        kept, stored_bytes = [], 0
    if kept == wanted:
        return
    with path.open("ab") as file:
        file.truncate(stored_bytes)  # what a killed process has left
        for shard in paths[len(kept) :]:
            for pixels in _decoded(shard, spec):
                file.write(pixels.tobytes())
        file.flush()
        os.fsync(file.fileno())
    write_json(folder / "index.json", {"shards": [asdict(shard) for shard in wanted]})


def _described(version: int, path: Path) -> _Shard:
    with pq.ParquetFile(path, memory_map=True) as parquet:
        rows = parquet.metadata.num_rows
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - FOOTER_BYTES))
        footer = hashlib.sha256(file.read()).hexdigest()
    return _Shard(version, rows, size, footer)


def _index(folder: Path) -> list[_Shard]:
    """Empty when there is none, or none that can be read."""
    try:
        return [_Shard(**each) for each in json.loads((folder / "index.json").read_text())["shards"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _decoded(path: Path, spec: InputSpec) -> Iterator[NDArray[np.uint8]]:
    """Every row in order, a row group at a time; one that withdraws, which has no image, is blank."""
    with pq.ParquetFile(path, memory_map=True) as file:
        for group in range(file.num_row_groups):
            column = file.read_row_group(group, columns=["image.bytes"])["image"].combine_chunks()
            pixels = np.zeros((len(column), *spec.shape), np.uint8)
            for row, png in enumerate(pc.struct_field(column, "bytes").to_pylist()):
                if png is not None:
                    pixels[row] = decode_png(png)
            yield pixels


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
