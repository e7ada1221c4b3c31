"""The start of a service that uses the database: what is wrong is said by name, before anything else is done.

    start.begin("gateway")

An older or newer Emend's tables, or a setting that cannot be, end the process. A database that does not answer does
not: it may come back, and the gateway answers predictions meanwhile.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from core import telemetry
from core.database import SchemaMismatch, engine
from core.errors import ConfigurationError

MOST_CLOCK_SECONDS = 30.0  # by which this machine's clock may differ from the database's

_log = telemetry.get_logger("start")


def begin(service: str) -> None:
    """Logs are configured when it returns. Raises SystemExit."""
    try:
        telemetry.configure(service)
    except ConfigurationError as exc:  # of which form logs have is not known either
        print(f"error: {exc.message}", file=sys.stderr)
        raise SystemExit(1) from exc
    try:
        apart = clock_difference_seconds()
    except SchemaMismatch as exc:
        _log.critical("wrong schema", reason=exc.message)
        raise SystemExit(1) from exc
    except ConfigurationError as exc:
        _log.warning("the database cannot be used", reason=exc.message)
        return
    except DBAPIError as exc:
        said = " ".join(str(exc.orig).split())
        _log.warning(
            "the database cannot be used", reason=f"{said}; is DATABASE_URL right? `emend doctor` looks"
        )
        return
    if abs(apart) > MOST_CLOCK_SECONDS:
        _log.warning(
            "clocks differ",
            reason=f"this machine's clock is {apart:+.0f} s from the database's; set it (NTP)",
        )


def clock_difference_seconds() -> float:
    """This machine's clock less the database's. Raises DBAPIError, SchemaMismatch."""
    with engine().connect() as connection:
        before = datetime.now(UTC)
        there: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        after = datetime.now(UTC)
    return (before + (after - before) / 2 - there).total_seconds()
