"""Whose tables a database has is looked at once, at the first connection."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, pool, text

import core.database
from core.database import SCHEMA, SchemaMismatch, check_schema, session
from core.start import clock_difference_seconds
from tests.support.gateway import ROOT


def test_the_schema_that_code_needs_is_the_newest_migration() -> None:
    newest = max(path.name for path in (ROOT / "migrations" / "versions").glob("[0-9]*.py"))
    assert newest.startswith(f"{SCHEMA}_")


def test_another_schema_is_named_with_what_to_do() -> None:
    check_schema(SCHEMA)
    for found, said in ((None, "has no tables"), ("0001", "of an older Emend"), ("9999", "of a newer Emend")):
        with pytest.raises(SchemaMismatch, match=said):
            check_schema(found)


def test_requests_on_a_newer_schema_are_refused_and_a_running_process_goes_on(
    emend_environment: dict[str, str],
) -> None:
    url = emend_environment["DATABASE_URL"]

    def pretend(revision: str) -> None:
        alone = create_engine(url, poolclass=pool.NullPool)
        with alone.begin() as db:
            db.execute(text("update alembic_version set version_num = :to"), {"to": revision})

    pretend("9999")
    for _ in range(2):  # a refused connection is not taken for a known one
        with pytest.raises(SchemaMismatch), session() as db:
            db.execute(text("select 1"))
    pretend(SCHEMA)
    with session() as db:
        assert db.scalar(text("select 1")) == 1
    pretend("9999")  # an upgrade under way: the next start is told
    core.database.engine().dispose()
    with session() as db:
        assert db.scalar(text("select 1")) == 1


def test_a_newer_schema_is_not_migrated(database_url: str) -> None:
    alone = create_engine(database_url, poolclass=pool.NullPool)
    with alone.begin() as db:
        db.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="of a newer Emend"):
        core.database.migrate(database_url)


def test_the_clocks_of_one_machine_agree(emend_environment: dict[str, str]) -> None:
    assert abs(clock_difference_seconds()) < 1
