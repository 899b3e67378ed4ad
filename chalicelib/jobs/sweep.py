"""The sweep: claim what is due, check it, record it; until nothing is due or the time is up.

The rows are the truth. A check whose result is not recorded, for whatever reason, is due again when its lease ends, and
a result that comes after that is dropped.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, Protocol
from uuid import UUID

import anyio
from anyio import to_thread

from chalicelib.errors import Unavailable
from chalicelib.jobs.lanes import Lanes
from chalicelib.model import AuthMethod, CheckResult, DataKey, IntegrationType, Source, Target
from chalicelib.services.checks import result_row, unreadable_credentials
from chalicelib.services.credentials import open_all
from chalicelib.services.ports import Json, Sealer

log = logging.getLogger("integrations")

UNWRAPS_AT_ONCE = 16


class Store(Protocol):
    def claim(self, limit: int, lease_s: int) -> Json: ...
    def record(self, results: list[Json]) -> list[str]: ...


class Checker(Protocol):
    async def check(self, target: Target, *, mode: Any = "bare", total_s: float | None = None) -> CheckResult: ...


@dataclass(frozen=True)
class Limits:
    """Times are seconds. ``batch`` integrations are claimed at once."""

    batch: int = 500
    lease_s: int = 120
    work: int = 64
    slow: int = 512
    per_host: int = 8
    total_s: float = 10.0
    shortest_s: float = 2.0
    interval_s: int = 300
    backoff_cap_s: int = 21_600


@dataclass
class Summary:
    """What a sweep did; ``postponed`` are those that are simply still due."""

    claimed: int = 0
    checked: int = 0
    recorded: int = 0
    postponed: int = 0
    round_trips: int = 0
    lag_s: float = 0.0
    duration_s: float = 0.0
    verdicts: Counter[str] = field(default_factory=Counter)


Progress = Callable[[Summary], None]


class Sweep:
    """One sweep in one event loop."""

    def __init__(
        self, *, store: Store, vault: Sealer, checker: Checker, limits: Limits, progress: Progress | None = None
    ) -> None:
        self._store = store
        self._vault = vault
        self._checker = checker
        self._limits = limits
        self._progress = progress or (lambda _: None)
        self._lanes = Lanes(work=limits.work, slow=limits.slow, per_host=limits.per_host)
        self._results: list[Json] = []
        self._under_way = 0
        self._moved = anyio.Event()
        self.summary = Summary()

    async def run(self, budget_s: float) -> Summary:
        """Sweep for at most ``budget_s``: claiming stops in time for the checks under way to end and be recorded."""
        began = perf_counter()
        with anyio.move_on_after(budget_s):
            async with anyio.create_task_group() as tasks:
                while perf_counter() - began < budget_s - self._limits.total_s:
                    claimed = await self._claim()
                    if not claimed["checks"]:
                        break
                    await self._start(claimed, tasks)
                    await self._until(lambda: self._under_way <= self._limits.batch // 2)
                    await self._record()
        self.summary.postponed += self._under_way
        with anyio.CancelScope(shield=True):
            await self._record(everything=True)
        self.summary.duration_s = perf_counter() - began
        return self.summary

    async def _claim(self) -> Json:
        self.summary.round_trips += 1
        claimed: Json = await to_thread.run_sync(self._store.claim, self._limits.batch, self._limits.lease_s)
        self.summary.claimed += len(claimed["checks"])
        return claimed

    async def _start(self, claimed: Json, tasks: anyio.abc.TaskGroup) -> None:
        """Open each user's credentials in a thread (it may wait for the key service), then check without waiting."""
        types = {key: _type_of(row) for key, row in claimed["types"].items()}
        keys: dict[str, list[DataKey]] = {}
        for row in claimed["keys"]:
            keys.setdefault(row["user_id"], []).append(
                DataKey(UUID(row["id"]), UUID(row["user_id"]), row["wrapped_key"])
            )
        by_user: dict[str, list[Json]] = {}
        for check in claimed["checks"]:
            by_user.setdefault(check["user_id"], []).append(check)
        self._under_way += len(claimed["checks"])
        limiter = anyio.CapacityLimiter(UNWRAPS_AT_ONCE)
        for user_id, checks in by_user.items():
            tasks.start_soon(self._check_user, checks, types, keys.get(user_id, []), limiter, tasks)

    async def _check_user(
        self,
        checks: list[Json],
        types: Mapping[str, IntegrationType],
        keys: list[DataKey],
        limiter: anyio.CapacityLimiter,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        opening = partial(self._open, checks, types, keys)
        sealed = any(check["credentials"] for check in checks)
        opened = await to_thread.run_sync(opening, limiter=limiter) if sealed else opening()
        for check, target in zip(checks, opened, strict=True):
            tasks.start_soon(self._check_one, check, target)

    def _open(
        self, checks: list[Json], types: Mapping[str, IntegrationType], keys: list[DataKey]
    ) -> list[Target | CheckResult | None]:
        """For each check its target, or its result if credentials do not open, or None if nobody can tell now."""
        return [self._target(check, types[check["integration_type_id"]], keys) for check in checks]

    def _target(self, check: Json, type: IntegrationType, keys: list[DataKey]) -> Target | CheckResult | None:
        config = check["connection_config"]
        try:
            secrets, unreadable = open_all(
                check["credentials"],
                keys,
                user_id=UUID(check["user_id"]),
                integration_id=UUID(check["id"]),
                type=type,
                config=config,
                vault=self._vault,
            )
        except Unavailable:
            return None
        if unreadable:
            return unreadable_credentials(unreadable)
        return Target(type, AuthMethod(check["auth_method"]), config, secrets, check["capabilities"])

    async def _check_one(self, check: Json, target: Target | CheckResult | None) -> None:
        try:
            result = await self._result(check, target)
            if result is None:
                self.summary.postponed += 1
            else:
                self._note(check, result)
        except Exception as error:  # one bad check sinks no other; it is due again when its lease ends
            self.summary.postponed += 1
            log.error("a check failed in an unforeseen way: %s", type(error).__name__)
        self._under_way -= 1
        self._moved.set()

    async def _result(self, check: Json, target: Target | CheckResult | None) -> CheckResult | None:
        if not isinstance(target, Target):
            return target
        async with self._lanes.place(_host_of(target)):
            return await self._checker.check(target, mode="bare", total_s=self._deadline(check))

    def _deadline(self, check: Json) -> float:
        """Ten times what is usual for this target, between two seconds and the deadline of all."""
        usual_ms: int | None = check.get("usual_ms")
        if usual_ms is None:
            return self._limits.total_s
        return min(self._limits.total_s, max(self._limits.shortest_s, usual_ms / 100))

    def _note(self, check: Json, result: CheckResult) -> None:
        self.summary.checked += 1
        self.summary.verdicts[result.verdict.value] += 1
        row = result_row(
            UUID(check["id"]),
            result,
            source=Source.SWEEP,
            intent="sweep",
            failures_before=check["consecutive_failures"],
            old_capabilities=check["capabilities"],
            interval_s=self._limits.interval_s,
            backoff_cap_s=self._limits.backoff_cap_s,
            lease_token=check["lease_token"],
        )
        row.pop("shown")
        self._results.append(row | {"user_id": check["user_id"]})
        self._progress(self.summary)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._moved = anyio.Event()
            await self._moved.wait()

    async def _record(self, *, everything: bool = False) -> None:
        """Record what has come in, in batches; a rest waits for the next batch unless it is the last."""
        while len(self._results) >= self._limits.batch or (everything and self._results):
            batch, self._results = self._results[: self._limits.batch], self._results[self._limits.batch :]
            self.summary.round_trips += 1
            self.summary.recorded += len(await to_thread.run_sync(self._store.record, batch))


def _type_of(row: Json) -> IntegrationType:
    return IntegrationType(
        UUID(row["id"]), row["slug"], row["name"], row["type"], row["category"], row["config_schema"], row["definition"]
    )


def _host_of(target: Target) -> str:
    """What a check puts load on. A configuration that leads nowhere puts load on nothing."""
    from chalicelib.errors import Invalid
    from chalicelib.services.endpoints import endpoint_of

    try:
        return endpoint_of(target.type, target.config).origin
    except Invalid:
        return ""
