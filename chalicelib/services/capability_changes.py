"""What an MCP server offers now that it did not before. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changes(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Names of tools ``added``, ``removed`` and ``changed`` between two checks, in order; None if nothing did.

    A first look is no change, and neither is a check that did not list tools. A tool has changed if its fingerprint
    has, which covers its description, schemas and annotations; nothing else that is stored of it counts.

    Of a server with more tools than are kept (``tools_cut``), only the first are known by name: that a tool is not
    among them proves nothing, so none is called added to a list that was cut, or removed from one that is cut now. Then
    ``partial`` is true: there may be more changes than are named, or none of them is.
    """
    before, after = _fingerprints(old), _fingerprints(new)
    if before is None or after is None:
        return None
    found = {
        "added": [] if _is_cut(old) else sorted(after.keys() - before.keys()),
        "removed": [] if _is_cut(new) else sorted(before.keys() - after.keys()),
        "changed": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
    }
    if _is_cut(old) or _is_cut(new):
        return {**found, "partial": True} if any(found.values()) or _differ(old, new) else None
    return found if any(found.values()) else None


def _is_cut(capabilities: Mapping[str, Any] | None) -> bool:
    return bool((capabilities or {}).get("tools_cut"))


def _differ(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> bool:
    """Whether all tools together are others than before, as far as that is known."""
    before, after = ((looked or {}).get("tools_fingerprint") for looked in (old, new))
    return None not in (before, after) and before != after


def _fingerprints(capabilities: Mapping[str, Any] | None) -> dict[str, Any] | None:
    tools = (capabilities or {}).get("tools")
    if not isinstance(tools, list):
        return None
    return {str(tool.get("name")): tool.get("fingerprint") for tool in tools if isinstance(tool, Mapping)}
