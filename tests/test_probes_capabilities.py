"""What an MCP server offers: all pages of it up to a bound, a fingerprint that is stable, and what has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest
from mcp_types import Tool

from chalicelib.model import CheckResult, Source, Verdict
from chalicelib.probes import run_check
from chalicelib.probes.kept import MOST_BYTES, size_of
from chalicelib.probes.mcp_tools import MOST_PAGES
from chalicelib.services.checks import result_row
from tests.peers.mcp_servers import paged_server, sdk_server
from tests.peers.targets import a_prober, a_target

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}


def a_tool(name: str, description: str = "Tells the weather", schema: Mapping[str, Any] = SCHEMA, **more: Any) -> Tool:
    return Tool(name=name, description=description, input_schema=dict(schema), **more)


def check(tools: Sequence[Tool], page: int = 10, *, mode: Any = "full", **how: Any) -> CheckResult:
    capabilities = how.pop("capabilities", None)
    with sdk_server(server=paged_server(tools, page=page, **how.pop("offers", {})), **how) as server:
        config = {"protocol": "http", "url": server.url}
        return run_check(a_prober(total_s=20), a_target(config=config, capabilities=capabilities), mode)


def found(tools: Sequence[Tool], page: int = 10, **how: Any) -> dict[str, Any]:
    result = check(tools, page, **how)
    assert result.verdict is Verdict.OK
    return dict(result.capabilities or {})


@pytest.mark.parametrize("legacy_only", [False, True], ids=["stateless", "handshake"])
def test_every_page_is_read(legacy_only: bool) -> None:
    tools = [a_tool(f"tool_{number:02}") for number in range(25)]
    capabilities = found(tools, legacy_only=legacy_only, offers={"others": 23})

    assert [tool["name"] for tool in capabilities["tools"]] == [tool.name for tool in tools]
    assert {tool["description"] for tool in capabilities["tools"]} == {"Tells the weather"}
    assert (capabilities["resources"], capabilities["prompts"]) == (23, 23)


def test_no_more_than_two_thousand_are_read() -> None:
    capabilities = found([a_tool(f"tool_{number}") for number in range(2_050)], page=300)

    assert (capabilities["tools_count"], capabilities["tools_cut"]) == (2_000, True)


def test_a_list_that_fits_is_kept_whole() -> None:
    capabilities = found([a_tool(f"tool_{number}") for number in range(300)], page=300)

    assert (len(capabilities["tools"]), capabilities["tools_count"], capabilities["tools_cut"]) == (300, 300, False)


@pytest.mark.parametrize("pages", [MOST_PAGES, MOST_PAGES + 1])
def test_a_list_with_pages_that_were_not_read_counts_as_cut(pages: int) -> None:
    capabilities = found([a_tool(f"tool_{number}") for number in range(pages)], page=1)

    assert (capabilities["tools_count"], capabilities["tools_cut"]) == (MOST_PAGES, pages > MOST_PAGES)


#: As large as a tool can be: astral letters take four bytes each, quotation marks two.
LARGE = {
    "long": lambda number: a_tool("\U0001f600" * 124 + f"{number:04}", "\U0001f600" * 300),
    "quoted": lambda number: a_tool('"' * 124 + f"{number:04}", "\\" * 300),
    "tiny": lambda number: Tool(name=f"{number}", input_schema={"type": "object"}),
    "unprintable": lambda number: a_tool("\x00" * 124 + f"{number:04}", "\x01" * 300),
}


@pytest.mark.parametrize("large", LARGE.values(), ids=LARGE)
def test_however_much_a_server_offers_little_of_it_is_kept(large: Callable[[int], Tool]) -> None:
    tools = [large(number) for number in range(1_900)]
    capabilities = found(tools, page=100, offers={"others": 2_050})

    assert size_of(capabilities) < MOST_BYTES
    assert size_of(capabilities["tools"]) <= 64 * 1024
    assert 40 < len(capabilities["tools"]) < 1_900
    assert (capabilities["tools_count"], capabilities["tools_cut"]) == (1_900, True)
    assert [len(tool["name"]) <= 128 for tool in capabilities["tools"]] == [True] * len(capabilities["tools"])


def test_a_change_beyond_what_is_kept_is_recorded_and_nobody_is_called_removed() -> None:
    many = [a_tool(f"tool_{number:04}", "x" * 300) for number in range(1_000)]
    otherwise = [*many[:-1], a_tool("tool_0999", "y" * 300)]
    before, after = check(many, page=500), check(otherwise, page=500)
    shuffled = check(many[::-1], page=500)

    assert dict(after.capabilities or {})["tools"] == dict(before.capabilities or {})["tools"]
    assert row(after, before.capabilities)["capability_changes"] == {
        "added": [],
        "removed": [],
        "changed": [],
        "partial": True,
    }
    assert dict(shuffled.capabilities or {})["tools"] != dict(before.capabilities or {})["tools"]
    assert row(shuffled, before.capabilities)["capability_changes"] is None


def test_pages_that_turn_in_a_circle_come_to_an_end() -> None:
    assert found([a_tool("never given")], page=0)["tools"] == []


def test_the_fingerprint_depends_on_neither_the_order_nor_the_pages() -> None:
    reversed_schema = {name: SCHEMA[name] for name in reversed(SCHEMA)}
    some = [a_tool("a"), a_tool("b", schema=SCHEMA), a_tool("c")]
    same = [a_tool("c"), a_tool("b", schema=reversed_schema), a_tool("a")]

    assert found(some, page=3)["tools_fingerprint"] == found(same, page=1)["tools_fingerprint"]


OTHER: dict[str, Tool] = {
    "name": a_tool("storm"),
    "description": a_tool("weather", "Tells the weather, and deletes your files"),
    "long description": a_tool("weather", "Tells the weather" + " " * 300 + "and deletes your files"),
    "schema": a_tool("weather", schema={**SCHEMA, "required": ["city"]}),
    "output": a_tool("weather", output_schema=SCHEMA),
    "annotations": a_tool("weather", annotations={"destructiveHint": True}),
}


def test_the_fingerprint_tells_every_change_that_matters() -> None:
    fingerprints = {name: found([tool])["tools_fingerprint"] for name, tool in OTHER.items()}
    fingerprints["nothing"] = found([a_tool("weather")])["tools_fingerprint"]

    assert len(set(fingerprints.values())) == len(OTHER) + 1


def row(result: CheckResult, before: Mapping[str, Any] | None) -> dict[str, Any]:
    return result_row(
        UUID(int=1),
        result,
        source=Source.TEST,
        intent="test",
        failures_before=0,
        old_capabilities=before,
        interval_s=300,
        backoff_cap_s=3_600,
    )


def test_a_change_between_two_checks_is_recorded_with_names() -> None:
    before = [a_tool("stays"), a_tool("goes"), a_tool("changes")]
    after = [a_tool("comes"), a_tool("changes", "Tells the weather otherwise"), a_tool("stays")]
    first = check(before)
    second = check(after, capabilities=first.capabilities)
    again = check(after, capabilities=second.capabilities)

    assert row(first, None)["capability_changes"] is None
    assert row(second, first.capabilities)["capability_changes"] == {
        "added": ["comes"],
        "removed": ["goes"],
        "changed": ["changes"],
    }
    assert row(again, second.capabilities)["capability_changes"] is None


def test_a_bare_check_between_two_full_ones_neither_loses_nor_reports_anything() -> None:
    first = check([a_tool("a")])
    bare = check([a_tool("a"), a_tool("b")], mode="bare", capabilities=first.capabilities)
    second = check([a_tool("a"), a_tool("b")], capabilities=bare.capabilities)

    assert row(bare, first.capabilities)["capability_changes"] is None
    assert row(second, bare.capabilities)["capability_changes"] == {"added": ["b"], "removed": [], "changed": []}
