from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """One deployment, in each process of the tests, for the loop, the dashboards and the pages: the loop's tests, which
    come first where they are, leave runs and versions in it."""
    with running_stack(starter_drawings=300, epochs=3) as started:
        yield started
