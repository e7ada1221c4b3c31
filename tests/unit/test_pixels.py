"""Images decoded once, beside the shards they come from."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from core.images import InputSpec, encode_png, name_of
from pipeline import dataset

SPEC = InputSpec("L", 8, 8)


def picture(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)


def row(number: int, label: str | None = "cat") -> dict[str, Any]:
    return {
        "sha256": name_of(picture(number)),
        "image": None if label is None else {"bytes": encode_png(picture(number)), "path": None},
        "label": label,
        "category_id": None if label is None else 0,
        "split": "train",
        "source": "import",
        "labelled_at": 0,
    }


def add_shard(home: Path, version: int, *rows: dict[str, Any]) -> Path:
    path = dataset.shard_path(home, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    with dataset.shard_writer(path) as writer:
        for start in range(0, len(rows), 10):  # several row groups
            writer.write_table(pa.Table.from_pylist(list(rows[start : start + 10]), dataset.SCHEMA))
    return path


def read(home: Path) -> list[str]:
    """The name of each image, from its pixels; every one must be its row's."""
    images = dataset.load(home, SPEC, ["train"])
    names = [name_of(image) for image in images.pixels[:]]
    assert names == images.table["sha256"].to_pylist()
    return names


def stored(home: Path) -> Path:
    return home / "runs" / ".pixels" / "L-8x8" / "pixels"


def test_every_row_finds_its_image_whatever_shard_and_row_group_it_is_in(tmp_path: Path) -> None:
    add_shard(tmp_path, 1, *(row(number) for number in range(25)))
    add_shard(tmp_path, 3, row(7, None), row(99), row(3))  # taken back, new, said again
    assert set(read(tmp_path)) == {name_of(picture(n)) for n in (*range(25), 99)} - {name_of(picture(7))}
    images = dataset.load(tmp_path, SPEC, ["train"])
    chosen = images.pixels.take(np.array([20, 3, 3]))
    assert chosen.shape == (3, 8, 8)
    assert np.array_equal(chosen[np.array([0, 2])], images.pixels[:][[20, 3]])


def test_a_new_shard_is_appended_and_nothing_is_decoded_twice(tmp_path: Path) -> None:
    add_shard(tmp_path, 1, *(row(number) for number in range(12)))
    read(tmp_path)
    inode, marked = stored(tmp_path).stat().st_ino, bytes(12 * 64)
    stored(tmp_path).write_bytes(marked)  # decoded again, it would be other bytes
    add_shard(tmp_path, 2, row(50))
    for _ in range(2):
        dataset.load(tmp_path, SPEC, ["train"])
        assert stored(tmp_path).read_bytes() == marked + picture(50).tobytes()
        assert stored(tmp_path).stat().st_ino == inode


def test_a_shard_that_was_rewritten_is_decoded_anew_and_who_reads_the_old_one_goes_on(tmp_path: Path) -> None:
    add_shard(tmp_path, 1, *(row(number) for number in range(12)))
    add_shard(tmp_path, 2, row(50))
    old = dataset.load(tmp_path, SPEC, ["train"]).pixels
    dataset.shard_path(tmp_path, 1).unlink()
    add_shard(tmp_path, 1, row(1), row(2))
    assert read(tmp_path) == [name_of(picture(n)) for n in (1, 2, 50)]
    assert stored(tmp_path).stat().st_size == 3 * 64
    assert name_of(old[:][11]) == name_of(picture(11))


@pytest.mark.parametrize("left", [b"", b"\0" * 7, b"\0" * 700])
def test_what_a_killed_process_left_is_no_image(tmp_path: Path, left: bytes) -> None:
    add_shard(tmp_path, 1, row(1))
    read(tmp_path)
    add_shard(tmp_path, 2, row(2), row(3))
    with stored(tmp_path).open("ab") as file:  # it was appending shard 2
        file.write(left)
    assert read(tmp_path) == [name_of(picture(n)) for n in (1, 2, 3)]


@pytest.mark.parametrize("left_bytes", [0, 70])
def test_a_file_that_was_cut_off_costs_time_only(tmp_path: Path, left_bytes: int) -> None:
    add_shard(tmp_path, 1, row(1), row(2))
    read(tmp_path)
    stored(tmp_path).write_bytes(stored(tmp_path).read_bytes()[:left_bytes])
    assert read(tmp_path) == [name_of(picture(1)), name_of(picture(2))]


@pytest.mark.parametrize("index", ["", "{}", '{"shards": [{"version": 1}]}'])
def test_an_index_that_cannot_be_read_costs_time_only(tmp_path: Path, index: str) -> None:
    add_shard(tmp_path, 1, row(1), row(2))
    read(tmp_path)
    (stored(tmp_path).parent / "index.json").write_text(index)
    assert read(tmp_path) == [name_of(picture(1)), name_of(picture(2))]


def test_many_at_once_decode_once(tmp_path: Path) -> None:
    add_shard(tmp_path, 1, *(row(number) for number in range(40)))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: read(tmp_path), range(4)))
    assert all(names == found[0] for names in found)
    assert stored(tmp_path).stat().st_size == 40 * 64


def test_a_home_without_images_has_none(tmp_path: Path) -> None:
    assert read(tmp_path) == []
    add_shard(tmp_path, 1, row(1, None))
    assert read(tmp_path) == []


MEMORY = """
import resource, sys
import numpy as np
from pathlib import Path
from core.images import InputSpec
from pipeline import dataset

images = dataset.load(Path(sys.argv[1]), InputSpec("RGB", 256, 256), ["train"]).pixels
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rng = np.random.default_rng(1)
for _ in range(20):
    images[rng.integers(0, 10, 4)].sum()
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(len(images), len(images) * 256 * 256 * 3, grown * 1024)
"""


def test_images_are_not_held_in_memory(tmp_path: Path) -> None:
    shape = (256, 256, 3)
    some = [np.random.default_rng(n).integers(0, 256, shape, dtype=np.uint8) for n in range(4)]
    files = [encode_png(pixels_) for pixels_ in some]
    rows = [
        {**row(n), "sha256": f"{n:064}", "image": {"bytes": files[n % 4], "path": None}} for n in range(400)
    ]
    add_shard(tmp_path, 1, *rows)
    dataset.load(tmp_path, InputSpec("RGB", 256, 256), ["train"])
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    images, all_bytes, grown_bytes = (int(n) for n in done.stdout.split())
    assert images == 400
    assert grown_bytes < all_bytes / 4
