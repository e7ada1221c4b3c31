"""A home with two runs that were really evaluated, committed and tagged, and what the database knows of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

from core.database import (
    Category,
    CategoryState,
    Correction,
    CorrectionStatus,
    LedgerAction,
    LedgerEntry,
    LedgerOutcome,
    Model,
    Outcome,
    Run,
    RunStatus,
    Stage,
    StageStatus,
    Trigger,
    Version,
    session,
)
from core.settings import settings
from core.storage import write_json
from pipeline import dataset, runs, workspace
from pipeline.stages import STAGES, StageRun
from pipeline.stages.evaluate import evaluate
from tests.unit.test_evaluate import BAD, GOOD, NAMES, SIDE, Row, write_dataset, write_model

START = datetime(2026, 11, 1, tzinfo=UTC)
CORRECTIONS = [UUID(f"019a1c7e-0000-7000-8000-{number:012d}") for number in range(5)]


class Reported:
    """Run 1: a first version that is wrong on oddly drawn images; run 2: a challenger that knows them, promoted."""

    def __init__(self, model: str = "doodles") -> None:
        self.model, self.home = model, (settings().data_dir / model).resolve()
        section = {"mode": "L", "width": SIDE, "height": SIDE}
        self.params: dict[str, Any] = {
            "input": section,
            "train": {"augmentation": "none", "epochs": 4},
            "gate": {"min_holdout_images": 200},
        }
        self.home.parent.mkdir(parents=True, exist_ok=True)
        workspace.create_home(self.home, yaml.safe_dump(self.params))
        with session() as db:
            db.add(Model(name=model, params=self.params))
            db.flush()
            for id_, name in NAMES.items():
                db.add(Category(model=model, id=id_, name=name, key=name, state=CategoryState.active))

    def run(self, rows: Sequence[Row], answers: dict[int, int], champion: dict[int, int] | None) -> int:
        """A whole run, but for its training."""
        with session() as db:
            run = Run(model=self.model, trigger=Trigger.manual, requested_by="test", status=RunStatus.running)
            db.add(run)
            db.flush()
            run_id = run.id
        at = START + timedelta(hours=run_id)
        folder = self.home / "runs" / str(run_id)
        folder.mkdir(parents=True)
        (self.home / "params.yaml").write_text(yaml.safe_dump(self.params))
        shutil.copyfile(self.home / "params.yaml", folder / "params.yaml")
        number = workspace.latest_dataset_version(self.home) + bool(rows)
        if rows:
            write_dataset(self.home, rows, number)
        write_model(self.home / "model", answers)
        if champion is not None:
            write_model(self.home / "base", champion)
        write_json(self.home / "base" / "version.json", {"version": None if champion is None else run_id - 1})
        workspace.record_dataset(self.home, number, f"dataset {number} (run {run_id})", new=bool(rows))
        result = json.loads(json.dumps(evaluate(StageRun(self.home, run_id)).as_json()))
        write_json(folder / "evaluate.json", result)
        self._record(run_id, at, number, result)
        return run_id

    def _record(self, run_id: int, at: datetime, number: int, result: dict[str, Any]) -> None:
        verdict = result["data"]["verdict"]
        with session() as db:
            run = db.get_one(Run, run_id)
            run.status = RunStatus.succeeded if verdict["promoted"] else RunStatus.rejected
            run.verdict, run.dataset_version, run.version = verdict, number, run_id
            run.mlflow_run_id = f"mlflow{run_id}"
            for position, name in enumerate(STAGES):
                db.add(
                    Stage(
                        run_id=run_id,
                        name=name,
                        position=position,
                        status=StageStatus.succeeded,
                        started_at=at,
                    )
                )
            for epoch in (1, 2, 2):  # the second was trained again after a kill
                figures = {"epoch": epoch, "epochs": 2, "train_loss": 0.5, "validation_accuracy": 0.9}
                runs.record(db, run, "train", "epoch", None, figures)
            db.add(
                Version(
                    model=self.model,
                    version=run_id,
                    run_id=run_id,
                    dataset_version=number,
                    category_ids=[0, 1],
                    figures=verdict["figures"],
                    created_at=at,
                )
            )
            db.flush()
            for outcome in result["data"]["outcomes"]:
                for who, version in (("challenger", run_id), ("champion", run_id - 1)):
                    if outcome[f"{who}_label"] is not None:
                        db.merge(
                            Outcome(
                                correction_id=UUID(outcome["correction_id"]),
                                model=self.model,
                                version=version,
                                label=outcome[f"{who}_label"],
                                correct=outcome[f"{who}_correct"],
                            )
                        )
        if verdict["promoted"]:
            self.promote(run_id, at + timedelta(minutes=30))

    def promote(
        self, version: int, at: datetime, outcome: LedgerOutcome = LedgerOutcome.done, actor: str = "gate"
    ) -> None:
        with session() as db:
            db.add(
                LedgerEntry(
                    model=self.model,
                    action=LedgerAction.promote,
                    version=version,
                    actor=actor,
                    reason="better",
                    opened_at=at,
                    outcome=outcome,
                    closed_at=at,
                )
            )

    def add_corrections(self) -> None:
        """Rows for CORRECTIONS, as their images in the dataset are."""
        rows = dataset.read_rows(self.home, ["correction_id", "category_id", "split"]).to_pylist()
        with session() as db:
            for row in rows:
                if row["correction_id"] is not None:
                    learned = row["split"] == "train"
                    db.add(
                        Correction(
                            id=UUID(row["correction_id"]),
                            model=self.model,
                            image_sha256=row["sha256"],
                            category_id=row["category_id"],
                            label=row["label"],
                            actor="a",
                            request_sha256="r",
                            status=CorrectionStatus.merged if learned else CorrectionStatus.exam,
                            dataset_version=row["dataset_version"],
                        )
                    )

    def sha256s(self, number: int) -> list[str]:
        path: Path = dataset.shard_path(self.home, number)
        names: list[str] = dataset.read_columns(path, ["sha256"])["sha256"].to_pylist()
        return names


def two_runs() -> Reported:
    """Versions 1 and 2; 2 fixed three corrections and broke one."""
    made = Reported()
    generated = [Row(look, GOOD[look], "regression", count=20) for look in (0, 1)]
    training = [Row(0, 0, "train", count=30), Row(1, 1, "validation", count=30)]
    holdout = [Row(look, GOOD[look], "holdout", count=100) for look in range(3)]
    first = made.run([*holdout, *generated, *training], BAD, None)
    made.promote(first, START + timedelta(hours=1, minutes=30), actor="a person")  # the gate said no
    made.params["train"]["epochs"] = 8
    number = [str(id_) for id_ in CORRECTIONS]
    corrected = [
        Row(2, 0, "train", number[0]),
        Row(3, 1, "train", number[1]),
        Row(2, 0, "validation", number[2]),
        Row(0, 0, "holdout", number[3]),
        Row(2, 1, "excluded", number[4]),
    ]
    write_dataset(made.home, corrected, 2)
    made.add_corrections()
    made.run(corrected, GOOD, BAD)
    return made
