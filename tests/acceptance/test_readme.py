"""The README's short walk, word for word: its shell blocks run one after another against a whole deployment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, running_stack

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def stack(shelf: Path) -> Iterator[Stack]:
    with running_stack(shelf, starter_drawings=300, widths=[32, 64, 128], epochs=3, warm_epochs=3) as started:
        yield started


def walk() -> list[str]:
    """The shell blocks of the walk, without the one that activates .venv."""
    section = re.search(r"^## A short walk\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    assert section is not None
    blocks = re.findall(r"^```sh\n(.*?)^```", section[1], re.DOTALL | re.MULTILINE)
    return [block for block in blocks if "activate" not in block]


def test_the_walk_ends_with_a_version_2_that_gets_it_right(stack: Stack) -> None:
    script = "\n".join(walk()).replace("127.0.0.1:8000", f"127.0.0.1:{stack.ports['API']}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{stack.environment['PATH']}"
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=ROOT,
        env=stack.environment | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    assert "needs 20 more training images before it can be learned; 1 waits already" in said
    assert "succeeded: Promoted: " in said
    assert re.search(r'"version": 2,\s+"label": "igloo"', said)
    assert "Now right: version 2 was trained on it and gets it right." in said
    assert "version 1 is live again" in said.replace("\n", " ")
