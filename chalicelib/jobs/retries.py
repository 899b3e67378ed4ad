"""The one place where the sweep tries again, and its one policy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from anyio import to_thread
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from chalicelib.errors import Unavailable

T = TypeVar("T")

#: Full jitter, as for failing integrations: many workers wait for the same database.
PAUSES = wait_random_exponential(multiplier=0.2, max=5)


async def until_it_passes(call: Callable[..., T], *args: Any, ends: float) -> T:
    """What ``call(*args)`` returns, made in a thread; again while it raises ``Unavailable`` and there is time.

    ``ends`` is a moment of ``time.perf_counter()``: from then on, what is raised is raised. Whatever is called here
    must be harmless to repeat, since an answer may have been lost.
    """

    def time_is_up(state: RetryCallState) -> bool:
        return perf_counter() + state.upcoming_sleep >= ends

    retrying = AsyncRetrying(retry=retry_if_exception_type(Unavailable), wait=PAUSES, stop=time_is_up, reraise=True)
    return await retrying(to_thread.run_sync, partial(call, *args))
