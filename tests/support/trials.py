"""Versions on trial, as rows of the database."""

from __future__ import annotations

from typing import Any

from core import database
from core.database import Trial, TrialKind


def begin_trial(model: str, version: int = 7, champion: int = 6, **values: Any) -> int:
    """It is under way, a canary unless told otherwise. values: of other columns. Returns its id."""
    usual = {"kind": TrialKind.canary, "percent": 10, "started_by": "ann", "reason": "better?"}
    with database.session() as db:
        trial = Trial(model=model, version=version, champion=champion, **usual | values)
        db.add(trial)
        db.flush()
        return trial.id
