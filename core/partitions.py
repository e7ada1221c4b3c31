"""Daily partitions of `predictions`: the gateway makes them ahead and drops those beyond EMEND_HISTORY_DAYS.

A day's partition is `predictions_20261121`; days are UTC. Dropping one costs the same however full it is.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, text

_PREFIX = "predictions_"


def name_of(day: date) -> str:
    return f"{_PREFIX}{day:%Y%m%d}"


def ensure(connection: Connection, day: date) -> None:
    """Makes the day's partition if it is not there. Safe from several processes at once."""
    # `if not exists` alone races: two creators may both pass its check and one then fails on pg_class.
    connection.execute(text("select pg_advisory_xact_lock(hashtext('emend_partitions'))"))
    connection.execute(
        text(
            f"create table if not exists {name_of(day)} partition of predictions "
            f"for values from ('{day.isoformat()} 00:00+00') to ('{(day + timedelta(days=1)).isoformat()} 00:00+00')"
        )
    )


def drop_older_than(connection: Connection, days: int, now: datetime | None = None) -> list[str]:
    """Drops the partitions of days before the last `days` and today, and returns their names."""
    today = (now or datetime.now(UTC)).date()
    first_kept = name_of(today - timedelta(days=days))
    query = text(
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid "
        "where i.inhparent = 'predictions'::regclass order by c.relname"
    )
    old = [name for name in connection.scalars(query) if name.startswith(_PREFIX) and name < first_kept]
    for name in old:
        connection.execute(text(f"drop table if exists {name}"))
    return old
