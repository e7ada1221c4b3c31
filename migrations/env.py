"""Alembic's entry: runs the migrations under an advisory lock, so two processes may start at once."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool, text

from core.database import Base
from core.settings import settings

MIGRATION_LOCK = 7_305_811_001


def run() -> None:
    url = context.config.attributes.get("url") or settings().database_url
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
        context.run_migrations()


run()
