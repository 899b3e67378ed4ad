"""Health as the API shows it, from rollups, against the truth worked out from the raw results."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from math import ceil
from typing import Any

import pytest

from tests.conftest import AsUser, Connection
from tests.support.postgres import add_user
from tests.support.rows import Json, add_credential, add_integration, add_type, call, one, record
from tests.support.versions import on_both_versions

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


database = on_both_versions()


@pytest.fixture
def now(db: Connection) -> datetime:
    """The moment of the transaction, which all functions take for now."""
    found: datetime = one(db, "select now()")
    return found.astimezone(UTC)


@dataclass(frozen=True)
class Check:
    integration: uuid.UUID
    at: datetime
    ms: int
    success: bool


def _checked(db: Connection, owner: uuid.UUID, mine: Sequence[uuid.UUID], now: datetime, seed: int) -> list[Check]:
    """Recorded results: dense in the last hours, thinner back to 40 days, some at the very edges of buckets."""
    pick = random.Random(seed)
    hour, day = now.replace(minute=0, second=0, microsecond=0), now.replace(hour=0, minute=0, second=0, microsecond=0)
    edges = [hour, hour - 23 * HOUR, hour - 167 * HOUR, day, day - 29 * DAY]
    moments = [edge + step for edge in edges for step in (timedelta(0), -timedelta(microseconds=1))]
    moments += [now - timedelta(seconds=pick.randint(0, 86_400)) for _ in range(60)]
    moments += [now - timedelta(seconds=pick.randint(0, 40 * 86_400)) for _ in range(60)]
    moments = [moment for moment in moments if moment <= now]
    pick.shuffle(moments)
    checks = [Check(pick.choice(mine), at, int(pick.lognormvariate(5, 1)), pick.random() < 0.8) for at in moments]
    for check in checks:
        record(
            db,
            owner,
            check.integration,
            success=check.success,
            response_time_ms=check.ms,
            checked_at=check.at.isoformat(),
        )
    return checks


def _in_window(checks: list[Check], window: str, now: datetime) -> list[Check]:
    hour, day = now.replace(minute=0, second=0, microsecond=0), now.replace(hour=0, minute=0, second=0, microsecond=0)
    start = {"24h": hour - 23 * HOUR, "7d": hour - 167 * HOUR, "30d": day - 29 * DAY}[window]
    return [check for check in checks if check.at >= start]


def _rounded(value: Decimal, places: str) -> float:
    return float(value.quantize(Decimal(places), ROUND_HALF_UP))


def _percentile(times: list[int], p: float) -> int | None:
    """The smallest time that at least this share of all times does not exceed."""
    return sorted(times)[ceil(p * len(times)) - 1] if times else None


def _times(checks: list[Check]) -> list[int]:
    return [check.ms for check in checks if check.success]


def _rate(checks: list[Check]) -> float | None:
    return _rounded(Decimal(len(_times(checks))) / len(checks), "0.0001") if checks else None


def _average(times: list[int]) -> float | None:
    return _rounded(Decimal(sum(times)) / len(times), "0.1") if times else None


def _series(checks: list[Check], window: str) -> list[Json]:
    buckets: dict[datetime, list[Check]] = {}
    for check in checks:
        start = check.at.replace(minute=0, second=0, microsecond=0)
        buckets.setdefault(start.replace(hour=0) if window == "30d" else start, []).append(check)
    return [
        {
            "at": start.isoformat(),
            "checks": len(found),
            "failures": len(found) - len(_times(found)),
            "p50": _percentile(_times(found), 0.5),
            "p95": _percentile(_times(found), 0.95),
        }
        for start, found in sorted(buckets.items())
    ]


@pytest.mark.parametrize("seed", range(3))
def test_a_summary_tells_the_truth_about_the_raw_results(
    db: Connection, as_user: AsUser, owner: uuid.UUID, now: datetime, seed: int
) -> None:
    mine = [add_integration(db, owner, add_type(db)) for _ in range(2)]
    checks = _checked(db, owner, mine, now, seed)
    for integration in mine:
        for window in ("24h", "7d", "30d"):
            found = _in_window([check for check in checks if check.integration == integration], window, now)
            times = _times(found)

            with as_user(owner):
                summary = call(db, "get_health_summary", p_integration_id=integration, p_window=window)

            assert len(found) > 10
            assert summary.pop("last_success_at") is not None
            summary.pop("failing_since")
            assert summary == {
                "window": window,
                "checks": len(found),
                "success_rate": _rate(found),
                "response_time_ms": {
                    "avg": _average(times), "p50": _percentile(times, 0.5), "p95": _percentile(times, 0.95),
                    "max": max(times),
                },
                "series": _series(found, window),
            }  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_the_overview_tells_the_truth_about_the_raw_results(
    db: Connection, as_user: AsUser, owner: uuid.UUID, now: datetime, seed: int
) -> None:
    checks = _checked(db, owner, [add_integration(db, owner, add_type(db)) for _ in range(3)], now, seed)
    stranger = add_user(db)
    _checked(db, stranger, [add_integration(db, stranger, add_type(db))], now, seed + 100)
    for window in ("24h", "7d", "30d"):
        found = _in_window(checks, window, now)

        with as_user(owner):
            overview = call(db, "get_overview", p_window=window)

        assert {name: overview[name] for name in ("window", "checks", "success_rate", "response_time_ms")} == {
            "window": window,
            "checks": len(found),
            "success_rate": _rate(found),
            "response_time_ms": {"avg": _average(_times(found)), "max": max(_times(found))},
        }


@pytest.mark.parametrize("window", ["24h", "7d", "30d"])
def test_an_integration_without_checks_has_an_empty_summary(
    db: Connection, as_user: AsUser, owner: uuid.UUID, window: str
) -> None:
    mine = add_integration(db, owner, add_type(db))

    with as_user(owner):
        summary = call(db, "get_health_summary", p_integration_id=mine, p_window=window)
        overview = call(db, "get_overview", p_window=window)

    nothing = {"avg": None, "p50": None, "p95": None, "max": None}
    assert summary == {"window": window, "checks": 0, "success_rate": None, "response_time_ms": nothing,
                       "last_success_at": None, "failing_since": None, "series": []}  # fmt: skip
    assert overview["checks"] == 0
    assert overview["response_time_ms"] == {"avg": None, "max": None}


def test_an_integration_that_only_fails_has_no_response_times(
    db: Connection, as_user: AsUser, owner: uuid.UUID
) -> None:
    mine = add_integration(db, owner, add_type(db))
    record(db, owner, mine, success=False)

    with as_user(owner):
        summary = call(db, "get_health_summary", p_integration_id=mine)

    assert (summary["checks"], summary["success_rate"]) == (1, 0)
    assert set(summary["response_time_ms"].values()) == {None}
    assert (summary["series"][0]["failures"], summary["series"][0]["p50"]) == (1, None)


def test_a_summary_of_somebody_elses_integration_is_none(db: Connection, as_user: AsUser, owner: uuid.UUID) -> None:
    mine = add_integration(db, owner, add_type(db))
    record(db, owner, mine)

    with as_user(add_user(db)):
        assert call(db, "get_health_summary", p_integration_id=mine) is None
        assert call(db, "get_health_summary", p_integration_id=uuid.uuid4()) is None


def test_the_cells_of_a_listing_are_the_last_24_hours(
    db: Connection, as_user: AsUser, owner: uuid.UUID, now: datetime
) -> None:
    mine = add_integration(db, owner, add_type(db))
    checks = _checked(db, owner, [mine], now, 5)

    with as_user(owner):
        cells = call(db, "list_integrations")["items"][0]["recent"]

    hour = now.replace(minute=0, second=0, microsecond=0)
    hours = [hour - n * HOUR for n in range(23, -1, -1)]
    assert cells == [
        {
            "at": start.isoformat(),
            "checks": sum(start <= check.at < start + HOUR for check in checks),
            "failures": sum(start <= check.at < start + HOUR and not check.success for check in checks),
        }
        for start in hours
    ]


def test_the_overview_counts_and_names_what_changed_and_what_expires(
    db: Connection, as_user: AsUser, owner: uuid.UUID, now: datetime
) -> None:
    kind = add_type(db)
    names = ("well", "broken", "new", "changed long ago")
    well, broken, _, old = [add_integration(db, owner, kind, name=name) for name in names]
    record(db, owner, well, checked_at=now.isoformat())
    record(db, owner, broken, success=False, checked_at=(now - HOUR).isoformat())
    record(db, owner, old, checked_at=(now - 40 * DAY).isoformat())
    add_credential(db, owner, well, expires_at=now + 29 * DAY)
    add_credential(db, owner, broken, expires_at=now - DAY)
    add_credential(db, owner, old, expires_at=now + 31 * DAY)
    stranger = add_user(db)
    record(db, stranger, add_integration(db, stranger, kind), checked_at=now.isoformat())

    with as_user(owner):
        overview = call(db, "get_overview", p_window="30d")

    def named(entries: list[Json]) -> list[tuple[Any, ...]]:
        return [(entry["integration_id"], entry["name"]) for entry in entries]

    assert overview["counts"] == {
        "status": {"connected": 2, "error": 1, "configuring": 1}, "verdict": {"ok": 2, "auth_rejected": 1},
    }  # fmt: skip
    assert named(overview["changed"]) == [(str(well), "well"), (str(broken), "broken")]
    assert [datetime.fromisoformat(entry["at"]) for entry in overview["changed"]] == [now, now - HOUR]
    assert named(overview["expiring"]) == [(str(broken), "broken"), (str(well), "well")]
    assert overview["incidents"] == []
