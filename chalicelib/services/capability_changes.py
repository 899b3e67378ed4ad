"""What an MCP server offers now that it did not before. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changes(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, list[str]] | None:
    """Names of tools ``added``, ``removed`` and ``changed`` between two checks, in order; None if nothing did.

    A first look is no change, and neither is a check that did not list tools. A tool has changed if its fingerprint
    has, which covers its description, schemas and annotations; nothing else that is stored of it counts.
    """
    before, after = _fingerprints(old), _fingerprints(new)
    if before is None or after is None:
        return None
    found = {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
    }
    return found if any(found.values()) else None


def _fingerprints(capabilities: Mapping[str, Any] | None) -> dict[str, Any] | None:
    tools = (capabilities or {}).get("tools")
    if not isinstance(tools, list):
        return None
    return {str(tool.get("name")): tool.get("fingerprint") for tool in tools if isinstance(tool, Mapping)}
