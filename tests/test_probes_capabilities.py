"""What an MCP server offers: all pages of it up to a bound, a fingerprint that is stable, and what has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest
from mcp_types import Tool

from chalicelib.model import CheckResult, Source, Verdict
from chalicelib.probes import run_check
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


def test_no_more_than_two_thousand_are_kept() -> None:
    capabilities = found([a_tool(f"tool_{number}") for number in range(2_050)], page=300)

    assert len(capabilities["tools"]) == 2_000


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
