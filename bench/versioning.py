"""What it costs to version ten new images in a home that has many.

    .venv/bin/python -m bench.versioning HOME IMAGES

Makes the home with that many noise images in ten shards, versions them, then adds ten more as the merge and
version stages do, in new processes. Prints one JSON line last. Used by bench/loop.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from core.images import encode_png, name_of, split_of
from core.storage import replacing, write_json
from pipeline import dataset, workspace

SHARDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("images", type=int)
    arguments = parser.parse_args()
    home: Path = arguments.home.resolve()
    workspace.create_home(home, workspace.PRESETS["doodles"].read_text())
    rng = np.random.default_rng(1)
    for number in range(1, SHARDS + 1):
        write_noise_shard(dataset.shard_path(home, number), arguments.images // SHARDS, rng)
    categories = [dataset.Category(0, "noise", "active")]
    write_json(home / "dataset" / "categories.json", dataset.categories_json(categories))
    workspace.record_dataset(home, SHARDS, "many images")

    write_noise_shard(dataset.shard_path(home, SHARDS + 1), 10, rng)
    record = (
        "from pathlib import Path; from pipeline import workspace; "
        f"workspace.record_dataset(Path({str(home)!r}), {SHARDS + 1}, 'ten more')"
    )
    versioning_seconds = _seconds([sys.executable, "-c", record])
    # `dvc root` does nothing but start DVC and open the repository.
    dvc_seconds = min(_seconds([sys.executable, "-m", "dvc", "--cd", str(home), "root"]) for _ in range(3))
    print(
        json.dumps(
            {
                "versioned_images": arguments.images,
                "versioning_seconds": round(versioning_seconds, 2),
                "dvc_start_seconds": round(dvc_seconds, 2),
                "versioning_seconds_beyond_dvc": round(versioning_seconds - dvc_seconds, 2),
            }
        )
    )


def write_noise_shard(path: Path, images: int, rng: np.random.Generator) -> None:
    rows = []
    for pixels in rng.integers(0, 256, (images, 28, 28), np.uint8):
        sha256 = name_of(pixels)
        rows.append(
            {
                "sha256": sha256,
                "image": {"bytes": encode_png(pixels), "path": f"{sha256}.png"},
                "label": "noise",
                "category_id": 0,
                "split": split_of(sha256),
                "source": "import",
                "import_id": str(uuid.UUID(int=1)),
                "labelled_at": datetime(2026, 1, 1, tzinfo=UTC),
            }
        )
    with replacing(path) as temporary:
        dataset.write_shard(temporary, pa.Table.from_pylist(rows, schema=dataset.SCHEMA))


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
