"""Git, as a child process: its own command line is the only complete interface it has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from core.errors import EmendError


class WorkspaceError(EmendError):
    """The home cannot be used as it is; the message says what to do."""

    code = "workspace"


class HomeLocked(WorkspaceError):
    pass


def git(folder: Path, *arguments: str) -> str:
    """What it printed. Raises HomeLocked, WorkspaceError."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**environment, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        if ".lock': File exists" in said:
            raise HomeLocked(
                f"the home {folder} is locked: {said.splitlines()[0]}; wait, then `emend resume` the run"
            )
        raise WorkspaceError(f"git {arguments[0]} failed in {folder}: {said}")
    return done.stdout
