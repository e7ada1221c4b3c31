"""The MLflow registry and tracking server over REST: the only file that talks to it.

    with Registry("http://127.0.0.1:5000") as registry:
        registry.version_by_alias("doodles", "champion")

MLflow's own client costs seconds to import and hundreds of megabytes; what Emend needs of it is a dozen
calls. Endpoints: https://mlflow.org/docs/latest/rest-api.html. Artifacts come through the tracking server's
proxy (`mlflow server --serve-artifacts`), so no process but that one needs the store's credentials.

Looked up in MLflow 3.17: versions found by search carry no aliases, versions got by number or alias do; an
alias that does not exist answers 400 INVALID_PARAMETER_VALUE, a model that does not exist 404.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote, urlsplit

import httpx

from core.errors import EmendError, NotFound, Unavailable
from core.storage import write_json

# What log_batch takes in one request: 100 params, 100 tags, and 1000 entries of all three together.
# https://mlflow.org/docs/latest/rest-api.html#request-limits
_METRICS_PER_REQUEST = 800
_PARAMS_PER_REQUEST = 100
_TAGS_PER_REQUEST = 100

_PAGE = 200
# A model is about a dozen files, two folders deep; a listing beyond these bounds is not one.
_MOST_FILES = 1000
_MOST_FOLDERS_DEEP = 8

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class RegistryError(EmendError):
    """The registry said no, or something that makes no sense. Root of this module's errors."""

    code = "registry"


class RegistryUnavailable(Unavailable, RegistryError):
    """The server does not answer, or answers that it cannot just now."""


class ModelNotFound(NotFound, RegistryError):
    """No registered model of that name."""


class VersionNotFound(NotFound, RegistryError):
    """The model has no such version."""


class ArtifactError(RegistryError):
    """A version's files cannot be fetched: missing, cut short, misnamed, or not behind the proxy."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model. `Registry.versions` leaves `aliases` empty, as MLflow does."""

    name: str
    version: int
    source: str
    run_id: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True)
class Metric:
    """One point of a run's curve. timestamp_ms: UTC, milliseconds since 1970."""

    key: str
    value: float
    step: int = 0
    timestamp_ms: int | None = None


class Registry:
    """A connection to one MLflow server. Threads may share it.

    tracking_uri: `http(s)://[user:password@]host[:port][/prefix]`. timeout_seconds bounds each wait for the
    server, not a whole download. Every method raises RegistryUnavailable when the server is away and
    RegistryError when it refuses.
    """

    def __init__(self, tracking_uri: str, *, timeout_seconds: float = 10.0) -> None:
        if urlsplit(tracking_uri).scheme not in ("http", "https"):
            raise RegistryError(
                "MLFLOW_TRACKING_URI must be the http(s) address of an MLflow server, "
                "for example http://127.0.0.1:5000"
            )
        self._http = httpx.Client(
            base_url=tracking_uri,
            timeout=timeout_seconds,
            headers={"Accept-Encoding": "identity"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Models and versions

    def models(self) -> list[str]:
        return [str(model["name"]) for model in self._registered_models()]

    def aliased(self, alias: str) -> dict[str, int]:
        """Which version of each model the alias points at, in one request; models without it are left out."""
        return {
            str(model["name"]): int(entry["version"])
            for model in self._registered_models()
            for entry in model.get("aliases", [])
            if entry["alias"] == alias
        }

    def ensure_model(self, name: str) -> None:
        """Registers the name; does nothing when it is there already."""
        try:
            self._call("POST", "registered-models/create", json={"name": name})
        except _Refused as exc:
            if exc.reason != "RESOURCE_ALREADY_EXISTS":
                raise

    def versions(self, name: str) -> list[Version]:
        """Every version of the model, oldest first; empty when there is no such model."""
        found = self._pages("model-versions/search", "model_versions", filter=f"name={_quoted(name)}")
        return sorted((_version(entry) for entry in found), key=lambda version: version.version)

    def version(self, name: str, version: int) -> Version:
        """Raises VersionNotFound."""
        try:
            found = self._call(
                "GET",
                "model-versions/get",
                params={"name": name, "version": str(version)},
            )
        except _Refused as exc:
            if exc.missing:
                raise VersionNotFound(f"model '{name}' has no version {version}") from exc
            raise
        return _version(found["model_version"])

    def version_by_alias(self, name: str, alias: str) -> Version | None:
        """None when the model or the alias does not exist (yet)."""
        try:
            found = self._call("GET", "registered-models/alias", params={"name": name, "alias": alias})
        except _Refused as exc:
            if exc.missing or "not found" in exc.message:
                return None
            raise
        return _version(found["model_version"])

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Points the alias at the version, wherever it pointed before. Raises VersionNotFound."""
        body = {"name": name, "alias": alias, "version": str(version)}
        try:
            self._call("POST", "registered-models/alias", json=body)
        except _Refused as exc:
            if exc.missing:
                raise VersionNotFound(f"model '{name}' has no version {version}") from exc
            raise

    def delete_alias(self, name: str, alias: str) -> None:
        """An alias that is not there is no error. Raises ModelNotFound."""
        try:
            self._call("DELETE", "registered-models/alias", json={"name": name, "alias": alias})
        except _Refused as exc:
            if exc.missing:
                raise ModelNotFound(f"no model '{name}' in the registry") from exc
            raise

    def delete_version(self, name: str, version: int) -> bool:
        """Its files, then its entry; can be repeated. False, and nothing is deleted, while an alias names it.

        MLflow numbers the next version after the highest there is: the newest one must stay.
        """
        try:
            found = self.version(name, version)
        except VersionNotFound:
            return True
        if found.aliases:
            return False
        self._request("DELETE", f"api/2.0/mlflow-artifacts/artifacts/{quote(self._artifact_root(found))}")
        logged_model = found.source.removeprefix("models:/")
        if logged_model != found.source:
            self._delete(f"logged-models/{quote(logged_model, safe='')}")
        self._delete("model-versions/delete", json={"name": name, "version": str(version)})
        return True

    def set_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Adds or overwrites; other tags stay. Raises VersionNotFound."""
        for key, value in tags.items():
            body = {"name": name, "version": str(version), "key": key, "value": value}
            try:
                self._call("POST", "model-versions/set-tag", json=body)
            except _Refused as exc:
                if exc.missing:
                    raise VersionNotFound(f"model '{name}' has no version {version}") from exc
                raise

    # Experiments and runs

    def ensure_experiment(self, name: str) -> str:
        """The id of the experiment of that name, made when new."""
        try:
            return str(self._call("POST", "experiments/create", json={"name": name})["experiment_id"])
        except _Refused as exc:
            if exc.reason != "RESOURCE_ALREADY_EXISTS":
                raise
        found = self._call("GET", "experiments/get-by-name", params={"experiment_name": name})
        return str(found["experiment"]["experiment_id"])

    def create_run(self, experiment_id: str, name: str, tags: Mapping[str, str] | None = None) -> str:
        """Starts a run and returns its id."""
        body = {
            "experiment_id": experiment_id,
            "run_name": name,
            "start_time": _now_ms(),
            "tags": _entries(tags or {}),
        }
        return str(self._call("POST", "runs/create", json=body)["run"]["info"]["run_id"])

    def find_run(self, experiment_id: str, tags: Mapping[str, str]) -> str | None:
        """The newest one that has all these tags."""
        having = " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items())
        body = {"experiment_ids": [experiment_id], "filter": having, "max_results": 1}
        found = self._call("POST", "runs/search", json=body).get("runs", [])
        return str(found[0]["info"]["run_id"]) if found else None

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Iterable[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Any number of each, in as few requests as MLflow's limits allow; not one transaction."""
        now = _now_ms()
        points = [
            {
                "key": metric.key,
                "value": _json_number(metric.value),
                "step": metric.step,
                "timestamp": now if metric.timestamp_ms is None else metric.timestamp_ms,
            }
            for metric in metrics
        ]
        metric_chunks = _chunks(points, _METRICS_PER_REQUEST)
        param_chunks = _chunks(_entries(params or {}), _PARAMS_PER_REQUEST)
        tag_chunks = _chunks(_entries(tags or {}), _TAGS_PER_REQUEST)
        for index in range(max(len(metric_chunks), len(param_chunks), len(tag_chunks))):
            body = {
                "run_id": run_id,
                "metrics": metric_chunks[index] if index < len(metric_chunks) else [],
                "params": param_chunks[index] if index < len(param_chunks) else [],
                "tags": tag_chunks[index] if index < len(tag_chunks) else [],
            }
            self._call("POST", "runs/log-batch", json=body)

    def finish_run(self, run_id: str, status: RunStatus = "FINISHED") -> None:
        self._call(
            "POST",
            "runs/update",
            json={"run_id": run_id, "status": status, "end_time": _now_ms()},
        )

    # Artifacts

    def download(self, name: str, version: int, directory: Path, *, without: Collection[str] = ()) -> Version:
        """Fetches the files of a version into `directory`, which appears complete or not at all.

        without: names of files that are not needed; each would cost a request.

        Beside the artifacts it leaves `version.json`, which says whose files they are: numbers start again
        at 1 when a registry is made anew, sources do not. A killed download leaves a `.<name>.*.partial`
        folder beside it. Raises VersionNotFound, ArtifactError, FileExistsError, OSError.
        """
        if directory.exists():
            raise FileExistsError(f"{directory} is there already")
        found = self.version(name, version)
        root = self._artifact_root(found)
        partial = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.partial"
        partial.mkdir(parents=True)
        try:
            for path, size_bytes in self._files(root):
                if PurePosixPath(path).name in without:
                    continue
                self._fetch(f"{root}/{path}", partial / path, size_bytes)
            write_json(partial / "version.json", identity(found))
            partial.rename(directory)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return found

    def artifact_path(self, name: str, version: int) -> str:
        """Where a version's files are below the server's artifacts. Raises VersionNotFound, ArtifactError."""
        return self._artifact_root(self.version(name, version))

    def _artifact_root(self, version: Version) -> str:
        params = {"name": version.name, "version": str(version.version)}
        uri = str(self._call("GET", "model-versions/get-download-uri", params=params)["artifact_uri"])
        parts = urlsplit(uri)
        if parts.scheme != "mlflow-artifacts":
            raise ArtifactError(
                f"the files of {version.name} version {version.version} are at '{parts.scheme}:', not behind "
                "the tracking server; start it with --serve-artifacts and log to it again"
            )
        root = parts.path.strip("/")
        if ".." in root.split("/"):
            raise ArtifactError(f"{version.name} version {version.version} has an unsafe artifact path")
        return root

    def _files(self, root: str) -> list[tuple[str, int | None]]:
        """Path below the root and size of every file. Only plain names are believed: no `..`, no slashes."""
        files: list[tuple[str, int | None]] = []
        folders = [""]
        while folders:
            folder = folders.pop()
            listed = self._request(
                "GET",
                "api/2.0/mlflow-artifacts/artifacts",
                params={"path": f"{root}/{folder}".rstrip("/")},
            )
            for entry in _parsed(listed).get("files", []):
                path = folder + _plain_name(entry["path"])
                if entry.get("is_dir"):
                    folders.append(path + "/")
                else:
                    size = entry.get("file_size")
                    files.append((path, None if size is None else int(size)))
                if len(files) + len(folders) > _MOST_FILES or path.count("/") >= _MOST_FOLDERS_DEEP:
                    raise ArtifactError(f"the artifacts at '{root}' are not a model: too many or too deep")
        if not files:
            raise ArtifactError(f"no artifacts at '{root}': the version's files are gone")
        return files

    def _fetch(self, path: str, target: Path, size_bytes: int | None) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        url = f"api/2.0/mlflow-artifacts/artifacts/{quote(path)}"
        got = 0
        try:
            with self._http.stream("GET", url) as response, target.open("xb") as file:
                if not response.is_success:
                    response.read()
                    _raise_refusal(response)
                for chunk in response.iter_bytes():
                    got += len(chunk)
                    if size_bytes is not None and got > size_bytes:
                        break
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        except httpx.HTTPError as exc:
            raise self._unavailable(exc) from exc
        if size_bytes is not None and got != size_bytes:
            raise ArtifactError(f"artifact '{path}' came with {got} bytes, {size_bytes} were listed")

    # Requests

    def _registered_models(self) -> Iterator[dict[str, Any]]:
        return self._pages("registered-models/search", "registered_models")

    def _pages(self, endpoint: str, key: str, **params: str) -> Iterator[dict[str, Any]]:
        query: dict[str, str] = {"max_results": str(_PAGE), **params}
        while True:
            page = self._call("GET", endpoint, params=query)
            yield from page.get(key, [])
            if not page.get("next_page_token"):
                return
            query["page_token"] = page["next_page_token"]

    def _delete(self, endpoint: str, json: Any = None) -> None:
        """What is gone already is no error."""
        try:
            self._call("DELETE", endpoint, json=json)
        except _Refused as exc:
            if not exc.missing:
                raise

    def _call(
        self,
        method: str,
        endpoint: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
    ) -> dict[str, Any]:
        return _parsed(self._request(method, f"api/2.0/mlflow/{endpoint}", params=params, json=json))

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
    ) -> httpx.Response:
        try:
            response = self._http.request(method, path, params=params, json=json)
        except httpx.HTTPError as exc:
            raise self._unavailable(exc) from exc
        if not response.is_success:
            _raise_refusal(response)
        return response

    def _unavailable(self, exc: httpx.HTTPError) -> RegistryUnavailable:
        base = self._http.base_url.copy_with(username=None, password=None)
        return RegistryUnavailable(f"MLflow at {base} does not answer ({type(exc).__name__}); is it running?")


class _Refused(RegistryError):
    """MLflow answered 4xx. reason: its error_code, such as RESOURCE_DOES_NOT_EXIST."""

    def __init__(self, message: str, reason: str, status: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.missing = reason == "RESOURCE_DOES_NOT_EXIST" or (status == 404 and reason == "")


def identity(version: Version) -> dict[str, Any]:
    """What tells two versions apart even when registries were made anew: `version.json` of a download."""
    return {
        "name": version.name,
        "version": version.version,
        "source": version.source,
        "run_id": version.run_id,
        "created_at": version.created_at.isoformat(),
    }


def _raise_refusal(response: httpx.Response) -> None:
    try:
        body = response.json()
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    reason = str(body.get("error_code", ""))
    message = f"MLflow refused {response.request.method} {response.request.url.path}: " + (
        f"{reason}: {body.get('message', '')}" if reason else f"HTTP {response.status_code}"
    )
    if response.status_code >= 500 or response.status_code == 429:
        raise RegistryUnavailable(message)
    raise _Refused(message, reason, response.status_code)


def _parsed(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError as exc:
        raise RegistryError(
            f"{response.request.url.path} did not answer JSON: is MLFLOW_TRACKING_URI an MLflow server?"
        ) from exc
    if not isinstance(body, dict):
        raise RegistryError(f"{response.request.url.path} answered a {type(body).__name__}, not an object")
    return body


def _version(entry: Mapping[str, Any]) -> Version:
    return Version(
        name=str(entry["name"]),
        version=int(entry["version"]),
        source=str(entry.get("source", "")),
        run_id=str(entry.get("run_id", "")),
        tags={str(tag["key"]): str(tag.get("value", "")) for tag in entry.get("tags", [])},
        aliases=tuple(entry.get("aliases", [])),
        created_at=datetime.fromtimestamp(int(entry["creation_timestamp"]) / 1000, UTC),
    )


def _plain_name(path: object) -> str:
    name = str(path)
    if name in ("", ".", "..") or re.search(r"[/\\\x00]", name):
        raise ArtifactError(f"the artifact listing names {name!r}, which is not a plain file name")
    return name


def _quoted(name: str) -> str:
    """As a string of MLflow's filter language, which knows no escapes."""
    if "'" in name:
        raise RegistryError(f"a name or tag cannot have a quote in it: {name!r}")
    return f"'{name}'"


def _entries(mapping: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in mapping.items()]


def _chunks(items: Sequence[dict[str, Any]], size: int) -> list[Sequence[dict[str, Any]]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _json_number(value: float) -> float | str:
    """JSON has no NaN; MLflow's protobuf parser takes these three names for it."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
