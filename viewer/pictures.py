"""An image by its hash, out of a model's dataset, inbox, quarantine or originals.

    pictures = Pictures(settings().data_dir)
    pictures.png("doodles", sha256)

A shard has no index of its own. The first question reads its column of hashes and keeps 12 bytes an image; later ones
read one row group, and the images beside the one asked for, which a page asks for next, are then in memory. Both are
bounded; a shard that changed (a person's data was erased) is read anew. Figures: docs/viewer.md.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core import objects, pictures
from core.database import Model, session
from core.images import InputSpec
from pipeline import dataset, mirror

INDEX_BYTES = 120_000_000  # 10 million images
GROUP_BYTES = 64_000_000  # some twenty row groups of doodles

_V = TypeVar("_V")


@dataclass(frozen=True)
class Index:
    """Of a shard: the first 64 bits of each hash, ascending, and the row of each."""

    prefixes: NDArray[np.uint64]
    rows: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        return int(self.prefixes.nbytes + self.rows.nbytes)

    def find(self, sha256: str) -> NDArray[np.int32]:
        """Rows that may hold it, the last one first."""
        prefix = np.uint64(int(sha256[:16], 16))
        first, end = (
            np.searchsorted(self.prefixes, prefix, "left"),
            np.searchsorted(self.prefixes, prefix, "right"),
        )
        return np.sort(self.rows[first:end])[::-1]


class Bounded(Generic[_V]):
    """What was made last stays, up to so many bytes. Made outside the lock: twice, if two ask at the same time."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[_V, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, make: Callable[[], _V], size_bytes: Callable[[_V], int]) -> _V:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        made = make()
        size = size_bytes(made)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = (made, size)
                self._bytes += size
            while self._bytes > self._limit_bytes and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1][1]
        return made


class Pictures:
    """One for the process; may be asked from several threads."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._indexes: Bounded[Index] = Bounded(INDEX_BYTES)
        self._groups: Bounded[pa.Table] = Bounded(GROUP_BYTES)

    def png(self, model: str, sha256: str) -> bytes | None:
        """What the model sees; None: it is nowhere. The arguments must have been checked: they become paths."""
        home = self._data_dir / model
        mirror.bring_shards(home)
        for shard in reversed(dataset.shards(home)):
            found = self._in_shard(shard, sha256)
            if found is not None:
                return found
        for folder in ("inbox", "quarantine"):
            for path in home.glob(f"{folder}/*/{sha256}.png"):
                try:
                    return path.read_bytes()
                except FileNotFoundError:  # a run took it in just now
                    continue
        if (store := objects.store()) is not None:
            accepted = store.get(pictures.stored_name(model, sha256))
            if accepted is not None:
                return accepted
        elif not pictures.original_path(self._data_dir, model, sha256).exists():
            return None
        spec = _input_of(model)
        return pictures.from_original(self._data_dir, model, sha256, spec) if spec else None

    def _in_shard(self, shard: Path, sha256: str) -> bytes | None:
        try:
            state = shard.stat()
        except FileNotFoundError:  # left over by a killed run, and now gone
            return None
        key = (str(shard), state.st_mtime_ns, state.st_size)
        index = self._indexes.get(key, lambda: read_index(shard), lambda made: made.nbytes)
        for row in index.find(sha256).tolist():
            found = self._in_row(shard, key, row, sha256)
            if found is not None:
                return found
        return None

    def _in_row(self, shard: Path, key: tuple[str, int, int], row: int, sha256: str) -> bytes | None:
        """None when the row withdraws, or when it is another image whose hash begins alike."""
        with pq.ParquetFile(shard, memory_map=True) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            number = int(np.searchsorted(ends, row, side="right"))
            group = self._groups.get(
                (key, number),
                lambda: file.read_row_group(number, columns=["sha256", "image.bytes"]).combine_chunks(),
                lambda made: int(made.nbytes),
            )
        at = row - (int(ends[number]) - sizes[number])
        if group["sha256"][at].as_py() != sha256:
            return None
        image = group["image"][at].as_py()
        data: bytes | None = None if image is None else image["bytes"]
        return data


def read_index(shard: Path) -> Index:
    names = dataset.read_columns(shard, ["sha256"])["sha256"]
    if len(names) == 0:
        return Index(np.zeros(0, np.uint64), np.zeros(0, np.int32))
    heads = pc.utf8_slice_codeunits(names, 0, 16).combine_chunks()
    digits = np.frombuffer("".join(heads.to_pylist()).encode(), np.uint8).reshape(len(names), 16)
    nibbles = np.where(digits >= ord("a"), digits - ord("a") + 10, digits - ord("0")).astype(np.uint64)
    shifts = np.arange(60, -4, -4, dtype=np.uint64)
    prefixes = np.bitwise_or.reduce(nibbles << shifts, axis=1)  # (N,)
    order = np.argsort(prefixes, kind="stable").astype(np.int32)
    return Index(prefixes[order], order)


def _input_of(model: str) -> InputSpec | None:
    with session() as db:
        found = db.get(Model, model)
    if found is None:
        return None
    given = found.params["input"]
    return InputSpec(given["mode"], given["width"], given["height"], bool(given.get("drawing", False)))
