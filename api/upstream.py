"""The client of the model servers.

Ours takes raw pixels, gives raw figures and says its version; a stock one (`mlflow models serve`, MLServer, KServe)
takes and gives JSON, and does not. Which it is, it says itself: a stock one refuses raw pixels (415), and is asked in
MLflow's protocol from then on, until something goes wrong: another may have taken its place.

Several servers share the load. Asking changes nothing, so what one of them does not answer is asked of another; one
that failed is left alone for a moment, longer each time, and then tried with a single request.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import numpy as np
from numpy.typing import NDArray

from api import metrics
from api.errors import BadAnswer
from core import telemetry
from core.errors import Conflict, EmendError, NotFound, Unavailable

OUTPUT = "probabilities"
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 10.0
# Of a server that hangs while another could answer: far above what a full batch takes.
ANSWER_ELSEWHERE_SECONDS = 3.0
VERSION_SECONDS = 30.0  # it may have to be fetched from the registry first
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
RAW = "application/octet-stream"

log = telemetry.get_logger("upstream")


@dataclass(frozen=True)
class Answers:
    """probabilities: (N, C) float64, as the server gave them. version: None when the server does not say."""

    probabilities: NDArray[np.float64]
    version: int | None


@dataclass(frozen=True)
class _Response:
    status: int
    content_type: str
    version: int | None
    body: bytes


class ModelServers:
    """Belongs to one event loop. Raises Unavailable when no server answers, BadAnswer when one talks nonsense."""

    def __init__(self, urls: Sequence[str], default_model: str) -> None:
        self._default_model = default_model
        self._http: aiohttp.ClientSession | None = None
        self.servers = [ModelServer(url, self._session) for url in urls]
        self._turn = 0

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def ready(self) -> None:
        """Raises Unavailable unless a server says that it can answer."""
        found = await asyncio.gather(*(server.ready() for server in self.servers), return_exceptions=True)
        if all(found):  # an error each
            raise found[0] if isinstance(found[0], EmendError) else Unavailable(str(found[0]))

    async def probabilities(
        self, model: str, pixels: NDArray[np.uint8], version: int | None = None
    ) -> Answers:
        """pixels: (N, H, W) or (N, H, W, 3). Asked of another server, or of the only one again, when it failed.

        version: this one instead of the live one. Raises NotFound when it is not to be had, also because a stock
        server answers, and Conflict when it does not pass the model server's checks.
        """
        tried: list[ModelServer] = []
        while True:
            server = self._next(tried)
            tried.append(server)
            last = len(tried) >= max(2, len(self.servers))
            try:
                return await server.ask(
                    self._path(model, version), model, pixels, version, self._patience(version, last=last)
                )
            except (_BrokeOff, _NoAnswer) as exc:
                server.pause()
                alone = len(self.servers) == 1
                if last or (alone and isinstance(exc, _NoAnswer)):
                    raise
                metrics.RETRIES.labels(model).inc()
                log.warning("asked another model server", url=server.url, model=model, reason=exc.message)

    def _next(self, tried: Sequence[ModelServer]) -> ModelServer:
        """In turns, those that failed lately last."""
        self._turn += 1
        now = time.monotonic()
        places = [(self._turn + place) % len(self.servers) for place in range(len(self.servers))]
        ordered = [self.servers[place] for place in places]
        untried = [server for server in ordered if server not in tried] or ordered
        chosen = min(untried, key=lambda server: max(0.0, server.paused_until - now))
        chosen.take_turn()
        return chosen

    def _patience(self, version: int | None, *, last: bool) -> float:
        if version is not None:
            return VERSION_SECONDS
        return ANSWER_SECONDS if last or len(self.servers) == 1 else ANSWER_ELSEWHERE_SECONDS

    def _path(self, model: str, version: int | None) -> str:
        named = f"/models/{quote(model, safe='')}"
        if version is not None:
            return f"{named}/versions/{version}/invocations"
        return "/invocations" if model == self._default_model else f"{named}/invocations"

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit_per_host=32, keepalive_timeout=60),
                auto_decompress=False,
                trust_env=False,  # a proxy of the environment has no business between two of our processes
                skip_auto_headers=("User-Agent", "Accept-Encoding"),
            )
        return self._http


class ModelServer:
    """One of them."""

    def __init__(self, url: str, session: Any) -> None:
        self.url = url.rstrip("/")
        self.paused_until = 0.0
        self._pause_seconds = 0.0
        self._session = session
        self._takes_raw = True

    def pause(self) -> None:
        """It failed: others are asked for a while."""
        self._pause_seconds = min(max(2 * self._pause_seconds, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self.paused_until = time.monotonic() + self._pause_seconds

    def take_turn(self) -> None:
        """When its pause is over a single request finds out whether it answers; until then the others wait on."""
        if self._pause_seconds:
            self.paused_until = time.monotonic() + self._pause_seconds

    def _recovered(self) -> None:
        self.paused_until = self._pause_seconds = 0.0

    async def ready(self) -> None:
        response = await self._request("GET", "/ping", CONNECT_SECONDS)
        if response.status != 200:
            raise Unavailable(f"the model server at {self.url} is up but not ready; see its /version")

    async def ask(
        self, path: str, model: str, pixels: NDArray[np.uint8], version: int | None, seconds: float
    ) -> Answers:
        try:
            response = await self._invoke(path, pixels, seconds)
            if response.status in (400, 415, 422):  # of the other kind, maybe
                self._takes_raw = not self._takes_raw
                response = await self._invoke(path, pixels, seconds)
        except (_BrokeOff, _NoAnswer):
            self._takes_raw = True
            raise
        if version is not None:
            self._check_version_status(response, model, version)
        self._check_status(response, model)
        self._recovered()
        return Answers(_parsed(response, len(pixels)), response.version)

    async def _invoke(self, path: str, pixels: NDArray[np.uint8], seconds: float) -> _Response:
        if self._takes_raw:
            body = np.ascontiguousarray(pixels).tobytes()
            return await self._request("POST", path, seconds, body, {"Content-Type": RAW, "Accept": RAW})
        written = await asyncio.to_thread(_inputs, pixels)  # 10 ms for 64 doodles
        return await self._request("POST", path, seconds, written, {"Content-Type": "application/json"})

    async def _request(
        self,
        method: str,
        path: str,
        seconds: float,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> _Response:
        request_id = telemetry.request_id()
        if request_id is not None:
            headers = {**(headers or {}), "X-Request-Id": request_id}
        session: aiohttp.ClientSession = self._session()
        try:
            async with session.request(
                method,
                self.url + path,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS),
            ) as response:
                stated = response.headers.get("Emend-Version", "")
                return _Response(
                    response.status,
                    response.content_type,
                    int(stated) if stated.isdigit() else None,
                    await response.read(),
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise _NoAnswer(f"the model server at {self.url} does not answer; try again in a moment") from exc
        except TimeoutError as exc:
            raise _NoAnswer(
                f"the model server at {self.url} took more than {seconds:g} s; try again in a moment"
            ) from exc
        except (
            aiohttp.ClientError
        ) as exc:  # a kept connection that the server closed, or one that died half way
            raise _BrokeOff(f"the model server at {self.url} broke off; try again in a moment") from exc

    def _check_status(self, response: _Response, model: str) -> None:
        status = response.status
        if status == 200:
            return
        if status == 404:
            raise _NoAnswer(
                f"the model server has no version of '{model}' yet; train one, or try again later"
            )
        if status in (429, 503):
            raise _NoAnswer(f"the model server has no answer for '{model}' just now; try again in a moment")
        if status in (400, 415, 422):
            log.error("model server refused", model=model, status=status, body=_shown(response))
            raise BadAnswer(f"the model server does not take images of '{model}' as they are")
        log.error("model server failed", model=model, status=status, body=_shown(response))
        raise BadAnswer(f"the model server failed on an image of '{model}' (HTTP {status}); its log says why")

    def _check_version_status(self, response: _Response, model: str, version: int) -> None:
        """Raises NotFound or Conflict for what only a request for a version is answered."""
        if response.status == 409:
            raise Conflict(_told(response), field="version")
        if response.status != 404:
            return
        if _told(response, "error_code") in ("", "ENDPOINT_NOT_FOUND"):
            raise NotFound(
                f"the model server at {self.url} answers with one version only, so version {version} cannot be "
                "asked; Emend's own server can (unset MODEL_SERVER_URLS)",
                field="version",
            )
        raise NotFound(f"there is no version {version} of '{model}' in the registry", field="version")


class _NoAnswer(Unavailable):
    pass


class _BrokeOff(Unavailable):
    pass


def _inputs(pixels: NDArray[np.uint8]) -> bytes:
    return json.dumps({"inputs": pixels.tolist()}).encode()


def _shown(response: _Response) -> str:
    return response.body[:300].decode(errors="replace")


def _told(response: _Response, key: str = "message") -> str:
    """A field of our server's refusal; empty when it has none."""
    try:
        body = json.loads(response.body)
    except ValueError:
        return ""
    return str(body.get(key, "")) if isinstance(body, dict) else ""


def _parsed(response: _Response, count: int) -> NDArray[np.float64]:
    """Raw float32, `{"predictions": {"probabilities": [[…]]}}`, or the bare rows that other servers give."""
    try:
        if response.content_type == RAW:
            answers = np.frombuffer(response.body, "<f4").reshape(count, -1).astype(np.float64)
        else:
            predictions = json.loads(response.body)["predictions"]
            rows = predictions[OUTPUT] if isinstance(predictions, dict) else predictions
            answers = np.array(rows, dtype=np.float64)
    except (ValueError, TypeError, KeyError) as exc:
        raise BadAnswer("the model server did not answer in MLflow's scoring protocol") from exc
    if answers.ndim != 2 or len(answers) != count or answers.shape[1] == 0:
        raise BadAnswer(f"the model server answered {count} images with figures of shape {answers.shape}")
    return answers
