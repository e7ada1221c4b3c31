"""Follows `models:/<model>@champion` for every model in the registry.

Woken at a promotion (core/wake.py), and by itself now and then, it asks which version each champion is. A new one
is downloaded beside the old into `<cache>/<model>/<version>/`, loaded, tried on its example, and swapped in. One that
fails is turned down, until the alias is moved away and to it again (a version's files never change). One that cannot
be fetched is tried again, ever more slowly, up to once a minute. `<cache>/<model>/live` names the version that last
went live: a restart serves it even with MLflow away.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core import telemetry
from core.errors import EmendError
from core.registry import Registry, RegistryError, Version, identity
from core.storage import write_atomically
from core.wake import Listener
from serving import metrics
from serving.errors import VersionRejected
from serving.versions import NOT_SERVED, LoadedVersion, Versions, load, read_identity

ALIAS = "champion"
POLL_SECONDS = 1.0  # while nothing tells of promotions
LISTENING_POLL_SECONDS = 15.0  # while something does
LONGEST_WAIT_SECONDS = 60.0

# A model's name becomes a folder's name here.
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

log = telemetry.get_logger(__name__)


@dataclass
class _Retry:
    version: int
    not_before: float
    wait_seconds: float


class Follower:
    """Keeps `versions` in step with the registry, from a thread of its own between start and stop."""

    def __init__(
        self,
        registry: Registry,
        versions: Versions,
        cache: Path,
        *,
        database_url: Callable[[], str] | None = None,
        poll_seconds: float = POLL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._versions = versions
        self._cache = cache
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._done: dict[str, int] = {}  # the champion number each model was last dealt with at
        self._retries: dict[str, _Retry] = {}
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._listener = None if database_url is None else Listener(database_url, self._woken.set)
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._registry_up: bool | None = None  # None until it was asked

    def start(self) -> None:
        if self._listener is not None:
            self._listener.start()
        self._thread.start()

    def stop(self) -> None:
        """A download in progress is given up on; its partial folder is removed at the next start."""
        self._stopping.set()
        self._woken.set()
        if self._listener is not None:
            self._listener.stop()
        self._thread.join(timeout=2)

    def load_cached(self) -> None:
        """Puts the last live version of each model up again, from disk alone."""
        for partial in self._cache.glob("*/.*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        for pointer in sorted(self._cache.glob("*/live")):
            try:
                self._versions.swap(load(pointer.parent / pointer.read_text().strip()))
            except (VersionRejected, OSError, UnicodeDecodeError) as exc:
                # No verdict on the version: it is fetched anew when the registry answers.
                log.warning("cache_unusable", model=pointer.parent.name, reason=str(exc))

    def poll(self) -> None:
        """One round. Never raises for what the registry or the disk does."""
        try:
            champions = self._registry.aliased(ALIAS)
        except RegistryError as exc:
            self._note_registry(up=False, reason=exc.message)
            return
        self._note_registry(up=True)
        self._forget_gone(champions)
        for name, number in champions.items():
            self._versions.forget_rejections(name, but=number)
            if self._done.get(name) != number and self._due(name, number):
                self._follow(name, number)

    def _forget_gone(self, champions: Mapping[str, int]) -> None:
        """Models whose alias was taken away: nothing is to be fetched, and pointed to again it is tried again."""
        for name in self._retries.keys() - champions.keys():
            self._versions.settled(name)
            del self._retries[name]
        self._done = {name: number for name, number in self._done.items() if name in champions}

    def _note_registry(self, *, up: bool, reason: str = "") -> None:
        """Logs changes only: an MLflow that is away for an hour is one line, not 3600."""
        if up != self._registry_up:
            (log.info if up else log.warning)("registry_up" if up else "registry_away", reason=reason or None)
        self._registry_up = up
        metrics.REGISTRY_UP.set(up)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.poll()
            except Exception:
                log.exception("follower_failed")
            self._woken.wait(self._pause())
            self._woken.clear()

    def _pause(self) -> float:
        """Until it looks by itself."""
        hears = self._listener is not None and self._listener.listening and self._registry_up
        seconds = LISTENING_POLL_SECONDS if hears else self._poll_seconds
        if self._retries:
            soonest = min(retry.not_before for retry in self._retries.values()) - self._clock()
            seconds = min(seconds, max(self._poll_seconds, soonest))
        return seconds

    def _follow(self, name: str, number: int) -> None:
        if not SAFE_NAME.fullmatch(name):
            log.warning("model_ignored", model=name, reason="its name cannot be a folder's name")
            self._done[name] = number
            return
        try:
            wanted = self._registry.version_by_alias(name, ALIAS)
            if wanted is None:
                return
            number = wanted.version
            self._bring_live(wanted)
        except VersionRejected as exc:
            shutil.rmtree(self._directory(name, number), ignore_errors=True)
            self._versions.reject(name, number, exc.message)
        except (EmendError, OSError) as exc:
            self._wait(name, number, str(exc))
            return
        except Exception as exc:  # whatever is odd about one model, the others are followed
            log.exception("follower_failed", model=name)
            self._wait(name, number, f"{type(exc).__name__}; the log says more")
            return
        self._done[name] = number
        self._retries.pop(name, None)

    def _bring_live(self, wanted: Version) -> None:
        current = self._versions.peek(wanted.name)
        if current is not None and current.identity == identity(wanted):
            self._versions.settled(wanted.name)
            return
        self._versions.swap(self._loaded(wanted))
        write_atomically(self._cache / wanted.name / "live", f"{wanted.version}\n".encode())
        self._forget(wanted.name, keep={wanted.version, *([current.version] if current else [])})

    def _loaded(self, wanted: Version) -> LoadedVersion:
        directory = self._directory(wanted.name, wanted.version)
        if read_identity(directory) == identity(wanted):
            try:
                return load(directory)
            except VersionRejected as exc:
                # A damaged cache says nothing about the version: fetch it again.
                log.warning("cache_unusable", model=wanted.name, reason=exc.message)
        shutil.rmtree(directory, ignore_errors=True)
        self._registry.download(wanted.name, wanted.version, directory, without=NOT_SERVED)
        return load(directory)

    def _forget(self, name: str, keep: set[int]) -> None:
        """The last one stays for a rollback; older ones can be fetched again."""
        for directory in (self._cache / name).iterdir():
            if directory.is_dir() and directory.name.isdigit() and int(directory.name) not in keep:
                shutil.rmtree(directory, ignore_errors=True)

    def _directory(self, name: str, version: int) -> Path:
        return self._cache / name / str(version)

    def _due(self, name: str, number: int) -> bool:
        retry = self._retries.get(name)
        return retry is None or retry.version != number or self._clock() >= retry.not_before

    def _wait(self, name: str, number: int, reason: str) -> None:
        retry = self._retries.get(name)
        again = retry is not None and retry.version == number
        seconds = min(LONGEST_WAIT_SECONDS, retry.wait_seconds * 2) if retry and again else self._poll_seconds
        self._retries[name] = _Retry(number, self._clock() + seconds, seconds)
        self._versions.wait_for(name, number, reason)
