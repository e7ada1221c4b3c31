"""cleanup: what is merged leaves the inbox; empty folders and old runs' files go.

The manifest names the files. A correction that arrived since may have written the same one again. So a file is first
moved aside, and put back when it is newer than the run's snapshot.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from core.settings import settings
from core.storage import remove_empty_folders
from pipeline.stages import Result, StageRun, main

ASIDE = ".merged"


def cleanup(stage: StageRun) -> Result:
    """Remove merged inbox files, empty folders and the files of old runs."""
    snapshot_at = float(stage.manifest["snapshot_at"])
    _clear_leftovers(stage.home / "inbox", snapshot_at)
    files = sum(_remove_if_older(stage.home / name, snapshot_at) for name in stage.manifest["settled_files"])
    remove_empty_folders(stage.home / "inbox")
    runs = _remove_old_runs(stage)
    print(f"removed {files} merged files and the working folders of {runs} old runs")
    return Result(figures={"files_removed": files, "old_runs_removed": runs})


def _clear_leftovers(inbox: Path, snapshot_at: float) -> None:
    """What a killed attempt had moved aside goes back; what a killed gateway had not written whole goes."""
    for aside in inbox.glob(f"*/.*{ASIDE}"):
        path = aside.with_name(aside.name.removeprefix(".").removesuffix(ASIDE))
        if path.exists():  # written again since
            aside.unlink()
        else:
            aside.replace(path)
    for unfinished in inbox.glob("*/.*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # just finished
            if unfinished.stat().st_mtime < snapshot_at:
                unfinished.unlink()


def _remove_if_older(path: Path, snapshot_at: float) -> int:
    aside = path.with_name(f".{path.name}{ASIDE}")
    try:
        path.replace(aside)
    except FileNotFoundError:
        return 0
    if aside.stat().st_mtime > snapshot_at and not path.exists():
        aside.replace(path)
        return 0
    aside.unlink()
    return 1


def _remove_old_runs(stage: StageRun) -> int:
    """Keeps the newest `cleanup.keep_runs`; this run's bulky files go at once."""
    for name in ("converted.parquet", "images.parquet", "checkpoints"):
        target = stage.folder / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
    folders = sorted(
        (f for f in stage.folder.parent.iterdir() if f.name.isdigit()), key=lambda f: int(f.name)
    )
    old = folders[: -stage.params.cleanup.keep_runs]
    for folder in old:
        shutil.rmtree(folder)
        shutil.rmtree(settings().data_dir / "logs" / "runs" / folder.name, ignore_errors=True)
    return len(old)


if __name__ == "__main__":
    main("cleanup", cleanup)
