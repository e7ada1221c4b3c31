"""Waiting for a part that is away: for those who can, as stages of a run do. Requests cannot; they answer 503."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from core.errors import Unavailable

_T = TypeVar("_T")

PATIENCE_SECONDS = 600.0
_LONGEST_DELAY_SECONDS = 10.0


def patiently(work: Callable[[], _T], say: Callable[[str], None], seconds: float = PATIENCE_SECONDS) -> _T:
    """Again while a part it needs is away, and says which. `work` can be repeated. Raises Unavailable after so long."""
    give_up_at = time.monotonic() + seconds
    delay_seconds = 0.5
    while True:
        try:
            return work()
        except Unavailable as exc:
            if time.monotonic() + delay_seconds > give_up_at:
                raise
            say(f"waiting: {exc.message}")
        time.sleep(delay_seconds)  # between two tries
        delay_seconds = min(_LONGEST_DELAY_SECONDS, delay_seconds * 2)
