"""Who renews an integration's tokens, and what came of it. Runs as the service, and carries the owner's id."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from chalicelib.store.supabase import Supabase, plain

Json = dict[str, Any]


class TokenRefreshStore:
    def __init__(self, supabase: Supabase) -> None:
        self._service = supabase.as_service()

    def claim_refresh(
        self, user_id: UUID, integration_id: UUID, access_version: int | None, lease_s: int
    ) -> Json | None:
        """``lease_token`` for the one who may renew, with ``credentials`` and ``keys``; ``held``: another is at it.

        With neither, the access token has another version than ``access_version`` by now, or is a minute old at most.
        """
        found: Json | None = self._service.call(
            "claim_refresh",
            **plain(
                {
                    "p_user_id": str(user_id),
                    "p_integration_id": str(integration_id),
                    "p_access_version": access_version,
                    "p_lease_s": lease_s,
                }
            ),
        )
        return found

    def store_refreshed(self, user_id: UUID, integration_id: UUID, lease_token: str, payload: Json) -> Json | None:
        """End the lease, and store the ``credentials`` of ``payload`` whose rows are as they were read.

        Returns all ``credentials`` and ``keys`` as they are now. Repeating a call changes nothing.
        """
        found: Json | None = self._service.call(
            "store_refreshed",
            p_user_id=str(user_id),
            p_integration_id=str(integration_id),
            p_lease_token=lease_token,
            p_payload=json.dumps(payload),
        )
        return found
