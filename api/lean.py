"""A route whose requests are many: it parses and checks its body itself, past what FastAPI does for any route.

Declared as any other, so the OpenAPI document has it; its endpoint takes the parsed body, the request and the gateway.
What FastAPI's own way costs is in docs/performance.md.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, get_type_hints

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from core import web
from core.errors import InvalidInput


class LeanRoute(APIRoute):
    """For endpoints `(body: <a pydantic model>, request, the: Gateway) -> Response`."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        endpoint: Callable[..., Awaitable[Response]] = self.endpoint
        shape: type[BaseModel] = get_type_hints(endpoint)["body"]

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                await web.only_known_query(request)
            body = _parsed(shape, request, await request.body())
            return await endpoint(body, request, request.app.state.gateway)

        return handle


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
