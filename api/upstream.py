"""The client of the model server.

Ours takes raw pixels and says its version; a stock one (`mlflow models serve`, MLServer, KServe) takes JSON
and does not. Which it is, `GET /version` tells: ours answers `{"models": …}`, MLflow's its own version as plain
text, others 404. Asked once, and again after anything went wrong, since another may have taken its place.
"""

from __future__ import annotations

import asyncio
import enum
import json
import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray

from api.errors import BadAnswer
from core import telemetry
from core.errors import Conflict, NotFound, Unavailable

OUTPUT = "probabilities"
SUM_TOLERANCE = 1e-3
TIMEOUT = httpx.Timeout(10.0, connect=2.0)
VERSION_TIMEOUT = httpx.Timeout(30.0, connect=2.0)  # it may have to be fetched from the registry first

log = telemetry.get_logger("upstream")


class Kind(enum.Enum):
    ours = enum.auto()
    stock = enum.auto()


@dataclass(frozen=True)
class Answers:
    """probabilities: (N, C) float64, as the server gave them. version: None when the server does not say."""

    probabilities: NDArray[np.float64]
    version: int | None


class ModelServer:
    """One connection pool. Raises Unavailable when the server is away, BadAnswer when it talks nonsense."""

    def __init__(self, url: str, default_model: str) -> None:
        self.url = url.rstrip("/")
        self._default_model = default_model
        self._http = httpx.AsyncClient(
            base_url=self.url,
            timeout=TIMEOUT,
            limits=httpx.Limits(max_connections=32, keepalive_expiry=60),
            trust_env=False,  # a proxy of the environment has no business between two of our processes
        )
        self._kind: Kind | None = None

    async def close(self) -> None:
        await self._http.aclose()

    async def kind(self) -> Kind:
        if self._kind is None:
            response = await self._request("GET", "/version")
            self._kind = Kind.ours if _is_our_version_page(response) else Kind.stock
            log.info("model server found", url=self.url, kind=self._kind.name)
        return self._kind

    async def ready(self) -> None:
        """Raises Unavailable unless the server says that it can answer."""
        response = await self._request("GET", "/ping")
        if response.status_code != 200:
            raise Unavailable(f"the model server at {self.url} is up but not ready; see its /version")

    async def probabilities(
        self, model: str, pixels: NDArray[np.uint8], version: int | None = None
    ) -> Answers:
        """pixels: (N, H, W) or (N, H, W, 3). Asked a second time when the first failed: asking changes nothing.

        version: this one instead of the live one. Raises NotFound when it is not to be had, also because a stock
        server answers, and Conflict when it does not pass the model server's checks.
        """
        try:
            return await self._ask(model, pixels, version)
        except (_NotUnderstood, _Disconnected):
            self._kind = None
        try:
            return await self._ask(model, pixels, version)
        except _NotUnderstood as exc:
            self._kind = None
            log.error("model server refused", model=model, reason=str(exc))
            raise BadAnswer(f"the model server does not take images of '{model}' as they are") from exc

    async def _ask(self, model: str, pixels: NDArray[np.uint8], version: int | None) -> Answers:
        kind = await self.kind()
        if version is not None:
            if kind is Kind.stock:
                raise self._one_version_only(version)
            path = f"/models/{quote(model, safe='')}/versions/{version}/invocations"
        else:
            path = "/invocations" if model == self._default_model else f"/models/{model}/invocations"
        if kind is Kind.ours:
            response = await self._request(
                "POST",
                path,
                content=np.ascontiguousarray(pixels).tobytes(),
                headers={"Content-Type": "application/octet-stream"},
                timeout=TIMEOUT if version is None else VERSION_TIMEOUT,
            )
        else:
            body = await asyncio.to_thread(_inputs, pixels)  # 10 ms for 64 doodles
            response = await self._request(
                "POST", path, content=body, headers={"Content-Type": "application/json"}
            )
        if version is not None:
            self._check_version_status(response, model, version)
        self._check_status(response, model)
        return Answers(_parsed(response, len(pixels)), _version(response))

    def _check_version_status(self, response: httpx.Response, model: str, version: int) -> None:
        """Raises NotFound or Conflict for what only a request for a version is answered."""
        if response.status_code == 409:
            raise Conflict(_told(response), field="version")
        if response.status_code != 404:
            return
        if _told(response, "error_code") == "ENDPOINT_NOT_FOUND":  # another server by now, or an older one
            self._kind = None
            raise self._one_version_only(version)
        raise NotFound(f"there is no version {version} of '{model}' in the registry", field="version")

    def _one_version_only(self, version: int) -> NotFound:
        return NotFound(
            f"the model server at {self.url} answers with one version only, so version {version} cannot be asked; "
            "Emend's own server can (unset EMEND_SERVING_URL)",
            field="version",
        )

    async def _request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        request_id = telemetry.request_id()
        if request_id is not None:
            kwargs["headers"] = {**kwargs.get("headers", {}), "X-Request-Id": request_id}
        try:
            return await self._http.request(method, path, **kwargs)
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            self._kind = None
            raise Unavailable(
                f"the model server at {self.url} does not answer; try again in a moment"
            ) from exc
        except httpx.TimeoutException as exc:
            self._kind = None
            limit = kwargs.get("timeout", TIMEOUT)
            raise Unavailable(
                f"the model server at {self.url} took more than {limit.read:g} s; try again in a moment"
            ) from exc
        except httpx.HTTPError as exc:  # a kept connection that the server closed, or one that died half way
            self._kind = None
            raise _Disconnected(f"the model server at {self.url} broke off; try again in a moment") from exc

    def _check_status(self, response: httpx.Response, model: str) -> None:
        status = response.status_code
        if status == 200:
            return
        if status == 404:
            self._kind = None
            raise Unavailable(
                f"the model server has no version of '{model}' yet; train one, or try again later"
            )
        if status in (429, 503):
            raise Unavailable(f"the model server has no answer for '{model}' just now; try again in a moment")
        if status in (400, 415, 422):
            raise _NotUnderstood(f"HTTP {status}: {response.text[:200]}")
        log.error("model server failed", model=model, status=status, body=response.text[:300])
        raise BadAnswer(f"the model server failed on an image of '{model}' (HTTP {status}); its log says why")


class _NotUnderstood(Exception):
    """The server does not take this form of request: it may be of the other kind by now."""


class _Disconnected(Unavailable):
    pass


def check(probabilities: NDArray[np.float64]) -> None:
    """One answer. Raises BadAnswer when it is no distribution."""
    total = float(probabilities.sum())
    if not math.isfinite(total) or probabilities.min(initial=0.0) < 0 or abs(total - 1) > SUM_TOLERANCE:
        raise BadAnswer("the model answered with figures that are no probabilities; they were not passed on")


def _inputs(pixels: NDArray[np.uint8]) -> bytes:
    return json.dumps({"inputs": pixels.tolist()}).encode()


def _told(response: httpx.Response, key: str = "message") -> str:
    """A field of our server's refusal; empty when it has none."""
    try:
        body = response.json()
    except ValueError:
        return ""
    return str(body.get(key, "")) if isinstance(body, dict) else ""


def _is_our_version_page(response: httpx.Response) -> bool:
    if response.status_code != 200:
        return False
    try:
        body = response.json()
    except ValueError:
        return False
    return isinstance(body, dict) and "models" in body


def _parsed(response: httpx.Response, count: int) -> NDArray[np.float64]:
    """`{"predictions": {"probabilities": [[…]]}}`, or the bare rows that other servers give."""
    try:
        predictions = json.loads(response.content)["predictions"]
        rows = predictions[OUTPUT] if isinstance(predictions, dict) else predictions
        answers = np.array(rows, dtype=np.float64)
    except (ValueError, TypeError, KeyError) as exc:
        raise BadAnswer("the model server did not answer in MLflow's scoring protocol") from exc
    if answers.ndim != 2 or len(answers) != count or answers.shape[1] == 0:
        raise BadAnswer(f"the model server answered {count} images with figures of shape {answers.shape}")
    return answers


def _version(response: httpx.Response) -> int | None:
    stated = response.headers.get("Emend-Version", "")
    return int(stated) if stated.isdigit() else None
