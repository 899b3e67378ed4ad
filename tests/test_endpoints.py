"""Where a configuration leads, and what its credentials are sealed to."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.errors import Invalid
from chalicelib.services.endpoints import (
    config_problems,
    destination_of,
    endpoint_of,
    token_url_of,
)
from tests.peers.targets import a_type, fields

TEMPLATED = {
    "base_url": "https://{subdomain}.example.com/{region}/v1",
    "config_fields": [{"name": "subdomain", "pattern": "^[a-z0-9-]+$"}, {"name": "region"}],
}


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
        ("mcp", {}, {"command": "npx", "env": {}}, 'stdio:["npx"]'),
        ("mcp", {}, {"command": "npx", "env": {"B": "2", "A": "é"}}, 'stdio:["npx"]{"A":"\\u00e9","B":"2"}'),
        ("vendor", {}, {"api_url": "https://api.example.com/v1"}, "https://api.example.com:443"),
        ("vendor", TEMPLATED, {"subdomain": "acme", "region": "eu"}, "https://acme.example.com:443"),
        ("vendor", TEMPLATED, {"api_url": "https://api.own.example"}, "https://api.own.example:443"),
        ("custom", {}, {"host": "Git.Example.com", "port": 2222}, "ssh://git.example.com:2222"),
        ("vendor", {"ssh": {"port": 2200}}, {"host": "git.example.com"}, "ssh://git.example.com:2200"),
        ("custom", {}, {"api_url": "https://api.example.com"}, "https://api.example.com:443"),
        ("custom", {}, {"url": "https://api.example.com"}, "https://api.example.com:443"),
        ("custom", {}, {"protocol": "ssh", "host": "git.example.com"}, "ssh://git.example.com:22"),
        ("custom", {}, {"host": "2001:DB8::0:1"}, "ssh://[2001:db8::1]:22"),
        ("vendor", {"base_url": "https://{host}.example.com"}, {"host": "acme"}, "https://acme.example.com:443"),
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


def test_a_variable_that_says_where_a_command_connects_is_part_of_the_destination() -> None:
    """Whoever steals a session could otherwise send the sealed key of a server to an API_URL of their own."""

    def destination(**env: str) -> str:
        return destination_of(a_type(), {"command": "npx", "args": ["x"], "env": env}, "env.API_KEY")

    found = {destination(), destination(API_URL="https://a.example"), destination(API_URL="https://b.example")}
    assert len(found) == 3
    assert destination(A="1", B="2") == destination(B="2", A="1")
    assert destination(A='1","B":"2') != destination(A="1", B="2")


def test_the_longest_command_line_is_a_destination_that_can_be_stored() -> None:
    config = {"command": "npx", "args": ["a" * 4_000] * 3, "env": {"A": "é" * 1_000}}
    longest = destination_of(a_type(), config, "api_key")
    other = destination_of(a_type(), {**config, "env": {"A": "é" * 999}}, "api_key")

    assert config_problems(a_type(), "none", config) == []
    assert (len(longest) <= 8_192, longest != other) == (True, True)


def test_what_the_token_endpoint_needs_is_sealed_to_it_and_to_where_the_tokens_go() -> None:
    definition = {**TEMPLATED, "auth": {"oauth": {"token_url": "https://{subdomain}.login.example/token"}}}
    config = {"subdomain": "acme", "region": "eu"}

    def destination(credential: str) -> str:
        return destination_of(a_type("vendor", definition), config, credential)

    assert destination("access_token") == "https://acme.example.com:443"
    assert {destination(name) for name in ("refresh_token", "client_secret", "client_id")} == {
        "https://acme.login.example:443 for https://acme.example.com:443"
    }


def test_a_token_url_of_the_settings_counts_where_the_type_names_none() -> None:
    config = {"url": "https://a.example", "token_url": "https://Login.example/token"}
    own = {"auth": {"oauth": {"token_url": "https://own.example/token"}}}

    assert destination_of(a_type(), config, "client_secret") == "https://login.example:443 for https://a.example:443"
    assert destination_of(a_type(definition=own), config, "client_secret").startswith("https://own.example:443 ")
    assert destination_of(a_type(), config, "access_token") == "https://a.example:443"
    assert token_url_of(a_type(), config) == "https://Login.example/token"
    assert token_url_of(a_type(), {"url": "https://a.example"}) is None


def test_a_token_url_is_checked_as_any_other_url() -> None:
    config = {"url": "https://a.example", "token_url": "https://a:b@login.example"}

    assert [field for field, _ in config_problems(a_type(), "oauth", config)] == ["connection_config.token_url"]
    assert config_problems(a_type(), "none", config) == []
    with pytest.raises(Invalid):
        destination_of(a_type(), config, "refresh_token")


def test_the_longest_command_line_with_a_token_url_is_a_destination_that_can_be_stored() -> None:
    def destination(argument: str) -> str:
        config = {"command": "npx", "args": [argument * 2_700] * 3, "token_url": "https://login.example"}
        return destination_of(a_type(), config, "refresh_token")

    assert len(destination("a")) <= 8_192
    assert destination("a") != destination("b")


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
        ("custom", {"host": "a.example", "port": 65_536}, "connection_config.port"),
        ("custom", {"host": "a.example", "port": "22"}, "connection_config.port"),
        ("custom", {"protocol": "ssh"}, "connection_config.host"),
        ("custom", {"host": "user@a.example"}, "connection_config.host"),
        ("custom", {"host": "a.example:22"}, "connection_config.host"),
        ("custom", {"host": "ssh://a.example"}, "connection_config.host"),
        ("custom", {"host": ["a.example"]}, "connection_config.host"),
        ("mcp", {"protocol": "ssh", "host": "a.example"}, "connection_config.protocol"),
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
