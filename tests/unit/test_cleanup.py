"""cleanup: what goes, what stays, and what an attempt that was killed left."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from core.storage import write_json
from pipeline.stages import Result, StageRun
from pipeline.stages.cleanup import cleanup

CAT = "inbox/cat/" + "a" * 64 + ".png"


@pytest.fixture
def home(emend_environment: dict[str, str], tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "doodles"
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(
        "input: {mode: L, width: 28, height: 28}\ntrain: {augmentation: none}\ngate: {}\ncleanup: {keep_runs: 3}\n"
    )
    return folder


def file(home: Path, name: str, *, age_seconds: float = 100) -> Path:
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"png")
    os.utime(path, (time.time() - age_seconds,) * 2)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def clean(home: Path, settled: list[str], run: int = 5) -> Result:
    """The snapshot was taken ten seconds ago."""
    manifest: dict[str, Any] = {
        "snapshot_at": time.time() - 10,
        "settled_files": settled,
        "expired": [],
        "kept_runs": [run],
    }
    write_json(home / "runs" / str(run) / "manifest.json", manifest)
    return cleanup(StageRun(home, run))


def test_what_is_settled_goes_with_its_empty_folder_and_the_rest_stays(home: Path) -> None:
    gone, waits = file(home, CAT), file(home, "inbox/dog/b.png")
    imported = file(home, "imports/1.parquet")
    assert clean(home, [CAT, "imports/1.parquet"]).figures["files_removed"] == 2
    assert not gone.parent.exists()
    assert not imported.exists()
    assert waits.exists()


def test_a_picture_that_came_again_since_the_snapshot_stays(home: Path) -> None:
    again = file(home, CAT, age_seconds=1)
    assert clean(home, [CAT]).figures["files_removed"] == 0
    assert again.exists()
    assert names(again.parent) == [again.name]


@pytest.mark.parametrize("age_seconds", [1, 100])
def test_what_a_killed_attempt_had_moved_aside_is_not_lost(home: Path, age_seconds: float) -> None:
    aside = file(home, "inbox/cat/." + "a" * 64 + ".png.merged", age_seconds=age_seconds)
    clean(home, [CAT])
    assert not aside.exists()
    assert (home / CAT).exists() == (age_seconds == 1)


def test_what_a_killed_gateway_had_half_written_goes_but_not_what_is_being_written(home: Path) -> None:
    half, fresh = file(home, "inbox/cat/.a.png.1.tmp"), file(home, "inbox/cat/.b.png.2.tmp", age_seconds=1)
    clean(home, [])
    assert (half.exists(), fresh.exists()) == (False, True)


def test_cleaning_twice_is_as_good_as_once(home: Path) -> None:
    file(home, CAT)
    clean(home, [CAT])
    assert clean(home, [CAT]).figures["files_removed"] == 0


def test_working_folders_and_logs_of_old_runs_go(home: Path) -> None:
    for run in (2, 3, 4, 5):
        file(home, f"runs/{run}/converted.parquet")
        file(home, f"../logs/runs/{run}/train.log")
    assert clean(home, []).figures["old_runs_removed"] == 1
    assert names(home / "runs") == ["3", "4", "5"]
    assert names(home.parent / "logs" / "runs") == ["3", "4", "5"]
    assert names(home / "runs" / "5") == ["manifest.json"]


def test_what_was_set_aside_and_never_looked_at_goes_after_its_days(home: Path) -> None:
    old = file(home, "quarantine/conflict/a.png", age_seconds=91 * 86_400)
    fresh = file(home, "quarantine/unreadable/b.png", age_seconds=89 * 86_400)
    assert clean(home, []).figures["quarantined_removed"] == 1
    assert (old.parent.exists(), fresh.exists()) == (False, True)
