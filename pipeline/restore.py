"""`emend restore`: a deployment from a backup (pipeline/backup.py), into an empty data folder and empty databases.

    with backup.place_at(source, to_write=False) as place:
        plan = restore.plan(place, data_dir, urls)          # refuses here what cannot work
        restore.restore(place, plan, say=print)

Everything is fetched and compared with its hash into `<data folder>/.restoring`; only then is anything changed. Emend
must be stopped.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sqlalchemy import text

from core import __version__, objects
from core.errors import Conflict
from core.objects import Damaged
from core.patience import patiently
from pipeline import backup, dump, mirror
from pipeline.backup import ARTIFACTS, STORED, BackupError, Entry, Manifest, Place, Progress, Say
from pipeline.supervisor import Postgres, single_instance, survivors

RESTORING = ".restoring"
NOTHING = {
    RESTORING,
    ".gitignore",
    "README.md",
    "supervisor.lock",
    "lost+found",
}  # in a data folder that is empty
NAMED_AT_MOST = 10
PATIENCE_SECONDS = 60.0  # for one file of a bucket


@dataclass(frozen=True)
class Plan:
    """urls: of databases elsewhere; none for the embedded ones, which are made in the data folder.

    in_the_way: what is not empty, in words; that is replaced.
    """

    manifest: Manifest
    data_dir: Path
    urls: Mapping[str, str]
    in_the_way: list[str]


def plan(place: Place, backup_id: str | None, data_dir: Path, urls: Mapping[str, str]) -> Plan:
    """Changes nothing. Raises BackupError, ConfigurationError for a server or pg_restore that is too old."""
    manifest = chosen(place, backup_id)
    if manifest.schema not in known_schemas():
        raise BackupError(
            f"backup {manifest.id} was made by Emend {manifest.emend}, whose database schema {manifest.schema} this "
            f"Emend ({__version__}) does not know: it is newer. Install that version, then restore"
        )
    if urls and set(urls) < set(manifest.databases):
        raise BackupError(
            f"backup {manifest.id} has MLflow's database: set MLFLOW_BACKEND_STORE_URI to where it goes, the same that "
            "MLflow's server is started with"
        )
    in_the_way = []
    if data_dir.is_dir() and any(path.name not in NOTHING for path in data_dir.iterdir()):
        in_the_way.append(f"the data folder {data_dir}")
    for name in manifest.databases:
        if name in urls:
            dump.tool("pg_restore", max(dump.server_major(urls[name]), manifest.pg_dump))
            if not _is_empty(urls[name]):
                in_the_way.append(f"the database {dump.engine_of(urls[name]).url.database}")
    return Plan(manifest, data_dir, {n: u for n, u in urls.items() if n in manifest.databases}, in_the_way)


def chosen(place: Place, backup_id: str | None) -> Manifest:
    """None: the newest."""
    if backup_id is not None:
        return backup.read_manifest(place, backup_id)
    newest = backup.newest(place)
    if newest is None:
        raise BackupError(f"{place.where} has no whole backup: no manifest in its folder `backups`")
    return newest


def known_schemas() -> set[str]:
    """The revisions that this Emend can migrate from, the newest included."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations"))
    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}


def check(place: Place, manifest: Manifest, work: Path, progress: Progress) -> None:
    """Reads all that the backup needs. Raises BackupError that names what is damaged or gone."""
    work.mkdir(parents=True, exist_ok=True)
    _fetch(place, manifest, lambda sha256: work / "content", progress)
    (work / "content").unlink(missing_ok=True)


def restore(
    place: Place,
    planned: Plan,
    *,
    say: Say = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> Path | None:
    """Returns where what was in the data folder is now, if anything was.

    Raises BackupError when the backup is damaged (then nothing was changed), DumpFailed, StoreUnavailable, Conflict.
    """
    manifest, data_dir = planned.manifest, planned.data_dir
    with single_instance(data_dir), backup.room_needed("what is restored"):
        _check_nothing_runs(data_dir)
        store = objects.store()
        if store is not None:
            store.prepare()  # a wrong key is told before anything is changed
        work = data_dir / RESTORING
        shutil.rmtree(work, ignore_errors=True)  # of a restore that was killed
        try:
            work.mkdir(mode=0o700, parents=True)
            contents = work / "contents"
            contents.mkdir(parents=True)
            say("fetching and checking")
            _fetch(place, manifest, lambda sha256: contents / sha256, progress, say)
            restored = work / "data"
            dumps = {name: work / f"{name}.dump" for name in manifest.databases}
            every = (*manifest.databases.values(), manifest.files)
            uses = Counter(each.sha256 for entries in every for each in entries if each.linked_to is None)
            for name, folder in dumps.items():
                _lay_out(manifest.databases[name], contents, folder, uses)
            _lay_out(manifest.files, contents, restored, uses)
            for name in manifest.folders:
                (restored / name).mkdir(parents=True, exist_ok=True)
            say("filling the databases")
            _check_nobody_is_connected(planned.urls)
            if planned.urls:
                for name, url in planned.urls.items():
                    _empty(url)
                    _fill(manifest, url, dumps[name])
            else:
                _fill_embedded(manifest, restored, dumps)
            _fill_store(manifest, restored, say)
            aside = _put_in_place(restored, data_dir)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return aside


def _fetch(
    place: Place,
    manifest: Manifest,
    target: Callable[[str], Path],
    progress: Progress,
    say: Say = lambda line: None,
) -> None:
    contents = manifest.contents()
    names = {entry.sha256: entry.name for entry in manifest.files}
    names |= {e.sha256: f"{d}'s dump, {e.name}" for d, entries in manifest.databases.items() for e in entries}
    damaged = []
    for number, sha256 in enumerate(sorted(contents)):
        path = target(sha256)
        try:
            there = patiently(partial(_get, place, sha256, path), say, PATIENCE_SECONDS)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            there = False
        if not there or _sha256_of(path) != sha256:
            damaged.append(
                f"{names[sha256]} ({'damaged' if there else 'gone'}: {backup.content_name(sha256)})"
            )
        progress(number + 1, len(contents))
    if damaged:
        named = "; ".join(damaged[:NAMED_AT_MOST])
        more = f"; and {len(damaged) - NAMED_AT_MOST} more" if len(damaged) > NAMED_AT_MOST else ""
        raise BackupError(
            f"backup {manifest.id} in {place.where} cannot be restored: {named}{more}. Nothing was changed; use "
            "another backup or another copy of this one"
        )


def _get(place: Place, sha256: str, path: Path) -> bool:
    """False: there is no such content. What the bucket itself says is damaged comes as an empty file."""
    try:
        return place.get_file(backup.content_name(sha256), path)
    except Damaged:
        path.write_bytes(b"")
        return True


def _lay_out(entries: list[Entry], contents: Path, target: Path, uses: Counter[str]) -> None:
    """Files with their mode and time; those that were one on the disk are one again.

    uses: of each content, how often it is still needed; the last use moves it.
    """
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(entries, key=lambda each: each.linked_to is not None):
        path = target / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.linked_to is not None:
            os.link(target / entry.linked_to, path)
            continue
        uses[entry.sha256] -= 1
        if uses[entry.sha256] > 0:
            shutil.copyfile(contents / entry.sha256, path)
        else:
            (contents / entry.sha256).rename(path)
        os.utime(path, ns=(entry.modified_ns, entry.modified_ns))
        path.chmod(entry.mode)


def _fill(manifest: Manifest, url: str, folder: Path) -> None:
    """A server older than the backup's is tried: it can do it when the dump uses nothing that it does not know."""
    try:
        dump.restore(url, folder, manifest.pg_dump)
    except dump.DumpFailed as exc:
        major = dump.server_major(url)
        if major >= manifest.postgresql:
            raise
        raise BackupError(
            f"{exc.message}. The server is PostgreSQL {major}, older than the {manifest.postgresql} that backup "
            f"{manifest.id} is of: restore into {manifest.postgresql} or newer"
        ) from exc


def _fill_embedded(manifest: Manifest, restored: Path, dumps: Mapping[str, Path]) -> None:
    """The server is made where the files lie, and moved with them when it is stopped."""
    server = Postgres(restored)
    try:
        for name, folder in dumps.items():
            _fill(manifest, server.address(name), folder)
    finally:
        server.stop()


def _is_empty(url: str) -> bool:
    with dump.connected(url) as connection:
        tables = text("select count(*) from pg_tables where schemaname = 'public'")
        return not connection.scalar(tables)


def _empty(url: str) -> None:
    if _is_empty(url):
        return
    with dump.connected(url) as connection:
        connection.execute(text("drop schema public cascade"))
        connection.execute(text("create schema public"))
        connection.commit()


def _check_nothing_runs(data_dir: Path) -> None:
    """Of a supervisor that was killed the services go on, and take corrections."""
    alive = survivors(data_dir)
    if alive:
        raise Conflict(
            f"{', '.join(alive)} still run on {data_dir}, left by an `emend up` that was killed: `emend up`, then "
            "Ctrl-C, ends them; then restore. Nothing was changed"
        )


def _check_nobody_is_connected(urls: Mapping[str, str]) -> None:
    others = text(
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    )
    for url in urls.values():
        with dump.connected(url) as connection:
            count = connection.scalar(others)
        if count:
            name = dump.engine_of(url).url.database
            raise Conflict(
                f"{count} others are connected to the database {name}: stop every service of Emend and MLflow first. "
                "Nothing was changed"
            )


def _fill_store(manifest: Manifest, restored: Path, say: Say) -> None:
    """What belongs into the object store alone leaves the disk; the next start sends what belongs into both."""
    alone = [entry.name for entry in manifest.files if _belongs_to_store(entry.name)]
    store = objects.store()
    if store is not None:
        store.prepare()
        say(f"sending {len(alone)} files to the object store")
        objects.in_parallel(lambda name: store.put_file(name, restored / name), alone)
        if (restored / "actor_salt").exists():
            store.put_file("actor_salt", restored / "actor_salt")
        store.remove([mirror.MARK])
    for name in alone:
        if store is not None or _model_folder(name) == "images":
            (restored / name).unlink()


def _belongs_to_store(name: str) -> bool:
    return name.startswith(f"{ARTIFACTS}/") or _model_folder(name) == STORED[0]


def _model_folder(name: str) -> str:
    parts = name.split("/")
    return parts[1] if len(parts) > 2 else ""


def _put_in_place(restored: Path, data_dir: Path) -> Path | None:
    """Renames, so at once but for a kill between two of them."""
    aside = None
    before = [path for path in data_dir.iterdir() if path.name not in NOTHING and path.name[0] != "."]
    if before:
        aside = data_dir / f".replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        aside.mkdir()
        for path in before:
            path.rename(aside / path.name)
    for path in sorted(restored.iterdir()):
        path.rename(data_dir / path.name)
    return aside


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
