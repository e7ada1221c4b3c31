"""Starting and ending a shadow or a canary: a version that is asked beside the champion (core/trials.py)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
from sqlalchemy import select

from core import telemetry, trials
from core.database import Trial, TrialKind, session
from core.errors import Conflict, EmendError, NotFound, Unavailable
from core.registry import Registry
from core.settings import settings
from pipeline.champion import version_of
from pipeline.promotion import known_model, promotion_lock, refuse_removed, require_version

LOAD_SECONDS = 60.0  # the model server fetches the version first
MOST_LISTED = 20
MOST_SAID = 300  # characters of a model server's reason

_log = telemetry.get_logger("trials")


def start_trial(
    model: str, version: int, *, kind: TrialKind, percent: int | None, actor: str, reason: str
) -> dict[str, Any]:
    """Returns when every model server that answers has the version. Gateways hear of it in a moment.

    percent: of the images; None for what is usual (core/trials.py).
    Raises NotFound for a version that is not there, Conflict when it is live, does not load, or another trial is
    under way, Unavailable when no model server answers.
    """
    share = trials.USUAL_PERCENT[kind] if percent is None else percent
    with Registry(settings().mlflow_tracking_uri) as registry:
        _champion_beside(registry, model, version)
        _load(
            model, version, _image_bytes(model)
        )  # a minute at worst, in which others may promote and roll back
        with promotion_lock(model):
            champion = _champion_beside(registry, model, version)
            with session() as db:
                trial = Trial(
                    model=model,
                    kind=kind,
                    version=version,
                    champion=champion,
                    percent=share,
                    started_by=actor,
                    reason=reason,
                )
                db.add(trial)
                db.flush()
                db.refresh(trial)
                started = trials.as_json(trial)
    _log.info("trial started", model=model, kind=kind.value, version=version, percent=share, actor=actor)
    return started


def _champion_beside(registry: Registry, model: str, version: int) -> int:
    """What the version is to be compared with. Raises NotFound and Conflict when it cannot be tried out now."""
    with session() as db:
        known_model(db, model)
        refuse_removed(db, model, version)
        other = trials.open_trial(db, model)
    if other is not None:
        raise Conflict(
            f"version {other.version} is a {other.kind} of {model} already; `emend rollback --model {model} --version "
            f"{other.version}` ends it, `emend promote {other.version} --model {model}` puts it live"
        )
    require_version(registry, model, version)
    champion = version_of(registry, model, "champion")
    if champion is None:
        raise Conflict(
            f"{model} has no champion to compare with; `emend promote {version} --model {model}` makes it one"
        )
    if champion == version:
        raise Conflict(f"version {version} of {model} is live already", field="version")
    return champion


def list_trials(model: str, limit: int = MOST_LISTED) -> list[dict[str, Any]]:
    """Newest first."""
    with session() as db:
        known_model(db, model)
        found = db.scalars(select(Trial).where(Trial.model == model).order_by(Trial.id.desc()).limit(limit))
        return [trials.as_json(trial) for trial in found]


def _image_bytes(model: str) -> int:
    with session() as db:
        given = known_model(db, model).params["input"]
    return int(given["width"]) * int(given["height"]) * (1 if given["mode"] == "L" else 3)


def _load(model: str, version: int, image_bytes: int) -> None:
    """Each model server answers one blank image with it, all at once: it loads, passes its checks, and is warm."""
    path = f"/models/{quote(model, safe='')}/versions/{version}/invocations"
    urls = settings().model_server_urls

    def ask(url: str) -> httpx.Response | httpx.HTTPError:
        try:
            return http.post(
                url + path,
                content=bytes(image_bytes),
                headers={"Content-Type": "application/octet-stream", "Emend-Trial": "start"},
            )
        except httpx.HTTPError as exc:
            return exc

    with (
        httpx.Client(timeout=LOAD_SECONDS, trust_env=False) as http,
        ThreadPoolExecutor(len(urls)) as threads,
    ):
        answers = list(zip(urls, threads.map(ask, urls), strict=True))
    for url, answer in answers:
        if isinstance(answer, httpx.Response) and answer.status_code != 200:
            raise _refusal(url, answer)
    silent = [f"{url}: {type(exc).__name__}" for url, exc in answers if isinstance(exc, httpx.HTTPError)]
    if len(silent) == len(urls):
        raise Unavailable(f"no model server answers ({'; '.join(silent)})")


def _refusal(url: str, answer: httpx.Response) -> EmendError:
    try:
        body = answer.json()
    except ValueError:
        body = None
    told = body if isinstance(body, dict) else {}
    said = str(told.get("message") or "it gave no reason")[:MOST_SAID]
    if answer.status_code == 404 and told.get("error_code") == "RESOURCE_DOES_NOT_EXIST":
        return NotFound(said, field="version")
    if answer.status_code == 404:
        return Conflict(f"the model server at {url} answers with one version only; Emend's own can")
    if answer.status_code == 409:
        return Conflict(said, field="version")
    return Unavailable(f"the model server at {url} answered HTTP {answer.status_code}: {said}")
