"""Between the stages and the database: what a stage must know goes into the manifest, what it decided comes back.

`before(stage)` returns the keys the manifest gains before that stage runs. `after(stage)` records its result, in
the same transaction as the stage's transition to succeeded, so a stage is never done without its consequences.
What they must know of the registry is asked before the transaction: a row must not stay locked while MLflow hangs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import and_, case, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core import telemetry, withdrawal
from core.database import (
    IN_DATASET,
    Category,
    CategoryState,
    Correction,
    CorrectionStatus,
    Import,
    ImportStatus,
    LedgerAction,
    LedgerOutcome,
    Model,
    Outcome,
    Run,
    RunStatus,
    Stage,
    StageStatus,
    Version,
    session,
)
from core.registry import Registry, RegistryError
from core.settings import settings
from core.storage import write_durably
from pipeline import retention, schedule, workspace
from pipeline.champion import MOVED_BACK, Aliases, aliases_of
from pipeline.params import load
from pipeline.promotion import close_entry, entry_of, open_entry
from pipeline.stages import read_json

Manifest = dict[str, Any]

# In a dataset version until the next run has taken it out.
_LEAVING = and_(Correction.withdrawn_at.is_not(None), Correction.status.in_(IN_DATASET))

_log = telemetry.get_logger("orchestrator")

# What merge said of a correction, and the state it then has.
_STATES = {
    "merged": CorrectionStatus.merged,
    "exam": CorrectionStatus.exam,
    "duplicate": CorrectionStatus.superseded,
    "superseded": CorrectionStatus.superseded,
    "quarantined": CorrectionStatus.quarantined,
}


def before(stage: str, db: Session, run: Run, manifest: Manifest, aliases: Aliases | None) -> Manifest:
    """aliases: where they point now, for the stages in ASKS_ALIASES."""
    if stage in ASKS_ALIASES:
        assert aliases is not None
        return ASKS_ALIASES[stage](db, run, manifest, aliases)
    return _BEFORE[stage](db, run, manifest) if stage in _BEFORE else {}


def after(stage: str, db: Session, run: Run, manifest: Manifest, results: Mapping[str, Any]) -> None:
    """results: the `data` of this stage and of those before it, by stage."""
    if stage in _AFTER:
        _AFTER[stage](db, run, manifest, results)


def aliases_after_stop(run_id: int, model: str) -> Aliases | None:
    """What `after_stop` must know; None: it was not in promote, or MLflow is away."""
    with session() as db:
        promote = db.get(Stage, (run_id, "promote"))
    if promote is None or promote.status is not StageStatus.running:
        return None
    try:
        with Registry(settings().mlflow_tracking_uri) as registry:
            return aliases_of(registry, model)
    except RegistryError as exc:
        _log.warning("the promotion stays open in the ledger", run_id=run_id, reason=exc.message)
        return None


def after_stop(stage: str, db: Session, run: Run, aliases: Aliases | None) -> str | None:
    """A promote stage that failed or was killed may or may not have moved champion: its intent is closed by where
    champion is. When that is not known it stays open for the next attempt, or the orchestrator's next start.

    Returns what a person must know besides.
    """
    if stage != "promote" or run.version is None or aliases is None:
        return None
    champion = aliases.champion
    moved_back = _moved_back(run).exists()
    entry = entry_of(db, run.id, None)
    if entry is not None:
        reverted = LedgerOutcome.reverted if moved_back else LedgerOutcome.abandoned
        close_entry(db, entry, LedgerOutcome.done if champion == run.version else reverted)
    elif moved_back and champion is not None:
        # Its promotion was closed as done when an earlier attempt was killed after moving champion.
        promoted = _promotion_of(run, None)
        undone = {
            "action": LedgerAction.rollback,
            "version": champion,
            "replaced": run.version,
            "reason": f"the model server did not answer with version {run.version}",
        }
        close_entry(db, open_entry(db, **(promoted | undone)), LedgerOutcome.done)
    if champion == run.version:
        undo = f"emend rollback --model {run.model} --version {run.version}"
        return f"version {run.version} is live already; `{undo}` undoes that"
    return None


def _moved_back(run: Run) -> Path:
    return settings().data_dir / run.model / "runs" / str(run.id) / MOVED_BACK


def _snapshot(db: Session, run: Run, _: Manifest) -> Manifest:
    """Everything that waits at this moment, and what is to leave. Later arrivals are the next run's."""
    home = settings().data_dir / run.model
    params = load(home)
    # The run keeps to these: what is edited from now on is the next run's.
    write_durably(home / "runs" / str(run.id) / "params.yaml", (home / "params.yaml").read_bytes())
    _adopt_dataset(db, run.model, home)
    model = db.get_one(Model, run.model)
    schedule.follow_params(model, params.model_dump(mode="json"), datetime.now(UTC))
    withdrawal.bring_back_for_leaving(db, run.model, settings().data_dir)
    db.flush()
    corrections = db.scalars(
        select(Correction)
        .where(Correction.model == run.model, or_(Correction.status == CorrectionStatus.accepted, _LEAVING))
        .order_by(Correction.received_at, Correction.id)
    ).all()
    imports = db.scalars(
        select(Import)
        .where(Import.model == run.model, Import.status == ImportStatus.staged)
        .order_by(Import.created_at)
    ).all()
    categories = db.scalars(select(Category).where(Category.model == run.model).order_by(Category.id)).all()
    return {
        "run": run.id,
        "model": run.model,
        "force": run.force,
        "trigger": run.trigger.value,
        "snapshot_at": time.time(),
        "dataset_version": workspace.latest_dataset_version(home),
        "untrained_images": _untrained_images(db, run.model),
        "untrained_withdrawals": _untrained_withdrawals(db, run.model),
        "corrections": [
            {
                "id": str(c.id),
                "image_sha256": c.image_sha256,
                "label": c.label,
                "category_id": c.category_id,
                "actor": c.actor,
                "source": c.source,
                "licence": None,
                "received_at": c.received_at.isoformat(),
                "withdrawn": c.leaving,
            }
            for c in corrections
        ],
        "imports": [
            {"id": str(i.id), "file": i.file, "images": i.images, "source": i.source} for i in imports
        ],
        "categories": [
            {"id": c.id, "name": c.name, "state": c.state.value, "aliases": c.aliases} for c in categories
        ],
    }


def _adopt_dataset(db: Session, model: str, home: Path) -> None:
    """A run that was killed when its dataset version was tagged but not yet recorded, and not resumed: its
    corrections are in the dataset, so they must not wait any more."""
    run_id = workspace.run_of_dataset(home, workspace.latest_dataset_version(home))
    unrecorded = db.scalar(
        select(Run)
        .join(Stage, Stage.run_id == Run.id)
        .where(Run.id == run_id, Run.model == model)
        .where(Stage.name == "version", Stage.status != StageStatus.succeeded)
    )
    folder = home / "runs" / str(run_id)
    if unrecorded is None or not (folder / "merge.json").exists():
        return
    manifest = read_json(folder / "manifest.json")
    results = {stage: read_json(folder / f"{stage}.json")["data"] for stage in ("convert", "merge")}
    dataset_version = workspace.latest_dataset_version(home)
    _versioned(db, unrecorded, manifest, {**results, "version": {"dataset_version": dataset_version}})
    db.flush()
    _log.warning("adopted a dataset version that was not recorded", dataset=dataset_version, run_id=run_id)


def _untrained_images(db: Session, model: str) -> int:
    """In a dataset version that no finished training has seen: an earlier run stopped half way."""
    trained = db.scalar(select(func.max(Version.dataset_version)).where(Version.model == model)) or 0
    corrections = db.scalar(
        select(func.count())
        .select_from(Correction)
        .where(Correction.model == model, Correction.dataset_version > trained)
    )
    imported = db.scalar(
        select(func.coalesce(func.sum(Import.images), 0)).where(
            Import.model == model, Import.dataset_version > trained
        )
    )
    return int(corrections or 0) + int(imported or 0)


def _untrained_withdrawals(db: Session, model: str) -> int:
    """Taken out of the dataset by a run that stopped before its training was finished."""
    trained = db.scalar(select(func.max(Version.dataset_version)).where(Version.model == model)) or 0
    counted = db.scalar(
        select(func.count())
        .select_from(Correction)
        .where(Correction.model == model, Correction.withdrawn_dataset_version > trained)
    )
    return counted or 0


def _champion(_db: Session, _run: Run, _: Manifest, now: Aliases) -> Manifest:
    return {"champion_version": now.champion}


def _promotion_may_go_on(db: Session, run: Run, manifest: Manifest, now: Aliases) -> Manifest:
    """The intent row, and what `previous` named before any attempt of this run moved it."""
    _moved_back(run).unlink(missing_ok=True)
    paused = db.get_one(Model, run.model).promotion_paused_at is not None
    known = {"promotion_paused": paused, "previous_version": manifest.get("previous_version")}
    if paused or run.verdict is None or not run.verdict["promoted"]:
        return known
    if now.champion != run.version:
        known["previous_version"] = now.previous
        open_entry(db, **_promotion_of(run, now.champion))
    elif entry_of(db, run.id, LedgerOutcome.done) is None:
        open_entry(db, **_promotion_of(run, manifest["champion_version"]))
    return known


def _promotion_of(run: Run, replaced: int | None) -> dict[str, Any]:
    assert run.version is not None
    assert run.verdict is not None
    return {
        "action": LedgerAction.promote,
        "model": run.model,
        "version": run.version,
        "replaced": replaced,
        "actor": f"run {run.id}",
        "reason": run.verdict["sentence"],
        "run_id": run.id,
    }


def _ingested(_db: Session, run: Run, _: Manifest, results: Mapping[str, Any]) -> None:
    run.new_images = results["ingest"].get("new_images")


def _merged(db: Session, run: Run, manifest: Manifest, results: Mapping[str, Any]) -> None:
    """What needs no dataset version to be settled, so also holds when the run is halted here: nothing new."""
    withdrawals = _withdrawals(manifest)
    for outcome in results["merge"]["corrections"]:
        state = _STATES[outcome["outcome"]]
        if outcome["id"] in withdrawals:
            if state not in IN_DATASET:  # the image's label was not, or no longer, this correction's
                _settle_withdrawal(db, outcome["id"], None)
        elif state not in IN_DATASET:
            _settle(db, outcome["id"], state, outcome.get("reason"), None)
    refused = results["convert"]["quarantined"]
    for entry in refused:
        if entry.get("correction_id") is not None:
            _settle(db, entry["correction_id"], CorrectionStatus.quarantined, entry["reason"], None)
    # One side of a conflict was taken back meanwhile, so it is none.
    set_aside = [each["id"] for each in results["merge"]["corrections"] if each["outcome"] == "quarantined"]
    taken_back = db.scalars(
        select(Correction).where(
            Correction.id.in_(set_aside), Correction.status == CorrectionStatus.withdrawn
        )
    ).all()
    withdrawal.bring_back(db, taken_back, settings().data_dir)
    if results["merge"]["new_images"] == 0:
        _settle_imports(db, manifest, int(manifest["dataset_version"]))


def _versioned(db: Session, run: Run, manifest: Manifest, results: Mapping[str, Any]) -> None:
    """What merge took in is in the dataset now that the version exists."""
    dataset_version = int(results["version"]["dataset_version"])
    run.dataset_version = dataset_version
    run.new_images = int(results["merge"]["new_images"])
    withdrawals = _withdrawals(manifest)
    for outcome in results["merge"]["corrections"]:
        state = _STATES[outcome["outcome"]]
        if state in IN_DATASET and outcome["id"] in withdrawals:
            _settle_withdrawal(db, outcome["id"], dataset_version)
        elif state in IN_DATASET:
            _settle(db, outcome["id"], state, outcome.get("reason"), dataset_version)
    _settle_imports(db, manifest, dataset_version)
    for category in results["merge"]["categories"]:
        db.execute(
            update(Category)
            .where(Category.model == run.model, Category.id == category["id"])
            .values(
                state=CategoryState(category["state"]),
                images=category["images"],
                train_images=category["train_images"],
            )
        )


def _withdrawals(manifest: Manifest) -> set[str]:
    return {correction["id"] for correction in manifest["corrections"] if correction["withdrawn"]}


def _settle(
    db: Session, correction_id: str, status: CorrectionStatus, reason: str | None, dataset_version: int | None
) -> None:
    """Once: a repeated attempt changes nothing. What is in the dataset can only be superseded, by a relabelling.

    What was withdrawn, or refused by a reviewer, while the run had it already is in the dataset now: it leaves with the
    next run.
    """
    waited = Correction.status == CorrectionStatus.accepted
    if status in IN_DATASET:
        refused = and_(
            Correction.dataset_version.is_(None),
            or_(Correction.status == CorrectionStatus.withdrawn, Correction.reviewed_at.is_not(None)),
        )
        given = Correction.withdrawn_at
        values = {
            "withdrawn_at": case((waited, given), else_=func.coalesce(given, func.now())),
        }
        settled = or_(waited, refused)
    else:
        values = {}
        settled = waited
        if status is CorrectionStatus.superseded:
            settled = or_(waited, Correction.status.in_(IN_DATASET))
    db.execute(
        update(Correction)
        .where(Correction.id == correction_id, settled)
        .values(status=status, reason=reason, dataset_version=dataset_version, **values)
    )


def _settle_withdrawal(db: Session, correction_id: str, dataset_version: int | None) -> None:
    """dataset_version: the first without it. None: its label was not, or no longer, the image's."""
    db.execute(
        update(Correction)
        .where(Correction.id == correction_id, _LEAVING)
        .values(status=CorrectionStatus.withdrawn, withdrawn_dataset_version=dataset_version)
    )


def _settle_imports(db: Session, manifest: Manifest, dataset_version: int) -> None:
    db.execute(
        update(Import)
        .where(Import.id.in_([staged["id"] for staged in manifest["imports"]]))
        .where(Import.status == ImportStatus.staged)
        .values(status=ImportStatus.merged, dataset_version=dataset_version)
    )


def _evaluated(_db: Session, run: Run, _: Manifest, results: Mapping[str, Any]) -> None:
    run.verdict = results["evaluate"]["verdict"]


def _registered(db: Session, run: Run, _: Manifest, results: Mapping[str, Any]) -> None:
    """The version, and which corrections it and the champion get right."""
    registered = results["register"]
    run.version, run.mlflow_run_id = int(registered["version"]), registered["mlflow_run_id"]
    db.execute(
        insert(Version)
        .values(
            model=run.model,
            version=run.version,
            run_id=run.id,
            dataset_version=int(results["version"]["dataset_version"]),
            category_ids=registered["category_ids"],
            figures=results["evaluate"]["verdict"]["figures"],
        )
        .on_conflict_do_nothing()
    )
    champion = results["version"]["base_version"]
    rows = []
    for outcome in results["evaluate"]["outcomes"]:
        for who, version in (("challenger", run.version), ("champion", champion)):
            if version is not None and outcome[f"{who}_label"] is not None:
                rows.append(
                    {
                        "correction_id": outcome["correction_id"],
                        "model": run.model,
                        "version": version,
                        "label": outcome[f"{who}_label"],
                        "correct": outcome[f"{who}_correct"],
                    }
                )
    for start in range(0, len(rows), 1_000):
        statement = insert(Outcome).values(rows[start : start + 1_000])
        # A correction relabelled since has another right answer now.
        db.execute(
            statement.on_conflict_do_update(
                index_elements=[Outcome.correction_id, Outcome.version],
                set_={"label": statement.excluded.label, "correct": statement.excluded.correct},
            )
        )


def _promoted(db: Session, run: Run, _: Manifest, results: Mapping[str, Any]) -> None:
    entry = entry_of(db, run.id, None)
    if results["promote"]["promoted"] and entry is not None:
        close_entry(db, entry, LedgerOutcome.done)


def final_status(run: Run, results: Mapping[str, Any]) -> tuple[RunStatus, str]:
    """How a run that went through all stages ended, and its sentence."""
    assert run.verdict is not None
    if not run.verdict["promoted"]:
        return RunStatus.rejected, run.verdict["sentence"]
    promotion = results["promote"]
    return RunStatus.succeeded, run.verdict["sentence"] if promotion["promoted"] else promotion["why"]


_BEFORE: dict[str, Callable[[Session, Run, Manifest], Manifest]] = {
    "ingest": _snapshot,
    "cleanup": retention.may_go,
}
ASKS_ALIASES: dict[str, Callable[[Session, Run, Manifest, Aliases], Manifest]] = {
    "version": _champion,
    "promote": _promotion_may_go_on,
}
_AFTER: dict[str, Callable[[Session, Run, Manifest, Mapping[str, Any]], None]] = {
    "ingest": _ingested,
    "merge": _merged,
    "version": _versioned,
    "evaluate": _evaluated,
    "register": _registered,
    "promote": _promoted,
    "cleanup": retention.gone,
}
