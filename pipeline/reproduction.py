"""`emend reproduce RUN`: does the home's history really give the same model again?

Clones the home at the run's tag, with its DVC cache, runs `dvc repro` on everything, and compares the new
weights and graph with those the tag's dvc.lock names. The same kind of CPU and lock file are needed for equal bits.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.database import ACTIVE_RUN
from core.settings import settings
from pipeline import models, runs, workspace
from pipeline.git import WorkspaceError

COMPARED = ("weights.safetensors", "model.onnx")


def reproduce(run_id: int, keep: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """{"run_id", "same": {file: bool}, "folder"?}. Raises WorkspaceError when the run cannot be checked out."""
    run = runs.show_run(run_id)
    home = models.home_of(run["model"])
    if run["version"] is None and not workspace.has_tag(home, f"run-{run_id}"):
        if run["status"] in ACTIVE_RUN:
            raise WorkspaceError(f"run {run_id} is {run['status']}; reproduce it when it has ended")
        raise WorkspaceError(
            f"run {run_id} was {run['status']} and trained nothing: there is nothing to reproduce. `emend runs` lists "
            "those that made a version"
            if run["status"] != "failed"
            else f"run {run_id} failed before it had a trained version: there is nothing to reproduce; `emend show "
            f"{run_id}` says why"
        )
    if run["weights_removed_at"] is not None:
        raise WorkspaceError(
            f"the weights of run {run_id} were removed by retention (cleanup.keep_runs in {home / 'params.yaml'}): "
            f"nothing to start from or to compare with. Its data, parameters and reports are at tag run-{run_id}"
        )
    with tempfile.TemporaryDirectory(prefix="emend-reproduce-") as temporary:
        target = keep.resolve() if keep is not None else Path(temporary) / home.name
        if target.exists():
            raise WorkspaceError(f"{target} exists already; choose a new folder")
        say(f"checking out run-{run_id} of {home}")
        workspace.clone_at(home, f"run-{run_id}", target)
        _dvc(target, "checkout", "--quiet")
        before = _hashes(target / "model")
        say("training again (dvc repro)")
        _dvc(target, "repro", "--force", "--quiet")
        after = _hashes(target / "model")
    same = {name: before[name] == after[name] for name in COMPARED}
    return {"run_id": run_id, "same": same} | ({"folder": str(target)} if keep is not None else {})


def _hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in COMPARED}


def _dvc(folder: Path, *arguments: str) -> None:
    """Its advice to people who use DVC by hand is shown only when it failed. `python` in dvc.yaml must be this one."""
    binaries = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": binaries + os.pathsep + os.environ.get("PATH", ""),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(settings().data_dir.resolve() / ".dvc-site-cache"),
        "EMEND_DATA_DIR": str(settings().data_dir.resolve()),
    }
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise WorkspaceError(
            f"dvc {arguments[0]} failed in {folder}; it said:\n{done.stdout.strip()[-3_000:]}"
        )
