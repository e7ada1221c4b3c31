"""Waiting for a thread in an event loop."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def outlasted(working: asyncio.Future[T]) -> T:
    """As awaiting it, but whoever is cancelled ends no sooner than it does: a thread cannot be stopped, and what it
    holds, a place and memory, is taken until it is done."""
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.gather(working, return_exceptions=True)
        raise
