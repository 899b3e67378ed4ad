"""One request to a token endpoint: how it is asked, what its answer means, and how far it can go."""

from __future__ import annotations

import json
import secrets
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import pytest

from chalicelib.egress.guard import Guard
from chalicelib.egress.policy import Policy
from chalicelib.model import CheckResult, IssuedTokens, Secret, Target, Verdict
from chalicelib.probes.token_endpoint import TokenEndpoint, ask_for_tokens
from tests.egress_world import Case, World, holes, no_real_connection, shared_cases
from tests.peers.oauth import Provider
from tests.peers.raw import Loop, background, http_server, listening, read_request, response
from tests.peers.targets import LOOPBACK, a_target

REFRESH, SECRET = f"refresh-{secrets.token_urlsafe(24)}", f"secret-{secrets.token_urlsafe(24)}"
GIVEN = {"refresh_token": REFRESH, "client_id": "the-app", "client_secret": SECRET}


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with background() as running:
        yield running


def a_client(token_url: str, given: Mapping[str, str] = GIVEN, **oauth: Any) -> Target:
    """A vendor's type that renews tokens there."""
    return a_target(
        "vendor",
        {"api_url": "https://api.example.com/v1"},
        method="oauth",
        secrets=given,
        definition={"auth": {"oauth": {"token_url": token_url, **oauth}}},
    )


def asked(target: Target, grant: Any = "refresh_token", *, total_s: float = 5, policy: Policy = LOOPBACK) -> Any:
    endpoint = TokenEndpoint(Guard(policy, connect_s=1), connect_s=1, total_s=total_s)
    return ask_for_tokens(endpoint, target, grant)


def answered(loop: Loop, status: int, body: Any = b"", headers: Mapping[str, str] | None = None, **given: Any) -> Any:
    """What comes of an endpoint that always answers so."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with http_server(loop, lambda _: response(status, raw, dict(headers or {}))) as server:
        return asked(a_client(f"{server.url}/token", **given))


def test_a_refresh_token_is_changed_for_new_tokens() -> None:
    with Provider() as provider:
        _, refresh = provider.sign_in()
        before = datetime.now(UTC)
        issued = asked(a_client(provider.token_url, _given(provider, refresh_token=refresh)))

    assert isinstance(issued, IssuedTokens)
    assert issued.access_token.reveal() in provider.sign_ins[0].access_tokens
    assert issued.refresh_token == Secret(str(provider.sign_ins[0].refresh_token))
    assert issued.expires_at is not None
    assert timedelta(0) <= issued.expires_at - before - timedelta(hours=1) < timedelta(seconds=5)
    assert provider.asked[0].fields == {"grant_type": "refresh_token", "refresh_token": refresh}
    assert provider.asked[0].headers["accept"] == "application/json"


def test_a_client_gets_a_token_of_its_own() -> None:
    with Provider() as provider:
        issued = asked(a_client(provider.token_url, _given(provider), scopes=["read", "write"]), "client_credentials")

    assert isinstance(issued, IssuedTokens)
    assert provider.asked[0].fields == {"grant_type": "client_credentials", "scope": "read write"}


def test_scopes_of_the_configuration_come_before_those_of_the_type() -> None:
    with Provider() as provider:
        target = a_client(provider.token_url, _given(provider), scopes=["read", "write"])
        asked(
            Target(target.type, target.auth_method, {**target.config, "scopes": ["mine"]}, target.secrets),
            "client_credentials",
        )

    assert provider.asked[0].fields["scope"] == "mine"


def test_a_token_url_stands_in_the_settings_where_the_type_names_none() -> None:
    with Provider() as provider:
        _, refresh = provider.sign_in()
        config = {"api_url": provider.api_url, "token_url": provider.token_url}
        given = _given(provider, refresh_token=refresh)

        assert isinstance(asked(a_target("vendor", config, method="oauth", secrets=given)), IssuedTokens)


def _given(provider: Provider, **more: str) -> dict[str, str]:
    return {"client_id": provider.client[0], "client_secret": provider.client[1], **more}


ODD = {"client_id": "an app:1", "client_secret": "s€cret+/&=", "refresh_token": "a+b/c="}


@pytest.mark.parametrize(
    ("way", "given", "fields", "authorization"),
    [
        ("basic", GIVEN, {"refresh_token": REFRESH}, f"the-app:{SECRET}"),
        ("basic", ODD, {"refresh_token": "a+b/c="}, "an+app%3A1:s%E2%82%ACcret%2B%2F%26%3D"),
        ("body", GIVEN, GIVEN, None),
        ("body", ODD, ODD, None),
        ("json", GIVEN, GIVEN, None),
        (
            None,
            {"client_id": "public", "refresh_token": REFRESH},
            {"client_id": "public", "refresh_token": REFRESH},
            None,
        ),
        (None, {"refresh_token": REFRESH}, {"refresh_token": REFRESH}, None),
    ],
)
def test_the_client_shows_itself_as_it_is_documented(
    loop: Loop, way: str | None, given: dict[str, str], fields: dict[str, str], authorization: str | None
) -> None:
    with http_server(loop, lambda _: response(200, b'{"access_token": "new"}')) as server:
        asked(a_client(server.url, given, **({"client_auth": way} if way else {})))
        (seen,) = server.requests

    sent = json.loads(seen.body) if way == "json" else dict(parse_qsl(seen.body.decode()))
    assert sent == {"grant_type": "refresh_token", **fields}
    basic = authorization and "Basic " + b64encode(authorization.encode()).decode()
    assert seen.headers.get("authorization") == basic


@pytest.mark.parametrize("understood", ["basic", "body"])
def test_where_no_way_is_documented_a_refused_client_shows_itself_the_other_way(understood: str) -> None:
    with Provider() as provider:
        provider.client_ways = {understood}
        _, refresh = provider.sign_in()
        issued = asked(a_client(provider.token_url, _given(provider, refresh_token=refresh)))

    assert isinstance(issued, IssuedTokens)
    assert len(provider.asked) == (1 if understood == "basic" else 2)


def test_a_documented_way_is_the_only_one_tried() -> None:
    with Provider() as provider:
        provider.client_ways = {"basic"}
        _, refresh = provider.sign_in()
        refused = asked(a_client(provider.token_url, _given(provider, refresh_token=refresh), client_auth="body"))

    assert isinstance(refused, CheckResult)
    assert (refused.verdict, len(provider.asked)) == (Verdict.MISCONFIGURED, 1)


@pytest.mark.parametrize(
    ("body", "lives_s"),
    [
        ({"expires_in": 3600}, 3600),
        ({"expires_in": "3600"}, 3600),
        ({"expires_in": 3599.9}, 3599),
        ({"expires_in": 1}, 1),
        ({}, None),
        ({"expires_in": None}, None),
        ({"expires_in": 0}, None),
        ({"expires_in": -1}, None),
        ({"expires_in": True}, None),
        ({"expires_in": 10**12}, None),
        ({"expires_in": 1e300}, None),
        ({"expires_in": "９"}, None),
        ({"expires_in": "soon"}, None),
        ({"expires_in": [3600]}, None),
    ],
    ids=str,
)
def test_the_end_of_a_token_is_what_the_answer_says_within_reason(
    loop: Loop, body: dict[str, Any], lives_s: int | None
) -> None:
    issued = answered(loop, 200, {"access_token": "new", **body})

    ends_in = None if issued.expires_at is None else (issued.expires_at - datetime.now(UTC)).total_seconds()
    assert (ends_in is None) == (lives_s is None)
    assert ends_in is None or lives_s is None or lives_s - 5 < ends_in <= lives_s


@pytest.mark.parametrize("refresh", [{}, {"refresh_token": ""}, {"refresh_token": None}, {"refresh_token": "a b"}])
def test_without_a_new_refresh_token_there_is_none(loop: Loop, refresh: dict[str, Any]) -> None:
    issued = answered(loop, 200, {"access_token": "new", **refresh})

    assert issued.refresh_token is None


@pytest.mark.parametrize("kind", ["bearer", "Bearer", "bot", None])
def test_tokens_that_are_shown_as_they_are_are_taken(loop: Loop, kind: str | None) -> None:
    assert isinstance(answered(loop, 200, {"access_token": "new", "token_type": kind}), IssuedTokens)


MEANINGS = [
    (400, {"error": "invalid_grant"}, Verdict.NEEDS_REAUTH, "Sign in again."),
    (200, {"error": "bad_refresh_token"}, Verdict.NEEDS_REAUTH, "Sign in again."),
    (200, {"ok": False, "error": "invalid_refresh_token"}, Verdict.NEEDS_REAUTH, "Sign in again."),
    (401, {"error": "invalid_client"}, Verdict.MISCONFIGURED, "'client_secret'"),
    (400, {"error": "unauthorized_client"}, Verdict.MISCONFIGURED, "'client_secret'"),
    (200, {"error": "incorrect_client_credentials"}, Verdict.MISCONFIGURED, "'client_secret'"),
    (400, {"error": "invalid_scope"}, Verdict.MISCONFIGURED, "scopes"),
    (400, {"error": "unsupported_grant_type"}, Verdict.MISCONFIGURED, "token_url"),
    (429, {"error": "invalid_grant"}, Verdict.RATE_LIMITED, "Nothing is wrong"),
    (429, {}, Verdict.RATE_LIMITED, "try again"),
    (400, {"error": "slow_down"}, Verdict.RATE_LIMITED, "try again"),
    (500, {"error": "invalid_grant"}, Verdict.PROVIDER_DOWN, "not to blame"),
    (503, b"<html>", Verdict.PROVIDER_DOWN, "later"),
    (400, {"error": "temporarily_unavailable"}, Verdict.PROVIDER_DOWN, "later"),
    (400, {"error": "something_new"}, Verdict.PROTOCOL, "Check the token URL"),
    (400, {"error": {"code": 190}}, Verdict.PROTOCOL, "Check the token URL"),
    (401, b"no", Verdict.PROTOCOL, "Check the token URL"),
    (403, b"no", Verdict.PROTOCOL, "Check the token URL"),
    (404, b"no", Verdict.PROTOCOL, "Check the token URL"),
    (200, b"<html>", Verdict.PROTOCOL, "Check the token URL"),
    (200, b"access_token=new&token_type=bearer", Verdict.PROTOCOL, "Check the token URL"),
    (200, {"access_token": ""}, Verdict.PROTOCOL, "Check the token URL"),
    (200, {"access_token": 7}, Verdict.PROTOCOL, "Check the token URL"),
    (200, {"access_token": "a\r\nb"}, Verdict.PROTOCOL, "Check the token URL"),
    (200, {"access_token": "x" * 60_001}, Verdict.PROTOCOL, "Check the token URL"),
    (200, b'{"access_token": "new", "expires_in": NaN}', Verdict.PROTOCOL, "Check the token URL"),
    (200, b'["access_token"]', Verdict.PROTOCOL, "Check the token URL"),
    (200, b"[" * 60_000, Verdict.PROTOCOL, "Check the token URL"),
    (200, {"access_token": "new", "token_type": "DPoP"}, Verdict.PROTOCOL, "another auth method"),
    (200, b"x" * 65_537, Verdict.TOO_LARGE, "larger"),
]


@pytest.mark.parametrize(
    ("status", "body", "verdict", "advice"),
    MEANINGS,
    ids=[f"{status} {str(body)[:30]}" for status, body, *_ in MEANINGS],
)
def test_an_answer_without_tokens_says_what_it_proves_and_what_to_do(
    loop: Loop, status: int, body: Any, verdict: Verdict, advice: str
) -> None:
    result = answered(loop, status, body)

    assert isinstance(result, CheckResult)
    assert result.verdict is verdict
    assert (result.error_message or "").startswith("Renewing the sign-in at the token URL failed. ")
    assert advice in (result.error_message or "")
    assert not result.steps[-1].ok


def test_a_limit_and_an_outage_say_how_long_to_wait(loop: Loop) -> None:
    for status in (429, 503, 403):
        assert answered(loop, status, b"", {"Retry-After": "17"}).retry_after_s == 17
    assert answered(loop, 403, b"", {"Retry-After": "17"}).verdict is Verdict.RATE_LIMITED


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed_with_a_refresh_token(loop: Loop, status: int) -> None:
    with Provider() as other:
        result = answered(loop, status, b"", {"Location": other.token_url})

    assert (result.verdict, other.asked) == (Verdict.PROTOCOL, [])
    assert "redirects" in result.error_message


def test_nothing_of_an_answer_is_quoted_but_the_words_of_the_standard(loop: Loop) -> None:
    """An endpoint may echo what it was sent, or send tokens in an answer that cannot be used."""
    canary = f"canary-{secrets.token_hex(8)}"
    pair = b64encode(f"the-app:{SECRET}".encode()).decode()
    bodies: list[tuple[int, Any]] = [
        (400, {"error": "invalid_grant", "error_description": f"{REFRESH} {SECRET} {pair} {canary}"}),
        (400, {"error": canary}),
        (400, canary.encode()),
        (200, {"access_token": canary, "token_type": "mac"}),
        (200, {"access_token": f"{canary} \n", "refresh_token": canary}),
    ]
    for status, body in bodies:
        result = answered(loop, status, body)
        shown = f"{result} {result.as_json()}"
        assert not [word for word in (canary, REFRESH, SECRET, pair) if word in shown]


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/token",
        "http://10.0.0.1/token",
        "http://[::1]:8000/token",
        "http://metadata.internal/token",
    ],
)
def test_a_forbidden_address_is_not_asked(url: str) -> None:
    result = asked(a_client(url), policy=Policy())

    assert result.verdict is Verdict.BLOCKED
    assert [step.name for step in result.steps] == ["policy"]


@pytest.mark.parametrize("case", shared_cases(), ids=lambda case: case["id"])
def test_no_request_for_tokens_opens_a_forbidden_socket(case: Case) -> None:
    world = World(case)
    endpoint = TokenEndpoint(Guard(Policy(), resolver=world.resolve, network=world), connect_s=1, total_s=5)

    with no_real_connection() as attempts:
        result = ask_for_tokens(endpoint, a_client(case["url"]), "refresh_token")

    assert isinstance(result, CheckResult)
    assert (attempts, holes(case, world.opened)) == ([], [])
    assert world.responses <= 1
    assert bool(world.opened) is (case["allowed"] or case["category"] == "redirect")


def test_a_refused_connection_blames_nobody(loop: Loop) -> None:
    with http_server(loop, lambda _: response(200)) as server:
        pass

    result = asked(a_client(server.url))

    assert (result.verdict, result.steps[-1].name) == (Verdict.NETWORK, "tcp")


def test_an_endpoint_that_drips_is_left_at_the_deadline(loop: Loop) -> None:
    async def drip(reader: Any, writer: Any) -> None:
        import asyncio

        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    with listening(loop, drip) as server:
        began = time.monotonic()
        result = asked(a_client(server.url), total_s=0.6)

    assert result.verdict is Verdict.TIMEOUT
    assert time.monotonic() - began < 1.1


def test_settings_that_lead_to_no_token_url_are_named() -> None:
    for definition, config in (
        ({}, {"token_url": "ftp://login.example"}),
        ({}, {}),
        ({"auth": {"oauth": {"token_url": "https://{shop}.example/token"}}}, {"shop": "a.b"}),
    ):
        target = a_target(
            "vendor", {"api_url": "https://a.example", **config}, method="oauth", secrets=GIVEN, definition=definition
        )
        assert asked(target).verdict is Verdict.MISCONFIGURED
