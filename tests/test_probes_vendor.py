"""Vendor APIs: where each credential is put, what the answer means, and what it proves. Against real HTTP servers."""

from __future__ import annotations

import json
import secrets
from base64 import b64encode
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from time import time
from typing import Any

import pytest

from chalicelib.model import CheckResult, Verdict
from chalicelib.probes import run_check
from tests.peers.raw import Loop, Request, background, http_server, response
from tests.peers.targets import a_prober, a_target
from tests.peers.vendor import vendor_server

KEY = secrets.token_urlsafe(24)


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with background() as running:
        yield running


def steps(result: CheckResult) -> list[tuple[str, bool]]:
    return [(step.name, step.ok) for step in result.steps]


def definition(method: str = "api_key", **changes: Any) -> dict[str, Any]:
    place = changes.pop("place", None)
    auth = {method: {"place": place}} if place else {method: {}}
    verify = {"method": "GET", "path": "/v1/me", **changes.pop("verify", {})}
    return {"auth": auth, "verify": verify, **changes}


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


PLACES = [
    ("bearer", {"in": "bearer"}, lambda headers, query: headers.get("authorization") == f"Bearer {KEY}"),
    ("default", None, lambda headers, query: headers.get("authorization") == f"Bearer {KEY}"),
    ("header", {"in": "header", "name": "X-Api-Key"}, lambda headers, query: headers.get("x-api-key") == KEY),
    (
        "prefix",
        {"in": "header", "name": "Authorization", "prefix": "Token "},
        lambda headers, query: headers.get("authorization") == f"Token {KEY}",
    ),
    ("query", {"in": "query", "name": "key"}, lambda headers, query: query == {"key": KEY, "lang": "en"}),
    ("user", {"in": "basic_user"}, lambda headers, query: headers.get("authorization") == basic(KEY, "")),
    (
        "password",
        {"in": "basic_password", "name": "api"},
        lambda headers, query: headers.get("authorization") == basic("api", KEY),
    ),
]


@pytest.mark.parametrize(("place", "lets_in"), [case[1:] for case in PLACES], ids=[case[0] for case in PLACES])
def test_the_key_is_put_where_the_template_says(loop: Loop, place: Any, lets_in: Any) -> None:
    entry = definition(place=place, verify={"query": {"lang": "en"}})
    with vendor_server(loop, lets_in) as server:
        for key, verdict in ((KEY, Verdict.OK), ("wrong-" + KEY, Verdict.AUTH_REJECTED)):
            target = a_target(
                "vendor", {"api_url": server.url}, method="api_key", secrets={"api_key": key}, definition=entry
            )
            assert run_check(a_prober(), target).verdict is verdict


@pytest.mark.parametrize(
    ("method", "given", "shown"),
    [
        ("basic", {"username": "ada", "password": KEY}, {"authorization": basic("ada", KEY)}),
        ("basic", {"username": "ädä", "password": "ü:" + KEY}, {"authorization": basic("ädä", "ü:" + KEY)}),
        ("oauth", {"access_token": KEY}, {"authorization": f"Bearer {KEY}"}),
        ("jwt", {"jwt": KEY}, {"authorization": f"Bearer {KEY}"}),
        ("none", {"header.X-Extra": KEY}, {"x-extra": KEY}),
        (
            "api_key",
            {"api_key": KEY, "header.X-Extra": "more"},
            {"authorization": f"Bearer {KEY}", "x-extra": "more"},
        ),
    ],
)
def test_every_method_shows_its_credentials(
    loop: Loop, method: str, given: dict[str, str], shown: dict[str, str]
) -> None:
    with vendor_server(loop, lambda headers, query: shown.items() <= headers.items()) as server:
        config = {"api_url": f"{server.url}/v1/me", "headers": {"X-Plain": "1"}}
        result = run_check(a_prober(), a_target("vendor", config, method=method, secrets=given))

        assert result.verdict is Verdict.OK
        assert server.requests[0].headers["x-plain"] == "1"


def test_without_credentials_an_open_api_is_fine(loop: Loop) -> None:
    with vendor_server(loop, lambda headers, query: "authorization" not in headers) as server:
        result = run_check(a_prober(), a_target("vendor", {"api_url": f"{server.url}/v1/me"}))

    assert result.success
    assert steps(result) == [("policy", True), ("tcp", True), ("auth", True), ("call", True)]
    assert result.error_message is None


def test_the_answer_proves_what_the_template_says(loop: Loop) -> None:
    entry = definition(
        proves={"account": {"path": "user.name"}, "scopes": {"header": "X-OAuth-Scopes"}, "nothing": {"path": "a.b"}}
    )
    with vendor_server(loop, lambda headers, query: True) as server:
        target = a_target(
            "vendor", {"api_url": server.url}, method="api_key", secrets={"api_key": KEY}, definition=entry
        )
        result = run_check(a_prober(), target)

    assert result.capabilities == {
        "account": "Ada",
        "scopes": "read, write",
        "nothing": None,
        "rate_limit": {"limit": "100", "remaining": "99"},
    }


def answering(loop: Loop, status: int, body: Any = b"{}", headers: dict[str, str] | None = None) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http_server(loop, lambda request: response(status, data, headers))


def judged(
    loop: Loop, status: int, body: Any = b"{}", headers: dict[str, str] | None = None, **how: Any
) -> CheckResult:
    with answering(loop, status, body, headers) as server:
        how.setdefault("method", "api_key")
        how.setdefault("secrets", {"api_key": KEY})
        return run_check(a_prober(), a_target("vendor", {"api_url": server.url}, **how))


@pytest.mark.parametrize(
    ("status", "headers", "verdict", "step"),
    [
        (200, {}, Verdict.OK, "call"),
        (204, {}, Verdict.OK, "call"),
        (400, {}, Verdict.PROTOCOL, "protocol"),
        (401, {}, Verdict.AUTH_REJECTED, "auth"),
        (401, {"WWW-Authenticate": 'Bearer error="invalid_token"'}, Verdict.AUTH_REJECTED, "auth"),
        (403, {}, Verdict.FORBIDDEN_SCOPE, "auth"),
        (403, {"X-RateLimit-Remaining": "0"}, Verdict.RATE_LIMITED, "call"),
        (403, {"Retry-After": "60"}, Verdict.RATE_LIMITED, "call"),
        (404, {}, Verdict.PROTOCOL, "protocol"),
        (405, {}, Verdict.PROTOCOL, "protocol"),
        (429, {}, Verdict.RATE_LIMITED, "call"),
        (429, {"Retry-After": "17"}, Verdict.RATE_LIMITED, "call"),
        (500, {}, Verdict.PROVIDER_DOWN, "protocol"),
        (502, {}, Verdict.PROVIDER_DOWN, "protocol"),
        (503, {"Retry-After": "17"}, Verdict.PROVIDER_DOWN, "protocol"),
    ],
)
def test_a_status_means_one_thing(
    loop: Loop, status: int, headers: dict[str, str], verdict: Verdict, step: str
) -> None:
    result = judged(loop, status, b"" if status == 204 else b"{}", headers)

    assert (result.verdict, result.steps[-1].name) == (verdict, step)
    assert result.success or result.steps[-1].detail == f"HTTP {status}, they say: “{{}}”"
    if headers.get("Retry-After") == "17":
        assert result.retry_after_s == 17


@pytest.mark.parametrize(
    ("method", "secrets", "status", "verdict"),
    [
        ("oauth", {"access_token": KEY}, 401, Verdict.NEEDS_REAUTH),
        ("oauth", {"access_token": KEY}, 403, Verdict.FORBIDDEN_SCOPE),
        ("none", {}, 401, Verdict.AUTH_REJECTED),
        ("none", {}, 403, Verdict.AUTH_REJECTED),
        ("basic", {"username": "a", "password": "b"}, 401, Verdict.AUTH_REJECTED),
    ],
)
def test_what_is_blamed_depends_on_what_was_shown(
    loop: Loop, method: str, secrets: dict[str, str], status: int, verdict: Verdict
) -> None:
    assert judged(loop, status, method=method, secrets=secrets).verdict is verdict


def test_the_template_may_give_statuses_other_meanings(loop: Loop) -> None:
    entry = definition(verify={"accepted": [418], "refused": [400], "missing_scope": [402], "limited": [420]})
    verdicts = {status: judged(loop, status, definition=entry).verdict for status in (418, 400, 402, 420, 200)}

    assert verdicts == {
        418: Verdict.OK,
        400: Verdict.AUTH_REJECTED,
        402: Verdict.FORBIDDEN_SCOPE,
        420: Verdict.RATE_LIMITED,
        200: Verdict.PROTOCOL,
    }


BODY_RULES = {
    "accepted_when": {"path": "ok", "equals": True},
    "body_verdicts": [
        {"path": "error", "in": ["invalid_auth"], "verdict": "auth_rejected"},
        {"path": "error", "in": ["token_expired"], "verdict": "needs_reauth"},
        {"path": "error", "in": ["ratelimited"], "verdict": "rate_limited"},
        {"path": "error", "in": ["missing_scope"], "verdict": "forbidden_scope"},
        {"path": "error", "in": ["down"], "verdict": "provider_down"},
        {"path": "error", "in": ["odd"], "verdict": "protocol"},
    ],
}


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ({"ok": True}, Verdict.OK),
        ({"ok": False, "error": "invalid_auth"}, Verdict.AUTH_REJECTED),
        ({"ok": False, "error": "token_expired"}, Verdict.NEEDS_REAUTH),
        ({"ok": False, "error": "ratelimited"}, Verdict.RATE_LIMITED),
        ({"ok": False, "error": "missing_scope"}, Verdict.FORBIDDEN_SCOPE),
        ({"ok": False, "error": "down"}, Verdict.PROVIDER_DOWN),
        ({"ok": False, "error": "odd"}, Verdict.PROTOCOL),
        ({"ok": False, "error": "something new"}, Verdict.PROTOCOL),
        ([1, 2], Verdict.PROTOCOL),
        (b"<html>sorry</html>", Verdict.PROTOCOL),
        (b"[" * 100_000, Verdict.PROTOCOL),
    ],
)
def test_the_body_is_judged_where_the_status_tells_nothing(loop: Loop, body: Any, verdict: Verdict) -> None:
    assert judged(loop, 200, body, definition=definition(verify=BODY_RULES)).verdict is verdict


def test_a_missing_credential_is_named_and_nothing_is_sent(loop: Loop) -> None:
    with answering(loop, 200) as server:
        result = run_check(a_prober(), a_target("vendor", {"api_url": server.url}, method="basic", secrets={}))

        assert result.verdict is Verdict.MISCONFIGURED
        assert "'username'" in str(result.error_message)
        assert server.connections == 0


@pytest.mark.parametrize("key", ["broken\nkey", "key ", " key", "schlüssel", "a\x00b", "a\r\nX-Evil: 1"])
def test_a_key_that_cannot_be_sent_is_not_sent_in_part(loop: Loop, key: str) -> None:
    with answering(loop, 200) as server:
        target = a_target("vendor", {"api_url": server.url}, method="api_key", secrets={"api_key": key})
        result = run_check(a_prober(), target)

        assert result.verdict is Verdict.MISCONFIGURED
        assert "API key" in str(result.error_message)
        assert server.connections == 0


def test_a_key_without_the_usual_prefix_is_for_the_server_to_judge(loop: Loop) -> None:
    entry = definition()
    entry["auth"]["api_key"] = {"fields": [{"name": "api_key", "pattern": "^sk_", "secret": True}]}

    assert judged(loop, 200, definition=entry).success


@pytest.mark.parametrize("place", [{"in": "bearer"}, {"in": "query", "name": "key"}, {"in": "basic_user"}])
def test_a_key_that_is_echoed_is_not_quoted_back(loop: Loop, place: dict[str, str]) -> None:
    def echo(request: Request) -> bytes:
        return response(401, f"bad key {KEY} in {request.target} {request.headers}".encode())

    with http_server(loop, echo) as server:
        entry = definition(place=place)
        target = a_target(
            "vendor", {"api_url": server.url}, method="api_key", secrets={"api_key": KEY}, definition=entry
        )
        result = run_check(a_prober(), target)

    told = json.dumps(result.as_json(), ensure_ascii=False)
    assert "they say: “bad key …" in told
    assert KEY not in told
    assert basic(KEY, "").partition(" ")[2] not in told


@pytest.mark.parametrize(
    ("kind", "body", "verdict"),
    [
        ("text/html; charset=utf-8", b"<!doctype html><p>Sign in", Verdict.PROTOCOL),
        ("application/xhtml+xml", b"<html/>", Verdict.PROTOCOL),
        ("text/html", b'{"id": 7}', Verdict.OK),
        ("application/json", b'{"id": ', Verdict.PROTOCOL),
        ("application/vnd.api+json", b"oops", Verdict.PROTOCOL),
        ("application/json", b"", Verdict.OK),
        ("text/plain", b"pong", Verdict.OK),
        ("", b"pong", Verdict.OK),
    ],
)
def test_a_page_before_the_api_does_not_pass_for_its_answer(
    loop: Loop, kind: str, body: bytes, verdict: Verdict
) -> None:
    assert judged(loop, 200, body, {"Content-Type": kind}).verdict is verdict


def test_path_parameters_come_from_the_configuration_and_cannot_escape(loop: Loop) -> None:
    entry = definition(verify={"path": "/v1/accounts/{account}/me"})
    for account, verdict in (("acme", Verdict.OK), ("../admin", Verdict.MISCONFIGURED), (None, Verdict.MISCONFIGURED)):
        with answering(loop, 200) as server:
            config = {"api_url": server.url, "account": account}
            target = a_target("vendor", config, method="api_key", secrets={"api_key": KEY}, definition=entry)

            assert run_check(a_prober(), target).verdict is verdict
            assert [request.target for request in server.requests] == ["/v1/accounts/acme/me"] * (verdict == "ok")


def test_retry_after_is_read_as_a_date_too(loop: Loop) -> None:
    headers: Mapping[str, str] = {"Retry-After": formatdate(time() + 90, usegmt=True)}

    assert judged(loop, 429, headers=dict(headers)).retry_after_s in range(85, 95)
    assert judged(loop, 429, headers={"Retry-After": "soon"}).retry_after_s is None
    assert judged(loop, 429, headers={"Retry-After": "999999999"}).retry_after_s == 86_400


def test_secrets_are_not_logged(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    place = {"in": "query", "name": "key"}
    judged(loop, 200, definition=definition(place=place))
    judged(loop, 401, definition=definition(place=place))

    assert KEY not in caplog.text
