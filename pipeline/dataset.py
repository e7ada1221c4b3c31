"""The dataset of a home: append-only Parquet shards that Hugging Face `datasets` can read.

`dataset/images-000012.parquet` is what dataset version 12 added. An image may have several rows, one for each
time it was labelled: the latest wins, and a null label withdraws it. Reading costs what is asked for: columns
are projected and rows filtered before any image is decoded.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.images import InputSpec
from pipeline.near_duplicates import SIGNATURE_BYTES
from pipeline.pixels import Decoded, Images


class _WithoutPandas(MetaPathFinder):
    """Lets pyarrow find no pandas when it first looks.

    The first `pa.array` imports pandas only to ask whether its argument is from there: 0.35 s in each of the
    stages, none of which uses it. Whoever imports pandas later, and pyarrow's `to_pandas`, still can.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def _spare_pandas() -> None:
    finder = _WithoutPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)


_spare_pandas()

SPLITS = ("train", "validation", "holdout", "regression", "excluded")
SOURCES = ("generated", "sample", "import", "correction", "review")

ROW_GROUP = 5_000  # rows; what a reader of a few images has to fetch at least

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("image", _IMAGE),  # PNG, as the model sees it; null only in a row that withdraws
        pa.field("original", _IMAGE),  # PNG of the decoded upload; null when it is the same
        pa.field("label", pa.string()),  # null: withdrawn
        pa.field("category_id", pa.int32()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string()),
        pa.field("actor", pa.string()),  # hashed
        pa.field("correction_id", pa.string()),
        pa.field("import_id", pa.string()),
        pa.field("near_duplicate_of", pa.string()),
        pa.field("signature", pa.binary(SIGNATURE_BYTES)),  # see pipeline.near_duplicates
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

_PLACE = (pa.field("dataset_version", pa.int32()), pa.field("shard_row", pa.int32()))
_REPETITIVE = ["label", "split", "source", "licence", "actor", "import_id"]  # worth a dictionary


@dataclass(frozen=True)
class Category:
    """state: pending (too few images), active, retired. ids are permanent."""

    id: int
    name: str
    state: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """pixels: of N images; category_ids: int32 (N,); table: the other columns, row for row."""

    pixels: Images
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


def rows_table(columns: Mapping[str, object], rows: int, schema: pa.Schema = SCHEMA) -> pa.Table:
    """A table of the dataset's schema; columns that are not given are null."""
    arrays = []
    for field in schema:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(rows, field.type))
        else:
            arrays.append(values if isinstance(values, pa.Array) else pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def images_column(files: Sequence[bytes | None]) -> pa.Array:
    """PNG files as the dataset keeps them; None becomes null."""
    encoded = pa.array(files, pa.binary())
    fields = list(SCHEMA.field("image").type)
    return pa.StructArray.from_arrays(
        [encoded, pa.nulls(len(files), pa.string())], fields=fields, mask=encoded.is_null()
    )


@contextmanager
def shard_writer(path: Path, *, staged_for: InputSpec | None = None) -> Iterator[pq.ParquetWriter]:
    """Writes tables of SCHEMA, on disk (fsync) when the block ends; the caller names the file atomically.

    staged_for: recorded in the footer of an import's staged shard, see `input_of`.
    """
    schema = SCHEMA
    if staged_for is not None:
        footer = json.dumps({"input": asdict(staged_for)}, sort_keys=True)
        schema = schema.with_metadata({**SCHEMA.metadata, "emend": footer})
    with path.open("wb") as file:
        with pq.ParquetWriter(
            file, schema, compression="zstd", compression_level=1, use_dictionary=_REPETITIVE
        ) as writer:
            yield writer
        file.flush()
        os.fsync(file.fileno())


def input_of(schema: pa.Schema) -> InputSpec | None:
    """For which model input a shard was staged; None when its footer does not say."""
    try:
        return InputSpec(**json.loads(schema.metadata[b"emend"])["input"])
    except (KeyError, TypeError, ValueError):
        return None


def write_shard(path: Path, table: pa.Table) -> None:
    """The caller names it atomically (core.storage.replacing)."""
    with shard_writer(path) as writer:
        writer.write_table(table.cast(SCHEMA), row_group_size=ROW_GROUP)


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """ParquetFile, because `pq.read_table` spends longer on importing than on reading a small shard."""
    with pq.ParquetFile(path, memory_map=True) as file:
        return file.read(columns=list(columns))


def read_latest(home: Path, columns: Sequence[str], up_to: int | None = None) -> pa.Table:
    """The latest row of each image, withdrawn ones (null label) too, plus where it stands: `dataset_version`, and
    `shard_row` in its shard."""
    needed = list(dict.fromkeys([*columns, "sha256", "label"]))
    tables = []
    for path in shards(home, up_to):
        table = read_columns(path, needed)
        version = pa.repeat(pa.scalar(shard_version(path), pa.int32()), len(table))
        table = table.append_column("dataset_version", version)
        table = table.append_column("shard_row", pa.array(np.arange(len(table), dtype=np.int32)))
        tables.append(table.replace_schema_metadata())
    if not tables:
        fields = [SCHEMA.field(name) for name in needed]
        return pa.schema([*fields, *_PLACE]).empty_table()
    rows = pa.concat_tables(tables)
    return rows.take(_latest(rows["sha256"])) if len(tables) > 1 else rows


def read_rows(home: Path, columns: Sequence[str], up_to: int | None = None) -> pa.Table:
    """The latest row of each image, without withdrawn ones, plus `dataset_version` and `shard_row`."""
    rows = read_latest(home, columns, up_to)
    return rows.filter(pc.is_valid(rows["label"]))


def load(home: Path, spec: InputSpec, splits: Sequence[str], up_to: int | None = None) -> Labelled:
    """The images of some splits."""
    columns = ["category_id", "split", "source", "actor", "correction_id"]
    rows = read_rows(home, columns, up_to)
    return labelled(home, rows.filter(pc.is_in(rows["split"], pa.array(list(splits)))), spec)


def labelled(home: Path, rows: pa.Table, spec: InputSpec) -> Labelled:
    """`rows` (of `read_rows`, with category_id) and their images."""
    decoded = Decoded(home, spec, [(shard_version(path), path) for path in shards(home)])
    return Labelled(decoded.images(rows), rows["category_id"].to_numpy().astype(np.int32), rows)


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
