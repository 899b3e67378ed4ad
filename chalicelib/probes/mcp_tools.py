"""What an MCP server offers: its tools with a stable fingerprint, and how many resources and prompts it has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from chalicelib.probes.visit import shortened

if TYPE_CHECKING:
    from mcp.client.session import ClientSession
    from mcp_types import Tool

MOST_ITEMS = 2_000
MOST_PAGES = 200
DESCRIPTION = 200


async def collected(session: ClientSession) -> dict[str, Any]:
    """``tools``, ``tools_fingerprint`` and the numbers of ``resources`` and ``prompts``; asks for what is offered."""
    offered = session.server_capabilities
    tools: list[dict[str, Any]] = []
    if offered and offered.tools:
        tools = await _pages(lambda params: _tools(session, params))
    resources = await _pages(lambda params: _resources(session, params)) if offered and offered.resources else []
    prompts = await _pages(lambda params: _prompts(session, params)) if offered and offered.prompts else []
    return {
        "tools": tools,
        "resources": len(resources),
        "prompts": len(prompts),
        "tools_fingerprint": fingerprint(tools),
    }


Page = tuple[list[Any], str | None]


async def _pages(fetch: Callable[[Any], Awaitable[Page]]) -> list[Any]:
    """Everything on all pages, at most :data:`MOST_ITEMS`; ends with a cursor that was seen before."""
    from mcp_types import PaginatedRequestParams

    items: list[Any] = []
    cursors: set[str | None] = set()
    cursor: str | None = None
    while cursor not in cursors and len(cursors) < MOST_PAGES and len(items) < MOST_ITEMS:
        cursors.add(cursor)
        page, cursor = await fetch(PaginatedRequestParams(cursor=cursor) if cursor else None)
        items += page
        if cursor is None:
            break
    return items[:MOST_ITEMS]


async def _tools(session: ClientSession, params: Any) -> Page:
    result = await session.list_tools(params=params)
    return [_tool(tool) for tool in result.tools], result.next_cursor


async def _resources(session: ClientSession, params: Any) -> Page:
    result = await session.list_resources(params=params)
    return [None for _ in result.resources], result.next_cursor


async def _prompts(session: ClientSession, params: Any) -> Page:
    result = await session.list_prompts(params=params)
    return [None for _ in result.prompts], result.next_cursor


def _tool(tool: Tool) -> dict[str, Any]:
    return {
        "name": shortened(tool.name, 128),
        "description": shortened(tool.description, DESCRIPTION),
        "fingerprint": schema_fingerprint(tool.model_dump(by_alias=True, mode="json", exclude_none=True)),
    }


def schema_fingerprint(tool: dict[str, Any]) -> str:
    """Changes when what the tool does or takes changes: name, description, schemas and annotations, nothing else."""
    kept = ("name", "description", "inputSchema", "outputSchema", "annotations")
    return _hash({name: tool[name] for name in kept if name in tool})[:16]


def fingerprint(tools: list[dict[str, Any]]) -> str:
    """One fingerprint for all tools, whatever order they come in."""
    return _hash(sorted((tool["name"], tool["fingerprint"]) for tool in tools))


def _hash(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
