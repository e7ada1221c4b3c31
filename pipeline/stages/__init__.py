"""The nine stages. Each is a pure function from files to files with a thin `main`.

    python -m pipeline.stages.evaluate --home data/doodles --run 12

A stage reads the home and `runs/<run>/manifest.json` (what the orchestrator knows from the database), writes
files whole, returns its result, which becomes `runs/<run>/<stage>.json`, and exits 0, or raises. It knows
nothing of PostgreSQL.

Started by the orchestrator, a stage may be warmed up: `EMEND_STAGE_PIPE=1` says that standard input is a pipe
from the orchestrator. The stage imports what it needs, then waits for one line before it works; when the pipe
closes, because the orchestrator has died, it ends its whole process group.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from core.errors import EmendError
from core.redaction import redacted
from core.storage import write_json
from pipeline.params import Params, load

STAGES = (
    "ingest",
    "convert",
    "merge",
    "version",
    "train",
    "evaluate",
    "register",
    "promote",
    "cleanup",
)

Figures = Mapping[str, float | int | str | None]


class StageError(EmendError):
    """The stage cannot do its work; the message says why and what to do."""

    code = "stage_failed"


@dataclass(frozen=True)
class Result:
    """What a stage decided and measured.

    figures: shown beside the stage. halted: set when the run ends here in good order, and why.
    data: what the orchestrator needs to record; must survive JSON.
    """

    figures: Figures = field(default_factory=dict)
    halted: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "figures": dict(self.figures),
            "halted": self.halted,
            "data": dict(self.data),
        }


@dataclass(frozen=True)
class StageRun:
    """Where a stage works. run: None when DVC reproduces the stage from the home's files alone."""

    home: Path
    run: int | None

    @property
    def folder(self) -> Path:
        """The run's working folder."""
        if self.run is None:
            raise StageError("this stage needs --run: it works on what a run has gathered")
        return self.home / "runs" / str(self.run)

    @cached_property
    def params(self) -> Params:
        """As they were when the run began; the home's own when DVC reproduces the stage."""
        pinned = self.run is not None and (self.folder / "params.yaml").exists()
        return load(self.folder if pinned else self.home)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.folder / "manifest.json")

    def result_of(self, stage: str) -> dict[str, Any]:
        """The `data` an earlier stage of this run returned."""
        data = read_json(self.folder / f"{stage}.json")["data"]
        assert isinstance(data, dict)
        return data


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except OSError as exc:
        raise StageError(f"cannot read {path}: {exc.strerror}; run the stages before this one first") from exc
    except ValueError as exc:
        raise StageError(f"{path} is not JSON: {exc}") from exc
    assert isinstance(value, dict)
    return value


def main(
    name: str,
    work: Callable[[StageRun], Result | None],
    warm_up: Callable[[], None] | None = None,
    niceness: int = 0,
) -> None:
    """The thin main of a stage. work: gives None where another process of the stage has the result. warm_up: slow
    imports worth doing before the stage's turn has come. niceness: by how much its work gives way to that of the
    services, which answer people meanwhile."""
    parser = argparse.ArgumentParser(prog=f"python -m pipeline.stages.{name}", description=work.__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the model's home, e.g. data/doodles")
    parser.add_argument("--run", type=int, help="the run this belongs to; its folder is HOME/runs/RUN")
    arguments = parser.parse_args()
    stage = StageRun(arguments.home.resolve(), arguments.run)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if os.environ.pop("EMEND_STAGE_PIPE", None) == "1":
        if warm_up is not None:
            warm_up()
        _wait_for_turn()
    os.nice(max(0, niceness - os.nice(0)))  # a process that this one starts has it already
    try:
        result = work(stage)
    except EmendError as exc:
        print(f"error: {redacted(exc.message)}", file=sys.stderr)
        raise SystemExit(1) from exc
    if arguments.run is not None and result is not None:
        write_json(stage.folder / f"{name}.json", result.as_json())


def _wait_for_turn() -> None:
    # os.read, not sys.stdin: a thread inside a buffered read would hold its lock when the interpreter ends.
    if not os.read(0, 64):
        os._exit(1)  # the orchestrator died, or does not need this stage

    def end_with_orchestrator() -> None:
        while os.read(0, 64):
            continue
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=end_with_orchestrator, daemon=True).start()
