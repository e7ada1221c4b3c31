"""Two installations into one folder come one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ALONE = [sys.executable, str(Path(__file__).parents[2] / "deploy" / "alone.py")]


def test_a_second_command_says_that_it_waits_and_begins_when_the_first_has_ended(tmp_path: Path) -> None:
    lock, order = tmp_path / "venv" / ".lock", tmp_path / "order"
    first = subprocess.Popen(
        [*ALONE, lock, "sh", "-c", f"echo first begins; read go; echo first >>{order}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdin is not None
    assert first.stdout.readline() == "first begins\n"
    second = subprocess.Popen(
        [*ALONE, lock, "sh", "-c", f"echo second >>{order}; exit 3"], stderr=subprocess.PIPE, text=True
    )
    assert second.stderr is not None
    assert "waiting until it has finished" in second.stderr.readline()
    assert not order.exists()
    first.stdin.write("go\n")
    first.stdin.close()
    assert (first.wait(30), second.wait(30)) == (0, 3)
    assert order.read_text() == "first\nsecond\n"
    first.stdout.close()
    second.stderr.close()
