"""What the gateway must know to answer while the database is away: models, their input, their outputs' names.

Read from the database every few seconds and at a promotion by one thread, which also keeps the slow gauges, and at once
when somebody asks for what is not there yet. What was read last stays in use until something newer is read.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api import metrics
from api.errors import BadAnswer, UnknownModel
from api.trials import OpenTrial
from core import telemetry
from core.database import Category, Correction, CorrectionStatus, Model, Run, Trial, Version, session
from core.errors import EmendError, NotFound, Unavailable
from core.images import InputSpec, as_mode
from core.receipts import champion_version
from core.registry import Registry
from core.settings import settings
from core.wake import Listener

REFRESH_SECONDS = 3.0
CHAMPION = "champion"

log = telemetry.get_logger("catalogue")


@dataclass(frozen=True)
class KnownModel:
    """outputs: of each version, the names of what it can answer, in output order. removed: by retention. trial: the one
    under way."""

    name: str
    spec: InputSpec
    champion: int | None
    outputs: Mapping[int, tuple[str, ...]]
    removed: frozenset[int]
    trial: OpenTrial | None = None


@dataclass(frozen=True)
class _Gauges:
    """Beside the models: waiting corrections, and the champion's holdout accuracy where it is known."""

    inbox: Mapping[str, metrics.Inbox] = field(default_factory=dict)
    holdout: Mapping[str, float] = field(default_factory=dict)


class Catalogue:
    """Threads may share it."""

    def __init__(self) -> None:
        self._models: dict[str, KnownModel] | None = None  # None: never read yet
        self._from_registry: dict[tuple[str, int | None, int], tuple[str, ...]] = {}
        self._reading = threading.Lock()
        self._asking_registry = threading.Lock()
        self._read_at = -float("inf")
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._listener = Listener(lambda: settings().database_url, self._woken.set)
        self._thread = threading.Thread(target=self._run, name="catalogue", daemon=True)

    def start(self) -> None:
        self._listener.start()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._listener.stop()
        self._woken.set()
        self._thread.join(timeout=5)

    def get(self, name: str) -> KnownModel | None:
        """From memory alone; None when it is not there (yet): ask `find`."""
        return None if self._models is None else self._models.get(name)

    def find(self, name: str) -> KnownModel:
        """Looks into the database when it must. Raises UnknownModel with the names of the known ones."""
        found = self.get(name)
        if found is None:
            self.refresh(max_age_seconds=0.2)
            found = self.get(name)
        if found is None:
            known = ", ".join(sorted(self._models or {})) or "none yet"
            raise UnknownModel(f"there is no model {name!r}; the known ones: {known}", field="model")
        return found

    def known_outputs(self, name: str, version: int | None, count: int) -> tuple[str, ...] | None:
        """Names of `count` outputs, from memory alone. version None: a stock server's, see `_promoted`."""
        model = self.get(name)
        if model is not None:
            outputs = model.outputs.get(version) if version is not None else _promoted(model, count)
            if outputs is not None and len(outputs) == count:
                return outputs
        return self._from_registry.get((name, version, count))

    def find_outputs(self, name: str, version: int | None, count: int) -> tuple[str, ...]:
        """Asks the database, then the registry. Raises Unavailable or BadAnswer."""
        try:
            self.refresh(max_age_seconds=0.2)
        except Unavailable as exc:
            log.warning("outputs not in the database", reason=exc.message)
        with self._asking_registry:
            outputs = self.known_outputs(name, version, count)
            if outputs is None:
                outputs = _outputs_in_registry(name, version)
                if len(outputs) != count:
                    raise BadAnswer(
                        f"the model server answered {count} figures for {len(outputs)} categories"
                    )
                self._from_registry[name, version, count] = outputs
        return outputs

    def refresh(self, max_age_seconds: float = 0.0) -> None:
        """Reads the database unless that was done just now. Raises Unavailable."""
        asked_at = time.monotonic()
        with self._reading:
            if self._read_at >= asked_at - max_age_seconds:
                return
            with session() as db:
                models, gauges = _read(db)
            self._models, self._read_at = models, time.monotonic()
            _publish(models, gauges)

    def _run(self) -> None:
        away = False
        while not self._stopping.is_set():
            try:
                self.refresh()
                away = False
            except EmendError as exc:
                if not away:
                    log.warning("database away", reason=exc.message)
                away = True
            except Exception:  # the thread's edge: the next round may do better
                log.exception("catalogue failed")
            self._woken.wait(REFRESH_SECONDS)
            self._woken.clear()


def spec_of(params: Mapping[str, Any]) -> InputSpec:
    given = params["input"]
    return InputSpec(
        as_mode(given["mode"]), int(given["width"]), int(given["height"]), bool(given.get("drawing", False))
    )


def holdout_accuracy(figures: Mapping[str, Any]) -> float | None:
    """Of a version's figures; None when its holdout was too small to have one."""
    value = figures.get("holdout_accuracy")
    return float(value) if isinstance(value, int | float) else None


def _read(db: Session) -> tuple[dict[str, KnownModel], _Gauges]:
    names: dict[str, dict[int, str]] = {}
    for model, number, name in db.execute(select(Category.model, Category.id, Category.name)):
        names.setdefault(model, {})[number] = name
    versions: dict[str, dict[int, Version]] = {}
    for version in db.scalars(select(Version)):
        versions.setdefault(version.model, {})[version.version] = version
    removed: dict[str, set[int]] = {}
    gone = select(Run.model, Run.version).where(Run.weights_removed_at.is_not(None), Run.version.is_not(None))
    for model, version_gone in db.execute(gone):
        removed.setdefault(model, set()).add(int(version_gone or 0))
    under_way = {
        trial.model: OpenTrial(trial.id, trial.kind, trial.version, trial.percent)
        for trial in db.scalars(select(Trial).where(Trial.ended_at.is_(None)))
    }
    models: dict[str, KnownModel] = {}
    holdout: dict[str, float] = {}
    for row in db.scalars(select(Model)):
        of_model = versions.get(row.name, {})
        of_categories = names.get(row.name, {})
        outputs = {
            number: tuple(of_categories[id_] for id_ in version.category_ids)
            for number, version in of_model.items()
            if of_categories.keys() >= set(version.category_ids)
        }
        champion = champion_version(db, row.name)
        models[row.name] = KnownModel(
            row.name,
            spec_of(row.params),
            champion,
            outputs,
            frozenset(removed.get(row.name, ())),
            under_way.get(row.name),
        )
        accuracy = holdout_accuracy(of_model[champion].figures) if champion in of_model else None
        if accuracy is not None:
            holdout[row.name] = accuracy
    waiting = db.execute(
        select(Correction.model, func.count(), func.min(Correction.received_at))
        .where(Correction.status == CorrectionStatus.accepted)
        .group_by(Correction.model)
    )
    inbox = {model: metrics.Inbox(count, oldest.timestamp()) for model, count, oldest in waiting}
    return models, _Gauges(inbox, holdout)


def _publish(models: Mapping[str, KnownModel], gauges: _Gauges) -> None:
    for name, model in models.items():
        inbox, holdout = gauges.inbox.get(name, metrics.Inbox()), gauges.holdout.get(name)
        metrics.publish(name, model.champion, model.outputs, inbox, holdout)


def _promoted(model: KnownModel, count: int) -> tuple[str, ...] | None:
    """A stock server does not say which version it loaded: the champion's names, else those of the latest
    version before it that has as many outputs (it loads once, at its start)."""
    if model.champion is None:
        return None
    for version in sorted((v for v in model.outputs if v <= model.champion), reverse=True):
        if len(model.outputs[version]) == count:
            return model.outputs[version]
    return None


def _outputs_in_registry(name: str, version: int | None) -> tuple[str, ...]:
    """For versions that did not come from our pipeline: their `categories.json`. Costs a download, once."""
    with Registry(settings().mlflow_tracking_uri, timeout_seconds=5) as registry:
        if version is None:
            champion = registry.version_by_alias(name, CHAMPION)
            if champion is None:
                raise Unavailable(f"no version of '{name}' is champion, so its categories have no names yet")
            version = champion.version
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "version"
            try:
                registry.download(name, version, target)
            except NotFound as exc:  # else it would look as if the client had asked for what is not there
                raise BadAnswer(
                    f"the model server answers with version {version} of '{name}', which is not registered"
                ) from exc
            for path in (target / "extra_files" / "categories.json", target / "categories.json"):
                if path.exists():
                    return tuple(str(output["name"]) for output in json.loads(path.read_bytes())["outputs"])
    raise BadAnswer(f"version {version} of '{name}' has no categories.json: register it through a run")
