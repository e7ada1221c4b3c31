"""The dataset of a home: append-only Parquet shards that Hugging Face `datasets` can read.

`dataset/images-000012.parquet` is what dataset version 12 added. An image may have several rows, one for each
time it was labelled: the latest wins, and a null label withdraws it. Reading costs what is asked for: columns
are projected and rows filtered before any image is decoded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.images import InputSpec, decode_png

SPLITS = ("train", "validation", "holdout", "regression", "excluded")
SOURCES = ("generated", "sample", "import", "correction")

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("image", _IMAGE, nullable=False),  # PNG, as the model sees it
        pa.field(
            "original", _IMAGE
        ),  # PNG of the decoded upload; null when it is the same
        pa.field("label", pa.string()),  # null: withdrawn
        pa.field("category_id", pa.int32()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string()),
        pa.field("actor", pa.string()),  # hashed
        pa.field("correction_id", pa.string()),
        pa.field("import_id", pa.string()),
        pa.field("near_duplicate_of", pa.string()),
        pa.field("labelled_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ],
    # `datasets` reads this key and then shows the column as pictures.
    metadata={
        "huggingface": json.dumps(
            {
                "info": {
                    "features": {
                        "image": {"_type": "Image"},
                        "original": {"_type": "Image"},
                    }
                }
            }
        )
    },
)


@dataclass(frozen=True)
class Category:
    """state: pending (too few images), active, retired. ids are permanent."""

    id: int
    name: str
    state: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """pixels: uint8 (N, H, W[, 3]); category_ids: int32 (N,); table: the other columns, row for row."""

    pixels: NDArray[np.uint8]
    category_ids: NDArray[np.int32]
    table: pa.Table

    def __len__(self) -> int:
        return len(self.category_ids)


def shard_path(home: Path, version: int) -> Path:
    return home / "dataset" / f"images-{version:06d}.parquet"


def shards(home: Path, up_to: int | None = None) -> list[Path]:
    """In order of dataset version; `up_to` leaves out what a killed run may have left behind."""
    paths = sorted((home / "dataset").glob("images-[0-9]*.parquet"))
    return [p for p in paths if up_to is None or shard_version(p) <= up_to]


def shard_version(path: Path) -> int:
    return int(path.stem.removeprefix("images-"))


def write_shard(path: Path, table: pa.Table) -> None:
    """The caller names it atomically (core.storage.replacing). PNG does not compress again."""
    pq.write_table(
        table.cast(SCHEMA),
        path,
        compression="zstd",
        compression_level=1,
        row_group_size=5_000,
    )


def read_rows(home: Path, columns: Sequence[str], up_to: int | None = None) -> pa.Table:
    """The latest row of each image, without withdrawn ones, plus the column `dataset_version`."""
    needed = list(dict.fromkeys([*columns, "sha256", "label"]))
    tables = []
    for path in shards(home, up_to):
        table = pq.read_table(path, columns=needed, memory_map=True)
        tables.append(
            table.append_column(
                "dataset_version",
                pa.array([shard_version(path)] * len(table), pa.int32()),
            )
        )
    if not tables:
        empty = pa.schema(
            [SCHEMA.field(name) for name in needed]
            + [pa.field("dataset_version", pa.int32())]
        )
        return empty.empty_table()
    rows = pa.concat_tables(tables)
    if len(tables) > 1:
        rows = rows.take(_latest(rows["sha256"]))
    return rows.filter(pc.is_valid(rows["label"]))


def load(
    home: Path, spec: InputSpec, splits: Sequence[str], up_to: int | None = None
) -> Labelled:
    """The images of some splits, decoded; only rows that are asked for are read and decoded."""
    columns = ["category_id", "split", "source", "correction_id"]
    rows = read_rows(home, columns, up_to)
    rows = rows.filter(pc.is_in(rows["split"], pa.array(list(splits))))
    return decode(home, rows, spec)


def decode(home: Path, rows: pa.Table, spec: InputSpec) -> Labelled:
    """Fetches and decodes the images of `rows` (which has sha256, dataset_version, category_id)."""
    pixels = np.zeros((len(rows), *spec.shape), np.uint8)
    versions = rows["dataset_version"].to_numpy()
    for version in np.unique(versions):
        positions = np.flatnonzero(versions == version)
        # is_in and take keep shard order, and a shard holds an image once.
        names = rows["sha256"].combine_chunks().take(pa.array(positions))
        shard = pq.read_table(
            shard_path(home, int(version)),
            columns=["sha256", "image"],
            filters=pc.is_in(pc.field("sha256"), names) if len(names) < 2_000 else None,
        )
        order = pc.index_in(names, shard["sha256"].combine_chunks()).to_numpy(
            zero_copy_only=False
        )
        encoded = (
            pc.struct_field(shard["image"].combine_chunks(), "bytes")
            .take(pa.array(order))
            .to_pylist()
        )
        with ThreadPoolExecutor(2) as pool:  # zlib lets go of the interpreter lock
            for position, image in zip(
                positions, pool.map(decode_png, encoded, chunksize=256), strict=True
            ):
                pixels[position] = image
    ids = rows["category_id"].to_numpy().astype(np.int32)
    return Labelled(pixels, ids, rows)


def read_categories(home: Path) -> list[Category]:
    """In order of id; empty for a new home."""
    path = home / "dataset" / "categories.json"
    if not path.exists():
        return []
    return [
        Category(c["id"], c["name"], c["state"], tuple(c["aliases"]))
        for c in json.loads(path.read_text())["categories"]
    ]


def categories_json(categories: Sequence[Category]) -> dict[str, Any]:
    return {
        "categories": [
            {"id": c.id, "name": c.name, "state": c.state, "aliases": list(c.aliases)}
            for c in sorted(categories, key=lambda c: c.id)
        ]
    }


def _latest(names: pa.ChunkedArray) -> pa.Array:
    """Positions of the last occurrence of each name, in ascending order."""
    positions = pa.table({"name": names, "position": pa.array(np.arange(len(names)))})
    last = positions.group_by("name").aggregate([("position", "max")])["position_max"]
    return pc.take(last, pc.sort_indices(last))
