"""Waiting for a thread in an event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def outlasted(working: asyncio.Future[T]) -> T:
    """As awaiting it, but whoever is cancelled, once or again, ends no sooner than it does: a thread cannot be stopped,
    and what it holds, a place and memory, is taken until it is done."""
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # looked at, so that nobody is told of it as of one that nobody saw
        raise
