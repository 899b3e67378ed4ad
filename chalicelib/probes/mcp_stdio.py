"""MCP over the standard input and output of a command: a full session by the SDK, or one bare request."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from chalicelib.probes.mcp_wire import (
    OTHER_ERA_CODES,
    Era,
    RpcError,
    era_of,
    introduction,
    is_answer,
    not_mcp,
    opening,
    parsed,
    result_of,
    rpc_finding,
)
from chalicelib.probes.stdio import Child, running
from chalicelib.probes.verdicts import Finding
from chalicelib.probes.visit import Visit

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

    from chalicelib.probes.mcp_session import Abort


@asynccontextmanager
async def _command(visit: Visit) -> AsyncIterator[Child]:
    visit.passed("policy", "protocol")
    env = {**visit.shown.env, **visit.endpoint.env}  # what the secrets are sealed to stays as it is
    async with running(visit.endpoint.command or (), env) as child:
        yield child


async def check_bare(visit: Visit) -> None:
    """Finds protocol version and server of a command. Raises :class:`Finding`."""
    async with _command(visit) as child:
        known = era_of(visit.target.capabilities) or "handshake"
        try:
            found = await _opened(visit, child, known)
        except RpcError as first:
            if first.code not in OTHER_ERA_CODES:
                raise rpc_finding(visit, first) from None
            try:
                found = await _opened(visit, child, "stateless" if known == "handshake" else "handshake")
            except RpcError:
                raise rpc_finding(visit, first) from None
        visit.passed("protocol", "call")
        visit.conclude(found)


async def _opened(visit: Visit, child: Child, era: Era) -> dict[str, Any]:
    message, _ = opening(era)
    child.write_line(json.dumps(message).encode())
    while True:
        answer = await _next_message(visit, child)
        if is_answer(answer):
            return introduction(visit, era, result_of(visit, answer))


async def _next_message(visit: Visit, child: Child) -> dict[str, Any]:
    """The next message; lines that are none are passed over, but remembered in case nothing better comes."""
    while True:
        line = await child.read_line()
        if line is None:
            raise await _ended(visit, child)
        if not line.strip():
            continue
        try:
            return parsed(visit, line)
        except Finding as finding:
            visit.suspicion = finding


async def _ended(visit: Visit, child: Child) -> Finding:
    if visit.suspicion:
        return visit.suspicion
    visit.suspicion = not_mcp(visit, "the command closed its output", child.last_words)
    status = await child.exit_status()
    if status is None:
        return visit.suspicion
    return not_mcp(visit, f"the command exited with status {status}", child.last_words)


async def check_full(visit: Visit) -> None:
    """Finds all capabilities of a command. Raises :class:`Finding`, or what the SDK raises."""
    from chalicelib.probes.mcp_session import converse

    await converse(visit, lambda abort: _transport(visit, abort))


@asynccontextmanager
async def _transport(visit: Visit, abort: Abort) -> AsyncIterator[TransportStreams]:
    from mcp.shared.message import SessionMessage
    from mcp_types import jsonrpc_message_adapter
    from pydantic import ValidationError

    inbound, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, outbound = anyio.create_memory_object_stream[SessionMessage](0)

    async def receive(child: Child) -> None:
        while True:
            message = await _next_message(visit, child)
            try:
                known = jsonrpc_message_adapter.validate_python(message, by_name=False)
            except ValidationError:
                raise not_mcp(visit, "malformed message") from None
            await inbound.send(SessionMessage(known))

    async def receive_until_it_ends(child: Child) -> None:
        try:
            await receive(child)
        except Finding as finding:
            abort(finding)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the session is over and reads no more

    async def send(child: Child) -> None:
        async for item in outbound:
            text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
            child.write_line(text.encode())

    async with inbound, read, write, outbound, _command(visit) as child, anyio.create_task_group() as tasks:
        tasks.start_soon(receive_until_it_ends, child)
        tasks.start_soon(send, child)
        yield read, write
        tasks.cancel_scope.cancel()
