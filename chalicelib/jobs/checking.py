"""One claimed integration: credentials opened, a token renewed where that is due, a place waited for, the check."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Literal, Protocol
from uuid import UUID

import anyio
from anyio import to_thread

from chalicelib.errors import Invalid, Unavailable
from chalicelib.jobs.lanes import LATE_S, Lanes
from chalicelib.model import AuthMethod, CheckResult, DataKey, IntegrationType, Target, Verdict
from chalicelib.services.checks import unreadable_credentials
from chalicelib.services.credentials import open_all
from chalicelib.services.endpoints import Endpoint, endpoint_of
from chalicelib.services.plain_types import type_from
from chalicelib.services.ports import Json, Sealer
from chalicelib.services.token_refresh import Fresh, Held, TokenRefresher

UNWRAPS_AT_ONCE = 16
RENEWALS_AT_ONCE = 16
#: A renewal that would not be through by the end is not begun: cut off, it could cost its owner the sign-in.
RENEWAL_S = 15.0
#: No deadline is shorter, however fast a server usually is.
SHORTEST_S = 2.0

#: A result, or None for "still due", or "dropped" for what is no part of this sweep.
Outcome = CheckResult | Literal["dropped"] | None


class Checker(Protocol):
    """``chalicelib/probes/check.py``."""

    async def check(self, target: Target, *, mode: Any = "bare", total_s: float | None = None) -> CheckResult: ...


@dataclass
class Due:
    """A claimed row. ``opened`` is its target once that is known, or the result if its credentials do not open."""

    row: Json
    type: IntegrationType
    keys: list[DataKey]
    lease_ends: float
    incident: bool
    opened: Target | CheckResult | None = None


class Checking:
    """Belongs to one event loop. ``ends`` is when the sweep's checks are cut off (``time.perf_counter()``)."""

    def __init__(
        self, vault: Sealer, checker: Checker, tokens: TokenRefresher, lanes: Lanes, total_s: float, commands: bool
    ) -> None:
        self._vault = vault
        self._checker = checker
        self._tokens = tokens
        self._lanes = lanes
        self._total_s = total_s
        self._commands = commands
        self._unwraps = anyio.CapacityLimiter(UNWRAPS_AT_ONCE)
        self._renewals = anyio.CapacityLimiter(RENEWALS_AT_ONCE)
        self.ends = float("inf")

    def sorted_by_user(self, claimed: Json, lease_ends: float) -> list[list[Due]]:
        types = {key: type_from(row) for key, row in claimed["types"].items()}
        keys: dict[str, list[DataKey]] = {}
        for row in claimed["keys"]:
            keys.setdefault(row["user_id"], []).append(
                DataKey(UUID(row["id"]), UUID(row["user_id"]), row["wrapped_key"])
            )
        by_user: dict[str, list[Due]] = {}
        for row in claimed["checks"]:
            type_id, user_id = row["integration_type_id"], row["user_id"]
            incident = claimed["types"][type_id]["incident"]
            due = Due(row, types[type_id], keys.get(user_id, []), lease_ends, incident)
            by_user.setdefault(user_id, []).append(due)
        return list(by_user.values())

    async def open(self, due: list[Due]) -> None:
        """Open one user's credentials, in a thread where the key service may have to be asked."""
        if any(one.row["credentials"] for one in due):
            # Abandoned if the sweep ends: opening changes nothing.
            await to_thread.run_sync(self._open_all, due, limiter=self._unwraps, abandon_on_cancel=True)
        else:
            self._open_all(due)

    def _open_all(self, due: list[Due]) -> None:
        for one in due:
            try:
                one.opened = self._opened(one)
            except Unavailable:
                return  # of the key service, which would have no better answer for this user's others

    def _opened(self, due: Due) -> Target | CheckResult:
        row = due.row
        secrets, unreadable = open_all(
            row["credentials"],
            due.keys,
            user_id=UUID(row["user_id"]),
            integration_id=UUID(row["id"]),
            type=due.type,
            config=row["connection_config"],
            vault=self._vault,
        )
        if unreadable:
            return unreadable_credentials(unreadable)
        method = AuthMethod(row["auth_method"])
        return Target(due.type, method, row["connection_config"], secrets, row["capabilities"])

    async def check(self, due: Due) -> Outcome:
        """Check it as soon as there is a place. Still due if nobody can tell what to check with, or its lease ends."""
        target = due.opened
        if not isinstance(target, Target):
            return target
        endpoint = _endpoint(target)
        if endpoint and endpoint.kind == "stdio" and not self._commands:
            return "dropped"
        if target.auth_method is not AuthMethod.OAUTH:
            return await self._in_its_place(due, target, endpoint)
        return await self._with_tokens(due, target, endpoint)

    async def _with_tokens(self, due: Due, target: Target, endpoint: Endpoint | None) -> Outcome:
        held = Held(UUID(due.row["user_id"]), UUID(due.row["id"]), target, due.row["credentials"])
        try:
            fresh = Fresh(target)
            if self._tokens.is_due(held):
                if self._too_late_to_renew():
                    return None
                fresh = await to_thread.run_sync(self._tokens.fresh, held, limiter=self._renewals)
            result = fresh.failure or await self._in_its_place(due, fresh.target, endpoint)
            if result is None or fresh.failure or fresh.renewed or not self._tokens.may_help(held, result):
                return result
            if self._too_late_to_renew():
                return None
            again = await to_thread.run_sync(partial(self._tokens.after_refusal, held, result), limiter=self._renewals)
        except Unavailable:
            return None
        if again is None:
            return result
        return again.failure or await self._in_its_place(due, again.target, endpoint)

    def _too_late_to_renew(self) -> bool:
        return perf_counter() + RENEWAL_S > self.ends

    async def _in_its_place(self, due: Due, target: Target, endpoint: Endpoint | None) -> CheckResult | None:
        async with self._lanes.place(_host(endpoint), _patience_s(due.row)):
            result, paused = await self._in_time(due, target)
            # Time that went by while this process stood still proves nothing about anybody: once more.
            return (await self._in_time(due, target))[0] if paused else result

    async def _in_time(self, due: Due, target: Target) -> tuple[CheckResult | None, bool]:
        """The check within its deadline; and whether this passed while our event loop did not look."""
        began, deadline_s = perf_counter(), self._deadline_s(due.row)
        if began + deadline_s > due.lease_ends:
            return None, False  # somebody else will have it before this could be recorded
        mode = "full" if due.row["list_tools"] else "bare"
        result = await self._checker.check(target, mode=mode, total_s=deadline_s)
        late_s = perf_counter() - began - deadline_s
        return result, result.verdict is Verdict.TIMEOUT and late_s > LATE_S

    def _deadline_s(self, row: Json) -> float:
        """Ten times what is usual for a bare check that is well. After a failure all have the full time: what has
        become slow must be able to show that it still works.
        """
        usual_ms: int | None = row["usual_ms"]
        if usual_ms is None or row["consecutive_failures"] or row["list_tools"]:
            return self._total_s
        return min(self._total_s, max(SHORTEST_S, usual_ms * 10 / 1_000))


def _patience_s(row: Json) -> float:
    """How long a check waits for the far side until it makes room for others: a second, less where less is usual."""
    usual_ms: int | None = row["usual_ms"]
    return 1.0 if usual_ms is None else min(1.0, max(0.25, usual_ms * 3 / 1_000))


def _endpoint(target: Target) -> Endpoint | None:
    """Where it leads; a configuration that leads nowhere puts load on nothing, and its check says what is wrong."""
    try:
        return endpoint_of(target.type, target.config)
    except Invalid:
        return None


def _host(endpoint: Endpoint | None) -> str:
    """What a check puts load on: all commands are this machine's."""
    if endpoint is None:
        return ""
    return "stdio" if endpoint.kind == "stdio" else endpoint.origin
