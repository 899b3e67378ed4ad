"""How much may be under way at once: places at work, a slow lane for those that only wait, and a few for each host."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

#: A loop that comes so much too late to what it has to do is short of CPU.
LATE_S = 0.2


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
        self.work_left, self.slow_left = work, slow
        self.at_hosts = 0  # checks that wait for their host
        self.held = 0  # checks that have a place, in either lane
        self._work = asyncio.Semaphore(work)
        self._hosts: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(per_host))
        self._impatient: dict[_Place, None] = {}  # those that wait for room in the slow lane, in order
        self._patience_s = patience_s
        self._moved = moved

    def place(self, host: str, patience_s: float | None = None) -> _Place:
        """``async with`` it, to hold a place for one check of ``host``. Waiting for the host comes first: it takes no
        place meanwhile. ``patience_s``: of this check, if other than usual.
        """
        return _Place(self, self._hosts[host], self._patience_s if patience_s is None else patience_s)

    async def _enter(self, place: _Place) -> None:
        self.at_hosts += 1
        self._moved()
        try:
            await place.host.acquire()
        finally:
            self.at_hosts -= 1
        try:
            await self._work.acquire()
        except BaseException:
            place.host.release()
            raise
        self.work_left -= 1
        self.held += 1
        self._be_patient(place, place.patience_s)
        self._moved()

    # Nothing below waits, so no cancellation can come in between.

    def _be_patient(self, place: _Place, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        place.timer = loop.call_at(loop.time() + seconds, self._step_aside, place)

    def _step_aside(self, place: _Place) -> None:
        if asyncio.get_running_loop().time() - place.timer.when() > LATE_S:
            self._be_patient(place, place.patience_s / 4)
        elif self.slow_left:
            self.slow_left -= 1
            self._move_over(place)
        else:
            self._impatient[place] = None

    def _move_over(self, place: _Place) -> None:
        place.is_slow = True
        self._leave_work()

    def _leave_work(self) -> None:
        self.work_left += 1
        self._work.release()

    def _leave(self, place: _Place) -> None:
        place.timer.cancel()
        self.held -= 1
        if not place.is_slow:
            self._impatient.pop(place, None)
            self._leave_work()
        elif self._impatient:
            heir = next(iter(self._impatient))
            del self._impatient[heir]
            self._move_over(heir)
        else:
            self.slow_left += 1
        place.host.release()
        self._moved()


class _Place:
    """A class of its own and no generator: there is one for every check."""

    __slots__ = ("_lanes", "host", "is_slow", "patience_s", "timer")

    timer: asyncio.TimerHandle

    def __init__(self, lanes: Lanes, host: asyncio.Semaphore, patience_s: float) -> None:
        self._lanes = lanes
        self.host = host
        self.patience_s = patience_s
        self.is_slow = False

    async def __aenter__(self) -> None:
        await self._lanes._enter(self)

    async def __aexit__(self, *_: object) -> None:
        self._lanes._leave(self)
