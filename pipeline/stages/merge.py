"""Stage 3: what of the converted pictures is new, what each of them is, and in which split it belongs.

    python -m pipeline.stages.merge --home data/doodles --run 12

Reads the dataset up to the manifest's version and `runs/<run>/converted.parquet`; writes `runs/<run>/images.parquet`,
the shard that `version` will add (absent when nothing is new), and `runs/<run>/categories.json`.

Who is right about an image: a reviewer over a person, a person over an import, an import over a generated label; of
one person's labels the latest; of two people's different labels neither, or the one already in the dataset. An image
keeps the split of its first row for ever. When a person's label is withdrawn, what an import or a generated row had
said is the image's label again. Costs follow what is new: of the dataset only narrow columns are read, and no image is
decoded but the few that may be copies of another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.images import NEAR_DUPLICATE, InputSpec, decode_png
from core.storage import replacing, write_json
from pipeline import dataset
from pipeline.dataset import Category
from pipeline.near_duplicates import SIGNATURE_BYTES, candidates, similarity
from pipeline.stages import Result, StageRun, main
from pipeline.stages.ingest import untrained_withdrawals

RANKS = {"generated": 0, "import": 1, "sample": 2, "correction": 2, "review": 3}  # who overrides whom
PERSON, REVIEWER = 2, 3
REAL = ("import", "correction", "review")  # sources that may enter the holdout, or be a copy of one that did

CONFLICT = "conflict: another correction gave this image another label"  # a correction's reason


@dataclass(frozen=True)
class Row:
    """What merging asks of a row. category_id: None withdraws. position: in converted.parquet, -1 in the dataset.

    dataset_version: the shard of a row that a withdrawal may bring back, else None.
    """

    position: int
    sha256: str
    category_id: int | None
    source: str
    actor: str | None
    correction_id: str | None
    import_id: str | None
    split: str
    near_duplicate_of: str | None
    dataset_version: int | None = None

    @property
    def rank(self) -> int:
        return RANKS[self.source]


@dataclass
class Decisions:
    """kept: the one new row of each image that gets one. outcomes: correction id to (outcome, reason).

    taken_before: rows of the dataset whose correction comes again, for the run that took it in died unrecorded.
    """

    kept: dict[str, Row] = field(default_factory=dict)
    outcomes: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    conflicts: list[Row] = field(default_factory=list)
    taken_before: list[Row] = field(default_factory=list)
    duplicates: int = 0

    def keep(self, row: Row) -> None:
        self.kept[row.sha256] = row
        self._settle(row, "merged", None)

    def take_out(self, row: Row, beneath: Row | None) -> Row:
        """row: a withdrawal. Returns what stands now: what was said beneath it, or no label."""
        stands = row if beneath is None else beneath
        self.kept[row.sha256] = stands
        self._settle(row, "merged", "label withdrawn")
        return stands

    def again(self, current: Row) -> None:
        self.taken_before.append(current)
        self._settle(current, "merged", None)

    def duplicate(self, row: Row, reason: str = "the image already has this label") -> None:
        self.duplicates += 1
        self._settle(row, "duplicate", reason)

    def supersede(self, row: Row, reason: str) -> None:
        self._settle(row, "superseded", reason)

    def conflict(self, row: Row) -> None:
        self.conflicts.append(row)
        self._settle(row, "quarantined", CONFLICT)

    def _settle(self, row: Row, outcome: str, reason: str | None) -> None:
        if row.correction_id is not None:
            self.outcomes[row.correction_id] = (outcome, reason)


def decide(
    known: Mapping[str, Row], rows: Iterable[Row], beneath: Mapping[str, Row] = MappingProxyType({})
) -> Decisions:
    """known: the latest row of each image in the dataset. rows: the new ones, in order.

    beneath: the latest imported or generated row of the images of which something is withdrawn.
    """
    decisions = Decisions()
    of_image: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_image[row.sha256].append(row)
    for sha, new in of_image.items():
        current = known.get(sha)
        current = _withdraw(
            [r for r in new if r.rank >= PERSON and r.category_id is None],
            current,
            beneath.get(sha),
            decisions,
        )
        current = _take_bulk([r for r in new if r.rank < PERSON], current, decisions)
        current = _take_reviews(
            [r for r in new if r.rank == REVIEWER and r.category_id is not None], current, decisions
        )
        _take_people([r for r in new if r.rank == PERSON and r.category_id is not None], current, decisions)
    return decisions


def _take_bulk(rows: Sequence[Row], current: Row | None, decisions: Decisions) -> Row | None:
    """Imports and generated rows: a later import may correct an earlier one, but not itself and not a person."""
    for row in rows:
        overrides = (
            current is None
            or current.category_id is None
            or (
                row.rank >= current.rank
                and row.category_id != current.category_id
                and row.import_id != current.import_id
            )
        )
        if overrides:
            decisions.keep(row)
            current = row
        else:
            decisions.duplicate(row)
    return current


def _withdraw(
    rows: Sequence[Row], current: Row | None, beneath: Row | None, decisions: Decisions
) -> Row | None:
    """A withdrawal has its correction's id, and takes the label away only while the label is that correction's.

    What was said beneath it comes back: else anybody could take an imported image out of the holdout. What somebody
    else, or an import, says of the image in the same run then gets its turn.
    """
    for row in rows:
        if (
            current is not None
            and current.category_id is not None
            and current.correction_id == row.correction_id
        ):
            current = decisions.take_out(row, beneath)
        else:
            decisions.supersede(row, "withdrawn; the image's label was not, or no longer, this correction's")
    return current


def _take_reviews(rows: Sequence[Row], current: Row | None, decisions: Decisions) -> Row | None:
    """The latest review stands over whatever anybody said."""
    for row in rows:
        same = current is not None and current.category_id == row.category_id
        if current is not None and same and current.rank == REVIEWER:
            if current.correction_id == row.correction_id:
                decisions.again(current)
            else:
                decisions.duplicate(row)
            continue
        if current is not None and current.category_id is not None and current.rank >= PERSON:
            decisions.supersede(current, f"a reviewer {'says the same' if same else 'gave another label'}")
        decisions.keep(row)
        current = row
    return current


def _take_people(rows: Sequence[Row], current: Row | None, decisions: Decisions) -> None:
    if current is not None and current.rank == REVIEWER and current.category_id is not None:
        for row in rows:
            if row.category_id == current.category_id:
                decisions.duplicate(row)
            else:
                decisions.supersede(row, "a reviewer gave the image another label")
        return
    said = _latest_of_each_actor(rows, decisions)
    if current is not None and current.rank == PERSON and current.category_id is not None:
        own = said.pop(current.actor, None)
        if own is not None:
            if own.correction_id == current.correction_id:
                decisions.again(current)
            elif own.category_id == current.category_id:
                decisions.duplicate(own)
            else:
                decisions.supersede(current, "the same person gave a later label")
                decisions.keep(own)
                current = own
        for row in said.values():
            if row.category_id == current.category_id:
                decisions.duplicate(row)
            else:
                decisions.conflict(row)
    elif len({row.category_id for row in said.values()}) > 1:
        for row in said.values():
            decisions.conflict(row)
    else:
        for row in said.values():
            if current is not None and row.category_id == current.category_id:
                decisions.duplicate(row)
            else:
                decisions.keep(row)
                current = row


def _latest_of_each_actor(rows: Sequence[Row], decisions: Decisions) -> dict[str | None, Row]:
    said: dict[str | None, Row] = {}
    for row in rows:
        earlier = said.get(row.actor)
        if earlier is not None and earlier.category_id == row.category_id:
            decisions.duplicate(row)
            continue
        if earlier is not None:
            decisions.supersede(earlier, "the same person gave a later label")
        said[row.actor] = row
    return said


def split_of_row(row: Row, known: Row | None) -> Row:
    """With the split of the image's first row; a generated or sample image never enters the holdout."""
    if known is not None:
        return replace(row, split=known.split, near_duplicate_of=known.near_duplicate_of)
    if row.split == "holdout" and row.source not in REAL:
        return replace(row, split="regression")
    return row


def merge(stage: StageRun) -> Result:
    """Decides which converted pictures are new, their labels and their splits; writes the new shard."""
    manifest = stage.manifest
    new = Converted(stage.folder / "converted.parquet")
    old = dataset.read_latest(stage.home, OLD_COLUMNS, manifest["dataset_version"])
    known = _known(old, new.rows)
    decisions = decide(known, new.rows, _beneath(stage.home, new.rows, manifest["dataset_version"]))
    kept = {sha: split_of_row(row, known.get(sha)) for sha, row in decisions.kept.items()}
    copies = _near_duplicates(stage, kept, known, new, old)
    kept |= {
        sha: replace(kept[sha], split="excluded", near_duplicate_of=other) for sha, other in copies.items()
    }
    rows = sorted(kept.values(), key=lambda row: row.position)
    if rows:
        new.write(stage.folder / "images.parquet", rows, stage.home)
    else:
        (stage.folder / "images.parquet").unlink(missing_ok=True)
    categories, counts = _grown(manifest["categories"], old, rows, stage.params.merge.min_images)
    write_json(stage.folder / "categories.json", dataset.categories_json(categories))
    quarantined = [_set_aside(stage.home, row, new) for row in decisions.conflicts]
    activated = [
        c["name"]
        for c, now in zip(manifest["categories"], categories, strict=True)
        if c["state"] == "pending" and now.state == "active"
    ]
    labelled = [row for row in rows if row.category_id is not None and row.dataset_version is None]
    splits = Counter(row.split for row in labelled)
    figures = {
        "new_images": len(labelled),
        "withdrawn": len(rows) - len(labelled),
        "duplicates": decisions.duplicates,
        "conflicts": len(decisions.conflicts),
        "near_duplicates": len(copies),
        **{split: splits[split] for split in dataset.SPLITS},
        "categories_activated": len(activated),
    }
    print(figures)
    for name in activated:
        print(f"category {name!r} has enough images now: active")
    halted = None
    untrained = manifest["untrained_images"] + untrained_withdrawals(manifest)
    waits = untrained > 0 or decisions.taken_before
    if not rows and not waits and not manifest["force"] and manifest["trigger"] != "initial":
        halted = (
            f"nothing new: all {len(new.rows)} images were duplicates, conflicts or withdrawn; "
            "correct or import others, or start the run with --force"
        )
    data = {
        "new_images": len(labelled),
        "categories": counts,
        "categories_activated": activated,
        "corrections": _outcomes(decisions, kept),
        "quarantined": quarantined,
    }
    return Result(figures, halted, data)


OLD_COLUMNS = (
    "sha256",
    "category_id",
    "source",
    "actor",
    "correction_id",
    "import_id",
    "split",
    "near_duplicate_of",
    "signature",
)
ROW_COLUMNS = OLD_COLUMNS[:-1]


class Converted:
    """The file convert wrote: narrow columns in memory, images read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        table = dataset.read_columns(path, [*OLD_COLUMNS, "label"])
        self.signatures = table["signature"].combine_chunks()
        self.rows = _rows(table, range(len(table)))

    def images(self, rows: Sequence[Row]) -> list[bytes]:
        """PNG of each row."""
        encoded = self._take([row.position for row in rows], ["image"])["image"].combine_chunks()
        return list(pc.struct_field(encoded, "bytes").to_pylist())

    def write(self, path: Path, rows: Sequence[Row], home: Path) -> None:
        """The rows, ascending by position, with their splits, as a shard; one row group in memory at a time."""
        brought_back = [row for row in rows if row.dataset_version is not None]
        rows = [row for row in rows if row.dataset_version is None]
        with (
            replacing(path) as temporary,
            dataset.shard_writer(temporary) as writer,
            pq.ParquetFile(self.path, memory_map=True) as file,
        ):
            for table, of_table in _stored(home, brought_back):
                writer.write_table(_with_splits(table, of_table))
            start, taken = 0, 0
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                upto = taken
                while upto < len(rows) and rows[upto].position < start + len(table):
                    upto += 1
                here = rows[taken:upto]
                if here:
                    chosen = table.take(pa.array([row.position - start for row in here]))
                    writer.write_table(_with_splits(chosen, here))
                start, taken = start + len(table), upto

    def _take(self, positions: Sequence[int], columns: Sequence[str]) -> pa.Table:
        return dataset.read_columns(self.path, columns).take(pa.array(positions, pa.int64()))


def _with_splits(table: pa.Table, rows: Sequence[Row]) -> pa.Table:
    for name in ("split", "near_duplicate_of"):
        index = table.schema.get_field_index(name)
        values = pa.array([getattr(row, name) for row in rows], pa.string())
        table = table.set_column(index, dataset.SCHEMA.field(name), values)
    return table.cast(dataset.SCHEMA)


def _stored(home: Path, rows: Sequence[Row]) -> Iterator[tuple[pa.Table, list[Row]]]:
    """The rows as their shards have them, all columns; one row group in memory at a time."""
    for version in sorted({row.dataset_version for row in rows if row.dataset_version is not None}):
        wanted = {row.sha256: row for row in rows if row.dataset_version == version}
        with pq.ParquetFile(dataset.shard_path(home, version), memory_map=True) as file:
            for group in range(file.num_row_groups):
                names = file.read_row_group(group, columns=["sha256"])["sha256"].to_pylist()
                at = [position for position, name in enumerate(names) if name in wanted]
                if at:
                    yield file.read_row_group(group).take(pa.array(at)), [wanted[names[i]] for i in at]


def _rows(table: pa.Table, positions: Iterable[int]) -> list[Row]:
    columns = [table[name].to_pylist() for name in (*ROW_COLUMNS, "label")]
    rows = []
    for position, sha, category, source, actor, correction, imported, split, copy_of, label in zip(
        positions, *columns, strict=True
    ):
        category = None if label is None else category
        rows.append(Row(position, sha, category, source, actor, correction, imported, split, copy_of))
    return rows


def _known(old: pa.Table, new: Sequence[Row]) -> dict[str, Row]:
    """The dataset's rows of the images that come again."""
    names = pa.array([row.sha256 for row in new], pa.string())
    again = old.filter(pc.is_in(old["sha256"], value_set=names))
    return {row.sha256: row for row in _rows(again, [-1] * len(again))}


def _beneath(home: Path, new: Sequence[Row], up_to: int) -> dict[str, Row]:
    """The latest imported or generated row of each image of which something is withdrawn."""
    names = pa.array([row.sha256 for row in new if row.category_id is None], pa.string())
    if len(names) == 0:
        return {}
    bulk = pa.array([source for source, rank in RANKS.items() if rank < PERSON])
    found = {}
    for path in dataset.shards(home, up_to):
        table = dataset.read_columns(path, [*ROW_COLUMNS, "label"])
        said = pc.and_(pc.is_in(table["source"], value_set=bulk), pc.is_valid(table["label"]))
        table = table.filter(pc.and_(said, pc.is_in(table["sha256"], value_set=names)))
        for row in _rows(table, [-1] * len(table)):
            found[row.sha256] = replace(row, dataset_version=dataset.shard_version(path))
    return found


# --- near-duplicates


def _near_duplicates(
    stage: StageRun, kept: Mapping[str, Row], known: Mapping[str, Row], new: Converted, old: pa.Table
) -> dict[str, str]:
    """New images to be excluded, each with the image it is nearly the same as.

    A new holdout image that is nearly an old training image is no fair question; a new training image that is
    nearly a holdout image, old or new, gives the answer away.
    """
    fresh = [
        r for r in kept.values() if r.sha256 not in known and r.source in REAL and r.category_id is not None
    ]
    real = old.filter(
        pc.and_(
            pc.and_(pc.is_valid(old["label"]), pc.is_valid(old["signature"])),
            pc.is_in(old["source"], value_set=pa.array(REAL)),
        )
    )
    is_holdout = pc.equal(real["split"], "holdout")
    is_learned = pc.is_in(real["split"], value_set=pa.array(["train", "validation"]))
    compare = _Comparison(stage, new)
    questions = [r for r in fresh if r.split == "holdout"]
    spoilt = compare.copies(questions, real.filter(is_learned), [])
    questions = [r for r in questions if r.sha256 not in spoilt]
    learned = [r for r in fresh if r.split in ("train", "validation")]
    return spoilt | compare.copies(learned, real.filter(is_holdout), questions)


class _Comparison:
    def __init__(self, stage: StageRun, new: Converted) -> None:
        self._home = stage.home
        self._spec: InputSpec = stage.params.input.spec
        self._threshold = stage.params.merge.near_duplicate_similarity
        self._new = new

    def copies(self, rows: Sequence[Row], old: pa.Table, others: Sequence[Row]) -> dict[str, str]:
        """Of `rows`, those nearly the same as an image of `old` (dataset) or `others` (new): sha to its sha."""
        if not rows or len(old) + len(others) == 0:
            return {}
        right = np.concatenate([_signatures(old["signature"].combine_chunks()), self._signatures_of(others)])
        left_at, right_at = candidates(self._signatures_of(rows), right)
        if len(left_at) == 0:
            return {}
        left, left_at = np.unique(left_at, return_inverse=True)
        right_found, right_at = np.unique(right_at, return_inverse=True)
        from_old = right_found[right_found < len(old)]
        from_new = [others[i - len(old)] for i in right_found[right_found >= len(old)]]
        old_rows = old.take(pa.array(from_old))
        pixels = np.concatenate(
            [dataset.labelled(self._home, old_rows, self._spec).pixels[:], self._pixels_of(from_new)]
        )
        names = old_rows["sha256"].to_pylist() + [row.sha256 for row in from_new]
        alike = similarity(self._pixels_of([rows[i] for i in left])[left_at], pixels[right_at])
        found: dict[str, str] = {}
        for i in np.argsort(alike, kind="stable"):  # the most alike last, so that it stays
            if alike[i] >= self._threshold:
                found[rows[left[left_at[i]]].sha256] = names[right_at[i]]
        return found

    def _signatures_of(self, rows: Sequence[Row]) -> NDArray[np.float16]:
        positions = pa.array([row.position for row in rows], pa.int64())
        return _signatures(self._new.signatures.take(positions))

    def _pixels_of(self, rows: Sequence[Row]) -> NDArray[np.uint8]:
        pixels = np.empty((len(rows), *self._spec.shape), np.uint8)
        for i, png in enumerate(self._new.images(rows)):
            pixels[i] = decode_png(png)
        return pixels


def _signatures(column: pa.Array) -> NDArray[np.float16]:
    """The column's own memory; it has no nulls."""
    width = SIGNATURE_BYTES // 2
    if len(column) == 0:  # may have no memory at all
        return np.empty((0, width), np.float16)
    flat = np.frombuffer(column.buffers()[1], np.float16)
    return flat[column.offset * width : (column.offset + len(column)) * width].reshape(-1, width)


# --- categories, outcomes, quarantine


def _grown(
    listed: Sequence[Mapping[str, Any]], old: pa.Table, rows: Sequence[Row], min_images: int
) -> tuple[list[Category], list[dict[str, Any]]]:
    """The categories with their new states, and what the orchestrator records of each."""
    replaced = pa.array([row.sha256 for row in rows], pa.string())
    stays = old.filter(
        pc.and_(pc.is_valid(old["label"]), pc.invert(pc.is_in(old["sha256"], value_set=replaced)))
    )
    trained = stays.filter(pc.equal(stays["split"], "train"))
    images, train = _counted(stays["category_id"]), _counted(trained["category_id"])
    images.update(row.category_id for row in rows if row.category_id is not None)
    train.update(row.category_id for row in rows if row.split == "train" and row.category_id is not None)
    categories, counts = [], []
    for entry in listed:
        number = train[entry["id"]]
        state = "active" if entry["state"] == "pending" and number >= min_images else entry["state"]
        categories.append(Category(entry["id"], entry["name"], state, tuple(entry["aliases"])))
        counts.append(
            {
                "id": entry["id"],
                "name": entry["name"],
                "state": state,
                "train_images": number,
                "images": images[entry["id"]],
                "missing": max(0, min_images - number) if state == "pending" else 0,
            }
        )
    return categories, counts


def _counted(ids: pa.ChunkedArray) -> Counter[int]:
    return Counter({entry["values"].as_py(): entry["counts"].as_py() for entry in pc.value_counts(ids)})


def _outcomes(decisions: Decisions, kept: Mapping[str, Row]) -> list[dict[str, str | None]]:
    rows = {row.correction_id: row for row in (*decisions.taken_before, *kept.values())}
    outcomes = []
    for correction_id, (outcome, reason) in decisions.outcomes.items():
        row = rows.get(correction_id)
        split = None if row is None else row.split
        if outcome == "merged" and row is not None and row.category_id is not None:
            if split in ("validation", "holdout", "regression"):
                outcome = "exam"
            if split == "excluded":
                reason = f"{NEAR_DUPLICATE} {row.near_duplicate_of}: kept out of training"
        outcomes.append({"id": correction_id, "outcome": outcome, "reason": reason, "split": split})
    return outcomes


def _set_aside(home: Path, row: Row, new: Converted) -> dict[str, str | None]:
    with replacing(home / "quarantine" / "conflict" / f"{row.sha256}.png") as temporary:
        temporary.write_bytes(new.images([row])[0])
    return {
        "correction_id": row.correction_id,
        "import_id": None,
        "sha256": row.sha256,
        "reason": CONFLICT,
    }


if __name__ == "__main__":
    main("merge", merge)
