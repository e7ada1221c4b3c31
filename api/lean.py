"""Routes whose requests are many: their bodies are parsed by pydantic alone.

Declared as any other, so the OpenAPI document has them; the endpoint takes the parsed body, the request and the
gateway. Most of their requests do not come this way at all: see api/direct.py.
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
from starlette.requests import ClientDisconnect

from core import web
from core.errors import InvalidInput


class LeanRoute(APIRoute):
    """For endpoints `(body: <a pydantic model>, request, the: Gateway) -> Response`."""

    @property
    def shape(self) -> type[BaseModel]:
        """Of the body."""
        found: type[BaseModel] = get_type_hints(self.endpoint)["body"]
        return found

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        endpoint: Callable[..., Awaitable[Response]] = self.endpoint
        shape = self.shape

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                await web.only_known_query(request)
            try:
                content = await request.body()
            except ClientDisconnect as exc:  # by itself, or cut off because it was too slow
                raise InvalidInput("the client went away before its body was whole") from exc
            body = parsed(shape, request.headers.get("content-type", ""), content)
            return await endpoint(body, request, request.app.state.gateway)

        return handle


def json_answer(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def parsed(shape: type[BaseModel], content_type: str, body: bytes) -> BaseModel:
    """Raises InvalidInput and RequestValidationError."""
    if "json" not in content_type:
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
