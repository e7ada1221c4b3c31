"""The staged shard: what an import leaves for the next run, written once and whole.

Its rows are the dataset's, labelled but without category ids and splits that only a run can settle; its footer
says for which model input it was made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uuid_utils
from numpy.typing import NDArray
from PIL import Image

from core import labels
from core.errors import EmendError, InvalidImage, InvalidLabel
from core.images import Decoded, InputSpec, encode_png, fit, from_file, name_of, split_of
from core.storage import replacing
from pipeline import dataset
from pipeline.near_duplicates import signatures

Progress = Callable[[int], None]  # called with the number of pictures done so far

MAX_NAMED = 1_000  # bad files named; all are counted
FLUSH_ROWS = dataset.ROW_GROUP
FLUSH_BYTES = 64 * 2**20  # originals are large: what may wait in memory


class ImportFailed(EmendError):
    """Nothing of the import can be used; the message says why and what to do."""

    status = 400
    code = "import_failed"


@dataclass(frozen=True)
class BadFile:
    """A file, row or folder that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class StagedImport:
    """file: relative to the home. categories: pictures of each label. bad: the first MAX_NAMED of bad_count.

    contradictions: likewise, of the pictures that came before in this import under another label. They are staged
    too; of one import's rows the merge stage takes the first.
    """

    id: str
    file: str
    images: int
    source: str
    categories: Mapping[str, int]
    bad: tuple[BadFile, ...]
    bad_count: int
    contradictions: tuple[BadFile, ...]
    contradiction_count: int


@dataclass(frozen=True)
class Prepared:
    """A picture ready for a shard. png: as the model sees it. original: PNG, None when it is the same."""

    sha256: str
    png: bytes
    original: bytes | None
    signature: bytes


class Staging:
    """A shard being written. Rows keep the order in which they are added."""

    def __init__(self, writer: pq.ParquetWriter, import_id: str, source: str, licence: str | None) -> None:
        self.categories: Counter[str] = Counter()
        self.bad: list[BadFile] = []
        self.bad_count = 0
        self.contradictions: list[BadFile] = []
        self.contradiction_count = 0
        self._first_label: dict[int, str] = {}  # by 64 bits of the image's name: 0.2 GB for a million images
        self._id, self._source = import_id, source
        self._writer = writer
        self._constant = {"source": source, "licence": licence, "import_id": import_id}
        self._labelled_at = datetime.now(UTC)
        self._waiting: list[tuple[str, Prepared]] = []
        self._waiting_bytes = 0

    def add(self, label: str, picture: Prepared, name: str) -> None:
        """name: as a person knows it, for when the same picture came before under another label."""
        first = self._first_label.setdefault(int(picture.sha256[:16], 16), label)
        if first != label and labels.key_of(first) != labels.key_of(label):
            self.contradiction_count += 1
            _name(self.contradictions, name, f"is {label} here, but the same image came before as {first}")
        self.categories[label] += 1
        self._waiting.append((label, picture))
        self._waiting_bytes += len(picture.png) + len(picture.original or b"")
        if len(self._waiting) >= FLUSH_ROWS or self._waiting_bytes >= FLUSH_BYTES:
            self.flush()

    def reject(self, name: str, reason: str, count: int = 1) -> None:
        """name: as found; what a terminal might obey in it is replaced."""
        self.bad_count += count
        _name(self.bad, name, reason)

    def flush(self) -> None:
        if self._waiting:
            self._writer.write_table(self._table(), row_group_size=FLUSH_ROWS)
        self._waiting, self._waiting_bytes = [], 0

    def result(self) -> StagedImport:
        return StagedImport(
            id=self._id,
            file=f"imports/{self._id}.parquet",
            images=self.categories.total(),
            source=self._source,
            categories=dict(sorted(self.categories.items())),
            bad=tuple(self.bad),
            bad_count=self.bad_count,
            contradictions=tuple(self.contradictions),
            contradiction_count=self.contradiction_count,
        )

    def _table(self) -> pa.Table:
        pictures = [picture for _, picture in self._waiting]
        columns = {
            "sha256": [p.sha256 for p in pictures],
            "image": dataset.images_column([p.png for p in pictures]),
            "original": dataset.images_column([p.original for p in pictures]),
            "label": [label for label, _ in self._waiting],
            "split": [split_of(p.sha256) for p in pictures],
            "signature": [p.signature for p in pictures],
            "labelled_at": [self._labelled_at] * len(pictures),
            **{name: [value] * len(pictures) for name, value in self._constant.items()},
        }
        return dataset.rows_table(columns, len(pictures), self._writer.schema)


def _name(among: list[BadFile], name: str, reason: str) -> None:
    if len(among) < MAX_NAMED:
        printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
        among.append(BadFile(printable, reason))


@contextmanager
def staging(home: Path, spec: InputSpec, source: str, licence: str | None) -> Iterator[Staging]:
    """A shard that appears in `imports/` when the block ends well; else nothing is left.

    Raises ImportFailed when no picture was added.
    """
    import_id = str(uuid_utils.uuid7())
    with (
        replacing(import_path(home, import_id)) as path,
        dataset.shard_writer(path, staged_for=spec) as writer,
    ):
        shard = Staging(writer, import_id, source, licence)
        yield shard
        shard.flush()
        if not shard.categories:
            first = "; ".join(f"{b.name}: {b.reason}" for b in shard.bad[:3]) or "it is empty"
            raise ImportFailed(f"nothing here can be imported ({first})")


def import_path(home: Path, import_id: str) -> Path:
    return home / "imports" / f"{import_id}.parquet"


def stage_pixels(
    home: Path,
    spec: InputSpec,
    pixels: Mapping[str, NDArray[np.uint8]],
    *,
    source: str,
    licence: str | None = None,
) -> StagedImport:
    """Pictures that are there as pixels, label to (N, H, W[, 3]): for the starter's drawings."""
    with staging(home, spec, source, licence) as shard:
        for label, images in sorted(pixels.items()):
            for number, picture in enumerate(prepare_pixels(images, spec)):
                shard.add(labels.normalise(label), picture, f"{label} {number}")
    return shard.result()


def prepare_pixels(images: NDArray[np.uint8], spec: InputSpec) -> list[Prepared]:
    """Bitmaps, (N, H, W) or (N, H, W, 3), fitted to the model's input; the original is kept when that changes it."""
    if images.shape[1:] == spec.shape:
        fitted, originals = images, None
    else:
        fitted = np.stack([fit(Image.fromarray(image), spec) for image in images])
        originals = [encode_png(image) for image in images]
    marks = signatures(fitted)
    return [
        Prepared(name_of(image), encode_png(image), originals[i] if originals else None, marks[i].tobytes())
        for i, image in enumerate(fitted)
    ]


def prepare_files(files: Sequence[bytes], spec: InputSpec) -> list[Prepared | str]:
    """Each file ready for a shard, or the reason why it cannot be."""
    decoded = [_decode(data, spec) for data in files]
    good = [d for d in decoded if not isinstance(d, str)]
    marks = iter(signatures(np.stack([d.pixels for d in good])) if good else ())
    return [
        d
        if isinstance(d, str)
        else Prepared(
            d.sha256,
            encode_png(d.pixels),
            None if d.original is None else encode_png(d.original),
            next(marks).tobytes(),
        )
        for d in decoded
    ]


def _decode(data: bytes, spec: InputSpec) -> Decoded | str:
    try:
        return from_file(data, spec)
    except InvalidImage as exc:
        return exc.message


def checked_label(name: str) -> str:
    """The label a file or folder name stands for. Raises InvalidLabel."""
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise InvalidLabel("label is not valid Unicode; rename it") from exc
    return labels.normalise(name)
