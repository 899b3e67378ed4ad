"""Results on their way into the database: in batches, each until it is there or the time is up."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio

from chalicelib.errors import AppError, Invalid
from chalicelib.jobs.retries import until_it_passes
from chalicelib.services.ports import Json

log = logging.getLogger("integrations")

#: A batch that does not fill up is recorded after this long, well before a lease ends.
PATIENCE_S = 10.0
#: And no call carries more than about this, whatever far sides have sent.
MOST_BYTES = 4 * 1_048_576


@dataclass(frozen=True)
class _Result:
    """``plain`` makes the row to record instead, if this one cannot be; None where this is that one already."""

    row: Json
    size: int
    plain: Callable[[], Json] | None

    @classmethod
    def of(cls, row: Json, plain: Callable[[], Json] | None = None) -> _Result:
        return cls(row, len(json.dumps(row)), plain)


class Recorder:
    """Takes results one by one. ``record(results, dropped)`` writes a batch and returns what it recorded.

    ``failure`` is what stood in the way of results that could not be recorded: those are due again when their lease
    ends, like everything that was not checked.
    """

    def __init__(self, record: Callable[[Sequence[Json], Sequence[Json]], list[str]], size: int) -> None:
        self._record = record
        self._size = size
        self._results: deque[_Result] = deque()
        self._bytes = 0
        self._dropped: list[Json] = []
        self._closed = False
        self._news = anyio.Event()
        self.round_trips = 0
        self.recorded = 0
        self.failure: AppError | None = None

    def add(self, row: Callable[[], Json], plain: Callable[[], Json]) -> None:
        """``row`` makes the result. ``plain`` makes one with nothing of the far side's in it: it is recorded instead if
        the other cannot be made, or the database does not take it.
        """
        try:
            result = _Result.of(row(), plain)
        except Exception as error:  # such as a RecursionError over what somebody has nested a thousand times
            log.error("a result cannot be recorded: %s", type(error).__name__)
            result = _Result.of(plain())
        self._results.append(result)
        self._bytes += result.size
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
                while len(self._results) < self._size and self._bytes < MOST_BYTES and not self._closed:
                    self._news = anyio.Event()
                    await self._news.wait()
            batch = self._next_batch()
            dropped, self._dropped = self._dropped, []
            if batch or dropped:
                await self._write(batch, dropped, ends)

    def _next_batch(self) -> list[_Result]:
        """What fits into one call; one that is too large for any goes alone."""
        batch: list[_Result] = []
        left = MOST_BYTES
        while self._results and len(batch) < self._size and (not batch or self._results[0].size <= left):
            batch.append(self._results.popleft())
            left -= batch[-1].size
            self._bytes -= batch[-1].size
        return batch

    async def _write(self, batch: list[_Result], dropped: list[Json], ends: float) -> None:
        try:
            self.recorded += len(await until_it_passes(self._once, batch, dropped, ends=ends))
        except Invalid as error:
            await self._write_halves(batch, dropped, ends, error)
        except AppError as error:
            log.error("%d results could not be recorded: %s", len(batch), error.code)
            self.failure = error

    async def _write_halves(self, batch: list[_Result], dropped: list[Json], ends: float, error: Invalid) -> None:
        """One result that the database refuses must not keep the others out, nor come to be due for ever."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._write(batch[:middle], dropped, ends)
            await self._write(batch[middle:], [], ends)
            return
        log.error("the database refused a result: %s", error.code)
        plain = batch[0].plain if batch else None
        if plain is None:
            self.failure = error
        else:
            await self._write([_Result.of(plain())], dropped, ends)

    def _once(self, batch: list[_Result], dropped: list[Json]) -> list[str]:
        self.round_trips += 1
        return self._record([result.row for result in batch], dropped)
