"""The client of the model servers.

Ours takes raw pixels, gives raw figures and says its version; a stock one (`mlflow models serve`, MLServer, KServe)
takes and gives JSON, and does not. Which it is, it says itself: a stock one refuses raw pixels (415), and is asked in
MLflow's protocol from then on, until something goes wrong: another may have taken its place.

Several servers share the load. Asking changes nothing, so what one does not answer, or answers with nonsense, another
is asked. One that failed gets no more questions until it has answered a ping; pings come ever less often.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from api import metrics
from api.errors import BadAnswer
from api.http_client import HttpClient, Lost, Response
from core import telemetry
from core.errors import Conflict, EmendError, NotFound, Unavailable

OUTPUT = "probabilities"
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 10.0
# Of a server that hangs while another could answer. A full batch of a small network takes 20 ms; of one that takes
# longer, as many times its slowest answer of late.
ANSWER_ELSEWHERE_SECONDS = 1.0
TIMES_THE_SLOWEST = 10.0
VERSION_SECONDS = 30.0  # it may have to be fetched from the registry first
PING_SECONDS = 1.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
RAW = "application/octet-stream"
_NUMBER = re.compile(r"[0-9]{1,9}")

log = telemetry.get_logger("upstream")


@dataclass(frozen=True)
class Answers:
    """probabilities: (N, C) float64, as the server gave them. version: None when the server does not say."""

    probabilities: NDArray[np.float64]
    version: int | None


class ModelServers:
    """Belongs to one event loop. Raises Unavailable when no server answers, BadAnswer when all talk nonsense."""

    def __init__(self, urls: Sequence[str], default_model: str) -> None:
        self._default_model = default_model
        self.servers = [ModelServer(url) for url in urls]
        self._turn = 0
        self._slowest: dict[tuple[str, int | None], float] = {}  # seconds of late; forgotten answer by answer

    def close(self) -> None:
        for server in self.servers:
            server.close()

    async def ready(self) -> None:
        """Raises Unavailable unless a server says that it can answer."""
        found = await asyncio.gather(*(server.ready() for server in self.servers), return_exceptions=True)
        if all(found):  # an error each
            raise found[0] if isinstance(found[0], EmendError) else Unavailable(str(found[0]))

    async def probabilities(
        self, model: str, pixels: NDArray[np.uint8], version: int | None = None, *, for_trial: bool = False
    ) -> Answers:
        """pixels: (N, H, W) or (N, H, W, 3). Asked of another server when one failed.

        version: this one instead of the live one. Raises NotFound when it is not to be had, also because a stock
        server answers, and Conflict when it does not pass the model server's checks.
        for_trial: people wait for it: Unavailable at once when the version must be fetched first.
        """
        tried: list[ModelServer] = []
        away: Unavailable | None = None
        while True:
            server = self._next(tried)
            tried.append(server)
            started = time.monotonic()
            seconds = self._patience(model, version, tried, for_trial=for_trial)
            try:
                answers = await server.ask(
                    self._path(model, version), model, pixels, version, seconds, for_trial=for_trial
                )
            except (Unavailable, _Failed) as exc:
                self._judge(server, exc, version)
                away = exc if isinstance(exc, Unavailable) else away
                if len(tried) == len(self.servers):
                    if away is None or away is exc:
                        raise
                    raise away from exc
                metrics.RETRIES.labels(model).inc()
                log.warning("asked another model server", url=server.url, model=model, reason=exc.message)
                continue
            if version is None or for_trial:
                took, before = time.monotonic() - started, self._slowest.get((model, version), 0.0)
                self._slowest[model, version] = max(took, 0.9 * before)
            return answers

    def _next(self, tried: Sequence[ModelServer]) -> ModelServer:
        """In turns, those that failed lately last."""
        self._turn += 1
        places = [(self._turn + place) % len(self.servers) for place in range(len(self.servers))]
        ordered = [self.servers[place] for place in places]
        return min((server for server in ordered if server not in tried), key=lambda server: server.paused)

    def _judge(self, server: ModelServer, exc: EmendError, version: int | None) -> None:
        """What is its own fault keeps questions from it. What a version may have caused only has it looked at."""
        if len(self.servers) == 1:
            return
        if isinstance(exc, Lost) or (version is None and isinstance(exc, _TooSlow | _NotReady | _Failed)):
            server.pause()
        elif isinstance(exc, _TooSlow | _Failed):
            server.look()

    def _patience(
        self, model: str, version: int | None, tried: Sequence[ModelServer], *, for_trial: bool
    ) -> float:
        if version is not None and not for_trial:
            return VERSION_SECONDS
        if all(server.paused or server in tried for server in self.servers):
            return ANSWER_SECONDS
        usual = TIMES_THE_SLOWEST * self._slowest.get((model, version), 0.0)
        return min(ANSWER_SECONDS, max(ANSWER_ELSEWHERE_SECONDS, usual))

    def _path(self, model: str, version: int | None) -> str:
        named = f"/models/{quote(model, safe='')}"
        if version is not None:
            return f"{named}/versions/{version}/invocations"
        return "/invocations" if model == self._default_model else f"{named}/invocations"


class ModelServer:
    """One of them."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.paused = False  # the others are asked first
        self._pause_seconds = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._http = HttpClient(self.url, CONNECT_SECONDS)
        self._takes_raw = True

    def pause(self) -> None:
        """It failed: it is not asked until it has answered a ping."""
        self.paused = True
        self.look()

    def look(self) -> None:
        """Behind whatever goes on: does it answer a ping? When not, it is paused until it does."""
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())

    def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._http.close()

    async def _watch(self) -> None:
        telemetry.bind(request_id=None)  # in this task only: that of who found it out
        if self.paused:
            await self._rest()
        while not await self._answers_ping():
            self.paused = True
            await self._rest()
        if self.paused:
            log.info("model server is asked again", url=self.url)
        self.paused = False

    async def _rest(self) -> None:
        """Longer each time, until it has answered a question."""
        self._pause_seconds = min(max(2 * self._pause_seconds, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        await asyncio.sleep(self._pause_seconds)

    async def _answers_ping(self) -> bool:
        try:
            response = await self._request("GET", "/ping", PING_SECONDS)
        except Unavailable:
            return False
        return response.status < 500  # 404: one that knows no pings, and lives

    async def ready(self) -> None:
        response = await self._request("GET", "/ping", CONNECT_SECONDS)
        if response.status != 200:
            raise Unavailable(f"the model server at {self.url} is up but not ready; see its /version")

    async def ask(
        self,
        path: str,
        model: str,
        pixels: NDArray[np.uint8],
        version: int | None,
        seconds: float,
        *,
        for_trial: bool,
    ) -> Answers:
        raw = self._takes_raw
        headers = {"Emend-Trial": "1"} if for_trial and version is not None else {}
        try:
            response = await self._invoke(path, pixels, seconds, headers, raw=raw)
            if response.status in (400, 415, 422):  # of the other kind, maybe
                response = await self._invoke(path, pixels, seconds, headers, raw=not raw)
                if response.status == 200:
                    self._takes_raw = not raw
        except Lost:
            self._takes_raw = True
            raise
        if version is not None:
            self._check_version_status(response, model, version)
        self._check_status(response, model)
        answers = Answers(_parsed(response, len(pixels)), _stated_version(response))
        if answers.version is not None:  # it is ours
            self._takes_raw = True
        self.paused, self._pause_seconds = False, 0.0
        return answers

    async def _invoke(
        self, path: str, pixels: NDArray[np.uint8], seconds: float, headers: dict[str, str], *, raw: bool
    ) -> Response:
        if raw:
            body = np.ascontiguousarray(pixels).tobytes()
            headers = {**headers, "Content-Type": RAW, "Accept": RAW}
        else:
            body = await asyncio.to_thread(_inputs, pixels)  # 10 ms for 64 doodles
            headers = {**headers, "Content-Type": "application/json"}
        return await self._request("POST", path, seconds, body, headers)

    async def _request(
        self,
        method: str,
        path: str,
        seconds: float,
        content: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> Response:
        request_id = telemetry.request_id()
        if request_id is not None:
            headers = {**(headers or {}), "X-Request-Id": request_id}
        try:
            return await self._http.request(method, path, seconds=seconds, content=content, headers=headers)
        except TimeoutError as exc:
            raise _TooSlow(
                f"the model server at {self.url} took more than {seconds:g} s; try again in a moment"
            ) from exc

    def _check_status(self, response: Response, model: str) -> None:
        status = response.status
        if status == 200:
            return
        if status == 404:
            raise Unavailable(
                f"the model server has no version of '{model}' yet; train one, or try again later"
            )
        if status in (429, 503):
            kind = _NotReady if status == 503 else Unavailable
            raise kind(f"the model server has no answer for '{model}' just now; try again in a moment")
        if status in (400, 415, 422):
            log.error("model server refused", model=model, status=status, body=_shown(response))
            raise BadAnswer(f"the model server does not take images of '{model}' as they are")
        log.error("model server failed", model=model, status=status, body=_shown(response))
        raise _Failed(f"the model server failed on an image of '{model}' (HTTP {status}); its log says why")

    def _check_version_status(self, response: Response, model: str, version: int) -> None:
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


class _TooSlow(Unavailable):
    pass


class _NotReady(Unavailable):
    """It says so itself."""


class _Failed(BadAnswer):
    """It answered, with an error of its own or with nonsense."""


def _content_type(response: Response) -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def _stated_version(response: Response) -> int | None:
    stated = response.headers.get("emend-version", "")
    return int(stated) if _NUMBER.fullmatch(stated) else None


def _inputs(pixels: NDArray[np.uint8]) -> bytes:
    return json.dumps({"inputs": pixels.tolist()}).encode()


def _shown(response: Response) -> str:
    return response.content[:300].decode(errors="replace")


def _told(response: Response, key: str = "message") -> str:
    """A field of our server's refusal; empty when it has none."""
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return ""
    return str(body.get(key, "")) if isinstance(body, dict) else ""


def _parsed(response: Response, count: int) -> NDArray[np.float64]:
    """Raw float32, `{"predictions": {"probabilities": [[…]]}}`, or the bare rows that other servers give."""
    try:
        if _content_type(response) == RAW:
            answers = np.frombuffer(response.content, "<f4").reshape(count, -1).astype(np.float64)
        else:
            predictions = json.loads(response.content)["predictions"]
            rows = predictions[OUTPUT] if isinstance(predictions, dict) else predictions
            answers = np.array(rows, dtype=np.float64)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as exc:
        raise _Failed("the model server did not answer in MLflow's scoring protocol") from exc
    if answers.ndim != 2 or len(answers) != count or answers.shape[1] == 0:
        raise _Failed(f"the model server answered {count} images with figures of shape {answers.shape}")
    return answers
