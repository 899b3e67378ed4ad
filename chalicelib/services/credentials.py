"""Sealing what a caller typed, and opening it for its destination only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from chalicelib.errors import CredentialsBoundElsewhere, Invalid, SealError
from chalicelib.model import AuthMethod, Binding, DataKey, IntegrationType, Secret
from chalicelib.services.endpoints import destination_of, runs_own_command
from chalicelib.services.plain_types import type_from
from chalicelib.services.ports import Json, Sealer

#: What is said to end in other years never ends (certificates have 9999 for that), and no calendar computes with it.
EARLIEST_EXPIRY, LATEST_EXPIRY = datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def type_of(found: Json) -> IntegrationType:
    return type_from(found["type"])


def keys_of(found: Json, user_id: UUID) -> list[DataKey]:
    return [DataKey(UUID(row["id"]), user_id, row["wrapped_key"]) for row in found.get("keys", [])]


def seal_all(
    secrets: Mapping[str, Secret],
    expiries: Mapping[str, datetime | None],
    *,
    user_id: UUID,
    integration_id: UUID,
    type: IntegrationType,
    config: Mapping[str, Any],
    found: Json,
    vault: Sealer,
) -> Json:
    """The part of a payload that stores these secrets: ``credentials``, and ``new_key`` for a user's first.

    ``found`` is the answer of ``prepare`` with secrets. Raises ``Unavailable`` while no data key can be had; then
    nothing has been stored.
    """
    if not secrets:
        return {}
    current = next((row["id"] for row in found["keys"] if row["current"]), None)
    stored = {row["credential_type"]: row for row in found["credentials"]}
    key = next((key for key in keys_of(found, user_id) if str(key.id) == current), None)
    payload: Json = {}
    if key is None:
        made = vault.new_key(user_id)
        key = DataKey(made.id, user_id, made.wrapped)
        payload["new_key"] = {"id": str(key.id), "wrapped_key": key.wrapped}
    rows = []
    for credential_type, secret in secrets.items():
        old = stored.get(credential_type)
        binding = Binding(
            user_id=user_id,
            integration_id=integration_id,
            credential_id=UUID(old["id"]) if old else uuid4(),
            credential_type=credential_type,
            destination=destination_of(type, config, credential_type),
            row_version=old["row_version"] + 1 if old else 1,
        )
        expires_at = expiries.get(credential_type)
        ends = expires_at is not None and EARLIEST_EXPIRY <= expires_at < LATEST_EXPIRY
        rows.append(
            {
                "id": str(binding.credential_id),
                "credential_type": credential_type,
                "encrypted_value": vault.seal(secret, binding, key),
                "data_key_id": str(key.id),
                "row_version": binding.row_version,
                "destination": binding.destination,
                "hint": secret.hint(),
                "expires_at": expires_at.isoformat() if expires_at and ends else None,
            }
        )
    return {**payload, "credentials": rows}


def open_all(
    rows: Iterable[Json],
    keys: Iterable[DataKey],
    *,
    user_id: UUID,
    integration_id: UUID,
    type: IntegrationType,
    config: Mapping[str, Any],
    vault: Sealer,
) -> tuple[dict[str, Secret], list[str]]:
    """The secrets that open for where ``config`` leads now, and the types of those that do not."""
    keys = list(keys)
    opened: dict[str, Secret] = {}
    unreadable: list[str] = []
    for row in rows:
        credential_type = row["credential_type"]
        try:
            binding = Binding(
                user_id=user_id,
                integration_id=integration_id,
                credential_id=UUID(row["id"]),
                credential_type=credential_type,
                destination=destination_of(type, config, credential_type),
                row_version=row["row_version"],
            )
            opened[credential_type] = vault.open(row["encrypted_value"], binding, keys)
        except (SealError, Invalid):  # Invalid: the configuration leads nowhere
            unreadable.append(credential_type)
    return opened, sorted(unreadable)


def require_same_destination(
    stored: Iterable[Json], replaced: Iterable[str], type: IntegrationType, config: Mapping[str, Any]
) -> None:
    """Raise CredentialsBoundElsewhere for stored credentials that ``config`` would send to another destination."""
    kept = [row for row in stored if row["credential_type"] not in set(replaced)]
    elsewhere = sorted(
        row["credential_type"]
        for row in kept
        if row["destination"] != destination_of(type, config, row["credential_type"])
    )
    if elsewhere:
        raise CredentialsBoundElsewhere(elsewhere)


def require_known_variables(
    stored: Iterable[Json], typed: Iterable[str], type: IntegrationType, config: Mapping[str, Any]
) -> None:
    """Raise if a variable, typed now or before, could tell a command of the user's own where to send other secrets.

    What each variable of such a command means, nobody here knows: ``env.API_URL`` may be one. So where there is one,
    all credentials are given in one request. A catalogue's command takes only the secrets that its entry declares.
    """
    typed = set(typed)
    others = sorted({row["credential_type"] for row in stored} - typed)
    variable = any(name.startswith("env.") for name in (*typed, *others))
    if typed and others and variable and runs_own_command(type, config):
        raise CredentialsBoundElsewhere(others)


def default_auth_method(auth_methods: list[str], credentials: Mapping[str, Secret]) -> AuthMethod:
    """The method that the typed credentials belong to, else the first that the type knows, else none."""
    for method, mark in _MARKS.items():
        if mark in credentials and (not auth_methods or method in auth_methods):
            return method
    return AuthMethod(auth_methods[0]) if auth_methods and "none" not in auth_methods else AuthMethod.NONE


_MARKS = {
    AuthMethod.API_KEY: "api_key",
    AuthMethod.BASIC: "password",
    AuthMethod.OAUTH: "access_token",
    AuthMethod.JWT: "jwt",
    AuthMethod.CERTIFICATE: "client_certificate",
    AuthMethod.SSH_KEY: "private_key",
}
