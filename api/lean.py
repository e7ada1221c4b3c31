"""Routes whose requests are many: they go past what FastAPI does for any route.

Declared as any other, so the OpenAPI document has them; the endpoint takes the parsed body, the request and the
gateway. `Shortcut` stands before the application and answers them itself, with the same errors, ids, limits and
figures. What FastAPI's own way costs is in docs/performance.md.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, get_type_hints

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, APIRouter
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from core import web
from core.errors import EmendError, InvalidInput


class LeanRoute(APIRoute):
    """For endpoints `(body: <a pydantic model>, request, the: Gateway) -> Response`."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        endpoint: Callable[..., Awaitable[Response]] = self.endpoint
        shape: type[BaseModel] = get_type_hints(endpoint)["body"]

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                await web.only_known_query(request)
            try:
                content = await request.body()
            except ClientDisconnect as exc:  # by itself, or cut off because it was too slow
                raise InvalidInput("the client went away before its body was whole") from exc
            body = _parsed(shape, request, content)
            return await endpoint(body, request, request.app.state.gateway)

        return handle


class Shortcut:
    """ASGI application: the routes of `lean` by themselves, all else by `app`."""

    def __init__(self, app: FastAPI, lean: APIRouter, service: str) -> None:
        self._app = app
        self._handlers = {
            (method, route.path): (route, web.Observed(_answering(route), service))
            for route in lean.routes
            if isinstance(route, LeanRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._handlers.get((scope.get("method", ""), scope.get("path", "")))
        if found is None:
            await self._app(scope, receive, send)
            return
        route, handler = found
        scope["app"], scope["route"] = self._app, route
        await handler(scope, receive, send)


def _answering(route: LeanRoute) -> ASGIApp:
    handle = route.get_route_handler()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await handle(request)
        except EmendError as exc:
            response = await web.emend_error(request, exc)
        except RequestValidationError as exc:
            response = await web.validation_error(request, exc)
        await response(scope, receive, send)

    return answer


def json_answer(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def _parsed(shape: type[BaseModel], request: Request, body: bytes) -> BaseModel:
    if "json" not in request.headers.get("content-type", ""):
        raise InvalidInput("send the JSON with the header `Content-Type: application/json`; see /docs")
    try:
        try:
            return shape.model_validate_json(body)
        except ValidationError:
            # Python's parser takes what pydantic's does not, half of a surrogate pair for one, and names its field.
            return shape.model_validate(json.loads(body))
    except ValidationError as exc:
        faults = [{**each, "loc": ("body", *each["loc"])} for each in exc.errors()]
        raise RequestValidationError(faults) from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidInput("request body is not valid JSON; see /docs for an example") from exc
