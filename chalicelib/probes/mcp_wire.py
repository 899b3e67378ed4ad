"""MCP on the wire without the SDK: the first request of each protocol era, and how to read its answer.

The SDK costs 64 MB and half a second to import (``mcp.md``), and a scheduled check needs one request of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import httpx2

from chalicelib.model import Verdict
from chalicelib.probes.kept import shortened
from chalicelib.probes.verdicts import Finding
from chalicelib.probes.visit import Visit

Era = Literal["handshake", "stateless"]

HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
STATELESS_VERSION = "2026-07-28"
CLIENT_INFO = {"name": "integration-system", "version": "1"}
REQUEST_ID = 1
JSON, EVENT_STREAM = "application/json", "text/event-stream"

#: "Method not found" and "unsupported protocol version" (2026-07-28) are how servers of the other era answer.
OTHER_ERA_CODES = (-32601, -32022)
OTHER_ERA_STATUSES = (400, 404, 405, 406)


class RpcError(Exception):
    """The server answered with a JSON-RPC error. ``text`` is its own words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"JSON-RPC error {code}")
        self.code = code
        self.text = text


def era_of(capabilities: Mapping[str, Any] | None) -> Era | None:
    """The era that a server spoke when it was last checked; None if it never was."""
    version = (capabilities or {}).get("protocol_version")
    if not isinstance(version, str):
        return None
    return "handshake" if version in HANDSHAKE_VERSIONS else "stateless"


def opening(era: Era) -> tuple[dict[str, Any], dict[str, str]]:
    """The first request of an era, and the HTTP headers that belong to it."""
    if era == "handshake":
        params: dict[str, Any] = {
            "protocolVersion": HANDSHAKE_VERSIONS[-1],
            "capabilities": {},
            "clientInfo": CLIENT_INFO,
        }
        return {"jsonrpc": "2.0", "id": REQUEST_ID, "method": "initialize", "params": params}, {}
    meta = {
        "io.modelcontextprotocol/protocolVersion": STATELESS_VERSION,
        "io.modelcontextprotocol/clientInfo": CLIENT_INFO,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    message = {"jsonrpc": "2.0", "id": REQUEST_ID, "method": "server/discover", "params": {"_meta": meta}}
    return message, {"mcp-protocol-version": STATELESS_VERSION, "mcp-method": "server/discover"}


def introduction(visit: Visit, era: Era, result: Any) -> dict[str, Any]:
    """``protocol_version`` and ``server`` from the result of :func:`opening`. Raises :class:`Finding`."""
    if not isinstance(result, dict) or not isinstance(result.get("capabilities"), dict):
        raise not_mcp(visit, "result without capabilities")
    if era == "stateless":
        versions = result.get("supportedVersions")
        version = STATELESS_VERSION if isinstance(versions, list) and STATELESS_VERSION in versions else versions
        meta = result.get("_meta")
        info = meta.get("io.modelcontextprotocol/serverInfo") if isinstance(meta, dict) else None
    else:
        version, info = result.get("protocolVersion"), result.get("serverInfo")
        if not isinstance(info, dict):
            raise not_mcp(visit, "result without serverInfo")
    if version not in (*HANDSHAKE_VERSIONS, STATELESS_VERSION):
        raise unknown_version(visit, version)
    return {"protocol_version": version, "server": server_of(info)}


def server_of(info: Any) -> dict[str, Any] | None:
    if not isinstance(info, dict):
        return None
    return {name: _word(info.get(name)) for name in ("name", "version")}


def _word(value: Any) -> str:
    return str(shortened(value)) if isinstance(value, str | int | float) else ""


def not_mcp(visit: Visit, detail: str, text: str | None = None) -> Finding:
    message = (
        "What answers at this address does not speak MCP as it should. Check the path of the URL and the protocol."
    )
    if visit.endpoint.kind == "stdio":
        message = "The command does not speak MCP on its standard output. Check the command and its arguments."
    return Finding(Verdict.PROTOCOL, _step(visit), message, detail=visit.with_excerpt(detail, text))


def unknown_version(visit: Visit, version: Any) -> Finding:
    message = "The server speaks a version of the MCP protocol that is not known here. Ask its operator to update it."
    return Finding(
        Verdict.PROTOCOL, "protocol", message, detail=visit.with_excerpt("unsupported version", _word(version))
    )


def rpc_finding(visit: Visit, error: RpcError) -> Finding:
    message = (
        "The server understood the protocol but refused the request. Check this connection's settings with its docs."
    )
    return Finding(
        Verdict.PROTOCOL, _step(visit), message, detail=visit.with_excerpt(f"JSON-RPC error {error.code}", error.text)
    )


def _step(visit: Visit) -> str:
    return visit.under_way if visit.under_way in ("protocol", "call") else "protocol"


def parsed(visit: Visit, text: str | bytes) -> dict[str, Any]:
    """One JSON-RPC message. Raises :class:`Finding`."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise not_mcp(
            visit, "malformed JSON", text.decode(errors="replace") if isinstance(text, bytes) else text
        ) from None
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise not_mcp(visit, "no JSON-RPC message")
    return message


def result_of(visit: Visit, message: Mapping[str, Any], *, any_id: bool = False) -> Any:
    """The result in the answer to our request. Raises :class:`RpcError`, or :class:`Finding` for anything else."""
    error = message.get("error")
    if isinstance(error, dict) and message.get("id") in (REQUEST_ID, None):
        code = error.get("code")
        raise RpcError(code if isinstance(code, int) else 0, str(error.get("message", "")))
    if not any_id and message.get("id") != REQUEST_ID:
        raise not_mcp(visit, "answer to a request that was not sent")
    if "result" not in message:
        raise not_mcp(visit, "answer without a result")
    return message["result"]


def is_answer(message: Mapping[str, Any]) -> bool:
    """Not a request or a notification of the server, which may come first on a stream."""
    return "method" not in message


def content_type(response: httpx2.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


async def content_finding(visit: Visit, response: httpx2.Response, *wanted: str) -> Finding | None:
    """What it means that the response is of none of the ``wanted`` types; None if it is of one."""
    kind = content_type(response)
    if kind in wanted:
        return None
    text = (await response.aread()).decode(errors="replace")
    return not_mcp(visit, f"content type {kind[:60] or 'missing'}", text)


async def answer_in(visit: Visit, response: httpx2.Response) -> dict[str, Any]:
    """The answer in the body of a POST, in either reply form. Raises :class:`Finding`.

    On an event stream the id does not matter, as the stream belongs to this one request.
    """
    finding = await content_finding(visit, response, JSON, EVENT_STREAM)
    if finding:
        raise finding
    if content_type(response) == JSON:
        return parsed(visit, await response.aread())
    async for event in httpx2.EventSource(response):
        if event.event == "message" and event.data:
            message = parsed(visit, event.data)
            if is_answer(message):
                return {**message, "id": REQUEST_ID}
    raise not_mcp(visit, "event stream ended without an answer")
