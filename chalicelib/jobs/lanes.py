"""How much may be under way at once: places at work, a slow lane for those that only wait, and a few for each host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class Lanes:
    """A place at work is held by what costs CPU. After ``patience_s`` a check only waits for the far side, so it moves
    to the slow lane and frees its place; where the slow lane is full, it keeps it.

    Belongs to one event loop.
    """

    def __init__(self, *, work: int, slow: int, per_host: int, patience_s: float = 1.0) -> None:
        self._work = anyio.CapacityLimiter(work)
        self._slow = anyio.CapacityLimiter(slow)
        self._per_host = per_host
        self._hosts: defaultdict[str, anyio.Semaphore] = defaultdict(lambda: anyio.Semaphore(per_host))
        self._patience_s = patience_s

    @asynccontextmanager
    async def place(self, host: str) -> AsyncIterator[None]:
        """Hold a place for one check of ``host``. Waiting for the host comes first: it takes no place meanwhile."""
        async with self._hosts[host]:
            holder = object()
            await self._work.acquire_on_behalf_of(holder)
            lane = [self._work]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._step_aside, holder, lane)
                try:
                    yield
                finally:
                    tasks.cancel_scope.cancel()
                    lane[0].release_on_behalf_of(holder)

    async def _step_aside(self, holder: object, lane: list[anyio.CapacityLimiter]) -> None:
        await anyio.sleep(self._patience_s)
        await self._slow.acquire_on_behalf_of(holder)
        lane[0] = self._slow
        self._work.release_on_behalf_of(holder)
