"""What a connection config may hold, and which commands and credentials its type takes."""

from __future__ import annotations

from typing import Any

import pytest

from chalicelib.errors import Invalid
from chalicelib.services.endpoints import (
    SECRET_KEY_PATTERN,
    config_problems,
    credential_name_problem,
    endpoint_of,
    required_credentials,
    stdio_refusal,
    takes_variable,
)
from tests.peers.targets import a_type, fields

LIKE_SECRETS = """
    token apiToken API_KEY api-key X-Api-Key client_secret db_password Authorization aws_access_key privatekey
    signing-key credential credentials Set-Cookie passphrase
"""


@pytest.mark.parametrize("key", LIKE_SECRETS.split())
def test_a_key_that_looks_like_a_secret_is_refused_at_any_depth(key: str) -> None:
    base = {"protocol": "http", "url": "https://a.example"}
    places: dict[str, dict[str, Any]] = {
        f"connection_config.{key}": {key: "x"},
        f"connection_config.env.{key}": {"env": {key: "x"}},
        f"connection_config.headers.{key}": {"headers": {key: "x"}},
        f"connection_config.a[0].b.{key}": {"a": [{"b": {key: "x"}}]},
    }
    for path, extra in places.items():
        found = dict(config_problems(a_type(), "none", {**base, **extra}))
        assert "credential" in found[path]


@pytest.mark.parametrize("key", ["token_url", "secretary", "cookie_policy", "passwords_allowed", "keys", "author"])
def test_a_key_that_only_starts_like_a_secret_is_fine(key: str) -> None:
    assert not SECRET_KEY_PATTERN.search(key)
    assert config_problems(a_type(), "none", {"url": "https://a.example", key: "x"}) == []


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"headers": {"Host": "b.example"}}, "connection_config.headers.Host"),
        ({"headers": {"Mcp-Session-Id": "1"}}, "connection_config.headers.Mcp-Session-Id"),
        ({"headers": {"Content-Length": "1"}}, "connection_config.headers.Content-Length"),
        ({"headers": {"X-A": "b\r\nX-B: c"}}, "connection_config.headers.X-A"),
        ({"headers": {"X A": "b"}}, "connection_config.headers.X A"),
        ({"headers": {"X-A": 5}}, "connection_config.headers.X-A"),
        ({"headers": {"X-A": "é"}}, "connection_config.headers.X-A"),
        ({"headers": ["X-A"]}, "connection_config.headers"),
        ({"headers": {f"X-{n}": "" for n in range(33)}}, "connection_config.headers"),
        ({"env": {"LD_PRELOAD": "/x"}}, "connection_config.env.LD_PRELOAD"),
        ({"env": {"ld_preload": "/x"}}, "connection_config.env.ld_preload"),
        ({"env": {"NODE_OPTIONS": "--require /x"}}, "connection_config.env.NODE_OPTIONS"),
        ({"env": {"PYTHONPATH": "/x"}}, "connection_config.env.PYTHONPATH"),
        ({"env": {"BASH_ENV": "/x"}}, "connection_config.env.BASH_ENV"),
        ({"env": {"PATH": "/x"}}, "connection_config.env.PATH"),
        ({"env": {"HTTPS_PROXY": "/x"}}, "connection_config.env.HTTPS_PROXY"),
        ({"env": {"A=B": "x"}}, "connection_config.env.A=B"),
        ({"env": {"A": "x" * 8193}}, "connection_config.env.A"),
        ({"args": "x"}, "connection_config.args"),
        ({"args": [1]}, "connection_config.args"),
        ({"args": ["x"] * 1000}, "connection_config.args"),
        ({"args": ["x" * 4097]}, "connection_config.args[0]"),
        ({"timeout_ms": 5}, "connection_config.timeout_ms"),
        ({"timeout_ms": True}, "connection_config.timeout_ms"),
        ({"timeout_ms": "5000"}, "connection_config.timeout_ms"),
        ({"note": "\x00"}, "connection_config"),
        ({"note": "\ud800"}, "connection_config"),
        ({"\x00": "note"}, "connection_config"),
        ({"note": "x" * 16_384}, "connection_config"),
        ({"note": float("nan")}, "connection_config"),
    ],
)
def test_what_a_configuration_may_not_hold_is_named(extra: dict[str, Any], field: str) -> None:
    problems = config_problems(a_type(), "none", {"url": "https://a.example", **extra})

    assert fields(problems) == {field}


def test_ten_thousand_levels_are_refused_without_climbing_them() -> None:
    deep: dict[str, Any] = {}
    for _ in range(10_000):
        deep = {"a": deep}

    assert fields(config_problems(a_type(), "none", {"url": "https://a.example", "a": deep})) == {"connection_config"}


@pytest.mark.parametrize(
    "command", ["./run", "../run", "bin/run", "/a/../b", "run\nrun", "run\x01", "-c", "", ".", "a ", "x" * 2000, 7]
)
def test_a_command_is_a_bare_name_or_an_absolute_path(command: Any) -> None:
    problems = config_problems(a_type(), "none", {"protocol": "stdio", "command": command})

    assert fields(problems) == {"connection_config.command"}


def test_shell_characters_are_plain_arguments() -> None:
    config = {"command": "echo", "args": ["$(id)", "; rm -rf /", "`id`", "| cat", "&& x", "*"]}

    assert config_problems(a_type(), "none", config) == []
    assert endpoint_of(a_type(), config).command == ("echo", *config["args"])


CATALOGUE = {
    "mcp": {
        "protocol": "stdio",
        "command": "npx",
        "args": ["-y", "@acme/server"],
        "env": [{"name": "ACME_REGION"}, {"name": "ACME_KEY", "secret": True}, {"name": "ACME_MODE", "optional": True}],
    }
}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"env": {"ACME_REGION": "eu"}}, set()),
        ({"env": {"ACME_REGION": "eu"}, "command": "npx", "args": ["-y", "@acme/server"]}, set()),
        ({}, {"connection_config.env.ACME_REGION"}),
        ({"env": {"ACME_REGION": "eu"}, "command": "sh"}, {"connection_config.command"}),
        ({"env": {"ACME_REGION": "eu"}, "args": ["-c", "id"]}, {"connection_config.command"}),
        ({"env": {"ACME_REGION": "eu", "OTHER": "x"}}, {"connection_config.env.OTHER"}),
        ({"env": {"ACME_REGION": "eu", "ACME_KEY": "x"}}, {"connection_config.env.ACME_KEY"}),
        ({"env": {"ACME_REGION": "eu"}, "protocol": "http"}, {"connection_config.protocol"}),
    ],
)
def test_a_catalogue_command_takes_its_declared_variables_and_nothing_else(
    config: dict[str, Any], named: set[str]
) -> None:
    assert fields(config_problems(a_type("mcp", CATALOGUE), "none", config)) == named


@pytest.mark.parametrize(
    ("definition", "config", "field"),
    [
        (CATALOGUE, {"env": {"ACME_REGION": "eu", "OTHER": "x"}}, "connection_config.env.OTHER"),
        (CATALOGUE, {"env": {"ACME_REGION": "eu", "ACME_KEY": "x"}}, "connection_config.env.ACME_KEY"),
        ({}, {"command": "npx", "env": {"LD_PRELOAD": "/x"}}, "connection_config.env.LD_PRELOAD"),
        ({}, {"url": "https://a.example", "headers": {"Host": "b.example"}}, "connection_config.headers.Host"),
    ],
)
def test_what_is_refused_at_save_is_refused_at_use(
    definition: dict[str, Any], config: dict[str, Any], field: str
) -> None:
    """Owners can write their configuration straight into the database, where nobody has looked at it."""
    with pytest.raises(Invalid) as caught:
        endpoint_of(a_type("mcp", definition), config)

    assert fields(list(caught.value.errors)) == {field}


def test_a_catalogue_command_is_given_its_declared_variables_only() -> None:
    declared = {"auth": {"api_key": {"fields": [{"name": "api_key"}, {"name": "env.ACME_TEAM"}]}}, **CATALOGUE}
    taken = {name for name in ("ACME_KEY", "ACME_TEAM", "API_URL") if takes_variable(a_type("mcp", declared), name)}

    assert taken == {"ACME_KEY", "ACME_TEAM"}
    assert takes_variable(a_type(), "API_URL")


@pytest.mark.parametrize(
    ("policy", "definition", "refused"),
    [("off", {}, True), ("off", CATALOGUE, True), ("catalogue", {}, True), ("catalogue", CATALOGUE, False),
     ("any", {}, False), ("any", CATALOGUE, False)],
)  # fmt: skip
def test_the_policy_decides_which_commands_run(policy: str, definition: dict[str, Any], refused: bool) -> None:
    kind = a_type("mcp", definition)
    endpoint = endpoint_of(kind, {"env": {"ACME_REGION": "eu"}} if definition else {"command": "npx"})

    assert bool(stdio_refusal(policy, kind, endpoint)) is refused


def test_the_policy_says_nothing_about_http() -> None:
    assert stdio_refusal("off", a_type(), endpoint_of(a_type(), {"url": "https://a.example"})) is None


@pytest.mark.parametrize(
    ("kind", "definition", "method", "config", "named"),
    [
        ("mcp", {}, "certificate", {"url": "http://a.example"}, {"auth_method"}),
        ("mcp", {}, "certificate", {"url": "https://a.example"}, set()),
        ("mcp", {}, "ssh_key", {"url": "https://a.example"}, {"auth_method"}),
        ("custom", {}, "none", {"host": "a.example"}, {"auth_method"}),
        ("custom", {}, "ssh_key", {"host": "a.example"}, set()),
        ("vendor", {"auth": {"api_key": {}}}, "basic", {"api_url": "https://a.example"}, {"auth_method"}),
        ("vendor", {"auth": {"api_key": {}}}, "api_key", {"api_url": "https://a.example"}, set()),
    ],
)
def test_the_auth_method_must_fit_the_type_and_the_address(
    kind: str, definition: dict[str, Any], method: str, config: dict[str, Any], named: set[str]
) -> None:
    assert fields(config_problems(a_type(kind, definition), method, config)) == named


SCHEMA = {
    "type": "object",
    "properties": {"url": {"type": "string"}, "site": {"type": "string", "pattern": "^[a-z]+$"}, "n": {"enum": [1, 2]}},
    "required": ["url", "site"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"site": "acme"}, set()),
        ({}, {"connection_config.site"}),
        ({"site": "ACME"}, {"connection_config.site"}),
        ({"site": 5}, {"connection_config.site"}),
        ({"site": "acme", "n": 3}, {"connection_config.n"}),
        ({"site": "acme", "other": 3}, {"connection_config.other"}),
    ],
)
def test_the_schema_of_the_type_holds(extra: dict[str, Any], named: set[str]) -> None:
    problems = config_problems(a_type("mcp", schema=SCHEMA), "none", {"url": "https://a.example", **extra})

    assert fields(problems) == named


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "https://a.example/s.json"}, {"pattern": "("}])
def test_a_broken_schema_is_reported_and_nothing_is_fetched(schema: dict[str, Any]) -> None:
    problems = config_problems(a_type("mcp", schema=schema), "none", {"url": "https://a.example"})

    assert problems == [
        ("connection_config", "cannot be checked: the schema of this integration type is broken; tell the operator")
    ]


@pytest.mark.parametrize(
    ("name", "fine"),
    [("api_key", True), ("env.ACME_KEY", True), ("header.X-Api-Key", True), ("header.Authorization", True),
     ("env.LD_PRELOAD", False), ("env.", False), ("header.Host", False), ("header.a b", False), ("x.y", False)],
)  # fmt: skip
def test_named_credentials_obey_the_rules_of_their_place(name: str, fine: bool) -> None:
    assert (credential_name_problem(name) is None) is fine


@pytest.mark.parametrize(
    ("method", "definition", "groups"),
    [
        ("none", {}, ()),
        ("api_key", {}, (("api_key",),)),
        ("basic", {}, (("username",), ("password",))),
        ("jwt", {}, (("jwt",),)),
        ("jwt", {"auth": {"jwt": {"mint": {"algorithm": "HS256"}}}}, (("jwt", "jwt_signing_key"),)),
        ("api_key", {"auth": {"api_key": {"fields": [{"name": "api_key"}, {"name": "x", "optional": True}]}}},
         (("api_key",),)),
        ("none", CATALOGUE, (("env.ACME_KEY",),)),
    ],
)  # fmt: skip
def test_what_must_be_saved_before_it_can_work_is_known(
    method: str, definition: dict[str, Any], groups: tuple[tuple[str, ...], ...]
) -> None:
    assert required_credentials(a_type("mcp", definition), method) == groups
