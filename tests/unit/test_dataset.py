import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.images import InputSpec, encode_png, name_of
from pipeline import dataset
from pipeline.dataset import Category
from pipeline.near_duplicates import SIGNATURE_BYTES

SPEC = InputSpec("L", 8, 8)


def picture(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)


def row(number: int, label: str | None = "cat", split: str = "train", **more: Any) -> dict[str, Any]:
    pixels = picture(number)
    return {
        "sha256": name_of(pixels),
        "image": None if label is None else {"bytes": encode_png(pixels)},
        "label": label,
        "category_id": {"cat": 0, "dog": 1, None: None}[label],
        "split": split,
        "source": "import",
        "labelled_at": datetime(2026, 1, 1, tzinfo=UTC),
        **more,
    }


def add_shard(home: Path, version: int, *rows: dict[str, Any]) -> None:
    path = dataset.shard_path(home, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.write_shard(path, pa.Table.from_pylist(list(rows), dataset.SCHEMA))


def test_an_empty_home_has_no_rows(tmp_path: Path) -> None:
    assert len(dataset.read_rows(tmp_path, ["split"])) == 0
    assert len(dataset.load(tmp_path, SPEC, ["train"])) == 0
    assert dataset.read_categories(tmp_path) == []
    assert dataset.shards(tmp_path) == []


def test_the_latest_row_of_an_image_wins(tmp_path: Path) -> None:
    add_shard(tmp_path, 1, row(1, "cat"), row(2, "cat"), row(3, "dog"))
    add_shard(tmp_path, 2, row(2, "dog"), row(4, "dog"))
    add_shard(tmp_path, 3, row(3, None))
    rows = dataset.read_rows(tmp_path, ["category_id"])
    found = {r["sha256"]: (r["label"], r["dataset_version"]) for r in rows.to_pylist()}
    assert found == {
        name_of(picture(1)): ("cat", 1),
        name_of(picture(2)): ("dog", 2),
        name_of(picture(4)): ("dog", 2),
    }
    assert len(dataset.read_latest(tmp_path, [])) == 4  # with the withdrawn one
    labelled = dataset.load(tmp_path, SPEC, ["train"])
    assert dict(zip(labelled.table["sha256"].to_pylist(), labelled.category_ids, strict=True)) == {
        name_of(picture(1)): 0,
        name_of(picture(2)): 1,
        name_of(picture(4)): 1,
    }


def test_an_earlier_dataset_version_can_be_read(tmp_path: Path) -> None:
    add_shard(tmp_path, 1, row(1, "cat"))
    add_shard(tmp_path, 2, row(1, "dog"), row(2, "dog"))
    assert dataset.read_rows(tmp_path, [], up_to=1)["label"].to_pylist() == ["cat"]
    assert [dataset.shard_version(p) for p in dataset.shards(tmp_path)] == [1, 2]


def test_only_the_splits_asked_for_are_loaded(tmp_path: Path) -> None:
    add_shard(tmp_path, 1, row(1), row(2, split="holdout"), row(3, split="excluded"), row(4, "dog"))
    labelled = dataset.load(tmp_path, SPEC, ["holdout", "train"])
    assert np.array_equal(labelled.pixels[:], np.stack([picture(1), picture(2), picture(4)]))
    assert labelled.category_ids.tolist() == [0, 0, 1]


def test_colour_images_are_decoded(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    add_shard(tmp_path, 1, row(1) | {"sha256": name_of(pixels), "image": {"bytes": encode_png(pixels)}})
    assert np.array_equal(dataset.load(tmp_path, InputSpec("RGB", 6, 4), ["train"]).pixels[:][0], pixels)


def test_a_shard_shows_its_pictures_to_hugging_face(tmp_path: Path) -> None:
    add_shard(tmp_path, 1, row(1, signature=bytes(SIGNATURE_BYTES)))
    schema = pq.read_schema(dataset.shard_path(tmp_path, 1))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_categories_survive_their_file(tmp_path: Path) -> None:
    categories = [Category(1, "dog", "pending", ("hound",)), Category(0, "cat", "active")]
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "categories.json").write_text(json.dumps(dataset.categories_json(categories)))
    assert dataset.read_categories(tmp_path) == sorted(categories, key=lambda c: c.id)


def test_a_shard_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for version in (1, 2):
        add_shard(tmp_path, version, row(1), row(2, "dog"))
    assert dataset.shard_path(tmp_path, 1).read_bytes() == dataset.shard_path(tmp_path, 2).read_bytes()


def test_pandas_is_not_imported_but_can_be() -> None:
    code = """
import sys, io
from pipeline import dataset
import pyarrow as pa
pa.array([1]); assert "pandas" not in sys.modules
assert pa.table({"a": [1]}).to_pandas()["a"].tolist() == [1]
import pandas
assert pa.Table.from_pandas(pandas.DataFrame({"a": [1, 2]})).num_rows == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_pillow_reads_what_a_shard_holds(tmp_path: Path) -> None:
    from PIL import Image

    add_shard(tmp_path, 1, row(5))
    encoded = pq.read_table(dataset.shard_path(tmp_path, 1))["image"][0].as_py()["bytes"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded))), picture(5))
