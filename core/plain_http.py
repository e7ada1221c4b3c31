"""Requests in their plainest form, read as they came: what a service takes past its framework (core/http_server.py).

    routes = {b"POST /invocations HTTP/1.1": answer}
    request = plain_http.read(data, routes.get, most_bytes=65_536)
    answer = plain_http.written(200, [(b"content-type", b"text/plain")], b"done")

Plain is a head with nothing that changes how it is read, and a body of known length; whatever is in doubt is for who
reads any request.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Generic, TypeVar

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
# What changes how a request is read or answered.
_READ_OTHERWISE = frozenset(
    (b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"te", b"trailer")
)
_STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}

Headers = dict[bytes, bytes]
Route = TypeVar("Route")


@dataclass(slots=True)
class Request(Generic[Route]):
    """route: where the first line leads. headers: by name, in lower case. missing_bytes: of content, still to come."""

    route: Route
    headers: Headers
    content: bytes
    missing_bytes: int


def read(data: bytes, route_of: Callable[[bytes], Route | None], most_bytes: int) -> Request[Route] | None:
    """The request, if it is plain and its first line leads somewhere. most_bytes: of head and body together."""
    end = data.find(b"\r\n\r\n")
    if end < 0 or len(data) > most_bytes:
        return None
    line, *rest = data[:end].split(b"\r\n")
    route = route_of(line)
    headers = None if route is None else _headers(rest)
    if route is None or headers is None:
        return None
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or len(length) > 6:
        return None
    missing_bytes = end + 4 + int(length) - len(data)
    if not 0 <= missing_bytes <= most_bytes - len(data):  # less than 0: another request behind it
        return None
    return Request(route, headers, data[end + 4 :], missing_bytes)


def written(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """An answer as it goes over the wire. headers: `content-length` among them."""
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"".join((_STATUS_LINES[status], date_line(), *lines, b"\r\n", body))


def date_line() -> bytes:
    """The header `Date`, which every answer has (RFC 9110, 6.6.1)."""
    return _date_line(int(time.time()))


@lru_cache(maxsize=1)
def _date_line(second: int) -> bytes:
    return b"date: %b\r\n" % formatdate(second, usegmt=True).encode()


def _headers(lines: list[bytes]) -> Headers | None:
    """None when they may be read in more than one way, or say how to read the rest."""
    headers: Headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if (
            not colon
            or name in headers
            or name in _READ_OTHERWISE
            or not _NAME.fullmatch(name)
            or not _VALUE.fullmatch(value)
        ):
            return None
        headers[name] = value
    return headers if headers.get(b"connection", b"keep-alive").lower() == b"keep-alive" else None
