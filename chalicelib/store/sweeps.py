"""What a sweep reads and writes. No user is present: everything runs as the service, and rows carry their owner."""

from __future__ import annotations

import json
from collections.abc import Sequence
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

    def record(self, results: Sequence[Json]) -> list[str]:
        """Record a batch. Returns the ids recorded: a result whose lease is gone is dropped."""
        recorded: list[str] = self._service.call("record_checks", p_results=json.dumps(list(results)))
        return recorded
