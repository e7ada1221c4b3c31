"""Where a correction's picture is: waiting in the inbox, set aside, in a dataset version, or in the object store.

With an object store (STORAGE_URL) every accepted picture is there before its correction is answered, under its hash:
gateways need no disk in common, and a run fetches what waits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core import objects
from core.errors import InvalidImage
from core.images import InputSpec, encode_png, fit, name_of, open_image

if TYPE_CHECKING:
    from core.database import Correction


def inbox_path(data_dir: Path, model: str, label: str, sha256: str) -> Path:
    """label: the correction's, which is its category's name at that time."""
    return data_dir / model / "inbox" / label / f"{sha256}.png"


def original_path(data_dir: Path, model: str, sha256: str) -> Path:
    return data_dir / model / "originals" / sha256[:2] / f"{sha256}.png"


def stored_name(model: str, sha256: str) -> str:
    """What the model sees, in the object store."""
    return f"{model}/images/{sha256[:2]}/{sha256}.png"


def stored_original_name(model: str, sha256: str) -> str:
    return f"{model}/originals/{sha256[:2]}/{sha256}.png"


def send(model: str, sha256: str, png: bytes, original_png: bytes | None) -> None:
    """To the object store, if there is one. Raises StoreUnavailable; what it then holds harms nobody."""
    store = objects.store()
    if store is None:
        return
    if original_png is not None:
        store.put(stored_original_name(model, sha256), original_png)
    store.put(stored_name(model, sha256), png)


def waits_on_disk(data_dir: Path, model: str) -> bool:
    """False for a gateway that shares no disk with the pipeline: the object store is where its corrections wait."""
    return objects.store() is None or (data_dir / model / "params.yaml").exists()


def stored(correction: Correction, data_dir: Path) -> bytes | None:
    """PNG of what the model sees; None: it is in none of these places any more."""
    home, sha256 = data_dir / correction.model, correction.image_sha256
    waiting = inbox_path(data_dir, correction.model, correction.label, sha256)
    for path in (waiting, *home.glob(f"quarantine/*/{sha256}.png")):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            continue
    found = None
    if correction.dataset_version is not None:
        found = in_dataset(home, correction.dataset_version, sha256)
    store = objects.store()
    if found is None and store is not None:
        found = store.get(stored_name(correction.model, sha256))
    return found


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
    store = objects.store()
    data: bytes | None
    try:
        data = original_path(data_dir, model, sha256).read_bytes()
    except FileNotFoundError:
        data = store.get(stored_original_name(model, sha256)) if store is not None else None
    if data is None:
        return None
    try:
        return encode_png(fit(open_image(data), spec))
    except InvalidImage:
        return None


def is_picture(data: bytes, sha256: str) -> bool:
    """Are these the pixels of that name?"""
    try:
        return name_of(np.asarray(open_image(data))) == sha256
    except InvalidImage:
        return False
