"""Every schema there ever was, filled with rows of its time, becomes today's; nothing is lost, Emend works on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, select, text
from sqlalchemy.pool import NullPool

import core.database
import core.settings
from core import receipts, withdrawal
from core.database import Base, Correction, CorrectionStatus, session
from pipeline import runs
from tests.unit.test_migrations import alembic_config

MERGED, WAITING, WITHDRAWN, IMPORT, PREDICTION = (UUID(int=number) for number in range(1, 6))

# What a revision could hold that those before it could not, as statements of its time.
ROWS = {
    "0001": f"""
        insert into models (name, params) values ('doodles', '{{"triggers": {{"cron": null}}}}');
        insert into categories (model, id, name, key, aliases, state, images, train_images) values
            ('doodles', 0, 'cat', 'cat', '{{}}', 'active', 12, 10),
            ('doodles', 1, 'kiwi', 'kiwi', '{{kiwifruit}}', 'pending', 1, 1);
        insert into corrections (id, model, image_sha256, category_id, label, actor, prediction_id, idempotency_key,
            request_sha256, status, reason, dataset_version) values
            ('{MERGED}', 'doodles', repeat('a', 64), 0, 'cat', 'ann', '{PREDICTION}', 'k', 'r', 'merged', null, 1),
            ('{WAITING}', 'doodles', repeat('b', 64), 1, 'kiwi', 'bob', null, null, 'r', 'accepted', null, null);
        insert into imports (id, model, file, source, images, status, dataset_version) values
            ('{IMPORT}', 'doodles', 'imports/1.parquet', 'generated', 200, 'merged', 1);
        create table predictions_20260101 partition of predictions
            for values from ('2026-01-01 00:00+00') to ('2026-01-02 00:00+00');
        insert into predictions (id, created_at, model, version, label, confidence, probabilities, image_sha256, pixels)
            values ('{PREDICTION}', '2026-01-01 12:00+00', 'doodles', 1, 'dog', 0.5, '{{"dog": 0.5}}', 'a', 'p');
        insert into runs (model, trigger, requested_by, status, message, new_images, dataset_version, version, verdict)
            values ('doodles', 'initial', 'emend up', 'succeeded', 'Promoted.', 201, 1, 1, '{{"promoted": true}}'),
            ('doodles', 'manual', 'ann', 'failed', 'why', null, null, null, null);
        insert into stages (run_id, name, position, status, started_at, duration_seconds, figures) values
            (1, 'ingest', 0, 'succeeded', now(), 0.5, '{{"images": 201}}');
        insert into transitions (run_id, model, stage, status) values (1, 'doodles', 'ingest', 'succeeded');
        insert into versions (model, version, run_id, dataset_version, category_ids, figures) values
            ('doodles', 1, 1, 1, '{{0}}', '{{}}');
        insert into outcomes (correction_id, model, version, label, correct) values
            ('{MERGED}', 'doodles', 1, 'cat', true);
        insert into promotions (model, action, version, run_id, actor, reason, outcome, closed_at) values
            ('doodles', 'promote', 1, 1, 'run 1', 'Promoted.', 'done', now());
    """,
    "0002": "update runs set request_id = 'q', weights_removed_at = now() where id = 2",
    "0003": f"""
        insert into corrections (id, model, image_sha256, category_id, label, actor, request_sha256, status,
            withdrawn_at, reviewed_at, reviewed_by, review, review_of) values
            ('{WITHDRAWN}', 'doodles', repeat('c', 64), 0, 'cat', 'eve', 'r', 'withdrawn',
            now(), now(), 'a person', 'reject', '{MERGED}');
    """,
    "0004": "",  # indexes
    "0005": "",
    "0006": """
        insert into trials (model, kind, version, champion, percent, started_by, reason, images, agreed, latencies,
            ended_at, outcome, ended_because) values
            ('doodles', 'canary', 2, 1, 10, 'ann', 'better?', 3, 2, '{1, 2}', now(), 'failed', 'too slow');
        insert into promotions (model, action, version, replaced_version, actor, reason, outcome, closed_at) values
            ('doodles', 'canary', 2, 1, 'gateway', 'too slow', 'reverted', now());
    """,
}


def revisions() -> list[str]:
    """Oldest first."""
    scripts = ScriptDirectory.from_config(alembic_config("")).walk_revisions()
    return [script.revision for script in scripts][::-1]


def test_every_revision_says_what_it_could_hold() -> None:
    assert list(ROWS) == revisions()


@pytest.fixture(params=revisions())
def upgraded(
    request: pytest.FixtureRequest, empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Today's schema, made of that one; this process works on it. Gives the rows it had, by table."""
    config = alembic_config(empty_database_url)
    command.upgrade(config, request.param)
    engine = create_engine(empty_database_url, poolclass=NullPool)
    with engine.begin() as connection:
        for revision, statements in ROWS.items():
            if revision <= request.param and statements:
                connection.exec_driver_sql(statements)
        tables = [name for name in Base.metadata.tables if _has(connection, name)]
        before = {name: _rows(connection, name) for name in tables}
    core.database.migrate(empty_database_url)
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    monkeypatch.setenv("EMEND_DATA_DIR", str(tmp_path))
    core.settings.settings.cache_clear()
    core.database.engine.cache_clear()
    yield before
    core.database.engine().dispose()
    core.settings.settings.cache_clear()
    core.database.engine.cache_clear()


def _has(connection: Any, table: str) -> bool:
    return connection.scalar(text("select to_regclass(:name)"), {"name": table}) is not None


def _rows(connection: Any, table: str) -> list[dict[str, Any]]:
    return sorted(
        (dict(row) for row in connection.execute(text(f"select * from {table}")).mappings()), key=str
    )


def test_a_deployment_of_any_schema_is_upgraded_with_all_it_knows_and_works(
    upgraded: dict[str, list[dict[str, Any]]],
) -> None:
    assert [table for table, rows in upgraded.items() if not rows] == []
    with core.database.engine().connect() as connection:
        for table, rows in upgraded.items():
            now = _rows(connection, table)
            assert sorted(({k: row[k] for k in rows[0]} for row in now), key=str) == rows, table
    with session() as db:
        for mapper in Base.registry.mappers:
            found = db.scalars(select(mapper.class_)).all()
            table = mapper.class_.__tablename__
            assert len(found) == len(upgraded.get(table, [])), table

    assert receipts.receipt(MERGED)["status"] == "merged"
    assert [run["status"] for run in runs.list_runs("doodles", limit=5)] == ["failed", "succeeded"]
    assert runs.show_run(1)["stages"][0]["figures"] == {"images": 201}
    assert [entry["outcome"] for entry in runs.ledger("doodles")][-1] == "done"
    with session() as db:
        assert receipts.champion_version(db, "doodles") == 1
        withdrawal.withdraw(db, [WAITING], core.settings.settings().data_dir)
    with session() as db:
        assert db.get_one(Correction, WAITING).status is CorrectionStatus.withdrawn
    runs.request_resume(2, requested_by="ann")
    assert runs.active_run("doodles") == 2
