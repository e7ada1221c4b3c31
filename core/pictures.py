"""Where a correction's picture is: waiting in the inbox, set aside, or in a dataset version."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.database import Correction
from core.errors import InvalidImage
from core.images import InputSpec, encode_png, fit, name_of, open_image


def inbox_path(data_dir: Path, model: str, label: str, sha256: str) -> Path:
    """label: the correction's, which is its category's name at that time."""
    return data_dir / model / "inbox" / label / f"{sha256}.png"


def original_path(data_dir: Path, model: str, sha256: str) -> Path:
    return data_dir / model / "originals" / sha256[:2] / f"{sha256}.png"


def stored(correction: Correction, data_dir: Path) -> bytes | None:
    """PNG of what the model sees; None: it is in none of these places any more."""
    home, sha256 = data_dir / correction.model, correction.image_sha256
    waiting = inbox_path(data_dir, correction.model, correction.label, sha256)
    for path in (waiting, *home.glob(f"quarantine/*/{sha256}.png")):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            continue
    if correction.dataset_version is None:
        return None
    return in_dataset(home, correction.dataset_version, sha256)


def in_dataset(home: Path, dataset_version: int, sha256: str) -> bytes | None:
    """From the shard that this dataset version added."""
    shard = home / "dataset" / f"images-{dataset_version:06d}.parquet"
    if not shard.is_file():
        return None
    import pyarrow.compute as pc  # half a second and 60 MB, which a gateway that only answers never needs
    import pyarrow.parquet as pq

    rows = pq.read_table(shard, columns=["image"], filters=pc.field("sha256") == sha256).to_pylist()
    images = [row["image"] for row in rows if row["image"] is not None]
    data: bytes | None = images[-1]["bytes"] if images else None
    return data


def from_original(data_dir: Path, model: str, sha256: str, spec: InputSpec) -> bytes | None:
    """Made again from the decoded upload, where that is kept."""
    try:
        pixels = fit(open_image(original_path(data_dir, model, sha256).read_bytes()), spec)
    except (FileNotFoundError, InvalidImage):
        return None
    return encode_png(pixels)


def is_picture(data: bytes, sha256: str) -> bool:
    """Are these the pixels of that name?"""
    try:
        return name_of(np.asarray(open_image(data))) == sha256
    except InvalidImage:
        return False
