"""MCP over HTTP and SSE against real servers: both eras, every credential, both ways of checking."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from chalicelib.model import CheckResult, Verdict
from chalicelib.probes import run_check
from tests.peers.faults import leave
from tests.peers.mcp_servers import everything_over, sdk_server
from tests.peers.raw import background, listening, read_request, response
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


def test_plain_headers_of_the_configuration_are_sent_as_well() -> None:
    with sdk_server() as server:
        target = a_target(config={**config(server.url), "headers": {"X-Tenant": "acme"}})

        assert run_check(a_prober(), target).success
        assert {headers.get("x-tenant") for headers in server.seen} == {"acme"}


def test_a_refused_credential_is_shown_once_only() -> None:
    with sdk_server(lock=lambda *_: (401, {}, b"")) as server:
        for mode in MODES:
            server.seen.clear()
            target = a_target(config=config(server.url), method="api_key", secrets={"api_key": KEY})
            run_check(a_prober(), target, mode)  # type: ignore[arg-type]

            assert len(server.seen) == 1


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


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_refuses_and_hangs_up_is_judged_by_what_it_said(mode: Any) -> None:
    """The question in the other era may meet a connection that is just being closed: that is no broken network."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(response(400, b"<html>no", {"Content-Type": "text/html"}))
        await writer.drain()
        await read_request(reader)
        await leave(writer, "reset")

    with background() as loop, listening(loop, once) as peer:
        result = run_check(a_prober(), a_target(config=config(f"{peer.url}/mcp")), mode)

    assert (result.verdict, result.steps[-1].name) == (Verdict.PROTOCOL, "protocol"), result
    assert "400" in str(result.steps[-1].detail)
