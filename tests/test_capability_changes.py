"""Two looks at a server's tools, and what is said to have changed in between."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def listed(server: dict[str, str], order: list[str], kept: int) -> dict[str, Any]:
    """What is known of a server whose tools came in this order, of which only the first fit."""
    return {
        **tools(**{name: server[name] for name in order[:kept]}),
        "tools_count": len(server),
        "tools_cut": kept < len(server),
        "tools_fingerprint": str(sorted(server.items())),
    }


SERVERS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("12"))


@settings(deadline=None)
@given(st.data(), SERVERS, SERVERS)
def test_of_lists_that_were_cut_nothing_is_said_that_is_not_so(
    data: st.DataObject, before: dict[str, str], after: dict[str, str]
) -> None:
    old, new = (
        listed(server, data.draw(st.permutations(sorted(server))), data.draw(st.integers(0, len(server))))
        for server in (before, after)
    )
    found = changes(old, new)

    assert (found is not None) == (before != after)
    if found:
        assert set(found["added"]) <= after.keys() - before.keys()
        assert set(found["removed"]) <= before.keys() - after.keys()
        assert all(before[name] != after[name] for name in found["changed"])
        assert found.get("partial", False) == (old["tools_cut"] or new["tools_cut"])


A, B, C = ("a", "1"), ("b", "1"), ("c", "1")


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (([A, B], 1), ([A, B], 1), None),
        (([A, B], 1), ([B, A], 1), None),
        (([A, B], 2), ([A, B], 1), None),
        (([A, B], 1), ([A, B], 2), None),
        (([A], 1), ([A, B, C], 2), {"added": ["b"], "removed": [], "changed": [], "partial": True}),
        (([A, B, C], 2), ([A], 1), {"added": [], "removed": ["b"], "changed": [], "partial": True}),
        (([A, B], 1), ([("a", "2"), B], 1), {"added": [], "removed": [], "changed": ["a"], "partial": True}),
        (([A, B], 1), ([A, ("b", "2")], 1), {"added": [], "removed": [], "changed": [], "partial": True}),
        (([A, B], 1), ([A, C], 1), {"added": [], "removed": [], "changed": [], "partial": True}),
    ],
    ids=[
        "nothing", "another order", "the cut came", "the cut went", "added and cut", "removed and cut", "changed",
        "changed beyond the cut", "another one beyond the cut",
    ],
)  # fmt: skip
def test_what_a_cut_hides_is_not_called_added_or_removed(old: Any, new: Any, found: Any) -> None:
    before, after = (listed(dict(pairs), [name for name, _ in pairs], kept) for pairs, kept in (old, new))

    assert changes(before, after) == found


def test_without_a_fingerprint_of_all_a_cut_list_says_what_it_can() -> None:
    whole, cut = tools(a="1", b="1"), {**tools(a="1"), "tools_cut": True}

    assert changes(whole, cut) is None
    assert changes(whole, {**cut, **tools(a="2")}) == {"added": [], "removed": [], "changed": ["a"], "partial": True}
