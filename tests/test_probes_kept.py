"""Whatever the far side sends, a result can be recorded: plain JSON of small size, such as PostgreSQL takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chalicelib.model import CheckResult, Verdict
from chalicelib.probes import run_check
from chalicelib.probes.kept import KEY, MOST_BYTES, TEXT, fitting, legible, shortened, size_of
from chalicelib.probes.mcp_wire import HANDSHAKE_VERSIONS
from chalicelib.probes.stdio_remote import UNREADABLE, result_in
from tests.peers.commands import script
from tests.peers.raw import Loop, Request, background, http_server, response
from tests.peers.targets import a_prober, a_target

MODES = ("full", "bare")

#: What Python reads from a body though it is no JSON, or none that a database takes.
ODD = [float("nan"), float("inf"), float("-inf"), 1e308, 10**400, -(10**400), 2**63, "\x00", "\ud800", "a\x00b\udfff"]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()))
KEYS = st.text(st.characters(exclude_categories=()), max_size=100) | st.sampled_from(["\x00", "\ud800", "a\x00"])
JSONISH = st.recursive(
    SCALARS | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=60) | st.dictionaries(KEYS, inner, max_size=30),
    max_leaves=60,
)


def assert_recordable(value: Any) -> None:
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    assert text.encode()
    assert "\\u0000" not in text
    assert json.loads(text) == value


def depth_of(value: Any) -> int:
    if isinstance(value, Mapping):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def nested(levels: int, inside: Any, key: str | None = None) -> Any:
    for _ in range(levels):
        inside = [inside] if key is None else {key: inside}
    return inside


@settings(deadline=None)
@given(JSONISH)
def test_whatever_json_can_be_read_as_is_kept_plain_and_small(value: Any) -> None:
    kept = shortened(value)

    assert_recordable(kept)
    assert depth_of(kept) <= 1
    assert not isinstance(kept, list | dict) or len(kept) <= 50
    assert size_of(kept) < 50 * 4 * TEXT * 1.1 + 20 * 8 * KEY


@settings(deadline=None)
@given(st.dictionaries(KEYS, JSONISH, max_size=10))
def test_capabilities_are_plain_whatever_is_in_them(value: dict[str, Any]) -> None:
    kept = fitting(value)

    assert_recordable(kept)
    assert depth_of(kept) <= 6
    assert size_of(kept) < MOST_BYTES


@pytest.mark.parametrize("value", [*ODD, nested(900, "x"), nested(900, "x", "k"), {"x" * 10**6: "\U0001f600" * 10**6}])
def test_the_extremes_are_too(value: Any) -> None:
    for kept in (shortened(value), shortened([value]), shortened({"k": value}), fitting({"k": value})):
        assert_recordable(kept)
        assert size_of(kept) < MOST_BYTES


def test_of_long_lists_and_objects_the_first_members_are_kept() -> None:
    assert shortened(list(range(1_000))) == list(range(50))
    assert shortened({f"{number:04}": number for number in range(1_000)}) == {f"{n:04}": n for n in range(20)}


def test_values_that_are_fine_stay_as_they_are() -> None:
    fine = {"name": "Ada Ω 😀", "id": 2**63, "ratio": 0.5, "admin": True, "none": None, "scopes": ["a", "b"]}

    assert fitting(fine) == fine
    assert [shortened(value) for value in fine.values()] == list(fine.values())
    assert legible("two\nlines\tand\x00more") == "two lines and more"


def test_too_much_loses_its_largest_parts_first() -> None:
    large = {f"list {number}": ["\U0001f600" * TEXT] * (40 + number) for number in range(5)}
    kept = fitting({"small": "x", **large})

    assert set(kept) == {"small", "list 0", "list 1"}


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with background() as running:
        yield running


HOSTILE = (
    b'{"id": 1e999, "name": NaN, "big": %s, "text": "a\\u0000b\\ud800", "deep": %s, "list": [NaN, "\\u0000", [1]], '
    b'"object": {"a\\u0000\\ud800": "b", "-": -Infinity}, "many": [%s]}'
    % (b"9" * 400, b"[" * 200 + b"]" * 200, b",".join([b'"%s"' % (b"\\ud83d\\ude00" * 300)] * 60))
)
FIELDS = ("id", "name", "big", "text", "deep", "list", "object", "many")


def test_what_a_vendor_proves_can_be_recorded(loop: Loop) -> None:
    proves: dict[str, Any] = {field: {"path": field} for field in FIELDS}
    proves |= {f"many {number}": {"path": "many"} for number in range(5)} | {"header": {"header": "X-Plan"}}
    answer = response(200, HOSTILE, {"X-Plan": "\x80\x9f" * 1_000, "X-RateLimit-Limit": "\xff" * 1_000})
    with http_server(loop, lambda request: answer) as server:
        result = run_check(a_prober(), a_target("vendor", {"api_url": server.url}, definition={"proves": proves}))

    found = dict(result.capabilities or {})
    assert_recordable(result.as_json())
    assert size_of(found) < MOST_BYTES
    assert (found["id"], found["name"], found["big"]) == (None, None, None)
    assert (found["text"], found["list"], found["object"]) == ("a b ", [None, " "], {"a  ": "b", "-": None})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("status", [200, 401, 500])
def test_what_a_vendor_says_can_be_recorded(loop: Loop, mode: Any, status: int) -> None:
    headers = {"Content-Type": "text/\x9fhtml", "WWW-Authenticate": "Bearer \x80", "Retry-After": "9" * 400}
    answer = response(status, "a\x00b\u202e c".encode() + b"\xed\xa0\x80" + b"\xff" * 100, headers)
    with http_server(loop, lambda request: answer) as server:
        for config in ({"api_url": server.url}, {"protocol": "http", "url": server.url}):
            result = run_check(a_prober(), a_target("vendor" if "api_url" in config else "mcp", config), mode)

            assert_recordable(result.as_json())
            assert str(result.steps[-1].detail).isprintable()
            assert str(result.error_message).isprintable()


def introduced(request: Request, **changes: Any) -> bytes:
    """An answer to ``initialize``; texts are escaped in JSON, so that anything can be in them."""
    asked = json.loads(request.body)
    result = {
        "protocolVersion": HANDSHAKE_VERSIONS[-1],
        "capabilities": {},
        "serverInfo": {"name": "x", "version": "1"},
    }
    return response(200, json.dumps({"jsonrpc": "2.0", "id": asked.get("id"), "result": result | changes}).encode())


SERVERS: dict[str, dict[str, Any]] = {
    "a name": {"serverInfo": {"name": "a\x00\ud800" + "😀" * 10_000, "version": float("nan")}},
    "a nested name": {"serverInfo": {"name": nested(300, "x"), "version": nested(300, "x", "k")}},
    "instructions": {"instructions": "\U0001f600" * 100_000},
    "a version": {"protocolVersion": "\x00\ud800" * 1_000},
    "a nested version": {"protocolVersion": nested(300, 1e400)},
    "a long number": {"serverInfo": {"name": "x", "version": 10**4_000}},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("changes", SERVERS.values(), ids=SERVERS)
def test_an_mcp_servers_introduction_can_be_recorded(loop: Loop, changes: dict[str, Any], mode: Any) -> None:
    with http_server(loop, lambda request: introduced(request, **changes)) as server:
        result = run_check(a_prober(), a_target(config={"protocol": "http", "url": server.url}), mode)

    assert_recordable(result.as_json())
    assert size_of(result.as_json()) < 4_000
    assert result.steps[-1].detail != "unexpected failure"


@pytest.mark.parametrize("meta", ["x", [1], 7, {"io.modelcontextprotocol/serverInfo": "x"}])
def test_a_stateless_server_may_put_anything_in_its_meta(loop: Loop, meta: Any) -> None:
    known = {"protocol_version": "2026-07-28"}
    changes = {"supportedVersions": ["2026-07-28"], "_meta": meta}
    with http_server(loop, lambda request: introduced(request, **changes)) as server:
        target = a_target(config={"protocol": "http", "url": server.url}, capabilities=known)
        result = run_check(a_prober(), target, "bare")

    assert (result.verdict, dict(result.capabilities or {})["server"]) == (Verdict.OK, None)


ODD_TOOL = """
import json, sys
tool = {"name": "t", "description": "a\\0b", "inputSchema": {"type": "object", "title": "\\ud800\\0", "x": float("inf")}}
results = {
    "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                   "serverInfo": {"name": "x\\0", "version": "1"}},
    "tools/list": {"tools": [tool]},
}
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("method") in results:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": results[asked["method"]]}), flush=True)
    elif "id" in asked:
        error = {"code": -32601, "message": "unknown"}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error}), flush=True)
"""


def test_a_commands_tools_can_be_recorded(tmp_path: Any) -> None:
    program, *arguments = script(tmp_path, ODD_TOOL)
    config = {"protocol": "stdio", "command": program, "args": arguments}
    result = run_check(a_prober(), a_target(config=config))

    assert_recordable(result.as_json())
    assert (result.verdict, result.error_message) == (Verdict.OK, None)
    assert [tool["description"] for tool in dict(result.capabilities or {})["tools"]] == ["a b"]


GOOD: dict[str, Any] = {
    "verdict": "protocol", "response_time_ms": 7, "error_message": "Later.", "retry_after_s": 30,
    "checked_at": "2026-01-02T03:04:05Z", "capabilities": {"a": 1}, "steps": [{"name": "call", "ok": False, "ms": 7}],
}  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([*GOOD, "nothing"]), JSONISH)
def test_the_answer_of_a_runner_that_was_taken_over_can_be_recorded_or_is_refused(field: str, value: Any) -> None:
    try:
        given_steps = [{"name": "call", "ok": False, "ms": 7, "detail": value}]
        result = result_in({**GOOD, "steps": given_steps, field: value})
    except UNREADABLE:
        return
    assert isinstance(result, CheckResult)
    assert_recordable(result.as_json())
    assert 0 <= result.response_time_ms < 2**31
    assert result.retry_after_s is None or 0 <= result.retry_after_s < 2**31
    assert result.capabilities is None or size_of(result.capabilities) < MOST_BYTES
