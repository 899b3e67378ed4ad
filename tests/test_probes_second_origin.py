"""No credential reaches another origin, whatever the first one answers; within its own, redirects are followed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from chalicelib.model import Target, Verdict
from chalicelib.probes import run_check
from tests.credential_table import CREDENTIALS
from tests.peers.certificates import Authority, server_context
from tests.peers.faults import STREAM_HEAD, on_request
from tests.peers.mcp_servers import sdk_server
from tests.peers.raw import Loop, Peer, Request, background, http_server, listening, response
from tests.peers.targets import a_prober, a_target

MODES = ("full", "bare")
KINDS = ("http", "sse", "vendor")
STATUSES = (301, 302, 303, 307, 308)


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with background() as running:
        yield running


@pytest.fixture(scope="module")
def other(loop: Loop) -> Iterator[Peer]:
    """Another origin, which answers nothing and counts who comes."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)

    with listening(loop, listen) as peer:
        yield peer


def config_of(kind: str, origin: str) -> dict[str, Any]:
    return {} if kind == "vendor" else {"protocol": kind, "url": f"{origin}/{kind}"}


def target_of(name: str, kind: str, origin: str) -> Target:
    credential = CREDENTIALS[name]
    if kind != "vendor":
        return credential.target("mcp", config_of(kind, origin), credential.right)
    verify = {"method": "POST", "path": "/v1/me", "body": {"hello": "there"}}
    return credential.target("vendor", {}, credential.right, base_url=origin, verify=verify)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_redirect_to_another_origin_is_told_and_not_followed(loop: Loop, other: Peer, name: str, kind: str) -> None:
    status = 0

    def redirect(request: Request) -> bytes:
        return response(status, b"", {"Location": f"{other.url}{request.target}"})

    before = other.connections
    with http_server(loop, redirect) as first:
        for status in STATUSES:
            for mode in MODES:
                result = run_check(a_prober(), target_of(name, kind, first.url), mode)  # type: ignore[arg-type]

                assert (mode, status, result.verdict) == (mode, status, Verdict.PROTOCOL)
                assert "another address" in str(result.error_message)
        assert len(first.requests) >= len(STATUSES) * len(MODES)
    assert other.connections == before


AUTHORITY = Authority("Private root")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["another host", "no TLS"])
def test_a_client_certificate_is_not_presented_to_another_origin(
    loop: Loop, other: Peer, kind: str, where: str
) -> None:
    context = server_context(AUTHORITY.issue(), clients_of=AUTHORITY)
    client, before = AUTHORITY.issue("client", client=True), other.connections
    given = {"client_certificate": client.certificate, "client_key": client.key, "ca_certificate": AUTHORITY.pem}
    location = f"https://127.0.0.1:{other.port}/" if where == "another host" else f"{other.url}/"
    with http_server(loop, lambda _: response(307, b"", {"Location": location}), tls=context) as first:
        definition = {"base_url": first.url, "verify": {"path": "/v1/me"}} if kind == "vendor" else {}
        target = a_target(
            "vendor" if kind == "vendor" else "mcp",
            config_of(kind, first.url),
            method="certificate",
            secrets=given,
            definition=definition,
        )
        for mode in MODES:
            assert run_check(a_prober(), target, mode).verdict is Verdict.PROTOCOL  # type: ignore[arg-type]
    assert other.connections == before


@pytest.mark.parametrize("name", CREDENTIALS)
def test_an_event_stream_cannot_have_messages_posted_to_another_origin(loop: Loop, other: Peer, name: str) -> None:
    async def lead_away(writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(STREAM_HEAD + b"\r\nevent: endpoint\ndata: %s/messages\n\n" % other.url.encode())

    before = other.connections
    with listening(loop, on_request(lead_away)("sse")) as first:
        for mode in MODES:
            result = run_check(a_prober(), target_of(name, "sse", first.url), mode)  # type: ignore[arg-type]

            assert (mode, result.verdict) == (mode, Verdict.PROTOCOL)
    assert other.connections == before


NOWHERE = {
    "no URL": b"http://[",
    "no address": b"http://[::::]/",
    "a control character": b"/\x01",
    "a long path": b"/" + b"x" * 100_000,
    "a long way up": b"../" * 100_000,
    "a long host": b"http://" + "é.".encode() * 50_000,
}


@pytest.mark.parametrize("reference", NOWHERE.values(), ids=NOWHERE)
@pytest.mark.parametrize("mode", MODES)
def test_nor_where_nothing_could_be_posted(loop: Loop, reference: bytes, mode: Any) -> None:
    async def lead_astray(writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(STREAM_HEAD + b"\r\nevent: endpoint\ndata: %s\n\n" % reference)

    with listening(loop, on_request(lead_astray)("sse")) as served:
        result = run_check(a_prober(), a_target(config=config_of("sse", served.url)), mode)

    assert (result.verdict, result.steps[-1].detail) == (Verdict.PROTOCOL, "endpoint at another origin")


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_redirect_within_the_origin_takes_the_credential_along(loop: Loop, name: str) -> None:
    credential = CREDENTIALS[name]

    def answer(request: Request) -> bytes:
        path, _, query = request.target.partition("?")
        if path == "/v1/me":
            return response(307, b"", {"Location": "/v1/me/"})
        shown = dict(part.split("=", 1) for part in query.split("&") if part)
        return response(200 if credential.opens(request.headers, shown) else 401)

    with http_server(loop, answer) as served:
        result = run_check(a_prober(), target_of(name, "vendor", served.url))

        assert result.verdict is Verdict.OK
        assert [request.body for request in served.requests] == [b'{"hello":"there"}'] * 2


@pytest.mark.parametrize("mode", MODES)
def test_an_mcp_server_may_redirect_within_its_origin(mode: str) -> None:
    with sdk_server(moved_from="/old") as served:
        old = served.url.replace("/mcp", "/old")
        result = run_check(a_prober(), a_target(config={"protocol": "http", "url": old}), mode)  # type: ignore[arg-type]

    assert (result.verdict, result.error_message) == (Verdict.OK, None)
