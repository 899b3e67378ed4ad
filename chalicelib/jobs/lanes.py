"""How much may be under way at once: places at work, a slow lane for those that only wait, and a few for each host."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

#: A loop that comes so much too late to what it has to do is short of CPU.
LATE_S = 0.05


class Lanes:
    """A place at work is held by what costs CPU. After ``patience_s`` a check only waits for the far side, so it moves
    to the slow lane and frees its place; where the slow lane is full, it keeps it until there is room.

    While the event loop itself is late, checks wait for us, not for the far side: then none moves, or each that is let
    in would make the others later still.

    ``moved`` is called when a check begins to wait for its host, gets a place, or leaves. Belongs to one event loop.
    """

    def __init__(
        self, *, work: int, slow: int, per_host: int, patience_s: float = 1.0, moved: Callable[[], None] = lambda: None
    ) -> None:
        self._work = anyio.Semaphore(work, fast_acquire=True)
        self._slow_left = slow
        self._hosts: defaultdict[str, anyio.Semaphore] = defaultdict(
            lambda: anyio.Semaphore(per_host, fast_acquire=True)
        )
        self._patience_s = patience_s
        self._impatient: dict[_Seat, None] = {}  # those that wait for room in the slow lane, in order
        self._moved = moved
        self.at_hosts = 0
        self.held = 0

    @property
    def free(self) -> tuple[int, int]:
        """Free places at work and in the slow lane."""
        return self._work.value, self._slow_left

    @asynccontextmanager
    async def place(self, host: str) -> AsyncIterator[None]:
        """Hold a place for one check of ``host``. Waiting for the host comes first: it takes no place meanwhile."""
        async with self._turn_at(host):
            await self._work.acquire()
            seat = _Seat()
            self._be_patient(seat, self._patience_s)
            self.held += 1
            self._moved()
            try:
                yield
            finally:
                self._leave(seat)

    @asynccontextmanager
    async def _turn_at(self, host: str) -> AsyncIterator[None]:
        turn = self._hosts[host]
        self.at_hosts += 1
        self._moved()
        try:
            await turn.acquire()
        finally:
            self.at_hosts -= 1
        try:
            yield
        finally:
            turn.release()

    # Nothing below waits, so no cancellation can come in between.

    def _be_patient(self, seat: _Seat, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        seat.timer = loop.call_at(loop.time() + seconds, self._step_aside, seat)

    def _step_aside(self, seat: _Seat) -> None:
        if asyncio.get_running_loop().time() - seat.timer.when() > LATE_S:
            self._be_patient(seat, self._patience_s / 4)
        elif self._slow_left:
            self._slow_left -= 1
            self._move_over(seat)
        else:
            self._impatient[seat] = None

    def _move_over(self, seat: _Seat) -> None:
        seat.is_slow = True
        self._work.release()

    def _leave(self, seat: _Seat) -> None:
        seat.timer.cancel()
        self.held -= 1
        if not seat.is_slow:
            self._impatient.pop(seat, None)
            self._work.release()
        elif self._impatient:
            heir = next(iter(self._impatient))
            del self._impatient[heir]
            self._move_over(heir)
        else:
            self._slow_left += 1
        self._moved()


class _Seat:
    timer: asyncio.TimerHandle
    is_slow = False
