"""When the next check comes: spread while all is well, further and further apart while it is not."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.model import OUTAGE, CheckResult, Verdict
from chalicelib.services.schedule import next_check_at

NOW = datetime(2031, 1, 1, 12, 0, 7, tzinfo=UTC)
INTERVAL, CAP = 300, 21_600


def found(verdict: Verdict, retry_after_s: int | None = None, at: datetime = NOW) -> CheckResult:
    return CheckResult(verdict, 10, None if verdict is Verdict.OK else "No.", at, retry_after_s=retry_after_s)


def wait_s(result: CheckResult, failures: int = 0, id: UUID | None = None, *, incident: bool = False) -> float:
    due = next_check_at(id or uuid4(), result, failures, interval_s=INTERVAL, backoff_cap_s=CAP, incident=incident)
    return (due - result.checked_at).total_seconds()


@given(st.uuids(), st.integers(60, 86_400), st.datetimes(datetime(2026, 1, 1), datetime(2040, 1, 1)))
def test_a_healthy_integration_is_checked_once_per_interval_at_a_time_of_its_own(
    id: UUID, interval: int, moment: datetime
) -> None:
    at = moment.replace(tzinfo=UTC)
    times = []
    for _ in range(4):
        at = next_check_at(id, found(Verdict.OK, at=at), 0, interval_s=interval, backoff_cap_s=CAP)
        times.append(at)

    assert timedelta(seconds=interval / 2) <= times[0] - moment.replace(tzinfo=UTC) <= timedelta(seconds=interval * 1.5)
    assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(seconds=interval)}


def test_healthy_integrations_that_were_checked_together_do_not_come_back_together() -> None:
    waits = [wait_s(found(Verdict.OK)) for _ in range(3_000)]

    by_tenth = [sum(1 for wait in waits if part * 30 <= wait - 150 < part * 30 + 30) for part in range(10)]
    assert sum(by_tenth) == 3_000
    assert all(220 < count < 380 for count in by_tenth)


def test_failing_ones_are_tried_again_at_growing_intervals_with_full_jitter_up_to_the_cap() -> None:
    for failures in range(12):
        window = min(CAP, 60 * 2**failures)
        waits = [wait_s(found(Verdict.TIMEOUT), failures) for _ in range(400)]
        assert all(5 <= wait <= window for wait in waits), failures
        assert window * 0.4 < statistics.mean(waits) < window * 0.6 + 5, failures
        assert min(waits) < window * 0.1 + 5, failures
    assert max(wait_s(found(Verdict.TIMEOUT), 10_000) for _ in range(100)) <= CAP


def test_success_after_any_number_of_failures_is_back_at_the_usual_interval() -> None:
    assert wait_s(found(Verdict.OK), 500) <= INTERVAL * 1.5


@pytest.mark.parametrize("verdict", [Verdict.RATE_LIMITED, Verdict.PROVIDER_DOWN])
@pytest.mark.parametrize("wish", [1, 120, 4_000, 86_400])
def test_the_far_sides_wish_to_be_left_alone_is_honoured_and_all_do_not_come_back_at_once(
    verdict: Verdict, wish: int
) -> None:
    waits = [wait_s(found(verdict, wish)) for _ in range(50)]

    assert all(wish <= wait <= max(60, wish * 1.1) for wait in waits)
    assert len(set(waits)) > 30


def test_a_wish_of_years_counts_as_a_day() -> None:
    assert wait_s(found(Verdict.RATE_LIMITED, 10**9)) <= 86_400 * 1.1


@pytest.mark.parametrize("verdict", list(Verdict))
def test_during_an_incident_an_outage_keeps_the_usual_interval_and_everything_else_backs_off(verdict: Verdict) -> None:
    id = uuid4()
    waits = {wait_s(found(verdict), 9, id, incident=True) for _ in range(20)}

    usual = {wait_s(found(Verdict.OK), 0, id)}
    assert (waits == usual) == (verdict in OUTAGE or verdict is Verdict.OK)
