"""The migrations make what core.database says, and the database keeps its promises by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

import core.database

ROOT = Path(__file__).parents[2]


def alembic_config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["url"] = url
    return config


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(
            text("insert into models (name, params) values ('doodles', '{}'), ('photos', '{}')")
        )
    yield engine
    engine.dispose()


def run(database: Engine, statement: str) -> None:
    with database.begin() as connection:
        connection.execute(text(statement))


def new_run(database: Engine, model: str = "doodles", status: str = "queued") -> int:
    with database.begin() as connection:
        run_id: int = connection.execute(
            text(
                "insert into runs (model, trigger, requested_by, status) "
                f"values ('{model}', 'manual', 'test', '{status}') returning id"
            )
        ).scalar_one()
    return run_id


def test_migrations_equal_models(database_url: str) -> None:
    command.check(alembic_config(database_url))  # raises with the differences


def test_downgrade_leaves_nothing_and_upgrade_works_again(database_url: str) -> None:
    config, engine = alembic_config(database_url), create_engine(database_url, poolclass=NullPool)
    command.downgrade(config, "base")
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
        left = "select count(*) from {} where {} = 'public'::regnamespace"
        assert connection.scalar(text(left.format("pg_proc", "pronamespace"))) == 0
        assert connection.scalar(text(left.format("pg_type", "typnamespace") + " and typtype = 'e'")) == 0
    core.database.migrate(database_url)
    command.check(config)


def test_what_was_withdrawn_survives_a_downgrade_as_superseded(database: Engine, database_url: str) -> None:
    run(
        database,
        "insert into categories (model, id, name, key, state) values ('doodles', 0, 'cat', 'cat', 'active')",
    )
    for number, status in enumerate(("withdrawn", "accepted")):
        run(
            database,
            "insert into corrections (id, model, image_sha256, category_id, label, actor, request_sha256, status) "
            f"values ('00000000-0000-0000-0000-00000000000{number}', 'doodles', repeat('a', 64), 0, 'cat', 'ann', "
            f"'b', '{status}')",
        )
    command.downgrade(alembic_config(database_url), "0002")
    with database.connect() as connection:
        found = connection.execute(text("select status::text, reason from corrections order by id")).all()
    assert [tuple(row) for row in found] == [("superseded", "withdrawn"), ("accepted", None)]
    core.database.migrate(database_url)
    command.check(alembic_config(database_url))


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    core.database.migrate(database_url)


@pytest.mark.parametrize(
    "rewrite", ["update transitions set status = 'x'", "delete from transitions", "truncate transitions"]
)
def test_transitions_refuse_to_be_rewritten(database: Engine, rewrite: str) -> None:
    run_id = new_run(database)
    run(database, f"insert into transitions (run_id, model, status) values ({run_id}, 'doodles', 'queued')")
    with pytest.raises(DBAPIError, match="transitions is append-only"):
        run(database, rewrite)


@pytest.fixture
def ledger(database: Engine) -> Engine:
    run(
        database,
        "insert into promotions (model, action, version, actor, reason) "
        "values ('doodles', 'promote', 2, 'gate', 'better')",
    )
    return database


def test_a_ledger_entry_is_closed_once(ledger: Engine) -> None:
    run(ledger, "update promotions set outcome = 'done', closed_at = now()")
    with pytest.raises(DBAPIError, match="closed once"):
        run(ledger, "update promotions set outcome = 'reverted'")
    with pytest.raises(DBAPIError, match="closed once"):
        run(ledger, "update promotions set outcome = null")


@pytest.mark.parametrize(
    "change",
    [
        "version = 3",
        "replaced_version = 1",
        "actor = 'me'",
        "reason = 'other'",
        "opened_at = now() - interval '1 day'",
        "action = 'rollback'",
        "model = 'photos'",
        "version = 3, outcome = 'done'",
    ],
)
def test_an_open_ledger_entry_keeps_what_it_says(ledger: Engine, change: str) -> None:
    with pytest.raises(DBAPIError, match="append-only"):
        run(ledger, f"update promotions set {change}")


def test_a_ledger_entry_stays(ledger: Engine) -> None:
    with pytest.raises(DBAPIError, match="promotions is append-only"):
        run(ledger, "delete from promotions")


@pytest.mark.parametrize("first", ["queued", "running"])
@pytest.mark.parametrize("second", ["queued", "running"])
def test_a_model_has_one_active_run(database: Engine, first: str, second: str) -> None:
    new_run(database, status=first)
    with pytest.raises(IntegrityError, match="uq_runs_one_active_per_model"):
        new_run(database, status=second)
    new_run(database, "photos", second)


def test_ended_runs_do_not_count_as_active(database: Engine) -> None:
    for status in ("succeeded", "failed", "interrupted", "cancelled", "halted", "rejected"):
        new_run(database, status=status)
    ended = new_run(database, status="failed")
    new_run(database)
    with pytest.raises(IntegrityError, match="uq_runs_one_active_per_model"):
        run(database, f"update runs set status = 'running' where id = {ended}")
