"""Redirects by hand: what follows to the same origin, what stays behind when it changes, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from chalicelib.egress.failures import RedirectBlocked
from chalicelib.egress.guard import Guard
from chalicelib.egress.policy import Policy
from chalicelib.egress.trace import Trace
from chalicelib.errors import Blocked
from tests.egress_world import World, web
from tests.peers.raw import Loop, Peer, Request, response

LOCAL = Policy(allow=("127.0.0.0/8",))
SECRETS = ("made-up-token", "made-up-cookie", "made-up-header", "made-up-body", "made-up-param", "made-up-password")


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.close()


def moved(status: int, location: str) -> bytes:
    return response(status, b"", {"Location": location, "Set-Cookie": "session=from-first; Path=/"})


def send_everything(peer: Peer, trace: Trace, method: str = "POST", **options: Any) -> httpx2.Response:
    """A request with a secret in every place that can hold one."""

    async def once() -> httpx2.Response:
        guard = Guard(LOCAL)
        headers = {"authorization": "Bearer made-up-token", "cookie": "a=made-up-cookie", "x-api-key": "made-up-header"}
        async with guard.client(trace=trace, headers=headers) as client:
            request = client.build_request(
                method, f"{peer.url}/start?key=made-up-param&page=1", data={"secret": "made-up-body"}
            )
            return await guard.send(client, request, deadline_s=5, secret_params={"key"}, **options)

    return asyncio.run(once())


def everything_in(request: Request) -> str:
    return f"{request.target} {request.headers} {request.body!r}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nothing_secret_and_no_body_follows_to_another_origin(loop, status):
    trace = Trace()

    with web(loop, lambda request: response(401, b"{}")) as other:
        target = f"{other.url}/landing?key=made-up-param&copy=made-up-param&key=another&page=1"
        with web(loop, lambda request: moved(status, target)) as first:
            answer = send_everything(first, trace)

    assert answer.status_code == 401
    assert all(secret in everything_in(first.requests[0]) for secret in SECRETS[:5])
    assert len(other.requests) == 1
    assert not any(secret in everything_in(other.requests[0]) for secret in (*SECRETS, "from-first"))
    assert other.requests[0].target == "/landing?page=1"
    assert set(other.requests[0].headers) <= {"host", "accept", "accept-encoding", "user-agent", "content-length"}
    # So that nobody blames the key for a 401 of somebody who never saw it.
    assert trace.left_origin


def test_credentials_do_not_come_back_after_a_detour(loop):
    trace, places = Trace(), {}

    def answer_first(request: Request) -> bytes:
        return moved(307, places["other"]) if request.path == "/start" else response(200, b"{}")

    with (
        web(loop, answer_first) as first,
        web(loop, lambda request: moved(307, f"{places['first']}/back")) as other,
    ):
        places.update(first=first.url, other=f"{other.url}/x")
        send_everything(first, trace)

    assert [request.path for request in first.requests] == ["/start", "/back"]
    assert not any(secret in everything_in(first.requests[1]) for secret in SECRETS)


@pytest.mark.parametrize("kind", [httpx2.BasicAuth("user", "made-up-password")])
def test_the_clients_own_login_is_not_repeated_to_another_origin(loop, kind):
    async def once(url: str) -> None:
        guard = Guard(LOCAL)
        async with guard.client(auth=kind) as client:
            await guard.send(client, client.build_request("GET", url), deadline_s=5)

    with (
        web(loop, lambda request: response(200, b"{}")) as other,
        web(loop, lambda request: moved(302, other.url)) as first,
    ):
        asyncio.run(once(first.url))

    assert "authorization" in first.requests[0].headers
    assert "authorization" not in other.requests[0].headers


def test_everything_follows_within_the_origin(loop):
    trace = Trace()

    def answer(request: Request) -> bytes:
        return moved(307, "/v2/?page=1") if request.path == "/start" else response(200, b"{}")

    with web(loop, answer) as peer:
        assert send_everything(peer, trace).status_code == 200

    second = peer.requests[1]
    assert (second.method, second.target) == ("POST", "/v2/?page=1")
    assert all(secret in everything_in(second) for secret in SECRETS[:4])
    assert not trace.left_origin


@pytest.mark.parametrize(("status", "method"), [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")])
def test_the_method_follows_as_http_defines_it(loop, status, method):
    def answer(request: Request) -> bytes:
        return moved(status, "/v2/") if request.path == "/start" else response(200, b"{}")

    with web(loop, answer) as peer:
        send_everything(peer, Trace())

    assert peer.requests[1].method == method
    assert bool(peer.requests[1].body) is (method == "POST")


@pytest.mark.parametrize("hops", [3, 4])
def test_three_redirects_are_followed_and_no_more(loop, hops):
    def answer(request: Request) -> bytes:
        done = int(request.path.removeprefix("/start") or 0)
        return moved(302, f"/start{done + 1}") if done < hops else response(200, b"{}")

    with web(loop, answer) as peer:
        if hops == 3:
            assert send_everything(peer, Trace()).status_code == 200
        else:
            with pytest.raises(httpx2.TooManyRedirects):
                send_everything(peer, Trace())

    assert len(peer.requests) == 4


def test_with_no_redirects_allowed_the_redirect_is_the_answer(loop):
    with web(loop, lambda request: moved(302, "http://127.0.0.1:1/")) as peer:
        answer = send_everything(peer, Trace(), max_redirects=0)

    assert (answer.status_code, answer.headers["location"]) == (302, "http://127.0.0.1:1/")
    assert len(peer.requests) == 1


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "file:///etc/passwd",
        "http://user:pass@127.0.0.1/",
        "http://[::1",
        "//10.0.0.1/",
        "http:\\\\x",
    ],
)
def test_a_redirect_to_what_could_not_be_asked_for_is_not_followed(loop, location):
    with web(loop, lambda request: moved(302, location)) as peer, pytest.raises((Blocked, httpx2.RemoteProtocolError)):
        send_everything(peer, Trace())

    assert len(peer.requests) == 1


def test_a_redirects_own_body_is_not_read(loop):
    def answer(request: Request) -> bytes:
        if request.path != "/start":
            return response(200, b"{}")
        return b"HTTP/1.1 302 Found\r\nLocation: /v2\r\nContent-Length: 999999999\r\n\r\n" + b"x" * 100_000

    with web(loop, answer) as peer:
        assert send_everything(peer, Trace()).status_code == 200


async def initialize(guard: Guard, url: str, trace: Trace) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with (
        guard.client(trace=trace, headers={"authorization": "Bearer made-up-token"}) as client,
        streamable_http_client(url, http_client=client) as (reading, writing),
        ClientSession(reading, writing) as session,
    ):
        await session.initialize()


def upgraded(status: int) -> tuple[World, Trace]:
    """An MCP server on plain http that sends everybody on to https, which the SDK follows with all headers."""
    world = World(
        {
            "dns": {"api.example.com": [["93.184.215.14"]]},
            "redirects": ["https://api.example.com/mcp"],
            "redirect_status": status,
        }
    )
    trace = Trace()
    with pytest.raises(ExceptionGroup):
        asyncio.run(
            initialize(Guard(Policy(), resolver=world.resolve, network=world), "http://api.example.com/mcp", trace)
        )
    return world, trace


@pytest.mark.parametrize("status", [307, 308])
def test_no_library_carries_credentials_to_another_origin_by_itself(status, caplog):
    world, trace = upgraded(status)

    assert world.opened == [("93.184.215.14", 80)]
    assert any(isinstance(error, RedirectBlocked) for error in trace.failures)


def test_a_library_may_follow_within_the_origin_and_is_checked_there():
    world = World(
        {
            "dns": {"api.example.com": [["93.184.215.14"], ["127.0.0.1"]]},
            "redirects": ["/mcp/"],
            "redirect_status": 307,
        }
    )
    with pytest.raises(ExceptionGroup):
        asyncio.run(
            initialize(Guard(Policy(), resolver=world.resolve, network=world), "http://api.example.com/mcp", Trace())
        )

    assert world.opened == [("93.184.215.14", 80)]
    assert world.sent[0].count(b"POST /mcp") == 2


def test_a_client_serves_one_destination(loop):
    async def two_places(first: str, second: str) -> None:
        guard = Guard(LOCAL)
        async with guard.client(headers={"x-api-key": "made-up-header"}) as client:
            assert (await client.get(first)).status_code == 200
            with pytest.raises(RedirectBlocked):
                await client.get(second)

    with (
        web(loop, lambda request: response(200, b"{}")) as first,
        web(loop, lambda request: response(200, b"{}")) as other,
    ):
        asyncio.run(two_places(first.url, other.url))

    assert other.connections == 0


def test_a_refused_redirect_says_what_to_do_and_nothing_else():
    refusal = RedirectBlocked()

    assert isinstance(refusal, Blocked)
    assert refusal.code == "redirect_blocked"
    assert "final https address" in refusal.detail
