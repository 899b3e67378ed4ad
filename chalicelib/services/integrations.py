"""`IntegrationService`: everything that a signed-in user does with their integrations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from chalicelib.errors import (
    ChangedMeanwhile,
    CredentialNotFound,
    IdempotencyKeyReused,
    Invalid,
)
from chalicelib.model import AuthMethod, CheckResult, IntegrationType, Secret, Source, Status, Target
from chalicelib.services.catalogue import CatalogueService
from chalicelib.services.checks import Intent, is_command, result_row, unreadable_credentials
from chalicelib.services.credentials import (
    default_auth_method,
    keys_of,
    open_all,
    require_known_variables,
    require_same_destination,
    seal_all,
    type_of,
)
from chalicelib.services.drafts import Change, Draft, Idempotency
from chalicelib.services.ports import Check, Json, Sealer, Store, Types
from chalicelib.services.rules import Rules
from chalicelib.services.token_refresh import Held, TokenRefresher

_NOTHING_STORED: Json = {"integration": None, "credentials": []}


@dataclass(frozen=True)
class Limits:
    """From settings. Times are seconds."""

    tests_per_minute: int
    tests_per_day: int
    check_interval_s: int
    check_backoff_cap_s: int
    sweeps_commands: bool


class IntegrationService(CatalogueService):
    """One user's integrations. Raises errors of `chalicelib/errors.py` only; other users' rows do not exist here.

    Answers are JSON values as `api.md` describes them.
    """

    def __init__(
        self,
        user_id: UUID,
        *,
        store: Store,
        types: Types,
        vault: Sealer,
        check: Check,
        tokens: TokenRefresher,
        rules: Rules,
        limits: Limits,
    ) -> None:
        super().__init__(types)
        self._user_id = user_id
        self._store = store
        self._vault = vault
        self._check = check
        self._tokens = tokens
        self._rules = rules
        self._limits = limits

    # Reading.

    def get_user_integrations(
        self, filters: Mapping[str, Any] | None = None, *, after: list[Any] | None = None, limit: int = 50
    ) -> Json:
        """A page of own integrations; ``filters``: status, verdict, type, category, q, sort."""
        return self._store.list_integrations(filters or {}, after, limit)

    def get_user_integration_by_id(self, integration_id: UUID) -> Json:
        return self._store.get_integration(integration_id)

    def get_overview(self, window: str = "24h") -> Json:
        return self._store.overview(window)

    def get_health_summary(self, integration_id: UUID, window: str = "24h") -> Json:
        return self._store.health_summary(integration_id, window)

    def get_health_metrics(self, integration_id: UUID, *, after: list[Any] | None = None, limit: int = 50) -> Json:
        return self._store.list_metrics(integration_id, after, limit)

    def get_integration_logs(
        self,
        integration_id: UUID,
        *,
        event_type: str | None = None,
        after: list[Any] | None = None,
        limit: int = 50,
    ) -> Json:
        return self._store.list_logs(integration_id, event_type, after, limit)

    def get_credentials(self, integration_id: UUID) -> Json:
        """What is stored, never a value."""
        return self._store.list_credentials(integration_id)

    # Creating, changing, deleting.

    def create_user_integration(self, draft: Draft, idempotency: Idempotency | None = None) -> Json:
        """Store an integration with its credentials, together or not at all.

        With ``test`` it is checked first, and the answer holds ``test_result``; with ``test="required"`` it is stored
        only if the verdict is ok, else the answer is ``{"saved": False, "test_result": …}`` and nothing is kept.
        """
        found = self._store.prepare(
            type_slug=draft.integration_type,
            idempotency_key=idempotency.key if idempotency else None,
            secrets=bool(draft.credentials),
            test_budget=self._budget(draft.test),
        )
        if idempotency and found["replay"]:
            if found["replay"]["fingerprint"] != idempotency.fingerprint:
                raise IdempotencyKeyReused
            return dict(found["replay"]["response"])
        type = type_of(found)
        method = draft.auth_method or default_auth_method(found["type"]["auth_methods"], draft.credentials)
        expiries = self._rules.require_acceptable(type, found, method, draft.connection_config, draft.credentials)
        result = None
        if draft.test:
            result = self._test_stored(_NOTHING_STORED, type, method, draft.connection_config, draft.credentials)
        if draft.test == "required" and result and not result.success:
            return {"saved": False, "test_result": result.as_json()}
        new_id = uuid4()
        payload: Json = {
            "integration_type_id": str(type.id),
            "name": draft.name,
            "connection_config": dict(draft.connection_config),
            "auth_method": method.value,
        }
        if idempotency:
            payload["idempotency"] = {"key": idempotency.key, "fingerprint": idempotency.fingerprint}
        if result:
            payload["result"] = self._row(new_id, result, "connect", type, draft.connection_config)
        if result or draft.credentials:
            payload["id"] = str(new_id)
        return self._create(payload, draft, expiries, type, new_id, found)

    def _create(
        self,
        payload: Json,
        draft: Draft,
        expiries: Mapping[str, datetime | None],
        type: IntegrationType,
        new_id: UUID,
        found: Json,
    ) -> Json:
        """A user's first data key may be made by two requests at once: the loser seals again under the winner's."""
        for last_try in (False, True):
            sealed = self._seal(draft.credentials, expiries, type, draft.connection_config, new_id, found)
            try:
                return self._store.create(payload | sealed)
            except ChangedMeanwhile:
                if last_try:
                    raise
                found = self._store.prepare(type_slug=type.slug, secrets=True)
        raise AssertionError("unreachable")

    def update_user_integration(self, integration_id: UUID, change: Change) -> Json:
        """Change what is given. Credentials never follow to another destination: give them anew, or it is refused."""
        found = self._store.prepare(
            integration_id=integration_id,
            secrets=bool(change.credentials or change.test),
            test_budget=self._budget(change.test),
        )
        type, old = type_of(found), found["integration"]
        method = change.auth_method or AuthMethod(old["auth_method"])
        config = old["connection_config"] if change.connection_config is None else change.connection_config
        expiries = self._rules.require_acceptable(type, found, method, config, change.credentials)
        dropped = [
            row["credential_type"]
            for row in found["credentials"]
            if method != old["auth_method"] and not self._rules.belongs(method, row["credential_type"])
        ]
        kept = [row for row in found["credentials"] if row["credential_type"] not in dropped]
        require_same_destination(kept, change.credentials, type, config)
        require_known_variables(kept, change.credentials, type, config)
        payload = _changed_fields(change) | {"expected_config_version": old["config_version"]}
        payload |= self._seal(change.credentials, expiries, type, config, integration_id, found)
        if dropped:
            payload["drop_credentials"] = dropped
        if change.test:
            unchanged = [row for row in kept if row["credential_type"] not in change.credentials]
            result = self._test_stored(found | {"credentials": unchanged}, type, method, config, change.credentials)
            if change.test == "required" and not result.success:
                return {"saved": False, "test_result": result.as_json()}
            payload["result"] = self._row(integration_id, result, "test", type, config, old)
        return self._store.update(integration_id, payload)

    def delete_user_integration(self, integration_id: UUID) -> None:
        """Credentials, metrics and logs go with it."""
        self._store.delete_integration(integration_id)

    # Connecting and testing.

    def connect_integration(self, integration_id: UUID) -> Json:
        """Check it; on success it is connected and checked from now on, else its status is ``error``."""
        return self._check_and_record(integration_id, "connect")

    def disconnect_integration(self, integration_id: UUID) -> Json:
        """No more checks; credentials stay."""
        return self._store.set_status(integration_id, Status.DISCONNECTED)

    def update_integration_status(self, integration_id: UUID, status: Status, message: str | None = None) -> Json:
        return self._store.set_status(integration_id, status, message)

    def test_connection(self, integration_id: UUID) -> Json:
        """A test result, recorded as metric, log and status."""
        return dict(self._check_and_record(integration_id, "test")["test_result"])

    def test_draft(self, draft: Draft) -> Json:
        """A test result for a form that is not saved; nothing is stored."""
        found = self._store.prepare(
            integration_id=draft.integration_id,
            type_slug=draft.integration_type,
            test_budget=self._budget(True),
        )
        type = type_of(found)
        if type.slug != draft.integration_type:
            raise Invalid("That integration is of another type.", [("integration_type", f"must be {type.slug} for it")])
        given = found["integration"] or {}
        method = draft.auth_method or (
            AuthMethod(given["auth_method"])
            if given
            else default_auth_method(found["type"]["auth_methods"], draft.credentials)
        )
        self._rules.require_acceptable(type, found, method, draft.connection_config, draft.credentials)
        untyped = [
            row
            for row in found.get("credentials", [])
            if row["credential_type"] not in draft.credentials and self._rules.belongs(method, row["credential_type"])
        ]
        require_same_destination(untyped, (), type, draft.connection_config)
        require_known_variables(untyped, draft.credentials, type, draft.connection_config)
        names = {row["credential_type"] for row in untyped}
        if untyped and draft.integration_id:
            sealed = self._store.sealed_credentials(draft.integration_id)
            rows = [row for row in sealed["credentials"] if row["credential_type"] in names]
            found = found | {"keys": sealed["keys"], "credentials": rows}
        else:
            found = found | {"credentials": []}
        return self._test_stored(found, type, method, draft.connection_config, draft.credentials).as_json()

    def _check_and_record(self, integration_id: UUID, intent: Intent) -> Json:
        found = self._store.prepare(integration_id=integration_id, test_budget=self._budget(True))
        old = found["integration"]
        if found["credentials"]:
            found |= self._store.sealed_credentials(integration_id)
        type, config = type_of(found), old["connection_config"]
        result = self._test_stored(found, type, AuthMethod(old["auth_method"]), config, {})
        row = self._row(integration_id, result, intent, type, config, old)
        return self._store.record_check(row | {"config_version": old["config_version"]})

    def _test_stored(
        self,
        found: Json,
        type: IntegrationType,
        method: AuthMethod,
        config: Mapping[str, Any],
        typed: Mapping[str, Secret],
    ) -> CheckResult:
        """Check with the stored credentials of ``found`` and those just typed. Nothing unreadable is sent."""
        opened: dict[str, Secret] = {}
        if found["credentials"]:
            opened, unreadable = open_all(
                found["credentials"],
                keys_of(found, self._user_id),
                user_id=self._user_id,
                integration_id=UUID(found["integration"]["id"]),
                type=type,
                config=config,
                vault=self._vault,
            )
            if unreadable:
                return unreadable_credentials(unreadable)
        given = found["integration"] or {}
        target = Target(type, method, config, {**opened, **typed}, given.get("capabilities"))
        if method is not AuthMethod.OAUTH:
            return self._check(target)
        if not given:
            return self._tokens.checked_as_typed(target, self._check)
        held = Held(self._user_id, UUID(given["id"]), target, found["credentials"], frozenset(typed))
        return self._tokens.checked(held, self._check)

    def _row(
        self,
        integration_id: UUID,
        result: CheckResult,
        intent: Intent,
        type: IntegrationType,
        config: Mapping[str, Any],
        old: Json | None = None,
    ) -> Json:
        return result_row(
            integration_id,
            result,
            source=Source.TEST,
            intent=intent,
            failures_before=old["consecutive_failures"] if old else 0,
            old_capabilities=old["capabilities"] if old else None,
            interval_s=self._limits.check_interval_s,
            backoff_cap_s=self._limits.check_backoff_cap_s,
            scheduled=self._limits.sweeps_commands or not is_command(type, config),
        )

    # Credentials.

    def store_credential(
        self, integration_id: UUID, credential_type: str, value: Secret, expires_at: datetime | None = None
    ) -> Json:
        """Replace a credential at once; the old ciphertext is gone once this returns. Answers its metadata."""
        found = self._store.prepare(integration_id=integration_id, secrets=True)
        type, old = type_of(found), found["integration"]
        config, given = old["connection_config"], {credential_type: value}
        expiries = self._rules.require_acceptable(type, found, AuthMethod(old["auth_method"]), config, given)
        require_known_variables(found["credentials"], given, type, config)
        expiry = expires_at or expiries.get(credential_type)
        payload = self._seal(given, {credential_type: expiry}, type, config, integration_id, found)
        answer = self._store.update(integration_id, payload | {"expected_config_version": old["config_version"]})
        return next(dict(row) for row in answer["credentials"] if row["credential_type"] == credential_type)

    def delete_credential(self, integration_id: UUID, credential_type: str) -> None:
        if not self._store.delete_credential(integration_id, credential_type):
            raise CredentialNotFound

    # History that the service itself writes.

    def log_event(
        self, integration_id: UUID, event_type: str, message: str, metadata: Mapping[str, Any] | None = None
    ) -> None:
        self._store.log_event(integration_id, event_type, message, metadata or {})

    def record_health_metric(self, integration_id: UUID, result: CheckResult) -> Json:
        """Record a result that was got elsewhere as if it had been tested here just now."""
        found = self._store.prepare(integration_id=integration_id)
        old = found["integration"]
        row = self._row(integration_id, result, "test", type_of(found), old["connection_config"], old)
        row |= {"config_version": old["config_version"]}
        return self._store.record_check(row)

    # Rules.

    def _budget(self, test: object) -> tuple[int, int] | None:
        return (self._limits.tests_per_minute, self._limits.tests_per_day) if test else None

    def _seal(
        self,
        secrets: Mapping[str, Secret],
        expiries: Mapping[str, datetime | None],
        type: IntegrationType,
        config: Mapping[str, Any],
        integration_id: UUID,
        found: Json,
    ) -> Json:
        return seal_all(
            secrets,
            expiries,
            user_id=self._user_id,
            integration_id=integration_id,
            type=type,
            config=config,
            found=found,
            vault=self._vault,
        )


def _changed_fields(change: Change) -> Json:
    fields: Json = {}
    if change.name is not None:
        fields["name"] = change.name
    if change.connection_config is not None:
        fields["connection_config"] = dict(change.connection_config)
    if change.auth_method is not None:
        fields["auth_method"] = change.auth_method.value
    return fields
