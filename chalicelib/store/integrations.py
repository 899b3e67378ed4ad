"""The store of one signed-in user: what their requests read and write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from chalicelib.errors import IntegrationNotFound, IntegrationTypeNotFound
from chalicelib.model import Secret
from chalicelib.store.supabase import Supabase, plain

Json = dict[str, Any]


class UserStore:
    """Reads and plain writes run under the user's own token, and Postgres decides.

    Ciphertext and history are out of any user's reach: calls that touch them run as the service and carry the owner's
    id. `docs/round-trips.md` lists which is which.
    """

    def __init__(self, supabase: Supabase, user_id: UUID, token: Secret) -> None:
        self._user_id = str(user_id)
        self._user = supabase.as_user(token)
        self._service = supabase.as_service()

    # Reading.

    def list_integrations(self, filters: Mapping[str, Any], after: list[Any] | None, limit: int) -> Json:
        return self._read("list_integrations", p_after=_key(after), p_limit=limit, **_named(filters))

    def get_integration(self, integration_id: UUID) -> Json:
        return self._read("get_integration", p_integration_id=str(integration_id))

    def overview(self, window: str) -> Json:
        return self._read("get_overview", p_window=window)

    def health_summary(self, integration_id: UUID, window: str) -> Json:
        return self._read("get_health_summary", p_integration_id=str(integration_id), p_window=window)

    def list_logs(self, integration_id: UUID, event_type: str | None, after: list[Any] | None, limit: int) -> Json:
        return self._read(
            "list_integration_logs",
            p_integration_id=str(integration_id),
            p_event_type=event_type,
            p_after=_key(after),
            p_limit=limit,
        )

    def list_metrics(self, integration_id: UUID, after: list[Any] | None, limit: int) -> Json:
        return self._read(
            "list_health_metrics", p_integration_id=str(integration_id), p_after=_key(after), p_limit=limit
        )

    def list_credentials(self, integration_id: UUID) -> Json:
        return self._read("list_credentials", p_integration_id=str(integration_id))

    def _read(self, function: str, **params: Any) -> Json:
        found: Json | None = self._user.call(function, **plain(params))
        if found is None:
            raise IntegrationNotFound
        return found

    # Writing.

    def prepare(
        self,
        *,
        integration_id: UUID | None = None,
        type_slug: str | None = None,
        idempotency_key: str | None = None,
        secrets: bool = False,
        test_budget: tuple[int, int] | None = None,
    ) -> Json:
        """All that a write or a test has to know, in one call. Ciphertext only with ``secrets``.

        ``test_budget``: (tests a minute, tests a day); one test is spent, or RateLimited is raised.
        """
        per_minute, per_day = test_budget or (None, None)
        found: Json = (self._service if secrets else self._user).call(
            "prepare_write",
            **plain(
                {
                    "p_user_id": self._user_id,
                    "p_integration_id": None if integration_id is None else str(integration_id),
                    "p_type": type_slug,
                    "p_idempotency_key": idempotency_key,
                    "p_secrets": secrets or None,
                    "p_tests_per_minute": per_minute,
                    "p_tests_per_day": per_day,
                }
            ),
        )
        if found["type"] is None:
            raise IntegrationTypeNotFound
        return found

    def sealed_credentials(self, integration_id: UUID) -> Json:
        found: Json = self._service.call(
            "sealed_credentials", p_user_id=self._user_id, p_integration_id=str(integration_id)
        )
        return found

    def create(self, payload: Json) -> Json:
        found: Json = self._writer(payload).call(
            "create_integration", p_user_id=self._user_id, p_payload=json.dumps(payload)
        )
        return found

    def update(self, integration_id: UUID, payload: Json) -> Json:
        found: Json = self._writer(payload).call(
            "update_integration",
            p_user_id=self._user_id,
            p_integration_id=str(integration_id),
            p_payload=json.dumps(payload),
        )
        return found

    def _writer(self, payload: Json) -> Any:
        beyond_users = ("id", "new_key", "credentials", "drop_credentials", "result")
        return self._service if any(payload.get(part) for part in beyond_users) else self._user

    def delete_integration(self, integration_id: UUID) -> None:
        if not self._user.delete("user_integrations", id=str(integration_id)):
            raise IntegrationNotFound

    def delete_credential(self, integration_id: UUID, credential_type: str) -> bool:
        return bool(
            self._service.call(
                "delete_credential",
                p_user_id=self._user_id,
                p_integration_id=str(integration_id),
                p_credential_type=credential_type,
            )
        )

    def record_check(self, result: Json) -> Json:
        """Record a person's check. Raises ChangedMeanwhile if the integration is not what was checked any more."""
        found: Json | None = self._service.call("record_check", p_user_id=self._user_id, p_result=json.dumps(result))
        if found is None:
            raise IntegrationNotFound
        return found

    def set_status(self, integration_id: UUID, status: str, message: str | None = None) -> Json:
        found: Json | None = self._service.call(
            "set_integration_status",
            **plain(
                {
                    "p_user_id": self._user_id,
                    "p_integration_id": str(integration_id),
                    "p_status": status,
                    "p_message": message,
                }
            ),
        )
        if found is None:
            raise IntegrationNotFound
        return found

    def log_event(self, integration_id: UUID, event_type: str, message: str, metadata: Mapping[str, Any]) -> None:
        if not self._service.call(
            "log_event",
            p_user_id=self._user_id,
            p_integration_id=str(integration_id),
            p_event_type=event_type,
            p_message=message,
            p_metadata=json.dumps(dict(metadata)),
        ):
            raise IntegrationNotFound


class TypeStore:
    """The catalogue, open to everybody."""

    def __init__(self, supabase: Supabase) -> None:
        self._anybody = supabase.as_anybody()

    def list_types(self, filters: Mapping[str, Any], after: list[Any] | None, limit: int) -> Json:
        found: Json = self._anybody.call(
            "list_integration_types", **plain({"p_after": _key(after), "p_limit": limit, **_named(filters)})
        )
        return found

    def get_type(self, slug: str) -> Json:
        found: Json | None = self._anybody.call("get_integration_type", p_slug=slug)
        if found is None:
            raise IntegrationTypeNotFound
        return found


def _named(filters: Mapping[str, Any]) -> Json:
    return {f"p_{name}": value for name, value in filters.items()}


def _key(after: list[Any] | None) -> str | None:
    return None if after is None else json.dumps(after)
