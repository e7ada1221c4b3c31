"""cleanup: what is merged leaves the inbox; empty folders, old runs' files and their weights go.

The manifest names the files. A correction that arrived since may have written the same one again. So a file is first
moved aside, and put back when it is newer than the run's snapshot.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from core.registry import Registry, RegistryError, RegistryUnavailable
from core.settings import settings
from core.storage import remove_empty_folders
from pipeline import mirror, workspace
from pipeline.stages import Result, StageRun, main

ASIDE = ".merged"


def cleanup(stage: StageRun) -> Result:
    """Remove merged inbox files, empty folders and the files of old runs."""
    snapshot_at = float(stage.manifest["snapshot_at"])
    _clear_leftovers(stage.home / "inbox", snapshot_at)
    files = sum(_remove_if_older(stage.home / name, snapshot_at) for name in stage.manifest["settled_files"])
    remove_empty_folders(stage.home / "inbox")
    set_aside = _remove_long_set_aside(stage)
    runs = _remove_old_runs(stage)
    print(f"removed {files} merged files and the working folders of {runs} old runs")
    removed, freed_bytes = _remove_expired_weights(stage)
    return Result(
        figures={
            "files_removed": files,
            "quarantined_removed": set_aside,
            "old_runs_removed": runs,
            "weights_removed": len(removed),
            "weights_freed_bytes": freed_bytes,
        },
        data={"weights_removed": removed},
    )


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


def _remove_long_set_aside(stage: StageRun) -> int:
    """Pictures nobody looked at for `cleanup.keep_quarantine_days`; their receipts keep the reason."""
    before = time.time() - stage.params.cleanup.keep_quarantine_days * 86_400
    old = [path for path in (stage.home / "quarantine").glob("*/*") if path.stat().st_mtime < before]
    for path in old:
        path.unlink()
    remove_empty_folders(stage.home / "quarantine")
    return len(old)


def _remove_expired_weights(stage: StageRun) -> tuple[list[int], int]:
    """Of the runs the manifest names: their versions in the registry, then DVC's copies. (runs, bytes freed of DVC's)

    What cannot be removed now is named again by the next run's manifest.
    """
    removed = []
    with Registry(settings().mlflow_tracking_uri) as registry:
        for each in stage.manifest["expired"]:
            try:
                gone = each["version"] is None or registry.delete_version(
                    stage.manifest["model"], each["version"]
                )
            except RegistryUnavailable as exc:
                print(f"old versions stay for now: {exc.message}")
                break
            except RegistryError as exc:
                print(f"version {each['version']} could not be removed: {exc.message}")
                continue
            if gone:
                removed.append(each["run"])
    kept = {each["run"] for each in stage.manifest["expired"]} - set(removed)
    freed_bytes = workspace.forget_weights(stage.home, removed, [*stage.manifest["kept_runs"], *kept])
    if removed:
        print(f"removed the weights of {len(removed)} old runs, {freed_bytes / 1e6:.1f} MB in DVC's cache")
    return removed, freed_bytes


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
        log_folder = settings().data_dir / "logs" / "runs" / folder.name
        for old_files in (folder, log_folder):
            shutil.rmtree(old_files, ignore_errors=True)
            mirror.forget_folder(old_files)
    return len(old)


if __name__ == "__main__":
    main("cleanup", cleanup)
