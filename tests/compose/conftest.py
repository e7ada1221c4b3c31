"""The deployment that test_compose.py asks, once for all of it; what was measured is printed at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.compose import base_images, engine
from tests.compose.deployment import Deployment

# Minutes, root, and 30 GB of disk: only when it is named (`make test-compose`).
collect_ignore = ["test_compose.py"]
FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Deployment]:
    """Built from a clone of this repository's last commit, and started for the first time."""
    with engine.running():
        base_images.make()
        started = Deployment(tmp_path_factory.mktemp("compose") / "emend")
        pytestconfig.stash[FIGURES] = started.figures
        try:
            started.build()
            started.start_for_the_first_time()
            yield started
        finally:
            started.remove()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if figures := config.stash.get(FIGURES, []):
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.line(line)


def pytest_exception_interact(report: pytest.CollectReport | pytest.TestReport) -> None:
    """A failure shows what the containers said last."""
    if Deployment.latest is not None and isinstance(report, pytest.TestReport):
        report.sections.append(("containers", Deployment.latest.logs()))
