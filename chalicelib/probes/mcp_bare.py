"""One bare request to an MCP server through the guarded client: what a scheduled check needs, without the SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import httpx2

from chalicelib.probes.clients import guarded_client
from chalicelib.probes.mcp_wire import (
    EVENT_STREAM,
    JSON,
    OTHER_ERA_CODES,
    OTHER_ERA_STATUSES,
    Era,
    RpcError,
    answer_in,
    content_finding,
    era_of,
    introduction,
    is_answer,
    not_mcp,
    opening,
    parsed,
    result_of,
    rpc_finding,
)
from chalicelib.probes.redirects import same_place, within_origin
from chalicelib.probes.statuses import judged
from chalicelib.probes.verdicts import Finding
from chalicelib.probes.visit import Visit

ACCEPT = f"{JSON}, {EVENT_STREAM}"
GOODBYE_S = 0.3


async def check(visit: Visit) -> None:
    """Finds protocol version and server over HTTP or SSE. Raises :class:`Finding`, or what the client raises.

    Speaks the era that the server spoke last time, else the handshake; tries the other one if it hears that it must.
    """
    async with guarded_client(visit) as client:
        if visit.endpoint.kind == "sse":
            await _over_sse(visit, client)
            return
        known = era_of(visit.target.capabilities) or "handshake"
        other: Era = "stateless" if known == "handshake" else "handshake"
        try:
            await _opened(visit, client, known)
        except _OtherEra as first:
            visit.refusal = first.finding
            try:
                await _opened(visit, client, other)
            except _OtherEra:
                raise first.finding from None


class _OtherEra(Exception):
    """The answer that a server of the other era might give; ``finding`` is what it means if it is not one."""

    def __init__(self, finding: Finding) -> None:
        super().__init__()
        self.finding = finding


async def _opened(visit: Visit, client: httpx2.AsyncClient, era: Era) -> None:
    message, headers = opening(era)
    async with _posted(visit, client, visit.endpoint.url or "", message, headers) as response:
        await _judge(visit, response)
        visit.refusal = None
        visit.passed("auth", "protocol")
        try:
            result = result_of(visit, await answer_in(visit, response))
        except RpcError as error:
            finding = rpc_finding(visit, error)
            raise _OtherEra(finding) if error.code in OTHER_ERA_CODES else finding from None
        found = introduction(visit, era, result)
    visit.passed("protocol", "call")
    visit.conclude(found)
    await _end_session(client, visit.endpoint.url or "", response.headers.get("mcp-session-id"))


@asynccontextmanager
async def _posted(
    visit: Visit, client: httpx2.AsyncClient, url: str, message: dict[str, Any], headers: dict[str, str]
) -> AsyncIterator[httpx2.Response]:
    """The response, its body not yet read; redirects are followed as the SDK does, within the origin only."""
    known = {"accept": ACCEPT, "content-type": JSON, **headers}
    request = client.build_request("POST", url, headers=known, content=json.dumps(message))
    response = await same_place(visit, client, request)
    try:
        yield response
    finally:
        await response.aclose()


async def _judge(visit: Visit, response: httpx2.Response) -> None:
    """Raises what the status means. An error in JSON-RPC at a status of 4xx is left to the one who reads the body."""
    if 200 <= response.status_code < 300:
        return
    body = (await response.aread()).decode(errors="replace")
    finding = judged(visit, response.status_code, response.headers, body)
    if finding:
        raise _OtherEra(finding) if response.status_code in OTHER_ERA_STATUSES else finding


async def _end_session(client: httpx2.AsyncClient, url: str, session: str | None) -> None:
    """A session that was opened is closed again; whether that works is the server's affair."""
    if session and session.isprintable():
        with suppress(Exception), anyio.move_on_after(GOODBYE_S):
            await client.delete(url, headers={"mcp-session-id": session})


async def _over_sse(visit: Visit, client: httpx2.AsyncClient) -> None:
    url = visit.endpoint.url or ""
    request = client.build_request("GET", url, headers={"accept": EVENT_STREAM, "cache-control": "no-store"})
    response = await same_place(visit, client, request)
    try:
        if not 200 <= response.status_code < 300:
            body = (await response.aread()).decode(errors="replace")
            finding = judged(visit, response.status_code, response.headers, body)
            if finding:
                raise finding
        unfit = await content_finding(visit, response, EVENT_STREAM)
        if unfit:
            raise unfit
        visit.passed("auth", "protocol")
        found = await _greeted(visit, client, response)
    finally:
        await response.aclose()
    visit.passed("protocol", "call")
    visit.conclude(found)


async def _greeted(visit: Visit, client: httpx2.AsyncClient, stream: httpx2.Response) -> dict[str, Any]:
    """Posts where the stream says, and waits on the stream for the answer."""
    async for event in httpx2.EventSource(stream):
        if event.event == "endpoint":
            await _post_to_endpoint(visit, client, event.data)
        elif event.event == "message" and event.data:
            message = parsed(visit, event.data)
            if is_answer(message):
                try:
                    return introduction(visit, "handshake", result_of(visit, message))
                except RpcError as error:
                    raise rpc_finding(visit, error) from None
    raise not_mcp(visit, "event stream ended without an answer")


async def _post_to_endpoint(visit: Visit, client: httpx2.AsyncClient, reference: str) -> None:
    url = within_origin(visit, reference)
    if url is None:
        raise not_mcp(visit, "endpoint at another origin")
    message, headers = opening("handshake")
    async with _posted(visit, client, url, message, headers) as response:
        body = (await response.aread()).decode(errors="replace")
        finding = judged(visit, response.status_code, response.headers, body)
        if finding:
            raise finding
