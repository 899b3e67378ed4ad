"""The sweep: claim what is due, check it, record it; until nothing is due or the time is up.

The rows are the truth. A check whose result is not recorded, for whatever reason, is due again when its lease ends, and
a result that comes after somebody else has taken it over is dropped.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import Protocol
from uuid import UUID

import anyio
from anyio.abc import TaskGroup

from chalicelib.errors import AppError
from chalicelib.jobs.checking import Checker, Checking, Due, Outcome
from chalicelib.jobs.lanes import Lanes
from chalicelib.jobs.recorder import Recorder
from chalicelib.jobs.retries import until_it_passes
from chalicelib.model import CheckResult, Source, Step, Verdict
from chalicelib.services.checks import result_row
from chalicelib.services.ports import Json, Sealer
from chalicelib.services.token_refresh import TokenRefresher

log = logging.getLogger("integrations")

#: Of a sweep's time, what is kept for writing the last results.
RECORDING_S = 10.0
#: Claims one after another that brought nothing, since others were at work on all that is due, or since nobody can
#: read what they brought: then a sweep leaves the rest to the next.
VAIN_CLAIMS = 10
#: More than this many batches at once are not held in memory, whatever they wait for.
BATCHES_HELD = 4


class Store(Protocol):
    """``chalicelib/store/sweeps.py``."""

    def claim(self, limit: int, lease_s: int) -> Json: ...
    def record(self, results: Sequence[Json], dropped: Sequence[Json] = ()) -> list[str]: ...


@dataclass(frozen=True)
class Limits:
    """Times are seconds. ``batch`` integrations are claimed at once; ``commands``: whether any may be run."""

    batch: int = 500
    lease_s: int = 60
    work: int = 64
    slow: int = 512
    per_host: int = 8
    total_s: float = 10.0
    interval_s: int = 300
    backoff_cap_s: int = 21_600
    commands: bool = False

    @property
    def shortest_run_s(self) -> float:
        """What a sweep needs to check anything at all."""
        return self.total_s + RECORDING_S + 1


@dataclass(frozen=True)
class Claim:
    """What a call leased, by user. ``busy``: nothing, but others are just at work on what is due."""

    users: list[list[Due]]
    count: int
    oldest: datetime | None
    busy: bool


#: Something was leased, and there is more to claim.
UNREADABLE = Claim([], 0, None, busy=True)


@dataclass
class Summary:
    """What a sweep did.

    ``postponed`` are simply still due; ``dropped`` were taken off the schedule; ``lag_s`` is how long the oldest of all
    claimed had been due. ``failure`` is what kept the sweep from claiming or recording, if anything did.
    """

    due: int | None = None
    claimed: int = 0
    checked: int = 0
    recorded: int = 0
    postponed: int = 0
    dropped: int = 0
    round_trips: int = 0
    kms_calls: int = 0
    lag_s: float = 0.0
    duration_s: float = 0.0
    verdicts: Counter[str] = field(default_factory=Counter)
    failure: AppError | None = None


Progress = Callable[[Summary], None]


class Sweep:
    """One sweep in one event loop; it runs once."""

    def __init__(
        self,
        *,
        store: Store,
        vault: Sealer,
        checker: Checker,
        tokens: TokenRefresher,
        limits: Limits,
        progress: Progress = lambda _: None,
    ) -> None:
        self._store = store
        self._limits = limits
        self._progress = progress
        self._lanes = Lanes(work=limits.work, slow=limits.slow, per_host=limits.per_host, moved=self._wake)
        self._checking = Checking(vault, checker, tokens, self._lanes, limits.total_s, limits.commands)
        self._recorder = Recorder(store.record, limits.batch)
        self._under_way = 0
        self._moved = anyio.Event()
        self.summary = Summary()

    async def run(self, budget_s: float, *, most: int | None = None) -> Summary:
        """Sweep for at most ``budget_s`` seconds, and claim at most ``most`` integrations.

        Claiming stops in time for the checks under way to end, and those in time to be recorded. Raises ``ValueError``
        for a budget in which nothing could be checked.
        """
        if budget_s < self._limits.shortest_run_s:
            raise ValueError(f"a sweep needs {self._limits.shortest_run_s:g} s at least")
        began = perf_counter()
        checks_end = began + budget_s - RECORDING_S
        self._checking.ends = checks_end
        async with anyio.create_task_group() as writing:
            writing.start_soon(self._recorder.run, began + budget_s)
            with anyio.move_on_after(budget_s - RECORDING_S):
                async with anyio.create_task_group() as checks:
                    await self._claim_all(checks, checks_end - self._limits.total_s, most)
            self._recorder.close()
        summary = self.summary
        summary.postponed += self._under_way
        summary.round_trips += self._recorder.round_trips
        summary.recorded = self._recorder.recorded
        summary.failure = summary.failure or self._recorder.failure
        summary.duration_s = perf_counter() - began
        return summary

    async def _claim_all(self, checks: TaskGroup, until: float, most: int | None) -> None:
        """Claim batch after batch, each as soon as little of what was claimed before waits for a place."""
        in_vain = 0
        while perf_counter() < until and in_vain < VAIN_CLAIMS:
            left = self._limits.batch if most is None else min(self._limits.batch, most - self.summary.claimed)
            claim = await self._claim(left, until) if left > 0 else None
            if claim is None or not (claim.count or claim.busy):
                return
            if not claim.count:
                in_vain += 1
                await anyio.sleep(random.uniform(0.05, 0.1) * in_vain)  # noqa: S311 - no secret
                continue
            in_vain = 0
            self._start(claim, checks)
            with anyio.move_on_after(until - perf_counter()):
                while not self._has_room():
                    self._moved = anyio.Event()
                    await self._moved.wait()

    async def _claim(self, limit: int, until: float) -> Claim | None:
        try:
            return await until_it_passes(self._claim_once, limit, ends=until)
        except AppError as error:
            log.error("nothing could be claimed: %s", error.code)
            self.summary.failure = error
            return None
        except Exception as error:
            # One row that nobody can read hides those that were leased with it. The next claim gets others.
            log.error("a claim cannot be read: %s", type(error).__name__)
            self.summary.failure = AppError(
                "The database leased something that this version cannot read.", code="claim_unreadable"
            )
            return UNREADABLE

    def _claim_once(self, limit: int) -> Claim:
        self.summary.round_trips += 1
        asked = perf_counter()
        claimed = self._store.claim(limit, self._limits.lease_s)
        rows: list[Json] = claimed["checks"]
        oldest = min((datetime.fromisoformat(row["due_since"]) for row in rows), default=None)
        users = self._checking.sorted_by_user(claimed, asked + self._limits.lease_s)
        return Claim(users, len(rows), oldest, claimed["busy"])

    def _has_room(self) -> bool:
        waiting = self._under_way - self._lanes.held - self._lanes.at_hosts
        return waiting <= self._limits.batch // 2 and self._under_way < self._limits.batch * BATCHES_HELD

    def _start(self, claim: Claim, checks: TaskGroup) -> None:
        self.summary.claimed += claim.count
        if claim.oldest:
            self.summary.lag_s = max(self.summary.lag_s, (datetime.now(UTC) - claim.oldest).total_seconds())
        self._under_way += claim.count
        for due in claim.users:
            checks.start_soon(self._check_user, due, checks)

    async def _check_user(self, due: list[Due], checks: TaskGroup) -> None:
        """Open a user's credentials together, then check without waiting for one another."""
        try:
            await self._checking.open(due)
        except Exception as error:
            self._unforeseen(error)
        for one in due:
            checks.start_soon(self._check, one)

    async def _check(self, due: Due) -> None:
        outcome: Outcome = None
        try:
            outcome = await self._checking.check(due)
        except Exception as error:  # one bad check sinks no other; it is due again when its lease ends
            self._unforeseen(error)
        self._under_way -= 1
        if outcome is None:
            self.summary.postponed += 1
        elif outcome == "dropped":
            self.summary.dropped += 1
            self._recorder.drop({"user_integration_id": due.row["id"], "lease_token": due.row["lease_token"]})
        else:
            self.summary.checked += 1
            self.summary.verdicts[outcome.verdict.value] += 1
            self._recorder.add(partial(self._result_row, due, outcome), partial(self._plain_row, due, outcome))
        self._progress(self.summary)
        self._wake()

    def _unforeseen(self, error: Exception) -> None:
        log.error("a check failed in an unforeseen way: %s", type(error).__name__)

    def _result_row(self, due: Due, result: CheckResult) -> Json:
        row = due.row
        recorded = result_row(
            UUID(row["id"]),
            result,
            source=Source.SWEEP,
            intent="sweep",
            failures_before=row["consecutive_failures"],
            old_capabilities=row["capabilities"],
            interval_s=self._limits.interval_s,
            backoff_cap_s=self._limits.backoff_cap_s,
            lease_token=row["lease_token"],
            incident=due.incident,
        )
        recorded.pop("shown")
        # Most checks find nothing new: what is known stays, and no log will tell of steps.
        if result.capabilities == row["capabilities"]:
            recorded["capabilities"] = None
        if result.success and row["last_verdict"] == Verdict.OK:
            recorded["steps"] = []
        return recorded | {"user_id": row["user_id"], "tools_asked": row["list_tools"]}

    def _plain_row(self, due: Due, result: CheckResult) -> Json:
        """What is recorded where the result itself cannot be: nothing in it comes from the far side."""
        plain = CheckResult(
            Verdict.PROTOCOL,
            result.response_time_ms,
            "The server answered with something that cannot be stored. Tell its operator; the check will be repeated.",
            result.checked_at,
            (Step("protocol", False, 0, "answer that cannot be stored"),),
        )
        self.summary.verdicts.subtract([result.verdict.value])
        self.summary.verdicts[plain.verdict.value] += 1
        return self._result_row(due, plain)

    def _wake(self) -> None:
        self._moved.set()
