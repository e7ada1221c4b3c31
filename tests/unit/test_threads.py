"""Whoever waits for a thread ends no sooner than it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from core.threads import outlasted


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("cancellations", [1, 2, 3])
def test_who_is_cancelled_ends_no_sooner_than_the_thread(cancellations: int, fails: bool) -> None:
    async def talk() -> None:
        go_on, done = threading.Event(), threading.Event()

        def work() -> None:
            go_on.wait(30)
            done.set()
            if fails:
                raise RuntimeError("nobody is there to hear of it")

        async def wait() -> None:
            await outlasted(asyncio.get_running_loop().run_in_executor(None, work))

        waiting = asyncio.create_task(wait())
        for _ in range(cancellations):
            await asyncio.sleep(0.01)
            waiting.cancel()
        await asyncio.sleep(0.05)
        assert not waiting.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert done.is_set()

    asyncio.run(talk())


def test_what_the_thread_gives_or_raises_is_given_and_raised() -> None:
    async def talk() -> None:
        loop = asyncio.get_running_loop()
        assert await outlasted(loop.run_in_executor(None, lambda: 7)) == 7
        with pytest.raises(ZeroDivisionError):
            await outlasted(loop.run_in_executor(None, lambda: 1 // 0))

    asyncio.run(talk())
