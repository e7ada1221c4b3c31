"""Waiting for what another process or thread is about to do."""

from __future__ import annotations

import time
from collections.abc import Callable

BETWEEN_LOOKS_SECONDS = 0.02


def wait_until(
    condition: Callable[[], object], seconds: float = 10, what: Callable[[], object] | str = "it"
) -> float:
    """Seconds it took. what: what is waited for, or what to tell of the state when it does not come."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() > started + seconds:
            told = what if isinstance(what, str) else repr(what())
            raise AssertionError(f"after {seconds:g} s still waiting for {told}")
        time.sleep(BETWEEN_LOOKS_SECONDS)
    return time.monotonic() - started
