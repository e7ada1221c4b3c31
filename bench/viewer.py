"""How fast the viewer's back end answers: a run's report, images by hash, pages of added images.

    .venv/bin/python -m bench.viewer

Needs no database: it measures what reads files, in a home with 100,000 images in one shard and 30,000 judged ones in a
run's reports. Results: docs/viewer.md.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from core.images import encode_png
from pipeline import dataset, reports
from viewer.pictures import Pictures, read_index

IMAGES = 100_000
JUDGED = 30_000
CATEGORIES = [f"category {number}" for number in range(10)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "doodles"
        names = write_shard(home)
        write_reports(home)
        shard = dataset.shard_path(home, 1)
        measure("index of 100,000 hashes, once", lambda: read_index(shard), 5)
        pictures = Pictures(Path(folder))
        rng = np.random.default_rng(0)
        chosen = [names[i] for i in rng.integers(0, IMAGES, 200)]
        measure(
            "first image by hash, index included", lambda: Pictures(Path(folder)).png("doodles", names[5]), 5
        )
        each = iter(chosen)
        measure("image by hash, anywhere in the dataset", lambda: pictures.png("doodles", next(each)), 200)
        near = iter(names[-400:])
        measure("image by hash, beside the one before", lambda: pictures.png("doodles", next(near)), 400)
        missing = iter(f"{i:064x}" for i in range(200))
        measure("a hash that is not there", lambda: pictures.png("photos", next(missing)), 200)

        def of_files() -> None:
            files = reports.Files.of(home, 1, [])
            per_class = files.csv("per_class.csv")
            assert reports.categories(per_class or [], {})
            assert reports.confusion(files, per_class)

        measure("reports of a run with 30,000 judged images", of_files, 10)


def measure(what: str, work: Callable[[], object], times: int) -> None:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    print(
        f"{what}: median {1000 * statistics.median(seconds):.2f} ms, slowest {1000 * max(seconds):.1f} ms of {times}"
    )


def write_shard(home: Path) -> list[str]:
    (home / "dataset").mkdir(parents=True)
    rng = np.random.default_rng(1)
    pngs = []
    for _ in range(1_000):
        pixels = np.zeros((28, 28), np.uint8)
        pixels[4:24, 4:24] = rng.integers(0, 2, (20, 20), np.uint8) * 255
        pngs.append(encode_png(pixels))
    names = [rng.bytes(32).hex() for _ in range(IMAGES)]
    columns = {
        "sha256": names,
        "image": dataset.images_column([pngs[i % len(pngs)] for i in range(IMAGES)]),
        "label": [CATEGORIES[i % 10] for i in range(IMAGES)],
        "category_id": [i % 10 for i in range(IMAGES)],
        "split": ["train"] * IMAGES,
        "source": ["import"] * IMAGES,
        "labelled_at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * IMAGES, pa.timestamp("us", tz="UTC")),
    }
    dataset.write_shard(dataset.shard_path(home, 1), dataset.rows_table(columns, IMAGES))
    return names


def write_reports(home: Path) -> None:
    rng = np.random.default_rng(2)
    (home / "reports").mkdir()
    pairs = sorted(
        zip(rng.integers(0, 10, JUDGED).tolist(), rng.integers(0, 10, JUDGED).tolist(), strict=True)
    )
    lines = "".join(f"{CATEGORIES[a]},{CATEGORIES[p]}\n" for a, p in pairs)
    (home / "reports" / "confusion.csv").write_text("actual,predicted\n" + lines)
    header = "category,holdout_images,recall,recall_low,recall_high,champion_recall,generated_images"
    rows = "".join(f"{name},3000,0.9,0.89,0.91,0.88,0\n" for name in CATEGORIES)
    (home / "reports" / "per_class.csv").write_text(f"{header}\n{rows}")
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-C", str(home)]
    for arguments in (
        ["init", "--quiet"],
        ["add", "reports"],
        ["commit", "--quiet", "-m", "run 1"],
        ["tag", "run-1"],
    ):
        subprocess.run([*git, *arguments], check=True)


if __name__ == "__main__":
    main()
