"""A stored secret never follows to another destination, whichever part of it is changed, and by whichever way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from chalice.test import Client
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.app import Person, app_client, environment
from tests.support.canary import CANARY
from tests.support.stack import Stack

HERE = "http://127.0.0.1:9001"
VENDOR = {"integration_type": "custom-vendor", "auth_method": "api_key", "credentials": {"api_key": CANARY}}
TEMPLATE = {
    "integration_type": "zendesk",
    "auth_method": "basic",
    "credentials": {"username": "a@b.example/token", "password": CANARY},
}
COMMAND = {"integration_type": "mcp-custom", "auth_method": "none", "credentials": {"env.API_TOKEN": CANARY}}
HOST = {"integration_type": "ssh-host", "auth_method": "ssh_key"}

#: What is stored, and what its owner's session is made to change it to.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "host": (VENDOR, {"api_url": f"{HERE}/v1"}, {"api_url": "http://127.0.0.2:9001/v1"}),
    "port": (VENDOR, {"api_url": f"{HERE}/v1"}, {"api_url": "http://127.0.0.1:9002/v1"}),
    "scheme": (VENDOR, {"api_url": f"{HERE}/v1"}, {"api_url": "https://127.0.0.1:9001/v1"}),
    "template field": (TEMPLATE, {"subdomain": "mine"}, {"subdomain": "theirs"}),
    "MCP URL": (COMMAND | {"credentials": {"header.X-Key": CANARY}}, {"protocol": "http", "url": f"{HERE}/mcp"},
                {"protocol": "http", "url": "http://127.0.0.3:9001/mcp"}),
    "command": (COMMAND, {"protocol": "stdio", "command": "true"}, {"protocol": "stdio", "command": "env"}),
    "argument": (COMMAND, {"protocol": "stdio", "command": "true", "args": ["a"]},
                 {"protocol": "stdio", "command": "true", "args": ["b"]}),
    "a variable of the command": (COMMAND, {"protocol": "stdio", "command": "true"},
                                  {"protocol": "stdio", "command": "true", "env": {"API_URL": "http://127.0.0.4"}}),
    "SSH host": (HOST, {"host": "127.0.0.1", "port": 9022}, {"host": "127.0.0.2", "port": 9022}),
    "SSH port": (HOST, {"host": "127.0.0.1", "port": 9022}, {"host": "127.0.0.1", "port": 9023}),
}  # fmt: skip


def ssh_key() -> str:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    plenty = {"TESTS_PER_MINUTE": "10000", "TESTS_PER_DAY": "100000"}
    with environment(stack.environment() | plenty), app_client() as client:
        yield client


@pytest.mark.parametrize("part", CASES)
def test_a_changed_destination_needs_the_secret_again(part: str, client: Client, stack: Stack) -> None:
    base, config, moved = CASES[part]
    credentials = base.get("credentials") or {"username": "ann", "private_key": ssh_key()}
    user_id, token = stack.new_user()
    owner = Person(client, token)
    reply = owner.post("/integrations", base | {"name": part, "connection_config": config, "credentials": credentials})
    assert reply.status == 201, reply.body
    path = f"/integrations/{reply.json['id']}"

    through_api = owner.patch(path, {"connection_config": moved})
    assert (through_api.status, through_api.json["code"]) == (409, "credentials_bound_elsewhere")
    assert through_api.json["credential_types"] == sorted(credentials)

    _change_directly(stack, user_id, reply.json["id"], moved)
    result = owner.post(f"{path}/test").json
    assert result["verdict"] == "misconfigured"
    for name in credentials:
        assert name in result["error_message"]
    assert [step["name"] for step in result["steps"]] == ["policy"]  # nothing was opened, so nothing was sent

    _change_directly(stack, user_id, reply.json["id"], config)
    if "subdomain" not in config:  # whose name somebody outside would be asked for
        back = owner.post(f"{path}/test").json
        assert back["verdict"] != "misconfigured"  # what was typed for this place still opens here


def _change_directly(stack: Stack, user_id: UUID, integration_id: str, config: dict[str, Any]) -> None:
    """As the owner's own token can, straight through PostgREST."""
    with stack.database.connect() as connection:
        claims = json.dumps({"sub": str(user_id), "role": "authenticated"})
        connection.execute(
            "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true)", [claims]
        )
        changed = connection.execute(
            "update public.user_integrations set connection_config = %s where id = %s returning id",
            [json.dumps(config), integration_id],
        ).fetchall()
        assert len(changed) == 1


RUNS = {"protocol": "stdio", "command": "true"}


def test_a_variable_that_is_typed_now_needs_the_other_secrets_again(client: Client, stack: Stack) -> None:
    """``env.API_URL`` may say where ``env.API_TOKEN`` goes: a stolen session could send it to a server of its own."""
    owner = Person(client, stack.new_user()[1])
    made = owner.post("/integrations", COMMAND | {"name": "mine", "connection_config": RUNS})
    path, steered = f"/integrations/{made.json['id']}", {"env.API_URL": "http://127.0.0.4"}
    draft = {"integration_type": "mcp-custom", "integration_id": made.json["id"], "connection_config": RUNS}

    refused = [
        owner.put(f"{path}/credentials/env.API_URL", {"value": "http://127.0.0.4"}),
        owner.patch(path, {"credentials": steered}),
        owner.post("/integrations/test", draft | {"credentials": steered}),
    ]

    for reply in refused:
        assert (reply.status, reply.json["code"]) == (409, "credentials_bound_elsewhere"), reply.body
        assert reply.json["credential_types"] == ["env.API_TOKEN"]
    assert [row["credential_type"] for row in owner.get(f"{path}/credentials").json["items"]] == ["env.API_TOKEN"]

    both = {"credentials": steered | {"env.API_TOKEN": CANARY}}
    assert owner.patch(path, both).status == 200
    assert owner.post("/integrations/test", draft | both).status == 200
    alone = owner.put(f"{path}/credentials/env.API_TOKEN", {"value": CANARY})
    assert alone.json["credential_types"] == ["env.API_URL"]  # which of two is the address, nobody here knows


def test_a_variable_that_was_planted_waits_for_no_secret(client: Client, stack: Stack) -> None:
    """A stolen session takes the key away and says where it goes; the owner, asked for the key, saves it again."""
    owner = Person(client, stack.new_user()[1])
    keyed = COMMAND | {"name": "mine", "auth_method": "api_key", "connection_config": RUNS}
    path = "/integrations/" + owner.post("/integrations", keyed | {"credentials": {"api_key": CANARY}}).json["id"]
    assert owner.delete(f"{path}/credentials/api_key").status == 204
    assert owner.put(f"{path}/credentials/env.API_URL", {"value": "http://127.0.0.4"}).status == 200

    saved = owner.put(f"{path}/credentials/api_key", {"value": CANARY})

    assert (saved.status, saved.json["credential_types"]) == (409, ["env.API_URL"])


def test_a_setting_cannot_be_given_as_a_credential(client: Client, stack: Stack) -> None:
    owner = Person(client, stack.new_user()[1])
    memory = {"integration_type": "memory-mcp", "name": "memory", "auth_method": "none"}
    twice = COMMAND | {"name": "twice", "connection_config": RUNS | {"env": {"API_URL": "http://127.0.0.4"}}}

    replies = {
        "env.MEMORY_FILE_PATH": owner.post("/integrations", memory | {"credentials": {"env.MEMORY_FILE_PATH": "/x"}}),
        "env.OTHER": owner.post("/integrations", memory | {"credentials": {"env.OTHER": "x"}}),
        "env.API_URL": owner.post("/integrations", twice | {"credentials": {"env.API_URL": "http://127.0.0.5"}}),
    }

    for name, reply in replies.items():
        assert reply.status == 422, reply.body
        assert [error["field"] for error in reply.json["errors"]] == [f"credentials.{name}"]
