"""The SDK's full session with an MCP server: what a person's test sees, and where capabilities come from."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import httpx2

from chalicelib.model import Verdict
from chalicelib.probes.clients import guarded_client
from chalicelib.probes.mcp_relay import Failures, Inbox, Outbox, Watched
from chalicelib.probes.mcp_tools import collected
from chalicelib.probes.mcp_wire import (
    CLIENT_INFO,
    EVENT_STREAM,
    JSON,
    OTHER_ERA_STATUSES,
    RpcError,
    content_finding,
    era_of,
    not_mcp,
    rpc_finding,
    server_of,
    unknown_version,
)
from chalicelib.probes.redirects import MOST, away, within_origin
from chalicelib.probes.statuses import judged
from chalicelib.probes.verdicts import TOO_MANY_REDIRECTS, Finding, finding_of
from chalicelib.probes.visit import Visit

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams
    from mcp.client.session import ClientSession
    from mcp.shared._httpx_utils import McpHttpClientFactory

#: Of the deadline, the part that a server may use to stay silent to ``server/discover`` before it gets a handshake.
DISCOVER_SHARE = 0.4
GOODBYE_S = 0.3

#: The SDK's own words.
_ENDED = ("Connection closed", "SSE stream ended without a response")

# They log URLs, far sides' words and whole tracebacks.
for noisy in ("mcp", "client"):
    logging.getLogger(noisy).setLevel(logging.CRITICAL)


async def check(visit: Visit) -> None:
    """Finds all capabilities of an MCP server over HTTP or SSE. Raises :class:`Finding`, or what the client raises."""
    await converse(visit, lambda abort: _transport(visit, abort))


async def converse(visit: Visit, transport: Callable[[Abort], AbstractAsyncContextManager[TransportStreams]]) -> None:
    """One session over any transport. It ends at once when ``abort`` is told a finding, whatever the SDK swallows."""
    from mcp.client.session import ClientSession
    from mcp_types import Implementation

    abort = Abort()
    with abort.scope as scope:
        async with (
            transport(abort) as streams,
            _relayed(visit, streams, abort) as (read, write),
            ClientSession(read, write, client_info=Implementation(**CLIENT_INFO)) as session,
        ):
            await _negotiate(visit, session, abort)
            visit.passed("protocol", "call")
            found = {**_introduced(session), **await _collect(visit, session)}
            visit.passed("call", "call")
            visit.conclude(found)
            scope.deadline = anyio.current_time() + GOODBYE_S  # all is known: leaving must not take long
    if abort.finding and visit.found is None:
        raise abort.finding


class Abort:
    """Ends a session from anywhere inside it."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.finding: Finding | None = None
        self.negotiating = True

    def __call__(self, finding: Finding) -> None:
        self.finding = self.finding or finding
        self.scope.cancel()


async def _negotiate(visit: Visit, session: ClientSession, abort: Abort) -> None:
    """Discover, else the handshake; the other way round with a server that is known to want the handshake."""
    attempts = [lambda: _discovered(visit, session), session.initialize]
    if visit.endpoint.kind == "sse":
        attempts = attempts[1:]
    elif era_of(visit.target.capabilities) == "handshake":
        attempts.reverse()
    failure: Exception | None = None
    for attempt in attempts:
        try:
            if await attempt() is not None:
                abort.negotiating = False
                return
        except _sdk_errors() as error:
            failure = failure if isinstance(failure, RuntimeError) else error
    raise visit.refusal or _finding_of_sdk(visit, failure)


async def _discovered(visit: Visit, session: ClientSession) -> Any:
    with anyio.move_on_after(visit.total_s * DISCOVER_SHARE):
        return await session.discover()
    return None


def _sdk_errors() -> tuple[type[Exception], ...]:
    """Refusals, results of the wrong shape, and (as a plain RuntimeError) versions that the SDK does not know."""
    from mcp.shared.exceptions import MCPError
    from pydantic import ValidationError

    return MCPError, ValidationError, RuntimeError


def _finding_of_sdk(visit: Visit, error: Exception | None) -> Finding:
    """What the SDK's exceptions mean. The text in an ``MCPError`` is the far side's or the SDK's own."""
    from mcp.shared.exceptions import MCPError
    from mcp_types import CONNECTION_CLOSED, PARSE_ERROR

    if isinstance(error, RuntimeError):
        return unknown_version(visit, str(error).rpartition(":")[2])
    if not isinstance(error, MCPError):
        return not_mcp(visit, "result of the wrong shape")
    if visit.trace.failures:
        known = finding_of(reversed(visit.trace.failures), visit.step_at_fault(), visit.total_s)
        if known.verdict is not Verdict.PROTOCOL:
            return known
    if error.code == PARSE_ERROR:
        return not_mcp(visit, "malformed JSON")
    if error.code == CONNECTION_CLOSED and error.message in _ENDED:  # servers use this code too
        return not_mcp(visit, "event stream ended without an answer")
    return rpc_finding(visit, RpcError(error.code, error.message))


def _introduced(session: ClientSession) -> dict[str, Any]:
    info = session.server_info
    return {
        "protocol_version": session.protocol_version,
        "server": server_of(info.model_dump(include={"name", "version"}) if info else None),
    }


async def _collect(visit: Visit, session: ClientSession) -> dict[str, Any]:
    try:
        return await collected(session)
    except _sdk_errors() as error:
        raise _finding_of_sdk(visit, error) from None


@asynccontextmanager
async def _transport(visit: Visit, abort: Abort) -> AsyncIterator[TransportStreams]:
    from mcp.client.sse import sse_client
    from mcp.client.streamable_http import streamable_http_client

    url = visit.endpoint.url or ""
    if visit.endpoint.kind == "sse":
        visit.trace.failures = Failures(lambda error: abort(finding_of([error], visit.step_at_fault(), visit.total_s)))
        async with sse_client(url, httpx_client_factory=_factory(visit, abort)) as streams:
            yield streams
        return
    async with _watched_client(visit, abort) as client, streamable_http_client(url, http_client=client) as streams:
        yield streams


def _factory(visit: Visit, abort: Abort) -> McpHttpClientFactory:
    """Gives the SDK our client; what the SDK would set on one of its own is set already, and stricter."""

    def make(
        headers: dict[str, str] | None = None, timeout: httpx2.Timeout | None = None, auth: httpx2.Auth | None = None
    ) -> httpx2.AsyncClient:
        return _watched_client(visit, abort)

    return make


def _watched_client(visit: Visit, abort: Abort) -> httpx2.AsyncClient:
    """The guarded client, with every response judged before the SDK loses its status (``mcp.md``)."""
    client = guarded_client(visit)
    answered, hops = False, 0

    async def before(request: httpx2.Request) -> None:
        if request.method == "GET" and visit.endpoint.kind == "http":
            # The SDK opens a stream for what the server might want to say; we do not listen, so spare the connection.
            raise httpx2.RequestError("not listening", request=request)

    async def after(response: httpx2.Response) -> None:
        nonlocal answered, hops
        hops = hops + 1 if response.has_redirect_location else 0
        finding = TOO_MANY_REDIRECTS.finding() if hops > MOST else await _judge(visit, response, abort)
        if finding:
            abort(finding)
            await anyio.lowlevel.checkpoint()
        elif not answered and response.is_success:
            answered, visit.refusal = True, None
            visit.passed("auth", "protocol")
        if visit.endpoint.kind == "sse" and response.request.method == "GET" and response.is_success:
            response.stream = _watched_stream(visit, response, abort)

    client.event_hooks = {"request": [before], "response": [after]}
    return client


def _watched_stream(visit: Visit, response: httpx2.Response, abort: Abort) -> Watched:
    def endpoint(url: str) -> None:
        if within_origin(visit, url) is None:
            abort(not_mcp(visit, "endpoint at another origin"))

    return Watched(response.stream, endpoint, lambda: abort(not_mcp(visit, "event stream ended without an answer")))


async def _judge(visit: Visit, response: httpx2.Response, abort: Abort) -> Finding | None:
    """What the response means, if that is known before the SDK reads it."""
    request, status = response.request, response.status_code
    if request.method == "DELETE" or await _is_notification(request):
        return None
    if response.has_redirect_location:
        return _redirected(visit, response)
    if response.is_success:
        finding, other_era = await _unfit(visit, response), True
    else:
        finding = judged(visit, status, response.headers, (await response.aread()).decode(errors="replace"))
        discovering = request.headers.get("mcp-method") == "server/discover"
        other_era = status in OTHER_ERA_STATUSES or (discovering and status >= 500)
    if finding and abort.negotiating and other_era and visit.endpoint.kind == "http":
        visit.refusal = finding
        return None
    return finding


async def _unfit(visit: Visit, response: httpx2.Response) -> Finding | None:
    """None if this response can hold what was asked for. What is posted over SSE is answered elsewhere."""
    if visit.endpoint.kind == "http":
        if response.status_code == 202:
            return not_mcp(visit, "accepted without an answer")
        return await content_finding(visit, response, JSON, EVENT_STREAM)
    return await content_finding(visit, response, EVENT_STREAM) if response.request.method == "GET" else None


def _redirected(visit: Visit, response: httpx2.Response) -> Finding | None:
    request = response.request
    keeps_method = response.status_code in (307, 308) or request.method == "GET"
    try:
        url = request.url.join(response.headers["location"])
    except httpx2.InvalidURL:
        return not_mcp(visit, "redirect to nowhere")
    return away(visit, request, httpx2.Request(request.method if keeps_method else "GET", url))


async def _is_notification(request: httpx2.Request) -> bool:
    # Read, as the content of a redirected request is a stream.
    return request.method == "POST" and b'"id"' not in await request.aread()


@asynccontextmanager
async def _relayed(visit: Visit, streams: TransportStreams, abort: Abort) -> AsyncIterator[TransportStreams]:
    """The same streams; an answer to nothing, or what is no message at all, ends the session instead of being lost."""
    outbox = Outbox(streams[1])
    yield Inbox(streams[0], outbox, lambda problem: abort(_finding_of_item(visit, problem))), outbox


def _finding_of_item(visit: Visit, problem: Exception) -> Finding:
    from pydantic import ValidationError

    if isinstance(problem, ValidationError):
        return not_mcp(visit, "malformed message")
    if isinstance(problem, LookupError):
        return not_mcp(visit, "answer to a request that was not sent")
    return finding_of([problem, *reversed(visit.trace.failures)], visit.step_at_fault(), visit.total_s)
