"""Which version is champion: moving the registry's alias and waiting for the model server that follows it.

Reads nothing in PostgreSQL, and needs none: the promote stage and the rollback (pipeline/promotion.py) share it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from core.errors import EmendError
from core.registry import Registry
from core.wake import announce

MOVED_BACK = (
    "promote.moved_back"  # a file in the run's folder, for the ledger: the stage itself moved champion back
)


class NotServed(EmendError):
    """The model server did not answer with the new version in its time; champion was moved back."""

    status = 503
    code = "not_served"


@dataclass(frozen=True)
class Aliases:
    """What `champion` and `previous` name; None: the alias is not there."""

    champion: int | None
    previous: int | None


def aliases_of(registry: Registry, model: str) -> Aliases:
    return Aliases(version_of(registry, model, "champion"), version_of(registry, model, "previous"))


def move_champion(
    registry: Registry,
    model: str,
    to: Aliases,
    *,
    back_to: Aliases,
    server_urls: Sequence[str],
    timeout_seconds: float,
) -> float:
    """Sets both aliases; waits until the model servers answer with the new champion.

    Can be repeated after being killed. Returns the seconds from the alias to the answer; 0.0 when the server is
    no Emend server and cannot say. Raises NotServed after moving `back_to`.
    """
    assert to.champion is not None
    started = time.monotonic()
    set_aliases(registry, model, to)
    announce()
    try:
        served = wait_until_served(server_urls, model, to.champion, timeout_seconds)
    except NotServed:
        set_aliases(registry, model, back_to)
        announce()
        raise
    return time.monotonic() - started if served else 0.0


def wait_until_served(server_urls: Sequence[str], model: str, version: int, timeout_seconds: float) -> bool:
    """Until all that answer have it, and one at least does; who is away follows when it is back.

    False when a stock server, which does not tell its version, answers. Raises NotServed.
    """
    deadline = time.monotonic() + timeout_seconds
    with httpx.Client(timeout=5, trust_env=False) as http:
        while True:
            found = [_ask(http, url, model, version) for url in server_urls]
            answered = [each for each in found if each.answers]
            if answered and all(each.serves is not False for each in answered):
                return any(each.serves for each in answered)
            if time.monotonic() > deadline:
                seen = "; ".join(f"{url}: {each.seen}" for url, each in zip(server_urls, found, strict=True))
                raise NotServed(
                    f"the model server did not answer with {model} version {version} within {timeout_seconds:g} s "
                    f"({seen}); champion was moved back. See its log, then `emend resume`"
                )
            time.sleep(0.05)


@dataclass(frozen=True)
class _Told:
    """serves: None when it does not say."""

    answers: bool
    serves: bool | None
    seen: str


def _ask(http: httpx.Client, url: str, model: str, version: int) -> _Told:
    """Raises NotServed when the server turned the version down."""
    try:
        answer = http.get(f"{url}/version")
        if answer.status_code == 404:
            return _Told(True, None, "a stock server")
        models = answer.json().get("models") if answer.is_success else None
    except httpx.HTTPError as exc:
        return _Told(False, False, f"no answer ({type(exc).__name__})")
    except (ValueError, AttributeError):  # MLflow's own server answers with MLflow's version as text
        return _Told(True, None, "a stock server")
    if answer.is_success and not isinstance(models, dict):
        return _Told(True, None, "a stock server")
    live = (models or {}).get(model, {})
    rejected = live.get("rejected", {}).get(str(version))
    if rejected:
        raise NotServed(f"the model server at {url} turned down {model} version {version}: {rejected}")
    return _Told(True, live.get("version") == version, f"version {live.get('version')}")


def version_of(registry: Registry, model: str, alias: str) -> int | None:
    found = registry.version_by_alias(model, alias)
    return found.version if found is not None else None


def set_aliases(registry: Registry, model: str, to: Aliases) -> None:
    for alias, version in (("champion", to.champion), ("previous", to.previous)):
        if version is None:
            registry.delete_alias(model, alias)
        else:
            registry.set_alias(model, alias, version)
