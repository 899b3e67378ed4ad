"""When an integration is checked next (``design.md`` §7)."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from chalicelib.model import OUTAGE, CheckResult

FIRST_RETRY_S = 60
SOONEST_RETRY_S = 5
LONGEST_WISH_S = 86_400


def next_check_at(
    integration_id: UUID,
    result: CheckResult,
    failures_before: int,
    *,
    interval_s: int,
    backoff_cap_s: int,
    incident: bool = False,
    pick: Callable[[float, float], float] = random.uniform,
) -> datetime:
    """Healthy integrations keep a place of their own in the interval, so that there is no herd.

    Failing ones back off exponentially with full jitter (M. Brooker, "Exponential Backoff and Jitter", 2015) up to
    ``backoff_cap_s``; a ``Retry-After`` of the far side is honoured, up to a day. During an ``incident`` of the vendor
    the usual interval serves: many that retry at once do not help it, and nobody's recovery should be seen late.
    """
    wish = min(result.retry_after_s or 0, LONGEST_WISH_S)
    earliest = result.checked_at + timedelta(seconds=wish + pick(0, wish / 10))
    if result.success or (incident and result.verdict in OUTAGE):
        return max(earliest, _own_slot(integration_id, result.checked_at, interval_s))
    window = min(backoff_cap_s, FIRST_RETRY_S * 2 ** min(failures_before, 20))
    return max(earliest, result.checked_at + timedelta(seconds=max(SOONEST_RETRY_S, pick(0, window))))


def _own_slot(integration_id: UUID, after: datetime, interval_s: int) -> datetime:
    """The first moment of this integration's own phase that is at least half an interval away."""
    phase = integration_id.int % interval_s
    earliest = after.timestamp() + interval_s / 2
    slot = earliest - earliest % interval_s + phase
    return datetime.fromtimestamp(slot if slot >= earliest else slot + interval_s, UTC)
