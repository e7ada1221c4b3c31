"""Which version is champion: moving the registry's alias and waiting for the model server that follows it.

Knows nothing of PostgreSQL: the promote stage and the rollback (pipeline/promotion.py) share it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx

from core.errors import EmendError
from core.registry import Registry

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
    serving_url: str,
    timeout_seconds: float,
) -> float:
    """Sets both aliases; waits until the model server answers with the new champion.

    Can be repeated after being killed. Returns the seconds from the alias to the answer; 0.0 when the server is
    no Emend server and cannot say. Raises NotServed after moving `back_to`.
    """
    assert to.champion is not None
    started = time.monotonic()
    _set(registry, model, to)
    try:
        served = wait_until_served(serving_url, model, to.champion, timeout_seconds)
    except NotServed:
        _set(registry, model, back_to)
        raise
    return time.monotonic() - started if served else 0.0


def wait_until_served(serving_url: str, model: str, version: int, timeout_seconds: float) -> bool:
    """False when a stock server, which does not tell its version, answers. Raises NotServed."""
    deadline = time.monotonic() + timeout_seconds
    seen = "nothing"
    with httpx.Client(base_url=serving_url, timeout=5) as http:
        while True:
            try:
                answer = http.get("/version")
                if answer.status_code == 404:
                    return False
                models = answer.json().get("models") if answer.is_success else None
                if answer.is_success and not isinstance(models, dict):
                    return False  # MLflow's own server answers /version with MLflow's version as text
                live = (models or {}).get(model, {})
                if live.get("version") == version:
                    return True
                seen = f"version {live.get('version')}"
                rejected = live.get("rejected", {}).get(str(version))
                if rejected:
                    raise NotServed(f"the model server turned down {model} version {version}: {rejected}")
            except httpx.HTTPError as exc:
                seen = f"no answer ({type(exc).__name__})"
            except ValueError:
                return False
            if time.monotonic() > deadline:
                raise NotServed(
                    f"the model server at {serving_url} did not answer with {model} version {version} within "
                    f"{timeout_seconds:g} s ({seen}); champion was moved back. See its log, then `emend resume`"
                )
            time.sleep(0.05)


def version_of(registry: Registry, model: str, alias: str) -> int | None:
    found = registry.version_by_alias(model, alias)
    return found.version if found is not None else None


def _set(registry: Registry, model: str, to: Aliases) -> None:
    for alias, version in (("champion", to.champion), ("previous", to.previous)):
        if version is None:
            registry.delete_alias(model, alias)
        else:
            registry.set_alias(model, alias, version)
