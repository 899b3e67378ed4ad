"""History in weekly partitions: made on demand, dropped after their time, the same in every time zone."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from threading import Barrier, Thread
from typing import Any

import psycopg
import pytest

from tests.conftest import AsUser, Connection
from tests.support.postgres import Database, add_user
from tests.support.rows import add_credential, add_integration, add_type, call, column, record

PARTITIONED = ("integration_health_hourly", "integration_health_metrics", "integration_logs")
ZONES = ("UTC", "Pacific/Kiritimati", "America/St_Johns", "Asia/Kathmandu")


@pytest.fixture
def mine(db: Connection, owner: uuid.UUID) -> uuid.UUID:
    return add_integration(db, owner, add_type(db), name="Payroll")


def _weeks(db: Connection, table: str) -> list[date]:
    """The Mondays of the partitions there are."""
    names = column(
        db,
        "select inhrelid::regclass::text from pg_inherits where inhparent = %s::regclass order by 1",
        [f"public.{table}"],
    )
    return [datetime.strptime(name.rsplit("_", 1)[1], "%Y%m%d").date() for name in names]


def _monday(weeks: int = 0) -> date:
    today = datetime.now(UTC).date()
    return today - timedelta(days=today.weekday()) + timedelta(weeks=weeks)


@pytest.mark.parametrize("table", PARTITIONED)
def test_two_months_are_ready_beforehand(db: Connection, table: str) -> None:
    assert _weeks(db, table) == [_monday(week) for week in range(9)]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(("moment", "monday"), [
    ("2031-01-05T23:59:59.999999Z", "20301230"), ("2031-01-06T00:00:00Z", "20310106"), ("2016-02-29T12:00:00Z", "20160229"),
])  # fmt: skip
def test_a_week_begins_on_monday_in_utc_wherever_the_session_is(
    db: Connection, zone: str, moment: str, monday: str
) -> None:
    db.execute(f"set local timezone = '{zone}'")
    db.execute("select private.ensure_history(%s), private.ensure_history(%s)", [moment, moment])

    made = column(
        db,
        "select tableoid::regclass::text from integration_logs where created_at = %s",
        [_log(db, moment)],
    )

    assert made == [f"private.integration_logs_{monday}"]
    assert len(_weeks(db, "integration_health_metrics")) == 10


def _log(db: Connection, moment: str) -> str:
    db.execute("insert into integration_logs (user_id, event_type, message, created_at) values (%s, 'deleted', 'x', %s)",
               [add_user(db), moment])  # fmt: skip
    return moment


def test_two_connections_make_a_partition_once_and_neither_fails(database: Database) -> None:
    failures: list[psycopg.Error] = []
    together = Barrier(2, timeout=10)

    def make() -> None:
        with database.connect(autocommit=True) as connection:
            for week in range(20):
                together.wait()
                try:
                    connection.execute("select private.ensure_history(%s)", [_monday(week + 100)])
                except psycopg.Error as error:
                    failures.append(error)

    threads = [Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with database.connect() as connection:
        weeks = _weeks(connection, "integration_logs")
    with database.connect(autocommit=True) as connection:
        for week in range(20):
            for table in PARTITIONED:
                connection.execute(f"drop table private.{table}_{_monday(week + 100):%Y%m%d}")
    assert failures == []
    assert [week for week in weeks if week >= _monday(100)] == [_monday(week + 100) for week in range(20)]


def test_retention_drops_what_has_ended_and_keeps_the_rest(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    for week in range(-12, 0):
        record(db, owner, mine, checked_at=f"{_monday(week)}T12:00:00Z")
        _log(db, f"{_monday(week)}T12:00:00Z")
    today = datetime.now(UTC).date()
    days = {"integration_logs": 21, "integration_health_metrics": 49, "integration_health_hourly": 15}

    dropped = call(db, "drop_history", p_metrics_days=49, p_logs_days=21)

    for table, kept_days in days.items():
        kept = [_monday(week) for week in range(-12, 9) if _monday(week + 1) > today - timedelta(days=kept_days)]
        assert _weeks(db, table) == kept
    expected = {f"{table}_{_monday(week):%Y%m%d}" for table, kept_days in days.items() for week in range(-12, 0)
                if _monday(week + 1) <= today - timedelta(days=kept_days)}  # fmt: skip
    assert set(dropped) == expected
    metrics = column(db, "select checked_at::date from integration_health_metrics order by 1")
    assert metrics == [monday for monday in _weeks(db, "integration_health_metrics") if monday < _monday()]
    assert call(db, "drop_history", p_metrics_days=49, p_logs_days=21) == []


def test_retention_deletes_old_days_and_keeps_the_rest(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    today = datetime.now(UTC).date()
    for age in (0, 99, 100, 101, 500):
        record(db, owner, mine, checked_at=f"{today - timedelta(days=age)}T00:30:00Z")

    call(db, "drop_history", p_metrics_days=1000, p_logs_days=1000, p_daily_days=100)

    assert column(db, "select (now() at time zone 'utc')::date - (starts_at at time zone 'utc')::date "
                      "from integration_health_daily order by 1") == [0, 99, 100]  # fmt: skip


def test_retention_makes_the_partitions_of_the_weeks_to_come(db: Connection) -> None:
    for table in PARTITIONED:
        db.execute(f"drop table private.{table}_{_monday(8):%Y%m%d}")

    call(db, "drop_history", p_metrics_days=90, p_logs_days=90)

    assert {_weeks(db, table)[-1] for table in PARTITIONED} == {_monday(8)}


@pytest.mark.parametrize("days", [(0, 90, 400), (90, 0, 400), (90, 90, 0), (-1, 90, 400)])
def test_a_retention_of_nothing_is_refused(db: Connection, days: tuple[int, int, int]) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue), db.transaction():
        call(db, "drop_history", p_metrics_days=days[0], p_logs_days=days[1], p_daily_days=days[2])


def test_the_buckets_of_a_result_are_those_of_utc_wherever_the_session_is(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID
) -> None:
    today = datetime.now(UTC).date()
    moments = [f"{today}T{time}Z" for time in ("00:00:00", "00:29:59", "12:59:59.9", "23:59:59.999999")]

    def buckets(zone: str) -> list[tuple[Any, ...]]:
        with db.transaction(force_rollback=True):
            db.execute(f"set local timezone = '{zone}'")
            for moment in moments:
                record(db, owner, mine, checked_at=moment)
            return db.execute(
                "select starts_at at time zone 'utc', checks from integration_health_hourly "
                "union all select starts_at at time zone 'utc', checks from integration_health_daily order by 1, 2"
            ).fetchall()

    midnight = datetime(today.year, today.month, today.day)
    expected = [(midnight, 2), (midnight, 4), (midnight.replace(hour=12), 1), (midnight.replace(hour=23), 1)]
    assert [buckets(zone) for zone in ZONES] == [expected] * len(ZONES)


Reading = Callable[[Connection, uuid.UUID], Any]
READING: dict[str, Reading] = {
    "get_integration": lambda db, mine: call(db, "get_integration", p_integration_id=mine),
    "list_integrations": lambda db, mine: call(db, "list_integrations", p_limit=1),
    "get_health_summary": lambda db, mine: call(db, "get_health_summary", p_integration_id=mine),
    "get_health_summary of days": lambda db, mine: call(
        db, "get_health_summary", p_integration_id=mine, p_window="30d"
    ),
    "get_overview": lambda db, mine: call(db, "get_overview", p_window="7d"),
    "list_integration_logs": lambda db, mine: call(db, "list_integration_logs", p_integration_id=mine, p_limit=1),
    "list_health_metrics": lambda db, mine: call(db, "list_health_metrics", p_integration_id=mine, p_limit=1),
    "list_credentials": lambda db, mine: call(db, "list_credentials", p_integration_id=mine),
}


@pytest.mark.parametrize("read", READING.values(), ids=READING)
def test_every_answer_is_the_same_wherever_the_session_is(
    db: Connection, as_user: AsUser, owner: uuid.UUID, mine: uuid.UUID, read: Reading
) -> None:
    add_integration(db, owner, add_type(db))
    add_credential(db, owner, mine, expires_at=datetime.now(UTC) + timedelta(days=3))
    for hours in range(60):
        record(db, owner, mine, checked_at=(datetime.now(UTC) - timedelta(hours=hours)).isoformat())
    answers = []
    for zone in ZONES:
        with as_user(owner):
            db.execute(f"set local timezone = '{zone}'")
            answers.append(json.dumps(read(db, mine), sort_keys=True))
            db.execute("set local timezone = 'UTC'")

    assert "+00:00" in answers[0]
    assert set(answers) == {answers[0]}
