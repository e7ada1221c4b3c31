from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, running_stack


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The same folder in every process of the tests."""
    own = tmp_path_factory.getbasetemp()
    return (own if worker_id == "master" else own.parent) / "shelf"


@pytest.fixture(scope="session")
def stack(shelf: Path) -> Iterator[Stack]:
    """One deployment, in each process of the tests, for the loop, the dashboards and the pages: the loop's tests, which
    come first where they are, leave runs and versions in it."""
    with running_stack(shelf, starter_drawings=300, epochs=3) as started:
        yield started
