"""Stage 2: every new picture decoded, checked, and as the model sees it, in one file.

    python -m pipeline.stages.convert --home data/doodles --run 12

Writes `runs/<run>/converted.parquet`: first the imports' rows in the manifest's order, then the corrections' in
the order they were received. A picture that cannot be read is copied to `quarantine/unreadable/` and named in the
result; the run goes on. An import staged for this model's input is copied without decoding it: our own importer
decoded it and computed its hashes.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import labels
from core.errors import InvalidImage
from core.images import InputSpec, Pixels, encode_png, fit, name_of, open_image, split_of
from core.storage import replacing
from pipeline import dataset
from pipeline.near_duplicates import signatures
from pipeline.stages import Result, StageRun, main
from pipeline.stages.ingest import inbox_path

Entry = dict[str, Any]  # of the manifest


class _Unreadable(Exception):
    """One picture cannot be used; the message says why."""


class _Categories:
    """Labels to ids: names before aliases, and those in use before the retired."""

    def __init__(self, categories: Sequence[Entry]) -> None:
        self.names = {c["id"]: c["name"] for c in categories}
        ranked = sorted(categories, key=lambda c: (c["state"] != "retired", c["id"]))
        aliases = {labels.key_of(alias): c["id"] for c in ranked for alias in c["aliases"]}
        retired = {labels.key_of(c["name"]): c["id"] for c in ranked if c["state"] == "retired"}
        used = {labels.key_of(c["name"]): c["id"] for c in ranked if c["state"] != "retired"}
        self._ids = {**retired, **aliases, **used}

    def id_of(self, label: str) -> int | None:
        return self._ids.get(labels.key_of(label))


@dataclass(frozen=True)
class _Converted:
    """A correction's picture. png, original: None only for a withdrawal whose picture is gone."""

    correction: Entry
    sha256: str
    pixels: Pixels | None
    png: bytes | None
    original: bytes | None


def convert(stage: StageRun) -> Result:
    """Decodes and checks what the manifest names; unreadable pictures go to quarantine."""
    categories = _Categories(stage.manifest["categories"])
    missing = stage.result_of("ingest")["missing"]
    gone = {m["correction_id"] or m["import_id"] for m in missing}
    quarantined: list[Entry] = []
    unknown: Counter[str] = Counter()
    written = 0
    with (
        replacing(stage.folder / "converted.parquet") as path,
        dataset.shard_writer(path) as writer,
    ):
        for item in stage.manifest["imports"]:
            if item["id"] in gone:
                continue
            for rows in _import(stage, item, quarantined):
                known = _with_categories(rows, categories, unknown)
                writer.write_table(known)
                written += len(known)
        corrections = [c for c in stage.manifest["corrections"] if c["id"] not in gone]
        rows = _corrections(stage, corrections, categories, quarantined)
        if len(rows):
            writer.write_table(rows)
    unreadable = len(quarantined)
    quarantined += [
        _quarantined(
            f"{m['file']} {m['reason']}", None, correction_id=m["correction_id"], import_id=m["import_id"]
        )
        for m in missing
    ]
    for entry in quarantined:
        print(f"quarantined: {entry['correction_id'] or entry['import_id']}: {entry['reason']}")
    for label, count in sorted(unknown.items()):
        print(f"left out: {count} images of {label!r}, which the model has no category for")
    figures = {
        "converted": written + len(rows),
        "corrections": len(rows),
        "import_images": written,
        "unreadable": unreadable,
        "unknown_labels": unknown.total(),
    }
    print(figures)
    return Result(figures, data={"quarantined": quarantined, "unknown_labels": dict(sorted(unknown.items()))})


# --- corrections


def _corrections(
    stage: StageRun, corrections: Sequence[Entry], categories: _Categories, quarantined: list[Entry]
) -> pa.Table:
    spec = stage.params.input.spec
    found = []
    for correction in sorted(corrections, key=lambda c: (c["received_at"], c["id"])):
        try:
            found.append(_correction(stage.home, correction, spec))
        except _Unreadable as exc:
            sha = correction["image_sha256"]
            _set_aside(inbox_path(stage.home, correction), stage.home, f"{sha}.png")
            quarantined.append(_quarantined(str(exc), sha, correction_id=correction["id"]))
    columns = {
        "sha256": [c.sha256 for c in found],
        "image": dataset.images_column([c.png for c in found]),
        "original": dataset.images_column([c.original for c in found]),
        "label": [_label(c.correction, categories) for c in found],
        "category_id": [c.correction["category_id"] for c in found],
        "split": [split_of(c.sha256) for c in found],
        "source": [c.correction["source"] for c in found],
        "licence": [c.correction["licence"] for c in found],
        "actor": [c.correction["actor"] for c in found],
        "correction_id": [c.correction["id"] for c in found],
        "signature": [None if c.pixels is None else signatures(c.pixels[None])[0].tobytes() for c in found],
        "labelled_at": [datetime.fromisoformat(c.correction["received_at"]) for c in found],
    }
    return dataset.rows_table(columns, len(found))


def _correction(home: Path, correction: Entry, spec: InputSpec) -> _Converted:
    path = inbox_path(home, correction)
    sha = correction["image_sha256"]
    if correction["withdrawn"]:
        return _Converted(correction, sha, None, None, None)
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise _Unreadable(f"cannot be read: {exc.strerror}") from exc
    try:
        pixels = np.asarray(open_image(data))
    except InvalidImage as exc:
        raise _Unreadable(exc.message) from exc
    if name_of(pixels) != sha:
        raise _Unreadable("the pixels in the inbox are not the ones that were accepted")
    original = home / "originals" / sha[:2] / f"{sha}.png"
    original_png = original.read_bytes() if original.is_file() else None
    if pixels.shape == spec.shape:
        return _Converted(correction, sha, pixels, data, original_png)
    return _refitted(correction, original_png or data, spec)


def _refitted(correction: Entry, original: bytes, spec: InputSpec) -> _Converted:
    """The model's input has changed since the correction was accepted: fit it anew."""
    try:
        pixels = fit(open_image(original), spec)
    except InvalidImage as exc:
        raise _Unreadable(exc.message) from exc
    return _Converted(correction, name_of(pixels), pixels, encode_png(pixels), original)


def _label(correction: Entry, categories: _Categories) -> str | None:
    """The category's present name; null withdraws."""
    if correction["withdrawn"]:
        return None
    return categories.names.get(correction["category_id"], correction["label"])


# --- imports


def _import(stage: StageRun, item: Entry, quarantined: list[Entry]) -> Iterator[pa.Table]:
    """An import's rows, a few thousand at a time, fitted anew when it was staged for another input."""
    path = stage.home / item["file"]
    try:
        with pq.ParquetFile(path) as file:
            spec = _checked_footer(file, item)
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                if spec != stage.params.input.spec:
                    rows = _fitted_anew(rows, stage.params.input.spec, stage.home, item, quarantined)
                yield rows
    except (pa.ArrowInvalid, OSError, _Unreadable) as exc:
        _set_aside(path, stage.home, path.name)
        quarantined.append(_quarantined(f"staged import: {exc}", None, import_id=item["id"]))


def _checked_footer(file: pq.ParquetFile, item: Entry) -> InputSpec:
    spec = dataset.input_of(file.schema_arrow)
    if spec is None or not file.schema_arrow.equals(dataset.SCHEMA):
        raise _Unreadable("is not a shard that an import of this version staged; import it again")
    if file.metadata.num_rows != item["images"]:
        raise _Unreadable(f"has {file.metadata.num_rows} images instead of {item['images']}; import it again")
    return spec


def _fitted_anew(
    rows: pa.Table, spec: InputSpec, home: Path, item: Entry, quarantined: list[Entry]
) -> pa.Table:
    from pipeline.imports.staging import prepare_files  # seldom needed, and slow to import

    originals = pc.coalesce(_bytes_of(rows["original"]), _bytes_of(rows["image"])).to_pylist()
    prepared = prepare_files(originals, spec)
    for name, original, picture in zip(rows["sha256"].to_pylist(), originals, prepared, strict=True):
        if isinstance(picture, str):
            target = home / "quarantine" / "unreadable" / f"{name}.png"
            with replacing(target) as temporary:
                temporary.write_bytes(original)
            quarantined.append(_quarantined(picture, name, import_id=item["id"]))
    good = [not isinstance(p, str) for p in prepared]
    pictures = [p for p in prepared if not isinstance(p, str)]
    kept = rows.filter(pa.array(good, pa.bool_()))
    columns = {name: kept[name].combine_chunks() for name in kept.column_names}
    columns |= {
        "sha256": pa.array([p.sha256 for p in pictures], pa.string()),
        "image": dataset.images_column([p.png for p in pictures]),
        "original": dataset.images_column([p.original for p in pictures]),
        "split": pa.array([split_of(p.sha256) for p in pictures], pa.string()),
        "signature": pa.array([p.signature for p in pictures], dataset.SCHEMA.field("signature").type),
    }
    return dataset.rows_table(columns, len(pictures))


def _bytes_of(column: pa.ChunkedArray) -> pa.Array:
    return pc.struct_field(column.combine_chunks(), "bytes")


def _with_categories(rows: pa.Table, categories: _Categories, unknown: Counter[str]) -> pa.Table:
    """With ids and present names; rows whose label is no category of the model are counted and left out."""
    coded = rows["label"].combine_chunks().dictionary_encode()
    ids = [categories.id_of(label) for label in coded.dictionary.to_pylist()]
    names = [None if i is None else categories.names[i] for i in ids]
    columns = {name: rows[name].combine_chunks() for name in rows.column_names}
    columns["category_id"] = pa.array(ids, pa.int32()).take(coded.indices)
    known = pc.is_valid(columns["category_id"])
    if not pc.all(known).as_py():
        unknown.update(rows["label"].filter(pc.invert(known)).to_pylist())
    columns["label"] = pa.array(names, pa.string()).take(coded.indices)
    return dataset.rows_table(columns, len(rows)).filter(known)


# --- quarantine


def _set_aside(path: Path, home: Path, name: str) -> None:
    """A copy for a person to look at; the inbox keeps its file until the run is done."""
    if path.is_file():
        with replacing(home / "quarantine" / "unreadable" / name) as temporary:
            shutil.copyfile(path, temporary)


def _quarantined(
    reason: str, sha256: str | None, *, correction_id: str | None = None, import_id: str | None = None
) -> Entry:
    return {"correction_id": correction_id, "import_id": import_id, "sha256": sha256, "reason": reason}


if __name__ == "__main__":
    main("convert", convert)
