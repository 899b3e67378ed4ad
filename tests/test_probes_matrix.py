"""Every kind of credential against every kind of real server, in both ways of checking."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from chalicelib.model import CheckResult, Target, Verdict
from chalicelib.probes import run_check
from tests.credential_table import CREDENTIALS, Credential, lock_of
from tests.peers.certificates import DAY, Authority, server_context
from tests.peers.commands import TALKER, script
from tests.peers.mcp_servers import sdk_server
from tests.peers.raw import Loop, background
from tests.peers.targets import a_prober, a_target
from tests.peers.vendor import vendor_server

MODES = ("full", "bare")
SERVERS: dict[str, dict[str, Any]] = {
    "stateless": {"protocol": "http"},
    "handshake": {"protocol": "http", "legacy_only": True},
    "sse": {"protocol": "sse"},
}
ERAS = {"stateless": {"full": "2026-07-28", "bare": "2025-11-25"}}


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with background() as running:
        yield running


def mcp_config(url: str) -> dict[str, Any]:
    return {"protocol": "sse" if url.endswith("/sse") else "http", "url": url}


def both_ways(target: Target) -> Iterator[tuple[str, CheckResult]]:
    for mode in MODES:
        yield mode, run_check(a_prober(), target, mode)  # type: ignore[arg-type]


def assert_known(credential: Credential, right: Target, wrong: Target) -> None:
    for mode, result in both_ways(right):
        assert (mode, result.verdict, result.error_message) == (mode, Verdict.OK, None)
    for mode, result in both_ways(wrong):
        assert (mode, result.verdict) == (mode, credential.refused)
        assert (result.steps[-1].name, result.steps[-1].ok) == ("auth", False)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", CREDENTIALS)
def test_every_credential_opens_every_mcp_server_and_a_wrong_one_none(server: str, name: str) -> None:
    credential = CREDENTIALS[name]
    with sdk_server(**SERVERS[server], lock=lock_of(credential)) as served:
        targets = [credential.target("mcp", mcp_config(served.url), given) for given in _pair(credential)]
        assert_known(credential, *targets)


def _pair(credential: Credential) -> list[dict[str, str]]:
    return [credential.right, credential.wrong]


@pytest.mark.parametrize("name", CREDENTIALS)
def test_every_credential_opens_a_vendors_api_and_a_wrong_one_does_not(loop: Loop, name: str) -> None:
    credential = CREDENTIALS[name]
    with vendor_server(loop, credential.opens) as served:
        how = {"verify": {"path": "/v1/me"}, "base_url": served.url}
        targets = [credential.target("vendor", {}, given, **how) for given in _pair(credential)]
        assert_known(credential, *targets)


@pytest.mark.parametrize("server", [*SERVERS, "vendor"])
def test_what_is_open_needs_no_credential(loop: Loop, server: str) -> None:
    if server == "vendor":
        with vendor_server(loop, lambda headers, query: "authorization" not in headers) as vendor:
            assert all(
                result.success for _, result in both_ways(a_target("vendor", {"api_url": f"{vendor.url}/v1/me"}))
            )
        return
    with sdk_server(**SERVERS[server]) as served:
        for mode, result in both_ways(a_target(config=mcp_config(served.url))):
            assert result.success
            expected = ERAS.get(server, {}).get(mode, "2025-11-25")
            assert dict(result.capabilities or {})["protocol_version"] == expected


@pytest.mark.parametrize("name", [*CREDENTIALS, "none"])
def test_a_command_gets_every_credential_as_variables(tmp_path: Path, name: str) -> None:
    seen = tmp_path / "environment"
    command = script(tmp_path, TALKER.format(telling=f"open({str(seen)!r}, 'w').write(json.dumps(dict(os.environ)))"))
    config = {"protocol": "stdio", "command": command[0], "args": command[1:]}
    credential = CREDENTIALS.get(name)
    target = credential.target("mcp", config, credential.right) if credential else a_target(config=config)
    for mode, result in both_ways(target):
        assert (mode, result.verdict) == (mode, Verdict.OK)
        env = json.loads(seen.read_text())
        assert credential is None or credential.tells(env)
        seen.unlink()


# Certificates.

AUTHORITY = Authority("Private root")
SERVER = AUTHORITY.issue(ends=20 * DAY + timedelta(hours=1))
CLIENT = AUTHORITY.issue("client", client=True, ends=10 * DAY + timedelta(hours=1))
PASSPHRASE = "correct horse"
PRESENTED = {
    "open key": {"client_key": CLIENT.key},
    "locked key": {"client_key": CLIENT.encrypted_key(PASSPHRASE), "client_key_passphrase": PASSPHRASE},
    "open key and a passphrase": {"client_key": CLIENT.key, "client_key_passphrase": PASSPHRASE},
}


def presenting(kind: str, config: dict[str, Any], key: str = "open key", **definition: Any) -> Target:
    given = {"client_certificate": CLIENT.certificate, "ca_certificate": AUTHORITY.pem, **PRESENTED[key]}
    return a_target(kind, config, method="certificate", secrets=given, definition=definition)


def assert_days_left(result: CheckResult) -> None:
    certificates = dict(result.capabilities or {})["certificates"]
    assert {name: lifetime["days_left"] for name, lifetime in certificates.items()} == {"server": 20, "client": 10}
    assert all(lifetime["expires_at"].endswith("Z") for lifetime in certificates.values())


@pytest.mark.parametrize("server", SERVERS)
def test_a_client_certificate_opens_mcp_servers_and_the_days_left_are_told(server: str) -> None:
    with sdk_server(**SERVERS[server], certificate=SERVER, clients_of=AUTHORITY) as served:
        for mode, result in both_ways(presenting("mcp", mcp_config(served.url))):
            assert (mode, result.verdict, result.error_message) == (mode, Verdict.OK, None)
            assert "tls" in [step.name for step in result.steps]
            assert_days_left(result)


@pytest.mark.parametrize("key", PRESENTED)
def test_a_client_certificate_opens_a_vendors_api_and_the_days_left_are_told(loop: Loop, key: str) -> None:
    context = server_context(SERVER, clients_of=AUTHORITY)
    with vendor_server(loop, lambda headers, query: True, tls=context) as served:
        result = run_check(a_prober(), presenting("vendor", {"api_url": f"{served.url}/v1/me"}, key))

    assert result.verdict is Verdict.OK
    assert_days_left(result)


def test_a_server_certificates_days_are_told_without_a_client_certificate(loop: Loop) -> None:
    with vendor_server(loop, lambda headers, query: True, tls=server_context(SERVER)) as served:
        given = {"api_key": "k", "ca_certificate": AUTHORITY.pem}
        target = a_target("vendor", {"api_url": f"{served.url}/v1/me"}, method="api_key", secrets=given)
        result = run_check(a_prober(), target)

    assert {name: found["days_left"] for name, found in dict(result.capabilities or {})["certificates"].items()} == {
        "server": 20
    }


def test_a_command_gets_the_client_certificate_as_variables(tmp_path: Path) -> None:
    command = script(tmp_path, TALKER.format(telling="sorted(name for name in os.environ if 'CLIENT' in name)"))
    config = {"protocol": "stdio", "command": command[0], "args": command[1:]}
    for _, result in both_ways(presenting("mcp", config, "locked key")):
        told = json.loads(dict(result.capabilities or {})["server"]["version"])
        assert told == ["CLIENT_CERTIFICATE", "CLIENT_KEY", "CLIENT_KEY_PASSPHRASE"]


STRANGER = Authority("Somebody's")
EXPIRED = AUTHORITY.issue("client", client=True, starts=-3 * DAY, ends=-DAY)


def of_unknown_version(pem: str) -> str:
    der = ssl.PEM_cert_to_DER_cert(pem)
    return ssl.DER_cert_to_PEM_cert(der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05", 1))


UNUSABLE = {
    "a certificate of an unknown version": (
        {"client_certificate": of_unknown_version(CLIENT.certificate)},
        "client_certificate",
    ),
    "no certificate": ({"client_certificate": "none"}, "client_certificate"),
    "an expired certificate": ({"client_certificate": EXPIRED.certificate, "client_key": EXPIRED.key}, "expired"),
    "no key": ({"client_key": "none"}, "client_key"),
    "another's key": ({"client_key": STRANGER.issue(client=True).key}, "client_key"),
    "a locked key": ({"client_key": CLIENT.encrypted_key(PASSPHRASE)}, "client_key_passphrase"),
    "a wrong passphrase": (
        {"client_key": CLIENT.encrypted_key(PASSPHRASE), "client_key_passphrase": "wrong"},
        "client_key",
    ),
    "no authority": ({"ca_certificate": "none"}, "ca_certificate"),
}


@pytest.mark.parametrize("fault", UNUSABLE)
def test_a_certificate_that_cannot_be_used_is_named_and_nothing_is_opened(loop: Loop, fault: str) -> None:
    changed, named = UNUSABLE[fault]
    given = {"client_certificate": CLIENT.certificate, "client_key": CLIENT.key, **changed}
    with vendor_server(loop, lambda headers, query: True, tls=server_context(SERVER)) as served:
        target = a_target("vendor", {"api_url": f"{served.url}/v1/me"}, method="certificate", secrets=given)
        result = run_check(a_prober(), target)

        assert (result.verdict, result.steps[-1].name) == (Verdict.MISCONFIGURED, "policy")
        assert named in str(result.error_message)
        assert served.connections == 0


def test_a_certificate_that_only_a_command_can_read_is_no_reason_to_fail(tmp_path: Path) -> None:
    command = script(tmp_path, TALKER.format(telling="0"))
    given = {"client_certificate": of_unknown_version(CLIENT.certificate), "client_key": CLIENT.key}
    config = {"protocol": "stdio", "command": command[0], "args": command[1:]}
    result = run_check(a_prober(), a_target(config=config, method="certificate", secrets=given), "bare")

    assert (result.verdict, "certificates" in dict(result.capabilities or {})) == (Verdict.OK, False)


# Variables of a catalogue's command.


def test_a_catalogues_command_gets_declared_variables_only(tmp_path: Path) -> None:
    command = script(tmp_path, TALKER.format(telling="sorted(os.environ)"))
    declared = [{"name": "REGION"}, {"name": "TEAM_KEY", "secret": True}, {"name": "MODE", "optional": True}]
    definition = {
        "auth": {"api_key": {"fields": [{"name": "api_key"}, {"name": "env.SECOND_KEY"}]}},
        "mcp": {"protocol": "stdio", "command": command[0], "args": command[1:], "env": declared},
    }
    given = {"api_key": "k", "env.TEAM_KEY": "1", "env.SECOND_KEY": "2", "env.API_URL": "https://evil.example"}
    config = {"env": {"REGION": "eu"}}
    target = a_target(config=config, method="api_key", secrets=given, definition=definition)
    for mode, result in both_ways(target):
        told = set(json.loads(dict(result.capabilities or {})["server"]["version"]))

        assert (mode, told & {"API_URL"}) == (mode, set())
        assert {"API_KEY", "REGION", "TEAM_KEY", "SECOND_KEY"} <= told


@pytest.mark.parametrize("env", [{"REGION": "eu", "API_URL": "https://evil.example"}, {"LD_PRELOAD": "/tmp/x.so"}, {}])
def test_variables_written_past_the_api_stop_a_catalogues_command(tmp_path: Path, env: dict[str, str]) -> None:
    marker = tmp_path / "ran"
    command = script(tmp_path, f"open({str(marker)!r}, 'w')")
    entry = {"protocol": "stdio", "command": command[0], "args": command[1:], "env": [{"name": "REGION"}]}
    for _, result in both_ways(a_target(config={"env": env}, definition={"mcp": entry})):
        assert (result.verdict, result.steps[-1].name) == (Verdict.MISCONFIGURED, "policy")
    assert not marker.exists()
