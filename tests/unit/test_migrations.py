"""The migrations make what core.database says, and the database keeps its promises by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

import core.database
from core.wake import CHANNEL

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


TRIAL = (
    "insert into trials (model, kind, version, champion, percent, started_by, reason, ended_at, outcome) "
    "values ('doodles', 'canary', {version}, 6, {percent}, 'ann', 'better?', {ended_at}, {outcome})"
)
UNDER_WAY = {"version": 7, "percent": 10, "ended_at": "null", "outcome": "null"}


def test_what_the_ledger_says_of_trials_goes_with_a_downgrade_and_the_ledger_is_kept_from_rewriting(
    database: Engine, database_url: str
) -> None:
    for action in ("promote", "canary", "shadow"):
        run(
            database,
            "insert into promotions (model, action, version, actor, reason, outcome, closed_at) "
            f"values ('doodles', '{action}', 2, 'ann', 'because', 'done', now())",
        )
    command.downgrade(alembic_config(database_url), "0005")
    with database.connect() as connection:
        left = connection.scalars(text("select action::text from promotions")).all()
    assert left == ["promote"]
    with pytest.raises(DBAPIError, match="promotions is append-only"):
        run(database, "delete from promotions")
    core.database.migrate(database_url)
    command.check(alembic_config(database_url))


@pytest.mark.parametrize(
    ("wrong", "constraint"),
    [
        ({"percent": 0}, "ck_trials_percent"),
        ({"percent": 101}, "ck_trials_percent"),
        ({"version": 6}, "ck_trials_two_versions"),
        ({"ended_at": "now()"}, "ck_trials_ended_somehow"),
        ({"outcome": "'failed'"}, "ck_trials_ended_somehow"),
    ],
)
def test_a_trial_that_cannot_be_is_refused(
    database: Engine, wrong: dict[str, object], constraint: str
) -> None:
    with pytest.raises(IntegrityError, match=constraint):
        run(database, TRIAL.format(**{**UNDER_WAY, **wrong}))


def test_who_follows_champions_is_woken_when_a_trial_begins_and_ends_but_not_by_what_is_counted(
    database: Engine,
) -> None:
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"listen {CHANNEL}"))

        def woken() -> int:
            driver: Any = connection.connection.driver_connection
            connection.execute(text("select 1"))  # what waits comes with an answer
            driver.poll()
            heard = len(driver.notifies)
            driver.notifies.clear()
            return heard

        run(database, TRIAL.format(**UNDER_WAY))
        assert woken() == 1
        run(database, "update trials set images = 5")
        assert woken() == 0
        run(database, "update trials set ended_at = now(), outcome = 'ended'")
        assert woken() == 1


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
