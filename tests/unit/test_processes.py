"""Stage processes: real children, in groups of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from core.storage import write_json
from pipeline.processes import StageProcess, WarmStages
from tests.support import waiting

SECONDS = 30.0
wait_until = partial(waiting.wait_until, seconds=SECONDS)
# A stage's parent that dies without a word: it starts ingest, lets it work, and is killed.
PARENT = """
import os, signal, sys
from pathlib import Path
from pipeline.processes import StageProcess
process = StageProcess("ingest", Path(sys.argv[1]), 1, Path(sys.argv[2]))
print(process.pid, flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Whose run 1 has too few images."""
    (tmp_path / "params.yaml").write_text(
        "input: {mode: L, width: 28, height: 28}\ntrain: {augmentation: none}\ngate: {}\n"
    )
    manifest = {"corrections": [], "imports": [], "untrained_images": 0, "force": False, "trigger": "manual"}
    write_json(tmp_path / "runs" / "1" / "manifest.json", manifest)
    return tmp_path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "stage.log"


@pytest.fixture
def parent(home: Path, log: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(home), str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        yield started
        started.kill()


def test_a_stage_works_when_it_is_told_to_and_says_how_it_went(home: Path, log: Path) -> None:
    process = StageProcess("ingest", home, 1, log)
    result = home / "runs" / "1" / "ingest.json"
    assert process.wait(0.5) is None
    assert not result.exists()
    process.go(1, "019a1c7e-5f0a")
    assert process.wait(SECONDS) == 0
    assert process.end() == 0
    assert result.exists()
    heading = next(line for line in log.read_text().splitlines() if line.startswith("--- "))
    assert heading.startswith("--- ingest, attempt 1, ")
    assert heading.endswith(" UTC, run 1, request 019a1c7e-5f0a")


def test_what_a_stage_said_last_is_of_its_own_attempt(home: Path, log: Path) -> None:
    (home / "params.yaml").write_text("input: 3\n")
    failed = StageProcess("ingest", home, 1, log)
    failed.go(1)
    assert failed.wait(SECONDS) == 1
    failed.end()
    said = failed.last_error()
    assert said is not None
    assert "params.yaml" in said
    killed = StageProcess("ingest", home, 1, log)
    killed.go(2)
    psutil.Process(killed.pid).kill()
    assert killed.end() == -signal.SIGKILL
    assert killed.last_error() is None


def test_a_stage_that_crashes_while_it_warms_up_says_why_at_its_turn(home: Path, log: Path) -> None:
    process = StageProcess("no_such_stage", home, 1, log)
    assert process.wait(SECONDS) == 1
    process.go(1)
    assert process.wait(SECONDS) == 1
    said = process.last_error()
    assert said is not None
    assert "No module named pipeline.stages.no_such_stage" in said
    process.end()


def test_a_stage_goes_with_the_process_that_started_it(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    assert parent.stdin is not None
    stage = psutil.Process(int(parent.stdout.readline()))
    parent.stdin.write("\n")
    parent.stdin.flush()
    wait_until(lambda: not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE)


def stages_of_this_process() -> list[psutil.Process]:
    """Other tests leave children of their own: multiprocessing's resource tracker, say."""
    return [p for p in psutil.Process().children() if "pipeline.stages" in " ".join(p.cmdline())]


def test_stages_are_started_ahead_and_ended_when_they_are_not_needed(home: Path, tmp_path: Path) -> None:
    with WarmStages(home, 1, tmp_path / "logs", ["ingest", "convert", "merge", "cleanup"]) as warm:
        first = warm.take("ingest")
        ahead = stages_of_this_process()
        assert len(ahead) == 3
        first.go(1)
        assert first.wait(SECONDS) == 0
        first.end()
        convert = warm.take("convert")
        assert convert.pid in {process.pid for process in ahead}
        convert.end()
    assert not stages_of_this_process()
