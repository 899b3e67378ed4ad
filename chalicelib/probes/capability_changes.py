"""What changed in a server's tools between two checks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changes(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, list[str]] | None:
    """``{"added": […], "removed": […], "changed": […]}`` with names of tools in order, or None if nothing changed.

    None as well while one side knows no tools: a first look, or a scheduled check that did not ask for them.
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


def _fingerprints(capabilities: Mapping[str, Any] | None) -> dict[str, str] | None:
    tools = (capabilities or {}).get("tools")
    if not isinstance(tools, list):
        return None
    return {str(tool["name"]): str(tool.get("fingerprint")) for tool in tools}
