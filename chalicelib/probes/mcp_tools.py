"""What an MCP server offers: its tools with a stable fingerprint, and how many resources and prompts it has.

Everything is bounded: 2,000 tools are read at most, a tool is kept as a name of 128 characters, a description of 200
and a fingerprint, and the list ends where it would grow beyond 64 KiB of JSON. ``tools_count`` and
``tools_fingerprint`` cover all tools that were read, so that a change beyond that end is still seen; ``tools_cut``
says that there is one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from chalicelib.probes.kept import shortened, size_of

if TYPE_CHECKING:
    from mcp.client.session import ClientSession
    from mcp_types import Tool

MOST_ITEMS = 2_000
MOST_PAGES = 200
NAME, DESCRIPTION = 128, 200
#: Of the list of tools, as compact JSON in UTF-8.
MOST_BYTES = 64 * 1024


async def collected(session: ClientSession) -> dict[str, Any]:
    """``tools`` as far as they fit, how many there are of them and whether that is all, their fingerprint, and the
    numbers of ``resources`` and ``prompts``; asks for what is offered."""
    offered = session.server_capabilities
    tools = await _pages(lambda params: _tools(session, params)) if offered and offered.tools else NOTHING
    resources = await _pages(lambda params: _resources(session, params)) if offered and offered.resources else NOTHING
    prompts = await _pages(lambda params: _prompts(session, params)) if offered and offered.prompts else NOTHING
    kept = within_budget(tools.items)
    return {
        "tools": kept,
        "tools_count": len(tools.items),
        "tools_cut": tools.goes_on or len(kept) < len(tools.items),
        "resources": len(resources.items),
        "prompts": len(prompts.items),
        "tools_fingerprint": fingerprint(tools.items),
    }


def within_budget(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first tools, as many as :data:`MOST_BYTES` hold."""
    left = MOST_BYTES - len("[]")
    for index, tool in enumerate(tools):
        left -= size_of(tool) + len(",")
        if left < 0:
            return tools[:index]
    return tools


class Listed(NamedTuple):
    """What was read of a list in pages, and whether the server has more of it."""

    items: list[Any]
    goes_on: bool


NOTHING = Listed([], goes_on=False)
Page = tuple[list[Any], str | None]


async def _pages(fetch: Callable[[Any], Awaitable[Page]]) -> Listed:
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
    goes_on = len(items) > MOST_ITEMS or (cursor is not None and cursor not in cursors)
    return Listed(items[:MOST_ITEMS], goes_on)


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
        "name": shortened(tool.name, NAME),
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
