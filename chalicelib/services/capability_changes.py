"""What an MCP server offers now that it did not before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changes(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, list[str]] | None:
    """Names of tools ``added``, ``removed`` and ``changed`` between two checks; None if nothing did.

    A first look is no change, and neither is a check that did not list tools. A tool has changed if its description or
    the fingerprint of its schema has.
    """
    if not old or not new or "tools" not in old or "tools" not in new:
        return None
    if old.get("tools_fingerprint") == new.get("tools_fingerprint") is not None:
        return None
    before = {tool["name"]: tool for tool in old["tools"]}
    after = {tool["name"]: tool for tool in new["tools"]}
    found = {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(name for name in after.keys() & before.keys() if after[name] != before[name]),
    }
    return found if any(found.values()) else None
