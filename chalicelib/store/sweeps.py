"""What a sweep reads and writes. No user is present: everything runs as the service, and rows carry their owner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from chalicelib.store.supabase import Supabase

Json = dict[str, Any]


class SweepStore:
    def __init__(self, supabase: Supabase) -> None:
        self._service = supabase.as_service()

    def claim(self, limit: int, lease_s: int) -> Json:
        """Lease up to ``limit`` due integrations: ``checks``, and the ``types`` (by id) and ``keys`` that they need."""
        found: Json = self._service.call("claim_due_checks", p_limit=limit, p_lease_s=lease_s)
        return found

    def record(self, results: Sequence[Json], dropped: Sequence[Json] = ()) -> list[str]:
        """Record a batch, and take ``dropped`` off the schedule. Returns the ids recorded.

        A result whose lease is gone is not recorded: repeating a call whose answer was lost is harmless.
        """
        recorded: list[str] = self._service.call(
            "record_checks", p_results=json.dumps(list(results)), p_dropped=json.dumps(list(dropped))
        )
        return recorded

    def count_due(self, most: int) -> tuple[int, datetime | None]:
        """How many are due, counted up to ``most``, and since when the first of them."""
        found = self._service.call("count_due", p_most=most)
        return found["due"], datetime.fromisoformat(found["oldest"]) if found["oldest"] else None


class UpkeepStore:
    """What an hourly job keeps in order."""

    def __init__(self, supabase: Supabase) -> None:
        self._service = supabase.as_service()

    def drop_history(self, metrics_days: int, logs_days: int) -> list[str]:
        """Drop the partitions that have served their time, and make those of the next weeks; the names dropped."""
        dropped: list[str] = self._service.call("drop_history", p_metrics_days=metrics_days, p_logs_days=logs_days)
        return dropped

    def note_expiries(self, most: int) -> int:
        """Tell owners what expires soon; of how many credentials, ``most`` of them at a time."""
        return int(self._service.call("note_expiries", p_most=most))

    def forget_old(self) -> Json:
        """Delete the small things that nobody asks for any more; how many of each kind."""
        forgotten: Json = self._service.call("forget_old")
        return forgotten
