"""MCP over HTTP and SSE against real servers: both eras, every credential, both ways of checking."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from chalicelib.model import CheckResult, Verdict
from chalicelib.probes import run_check
from chalicelib.probes.capability_changes import changes
from tests.peers.mcp_servers import Lock, everything_over, sdk_server
from tests.peers.targets import a_prober, a_target

KEY = secrets.token_urlsafe(24)
MODES = ("full", "bare")
SERVERS = {
    "stateless": {"protocol": "http"},
    "handshake": {"protocol": "http", "legacy_only": True},
    "handshake-json": {"protocol": "http", "legacy_only": True, "json_response": True},
    "sse": {"protocol": "sse"},
}


def config(url: str) -> dict[str, Any]:
    return {"protocol": "sse" if url.endswith("/sse") else "http", "url": url}


def steps(result: CheckResult) -> list[str]:
    return [step.name for step in result.steps if step.ok]


@pytest.fixture(scope="module", params=["streamableHttp", "sse"])
def everything_url(request: pytest.FixtureRequest) -> Iterator[str]:
    with everything_over(request.param) as url:
        yield url


def test_a_full_check_of_the_official_server_reads_its_capabilities(everything_url: str) -> None:
    result = run_check(a_prober(), a_target(config=config(everything_url)))

    assert (result.verdict, steps(result)) == (Verdict.OK, ["policy", "tcp", "auth", "protocol", "call"])
    found = dict(result.capabilities or {})
    assert found["server"] == {"name": "mcp-servers/everything", "version": "2.0.0"}
    assert found["protocol_version"] == "2025-11-25"
    assert {"name": "echo", "description": "Echoes back the input string"}.items() <= found["tools"][0].items()
    assert (found["resources"], found["prompts"]) == (7, 4)
    again = run_check(a_prober(), a_target(config=config(everything_url)))
    assert dict(again.capabilities or {})["tools_fingerprint"] == found["tools_fingerprint"]


def test_a_bare_check_of_the_official_server_keeps_what_is_known_of_it(everything_url: str) -> None:
    known = {"protocol_version": "2025-11-25", "tools": [{"name": "echo"}], "server": {"name": "old", "version": "1"}}
    result = run_check(a_prober(), a_target(config=config(everything_url), capabilities=known), "bare")

    assert (result.verdict, steps(result)) == (Verdict.OK, ["policy", "tcp", "auth", "protocol"])
    assert result.capabilities == {**known, "server": {"name": "mcp-servers/everything", "version": "2.0.0"}}


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("mode", MODES)
def test_each_era_and_reply_form_is_spoken(kind: str, mode: Any) -> None:
    with sdk_server(**SERVERS[kind]) as server:
        result = run_check(a_prober(), a_target(config=config(server.url)), mode)

        assert result.verdict is Verdict.OK
        assert "GET" not in server.methods or kind == "sse"
        assert ("DELETE" in server.methods) is (kind.startswith("handshake") or (kind, mode) == ("stateless", "bare"))
    expected = "2026-07-28" if (kind, mode) == ("stateless", "full") else "2025-11-25"
    assert dict(result.capabilities or {})["protocol_version"] == expected


@pytest.mark.parametrize("mode", MODES)
def test_the_era_that_was_found_is_spoken_at_once_the_next_time(mode: Any) -> None:
    for kind, version in (("stateless", "2026-07-28"), ("handshake", "2025-11-25")):
        with sdk_server(**SERVERS[kind]) as server:
            known = {"protocol_version": version}
            result = run_check(a_prober(), a_target(config=config(server.url), capabilities=known), mode)

            assert dict(result.capabilities or {})["protocol_version"] == version
            versions = {headers.get("mcp-protocol-version") for headers in server.seen}
            assert versions <= {version, None}


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_changed_its_era_is_not_called_dead(mode: Any) -> None:
    known = {"protocol_version": "2026-07-28"}
    with sdk_server(**SERVERS["handshake"]) as server:
        result = run_check(a_prober(), a_target(config=config(server.url), capabilities=known), mode)

    assert result.success
    assert dict(result.capabilities or {})["protocol_version"] == "2025-11-25"


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


CREDENTIALS: dict[str, tuple[str, dict[str, str], dict[str, Any], dict[str, str]]] = {
    "api key as bearer": ("api_key", {"api_key": KEY}, {}, {"authorization": f"Bearer {KEY}"}),
    "api key in header": (
        "api_key",
        {"api_key": KEY},
        {"auth": {"api_key": {"place": {"in": "header", "name": "X-Api-Key"}}}},
        {"x-api-key": KEY},
    ),
    "api key in query": (
        "api_key",
        {"api_key": KEY},
        {"auth": {"api_key": {"place": {"in": "query", "name": "key"}}}},
        {"?key": KEY},
    ),
    "basic": ("basic", {"username": "ada", "password": KEY}, {}, {"authorization": basic("ada", KEY)}),
    "given jwt": ("jwt", {"jwt": KEY}, {}, {"authorization": f"Bearer {KEY}"}),
    "oauth": ("oauth", {"access_token": KEY}, {}, {"authorization": f"Bearer {KEY}"}),
    "extra header": ("none", {"header.X-Extra": KEY}, {}, {"x-extra": KEY}),
}


def lock_of(shown: Mapping[str, str]) -> Lock:
    def judge(headers: dict[str, str], query: dict[str, str]) -> tuple[int, dict[str, str], bytes] | None:
        seen = {**headers, **{f"?{name}": value for name, value in query.items()}}
        return None if shown.items() <= seen.items() else (401, {"content-type": "application/json"}, b"{}")

    return judge


@pytest.mark.parametrize("kind", ["stateless", "handshake", "sse"])
@pytest.mark.parametrize("credential", CREDENTIALS)
def test_every_credential_opens_every_kind_of_server_and_a_wrong_one_does_not(kind: str, credential: str) -> None:
    method, given, definition, shown = CREDENTIALS[credential]
    wrong = {name: "wrong-" + value for name, value in given.items()}
    refused = {"none": Verdict.AUTH_REJECTED, "oauth": Verdict.NEEDS_REAUTH}.get(method, Verdict.AUTH_REJECTED)
    with sdk_server(**SERVERS[kind], lock=lock_of(shown)) as server:
        for values, verdict in ((given, Verdict.OK), (wrong, refused)):
            for mode in MODES:
                target = a_target(config=config(server.url), method=method, secrets=values, definition=definition)
                result = run_check(a_prober(), target, mode)  # type: ignore[arg-type]
                assert (mode, result.verdict) == (mode, verdict)
                assert result.success or (result.steps[-1].name, result.steps[-1].ok) == ("auth", False)


def test_plain_headers_of_the_configuration_are_sent_as_well() -> None:
    with sdk_server(lock=lock_of({"x-tenant": "acme"})) as server:
        target = a_target(config={**config(server.url), "headers": {"X-Tenant": "acme"}})

        assert run_check(a_prober(), target).success


CHALLENGE = 'Bearer resource_metadata="https://a.example/.well-known/oauth-protected-resource"'
ANSWERS: list[tuple[int, dict[str, str], str, Verdict]] = [
    (401, {"www-authenticate": CHALLENGE}, "none", Verdict.NEEDS_REAUTH),
    (401, {"www-authenticate": CHALLENGE}, "api_key", Verdict.NEEDS_REAUTH),
    (401, {"www-authenticate": 'Bearer error="invalid_token"'}, "oauth", Verdict.NEEDS_REAUTH),
    (401, {"www-authenticate": 'Basic realm="x"'}, "none", Verdict.AUTH_REJECTED),
    (401, {"www-authenticate": "Bearer"}, "api_key", Verdict.AUTH_REJECTED),
    (403, {"www-authenticate": 'Bearer error="insufficient_scope", scope="a"'}, "oauth", Verdict.FORBIDDEN_SCOPE),
    (403, {"www-authenticate": 'Bearer error="insufficient_scope"'}, "none", Verdict.FORBIDDEN_SCOPE),
    (403, {}, "api_key", Verdict.FORBIDDEN_SCOPE),
    (403, {}, "none", Verdict.AUTH_REJECTED),
    (404, {}, "none", Verdict.PROTOCOL),
    (405, {}, "none", Verdict.PROTOCOL),
    (429, {"retry-after": "9"}, "none", Verdict.RATE_LIMITED),
    (500, {}, "none", Verdict.PROVIDER_DOWN),
    (502, {}, "none", Verdict.PROVIDER_DOWN),
    (503, {"retry-after": "9"}, "none", Verdict.PROVIDER_DOWN),
]


@pytest.mark.parametrize("kind", ["http", "sse"])
@pytest.mark.parametrize(("status", "headers", "method", "verdict"), ANSWERS)
def test_a_status_means_the_same_to_both_ways_of_checking(
    kind: str, status: int, headers: dict[str, str], method: str, verdict: Verdict
) -> None:
    given = {"api_key": {"api_key": KEY}, "oauth": {"access_token": KEY}}.get(method, {})
    with sdk_server(kind, lock=lambda *_: (status, headers, b"sorry")) as server:
        for mode in MODES:
            target = a_target(config=config(server.url), method=method, secrets=given)
            result = run_check(a_prober(), target, mode)  # type: ignore[arg-type]

            assert (mode, result.verdict) == (mode, verdict)
            assert result.steps[-1].detail == f"HTTP {status}, they say: “sorry”"
            assert result.retry_after_s == (9 if "retry-after" in headers else None)


def test_a_refused_credential_is_shown_once_only() -> None:
    with sdk_server(lock=lambda *_: (401, {}, b"")) as server:
        for mode in MODES:
            server.seen.clear()
            target = a_target(config=config(server.url), method="api_key", secrets={"api_key": KEY})
            run_check(a_prober(), target, mode)  # type: ignore[arg-type]

            assert len(server.seen) == 1


def test_many_tools_are_paged_and_capped() -> None:
    with sdk_server(tools=2_050) as server:
        found = dict(run_check(a_prober(total_s=20), a_target(config=config(server.url))).capabilities or {})

    assert len(found["tools"]) == 2_000


def test_a_change_of_tools_is_told_by_name() -> None:
    with sdk_server(tools=2) as first, sdk_server(tools=3) as second:
        old = run_check(a_prober(), a_target(config=config(first.url))).capabilities
        new = run_check(a_prober(), a_target(config=config(second.url))).capabilities

    assert changes(old, new) == {"added": ["add_2"], "removed": [], "changed": []}
    assert changes(new, old) == {"added": [], "removed": ["add_2"], "changed": []}
    assert changes(old, old) is None
    assert changes(None, new) is None
    altered = json.loads(json.dumps(new))
    altered["tools"][0]["fingerprint"] = "other"
    assert changes(new, altered) == {"added": [], "removed": [], "changed": ["add_0"]}


def test_secrets_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    definition = {"auth": {"api_key": {"place": {"in": "query", "name": "key"}}}}
    with sdk_server() as server:
        for mode in MODES:
            target = a_target(
                config=config(server.url), method="api_key", secrets={"api_key": KEY}, definition=definition
            )
            assert run_check(a_prober(), target, mode).success  # type: ignore[arg-type]

    ours = [record for record in caplog.records if not record.name.startswith(("uvicorn", "sse_starlette"))]
    assert not any(KEY in record.getMessage() for record in ours)


def test_a_bare_check_does_not_load_the_sdk() -> None:
    with sdk_server() as server:
        script = (
            "import sys; from tests.peers.targets import a_prober, a_target; from chalicelib.probes import run_check; "
            f"result = run_check(a_prober(), a_target(config={config(server.url)!r}), 'bare'); "
            "print(result.verdict, 'mcp' in sys.modules, 'asyncssh' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)

    assert done.stdout.strip() == "ok False False", done.stderr
