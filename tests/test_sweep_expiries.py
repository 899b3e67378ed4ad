"""From what somebody saves to what they are told: the end of a certificate, a JWT, and a key's declared age."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from chalice.test import Client
from cryptography.hazmat.primitives.asymmetric import ec

from chalicelib.jobs.upkeep import run_upkeep
from tests.support import rows
from tests.support.app import Person, app_client, environment
from tests.support.pasted import certificate, pem, token
from tests.support.stack import Stack


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with environment(stack.environment()), app_client() as client:
        yield client


def saved(person: Person, method: str, **credentials: str) -> str:
    made = person.post("/integrations", {
        "integration_type": "custom-vendor", "name": method, "auth_method": method,
        "connection_config": {"api_url": "https://erp.example.com"}, "credentials": credentials,
    })  # fmt: skip
    assert made.status == 201, made.body
    return str(made.json["id"])


def told(stack: Stack, integration_id: str) -> list[tuple[str, int]]:
    with stack.database.connect() as db:
        logs = rows.logs(db, uuid.UUID(integration_id))
    return [(more["credential_type"], more["days"]) for event, _, more in logs if event == "credential_expiring"]


def test_certificates_tokens_and_declared_ages_are_foretold(client: Client, stack: Stack) -> None:
    _, access = stack.new_user()
    person = Person(client, access)
    key = ec.generate_private_key(ec.SECP256R1())
    soon = datetime.now(UTC) + timedelta(hours=20)
    by_certificate = saved(person, "certificate", client_key=pem(key),
                           client_certificate=certificate(key, ends=timedelta(days=6)))  # fmt: skip
    by_token = saved(person, "jwt", jwt=token(exp=int((datetime.now(UTC) + timedelta(days=20)).timestamp())))
    by_key = saved(person, "api_key", api_key="made-up-key-of-a-test")
    put: Any = person.put(f"/integrations/{by_key}/credentials/api_key",
                          {"value": "made-up-key-of-a-test", "expires_at": soon.isoformat()})  # fmt: skip
    assert put.status == 200, put.body
    for_long = saved(person, "basic", username="somebody", password="made-up-password")

    for _ in range(2):
        run_upkeep(lambda _: None)

    assert told(stack, by_certificate) == [("client_certificate", 7)]
    assert told(stack, by_token) == [("jwt", 30)]
    assert told(stack, by_key) == [("api_key", 1)]
    assert told(stack, for_long) == []
