"""What a full stand holds, straight into its database and data folder: `Stand.fill`.

1,200 runs with stages, of every outcome and trigger: the newest is under way, the one before was promoted, then one
failed, one was rejected. 100,000 predictions with pictures, 5,000 corrections of every status and with every reason
(142 are the visitor's), 345 categories with long and foreign names, 60 versions, a ledger of 200 entries. The run
before the newest was really evaluated, in a home with its dataset and reports: its page is whole.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import onnx
import pyarrow as pa
import yaml
from numpy.typing import NDArray
from sqlalchemy import Connection, insert, text
from sqlalchemy.orm import Session

from core import partitions
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
    Review,
    Run,
    RunStatus,
    Stage,
    StageStatus,
    Transition,
    Trigger,
    Version,
    session,
)
from core.images import encode_png, name_of
from core.labels import key_of
from core.pictures import inbox_path, original_path
from core.storage import write_atomically, write_json
from pipeline import dataset, starter, workspace
from pipeline.stages import STAGES, StageRun
from pipeline.stages.evaluate import evaluate
from tests.support import tiny_model

if TYPE_CHECKING:
    from tests.support.pages_stand import Stand

RUNS, PREDICTIONS, CORRECTIONS, VERSIONS, LEDGER = 1_200, 100_000, 5_000, 60, 200
OF_VISITOR = 142
JUDGED = 60  # corrections in the dataset of the run that was really evaluated
MODEL, OTHER = "doodles", "photos"
PEOPLE = ("anna@example.org", "Bartholomäus von und zu Langenfeld-Hohenstein", "李小龍", "the night shift")
STAGE_SECONDS = dict(zip(STAGES, (0.4, 1.1, 0.8, 0.6, 62.0, 4.2, 2.1, 1.6, 0.3), strict=True))


def fill(stand: Stand) -> None:
    """Forgets what was there before."""
    from tests.support.pages_stand import category_names

    stand.empty()
    names = category_names()
    now = datetime.now(UTC)
    with stand.inside():
        with session() as db:
            _add_models(db, names)
        with session() as db:
            runs = _add_runs(db, now)
            versions = _add_versions(db, runs, names, now)
            _add_ledger(db, versions, now)
        with session() as db:
            _add_predictions(db.connection(), now)
        with session() as db:
            judged = _add_corrections(db, stand, names, now)
        _evaluate(stand.data_dir / MODEL, runs[-2], names, judged)
        with session() as db:
            _add_outcomes(db)
        _write_logs(stand.data_dir, runs)
    with stand.database.engine() as engine, engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("vacuum analyze"))


def _add_models(db: Session, names: Sequence[str]) -> None:
    drawings = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    drawings["triggers"] = {"cron": "0 3 * * *", "corrections": 2_000}
    photos = yaml.safe_load((Path(workspace.__file__).parent / "presets" / "photos.yaml").read_text())
    db.add_all([Model(name=MODEL, params=drawings), Model(name=OTHER, params=photos)])
    db.flush()
    for model, of_model in ((MODEL, names), (OTHER, tiny_model.CATEGORIES)):
        for number, name in enumerate(of_model):
            state = CategoryState.active
            if number in (12, 200):
                state = CategoryState.pending
            if number == 300:
                state = CategoryState.retired
            images = 7 if state is CategoryState.pending else 120 + number * 37 % 900
            db.add(
                Category(
                    model=model,
                    id=number,
                    name=name,
                    key=key_of(name),
                    state=state,
                    images=images,
                    train_images=images * 4 // 5,
                )
            )


# Runs, versions and the ledger.


def _outcome_of(number: int) -> RunStatus:
    """number: from 0, the oldest. The first ends well, and every 20th after it."""
    from_end = RUNS - number
    newest = {1: RunStatus.running, 2: RunStatus.succeeded, 3: RunStatus.failed, 4: RunStatus.rejected}
    newest |= {5: RunStatus.interrupted, 6: RunStatus.cancelled, 7: RunStatus.halted}
    if from_end in newest:
        return newest[from_end]
    if number % 20 == 0:
        return RunStatus.rejected if number % 100 == 20 else RunStatus.succeeded
    others = (
        RunStatus.halted,
        RunStatus.halted,
        RunStatus.failed,
        RunStatus.interrupted,
        RunStatus.cancelled,
    )
    return others[number % 5]


def _add_runs(db: Session, now: datetime) -> list[int]:
    """Returns their ids, oldest first."""
    rows, stages = [], []
    for number in range(RUNS):
        status = _outcome_of(number)
        at = now - timedelta(minutes=70 * (RUNS - number) - 68)
        through = status in (RunStatus.succeeded, RunStatus.rejected)
        model = OTHER if number % 6 == 5 and number < RUNS - 10 and not through else MODEL
        trigger = Trigger.initial if number == 0 else list(Trigger)[number % 3]
        named, durations = _stages_of(status, number)
        started = at + timedelta(seconds=1)
        ended = started + timedelta(seconds=sum(durations))
        active = status is RunStatus.running
        rows.append(
            {
                "model": model,
                "trigger": trigger,
                "requested_by": PEOPLE[number % 4] if trigger is Trigger.manual else str(trigger),
                "status": status,
                "message": _MESSAGES[status],
                "new_images": None if status is RunStatus.halted else 10 + number * 7 % 240,
                "dataset_version": 1 + number // 20 if len(named) > 3 else None,
                "requested_at": at,
                "started_at": started,
                "finished_at": None if active else ended,
                "mlflow_run_id": f"{number:032x}" if len(named) > 4 else None,
            }
        )
        stages.append((started, named, durations))
    ids = list(db.scalars(insert(Run).returning(Run.id, sort_by_parameter_order=True), rows))
    of_stages, transitions = [], []
    for number, (id_, row, (started, named, durations)) in enumerate(zip(ids, rows, stages, strict=True)):
        moment = started
        told: dict[str, Any] = {"run_id": id_, "model": row["model"], "figures": {}, "message": None}
        transitions.append({**told, "stage": None, "status": "queued", "at": row["requested_at"]})
        transitions.append({**told, "stage": None, "status": "running", "at": started})
        for position, ((name, state), seconds) in enumerate(zip(named, durations, strict=True)):
            begun, moment = moment, moment + timedelta(seconds=seconds)
            active = state is StageStatus.running
            failed = state is StageStatus.failed
            of_stages.append(
                {
                    "run_id": id_,
                    "name": name,
                    "position": position,
                    "status": state,
                    "started_at": begun,
                    "finished_at": None if active else moment,
                    "duration_seconds": None if active else seconds,
                    "message": f"exited with code 1; log: data/logs/runs/{id_}/{name}.log"
                    if failed
                    else None,
                }
            )
            if number >= RUNS - 20:
                transitions.append({**told, "stage": name, "status": "running", "at": begun})
                if name == "train":
                    transitions += _epochs({**told, "stage": name, "status": "epoch"}, begun, seconds, active)
                if not active:
                    transitions.append({**told, "stage": name, "status": str(state), "at": moment})
        if row["status"] is not RunStatus.running:
            transitions.append(
                {**told, "stage": None, "status": str(row["status"]), "at": row["finished_at"]}
            )
    db.execute(insert(Stage), of_stages)
    db.execute(insert(Transition), transitions)
    return ids


_MESSAGES = {
    RunStatus.running: None,
    RunStatus.succeeded: None,
    RunStatus.rejected: None,
    RunStatus.failed: "stage 'train' exited with code 1: the loss became NaN in epoch 3",
    RunStatus.interrupted: "stage 'train' was interrupted: the orchestrator was stopped",
    RunStatus.cancelled: "cancelled by anna@example.org",
    RunStatus.halted: "3 new images; a run needs 10",
}


def _stages_of(status: RunStatus, number: int) -> tuple[list[tuple[str, StageStatus]], list[float]]:
    """Names with states, and seconds."""
    done = [(name, StageStatus.succeeded) for name in STAGES]
    last = {
        RunStatus.failed: [*done[:4], ("train", StageStatus.failed)],
        RunStatus.interrupted: [*done[:4], ("train", StageStatus.interrupted)],
        RunStatus.cancelled: [*done[:2], ("merge", StageStatus.cancelled)],
        RunStatus.halted: [("ingest", StageStatus.halted)],
        RunStatus.running: [*done[:4], ("train", StageStatus.running)],
        RunStatus.rejected: [stage for stage in done if stage[0] != "promote"],
    }
    named = last.get(status, done)
    varied = 0.8 + number * 13 % 40 / 100
    return named, [round(STAGE_SECONDS[name] * varied, 2) for name, _ in named]


_MACHINE = {
    "cpu_utilisation": 0.94,
    "process_cpu_utilisation": 0.88,
    "memory_bytes": 3_100_000_000,
    "memory_total_bytes": 8_200_000_000,
    "process_memory_bytes": 912_000_000,
    "gpu_utilisation": 0.71,
    "gpu_memory_bytes": 4_830_000_000,
    "gpu_memory_total_bytes": 24_000_000_000,
}


def _epochs(told: Mapping[str, Any], begun: datetime, seconds: float, active: bool) -> list[dict[str, Any]]:
    epochs = 8
    each = 35.0 if active else seconds / epochs  # the active one's third was over a moment ago
    return [
        {
            **told,
            "at": begun + timedelta(seconds=each * epoch),
            "figures": {
                **_MACHINE,
                "at": (begun + timedelta(seconds=each * epoch)).isoformat(),
                "seconds": each,
                "seconds_left": each * (epochs - epoch),
                "epoch": epoch,
                "epochs": epochs,
                "train_loss": round(1.9 * 0.72**epoch + 0.31, 4),
                "validation_accuracy": round(0.93 - 0.5 * 0.6**epoch, 4),
            },
        }
        for epoch in range(1, (4 if active else epochs + 1))
    ]


def _add_versions(db: Session, runs: Sequence[int], names: Sequence[str], now: datetime) -> list[int]:
    """Those whose run was a success, oldest first; every one is written on its run."""
    ended = [
        number for number in range(RUNS) if _outcome_of(number) in (RunStatus.succeeded, RunStatus.rejected)
    ][-VERSIONS:]
    good = []
    for version, number in enumerate(ended, start=1):
        run = db.get_one(Run, runs[number])
        promoted = run.status is RunStatus.succeeded
        run.version = version
        run.verdict = _verdict(version, promoted)
        run.dataset_version = version
        known = len(names) if version > 50 else 100 + 4 * version
        db.add(
            Version(
                model=MODEL,
                version=version,
                run_id=run.id,
                dataset_version=version,
                category_ids=list(range(known)),
                figures=run.verdict["figures"],
                created_at=run.finished_at,
            )
        )
        good += [version] if promoted else []
    db.get_one(Run, runs[-1]).dataset_version = VERSIONS + 1
    photos = next(
        number
        for number in range(RUNS)
        if number % 6 == 5 and _outcome_of(number) is RunStatus.halted and number > 600
    )
    run = db.get_one(Run, runs[photos])
    run.status, run.message, run.version, run.verdict = RunStatus.succeeded, None, 1, _verdict(1, True)
    db.add(
        Version(
            model=OTHER,
            version=1,
            run_id=run.id,
            dataset_version=1,
            category_ids=[0, 1, 2],
            figures=run.verdict["figures"],
            created_at=run.finished_at,
        )
    )
    db.flush()
    return good


def _verdict(version: int, promoted: bool) -> dict[str, Any]:
    accuracy = 0.78 + 0.0025 * version
    before, gain = accuracy - 0.012, 1.2 if promoted else -1.6
    said = "Promoted" if promoted else "Rejected: cat falls from 91.0 % to 84.5 %"
    sentence = (
        f"{said}: {100 * accuracy:.1f} % on the holdout against {100 * before:.1f} % ({gain:+.1f}, 95 % CI "
        f"{gain - 0.9:+.1f} to {gain + 0.9:+.1f}); fixed {11 + version % 7} of {14 + version % 7} corrections, broke "
        f"{0 if promoted else 4}."
    )
    return {
        "promoted": promoted,
        "sentence": sentence,
        "reasons": [],
        "figures": {"holdout_accuracy": round(accuracy, 4), "holdout_images": 4_120},
    }


def _add_ledger(db: Session, good: Sequence[int], now: datetime) -> None:
    """The last entry put the newest good version in place."""
    rows: list[dict[str, Any]] = []
    live: int | None = None
    for number in range(LEDGER):
        version = good[min(len(good) - 2, number * len(good) // LEDGER)]
        at = now - timedelta(hours=7 * (LEDGER - number))
        outcome = LedgerOutcome.done
        action, actor, reason = LedgerAction.promote, "gate", "the challenger is better"
        if number % 9 == 4 and live is not None:
            action, actor = LedgerAction.rollback, PEOPLE[number % 4]
            version = max(v for v in (0, *good) if v < live) or live
            reason = "people complained that every round thing became a clock; back until somebody has looked at it"
        elif number % 23 == 7:
            outcome = LedgerOutcome.reverted
        elif number % 29 == 11:
            outcome = LedgerOutcome.abandoned
        elif number % 5 == 3:
            actor, reason = PEOPLE[number % 4], "目視で確認しました 👍"
        rows.append(
            {
                "model": MODEL,
                "action": action,
                "version": version,
                "replaced_version": live,
                "actor": actor,
                "reason": reason,
                "opened_at": at,
                "outcome": outcome,
                "closed_at": at + timedelta(seconds=2),
            }
        )
        live = version if outcome is LedgerOutcome.done else live
    last = {
        "version": good[-1],
        "action": LedgerAction.promote,
        "outcome": LedgerOutcome.done,
        "actor": "gate",
    }
    rows[-1] |= {**last, "reason": "the challenger is better", "opened_at": now - timedelta(hours=1)}
    rows[-1]["closed_at"] = now - timedelta(hours=1)
    db.execute(insert(LedgerEntry), rows)
    db.add(
        LedgerEntry(
            model=OTHER,
            action=LedgerAction.promote,
            version=1,
            actor="gate",
            reason="first version",
            opened_at=now - timedelta(days=20),
            outcome=LedgerOutcome.done,
            closed_at=now - timedelta(days=20),
        )
    )


# Predictions and corrections.


def photos() -> list[NDArray[np.uint8]]:
    """Twenty made-up photos, 32x32 colour: something round before a sky."""
    rows, columns = np.mgrid[0:32, 0:32]
    found = []
    for number in range(20):
        rng = np.random.default_rng(number)
        sky, ground, thing = rng.integers(40, 230, (3, 3))
        shade = (rows / 31)[..., None]
        pixels = sky * (1 - shade) + ground * shade
        y, x, radius = rng.integers(9, 23), rng.integers(9, 23), rng.integers(5, 10)
        pixels[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = thing
        found.append((pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8))
    return found


def _add_predictions(connection: Connection, now: datetime) -> None:
    """Of the last eight days; every seventh is wrong, every twentieth a photo."""
    from tests.support.pages_stand import doodle_files

    for day in range(11):
        partitions.ensure(connection, (now - timedelta(days=9 - day)).date())
    connection.execute(
        text(
            "create temporary table looks (number int, wrong bool, model text, sha text, label text, "
            "probabilities jsonb, png bytea) on commit drop"
        )
    )
    rng = np.random.default_rng(5)
    looks = []
    pictures = [(MODEL, *each) for each in doodle_files()]
    pictures += [(OTHER, name_of(p), "cat", encode_png(p)) for p in photos()]
    for number, (model, sha, label, png) in enumerate(pictures):
        for wrong in (False, True):
            known = starter.CATEGORIES if model == MODEL else tiny_model.CATEGORIES
            others = [name for name in known if name != label]
            first = str(rng.choice(others)) if wrong else label
            top = float(rng.uniform(0.31, 0.6) if wrong else rng.uniform(0.55, 0.99))
            rest = rng.dirichlet(np.ones(len(known) - 1)) * (1 - top)
            rest = np.minimum(rest, top * 0.9)
            shares = dict(zip([name for name in known if name != first], rest.round(5).tolist(), strict=True))
            looks.append(
                {
                    "number": number if model == MODEL else number - 400,
                    "wrong": wrong,
                    "model": model,
                    "sha": sha,
                    "label": first,
                    "probabilities": json.dumps({first: round(top, 5), **shares}),
                    "png": png,
                }
            )
    connection.execute(
        text(
            "insert into looks values (:number, :wrong, :model, :sha, :label, cast(:probabilities as jsonb), :png)"
        ),
        looks,
    )
    connection.execute(
        text(
            """
            insert into predictions (id, created_at, model, version, label, confidence, probabilities, image_sha256,
                                     pixels, filename)
            select cast(lpad(to_hex(ms), 12, '0') || '7' || substr(md5(g::text), 1, 3) || '8'
                        || substr(md5(g::text), 4, 15) as uuid),
                   to_timestamp(ms / 1000.0), l.model,
                   case when l.model = 'photos' then 1 else 49 + (g * 11 + 99999) / 100000 end, l.label,
                   (select max(value::float) from jsonb_each_text(l.probabilities)), l.probabilities, l.sha, l.png,
                   case when g % 27 = 0
                        then 'scan of the drawing that hung in the hall, second try (cropped) ' || g || '.png'
                        when g % 9 = 0 then 'IMG_' || g || '.jpg' end
            from generate_series(1, :count) g
            cross join lateral (select :now_ms - (:count - g) * 7000::bigint - 60000 as ms) at
            join looks l on l.model = case when g % 20 = 0 then 'photos' else 'doodles' end
                and l.number = case when g % 20 = 0 then g / 20 % 20 else (g * 7 + g / 400) % 400 end
                and l.wrong = (g % 7 = 0)
            """
        ),
        {"count": PREDICTIONS, "now_ms": int(now.timestamp() * 1000)},
    )


def _kinds() -> list[dict[str, Any]]:
    """Every status with every reason it can have, as columns of a correction."""
    status = CorrectionStatus
    reviewed = {"reviewed_by": PEOPLE[0]}
    near = "nearly the same as image 5f0e1c77aa60d1: kept out of training"
    conflict = "conflict: another correction gave this image another label"
    return [
        {"status": status.merged},
        {"status": status.accepted},
        {"status": status.exam},
        {"status": status.quarantined, "reason": conflict},
        {"status": status.superseded, "reason": "the image already has this label"},
        {"status": status.merged, "source": "sample"},
        {"status": status.merged, "being_trained": True},
        {"status": status.quarantined, "reason": "image file is damaged or cut off; send the whole file"},
        {"status": status.merged, "reason": near},
        {"status": status.withdrawn, "withdrawn": True},
        {
            "status": status.quarantined,
            "reason": "rejected by a reviewer",
            "review": Review.reject,
            **reviewed,
        },
        {"status": status.superseded, "reason": "a later correction says cat", "review": None},
        {"status": status.merged, "withdrawn": True},
        {"status": status.quarantined, "reason": conflict, "review": Review.accept, **reviewed},
        {"status": status.accepted, "source": "sample"},
        {"status": status.withdrawn, "withdrawn": True, "taken_out": True},
        {
            "status": status.superseded,
            "reason": "a reviewer says it is cat",
            "review": Review.relabel,
            **reviewed,
        },
        {"status": status.quarantined, "reason": "image abc.png is no longer there"},
    ]


def _add_corrections(db: Session, stand: Stand, names: Sequence[str], now: datetime) -> list[dict[str, Any]]:
    """Returns those that the evaluated run took in."""
    from tests.support.pages_stand import LONG_NAMES, doodle_files

    files = doodle_files()
    for sha, _, png in files:
        write_atomically(original_path(stand.data_dir, MODEL, sha), png)
    asked: dict[str, list[tuple[UUID, datetime]]] = defaultdict(list)
    newest = "select id, created_at, image_sha256 from predictions where model = 'doodles' order by id desc limit 24000"
    for id_, at, sha in db.execute(text(newest)):
        asked[sha].append((id_, at))
    kinds, visitor = _kinds(), stand.visitor()
    ids = {name: number for number, name in enumerate(names)}
    rows: list[dict[str, Any]] = []
    for number in range(CORRECTIONS):
        sha, label, png = files[number * 3 % len(files)]
        if number % 11 == 5:
            label = LONG_NAMES[number // 11 % len(LONG_NAMES)]
        elif number % 11 == 8:
            label = names[16 + number * 13 % (len(names) - 20)]
        kind = dict(kinds[number // 3 % len(kinds)])
        if number >= CORRECTIONS - JUDGED:
            kind = {"status": CorrectionStatus.merged if number % 5 else CorrectionStatus.exam}
        prediction, at = asked[sha][number // len(files)]
        withdrawn, taken_out = kind.pop("withdrawn", False), kind.pop("taken_out", False)
        being_trained = kind.pop("being_trained", False)
        in_dataset = kind["status"] in (CorrectionStatus.merged, CorrectionStatus.exam) or taken_out
        received = at + timedelta(seconds=9)
        row = {
            "id": UUID(int=prediction.int + (9_000 << 80)),
            "model": MODEL,
            "image_sha256": sha,
            "category_id": ids[label],
            "label": label,
            "actor": visitor if number % (CORRECTIONS // OF_VISITOR) == 0 else f"{number % 40:064x}",
            "source": kind.pop("source", "correction"),
            "prediction_id": prediction,
            "request_sha256": "0" * 64,
            "reason": None,
            "review": None,
            "reviewed_by": None,
            **kind,
            "dataset_version": _dataset_of(number, being_trained) - taken_out if in_dataset else None,
            "withdrawn_at": received + timedelta(hours=1) if withdrawn else None,
            "withdrawn_dataset_version": VERSIONS if taken_out else None,
            "received_at": received,
        }
        row["reviewed_at"] = min(received + timedelta(hours=2), now) if row["review"] else None
        folder = (row["reason"] or "").partition(":")[0]
        if row["status"] is CorrectionStatus.accepted:
            write_atomically(inbox_path(stand.data_dir, MODEL, label, sha), png)
        elif folder in ("conflict", "rejected by a reviewer"):
            write_atomically(stand.data_dir / MODEL / "quarantine" / folder.split()[0] / f"{sha}.png", png)
        rows.append(row)
    db.execute(insert(Correction), rows)
    db.execute(insert(Correction), [_let_in(row) for row in rows if row["review"] is Review.accept])
    return rows[-JUDGED:]


def _let_in(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a reviewer's yes made of a correction that was set aside."""
    made = {
        "id": UUID(int=row["id"].int + 1),
        "source": "review",
        "actor": "a reviewer",
        "review_of": row["id"],
    }
    made |= {"status": CorrectionStatus.merged, "dataset_version": VERSIONS, "reason": None}
    return {**row, **made, "review": None, "reviewed_by": None, "reviewed_at": None}


def _dataset_of(number: int, being_trained: bool) -> int:
    if being_trained:
        return VERSIONS + 1
    return VERSIONS if number >= CORRECTIONS - JUDGED else VERSIONS - number % 7


def _add_outcomes(db: Session) -> None:
    """Of what is in the dataset: nine of ten are right by now."""
    db.execute(
        text(
            """
            insert into outcomes (correction_id, model, version, label, correct)
            select c.id, c.model, v.version, case when right_one then c.label else 'clock' end, right_one
            from corrections c
            join versions v on v.model = c.model and v.version >= c.dataset_version - 1 and v.version > 54
            cross join lateral (
                select v.version >= c.dataset_version and ascii(substr(c.id::text, 36)) % 10 > 0 as right_one
            ) judged
            where c.status in ('merged', 'exam') and c.dataset_version <= 60
            on conflict do nothing
            """
        )
    )


# The run that was really evaluated.


def _evaluate(home: Path, run_id: int, names: Sequence[str], judged: Sequence[Mapping[str, Any]]) -> None:
    from tests.support.pages_stand import doodle_graph

    with session() as db:
        params: dict[str, Any] = db.get_one(Model, MODEL).params
    was, now = yaml.safe_dump({**params, "train": {**params["train"], "epochs": 6}}), yaml.safe_dump(params)
    kept = {name: home / name for name in ("inbox", "quarantine", "originals")}
    for name, path in kept.items():  # `create_home` wants the place for itself
        path.rename(home.parent / f".{name}")
    home.rmdir()
    workspace.create_home(home, was)
    for name, path in kept.items():
        (home.parent / f".{name}").rename(path)
    folder = home / "runs" / str(run_id)
    folder.mkdir(parents=True)
    (home / "params.yaml").write_text(now)
    (folder / "params.yaml").write_text(now)
    _write_shards(home, names, judged)
    known = len(names)
    _write_model(home / "base", names, doodle_graph(known, careful=False))
    _write_model(home / "model", names, doodle_graph(known))
    write_json(home / "base" / "version.json", {"version": VERSIONS - 1})
    workspace.record_dataset(home, VERSIONS, f"dataset {VERSIONS} (run {run_id})", new=True)
    result = json.loads(json.dumps(evaluate(StageRun(home, run_id)).as_json()))
    write_json(folder / "evaluate.json", result)
    verdict = result["data"]["verdict"]
    with session() as db:
        run = db.get_one(Run, run_id)
        run.verdict, run.dataset_version, run.new_images = verdict, VERSIONS, JUDGED
        version = db.get_one(Version, (MODEL, VERSIONS))
        version.figures = verdict["figures"]
        for outcome in result["data"]["outcomes"]:
            for who, number in (("challenger", VERSIONS), ("champion", VERSIONS - 1)):
                if outcome[f"{who}_label"] is not None:
                    db.add(
                        Outcome(
                            correction_id=UUID(outcome["correction_id"]),
                            model=MODEL,
                            version=number,
                            label=outcome[f"{who}_label"],
                            correct=outcome[f"{who}_correct"],
                        )
                    )


def _write_shards(home: Path, names: Sequence[str], judged: Sequence[Mapping[str, Any]]) -> None:
    """What was there before: a holdout of the drawings, moved by a pixel. What the run added: the corrections."""
    from tests.support.pages_stand import doodle_files, doodles

    pixels, labels = doodles()
    before = []
    for split, step in (("holdout", (0, 1)), ("holdout", (1, 0)), ("regression", (1, 1))):
        moved = [np.ascontiguousarray(np.roll(p, step, (0, 1))) for p in pixels]
        before += [
            (name_of(p), encode_png(p), label, split, None) for p, label in zip(moved, labels, strict=True)
        ]
    pngs = {sha: png for sha, _, png in doodle_files()}
    added = [
        (
            row["image_sha256"],
            pngs[row["image_sha256"]],
            row["label"],
            "train" if row["status"] is CorrectionStatus.merged else "validation",
            str(row["id"]),
        )
        for row in judged
    ]
    ids = {name: number for number, name in enumerate(names)}
    (home / "dataset").mkdir(exist_ok=True)
    for version, rows in ((VERSIONS - 1, before), (VERSIONS, added)):
        listed = [
            {
                "sha256": sha,
                "image": {"bytes": png, "path": f"{sha}.png"},
                "label": label,
                "category_id": ids[label],
                "split": split,
                "source": _SOURCES[split] if correction is None else "correction",
                "correction_id": correction,
                "labelled_at": datetime.now(UTC),
            }
            for sha, png, label, split, correction in rows
        ]
        dataset.write_shard(dataset.shard_path(home, version), pa.Table.from_pylist(listed, dataset.SCHEMA))
    categories = [dataset.Category(number, name, "active") for number, name in enumerate(names)]
    write_json(home / "dataset" / "categories.json", dataset.categories_json(categories))


_SOURCES = {"holdout": "import", "regression": "generated"}


def _write_model(folder: Path, names: Sequence[str], graph: onnx.ModelProto) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, folder / "model.onnx")
    write_json(
        folder / "categories.json", {"outputs": [{"id": i, "name": name} for i, name in enumerate(names)]}
    )
    write_json(folder / "input.json", {"mode": "L", "width": 28, "height": 28})


def _write_logs(data_dir: Path, runs: Sequence[int]) -> None:
    """Of the newest three: one under way, one promoted, one failed."""
    for run_id, failed in ((runs[-1], False), (runs[-2], False), (runs[-3], True)):
        folder = data_dir / "logs" / "runs" / str(run_id)
        folder.mkdir(parents=True)
        for name in STAGES:
            lines = [
                f"\x1b[2m12:00:{i % 60:02d}\x1b[0m \x1b[32m{name}\x1b[0m did part {i} of 400"
                for i in range(400)
            ]
            if failed and name == "train":
                lines += [
                    '  File "pipeline/training/classifier.py", line 88, in train_epoch',
                    "\x1b[31mNotFinite\x1b[0m: the loss",
                ]
                lines[-1] += " became NaN in epoch 3; a lower train.learning_rate helps"
            (folder / f"{name}.log").write_text("\n".join(lines) + "\n")
