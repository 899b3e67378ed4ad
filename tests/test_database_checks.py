"""Recording what checks found: status, schedule, metrics and logs together, and each result once."""

from __future__ import annotations

import json
import random
import uuid
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

import psycopg
import pytest

from chalicelib.model import Verdict
from tests.conftest import Connection
from tests.support.postgres import Database, add_user
from tests.support.rows import (
    Json,
    add_integration,
    add_type,
    call,
    claim,
    column,
    events,
    integration,
    logs,
    record,
    record_claimed,
    schedule,
)
from tests.support.versions import on_both_versions

STATUSES = ("configuring", "connected", "disconnected", "error", "testing")
BLAMING = ("auth_rejected", "forbidden_scope", "needs_reauth", "misconfigured", "blocked")
NOW = datetime.now(UTC).replace(microsecond=0)


database = on_both_versions()


#: The status afterwards, by the status before in the order of STATUSES.
AFTER = {
    # Who connects is told at once.
    ("connect", "success"): "connected connected connected connected connected",
    ("connect", "blame"): "error error error error error",
    ("connect", "first failure"): "error error error error error",
    ("connect", "third failure"): "error error error error error",
    # So is who tests, but off stays off.
    ("test", "success"): "connected connected disconnected connected connected",
    ("test", "blame"): "error error disconnected error error",
    ("test", "first failure"): "error error disconnected error error",
    ("test", "third failure"): "error error disconnected error error",
    # A sweep blames on positive evidence; anything else must happen three times in a row.
    ("sweep", "success"): "connected connected disconnected connected connected",
    ("sweep", "blame"): "error error disconnected error error",
    ("sweep", "first failure"): "configuring connected disconnected error testing",
    ("sweep", "third failure"): "error error disconnected error error",
}


@pytest.mark.parametrize(("intent", "found"), AFTER, ids=["-".join(key) for key in AFTER])
def test_a_result_leads_to_the_status_that_the_table_says(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID, intent: str, found: str
) -> None:
    proving_nothing = [verdict for verdict in Verdict if verdict not in ("ok", *BLAMING)]
    verdicts, failures = {
        "success": (["ok"], [0, 2, 50]),
        "blame": (BLAMING, [0, 2, 50]),
        "first failure": (proving_nothing, [0, 1]),
        "third failure": (proving_nothing, [2, 3, 50]),
    }[found]
    for verdict in verdicts:
        for failures_before in failures:
            after = [_status_after(db, owner, mine, status, intent, verdict, failures_before) for status in STATUSES]
            assert " ".join(after) == AFTER[intent, found], (verdict, failures_before)


def _status_after(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID, status: str, intent: str, verdict: str, failures_before: int
) -> str:
    with db.transaction(force_rollback=True):
        _put(db, mine, status=status, is_connected=status == "connected", consecutive_failures=failures_before)
        _record(db, owner, mine, intent, success=verdict == "ok", verdict=verdict)
        row = integration(db, mine)
    assert row["is_connected"] == (row["status"] == "connected")
    return str(row["status"])


def _put(db: Connection, mine: uuid.UUID, **columns: Any) -> None:
    names = ", ".join(f"{name} = %({name})s" for name in columns)
    db.execute(f"update user_integrations set {names} where id = %(id)s", {**columns, "id": mine})


def _record(db: Connection, owner: uuid.UUID, mine: uuid.UUID, intent: str, **fields: Any) -> None:
    if intent == "sweep":
        db.execute("delete from integration_schedule where user_integration_id = %s", [mine])
        schedule(db, mine, owner)
        checks = [check for check in claim(db) if check["id"] == str(mine)]
        assert record_claimed(db, checks, **fields) == [str(mine)]
    else:
        assert record(db, owner, mine, intent=intent, **fields) is not None


def test_success_and_failure_leave_everything_consistent(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    moments = [(NOW + timedelta(minutes=n)).isoformat() for n in range(4)]
    record(db, owner, mine, intent="connect", checked_at=moments[0])
    connected = integration(db, mine)
    record(db, owner, mine, success=False, checked_at=moments[1], next_check_at=moments[3])
    record(db, owner, mine, success=False, verdict="timeout", error_message="Slow.", checked_at=moments[2])
    broken = integration(db, mine)
    record(db, owner, mine, checked_at=moments[3])
    well = integration(db, mine)

    def of(row: Json) -> list[Any]:
        return [row[name] for name in (
            "status", "connected_at", "last_tested_at", "last_verdict", "last_error", "last_success_at",
            "failing_since", "consecutive_failures", "state_changed_at",
        )]  # fmt: skip

    a, b, c, d = moments
    assert of(connected) == ["connected", a, a, "ok", None, a, None, 0, a]
    assert of(broken) == ["error", a, c, "timeout", "Slow.", a, b, 2, b]
    assert of(well) == ["connected", d, d, "ok", None, d, None, 0, d]


@pytest.mark.parametrize(("intent", "status", "scheduled"), [
    ("connect", "configuring", True), ("test", "configuring", True), ("test", "disconnected", False),
    ("test", "connected", True), ("connect", "error", True), ("sweep", "connected", True), ("sweep", "testing", True),
])  # fmt: skip
@pytest.mark.parametrize("success", [True, False])
def test_what_is_connected_or_in_error_has_its_next_check(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID, intent: str, status: str, scheduled: bool, success: bool
) -> None:
    _put(db, mine, status=status, is_connected=status == "connected")
    if status in ("connected", "error"):
        schedule(db, mine, owner, NOW + timedelta(hours=5))
    due = (NOW + timedelta(hours=1)).isoformat()

    _record(db, owner, mine, intent, success=success, next_check_at=due)

    row = integration(db, mine)
    assert (row["next_check_at"], row["lease_token"]) == (due if scheduled else None, None)


def test_a_result_of_an_older_configuration_is_refused_and_not_recorded(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID
) -> None:
    version = integration(db, mine)["config_version"]
    db.execute('update user_integrations set connection_config = \'{"url": "https://b.example"}\'')

    with pytest.raises(psycopg.Error) as refused, db.transaction():
        record(db, owner, mine, config_version=version)

    assert refused.value.sqlstate == "PT409"
    assert _metrics(db, mine) == []
    assert integration(db, mine)["last_tested_at"] is None


def test_a_result_for_somebody_elses_integration_is_not_recorded(db: Connection, mine: uuid.UUID) -> None:
    stranger = add_user(db)

    assert record(db, stranger, mine) is None
    assert record(db, stranger, uuid.uuid4()) is None
    assert _metrics(db, mine) == []


def _metrics(db: Connection, mine: uuid.UUID) -> list[tuple[Any, ...]]:
    return db.execute(
        "select verdict, source from integration_health_metrics where user_integration_id = %s order by checked_at",
        [mine],
    ).fetchall()


def test_the_same_lease_is_recorded_once(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    schedule(db, mine, owner)
    checks = claim(db)

    assert record_claimed(db, [*checks, *checks]) == [str(mine)]
    assert record_claimed(db, checks) == []
    assert _metrics(db, mine) == [("ok", "sweep")]


def test_a_lease_that_ran_out_and_was_taken_by_another_is_worth_nothing(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID
) -> None:
    schedule(db, mine, owner)
    slow = claim(db)
    db.execute("update integration_schedule set next_check_at = now()")
    fast = claim(db)

    assert record_claimed(db, slow, success=False, verdict="timeout") == []
    assert record_claimed(db, fast) == [str(mine)]
    assert _metrics(db, mine) == [("ok", "sweep")]


def test_a_status_set_meanwhile_makes_the_sweeps_result_too_late(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID
) -> None:
    schedule(db, mine, owner)
    under_way = claim(db)
    call(db, "set_integration_status", p_user_id=owner, p_integration_id=mine, p_status="error")

    assert record_claimed(db, under_way) == []
    assert integration(db, mine)["status"] == "error"


def test_a_persons_test_makes_the_sweeps_result_too_late(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    schedule(db, mine, owner)
    under_way = claim(db)
    record(db, owner, mine)

    assert record_claimed(db, under_way, success=False, verdict="timeout") == []
    assert _metrics(db, mine) == [("ok", "test")]


@pytest.mark.parametrize("statement", [
    "delete from user_integrations where id = %s",
    "select public.set_integration_status(user_id, id, 'disconnected') from user_integrations where id = %s",
])  # fmt: skip
def test_a_result_for_what_was_deleted_or_switched_off_is_dropped_and_the_others_are_kept(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID, statement: str
) -> None:
    other = add_integration(db, owner, add_type(db))
    schedule(db, mine, owner)
    schedule(db, other, owner)
    checks = claim(db)
    db.execute(statement, [mine])

    assert record_claimed(db, checks) == [str(other)]


def test_two_recordings_of_one_lease_at_once_are_one(database: Database) -> None:
    with database.connect(autocommit=True) as setup:
        owner = add_user(setup)
        mine = add_integration(setup, owner, add_type(setup))
        schedule(setup, mine, owner)
        checks = claim(setup)
    second: list[str] = ["not yet"]

    def record_again() -> None:
        with database.connect(autocommit=True) as connection:
            second[:] = record_claimed(connection, checks)

    with database.connect() as first:
        recorded = record_claimed(first, checks)
        late = Thread(target=record_again)
        late.start()
        late.join()  # it does not wait for the first, who may yet fail: then the lease runs out
        first.commit()

    assert (recorded, second) == ([str(mine)], [])


def test_a_flapping_connection_is_logged_once_in_ten_minutes(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    record(db, owner, mine, intent="connect", checked_at=(NOW - timedelta(days=1)).isoformat())
    before = len(events(db, mine))
    for minute in range(60):
        good = minute % 2 == 0
        _record(db, owner, mine, "sweep", success=good, verdict="ok" if good else "auth_rejected",
                checked_at=(NOW + timedelta(minutes=minute)).isoformat())  # fmt: skip

    logged = column(
        db,
        "select round(extract(epoch from state_logged_at - %s)) from user_integrations where id = %s",
        [NOW, mine],
    )
    assert len(events(db, mine)) - before == 6
    assert logged == [56 * 60]


def test_steady_checks_of_the_sweep_log_nothing(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    record(db, owner, mine, intent="connect")
    before = events(db, mine)
    for _ in range(5):
        _record(db, owner, mine, "sweep")

    assert events(db, mine) == before == ["created", "tested", "connected"]


def test_every_test_of_a_person_is_logged_with_its_verdict_and_steps(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID
) -> None:
    steps = [{"name": "dns", "ok": True, "ms": 3}, {"name": "auth", "ok": False, "ms": 9, "detail": "HTTP 401"}]
    record(db, owner, mine, success=False, steps=steps, response_time_ms=12, error_message="Refused.")
    record(db, owner, mine, success=False, steps=steps, response_time_ms=12, error_message="x" * 5000)

    tested = [(message, metadata) for event, message, metadata in logs(db, mine) if event == "tested"]

    details = {"verdict": "auth_rejected", "steps": steps, "response_time_ms": 12}
    assert tested == [("Refused.", details), ("x" * 2000, details)]
    assert events(db, mine).count("error") == 1


def test_capabilities_stay_until_others_are_found_and_their_change_is_logged(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID
) -> None:
    old, new = {"tools": [{"name": "a"}]}, {"tools": [{"name": "b"}]}
    record(db, owner, mine, intent="connect", capabilities=old, capability_changes=None)
    record(db, owner, mine, success=False, capabilities=None, capability_changes=None)
    kept = integration(db, mine)
    record(db, owner, mine, capabilities=new, capability_changes={"added": ["b"]}, checked_at=NOW.isoformat())
    changed = integration(db, mine)

    assert (kept["capabilities"], kept["capabilities_changed_at"]) == (old, None)
    assert (changed["capabilities"], changed["capabilities_changed_at"]) == (new, NOW.isoformat())
    assert [m for event, _, m in logs(db, mine) if event == "capabilities_changed"] == [{"added": ["b"]}]


@pytest.mark.parametrize("weeks", [-60, -1, 0, 8, 9, 60])
def test_a_result_finds_its_partition_in_any_week(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID, weeks: int
) -> None:
    """A clock that is behind by a second may stand in a week that nobody has made a partition for."""
    _record(db, owner, mine, "connect", checked_at=(NOW + timedelta(weeks=weeks)).isoformat())

    assert _metrics(db, mine) == [("ok", "test")]


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_set_by_the_service_brings_all_that_follows_from_it(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID, status: str
) -> None:
    for before in STATUSES:
        with db.transaction(force_rollback=True):
            _put(db, mine, status=before, is_connected=before == "connected")
            if before in ("connected", "error"):
                schedule(db, mine, owner, NOW + timedelta(days=1))
            logged = len(events(db, mine))

            shown = call(db, "set_integration_status", p_user_id=owner, p_integration_id=mine, p_status=status)

            row, said = integration(db, mine), events(db, mine)[logged:]
        assert (row["state_changed_at"] is not None) == (status != before)
        assert shown["status"] == row["status"] == status
        assert row["is_connected"] == (status == "connected")
        if status != "testing":  # a test does not end the schedule
            assert (row["next_check_at"] is not None) == (status in ("connected", "error"))
        assert said == ([status] if status != before and status in ("connected", "disconnected", "error") else [])


def test_nobody_but_its_owner_has_a_status_set(db: Connection, mine: uuid.UUID) -> None:
    answer = call(db, "set_integration_status", p_user_id=add_user(db), p_integration_id=mine, p_status="error")

    assert answer is None
    assert integration(db, mine)["status"] == "configuring"


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_the_columns_agree_with_each_other(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID, seed: int
) -> None:
    pick = random.Random(seed)
    moment, results = NOW, []
    for _ in range(60):
        moment += timedelta(seconds=pick.randint(1, 400))
        action = pick.choice(["connect", "test", "sweep", "sweep", "sweep", "off", "reconfigure", "rename"])
        verdict = pick.choice(["ok", "ok", "timeout", "auth_rejected", "provider_down"])
        if action == "off":
            call(db, "set_integration_status", p_user_id=owner, p_integration_id=mine, p_status="disconnected")
        elif action in ("reconfigure", "rename"):
            changed = {"reconfigure": "connection_config", "rename": "name"}[action]
            _put(db, mine, **{changed: json.dumps({"url": f"https://{moment:%H%M%S}.example"})})
        elif action != "sweep" or integration(db, mine)["next_check_at"]:
            _record(db, owner, mine, action, success=verdict == "ok", verdict=verdict, checked_at=moment.isoformat(),
                    error_message=None if verdict == "ok" else "No.", next_check_at=moment.isoformat())  # fmt: skip
            results.append((verdict, "sweep" if action == "sweep" else "test"))
        row = integration(db, mine)
        assert row["is_connected"] == (row["status"] == "connected")
        assert (row["next_check_at"] is not None) == (row["status"] in ("connected", "error"))
        assert (row["failing_since"] is None) == (row["consecutive_failures"] == 0)
        assert row["last_verdict"] is None or (row["last_verdict"] == "ok") == (row["last_error"] is None)

    assert _metrics(db, mine) == results


def test_a_sweep_waits_for_nobody_who_is_changing_their_own(database: Database) -> None:
    """Otherwise whoever changes many rows slowly keeps everybody's results out that are recorded with theirs."""
    with database.connect(autocommit=True) as setup:
        owners = [add_user(setup), add_user(setup)]
        ids = [add_integration(setup, owner, add_type(setup)) for owner in owners]
        for owner, mine in zip(owners, ids, strict=True):
            schedule(setup, mine, owner)
        checks = [check for check in claim(setup) if check["id"] in map(str, ids)]
    try:
        with database.connect() as slow, database.connect(autocommit=True) as sweep:
            slow.execute("update user_integrations set connection_config = '{\"n\": 1}' where id = %s", [ids[0]])
            sweep.execute("set lock_timeout = '2s'")
            recorded = record_claimed(sweep, checks)
            slow.rollback()
            again = record_claimed(sweep, checks)
    finally:
        with database.connect(autocommit=True) as setup:
            setup.execute("delete from auth.users where id = any(%s)", [owners])

    assert recorded == [str(ids[1])]
    assert again == [str(ids[0])]
