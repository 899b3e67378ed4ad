"""The policy on commands (``MCP_STDIO``), asked at save, at test, and at use of what is stored already."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from tests.support.app import Person, app_client, environment
from tests.support.canary import CANARY
from tests.support.stack import Stack

OWN = {"integration_type": "mcp-custom", "auth_method": "none",
       "connection_config": {"protocol": "stdio", "command": "true"}}  # fmt: skip
OF_THE_CATALOGUE = {"integration_type": "memory-mcp", "auth_method": "none"}


@pytest.mark.parametrize(
    ("policy", "form", "allowed"),
    [
        ("off", OWN, False),
        ("off", OF_THE_CATALOGUE, False),
        ("catalogue", OWN, False),
        ("catalogue", OF_THE_CATALOGUE, True),
        ("any", OWN, True),
    ],
    ids=["off-own", "off-catalogue", "catalogue-own", "catalogue-catalogue", "any-own"],
)
def test_a_command_is_saved_and_tested_as_the_policy_says(
    stack: Stack, policy: str, form: dict[str, Any], allowed: bool
) -> None:
    with environment(stack.environment() | {"MCP_STDIO": policy}), app_client() as client:
        person = Person(client, stack.new_user()[1])
        saved = person.post("/integrations", form | {"name": "mine"})
        tested = None if allowed else person.post("/integrations/test", form)
        kept = person.get("/integrations").json["items"]

    if allowed:
        assert saved.status == 201, saved.body
        return
    for refused in (saved, tested):
        assert refused is not None
        assert refused.status == 422
        assert [error["field"] for error in refused.json["errors"]] == ["connection_config.command"]
    assert kept == []


@pytest.mark.parametrize("policy", ["off", "catalogue"])
def test_a_stored_command_is_not_run_once_the_policy_forbids_it(stack: Stack, policy: str) -> None:
    """Saved before, or written straight into the database: either way it is asked again at use."""
    user_id, token = stack.new_user()
    secrets = {"credentials": {"env.API_TOKEN": CANARY}}
    with environment(stack.environment()), app_client() as client:
        made = Person(client, token).post("/integrations", OWN | secrets | {"name": "before"})
        assert made.status == 201, made.body
    url = {"integration_type": "mcp-custom", "auth_method": "none",
           "connection_config": {"protocol": "http", "url": "http://127.0.0.1:9/mcp"}}  # fmt: skip

    with environment(stack.environment() | {"MCP_STDIO": policy}), app_client() as client:
        person = Person(client, token)
        direct = person.post("/integrations", url | {"name": "direct"}).json["id"]
        _write_directly(stack, user_id, direct, OWN["connection_config"])
        results = [person.post(f"/integrations/{one}/test").json for one in (made.json["id"], direct)]

    for result in results:
        assert (result["success"], result["verdict"]) == (False, "blocked"), result
        assert [step["name"] for step in result["steps"]] == ["policy"]


def _write_directly(stack: Stack, user_id: UUID, integration_id: str, config: object) -> None:
    with stack.database.connect() as connection:
        claims = json.dumps({"sub": str(user_id), "role": "authenticated"})
        connection.execute(
            "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true)", [claims]
        )
        connection.execute(
            "update public.user_integrations set connection_config = %s where id = %s",
            [json.dumps(config), integration_id],
        )


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"command": "sh -c id"}, None),  # one word, of no program
        ({"command": "true; id"}, None),
        ({"command": "../bin/true"}, "command"),
        ({"command": "/tmp/../bin/true"}, "command"),
        ({"command": "tr\x00ue"}, "command"),
        ({"command": "true", "args": ["x"] * 1_000}, "args"),
        ({"command": "true", "args": ["a\x00b"]}, "args"),
        ({"command": "true", "args": ["a" * 5_000]}, "args"),
        ({"command": "true", "env": {"LD_PRELOAD": "/tmp/x.so"}}, "env"),
        ({"command": "true", "env": {"NODE_OPTIONS": "--require /tmp/x"}}, "env"),
        ({"command": "true", "env": {"BASH_ENV": "/tmp/x"}}, "env"),
        ({"command": "true", "env": {"PYTHONPATH": "/tmp"}}, "env"),
    ],
)
def test_a_dangerous_command_is_refused_or_harmless(stack: Stack, config: dict[str, Any], field: str | None) -> None:
    body = OWN | {"connection_config": {"protocol": "stdio"} | config}
    with environment(stack.environment()), app_client() as client:
        reply = Person(client, stack.new_user()[1]).post("/integrations/test", body)

    if field is None:  # no shell reads it: there is no such program
        assert (reply.status, reply.json["success"]) == (200, False), reply.body
        assert b"uid=" not in reply.body
    else:
        assert reply.status == 422
        assert all(error["field"].startswith("connection_config") for error in reply.json["errors"])


def test_tests_are_rationed_by_the_day_as_well(stack: Stack) -> None:
    with environment(stack.environment() | {"TESTS_PER_DAY": "2"}), app_client() as client:
        person = Person(client, stack.new_user()[1])
        replies = [person.post("/integrations/test", OWN) for _ in range(3)]
        someone_else = Person(client, stack.new_user()[1]).post("/integrations/test", OWN)

    assert [reply.status for reply in replies] == [200, 200, 429]
    assert replies[2].json["code"] == "tests_per_day"
    assert int(replies[2].headers["Retry-After"]) >= 1
    assert someone_else.status == 200
