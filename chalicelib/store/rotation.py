"""What the rotation of keys reads and writes, as the service. Every write changes only what is still as it was read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from chalicelib.model import Binding, DataKey
from chalicelib.store.supabase import Supabase, plain


@dataclass(frozen=True)
class SealedCredential:
    """A credential at rest. The destination is the stored one: sealing it anew must not bind it anywhere else."""

    binding: Binding
    data_key_id: UUID
    encrypted_value: str


@dataclass(frozen=True)
class SealedPage:
    """Credentials with all data keys of their owners; ``current`` is the key to seal with, by owner."""

    credentials: Sequence[SealedCredential]
    keys: dict[UUID, DataKey]
    current: dict[UUID, DataKey]


class RotationStore:
    """Pages are in the order of ids; ``after`` is the last one of the page before."""

    def __init__(self, supabase: Supabase) -> None:
        self._service = supabase.as_service()

    def begin(self) -> str:
        """The moment that tells old data keys from new ones: of the unfinished rotation, if there is one."""
        return self._service.moment("begin_key_rotation").isoformat()

    def finish(self) -> None:
        self._service.call("finish_key_rotation")

    def count(self) -> tuple[int, int]:
        """How many data keys and credentials there are."""
        found = self._service.call("count_sealed")
        return found["data_keys"], found["credentials"]

    def data_keys(self, after: UUID | None, limit: int, made_before: str | None = None) -> list[DataKey]:
        """Data keys of all users; with ``made_before``, current ones that are older."""
        rows = self._service.call(
            "list_data_keys", **plain({"p_after": _text(after), "p_limit": limit, "p_made_before": made_before})
        )
        return [_data_key(row) for row in rows]

    def rewrap(self, changes: Sequence[tuple[DataKey, DataKey]]) -> int:
        """Store the same data keys, wrapped anew; returns how many were still as read."""
        rows = [{"id": str(old.id), "from": old.wrapped, "to": new.wrapped} for old, new in changes]
        return self._write("rewrap_data_keys", "p_keys", rows)

    def replace(self, changes: Sequence[tuple[DataKey, DataKey]]) -> int:
        """Make the new keys current and retire the old ones; returns how many were still current."""
        rows = [
            {"old_id": str(old.id), "id": str(new.id), "user_id": str(new.user_id), "wrapped_key": new.wrapped}
            for old, new in changes
        ]
        return self._write("replace_data_keys", "p_keys", rows)

    def credentials(self, after: SealedCredential | None, limit: int, *, retired: bool = False) -> SealedPage:
        """Credentials of all users; ``retired``: those whose key is not the current one any more."""
        found = self._service.call(
            "list_sealed",
            **plain(
                {
                    "p_after_key": None if after is None else str(after.data_key_id),
                    "p_after": None if after is None else str(after.binding.credential_id),
                    "p_limit": limit,
                    "p_retired": retired,
                }
            ),
        )
        keys = {UUID(row["id"]): _data_key(row) for row in found["keys"]}
        current = {UUID(row["user_id"]): keys[UUID(row["id"])] for row in found["keys"] if row["current"]}
        return SealedPage([_credential(row) for row in found["credentials"]], keys, current)

    def reseal(self, changes: Sequence[tuple[SealedCredential, DataKey, str]]) -> int:
        """Store the same secrets under another data key; returns how many were still as read."""
        rows = [
            {
                "id": str(old.binding.credential_id),
                "row_version": old.binding.row_version,
                "old_key_id": str(old.data_key_id),
                "data_key_id": str(key.id),
                "encrypted_value": sealed,
            }
            for old, key, sealed in changes
        ]
        return self._write("reseal_credentials", "p_rows", rows)

    def forget_retired(self, older_than_s: int) -> int:
        """Delete up to 1,000 retired keys that nothing is sealed with; returns how many."""
        return int(self._service.call("forget_retired_keys", p_older_than_s=older_than_s))

    def _write(self, function: str, parameter: str, rows: Sequence[Any]) -> int:
        return int(self._service.call(function, **{parameter: json.dumps(rows)})) if rows else 0


def _data_key(row: dict[str, Any]) -> DataKey:
    return DataKey(UUID(row["id"]), UUID(row["user_id"]), row["wrapped_key"])


def _credential(row: dict[str, Any]) -> SealedCredential:
    binding = Binding(
        user_id=UUID(row["user_id"]),
        integration_id=UUID(row["user_integration_id"]),
        credential_id=UUID(row["id"]),
        credential_type=row["credential_type"],
        destination=row["destination"],
        row_version=row["row_version"],
    )
    return SealedCredential(binding, UUID(row["data_key_id"]), row["encrypted_value"])


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
