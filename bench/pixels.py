"""How long a training waits for its images: 100,000 drawings, in a fresh process each time.

    python -m bench.pixels ../shared/data/quickdraw10

Makes a home of 100,000 images (the real drawings, and their mirrored and turned copies) in ten shards and asks for all
that a training needs: the rows, and where each one's pixels are. `read` is then every pixel once, in a random order,
256 at a time. First nothing is decoded, then all is, then one shard of 10 images is new. The last line is JSON.

2 cores of an AMD EPYC that nothing else used, Python 3.11, seconds without Python's start and imports, median of 5:

    what                                     ready     read
    first time: decodes 100,000 PNG files    3.8 s   0.03 s
    second time                             0.16 s   0.04 s
    10 new images in a shard of their own   0.08 s   0.03 s
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.images import encode_png, name_of
from pipeline import dataset

IMAGES = 100_000
SHARDS = 10
MEASURE = """
import json, sys, time
import numpy as np
from pathlib import Path
from core.images import InputSpec
from pipeline import dataset
started = time.perf_counter()
images = dataset.load(Path(sys.argv[1]), InputSpec("L", 28, 28), ["train", "validation"])
ready = time.perf_counter()
order = np.random.default_rng(1).permutation(len(images))
for at in range(0, len(order), 256):
    images.pixels[order[at : at + 256]]
print(json.dumps([len(images), ready - started, time.perf_counter() - ready]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path, help="a folder of <category>.npy bitmaps")
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        drawings = many(given.source)
        for number, part in enumerate(np.array_split(drawings, SHARDS), 1):
            add_shard(home, number, part)
        found = {"first": [measure(home, anew=True) for _ in range(given.times)]}
        found["second"] = [measure(home) for _ in range(given.times)]
        found["appended"] = []
        for number in range(given.times):
            add_shard(home, SHARDS + 1 + number, 255 - drawings[number * 10 : number * 10 + 10])
            found["appended"].append(measure(home))
    print(
        json.dumps(
            {
                "bench": "pixels",
                "images": IMAGES,
                **{
                    f"{name}_{what}_seconds": round(statistics.median(one[at] for one in all_), 3)
                    for name, all_ in found.items()
                    for what, at in (("ready", 0), ("read", 1))
                },
            }
        )
    )


def many(source: Path) -> NDArray[np.uint8]:
    """IMAGES different drawings, (N, 28, 28)."""
    real = np.concatenate([np.load(file).reshape(-1, 28, 28) for file in sorted(source.glob("*.npy"))])
    views = [real, real[:, :, ::-1], real[:, ::-1], real[:, ::-1, ::-1]]
    found: NDArray[np.uint8] = np.ascontiguousarray(np.concatenate(views)[:IMAGES])
    return found


def add_shard(home: Path, version: int, pixels: NDArray[np.uint8]) -> None:
    path = dataset.shard_path(home, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(pixels)
    columns = {
        "sha256": [name_of(image) for image in pixels],
        "image": dataset.images_column([encode_png(image) for image in pixels]),
        "label": ["cat"] * count,
        "category_id": np.zeros(count, np.int32),
        "split": ["train"] * count,
        "source": ["import"] * count,
        "labelled_at": pa.array(np.zeros(count, np.int64)).cast(pa.timestamp("us", tz="UTC")),
    }
    dataset.write_shard(path, dataset.rows_table(columns, count))


def measure(home: Path, *, anew: bool = False) -> tuple[float, float]:
    """Seconds until ready, and to read all."""
    if anew:
        shutil.rmtree(home / "runs", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(home)], check=True, capture_output=True, text=True
    )
    images, ready, read = json.loads(done.stdout)
    print(f"{images} images ready after {ready:.2f} s, read in {read:.2f} s", flush=True)
    return ready, read


if __name__ == "__main__":
    main()
