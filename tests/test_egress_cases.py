"""Every shared SSRF case through every kind of user: no forbidden socket, whoever asks for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import httpx2
import pytest

from chalicelib.egress.failures import causes
from chalicelib.egress.guard import Guard
from chalicelib.egress.policy import Policy
from chalicelib.egress.trace import Trace
from chalicelib.errors import Blocked
from tests.egress_world import Case, World, holes, no_real_connection, shared_cases

CASES = shared_cases()
SECRET = "made-up-token-for-this-test"


async def get(guard: Guard, url: str, trace: Trace) -> None:
    guard.policy.check_url(url)
    async with guard.client(trace=trace) as client:
        await guard.send(client, client.build_request("GET", url), deadline_s=5)


async def get_unchecked(guard: Guard, url: str, trace: Trace) -> None:
    """A caller that forgot to check the URL first: the client does it again."""
    async with guard.client(trace=trace) as client:
        await guard.send(client, client.build_request("GET", url), deadline_s=5)


async def ask_for_token(guard: Guard, url: str, trace: Trace) -> None:
    async with guard.client(trace=trace, headers={"authorization": f"Basic {SECRET}"}) as client:
        request = client.build_request("POST", url, data={"grant_type": "refresh_token", "refresh_token": SECRET})
        await guard.send(client, request, deadline_s=5)


async def mcp_over_http(guard: Guard, url: str, trace: Trace) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with (
        guard.client(trace=trace, headers={"authorization": f"Bearer {SECRET}"}) as client,
        streamable_http_client(url, http_client=client) as (reading, writing),
        ClientSession(reading, writing) as session,
    ):
        await session.initialize()


async def mcp_over_sse(guard: Guard, url: str, trace: Trace) -> None:
    from mcp import ClientSession
    from mcp.client.sse import sse_client

    def factory(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        return guard.client(headers=headers, timeout=timeout, auth=auth, trace=trace)

    bearer = {"authorization": f"Bearer {SECRET}"}
    async with (
        sse_client(url, headers=bearer, httpx_client_factory=factory) as (reading, writing),
        ClientSession(reading, writing) as session,
    ):
        await session.initialize()


USERS = [get, get_unchecked, ask_for_token, mcp_over_http, mcp_over_sse]


def outcome(user: Callable[[Guard, str, Trace], Awaitable[None]], case: Case) -> tuple[World, Trace, Exception | None]:
    world, trace = World(case), Trace()
    guard = Guard(Policy(), resolver=world.resolve, network=world)

    async def bounded() -> None:
        async with asyncio.timeout(5):
            await user(guard, case["url"], trace)

    with no_real_connection() as attempts:
        try:
            asyncio.run(bounded())
            ended = None
        except Exception as error:
            ended = error
    assert attempts == []
    return world, trace, ended


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL)


@pytest.mark.parametrize("user", USERS, ids=lambda user: user.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_no_user_of_the_guard_opens_a_forbidden_socket(case, user):
    world, _, ended = outcome(user, case)

    assert holes(case, world.opened) == []
    assert world.responses <= 4
    if case["allowed"]:
        assert world.opened
        assert not any(isinstance(cause, Blocked) for cause in causes(ended or Exception()))
    elif case["category"] != "redirect":
        assert not world.responses
        assert ended is not None
    if user in (get, get_unchecked, ask_for_token):
        assert (ended is None) is case["allowed"]


REFUSED = [case for case in CASES if not case["allowed"] and case["category"] != "redirect"]


@pytest.mark.parametrize("user", USERS, ids=lambda user: user.__name__)
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["id"])
def test_a_refusal_is_recognisable_behind_whatever_a_library_makes_of_it(case, user):
    _, trace, ended = outcome(user, case)

    assert ended is not None
    kinds = {type(error) for error in [*causes(ended), *trace.failures]}
    # What a library cannot read as a URL never reaches the transport.
    assert kinds & ({Blocked} if user is get else {Blocked, httpx2.InvalidURL, ValueError})


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["category"] == "redirect"], ids=lambda case: case["id"]
)
def test_a_refused_redirect_says_why(case):
    for user in (get, ask_for_token):
        _, trace, ended = outcome(user, case)

        expected = (Blocked, httpx2.TooManyRedirects) if not case["allowed"] else type(None)
        assert isinstance(ended, expected)
        if isinstance(ended, Blocked):
            assert [step.ok for step in trace.steps if step.name == "policy"] == [False]


ABOUT_HOSTS = [case for case in CASES if case["category"] not in ("redirect", "scheme")]


@pytest.mark.parametrize("case", ABOUT_HOSTS, ids=lambda case: case["id"])
def test_ssh_connects_to_checked_addresses_only(case):
    # What no parser would give us as a host is tried as it stands.
    host = (
        httpx2.URL(case["url"]).raw_host.decode()
        if case["allowed"]
        else case["url"].split("//", 1)[-1].partition("/")[0]
    )
    world = World(case)
    guard = Guard(Policy(), resolver=world.resolve)

    with no_real_connection() as attempts, pytest.raises((Blocked, OSError)) as caught:
        asyncio.run(guard.open_tcp(host, 22))

    assert isinstance(caught.value, ConnectionRefusedError if case["allowed"] else Blocked)
    assert bool(attempts) is case["allowed"]
    assert holes(case, attempts) == []
