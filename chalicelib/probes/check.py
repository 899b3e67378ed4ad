"""One check of one target: whatever the far side does, a result with a verdict, its steps and a plain sentence."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from importlib import import_module
from time import perf_counter
from typing import Any, Literal

import anyio

from chalicelib.egress.guard import Guard
from chalicelib.errors import Invalid
from chalicelib.model import CheckResult, Step, Target, Verdict
from chalicelib.probes.certificates import lifetimes
from chalicelib.probes.credentials import Shown, shown_by
from chalicelib.probes.kept import DETAIL, MESSAGE, fitting, legible
from chalicelib.probes.verdicts import UNEXPECTED, Finding, finding_of, timeout_finding
from chalicelib.probes.visit import Visit
from chalicelib.services.endpoints import (
    MAX_TIMEOUT_MS,
    MIN_TIMEOUT_MS,
    Endpoint,
    endpoint_of,
    method_problem,
    stdio_refusal,
)

Mode = Literal["full", "bare"]
Probe = Callable[[Visit], Awaitable[None]]
StdioRunner = Callable[[Target, Mode, float], Awaitable[CheckResult]]

log = logging.getLogger(__name__)


class Prober:
    """Checks targets through the guard. Holds no connection, so one prober serves any number of event loops.

    ``mcp_stdio`` is the policy for commands (``off``, ``catalogue``, ``any``). With ``stdio_runner``, allowed commands
    run elsewhere: it gets target, mode and seconds, and returns the result.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        mcp_stdio: str,
        connect_s: float,
        total_s: float,
        stdio_runner: StdioRunner | None = None,
    ) -> None:
        self._guard = guard
        self._mcp_stdio = mcp_stdio
        self._connect_s = connect_s
        self._total_s = total_s
        self._stdio_runner = stdio_runner

    async def check(self, target: Target, *, mode: Mode = "full", total_s: float | None = None) -> CheckResult:
        """``full`` walks the whole protocol and reads capabilities; ``bare`` is one request, for the schedule.

        Never raises for anything that the target or the far side does; cancellation passes. Ends within the deadline
        (the smallest of ``total_s``, the prober's and the config's ``timeout_ms``) and half a second, for a command
        two.
        """
        began, checked_at = perf_counter(), datetime.now(UTC)
        deadline_s = _deadline(target, min(total_s or self._total_s, self._total_s))
        try:
            endpoint, shown = self._prepared(target)
        except Finding as finding:
            ms = round((perf_counter() - began) * 1000)
            steps = (Step("policy", False, ms, legible(finding.detail or "", DETAIL) or None),)
            return CheckResult(finding.verdict, ms, legible(finding.message, MESSAGE), checked_at, steps)
        if endpoint.kind == "stdio" and self._stdio_runner:
            return await self._stdio_runner(target, mode, deadline_s)
        probe = _probe(endpoint, mode)  # loads what it needs before the clock starts
        visit = Visit(target, endpoint, shown, self._guard, deadline_s, self._connect_s)
        capabilities, failure = await _attempted(visit, probe)
        return CheckResult(
            verdict=failure.verdict if failure else Verdict.OK,
            response_time_ms=visit.elapsed_ms,
            error_message=legible(failure.message, MESSAGE) if failure else None,
            checked_at=checked_at,
            steps=visit.steps(failure),
            capabilities=capabilities,
            retry_after_s=failure.retry_after_s if failure else None,
        )

    def _prepared(self, target: Target) -> tuple[Endpoint, Shown]:
        """All that can be judged before anything is opened. Raises :class:`Finding`."""
        try:
            endpoint = endpoint_of(target.type, target.config)
        except Invalid as error:
            raise _misconfigured(*error.errors) from None
        if problem := method_problem(target.type, target.auth_method, endpoint):
            raise _misconfigured(problem)
        refusal = stdio_refusal(self._mcp_stdio, target.type, endpoint)
        if refusal:
            raise Finding(Verdict.BLOCKED, "policy", refusal, detail="commands are not allowed here")
        return endpoint, shown_by(target, endpoint)


def run_check(prober: Prober, target: Target, mode: Mode = "full") -> CheckResult:
    """:meth:`Prober.check` for callers without an event loop."""
    return anyio.run(lambda: prober.check(target, mode=mode))


def _deadline(target: Target, total_s: float) -> float:
    """What the configuration asks for, within bounds; for anything but a whole number, the usual.

    Below 100 ms a connection would be called slow, and its vendor with it, for its owner's wish alone.
    """
    wanted = target.config.get("timeout_ms")
    if isinstance(wanted, bool) or not isinstance(wanted, int):
        return total_s
    return min(total_s, max(MIN_TIMEOUT_MS, min(wanted, MAX_TIMEOUT_MS)) / 1000)


def _misconfigured(*problems: tuple[str, str]) -> Finding:
    field, problem = problems[0] if problems else ("connection_config", "is not valid")
    message = f"Before connecting: the setting {field} {problem}. Correct it and test again."
    return Finding(Verdict.MISCONFIGURED, "policy", message, detail=f"{field} is not valid")


async def _attempted(visit: Visit, probe: Probe) -> tuple[Mapping[str, Any] | None, Finding | None]:
    """The capabilities, or what went wrong, within the deadline."""
    failure: Finding | None = None
    try:
        with anyio.fail_after(visit.total_s):
            await probe(visit)
    except TimeoutError:
        failure = visit.suspicion or timeout_finding(visit.step_at_fault(), visit.total_s)
    except Exception as error:
        failure = finding_of([error, *reversed(visit.trace.failures)], visit.step_at_fault(), visit.total_s)
        if visit.refusal and failure.verdict is Verdict.NETWORK:
            failure = visit.refusal  # it may have hung up before the second question came
        if failure.detail == UNEXPECTED.detail:
            log.warning("a check failed in an unforeseen way: %s", type(error).__name__)
    if visit.found is None:
        return None, failure or UNEXPECTED.finding()
    return _complete(visit, visit.found), None


def _complete(visit: Visit, found: dict[str, Any]) -> dict[str, Any]:
    """A bare look at an MCP server renews what it saw and keeps the tools that a full one has found."""
    renews = visit.endpoint.kind in ("http", "sse", "stdio")
    known = {**(visit.target.capabilities or {}), **found} if renews else dict(found)
    known.pop("certificates", None)
    certificates = lifetimes(visit.trace.server_certificate, visit.target)
    return visit.without_echoes(fitting({**known, "certificates": certificates} if certificates else known))


def _probe(endpoint: Endpoint, mode: Mode) -> Probe:
    """The way to check this kind of endpoint. Each is loaded on first use: some bring large libraries."""
    if endpoint.kind == "vendor":
        from chalicelib.probes import vendor

        return vendor.check
    if endpoint.kind == "ssh":
        from chalicelib.probes import ssh

        import_module("asyncssh")
        return ssh.check
    if endpoint.kind == "stdio":
        from chalicelib.probes import mcp_stdio

        return _with_sdk(mcp_stdio.check_full) if mode == "full" else mcp_stdio.check_bare
    if mode == "full":
        from chalicelib.probes import mcp_session

        return _with_sdk(mcp_session.check)
    from chalicelib.probes import mcp_bare

    return mcp_bare.check


def _with_sdk(probe: Probe) -> Probe:
    """The SDK loads now: half a second, once per process, that is not the far side's answering time."""
    for module in ("mcp.client.session", "mcp.client.sse", "mcp.client.streamable_http"):
        import_module(module)
    return probe
