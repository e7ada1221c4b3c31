"""A run's report: what it added, changed, measured and decided, for the viewer's page of a run.

    report(12)["corrections"]["fixed"]

Read from the home's tag `run-<id>` (one git process for all files), the run's working folder while there is one, and
the database: so a report outlives retention, and says in `missing` what that removed.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.database import (
    Category,
    Correction,
    CorrectionStatus,
    Outcome,
    Run,
    Stage,
    StageStatus,
    Transition,
    session,
)
from core.errors import NotFound
from core.images import split_of
from core.settings import settings
from pipeline import dataset, mirror, versions
from pipeline.gate import GateParams
from pipeline.git import WorkspaceError
from pipeline.metrics import wilson_interval

MOST_CORRECTIONS = 2_000  # shown as images; all are counted
MOST_CONFUSED = 60  # categories of the matrix that is sent: 1,000 would be a million cells
RUNS_BACK = 20  # how far back to look for the parameters of a run before

Json = dict[str, Any]


def image_address(model: str, sha256: str) -> str:
    return f"/images/{model}/{sha256}"


def report(run_id: int) -> Json:
    """What there is; what the run has not got to is None. Raises NotFound."""
    with session() as db:
        run = _run(db, run_id)
        stages = {s.name: s for s in db.scalars(select(Stage).where(Stage.run_id == run_id))}
        curve = _curve(db, run_id)
        champion = _champion_version(db, run, stages)
        first_with_dataset = _made_dataset(db, run)
        earlier = db.scalars(
            select(Run.id)
            .where(Run.model == run.model, Run.id < run_id)
            .order_by(Run.id.desc())
            .limit(RUNS_BACK)
        ).all()
        ids = {c.name: c.id for c in db.scalars(select(Category).where(Category.model == run.model))}
    home = settings().data_dir / run.model
    mirror.bring_shard(home, run.dataset_version or 0)
    files = Files.of(home, run_id, earlier)
    params = files.params(run_id)
    gate = {**GateParams().model_dump(), **((params or {}).get("gate") or {})}
    evaluated = "evaluate" in stages and stages["evaluate"].status is StageStatus.succeeded
    per_class = files.csv("per_class.csv")
    figures = run.verdict["figures"] if run.verdict else None
    shard_is_there = dataset.shard_path(home, run.dataset_version or 0).exists()
    return {
        "run_id": run_id,
        "model": run.model,
        "version": run.version,
        "champion_version": champion,
        "dataset_version": run.dataset_version,
        "commit": files.commit,
        "holdout": None if figures is None else _slice(figures, "holdout", gate["confidence"]),
        "generated": None if figures is None else _slice(figures, "regression", gate["confidence"]),
        "categories": None if per_class is None else categories(per_class, ids),
        "confusion": confusion(files, per_class),
        "corrections": _corrections(run, champion, files) if evaluated else None,
        "curve": curve or None,
        "params": params,
        "params_changed": _changes(params, files, earlier),
        "added": _added(home, run) if first_with_dataset and shard_is_there else None,
        "gate": None if run.verdict is None else {"rules": _rules(run.verdict, gate)},
        "missing": _missing(run, files, evaluated, shard_is_there, stages),
    }


def added_images(
    run_id: int, *, limit: int, before: int | None = None, label: str | None = None, split: str | None = None
) -> Json:
    """{"items", "next_before"}: the last row of its shard first; before: the last position already seen."""
    with session() as db:
        run = _run(db, run_id)
        made = _made_dataset(db, run)
    home = settings().data_dir / run.model
    mirror.bring_shard(home, run.dataset_version or 0)
    shard = dataset.shard_path(home, run.dataset_version or 0)
    if not made or not shard.exists():
        return {"items": [], "next_before": None}
    rows = dataset.read_columns(shard, ["label", "split"])
    wanted = pa.scalar(True)
    for column, value in (("label", label), ("split", split)):
        if value is not None:
            wanted = pc.and_(wanted, pc.equal(rows[column], value))
    if label is None and split is None:
        positions = pa.array(range(len(rows)), pa.int64())
    else:
        positions = pc.indices_nonzero(pc.fill_null(wanted, False)).cast(pa.int64())
    if before is not None:
        positions = positions.filter(pc.less(positions, before))
    page = positions[max(0, len(positions) - limit) :][::-1]
    chosen = dataset.read_columns(shard, ["sha256", "label", "source", "split"]).take(page).to_pylist()
    items = [{**row, "image": image_address(run.model, row["sha256"])} for row in chosen]
    return {"items": items, "next_before": page[-1].as_py() if len(positions) > limit else None}


def _run(db: Session, run_id: int) -> Run:
    run = db.get(Run, run_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}; `emend runs` lists them")
    return run


def _made_dataset(db: Session, run: Run) -> bool:
    """A later run that adds nothing trains on the same dataset version."""
    first = db.scalar(
        select(Run.id)
        .where(Run.model == run.model, Run.dataset_version == run.dataset_version)
        .order_by(Run.id)
        .limit(1)
    )
    return first == run.id


def _champion_version(db: Session, run: Run, stages: Mapping[str, Stage]) -> int | None:
    """Whom it was compared with: what was live when its stage `version` began."""
    if "version" not in stages:
        return None
    return versions.live_at(db, run.model, stages["version"].started_at)[0]


def _curve(db: Session, run_id: int) -> list[Json]:
    """Figures of each epoch; one that was trained again after a kill counts once, as it last was."""
    rows = db.scalars(
        select(Transition)
        .where(Transition.run_id == run_id, Transition.stage == "train", Transition.status == "epoch")
        .order_by(Transition.id)
    )
    told = {
        row.figures["epoch"]: {"at": row.at.isoformat(), **row.figures}
        for row in rows
        if "epoch" in row.figures
    }
    return [figures for _, figures in sorted(told.items())]


@dataclass(frozen=True)
class Files:
    """What git and the working folders hold of a run and of those before it; read once."""

    home: Path
    run_id: int
    objects: Mapping[str, tuple[str, bytes]]

    @classmethod
    def of(cls, home: Path, run_id: int, earlier: Sequence[int]) -> Files:
        names = [f"run-{run_id}^{{commit}}"]
        names += [f"run-{run_id}:reports/{name}" for name in ("per_class.csv", "confusion.csv")]
        names += [f"run-{each}:params.yaml" for each in (run_id, *earlier)]
        return cls(home, run_id, git_objects(home, names))

    @property
    def folder(self) -> Path:
        return self.home / "runs" / str(self.run_id)

    @property
    def commit(self) -> str | None:
        found = self.objects.get(f"run-{self.run_id}^{{commit}}")
        return found[0] if found else None

    def csv(self, name: str) -> list[dict[str, str]] | None:
        found = self.objects.get(f"run-{self.run_id}:reports/{name}")
        return None if found is None else _rows(found[1])

    def params(self, run_id: int) -> Json | None:
        """As it began with them: a copy is in its folder until that goes, and what it committed in git."""
        path = self.home / "runs" / str(run_id) / "params.yaml"
        if run_id == self.run_id:
            mirror.bring_elsewhere(self.home, path)
        try:
            text = path.read_bytes()
        except OSError:
            found = self.objects.get(f"run-{run_id}:params.yaml")
            if found is None:
                return None
            text = found[1]
        try:
            read = yaml.load(text, Loader=_LOADER)
        except yaml.YAMLError:  # somebody's edit that the run refused
            return None
        return read if isinstance(read, dict) else None

    def outcomes(self) -> list[Json] | None:
        """As the stage wrote them: labels of both, also where no version came of it."""
        mirror.bring_elsewhere(self.home, self.folder / "evaluate.json")
        try:
            told = json.loads((self.folder / "evaluate.json").read_text())
        except (OSError, ValueError):
            return None
        found: list[Json] = told["data"]["outcomes"]
        return found


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def git_objects(home: Path, names: Sequence[str]) -> dict[str, tuple[str, bytes]]:
    """(hash, content) of those that are there, with one process. names: as `git rev-parse` takes them.

    Elsewhere, of what the store's history holds by now.
    """
    mirror.bring_history(home)
    if not (home / ".git").is_dir():
        return {}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    done = subprocess.run(
        ["git", "cat-file", "--batch"],
        cwd=home,
        env={**environment, "LC_ALL": "C"},
        input="".join(f"{name}\n" for name in names).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise WorkspaceError(f"git cat-file failed in {home}: {done.stderr.decode(errors='replace').strip()}")
    found, output, at = {}, done.stdout, 0
    for name in names:
        end = output.index(b"\n", at)
        head = output[at:end].split(b" ")
        at = end + 1
        if len(head) == 3 and head[1] in (b"blob", b"commit"):
            size_bytes = int(head[2])
            found[name] = (head[0].decode(), output[at : at + size_bytes])
            at += size_bytes + 1
    return found


def _slice(figures: Mapping[str, Any], name: str, confidence: float) -> Json | None:
    """None when it has no image."""
    images = int(figures.get(f"{name}_images", 0))
    if images == 0:
        return None
    champion, difference = figures.get(f"{name}_accuracy_champion"), None
    if f"{name}_gain_points" in figures:
        keys = {"points": "gain_points", "low": "gain_points_low", "high": "gain_points_high"}
        difference = {key: figures[f"{name}_{figure}"] for key, figure in keys.items()}
    return {
        "champion": None if champion is None else side(champion, images, confidence),
        "challenger": side(figures[f"{name}_accuracy"], images, confidence),
        "difference": difference,
    }


def side(accuracy: float, images: int, confidence: float) -> Json:
    low, high = wilson_interval(round(accuracy * images), images, confidence)
    return {
        "accuracy": accuracy,
        "low": round(float(low), 6),
        "high": round(float(high), 6),
        "images": images,
    }


def _rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def per_class(content: bytes) -> list[Json]:
    """Of a committed reports/per_class.csv."""
    return categories(_rows(content), {})


def categories(per_class: Sequence[Mapping[str, str]], ids: Mapping[str, int]) -> list[Json]:
    """reports/per_class.csv, in its order."""

    def number(row: Mapping[str, str], column: str) -> float | None:
        return float(row[column]) if row.get(column) else None

    return [
        {
            "id": ids.get(row["category"]),
            "name": row["category"],
            "images": int(row["holdout_images"]),
            "champion_recall": number(row, "champion_recall"),
            "challenger_recall": number(row, "recall"),
            "low": number(row, "recall_low"),
            "high": number(row, "recall_high"),
            "generated_images": int(row["generated_images"]),
            "champion_generated_recall": number(row, "champion_generated_recall"),
            "challenger_generated_recall": number(row, "generated_recall"),
        }
        for row in per_class
    ]


def confusion(files: Files, per_class: Sequence[Mapping[str, str]] | None) -> Json | None:
    """Counts of what the challenger said; the most confused categories when there are many."""
    found = files.objects.get(f"run-{files.run_id}:reports/confusion.csv")
    if found is None or per_class is None:
        return None
    lines = found[1].decode().splitlines()[1:]
    pairs = Counter(_pairs(lines))
    names = [row["category"] for row in per_class]
    names += sorted({name for pair in pairs for name in pair} - set(names))
    missing = None
    if len(names) > MOST_CONFUSED:
        wrong: Counter[str] = Counter()
        for (actual, predicted), count in pairs.items():
            if actual != predicted:
                wrong.update({actual: count, predicted: count})
        shown = {name for name, _ in wrong.most_common(MOST_CONFUSED)}
        missing = f"the {len(shown)} categories most often confused are shown, of {len(names)}"
        names = [name for name in names if name in shown]
    of_holdout = any(int(row["holdout_images"]) for row in per_class)
    return {
        "of": "holdout" if of_holdout else "generated",
        "categories": names,
        "counts": [[pairs[actual, predicted] for predicted in names] for actual in names],
        "missing": missing,
    }


def _pairs(lines: Sequence[str]) -> Counter[tuple[str, str]]:
    """Lines of the CSV are few different ones: each is parsed once."""
    counted = Counter(lines)
    parsed = csv.reader(counted)
    return Counter(
        {(actual, predicted): n for (actual, predicted), n in zip(parsed, counted.values(), strict=True)}
    )


_ORDER = ("fixed", "broke", "still wrong", "still right")


def _corrections(run: Run, champion: int | None, files: Files) -> Json:
    told = files.outcomes()
    with session() as db:
        judged = _from_database(db, run, champion) if told is None else _with_images(db, told)
    for one in judged:
        one["change"] = _change(one.pop("champion_correct"), one.pop("challenger_correct"))
        one["image"] = image_address(run.model, one.pop("image_sha256"))
    judged.sort(key=lambda one: (_ORDER.index(one["change"]), one["correction_id"]))
    counts = Counter(one["change"] for one in judged)
    return {
        "images": len(judged),
        "fixed": counts["fixed"],
        "broke": counts["broke"],
        "items": judged[:MOST_CORRECTIONS],
        "left_out": max(0, len(judged) - MOST_CORRECTIONS),
    }


def _change(before: bool | None, now: bool) -> str:
    """before: None where there was no champion: a first version has fixed and broken nothing."""
    if before is None or before == now:
        return "still right" if now else "still wrong"
    return "fixed" if now else "broke"


def _with_images(db: Session, told: Sequence[Json]) -> list[Json]:
    images: dict[UUID, str] = {}
    ids = [UUID(one["correction_id"]) for one in told]
    for start in range(0, len(ids), 10_000):
        part = ids[start : start + 10_000]
        query = select(Correction.id, Correction.image_sha256).where(Correction.id.in_(part))
        images |= {row.id: row.image_sha256 for row in db.execute(query)}
    kept = ["correction_id", "label", "champion_label", "challenger_label"]
    kept += ["champion_correct", "challenger_correct"]
    return [
        {key: one[key] for key in kept}
        | {"image_sha256": images[id_], "split": "learned" if one["learned"] else "exam"}
        for id_, one in zip(ids, told, strict=True)
        if id_ in images
    ]


def _from_database(db: Session, run: Run, champion: int | None) -> list[Json]:
    """What a later run asked of this version too is not this run's: its corrections came in a later dataset version."""
    if run.version is None:
        return []
    was = select(Outcome).where(Outcome.model == run.model, Outcome.version == champion).subquery()
    query = (
        select(
            Correction.id,
            Correction.label,
            Correction.image_sha256,
            Correction.status,
            was.c.label.label("champion_label"),
            was.c.correct.label("champion_correct"),
            Outcome.label.label("challenger_label"),
            Outcome.correct.label("challenger_correct"),
        )
        .join(Outcome, (Outcome.correction_id == Correction.id) & (Outcome.version == run.version))
        .outerjoin(was, was.c.correction_id == Correction.id)
        .where(Outcome.model == run.model, Correction.dataset_version <= run.dataset_version)
    )
    return [
        {
            "correction_id": str(row.id),
            "label": row.label,
            "image_sha256": row.image_sha256,
            "split": _split(row.status, row.image_sha256),
            "champion_label": row.champion_label,
            "champion_correct": row.champion_correct,
            "challenger_label": row.challenger_label,
            "challenger_correct": row.challenger_correct,
        }
        for row in db.execute(query)
    ]


def _split(status: CorrectionStatus, sha256: str) -> str:
    if status in (CorrectionStatus.merged, CorrectionStatus.exam):
        return "learned" if status is CorrectionStatus.merged else "exam"
    return "learned" if split_of(sha256) == "train" else "exam"  # relabelled or withdrawn since


def _changes(params: Json | None, files: Files, earlier: Sequence[int]) -> list[Json] | None:
    """Against the last run before it that got as far as having any. None: there is none."""
    if params is None:
        return None
    before = next((found for run_id in earlier if (found := files.params(run_id)) is not None), None)
    if before is None:
        return None
    old, new = _flat(before), _flat(params)
    return [
        {"key": key, "before": old.get(key), "after": new.get(key)}
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _flat(params: Mapping[str, Any], prefix: str = "") -> Json:
    """{"train": {"epochs": 8}} to {"train.epochs": 8}."""
    flat: Json = {}
    for key, value in params.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _added(home: Path, run: Run) -> Json:
    assert run.dataset_version is not None
    rows = dataset.read_columns(dataset.shard_path(home, run.dataset_version), ["label", "source", "split"])
    labelled = rows.filter(pc.is_valid(rows["label"]))

    def counted(column: str) -> dict[str, int]:
        counts = labelled[column].value_counts().to_pylist()
        return {each["values"]: each["counts"] for each in sorted(counts, key=lambda each: -each["counts"])}

    return {
        "images": len(labelled),
        "withdrawn": len(rows) - len(labelled),
        **{f"by_{column}": counted(column) for column in ("label", "source", "split")},
    }


# Of a rule: (figure it looks at, unit). Its limit comes from the parameters, or from a figure. `no_sign_of_loss` has
# several: its sentence says which.
_LOOKED_AT = {
    "holdout_not_worse": ("holdout_gain_points_low", "points"),
    "no_category_falls": ("categories_fallen", "categories"),
    "new_categories": ("new_category_recall_lowest", "fraction"),
    "beats_chance": ("accuracy_low", "fraction"),
}


def _rules(verdict: Mapping[str, Any], gate: Mapping[str, Any]) -> list[Json]:
    figures = verdict["figures"]
    limits = {
        "holdout_not_worse": -gate["margin_points"],
        "no_category_falls": 0,
        "new_categories": gate["new_category_recall_floor"],
        "beats_chance": figures.get("needed_accuracy"),
        "gains_or_fixes": 0,
    }
    told = []
    for reason in verdict["reasons"]:
        name = reason["name"]
        figure, unit = _LOOKED_AT.get(name, (None, None))
        value = figures.get(figure)
        if name == "gains_or_fixes":
            gain = figures.get("holdout_gain_points_low")
            if gain is not None and gain > 0:
                value, unit = gain, "points"
            else:
                value = figures.get("corrections_fixed", 0) - figures.get("corrections_broke", 0)
                unit = "corrections"
        told.append(
            {
                "name": name,
                "limit": limits.get(name),
                "value": value,
                "unit": unit,
                "held": reason["passed"],
                "sentence": reason["sentence"],
            }
        )
    return told


def _missing(
    run: Run, files: Files, evaluated: bool, shard_is_there: bool, stages: Mapping[str, Stage]
) -> list[str]:
    """What was there once and is not any more, in clauses."""
    gone = []
    if evaluated and files.commit is None:
        gone.append(f"the home has no tag run-{run.id}: categories and confusion are not known any more")
    if run.dataset_version is not None and not shard_is_there:
        gone.append(f"dataset version {run.dataset_version} has no images of its own in the home")
    if stages and not files.folder.exists():
        gone.append("its working folder was removed: corrections are told as their receipts have them")
    if run.weights_removed_at is not None:
        gone.append(f"its weights were removed on {run.weights_removed_at:%Y-%m-%d}")
    return gone
