"""Versions other than the live one, for comparisons, shadows and canaries: fetched when somebody asks, those asked for
last kept in memory.

They go through the same checks as a champion (load, try on the example) and never near its path: threads of
their own fetch and answer, those of trials others than those of comparisons, and how many may ask at once is counted
apart. However many ask for a version at the same time, it is fetched once. What is kept is bounded in bytes; one that
goes finishes what it has begun, one on trial goes last. Nothing stays on disk.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from core import telemetry
from core.errors import EmendError, NotFound, Unavailable
from core.registry import ArtifactError, Registry
from serving.errors import NotReady, ServingError, UnknownVersion, UnusableVersion, VersionRejected
from serving.follower import SAFE_NAME
from serving.versions import NOT_SERVED, LoadedVersion, load

# Of files, all models together. One version stays however large it is: one on trial, else the one asked for last.
# What has no room beside it answers those who waited for it, and is fetched again for who comes later.
MOST_BYTES = 256 * 1024 * 1024
MOST_REQUESTS_AT_ONCE = 16
REJECTED_FOR_SECONDS = 60.0  # before it is fetched and tried again
MISSED_FOR_SECONDS = 5.0  # one that could not be fetched, before it is fetched again for a trial
TRIAL_SECONDS = 600.0  # on trial until nobody has asked for it so for this long
ALIAS_SECONDS = 2.0  # an alias that moves is followed this much later

_FOLDER = ".on-demand"  # no model can have this name
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_THREADS = 2  # for fetching, as many for fetching what is on trial, and for answering

log = telemetry.get_logger(__name__)

_Key = tuple[str, int]


@dataclass(frozen=True)
class _Kept:
    loaded: LoadedVersion
    size_bytes: int


@dataclass(frozen=True)
class _Alias:
    """number: asked for once, whoever waits. until: when it is asked for again."""

    number: asyncio.Future[int]
    until: float


class OnDemand:
    """Belongs to one event loop, but for what its threads do."""

    def __init__(
        self, registry: Registry, cache: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._folder = cache / _FOLDER
        self._clock = clock
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()  # the one asked for last is last
        self._fetching: dict[_Key, asyncio.Future[_Kept]] = {}
        self._on_trial: dict[_Key, float] = {}  # until when
        self._rejected: dict[_Key, tuple[float, str]] = {}  # until when, and why
        self._missed: dict[_Key, tuple[float, ServingError]] = {}  # the same: not to be fetched
        self._aliases: dict[tuple[str, str], _Alias] = {}
        self._fetchers = ThreadPoolExecutor(_THREADS, thread_name_prefix="on-demand-fetch")
        self._trial_fetchers = ThreadPoolExecutor(_THREADS, thread_name_prefix="trial-fetch")
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="on-demand")
        shutil.rmtree(self._folder, ignore_errors=True)  # of a killed process

    def stop(self) -> None:
        for fetchers in (self._fetchers, self._trial_fetchers):
            fetchers.shutdown(wait=False, cancel_futures=True)
        self.threads.shutdown()

    def kept(self) -> list[_Key]:
        """In the order in which they would go."""
        return list(self._kept)

    async def get(
        self, name: str, version: int, *, for_trial: bool = False, waits: bool = False
    ) -> LoadedVersion:
        """Raises UnknownVersion, UnusableVersion when it fails the checks, NotReady when it cannot be had just now.

        for_trial: who asks has somebody else to ask, so it is NotReady while it is fetched; unless `waits`.
        """
        key = (name, version)
        if for_trial:
            self._put_on_trial(key)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key].loaded
        self._refuse_rejected(key)
        if for_trial and not waits:
            self._refuse_missed(key)
        fetching = self._fetching.get(key)
        if fetching is None:
            fetchers = self._trial_fetchers if for_trial else self._fetchers
            fetching = asyncio.get_running_loop().run_in_executor(fetchers, self._fetch, name, version)
            self._fetching[key] = fetching
            fetching.add_done_callback(lambda done: self._keep(key, done))
        if for_trial and not waits and not fetching.done():
            raise NotReady(f"version {version} of '{name}' is being fetched; try again in a moment")
        return (await asyncio.shield(fetching)).loaded  # who goes away does not end it for the others

    async def number(self, name: str, written: str) -> int:
        """written: a version's number, or an alias that names one now. Raises UnknownVersion, NotReady."""
        if _NUMBER.fullmatch(written):
            return int(written)
        if not SAFE_NAME.fullmatch(name) or not SAFE_NAME.fullmatch(written) or written.isdecimal():
            raise _no_version(name)
        alias = written
        known = self._aliases.get((name, alias))
        if known is None or self._clock() >= known.until:
            asking = asyncio.get_running_loop().run_in_executor(self._fetchers, self._ask_alias, name, alias)
            known = _Alias(asyncio.ensure_future(asking), self._clock() + ALIAS_SECONDS)
            now = self._clock()
            self._aliases = {key: each for key, each in self._aliases.items() if each.until > now}
            self._aliases[name, alias] = known
        return await asyncio.shield(known.number)

    def _ask_alias(self, name: str, alias: str) -> int:
        """In a thread."""
        try:
            found = self._registry.version_by_alias(name, alias)
        except NotFound:
            found = None
        except EmendError as exc:
            raise NotReady(f"the alias '{alias}' of '{name}' cannot be looked up now: {exc.message}") from exc
        if found is None:
            raise _no_version(name)
        return found.version

    def _put_on_trial(self, key: _Key) -> None:
        now = self._clock()
        if key not in self._on_trial:
            self._on_trial = {other: until for other, until in self._on_trial.items() if until > now}
        self._on_trial[key] = now + TRIAL_SECONDS

    def _refuse_rejected(self, key: _Key) -> None:
        until, why = self._rejected.get(key, (0.0, ""))
        if self._clock() < until:
            raise _unusable(key, why)

    def _refuse_missed(self, key: _Key) -> None:
        until, why = self._missed.get(key, (0.0, ServingError("")))
        if self._clock() < until:
            raise type(why)(why.message)

    def _fetch(self, name: str, version: int) -> _Kept:
        """In a thread."""
        if not SAFE_NAME.fullmatch(name) or not 0 < version < 2**31:
            raise UnknownVersion(f"there is no version {version} of '{name}'")
        directory = self._folder / name / str(version)
        try:
            self._registry.download(name, version, directory, without=NOT_SERVED)
            size_bytes = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
            return _Kept(load(directory), size_bytes)
        except VersionRejected as exc:
            raise _unusable((name, version), exc.message) from exc
        except (NotFound, ArtifactError) as exc:
            raise UnknownVersion(
                f"there is no version {version} of '{name}' to be had: {exc.message}"
            ) from exc
        except (Unavailable, OSError) as exc:
            raise NotReady(f"version {version} of '{name}' cannot be fetched now: {exc}") from exc
        except EmendError as exc:
            raise ServingError(f"version {version} of '{name}' cannot be fetched: {exc}") from exc
        except Exception as exc:  # whatever it is, it is not fetched again for everybody who asks
            log.exception("fetch_failed", model=name, version=version)
            raise ServingError(f"version {version} of '{name}' cannot be fetched; the log says why") from exc
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _keep(self, key: _Key, done: asyncio.Future[_Kept]) -> None:
        del self._fetching[key]
        if done.cancelled():
            return
        failed = done.exception()  # asked for here too, in case nobody waits any more
        now = self._clock()
        self._missed = {other: told for other, told in self._missed.items() if told[0] > now}
        if isinstance(failed, UnusableVersion):
            self._rejected = {other: told for other, told in self._rejected.items() if told[0] > now}
            self._rejected[key] = (now + REJECTED_FOR_SECONDS, failed.why)
        elif isinstance(failed, ServingError):
            self._missed[key] = (now + MISSED_FOR_SECONDS, failed)
        if failed is None:
            self._kept[key] = done.result()
            self._forget_oldest()
            log.info(
                "version_fetched",
                model=key[0],
                version=key[1],
                size_bytes=done.result().size_bytes,
                kept=key in self._kept,
            )

    def _forget_oldest(self) -> None:
        while len(self._kept) > 1 and sum(kept.size_bytes for kept in self._kept.values()) > MOST_BYTES:
            others = [key for key in self._kept if self._on_trial.get(key, 0.0) <= self._clock()]
            del self._kept[next(iter(others or self._kept))]


def _no_version(name: str) -> UnknownVersion:
    return UnknownVersion(
        f"{name!r} has no such version: it is no number from 1, and no alias that names one of them"
    )


def _unusable(key: _Key, why: str) -> UnusableVersion:
    return UnusableVersion(f"version {key[1]} of '{key[0]}' does not answer: {why}", why)
