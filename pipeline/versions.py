"""The versions of a model: what each is worth, and what was live when.

A version is live from the moment its entry of the ledger was closed as done until the next such entry of another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database import LedgerEntry, LedgerOutcome, Model, Run, Version, session
from core.errors import NotFound
from core.registry import Registry, RegistryError
from core.settings import settings
from pipeline.champion import version_of

ALIASES = ("champion", "challenger", "previous")
REGISTRY_SECONDS = 2.0  # a page waits no longer for MLflow; the ledger then stands in


class Span(NamedTuple):
    """to: None while it lasts."""

    version: int
    since: datetime
    to: datetime | None


def live_at(db: Session, model: str, at: datetime) -> tuple[int | None, datetime | None]:
    """(version, since when); (None, None) before the first promotion."""
    for span in reversed(spans(db, model)):
        if span.since <= at:
            return span.version, span.since
    return None, None


def live(model: str, at: datetime) -> dict[str, Any]:
    """Raises NotFound."""
    with session() as db:
        require_model(db, model)
        version, since = live_at(db, model, at)
    return {"version": version, "since": since.isoformat() if since else None}


def spans(db: Session, model: str) -> list[Span]:
    """Oldest first, without gaps from the first promotion on."""
    rows = db.execute(
        select(LedgerEntry.version, func.coalesce(LedgerEntry.closed_at, LedgerEntry.opened_at))
        .where(LedgerEntry.model == model, LedgerEntry.outcome == LedgerOutcome.done)
        .order_by(LedgerEntry.id)
    ).all()
    changes: list[tuple[int, datetime]] = []
    for version, at in rows:
        if not changes or changes[-1][0] != version:
            changes.append((version, at))
    ends: Iterable[datetime | None] = [at for _, at in changes[1:]] + [None]
    return [Span(version, at, end) for (version, at), end in zip(changes, ends, strict=False)]


def list_versions(model: str, *, limit: int = 500, before: int | None = None) -> dict[str, Any]:
    """{"items", "next_before", "aliases_from"}, newest first. Raises NotFound."""
    with session() as db:
        require_model(db, model)
        query = (
            select(Version, Run)
            .join(Run, Run.id == Version.run_id)
            .where(Version.model == model)
            .order_by(Version.version.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(Version.version < before)
        rows = db.execute(query).all()
        known = spans(db, model)
        newest = db.scalar(select(func.max(Version.version)).where(Version.model == model))
    named = aliases(model)
    told = named if named is not None else _aliases_of_ledger(known, newest)
    items = [_as_json(version, run, known, told) for version, run in rows]
    return {
        "items": items,
        "next_before": items[-1]["version"] if len(items) == limit else None,
        "aliases_from": "ledger" if named is None else "registry",
    }


def show_version(db: Session, model: str, version: int, named: dict[str, int] | None) -> dict[str, Any]:
    """named: what `aliases` says. Raises NotFound."""
    found = db.get(Version, (model, version))
    if found is None:
        raise NotFound(f"{model} has no version {version}")
    known = spans(db, model)
    newest = db.scalar(select(func.max(Version.version)).where(Version.model == model))
    told = named if named is not None else _aliases_of_ledger(known, newest)
    return _as_json(found, db.get_one(Run, found.run_id), known, told)


def require_model(db: Session, model: str) -> None:
    """Raises NotFound."""
    if db.get(Model, model) is None:
        raise NotFound(f"there is no model {model!r}", field="model")


def _as_json(version: Version, run: Run, known: list[Span], named: dict[str, int]) -> dict[str, Any]:
    lived = [span for span in known if span.version == version.version]
    url = f"{settings().mlflow_display_url}/#/runs/{run.mlflow_run_id}" if run.mlflow_run_id else None
    return {
        "version": version.version,
        "run_id": version.run_id,
        "created_at": version.created_at.isoformat(),
        "dataset_version": version.dataset_version,
        "verdict_sentence": run.verdict["sentence"] if run.verdict else None,
        "promoted": bool(lived),
        "holdout_accuracy": version.figures.get("holdout_accuracy"),
        "figures": version.figures,
        "weights_removed_at": run.weights_removed_at.isoformat() if run.weights_removed_at else None,
        "aliases": [alias for alias in ALIASES if named.get(alias) == version.version],
        "live": [
            {"from": span.since.isoformat(), "to": span.to.isoformat() if span.to else None} for span in lived
        ],
        "mlflow_url": url,
    }


def aliases(model: str) -> dict[str, int] | None:
    """As the registry has them; None while it does not answer."""
    try:
        with Registry(settings().mlflow_tracking_uri, timeout_seconds=REGISTRY_SECONDS) as registry:
            named = {alias: version_of(registry, model, alias) for alias in ALIASES}
    except RegistryError:
        return None
    return {alias: version for alias, version in named.items() if version is not None}


def _aliases_of_ledger(known: list[Span], newest: int | None) -> dict[str, int]:
    named = {} if newest is None else {"challenger": newest}
    if known:
        named["champion"] = known[-1].version
    return named
