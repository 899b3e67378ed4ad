"""Results on their way into the database: in batches, each until it is there or the time is up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import anyio

from chalicelib.errors import AppError, Invalid
from chalicelib.jobs.retries import until_it_passes
from chalicelib.services.ports import Json

log = logging.getLogger("integrations")

#: A batch that does not fill up is recorded after this long, well before a lease ends.
PATIENCE_S = 10.0


class Recorder:
    """Takes results one by one. ``record(results, dropped)`` writes a batch and returns what it recorded.

    ``failure`` is what stood in the way of results that could not be recorded: those are due again when their lease
    ends, like everything that was not checked.
    """

    def __init__(self, record: Callable[[Sequence[Json], Sequence[Json]], list[str]], size: int) -> None:
        self._record = record
        self._size = size
        self._results: list[Json] = []
        self._dropped: list[Json] = []
        self._closed = False
        self._news = anyio.Event()
        self.round_trips = 0
        self.recorded = 0
        self.failure: AppError | None = None

    def add(self, result: Json) -> None:
        self._results.append(result)
        self._news.set()

    def drop(self, lease: Json) -> None:
        """Take this integration off the schedule, with no result."""
        self._dropped.append(lease)
        self._news.set()

    def close(self) -> None:
        """Nothing more will come: :meth:`run` ends when all is written."""
        self._closed = True
        self._news.set()

    async def run(self, ends: float) -> None:
        """Write what comes. ``ends`` is a moment of ``time.perf_counter()``: later, nothing is tried again."""
        while not self._closed or self._results or self._dropped:
            with anyio.move_on_after(PATIENCE_S):
                while len(self._results) < self._size and not self._closed:
                    self._news = anyio.Event()
                    await self._news.wait()
            batch, self._results = self._results[: self._size], self._results[self._size :]
            dropped, self._dropped = self._dropped, []
            if batch or dropped:
                await self._write(batch, dropped, ends)

    async def _write(self, batch: list[Json], dropped: list[Json], ends: float) -> None:
        try:
            self.recorded += len(await until_it_passes(self._once, batch, dropped, ends=ends))
        except Invalid as error:
            await self._write_halves(batch, dropped, ends, error)
        except AppError as error:
            log.error("%d results could not be recorded: %s", len(batch), error.code)
            self.failure = error

    async def _write_halves(self, batch: list[Json], dropped: list[Json], ends: float, error: Invalid) -> None:
        """One result that the database refuses must not keep the others out."""
        if len(batch) <= 1:
            log.error("the database refused a result: %s", error.code)
            self.failure = error
            return
        middle = len(batch) // 2
        await self._write(batch[:middle], dropped, ends)
        await self._write(batch[middle:], [], ends)

    def _once(self, batch: list[Json], dropped: list[Json]) -> list[str]:
        self.round_trips += 1
        return self._record(batch, dropped)
