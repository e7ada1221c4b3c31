"""Child processes: a stage as the orchestrator runs it, in a process group of its own.

A stage may be started ahead (`warm`): it imports what it needs and waits for one line on its standard input.
The same pipe ends the stage should the orchestrator die: when it closes, the stage kills its own group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

TERMINATE_SECONDS = 5.0
_HEADING = "--- "  # of an attempt, in the stage's log


class StageProcess:
    """One attempt at a stage. Its output goes to the end of `log`."""

    def __init__(self, stage: str, home: Path, run: int, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.stage = stage
        self._run = run
        self.log = log
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"pipeline.stages.{stage}", "--home", str(home), "--run", str(run)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "EMEND_STAGE_PIPE": "1", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "2"},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def go(self, attempt: int, request_id: str | None = None) -> None:
        """Lets a warm stage work. request_id: of the HTTP request that asked for its run."""
        asked = f", request {request_id}" if request_id is not None else ""
        with self.log.open("ab") as output:
            now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
            line = f"{_HEADING}{self.stage}, attempt {attempt}, {now}, run {self._run}{asked}\n"
            output.write(line.encode())
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died while warming up: its exit code says so
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()

    def last_error(self) -> str | None:
        """What it said last: the `error: …` line a stage ends with, else the last line (of a traceback, say)."""
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, self.log.stat().st_size - 4_000))
            lines = file.read().decode(errors="replace").strip().splitlines()
        said = [line for line in lines if not line.startswith(_HEADING)]
        named = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        return named[-1] if named else (said[-1][:300] if said else None)

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None when it still runs after that long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def end(self) -> int:
        """Ends the whole group: SIGTERM, then SIGKILL. Returns, when all of it is gone, the stage's exit code."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            self.wait(TERMINATE_SECONDS)
        self._signal(signal.SIGKILL)  # also what the stage itself may have left behind
        code = self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        return code

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class WarmStages:
    """The next stages of a run, started ahead. Ends those that are not needed when the block ends."""

    def __init__(self, home: Path, run: int, logs: Path, stages: list[str], ahead: int = 2) -> None:
        self._home, self._run, self._logs = home, run, logs
        self._todo = list(stages)
        self._ahead = ahead
        self._started: dict[str, StageProcess] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started.values():
            process.end()

    def take(self, stage: str) -> StageProcess:
        """The process of the stage whose turn it is; the ones after it are started."""
        self._todo = self._todo[self._todo.index(stage) + 1 :]
        process = self._started.pop(stage, None) or self._start(stage)
        for name in self._todo[: self._ahead]:
            if name not in self._started:
                self._started[name] = self._start(name)
        return process

    def _start(self, stage: str) -> StageProcess:
        return StageProcess(stage, self._home, self._run, self._logs / f"{stage}.log")
