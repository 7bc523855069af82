"""One piece of work for all who wait for it."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any


class Together:
    """Has the same work done once, however many ask for it at the same time."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[None]] = {}

    async def do(self, what: Hashable, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait for the work that runs under the name of ``what``, or begin it. Raises what the work raises.

        Who is cancelled leaves it to the others.
        """
        task = self._running.get(what)
        if task is None:
            task = self._running[what] = asyncio.get_running_loop().create_task(work())
            task.add_done_callback(lambda done: self._is_over(what, done))
        await asyncio.shield(task)

    async def close(self) -> None:
        """End what runs; its stores are about to close."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _is_over(self, what: Hashable, done: "asyncio.Task[None]") -> None:
        del self._running[what]
        if not done.cancelled():
            done.exception()  # all who waited may have gone: nobody else would fetch it
