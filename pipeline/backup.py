"""`emend backup`: databases, homes and MLflow's artifacts of a deployment at work, in a folder or a bucket.

    with backup.place_at("/mnt/backups/emend", to_write=True) as place:
        made = backup.back_up(place, data_dir, urls, say=print)

A place holds contents under their SHA-256 (`files/ab/ab12…`), each once, and for each backup a manifest
(`backups/20261121T093000Z.json`), which is written last: a backup without one is not one. pipeline/restore.py is the
way back; docs/decisions/0015 says why it is done in this order.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from core import __version__, objects
from core.errors import ConfigurationError, Conflict, DiskFull, EmendError
from core.objects import Listed, Objects
from core.pictures import inbox_path, stored_name
from core.settings import Settings, settings
from core.storage import replacing
from pipeline import dump
from pipeline.execution import RUN_LOCK

FORMAT = 1
HOLD_SECONDS = 120.0  # how long a cleanup under way is waited for
BACKUP_LOCK = 7_307_001  # an advisory lock of PostgreSQL
SMALL_BYTES = 8_000_000  # read at once
# In the data folder, and made anew by whoever needs it. What begins with a dot there is somebody's work in progress.
LEFT_OUT = {
    "postgres",
    "serving",
    "logs/services",
    "processes.json",
    "supervisor.lock",
    "README.md",
    "lost+found",
}
# Only in the object store: `mirror.send_missing` sends the rest from the disk.
STORED = ("images", "originals")
ARTIFACTS = "mlflow/artifacts"
# Tables with partitions: one that is dropped between the snapshot and its dump would end the dump.
_HOLD = {"emend": "predictions"}

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


class BackupError(EmendError):
    """A backup cannot be made or used; the message says which, and what to do."""


@dataclass(frozen=True)
class Entry:
    """A file of a backup. name: below the data folder. linked_to: the file it was one with on the disk.

    stored_at: when the object store got it, for what came from there.
    """

    name: str
    size_bytes: int
    sha256: str
    mode: int
    modified_ns: int
    linked_to: str | None = None
    stored_at: str | None = None


@dataclass(frozen=True)
class Manifest:
    """One backup. postgresql, pg_dump: major versions of the server and of what read it. databases: the files of each
    dump; their mode and time say nothing.

    folders: empty ones, which git needs. missing_pictures: of corrections that wait and whose picture was nowhere.
    """

    id: str
    created_at: str
    emend: str
    schema: str
    postgresql: int
    pg_dump: int
    databases: dict[str, list[Entry]]
    files: list[Entry]
    folders: list[str]
    missing_pictures: list[str]
    format: int = FORMAT

    def contents(self) -> dict[str, int]:
        """SHA-256 and size of all that it needs."""
        dumped = (entry for entries in self.databases.values() for entry in entries)
        return {entry.sha256: entry.size_bytes for entry in (*dumped, *self.files)}


@dataclass(frozen=True)
class Made:
    """manifest: the backup. new_*: what it added to the place. removed: older backups that were given up."""

    manifest: Manifest
    new_files: int
    new_bytes: int
    removed: list[str]
    seconds: float
    held_seconds: float


class Folder:
    """A place on a disk, with the methods of `Objects` that a backup needs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = str(root)

    def put(self, name: str, data: bytes) -> None:
        with replacing(self.root / name) as temporary:
            temporary.write_bytes(data)

    def put_file(self, name: str, path: Path) -> None:
        """Takes the file: it is gone from `path`."""
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)

    def get(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def get_file(self, name: str, path: Path) -> bool:
        try:
            shutil.copyfile(self.root / name, path)
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str) -> list[Listed]:
        found = []
        for path in (self.root / prefix).rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                about = path.stat()
                changed = datetime.fromtimestamp(about.st_mtime, UTC)
                found.append(Listed(path.relative_to(self.root).as_posix(), about.st_size, changed))
        return found

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self.root / name).unlink(missing_ok=True)


Place = Folder | Objects


@contextmanager
def place_at(address: str, *, to_write: bool) -> Iterator[Place]:
    """A folder, or `s3://bucket/prefix` with the keys of the AWS_ settings.

    to_write: makes it; nobody else writes to the folder while the block lasts, and nobody else can read what is
    written: it has both databases and the salt of all actors. Raises ConfigurationError, Conflict.
    """
    before = os.umask(0o077) if to_write else None
    try:
        with _place_at(address, to_write=to_write) as place:
            yield place
    finally:
        if before is not None:
            os.umask(before)


@contextmanager
def _place_at(address: str, *, to_write: bool) -> Iterator[Place]:
    if address.startswith("s3://"):
        bucket = _bucket(address)
        if to_write:
            bucket.prepare()
        yield bucket
        return
    if "://" in address:
        raise ConfigurationError(f"{address} is neither a folder nor s3://bucket/prefix")
    root = Path(address).absolute()
    if not to_write:
        yield Folder(root)
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        opened = (root / ".lock").open("a+")
    except OSError as exc:
        raise ConfigurationError(f"the backup's folder {root} cannot be written to ({exc.strerror})") from exc
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Conflict(f"another `emend backup` writes to {root}; try again when it has ended") from exc
        yield Folder(root)


def _bucket(address: str) -> Objects:
    chosen = settings()
    secret = chosen.aws_secret_access_key
    for name, value in (
        ("AWS_ACCESS_KEY_ID", chosen.aws_access_key_id),
        ("AWS_SECRET_ACCESS_KEY", None if secret is None else secret.get_secret_value()),
        ("AWS_DEFAULT_REGION", chosen.aws_region),
    ):
        if value is not None:  # `.env` may hold them; the clients look into the environment only
            os.environ[name] = value
    return Objects(address, endpoint=chosen.aws_endpoint_url)


def database_urls(chosen: Settings, mlflow_url: str | None, *, without_mlflow: bool) -> dict[str, str]:
    """The databases of this deployment. Raises ConfigurationError when it cannot know MLflow's."""
    from core.settings import embedded_database_url

    urls = {"emend": chosen.database_url}
    if without_mlflow:
        return urls
    if mlflow_url is not None:
        urls["mlflow"] = mlflow_url
    elif chosen.database_url_setting is None:
        urls["mlflow"] = embedded_database_url(chosen.data_dir, "mlflow")
    else:
        raise ConfigurationError(
            "MLflow's database is not known: set MLFLOW_BACKEND_STORE_URI to what MLflow's server was started with "
            "(--backend-store-uri), or give --without-mlflow when that is backed up elsewhere"
        )
    return urls


def back_up(
    place: Place,
    data_dir: Path,
    urls: Mapping[str, str],
    *,
    keep: int | None = None,
    say: Say = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> Made:
    """Of a deployment that may be at work: a picture of one moment, which is after the call.

    urls: by database; `emend` must be among them. keep: so many backups stay at the place, this one included.
    Raises Conflict when another backup is being made, or a cleanup does not end; BackupError, ConfigurationError,
    StoreUnavailable, DumpFailed, DiskFull.
    """
    began = time.monotonic()
    work = place.root / ".work" if isinstance(place, Folder) else data_dir / ".backup"
    if isinstance(place, Folder) and place.root.resolve().is_relative_to(data_dir.resolve()):
        raise ConfigurationError(f"{place.where} is inside the data folder {data_dir}; choose another place")
    servers = [dump.server_major(url) for url in urls.values()]
    pg_dump = max(dump.tool("pg_dump", server).major for server in servers)
    with _alone(urls["emend"]), room_needed("this backup"):
        shutil.rmtree(work, ignore_errors=True)  # of a backup that was killed
        work.mkdir(parents=True)
        try:
            try:
                earlier = newest(place)
            except BackupError as exc:
                say(f"{exc.message}; all that is in the object store alone is fetched anew")
                earlier = None
            contents = Contents(place, work, earlier)
            say("copying files")
            _copy_all(data_dir, contents, progress)
            with ExitStack() as snapshots:
                with held(urls["emend"]) as since:
                    taken = {
                        database: snapshots.enter_context(dump.snapshot(url, _HOLD.get(database)))
                        for database, url in urls.items()
                    }
                    created_at = datetime.now(UTC)
                    files, folders = _copy_all(data_dir, contents, progress)
                    held_seconds = time.monotonic() - since
                rows = taken["emend"][0]
                _need_homes(rows, files, data_dir)
                found, missing = _waiting_pictures(rows, {entry.name: entry for entry in files})
                schema = str(rows.scalar(text("select version_num from alembic_version")))
                say("copying the databases")
                dumped = {
                    database: _dump(url, work / database, taken[database][1], contents)
                    for database, url in urls.items()
                }
            manifest = Manifest(
                id=_new_id(place, created_at),
                created_at=created_at.isoformat(),
                emend=__version__,
                schema=schema,
                postgresql=max(servers),
                pg_dump=pg_dump,
                databases=dumped,
                files=sorted([*files, *found], key=lambda entry: entry.name),
                folders=folders,
                missing_pictures=missing,
            )
            _publish(place, manifest)
            removed = _try_to_give_up_old(place, keep, say) if keep is not None else []
        finally:
            shutil.rmtree(work, ignore_errors=True)
    seconds = time.monotonic() - began
    return Made(manifest, contents.new_files, contents.new_bytes, removed, seconds, held_seconds)


def _need_homes(rows: Connection, files: list[Entry], data_dir: Path) -> None:
    """A disk that is not mounted looks like a deployment without files, and `--keep` would give up the good backups."""
    names = {entry.name for entry in files}
    models = rows.scalars(text("select name from models order by name"))
    homeless = [model for model in models if f"{model}/params.yaml" not in names]
    if homeless:
        raise BackupError(
            f"the home of {', '.join(homeless)} is not in {data_dir}: is its disk mounted, and does the pipeline work "
            "here (EMEND_DATA_DIR)? No backup was made"
        )


@contextmanager
def room_needed(what: str) -> Iterator[None]:
    """A full disk as DiskFull, and what may not be read or written as ConfigurationError."""
    try:
        yield
    except PermissionError as exc:
        raise ConfigurationError(
            f"{exc.filename} may not be read or written: do it as the user that runs Emend"
        ) from exc
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(f"no room for {what}: free space and try again; nothing is half done") from exc


# Manifests


def manifest_ids(place: Place) -> list[str]:
    """Oldest first."""
    return sorted(Path(each.name).stem for each in place.list("backups") if each.name.endswith(".json"))


def newest(place: Place) -> Manifest | None:
    ids = manifest_ids(place)
    return read_manifest(place, ids[-1]) if ids else None


def read_manifest(place: Place, backup_id: str) -> Manifest:
    """Raises BackupError when it is not there, damaged, or of a newer Emend."""
    data = place.get(f"backups/{backup_id}.json")
    if data is None:
        known = ", ".join(manifest_ids(place)[-5:]) or "none"
        raise BackupError(
            f"{place.where} has no whole backup {backup_id}; it has {known} (one that was not finished has no manifest)"
        )
    damaged = f"the manifest of backup {backup_id} in {place.where} is damaged; use another backup"
    try:
        told = json.loads(data)
        body, digest = told["backup"], told["sha256"]
    except (ValueError, KeyError, TypeError) as exc:
        raise BackupError(damaged) from exc
    if digest_of(body) != digest:
        raise BackupError(damaged)
    if body["format"] != FORMAT:
        raise BackupError(
            f"backup {backup_id} in {place.where} was made by Emend {body['emend']}, in another format than this Emend "
            f"({__version__}) reads; restore it with that one"
        )
    return Manifest(
        **{
            **body,
            "files": [Entry(**entry) for entry in body["files"]],
            "databases": {
                name: [Entry(**entry) for entry in entries] for name, entries in body["databases"].items()
            },
        }
    )


def content_name(sha256: str) -> str:
    return f"files/{sha256[:2]}/{sha256}"


def _publish(place: Place, manifest: Manifest) -> None:
    """Last, when all that it names would survive a power cut."""
    if isinstance(place, Folder):
        os.sync()  # once, instead of a file at a time
    body = asdict(manifest)
    told = json.dumps({"sha256": digest_of(body), "backup": body}, ensure_ascii=False, sort_keys=True)
    place.put(f"backups/{manifest.id}.json", told.encode())


def digest_of(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _new_id(place: Place, moment: datetime) -> str:
    name = f"{moment:%Y%m%dT%H%M%SZ}"
    if place.get(f"backups/{name}.json") is not None:
        raise Conflict(f"there is a backup {name} already; try again")
    return name


def _try_to_give_up_old(place: Place, keep: int, say: Say) -> list[str]:
    """The new one is made, whatever becomes of the old ones."""
    try:
        return _give_up_old(place, keep)
    except EmendError as exc:
        say(f"old backups stay: {exc.message}")
        return []


def _give_up_old(place: Place, keep: int) -> list[str]:
    """Manifests first: a backup that lost a content would not be one."""
    ids = manifest_ids(place)
    old, kept = ids[:-keep], ids[-keep:]
    needed = {content_name(sha256) for each in kept for sha256 in read_manifest(place, each).contents()}
    place.remove(f"backups/{each}.json" for each in old)
    if old:
        place.remove(each.name for each in place.list("files") if each.name not in needed)
    return old


# Contents


class Contents:
    """What the place has, and what is added to it.

    A file that is as it was when it was last looked at is not read again.
    """

    def __init__(self, place: Place, work: Path, earlier: Manifest | None) -> None:
        self.new_files = 0
        self.new_bytes = 0
        self._place = place
        self._work = work
        self._there = {each.name: each.size_bytes for each in place.list("files")}
        self._seen: dict[Path, tuple[tuple[int, int, int], str]] = {}
        self._stored = {e.name: e for e in earlier.files if e.stored_at is not None} if earlier else {}

    def send_ahead(self, paths: list[Path]) -> None:
        """To an object store, several at once: it waits more than it works. `add` then finds them there."""

        def send(path: Path) -> None:
            with contextlib.suppress(FileNotFoundError):
                self.add("", path)

        if isinstance(self._place, Objects):
            objects.in_parallel(send, paths)

    def add(self, name: str, path: Path) -> Entry:
        """Raises FileNotFoundError when it is gone."""
        about = path.stat()
        stamp = (about.st_ino, about.st_size, about.st_mtime_ns)
        known = self._seen.get(path)
        if known is None or known[0] != stamp:
            size_bytes, sha256 = self._take(path, about.st_size)
            self._seen[path] = (stamp, sha256)
        else:
            size_bytes, sha256 = about.st_size, known[1]
        return Entry(name, size_bytes, sha256, about.st_mode & 0o7777, about.st_mtime_ns)

    def add_stored(self, store: Objects, listed: Listed) -> Entry | None:
        """None when it is gone from the object store. What is there as it was at an earlier backup is not fetched."""
        stored_at = listed.modified_at.isoformat()
        known = self._stored.get(listed.name)
        is_as_it_was = known is not None and (known.stored_at, known.size_bytes) == (
            stored_at,
            listed.size_bytes,
        )
        if known is None or not is_as_it_was or not self._has(known.sha256, known.size_bytes):
            fetched = self._temporary(listed.name)
            if not store.get_file(listed.name, fetched):
                return None
            size_bytes, sha256 = self._take(fetched, fetched.stat().st_size)
            fetched.unlink(missing_ok=True)
            modified_ns = int(listed.modified_at.timestamp()) * 1_000_000_000
            known = Entry(listed.name, size_bytes, sha256, 0o644, modified_ns, None, stored_at)
            self._stored[listed.name] = known
        return known

    def _take(self, path: Path, size_bytes: int) -> tuple[int, str]:
        """Size and SHA-256 of what was read, which the place then has: the file may grow meanwhile."""
        if size_bytes <= SMALL_BYTES:
            data = path.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            if not self._has(sha256, len(data)):
                copy = self._temporary(sha256)
                copy.write_bytes(data)
                self._put(copy, sha256, len(data))
            return len(data), sha256
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size_bytes = file.tell()
        if not self._has(sha256, size_bytes):
            copy = self._temporary(sha256)
            shutil.copyfile(path, copy)
            with copy.open("rb") as file:  # it may have grown between the two
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size_bytes = copy.stat().st_size
            self._put(copy, sha256, size_bytes)
        return size_bytes, sha256

    def _has(self, sha256: str, size_bytes: int) -> bool:
        return self._there.get(content_name(sha256)) == size_bytes

    def _put(self, copy: Path, sha256: str, size_bytes: int) -> None:
        self._place.put_file(content_name(sha256), copy)
        copy.unlink(missing_ok=True)
        self._there[content_name(sha256)] = size_bytes
        self.new_files += 1
        self.new_bytes += size_bytes

    def _temporary(self, name: str) -> Path:
        """Of this thread: two may have the same content."""
        unique = hashlib.sha256(f"{name} {time.monotonic_ns()} {os.urandom(8).hex()}".encode())
        return self._work / unique.hexdigest()


def _copy_all(data_dir: Path, contents: Contents, progress: Progress) -> tuple[list[Entry], list[str]]:
    """Every file below the data folder, and what only the object store has; and the empty folders."""
    entries: dict[str, Entry] = {}
    folders: list[str] = []
    linked: dict[tuple[int, int], str] = {}
    for belongs in (_names_others, _is_named):
        files = []
        for name, path in _walk(data_dir, folders if belongs is _is_named else []):
            if belongs(name):
                files.append((name, path))
        files.sort(key=lambda file: _order(file[0]))
        _copy(files, contents, entries, linked, progress)
    _copy_stored(contents, entries)
    return list(entries.values()), sorted(folders)


def _copy(
    files: list[tuple[str, Path]],
    contents: Contents,
    entries: dict[str, Entry],
    linked: dict[tuple[int, int], str],
    progress: Progress,
) -> None:
    contents.send_ahead([path for _, path in files])
    for number, (name, path) in enumerate(files):
        try:
            about = path.stat()
            entry = contents.add(name, path)
        except FileNotFoundError:  # moved or removed since it was listed
            continue
        if about.st_nlink > 1:
            first = linked.setdefault((about.st_dev, about.st_ino), name)
            if first != name and entries[first].sha256 == entry.sha256:
                entry = Entry(**{**asdict(entry), "linked_to": first})
        entries[name] = entry
        progress(number + 1, len(files))


def _copy_stored(contents: Contents, entries: dict[str, Entry]) -> None:
    """What the object store has and the disk has not: pictures that came to a gateway elsewhere, and MLflow's files."""
    store = objects.store()
    if store is None:
        return
    models = sorted({name.split("/")[0] for name in entries if name.endswith("/params.yaml")})
    prefixes = [ARTIFACTS, *(f"{model}/{folder}" for model in models for folder in STORED)]
    listed = [each for prefix in prefixes for each in store.list(prefix) if each.name not in entries]
    listed += [each for each in store.list("") if each.name == "actor_salt" and each.name not in entries]

    def add(each: Listed) -> None:
        entry = contents.add_stored(store, each)
        if entry is not None:
            entries[each.name] = entry

    objects.in_parallel(add, listed)


def _walk(data_dir: Path, folders: list[str]) -> Iterator[tuple[str, Path]]:
    """Names and paths of what belongs into a backup; adds the empty folders."""
    for folder, below, files in os.walk(data_dir, followlinks=True, onerror=_say_no):
        at = Path(folder).relative_to(data_dir)
        below[:] = sorted(name for name in below if not _left_out(at / name))
        kept = [name for name in sorted(files) if not _left_out(at / name)]
        if not below and not kept and at != Path():
            folders.append(at.as_posix())
        for name in kept:
            if (Path(folder) / name).is_file():  # no socket, no pipe
                yield (at / name).as_posix(), Path(folder) / name


def _say_no(exc: OSError) -> None:
    if not isinstance(exc, FileNotFoundError):  # removed since
        raise exc


def _left_out(name: Path) -> bool:
    parts = name.parts
    return (
        name.as_posix() in LEFT_OUT
        or (len(parts) == 1 and parts[0].startswith("."))
        or parts[1:3] in ((".dvc", "tmp"), ("runs", ".pixels"))
        or (name.name.startswith(".") and name.suffix == ".tmp")  # core.storage, before its rename
        or (parts[1:2] == (".git",) and name.suffix == ".lock")
    )


def _is_named(name: str) -> bool:
    """Contents that others name by their hash: they are copied after those, as they were made before them."""
    parts = name.split("/")
    return parts[1:3] in ([".git", "objects"], [".dvc", "cache"])


def _names_others(name: str) -> bool:
    return not _is_named(name)


def _order(name: str) -> tuple[int, str]:
    """git's tags are made after the commits that branches name, these after the index, and that after the files:
    so they are read in this order."""
    parts = name.split("/")
    if parts[1:2] != [".git"] or parts[2:] == ["index"]:
        return 2, name
    return (0 if parts[2:4] == ["refs", "tags"] or parts[2:] == ["packed-refs"] else 1), name


# Rows


@contextmanager
def _alone(url: str) -> Iterator[None]:
    """Raises Conflict when another backup of this deployment is being made."""
    with dump.connected(url, "AUTOCOMMIT") as connection:
        if not connection.scalar(text("select pg_try_advisory_lock(:key)"), {"key": BACKUP_LOCK}):
            raise Conflict(
                "another `emend backup` of this deployment is at work; try again when it has ended"
            )
        yield


@contextmanager
def held(url: str) -> Iterator[float]:
    """While the block lasts no stage of any run begins or ends and no promotion is opened or closed; a stage under way
    goes on, but none that removes files is. Corrections, predictions and requests for runs go on. Gives the
    time (monotonic) since which it is so.

    Raises Conflict when a cleanup does not end.
    """
    with dump.connected(url) as connection:
        give_up_at = time.monotonic() + HOLD_SECONDS
        while not _hold(connection):
            connection.rollback()
            if time.monotonic() > give_up_at:
                raise Conflict(
                    f"a run has been removing old files, or a transaction has been open, for {HOLD_SECONDS:g} s; try "
                    "again later"
                )
            time.sleep(0.05)  # between two tries
        yield time.monotonic()
        connection.rollback()


def _hold(connection: Connection) -> bool:
    """Waits for nobody while it holds one of the two tables: else it could be one of two that wait for each other."""
    try:
        connection.execute(text("lock table stages, promotions in share mode nowait"))
    except DBAPIError as exc:
        if getattr(exc.orig, "pgcode", None) != "55P03":  # lock_not_available
            raise
        return False
    # Its run's lock tells a cleanup at work from the row of one that was killed.
    cleaning = text(
        "select exists (select from stages s join pg_locks l on l.locktype = 'advisory' and l.classid = :kind "
        "and l.objid = s.run_id and l.granted where s.name = 'cleanup' and s.status = 'running')"
    )
    return not connection.scalar(cleaning, {"kind": RUN_LOCK})


def _waiting_pictures(rows: Connection, entries: Mapping[str, Entry]) -> tuple[list[Entry], list[str]]:
    """Pictures of corrections that wait, or were set aside, and that only the object store has, under the names a
    deployment without one looks for. And the names of those that wait and are nowhere."""
    query = text(
        "select model, label, image_sha256, status::text from corrections "
        "where status in ('accepted', 'quarantined') order by id"
    )
    set_aside = {tuple(name.split("/")[::3]) for name in entries if name.split("/")[1:2] == ["quarantine"]}
    found: dict[str, Entry] = {}
    missing = []
    for model, label, sha256, status in rows.execute(query):
        waits = status == "accepted"
        name = inbox_path(Path(), model, label, sha256).as_posix()
        if not waits:
            name = f"{model}/quarantine/rejected/{sha256}.png"
            if (model, f"{sha256}.png") in set_aside:
                continue
        if name in entries:
            continue
        stored = entries.get(stored_name(model, sha256))
        if stored is not None:
            found[name] = Entry(name, stored.size_bytes, stored.sha256, 0o644, stored.modified_ns)
        elif waits:
            missing.append(name)
    return list(found.values()), missing


def _dump(url: str, folder: Path, snapshot_name: str, contents: Contents) -> list[Entry]:
    dump.dump(url, folder, snapshot_name)
    entries = [contents.add(path.name, path) for path in sorted(folder.iterdir())]
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
    return entries
