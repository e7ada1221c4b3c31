"""What the routes share: one object per process, made at start."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

from api.actors import Actors
from api.batching import Batcher
from api.catalogue import Catalogue, KnownModel
from api.history import History
from api.trials import Trials
from api.upstream import ModelServers
from core.errors import InvalidInput
from core.settings import settings
from core.threads import outlasted

# Of base64. Decoding takes 7 ms for a million, in which no other thread runs: more is decoded in parts, in a thread.
CHARACTERS_AT_ONCE = 262_144

T = TypeVar("T")


@dataclass(frozen=True)
class Gateway:
    """decoding: how many images are decoded at once, each of which may take 300 MB."""

    catalogue: Catalogue
    model_servers: ModelServers
    batcher: Batcher
    history: History
    trials: Trials
    actors: Actors
    decoding: anyio.CapacityLimiter

    async def model(self, name: str | None) -> KnownModel:
        """The default one for None. Raises UnknownModel, or Unavailable when that cannot be told."""
        wanted = settings().default_model if name is None else name
        found = self.catalogue.get(wanted)
        return found if found is not None else await in_thread(partial(self.catalogue.find, wanted))


def gateway(request: Request) -> Gateway:
    found: Gateway = request.app.state.gateway
    return found


async def in_thread(work: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
    """As anyio's own, but whoever is cancelled ends no sooner than the thread."""
    async with limiter or anyio.to_thread.current_default_thread_limiter():
        working = anyio.to_thread.run_sync(work, limiter=anyio.CapacityLimiter(1))
        return await outlasted(asyncio.ensure_future(working))


def decode_base64(text: str, field: str) -> bytes:
    """Raises InvalidInput, which never repeats the text."""
    try:
        if len(text) <= CHARACTERS_AT_ONCE:
            data = base64.b64decode(text, validate=True)
        else:
            data = b"".join(_decoded_parts(text))
    except (binascii.Error, ValueError) as exc:  # ValueError: characters beyond ASCII
        raise InvalidInput(
            f"{field} is not base64: send the standard alphabet with padding, without line breaks or a `data:` prefix",
            field=field,
        ) from exc
    if not data:
        raise InvalidInput(f"{field} is empty; send base64 of an image", field=field)
    return data


def _decoded_parts(text: str) -> Iterator[bytes]:
    """Raises ValueError."""
    if "=" in text[:-2]:
        raise ValueError("padding within")
    for start in range(0, len(text), CHARACTERS_AT_ONCE):
        yield base64.b64decode(text[start : start + CHARACTERS_AT_ONCE], validate=True)
