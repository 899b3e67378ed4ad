"""A connection config may hold anything that its owner could write past us: a check answers, whatever it is."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.model import CheckResult, Target, Verdict
from chalicelib.probes import run_check
from chalicelib.probes.verdicts import UNEXPECTED
from tests.fault_table import GRACE_S
from tests.peers.faults import says, served
from tests.peers.mcp_servers import free_port
from tests.peers.raw import Loop, background
from tests.peers.targets import a_prober, a_target
from tests.test_probes_kept import JSONISH, ODD, assert_recordable

#: Where nothing listens: a check that gets so far is refused at once.
CLOSED = f"http://127.0.0.1:{free_port()}/mcp"
NUMBERS = [10**400, -(10**400), 1e308, float("nan"), float("inf"), float("-inf"), -1, 0, 1, 99, True, False, "1000"]
NAMES = st.sampled_from(
    ["protocol", "url", "api_url", "host", "port", "command", "args", "env", "headers", "timeout_ms", "token_url"]
)
LIKELY = st.sampled_from(
    [CLOSED, "http", "sse", "stdio", "ssh", "127.0.0.1", 9, "true", ["-c"], {"A": "b"}, {"X-A": "\x00"}, *NUMBERS, *ODD]
)
CONFIGS = st.dictionaries(NAMES | st.text(max_size=20), LIKELY | JSONISH, max_size=8)
DEFINITIONS: list[dict[str, Any]] = [
    {},
    {"base_url": "http://{host}/x", "config_fields": [{"name": "host", "pattern": "^[a-z.]+$"}]},
    {"verify": {"path": "/v1/{account}"}},
    {"mcp": {"protocol": "http"}},
]


@st.composite
def targets(draw: st.DrawFn) -> Target:
    method, secrets = draw(
        st.sampled_from(
            [("none", {}), ("api_key", {"api_key": "x" * 20}), ("ssh_key", {"username": "a", "private_key": "no"})]
        )
    )
    kind, definition = draw(st.sampled_from(["mcp", "vendor", "custom"])), draw(st.sampled_from(DEFINITIONS))
    return a_target(kind, draw(CONFIGS), method=method, secrets=secrets, definition=definition)


@settings(max_examples=300, deadline=None)
@given(targets(), st.sampled_from(["bare", "full"]))
def test_no_configuration_makes_a_check_raise(target: Target, mode: Any) -> None:
    result = run_check(a_prober(0.3, mcp_stdio="off"), target, mode)

    assert isinstance(result, CheckResult)
    assert result.steps[-1].detail != UNEXPECTED.detail
    assert_recordable(result.as_json())


#: Takes a request and never answers.
SILENT = served(says())


@pytest.fixture(scope="module")
def loop() -> Any:
    with background() as running:
        yield running


def waited_s(loop: Loop, wanted: Any, total_s: float = 1.0) -> float:
    """How long a check with this ``timeout_ms`` waits for a server that never answers."""
    with SILENT(loop, "http") as origin:
        config = {"protocol": "http", "url": f"{origin}/mcp", "timeout_ms": wanted}
        began = perf_counter()
        result = anyio.run(lambda: a_prober(total_s).check(a_target(config=config), mode="bare"))
    assert result.verdict is Verdict.TIMEOUT
    return perf_counter() - began


@pytest.mark.parametrize("wanted", [-(10**400), -1, 0, 1, 99, 100])
def test_nobody_is_given_less_than_a_tenth_of_a_second(loop: Loop, wanted: Any) -> None:
    assert 0.1 <= waited_s(loop, wanted) < 0.1 + GRACE_S


@pytest.mark.parametrize("wanted", [10**400, 10**9, 1e308, float("nan"), float("inf"), True, "100", None, [], {}])
def test_nor_more_than_everybody(loop: Loop, wanted: Any) -> None:
    assert 0.3 <= waited_s(loop, wanted, 0.3) < 0.3 + GRACE_S


def test_a_caller_can_shorten_a_check_but_not_lengthen_it(loop: Loop) -> None:
    for given_s in (0.2, 60.0):
        with SILENT(loop, "http") as origin:
            target = a_target(config={"protocol": "http", "url": f"{origin}/mcp"})
            began = perf_counter()
            anyio.run(lambda: a_prober(0.4).check(target, mode="bare", total_s=given_s))  # noqa: B023

        assert min(given_s, 0.4) <= perf_counter() - began < min(given_s, 0.4) + GRACE_S
