"""Where a configuration leads, what its credentials are sealed to, and what a configuration may not hold."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.errors import Invalid
from chalicelib.model import IntegrationType
from chalicelib.services.endpoints import (
    SECRET_KEY_PATTERN,
    config_problems,
    credential_name_problem,
    destination_of,
    endpoint_of,
    required_credentials,
    stdio_refusal,
)


def a_type(kind: str = "mcp", definition: dict[str, Any] | None = None, schema: dict[str, Any] | None = None) -> Any:
    return IntegrationType(
        id=UUID(int=1),
        slug="sample",
        name="Sample",
        type=kind,
        category="test",
        config_schema=schema or {},
        definition=definition or {},
    )


TEMPLATED = {
    "base_url": "https://{subdomain}.example.com/{region}/v1",
    "config_fields": [{"name": "subdomain", "pattern": "^[a-z0-9-]+$"}, {"name": "region"}],
}


def fields(problems: list[tuple[str, str]]) -> set[str]:
    return {field for field, _ in problems}


@pytest.mark.parametrize(
    ("kind", "definition", "config", "origin"),
    [
        ("mcp", {}, {"protocol": "http", "url": "https://MCP.Example.com/mcp"}, "https://mcp.example.com:443"),
        ("mcp", {}, {"url": "http://example.com./a?b=c"}, "http://example.com:80"),
        ("mcp", {}, {"protocol": "sse", "url": "https://example.com:8443"}, "https://example.com:8443"),
        ("mcp", {}, {"url": "https://xn--bcher-kva.example/mcp"}, "https://xn--bcher-kva.example:443"),
        ("mcp", {}, {"url": "https://[2606:2800:21f:0:0:0:0:1]/"}, "https://[2606:2800:21f::1]:443"),
        ("mcp", {}, {"command": "npx", "args": ["-y", "a b"]}, 'stdio:["npx","-y","a b"]'),
        ("mcp", {"mcp": {"protocol": "http", "url": "https://mcp.acme.io"}}, {}, "https://mcp.acme.io:443"),
        ("mcp", {"mcp": {"command": "npx", "args": ["x"]}}, {}, 'stdio:["npx","x"]'),
        ("vendor", {}, {"api_url": "https://api.example.com/v1"}, "https://api.example.com:443"),
        ("vendor", TEMPLATED, {"subdomain": "acme", "region": "eu"}, "https://acme.example.com:443"),
        ("vendor", TEMPLATED, {"api_url": "https://api.own.example"}, "https://api.own.example:443"),
        ("custom", {}, {"host": "Git.Example.com", "port": 2222}, "ssh://git.example.com:2222"),
        ("vendor", {"ssh": {"port": 2200}}, {"host": "git.example.com"}, "ssh://git.example.com:2200"),
        ("custom", {}, {"api_url": "https://api.example.com"}, "https://api.example.com:443"),
        ("custom", {}, {"url": "https://api.example.com"}, "https://api.example.com:443"),
    ],
)
def test_a_configuration_leads_to_one_canonical_destination(
    kind: str, definition: dict[str, Any], config: dict[str, Any], origin: str
) -> None:
    assert destination_of(a_type(kind, definition), config, "api_key") == origin


def test_arguments_cannot_be_shifted_between_words_without_changing_the_destination() -> None:
    def destination(*words: str) -> str:
        return destination_of(a_type(), {"command": words[0], "args": list(words[1:])}, "env.KEY")

    assert len({destination("run", "a b"), destination("run", "a", "b"), destination("run", 'a","b')}) == 3


def test_what_the_token_endpoint_needs_is_sealed_to_the_token_endpoint() -> None:
    definition = {**TEMPLATED, "auth": {"oauth": {"token_url": "https://{subdomain}.login.example/token"}}}
    config = {"subdomain": "acme", "region": "eu"}

    def destination(credential: str) -> str:
        return destination_of(a_type("vendor", definition), config, credential)

    assert destination("access_token") == "https://acme.example.com:443"
    assert {destination(name) for name in ("refresh_token", "client_secret", "client_id")} == {
        "https://acme.login.example:443"
    }


def test_without_a_token_endpoint_of_its_type_everything_goes_to_the_endpoint() -> None:
    assert destination_of(a_type(), {"url": "https://a.example"}, "refresh_token") == "https://a.example:443"


@pytest.mark.parametrize(
    ("kind", "config", "field"),
    [
        ("mcp", {}, "connection_config.protocol"),
        ("mcp", {"protocol": "websocket", "url": "https://a.example"}, "connection_config.protocol"),
        ("mcp", {"protocol": ["http"]}, "connection_config.protocol"),
        ("mcp", {"protocol": "http"}, "connection_config.url"),
        ("mcp", {"protocol": "stdio"}, "connection_config.command"),
        ("vendor", {}, "connection_config.api_url"),
        ("vendor", {"host": ""}, "connection_config.host"),
        ("vendor", {"host": "a.example", "port": 0}, "connection_config.port"),
        ("vendor", {"host": "a.example", "port": True}, "connection_config.port"),
    ],
)
def test_an_incomplete_configuration_names_the_field(kind: str, config: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        endpoint_of(a_type(kind), config)

    assert field in fields(list(caught.value.errors))
    assert field in fields(config_problems(a_type(kind), "none", config))


BAD_URLS = [
    "ftp://a.example",
    "https://",
    "https://user:pass@a.example",
    "https://a.example@b.example",
    "https://a.example\\@b.example",
    "https://a.example:0",
    "https://a.example:65536",
    "https://a.example:",
    "https://a..example",
    "https://a.example:443:80",
    "https://a%2eexample",
    "https://bücher.example",
    "https://a．example",
    "https://a.example/\n",
    "https://a.example/ b",
    "https://a.example/#x",
    "https://[::1",
    "https://[::1]x",
    "https://[1.2.3.4]",
    " https://a.example",
    "https:a.example",
    "//a.example",
    "https://a.example/?access_token=1",
    "https://a.example/?x=1&api%5Fkey=1",
    "https://a.example/" + "x" * 2100,
    17,
]


@pytest.mark.parametrize("url", BAD_URLS, ids=[str(url)[:40] for url in BAD_URLS])
def test_a_url_that_could_be_read_in_two_ways_is_refused(url: Any) -> None:
    assert fields(config_problems(a_type(), "none", {"protocol": "http", "url": url})) == {"connection_config.url"}


@given(st.text(alphabet=st.sampled_from("aZ0.-_~%:/?#[]@!$&'()*+,;=\\ \t\n\x00é．。"), max_size=24))
def test_an_accepted_url_means_the_same_host_to_every_parser(rest: str) -> None:
    url = "https://" + rest
    try:
        endpoint = endpoint_of(a_type(), {"url": url})
    except Invalid:
        return

    theirs = httpx2.URL(url)
    assert (theirs.host.rstrip("."), theirs.port or 443) == ((endpoint.host or "").strip("[]"), endpoint.port)
    assert (urlsplit(url).hostname or "").rstrip(".") == (endpoint.host or "").strip("[]")


ESCAPES = [
    "evil.com", "evil.com/", "a/b", "a\\b", "a@evil.com", "a#", "a?", "a%2e", "a:1", "..", ".", "", "-a", "a-",
    "a\n", "a\r\n", "a b", "a．evil．com", "a。com", "ａ", "{region}", "a\x00", "\u200ba", ["a"], {"a": 1}, 5, None,
]  # fmt: skip


@pytest.mark.parametrize("place", ["subdomain", "region"])
@pytest.mark.parametrize("value", ESCAPES, ids=repr)
def test_no_value_leaves_its_place_in_a_template(place: str, value: Any) -> None:
    template = {"base_url": "https://{subdomain}.example.com/{region}/v1"}
    config = {"subdomain": "acme", "region": "eu", place: value}

    problems = config_problems(a_type("vendor", template), "none", config)

    assert problems
    assert all(field.startswith("connection_config") for field, _ in problems)
    with pytest.raises(Invalid):
        destination_of(a_type("vendor", template), config, "api_key")


@given(subdomain=st.text(max_size=20), region=st.text(max_size=20))
def test_whatever_is_filled_in_the_host_stays_under_the_vendor(subdomain: str, region: str) -> None:
    try:
        endpoint = endpoint_of(a_type("vendor", TEMPLATED), {"subdomain": subdomain, "region": region})
    except Invalid:
        return

    url = httpx2.URL(str(endpoint.url))
    assert url.host.count(".") == 2
    assert url.host.endswith(".example.com")
    assert url.path == f"/{region}/v1"


def test_a_value_must_match_the_pattern_of_its_field() -> None:
    problems = config_problems(a_type("vendor", TEMPLATED), "none", {"subdomain": "ACME", "region": "eu"})

    assert fields(problems) == {"connection_config.subdomain"}


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
    ("policy", "definition", "refused"),
    [("off", {}, True), ("off", CATALOGUE, True), ("catalogue", {}, True), ("catalogue", CATALOGUE, False),
     ("any", {}, False), ("any", CATALOGUE, False)],
)  # fmt: skip
def test_the_policy_decides_which_commands_run(policy: str, definition: dict[str, Any], refused: bool) -> None:
    kind = a_type("mcp", definition)
    endpoint = endpoint_of(kind, {} if definition else {"command": "npx"})

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
