"""How well `merge.near_duplicate_similarity` tells copies of an image from other people's drawings of the same thing.

    python bench/near_duplicates.py ../shared/data

Copies are made of each holdout image: shifted by a pixel or two, saved as JPEG, both, and redrawn (scaled up tenfold,
moved by half a pixel, averaged down). Caught is the share of copies found; flagged is the share of images of
different people (all categories, those whose hash falls outside the holdout) that some holdout image is said to be
a copy of. The threshold was chosen on rows 0 to 999 of each Quick, Draw! file; reported are rows 1000 to 2999, and
CIFAR-10's 5,000 test photos, which hold real near-duplicates of each other.

Result (numpy 2.4, 2 cores; Pillow 13), share caught or flagged at a threshold of

                            0.95      0.96      0.97      0.98     0.985
    drawings: flagged      0.08 %    0.04 %    0.03 %    0.01 %    0.00 %   of 18,013; most are rainbows
      shifted 1 or 2        100 %     100 %     100 %     100 %     100 %
      jpeg 40               100 %     100 %     100 %     100 %      99 %
      redrawn               0.6 %     0.2 %     0.1 %     0.0 %     0.0 %
    photos: flagged        0.00 %    0.00 %    0.00 %    0.00 %    0.00 %   of 4,477
      shifted 1              98 %      98 %      98 %      98 %      98 %
      shifted 1, jpeg 60     98 %      98 %      97 %      86 %      73 %
      jpeg 40                98 %      97 %      85 %      64 %      43 %
      redrawn                52 %      33 %      15 %       3 %       1 %

so 0.96: the lowest at which none of the 9,002 images of rows 0 to 999 was flagged. Redrawn line drawings are out of
reach of any threshold on pixels that spares different people's rainbows.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.images import name_of, split_of
from pipeline.near_duplicates import candidates, signatures, similarity

Pictures = NDArray[np.uint8]
THRESHOLDS = (0.9, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99)


def shifted(pictures: Pictures, dy: int, dx: int) -> Pictures:
    """Moved; what comes in at the border is what was there."""
    rows = np.clip(np.arange(pictures.shape[1]) - dy, 0, pictures.shape[1] - 1)
    columns = np.clip(np.arange(pictures.shape[2]) - dx, 0, pictures.shape[2] - 1)
    moved: Pictures = pictures[:, rows][:, :, columns]
    return moved


def saved_as_jpeg(pictures: Pictures, quality: int) -> Pictures:
    return np.stack([_jpeg(picture, quality) for picture in pictures])


def _jpeg(picture: Pictures, quality: int) -> Pictures:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def redrawn(pictures: Pictures) -> Pictures:
    """Ten times as large, half a pixel further, and averaged down again."""
    return np.stack([_redrawn(picture) for picture in pictures])


def _redrawn(picture: Pictures) -> Pictures:
    height, width = picture.shape[:2]
    large = Image.fromarray(picture).resize((10 * width, 10 * height), Image.Resampling.BICUBIC)
    moved = large.transform(large.size, Image.Transform.AFFINE, (1, 0, 4, 0, 1, -5))
    return np.asarray(moved.resize((width, height), Image.Resampling.BOX))


COPIES: dict[str, Callable[[Pictures], Pictures]] = {
    "the same": lambda p: p,
    "shifted 1": lambda p: shifted(p, 1, -1),
    "shifted 2": lambda p: shifted(p, -2, 1),
    "jpeg 75": lambda p: saved_as_jpeg(p, 75),
    "jpeg 40": lambda p: saved_as_jpeg(p, 40),
    "shifted 1, jpeg 60": lambda p: saved_as_jpeg(shifted(p, 1, 1), 60),
    "redrawn": redrawn,
}


def caught(holdout: Pictures, others: Pictures, copies: Pictures) -> NDArray[np.float32]:
    """Similarity of each copy to its own image; 0 where the signatures made no candidate of the pair."""
    left, right = candidates(np.concatenate([signatures(copies), signatures(others)]), signatures(holdout))
    own = left[left == right]  # copies come first and in the holdout's order
    found = np.zeros(len(copies), np.float32)
    found[own] = similarity(copies[own], holdout[own])
    return found


def most_alike(holdout: Pictures, others: Pictures) -> NDArray[np.float32]:
    """Each other image's similarity to the holdout image it resembles most; 0 where there is no candidate."""
    left, right = candidates(signatures(others), signatures(holdout))
    found = np.zeros(len(others), np.float32)
    np.maximum.at(found, left, similarity(others[left], holdout[right]))
    return found


def measure(name: str, pictures: Pictures) -> dict[str, dict[str, float]]:
    _, first = np.unique([name_of(p) for p in pictures], return_index=True)
    pictures = pictures[np.sort(first)]  # exact duplicates are another matter
    in_holdout = np.array([split_of(name_of(p)) == "holdout" for p in pictures])
    holdout, others = pictures[in_holdout], pictures[~in_holdout]
    started = time.perf_counter()
    alike = most_alike(holdout, others)
    seconds = time.perf_counter() - started
    print(f"{name}: {len(others)} images against {len(holdout)} of the holdout, {seconds:.2f} s")
    print("  threshold           " + "".join(f"{t:>9}" for t in THRESHOLDS))
    table = {"flagged": alike}
    table |= {what: caught(holdout, others, change(holdout)) for what, change in COPIES.items()}
    for what, found in table.items():
        print(f"  {what:20}" + "".join(f"{100 * (found >= t).mean():8.2f}%" for t in THRESHOLDS))
    print("  flagged, number     " + "".join(f"{(alike >= t).sum():>9}" for t in THRESHOLDS))
    return {what: {str(t): round(float((f >= t).mean()), 5) for t in THRESHOLDS} for what, f in table.items()}


def drawings(folder: Path, rows: slice) -> Pictures:
    files = sorted((folder / "quickdraw10").glob("*.npy"))
    return np.concatenate([np.load(f, mmap_mode="r")[rows].reshape(-1, 28, 28) for f in files])


def photos(folder: Path) -> Pictures:
    with tarfile.open(folder / "cifar10-test.tar") as tar:
        members = [tar.extractfile(m) for m in tar if m.isreg()]
        return np.stack([np.asarray(Image.open(file)) for file in members if file is not None])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="the folder with quickdraw10/ and cifar10-test.tar")
    data = parser.parse_args().data
    figures = {
        "chosen on": measure("drawings, rows 0 to 999", drawings(data, slice(0, 1000))),
        "drawings": measure("drawings, rows 1000 to 2999", drawings(data, slice(1000, 3000))),
        "photos": measure("photos", photos(data)),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
