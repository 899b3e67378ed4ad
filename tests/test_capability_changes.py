"""Two looks at a server's tools, and what is said to have changed in between."""

from __future__ import annotations

from typing import Any

import pytest

from chalicelib.services.capability_changes import changes


def tools(**fingerprints: str) -> dict[str, Any]:
    return {"tools": [{"name": name, "description": "", "fingerprint": text} for name, text in fingerprints.items()]}


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (tools(a="1"), tools(a="1", c="1", b="1"), {"added": ["b", "c"], "removed": [], "changed": []}),
        (tools(a="1", b="1"), tools(b="1"), {"added": [], "removed": ["a"], "changed": []}),
        (tools(a="1", b="1"), tools(b="2", a="1"), {"added": [], "removed": [], "changed": ["b"]}),
        (tools(a="1"), tools(), {"added": [], "removed": ["a"], "changed": []}),
        (tools(), tools(a="1"), {"added": ["a"], "removed": [], "changed": []}),
    ],
)
def test_what_came_went_and_changed_is_told_by_name(old: Any, new: Any, found: Any) -> None:
    assert changes(old, new) == found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (None, tools(a="1")),
        ({}, tools(a="1")),
        (tools(a="1"), None),
        (tools(a="1"), {"protocol_version": "2025-11-25"}),
        (tools(a="1", b="2"), tools(b="2", a="1")),
        ({"account": "Ada", "tools": 3}, {"account": "Ada", "tools": 4}),
        ({"account": "Ada", "tools": ["saw"]}, {"account": "Ada", "tools": ["axe"]}),
    ],
    ids=["first look", "first list", "failed", "not listed", "other order", "a vendor's number", "a vendor's words"],
)
def test_nothing_is_said_where_nothing_changed_or_nothing_is_known(old: Any, new: Any) -> None:
    assert changes(old, new) is None


def test_only_the_fingerprint_counts() -> None:
    """A release that stores more of each tool must not announce a change of every server."""
    old, new = tools(a="1"), tools(a="1")
    new["tools"][0]["title"] = "A"

    assert changes(old, new) is None
