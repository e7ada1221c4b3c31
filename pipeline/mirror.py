"""A home, its runs and their logs in the object store: what the pipeline sends, and what a viewer elsewhere brings.

The store holds the names of the data folder. DVC's remote is the place of its cache (`doodles/.dvc/cache`), so both
hold the same files under the same names; git's history is one file, `doodles/home.bundle`, made anew by each recording.

    mirror.send_history(home)       what `version` and `evaluate` do after their commit
    mirror.bring_history(home)      what a viewer does that shares no disk with the pipeline

Bringing does nothing in the pipeline's own home, nor without a store.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from core import objects, telemetry
from core.errors import ConfigurationError, Unavailable
from core.objects import Objects, StoreUnavailable
from core.pictures import original_path, stored_name, stored_original_name
from core.settings import settings
from core.storage import replacing
from pipeline.dataset import shard_path
from pipeline.git import WorkspaceError, git

BUNDLE = "home.bundle"
MARK = ".emend"  # in the store, once it has all that was there before it
LOOK_AGAIN_SECONDS = 2.0  # a page that asks ten times a second asks the store this often
RETRY_SECONDS = 5.0

_log = telemetry.get_logger("mirror")
_history_lock = threading.Lock()
_files_lock = threading.Lock()  # a page asks for fifty pictures at once: one thread brings what they need
_looked_at: dict[Path, tuple[float, str | None]] = {}  # when, and the bundle's etag
_shards_of: dict[Path, str | None] = {}  # the bundle's etag whose dataset is here


def name_of(path: Path) -> str:
    """In the store, of a file or folder below the data folder, which need not be there any more."""
    folder = path.parent.resolve().relative_to(settings().data_dir.resolve())
    return (folder / path.name).as_posix()


def is_elsewhere(home: Path) -> bool:
    """The pipeline works on another disk: what is here are copies."""
    return objects.store() is not None and not (home / "params.yaml").exists()


def dvc_remote(home: Path) -> str | None:
    """Where DVC pushes to."""
    chosen = settings()
    if chosen.dvc_remote_url is not None:
        return chosen.dvc_remote_url
    return None if chosen.storage_url is None else f"{chosen.storage_url}/{name_of(home)}/.dvc/cache"


# What the pipeline sends


def send_history(home: Path) -> None:
    """All commits and tags. Raises StoreUnavailable."""
    store = objects.store()
    if store is None:
        return
    with replacing(home / "runs" / BUNDLE) as temporary:
        git(home, "bundle", "create", "--quiet", str(temporary), "--all")
    store.put_file(name_of(home / BUNDLE), home / "runs" / BUNDLE)


def bring_waiting(home: Path, waiting: Sequence[tuple[Path, str]]) -> None:
    """Pictures (where they belong in the inbox, hash) that only the store has, with their originals.

    What it does not have either stays absent. Raises StoreUnavailable.
    """
    store = objects.store()
    if store is None:
        return
    model = home.name

    def bring(item: tuple[Path, str]) -> None:
        path, sha256 = item
        original = original_path(home.parent, model, sha256)
        if not original.exists():
            store.get_file(stored_original_name(model, sha256), original)
        store.get_file(stored_name(model, sha256), path)

    objects.in_parallel(bring, [(path, sha256) for path, sha256 in waiting if not path.exists()])


def forget(paths: Iterable[Path]) -> None:
    """In the store, files that were removed here. When it does not answer they stay: they cost room, nothing else."""
    _forget(lambda store: [name_of(path) for path in paths])


def forget_folder(path: Path) -> None:
    """As `forget`, with all below it."""
    _forget(lambda store: [each.name for each in store.list(name_of(path))])


def _forget(names: Callable[[Objects], list[str]]) -> None:
    store = objects.store()
    if store is None:
        return
    try:
        store.remove(names(store))
    except Unavailable as exc:
        _log.warning("old files stay in the object store", reason=exc.message)


class Uploads:
    """Files on their way to the store, in the background: the newest state of each, until it is there.

    Nothing waits for it but `flush`. What a killed process had not sent yet, `send_missing` of the next one does.
    """

    def __init__(self, store: Objects) -> None:
        self._store = store
        self._waiting: dict[Path, None] = {}
        self._changed = threading.Condition()
        self._busy = False
        threading.Thread(target=self._work, name="uploads", daemon=True).start()

    def send(self, *paths: Path) -> None:
        with self._changed:
            self._waiting.update(dict.fromkeys(paths))
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """True when all is sent."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                path = next(iter(self._waiting))
                del self._waiting[path]
                self._busy = True
            try:
                self._store.put_file(name_of(path), path)
            except FileNotFoundError:
                pass  # cleaned up since
            except StoreUnavailable as exc:
                _log.warning("not in the object store yet", file=path.name, reason=exc.message)
                time.sleep(RETRY_SECONDS)  # between two tries
                self.send(path)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()


def uploads() -> Uploads | None:
    """This process's."""
    global _uploads
    store = objects.store()
    if store is not None and _uploads is None:
        _uploads = Uploads(store)
    return _uploads


_uploads: Uploads | None = None


def prepare(data_dir: Path, say: Callable[[str], None], push: Callable[[Path], int]) -> None:
    """Makes the bucket; the first time, sends what a deployment without a store has gathered. Before anything runs.

    Raises ConfigurationError, also when nobody answers: before anything runs that is a setting's fault.
    """
    store = objects.store()
    if store is None:
        return
    try:
        if store.prepare():
            say(f"made the bucket {store.bucket}")
        if store.get(MARK) is None:
            send_missing(data_dir, say, push)
            store.put(MARK, b"")
    except StoreUnavailable as exc:
        checked = "STORAGE_URL, AWS_ENDPOINT_URL and the keys"
        raise ConfigurationError(f"{exc.message}; is it up, and are {checked} right?") from exc


def send_missing(
    data_dir: Path, say: Callable[[str], None], push: Callable[[Path], int] | None = None
) -> int:
    """Everything that belongs into the store and is not there: from before it was set, or when a process was killed.

    push: of a home, with DVC; only while no run works there. Returns how many files were sent; costs listings when
    there is nothing to send. Raises StoreUnavailable.
    """
    store = objects.store()
    if store is None:
        return 0
    sent = _send_below(store, data_dir / "mlflow" / "artifacts", "**/*", say)
    salt = data_dir / "actor_salt"  # with another one everybody would be somebody else
    if salt.exists() and store.etag(salt.name) is None:
        store.put_file(salt.name, salt)
        sent += 1
    for home in sorted(path.parent for path in data_dir.glob("*/params.yaml")):
        sent += _send_below(store, home / "originals", "*/*.png", say)
        sent += _send_images(store, home, say)
        for pattern in ("runs/*/*.json", "runs/*/params.yaml"):
            sent += _send_below(store, home, pattern, say)
        if push is not None:
            sent += push(home) if any((home / "dataset").glob("*.parquet")) else 0
            send_history(home)
    return sent + _send_below(store, data_dir / "logs" / "runs", "*/*.log", say)


def _send_below(store: Objects, folder: Path, pattern: str, say: Callable[[str], None]) -> int:
    """Files whose size differs from the store's are sent too: a log may have grown."""
    files = [path for path in folder.glob(pattern) if path.is_file()]
    if not files:
        return 0
    there = {each.name: each.size_bytes for each in store.list(name_of(folder))}
    missing = [path for path in files if there.get(name_of(path)) != path.stat().st_size]
    if missing:
        say(f"sending {len(missing)} files of {name_of(folder)} to the object store")
        objects.in_parallel(lambda path: store.put_file(name_of(path), path), missing)
    return len(missing)


def _send_images(store: Objects, home: Path, say: Callable[[str], None]) -> int:
    """What waits, or was set aside, under its hash."""
    files = {path.stem: path for folder in ("quarantine", "inbox") for path in home.glob(f"{folder}/*/*.png")}
    if not files:
        return 0
    there = {each.name for each in store.list(f"{home.name}/images")}
    missing = [path for sha256, path in files.items() if stored_name(home.name, sha256) not in there]
    if missing:
        say(f"sending {len(missing)} pictures of {home.name} to the object store")
        objects.in_parallel(lambda path: store.put_file(stored_name(home.name, path.stem), path), missing)
    return len(missing)


# What a viewer elsewhere brings


def bring_elsewhere(home: Path, path: Path, *, again: bool = False) -> None:
    """A file of a run, or its log. again: it may have grown since it was brought. Raises StoreUnavailable."""
    store = objects.store()
    if store is not None and is_elsewhere(home) and (again or not path.exists()):
        store.get_file(name_of(path), path)


def bring_history(home: Path) -> bool:
    """The commits and tags as they are in the store by now. True when something came. Raises StoreUnavailable."""
    store = objects.store()
    if store is None or not is_elsewhere(home):
        return False
    with _history_lock:
        looked_at, etag = _looked_at.get(home, (float("-inf"), None))
        if time.monotonic() - looked_at < LOOK_AGAIN_SECONDS:
            return False
        newest = store.etag(f"{home.name}/{BUNDLE}")
        _looked_at[home] = (time.monotonic(), etag)
        if newest is None or newest == etag:
            return False
        bundle = home / BUNDLE
        if not store.get_file(f"{home.name}/{BUNDLE}", bundle):
            return False
        if not (home / ".git").is_dir():
            home.mkdir(parents=True, exist_ok=True)
            git(home, "init", "--quiet", "--bare", "--initial-branch=main", str(home / ".git"))
        git(home, "fetch", "--quiet", "--prune", str(bundle), "+refs/*:refs/*")
        bundle.unlink()
        _looked_at[home] = (time.monotonic(), newest)
        return True


def bring_shards(home: Path) -> None:
    """The dataset's files as the newest dataset version in the store has them. Raises StoreUnavailable."""
    if not is_elsewhere(home):
        return
    bring_history(home)
    with _files_lock:
        etag = _looked_at[home][1]
        if _shards_of.get(home) == etag:
            return
        listed = _listed(home, "HEAD:dataset.dvc", lambda told: str(told["outs"][0]["md5"]))
        files = [(home / "dataset" / each["relpath"], str(each["md5"])) for each in listed]
        missing = [
            (path, md5)
            for path, md5 in files
            if not path.exists() or (path.suffix != ".parquet" and md5_of(path) != md5)
        ]
        objects.in_parallel(lambda item: _bring_cached(home, *item), missing)
        _shards_of[home] = etag


def bring_shard(home: Path, dataset_version: int) -> None:
    if is_elsewhere(home) and not shard_path(home, dataset_version).exists():
        bring_shards(home)


def bring_outputs(home: Path, revision: str, names: Iterable[str]) -> None:
    """Files of the model a run made, into this disk's copy of DVC's cache. Raises StoreUnavailable."""
    if not is_elsewhere(home):
        return
    bring_history(home)
    wanted = set(names)

    def model_of(told: dict[str, Any]) -> str:
        return next(str(out["md5"]) for out in told["stages"]["train"]["outs"] if out["path"] == "model")

    with _files_lock:
        for each in _listed(home, f"{revision}:dvc.lock", model_of):
            if each["relpath"] in wanted:
                path = cached(home, str(each["md5"]))
                if not path.exists():
                    _bring_cached(home, path, str(each["md5"]))


def cached(home: Path, md5: str) -> Path:
    """A file of DVC's cache; its name in the store is the same."""
    return home / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def _listed(home: Path, revision: str, md5_in: Callable[[dict[str, Any]], str]) -> list[dict[str, Any]]:
    """The files of a folder that DVC tracks, from its own list in the cache; empty when there is none."""
    if not (home / ".git").is_dir():
        return []
    try:
        md5 = md5_in(yaml.safe_load(git(home, "show", revision)))
    except (WorkspaceError, KeyError, IndexError, StopIteration):  # no such commit, or nothing of it there
        return []
    path = cached(home, md5)
    if not path.exists():
        _bring_cached(home, path, md5)
    listed: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return listed


def _bring_cached(home: Path, path: Path, md5: str) -> None:
    """Whole, and checked against its name; absent when the store does not have it. Raises StoreUnavailable."""
    store = objects.store()
    assert store is not None
    name = name_of(home) + "/" + cached(Path(), md5).as_posix()
    fetched = path.with_name(f".{path.name}.brought")
    if not store.get_file(name, fetched):
        return
    if md5_of(fetched) != md5.removesuffix(".dir"):
        fetched.unlink()
        raise StoreUnavailable(
            f"{name} is damaged in the object store: its content has another hash; push it again"
        )
    fetched.replace(path)


def md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
