"""Two versions of a model side by side: on corrections both were judged by, and on the holdout as it is now.

    compare("doodles", 3, 4)["differ"]["items"]

What runs recorded of corrections is in the database. The holdout is asked again, because the two were judged on it
at different times: both graphs come out of DVC's cache, where retention has left them. That is bounded, in images and
in seconds, done for one pair at a time, and kept in `data/.comparisons` until the dataset changes.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, aliased

from core import telemetry
from core.database import Correction, Outcome, session
from core.errors import Unavailable
from core.settings import settings
from core.storage import write_atomically
from pipeline import dataset, gate, mirror, reports, versions
from pipeline.metrics import recalls

if TYPE_CHECKING:
    from pipeline.stages.evaluate import Model

MOST_IMAGES = 20_000  # of the holdout: an accuracy is then known to 0.7 points at the worst
MOST_SECONDS = 30.0
CHUNK = 4_000  # images decoded and asked between two looks at the clock
MOST_SHOWN = 200
MOST_KEPT = 200  # comparisons of a model
CONFIDENCE = 0.95
GRAPH = ("model.onnx", "categories.json", "input.json")

Json = dict[str, Any]

_log = telemetry.get_logger("comparison")
_at_work = threading.Lock()
_places = threading.BoundedSemaphore(3)  # one at work, two that wait: the other threads go on answering


@dataclass(frozen=True)
class Side:
    version: int
    run_id: int


def compare(model: str, a: int, b: int) -> Json:
    """Raises NotFound, or Unavailable while too many ask at once."""
    known = versions.aliases(model)
    with session() as db:
        versions.require_model(db, model)
        told_a, told_b = (versions.show_version(db, model, version, known) for version in (a, b))
        corrections = _corrections(db, model, a, b)
        differing_ids = {str(id_) for id_ in _differing_ids(db, model, a, b)}
    home = settings().data_dir / model
    mirror.bring_shards(home)
    sides = Side(a, told_a["run_id"]), Side(b, told_b["run_id"])
    asked, missing = _on_holdout(home, model, *sides)
    listed, count = corrections, len(differing_ids)
    if asked is not None:
        differ = asked["differ"]
        count += differ["count"] - len(differing_ids & set(differ["correction_ids"]))
        new = [one for one in differ["items"] if one["correction_id"] not in differing_ids]
        listed = [*listed, *new]
    return {
        "a": told_a,
        "b": told_b,
        "holdout": None if asked is None else asked["holdout"],
        "categories": _recorded(home, *sides) if asked is None else asked["categories"],
        "differ": {
            "count": count,
            "items": [
                {**one, "image": reports.image_address(model, one["sha256"])} for one in listed[:MOST_SHOWN]
            ],
        },
        "missing": missing,
    }


def _corrections(db: Session, model: str, a: int, b: int) -> list[Json]:
    """The newest on which the two differ."""
    of_a, of_b = aliased(Outcome), aliased(Outcome)
    query = (
        select(
            Correction.id,
            Correction.image_sha256,
            Correction.label,
            of_a.label.label("a_label"),
            of_b.label.label("b_label"),
        )
        .join(of_a, (of_a.correction_id == Correction.id) & (of_a.version == a))
        .join(of_b, (of_b.correction_id == Correction.id) & (of_b.version == b))
        .where(Correction.model == model, of_a.label != of_b.label)
        .order_by(Correction.id.desc())
        .limit(MOST_SHOWN)
    )
    return [
        {
            "correction_id": str(row.id),
            "sha256": row.image_sha256,
            "label": row.label,
            "a_label": row.a_label,
            "b_label": row.b_label,
        }
        for row in db.execute(query)
    ]


def _differing_ids(db: Session, model: str, a: int, b: int) -> list[Any]:
    of_b = aliased(Outcome)
    both: ColumnElement[bool] = (of_b.correction_id == Outcome.correction_id) & (of_b.version == b)
    query = (
        select(Outcome.correction_id)
        .join(of_b, both)
        .where(Outcome.model == model, Outcome.version == a, Outcome.label != of_b.label)
    )
    return list(db.scalars(query))


def _recorded(home: Path, a: Side, b: Side) -> list[Json] | None:
    """Recalls as each run reported them, on the holdout of its time; images are those of b's."""
    names = [f"run-{side.run_id}:reports/per_class.csv" for side in (a, b)]
    found = reports.git_objects(home, names)
    if len(found) < len(names):
        return None
    of_a, of_b = ({row["name"]: row for row in reports.per_class(found[name][1])} for name in names)
    return [
        {
            "name": name,
            "images": of_b.get(name, of_a.get(name, {})).get("images", 0),
            "a_recall": of_a.get(name, {}).get("challenger_recall"),
            "b_recall": of_b.get(name, {}).get("challenger_recall"),
        }
        for name in {**of_a, **of_b}
    ]


# The holdout, asked again.


def _on_holdout(home: Path, model: str, a: Side, b: Side) -> tuple[Json | None, list[str]]:
    """(answer, why there is none)."""
    files = {side.version: graph_files(home, side.run_id) for side in (a, b)}
    gone = [str(version) for version, found in files.items() if found is None]
    if gone:
        noun = "version" if len(gone) == 1 else "versions"
        return None, [
            f"the graph of {noun} {' and '.join(gone)} is not kept any more: recalls are those that each "
            "version's own run reported, on the holdout of that time"
        ]
    kept = settings().data_dir / ".comparisons" / model / f"{a.version}-{b.version}.json"
    stamp = _stamp(home, a, b)
    found = _read(kept, stamp)
    if found is None:
        with _in_turn():
            found = _read(kept, stamp) or _ask(home, files[a.version] or {}, files[b.version] or {})
            write_atomically(kept, json.dumps({**found, "stamp": stamp}).encode())
            _forget_oldest(kept.parent)
    asked = {key: value for key, value in found.items() if key != "stamp"}
    missing: list[str] = asked.pop("missing")
    return (asked if asked["holdout"] is not None else None), missing


def graph_files(home: Path, run_id: int) -> dict[str, Path] | None:
    """The model that a run made, in DVC's cache; None when it is not there any more."""
    name = f"run-{run_id}:dvc.lock"
    mirror.bring_outputs(home, f"run-{run_id}", GRAPH)
    found = reports.git_objects(home, [name])
    if name not in found:
        return None
    outs = yaml.safe_load(found[name][1])["stages"]["train"]["outs"]
    cache = home / ".dvc" / "cache" / "files" / "md5"
    try:
        md5 = next(out["md5"] for out in outs if out["path"] == "model")
        listed = json.loads((cache / md5[:2] / md5[2:]).read_text())
        files = {each["relpath"]: cache / each["md5"][:2] / each["md5"][2:] for each in listed}
        chosen = {name: files[name] for name in GRAPH}
    except (StopIteration, KeyError, OSError):
        return None
    return chosen if all(path.exists() for path in chosen.values()) else None


@contextmanager
def _in_turn() -> Iterator[None]:
    if not _places.acquire(blocking=False):
        raise Unavailable("other versions are being compared just now; try again in a moment")
    try:
        with _at_work:
            yield
    finally:
        _places.release()


def _stamp(home: Path, a: Side, b: Side) -> str:
    """Of all that the answer depends on: a shard that was added or rewritten changes it."""
    states = [path.stat() for path in dataset.shards(home)]
    newest = max((state.st_mtime_ns for state in states), default=0)
    return f"{a.run_id} {b.run_id} {len(states)} {newest} {sum(state.st_size for state in states)}"


def _read(path: Path, stamp: str) -> Json | None:
    try:
        found: Json = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if found.get("stamp") == stamp else None


def _forget_oldest(folder: Path) -> None:
    kept = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in kept[:-MOST_KEPT]:
        path.unlink(missing_ok=True)


def _ask(home: Path, files_a: Mapping[str, Path], files_b: Mapping[str, Path]) -> Json:
    started = time.monotonic()
    a, b = _load(files_a), _load(files_b)
    if a.spec != b.spec:
        why = f"the two see different images ({a.spec} and {b.spec}): they cannot be asked about the same"
        return _nothing(why)
    of, rows, available = _images(home, a.knows | b.knows)
    if len(rows) == 0:
        return _nothing("there is no held-out image to ask both about")
    parts = []
    for start in range(0, len(rows), CHUNK):
        images = dataset.labelled(home, rows.slice(start, CHUNK), a.spec)
        parts.append((images.category_ids, a.answers(images.pixels), b.answers(images.pixels)))
        if time.monotonic() - started > MOST_SECONDS:
            break
    truth, said_a, said_b = (np.concatenate([part[n] for part in parts]) for n in range(3))
    rows = rows.slice(0, len(truth))
    names = {c.id: c.name for m in (a, b) for c in _outputs(m)}
    names |= {category.id: category.name for category in dataset.read_categories(home)}
    _log.info("compared", images=len(truth), seconds=round(time.monotonic() - started, 2))
    missing = []
    if len(truth) < available:
        missing = [f"asked about {len(truth)} of {available} held-out images, a sample by their hash"]
    return {
        "holdout": _holdout(of, home, available, truth, said_a, said_b),
        "categories": _categories(a, b, names, truth, said_a, said_b),
        "differ": _differ(rows, names, said_a, said_b),
        "missing": missing,
    }


def _nothing(why: str) -> Json:
    return {"holdout": None, "categories": None, "differ": None, "missing": [why]}


def _load(files: Mapping[str, Path]) -> Model:
    from pipeline.stages.evaluate import load_model  # onnxruntime: 60 MB that a viewer seldom needs

    with tempfile.TemporaryDirectory() as folder:
        for name, path in files.items():
            (Path(folder) / name).symlink_to(path.resolve())
        return load_model(Path(folder))


def _outputs(model: Model) -> list[dataset.Category]:
    pairs = zip(model.ids.tolist(), model.names, strict=True)
    return [dataset.Category(id_, name, "active") for id_, name in pairs]


def _images(home: Path, known: frozenset[int]) -> tuple[str, pa.Table, int]:
    """(slice, rows in order of hash, how many there are): generated ones where there is no real one."""
    rows = dataset.read_rows(home, ["category_id", "split", "correction_id"])
    rows = rows.filter(pc.is_in(rows["category_id"], pa.array(sorted(known), pa.int32())))
    real = rows.filter(pc.equal(rows["split"], "holdout"))
    of, chosen = (
        ("holdout", real) if len(real) else ("generated", rows.filter(pc.equal(rows["split"], "regression")))
    )
    ordered = chosen.take(
        pc.sort_indices(chosen["sha256"])
    )  # what a deadline leaves out is then left to chance
    return of, ordered.slice(0, MOST_IMAGES), len(ordered)


Ids = NDArray[np.int32]


def _holdout(of: str, home: Path, available: int, truth: Ids, said_a: Ids, said_b: Ids) -> Json:
    found = gate.compare(gate.Slice(truth, said_b, said_a), CONFIDENCE)
    newest = dataset.shards(home)[-1]
    return {
        "of": of,
        "dataset_version": dataset.shard_version(newest),
        "images": len(truth),
        "sampled_from": available,
        "a": reports.side(found.champion_accuracy, len(truth), CONFIDENCE),
        "b": reports.side(found.challenger_accuracy, len(truth), CONFIDENCE),
        "difference": {
            "points": round(100 * (found.gained - found.lost) / found.images, 6),
            "low": round(100 * found.low, 6),
            "high": round(100 * found.high, 6),
        },
    }


def _categories(
    a: Model, b: Model, names: Mapping[int, str], truth: Ids, said_a: Ids, said_b: Ids
) -> list[Json]:
    """A version's recall of a category that it does not know is None."""
    ids = sorted(a.knows | b.knows)
    of_a, of_b = (recalls(truth, said, ids, CONFIDENCE) for said in (said_a, said_b))

    def recall(value: float, images: int, knows: bool) -> float | None:
        return round(float(value), 6) if images and knows else None

    return [
        {
            "name": names[id_],
            "images": int(images),
            "a_recall": recall(in_a, images, id_ in a.knows),
            "b_recall": recall(in_b, images, id_ in b.knows),
        }
        for id_, images, in_a, in_b in zip(ids, of_a.images, of_a.recall, of_b.recall, strict=True)
    ]


def _differ(rows: pa.Table, names: Mapping[int, str], said_a: Ids, said_b: Ids) -> Json:
    """count and correction_ids: of all; items: the first, those that one of the two gets right before others."""
    truth = rows["category_id"].to_numpy()
    apart = np.flatnonzero(said_a != said_b)
    matters = (said_a[apart] == truth[apart]) | (said_b[apart] == truth[apart])
    shown = apart[np.argsort(~matters, kind="stable")][:MOST_SHOWN]
    corrections = rows["correction_id"].take(pa.array(apart))
    return {
        "count": len(apart),
        "correction_ids": corrections.drop_null().to_pylist(),
        "items": [
            {
                "correction_id": rows["correction_id"][at].as_py(),
                "sha256": rows["sha256"][at].as_py(),
                "label": names[int(truth[at])],
                "a_label": names[int(said_a[at])],
                "b_label": names[int(said_b[at])],
            }
            for at in shown.tolist()
        ],
    }
