"""Claiming what is due: everybody's turn comes, nothing is claimed twice, nobody waits."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread

import psycopg
import pytest

from tests.conftest import AsRole, Connection
from tests.support.postgres import Database, add_user
from tests.support.rows import (
    Json,
    add_credential,
    add_integration,
    add_type,
    call,
    claim,
    column,
    integration,
    one,
    record_claimed,
    schedule,
)
from tests.support.versions import on_both_versions

database = on_both_versions()


@pytest.fixture
def kind(db: Connection) -> uuid.UUID:
    return add_type(db)


def _add_due(db: Connection, user_id: uuid.UUID, kind: uuid.UUID, count: int, age_s: int = 60) -> None:
    """``count`` connected integrations of one user, all due, in two statements."""
    db.execute(
        "insert into user_integrations (user_id, integration_type_id, name, status, is_connected) "
        "select %s, %s, gen_random_uuid(), 'connected', true from generate_series(1, %s)",
        [user_id, kind, count],
    )
    db.execute(
        "insert into integration_schedule (user_integration_id, user_id, next_check_at) "
        "select id, user_id, now() - make_interval(secs => %s) from user_integrations where user_id = %s "
        "on conflict do nothing",
        [age_s, user_id],
    )


def test_nothing_is_claimed_where_nothing_is_due(db: Connection, kind: uuid.UUID) -> None:
    owner = add_user(db)
    mine = add_integration(db, owner, kind)
    schedule(db, mine, owner, datetime.now(UTC) + timedelta(minutes=1))

    assert call(db, "claim_due_checks") == {"checks": [], "types": {}, "keys": [], "busy": False}


def test_a_claim_brings_all_that_a_check_needs(db: Connection, as_role: AsRole) -> None:
    owner = add_user(db)
    kind = add_type(db, slug="a-server", name="A server", definition='{"mcp": {}}', config_schema='{"type": "object"}')
    mine = add_integration(db, owner, kind, connection_config='{"url": "https://a.example"}', auth_method="api_key",
                           capabilities='{"tools": [1], "tools_fingerprint": "f"}')  # fmt: skip
    credential = add_credential(db, owner, mine, expires_at="2031-01-01T00:00:00Z")
    version = integration(db, mine)["config_version"]
    schedule(db, mine, owner)
    due_since = one(db, "select next_check_at from integration_schedule")

    with as_role("service_role"):
        found = call(db, "claim_due_checks", p_limit=10, p_lease_s=120)

    row = integration(db, mine)
    assert row["lease_token"] is not None
    assert 119 <= one(db, "select extract(epoch from next_check_at - now()) from integration_schedule") <= 121
    key = one(db, "select id::text from user_data_keys where user_id = %s", [owner])
    (check,) = found["checks"]
    (sealed,) = check.pop("credentials")
    assert sealed.pop("expires_at").startswith("2031-01-01")
    assert datetime.fromisoformat(check.pop("due_since")) == due_since
    assert check == {
        "id": str(mine), "user_id": str(owner), "integration_type_id": str(kind), "lease_token": row["lease_token"],
        "auth_method": "api_key", "connection_config": {"url": "https://a.example"}, "config_version": version,
        "consecutive_failures": 0, "last_verdict": None, "capabilities": {"tools_fingerprint": "f"}, "usual_ms": None,
        "list_tools": False,
    }  # fmt: skip
    assert sealed == {
        "id": str(credential), "credential_type": "api_key", "encrypted_value": "bm9pc2U=", "row_version": 1,
        "destination": "https://example.com:443",
    }  # fmt: skip
    assert found["keys"] == [{"id": key, "user_id": str(owner), "wrapped_key": "bm9pc2U="}]
    assert found["types"] == {
        str(kind): {
            "id": str(kind), "slug": "a-server", "name": "A server", "type": "mcp", "category": "tests",
            "config_schema": {"type": "object"}, "definition": {"mcp": {}}, "incident": False,
        }
    }  # fmt: skip


def test_what_is_leased_is_not_claimed_again_until_the_lease_runs_out(db: Connection, kind: uuid.UUID) -> None:
    _add_due(db, add_user(db), kind, 3)

    first = claim(db)
    again = claim(db)
    db.execute("update integration_schedule set next_check_at = next_check_at - interval '120 seconds'")
    third = claim(db)

    assert len(first) == 3
    assert again == []
    assert _ids(third) == _ids(first)
    assert {check["lease_token"] for check in third}.isdisjoint(check["lease_token"] for check in first)


def _ids(checks: list[Json]) -> set[str]:
    return {check["id"] for check in checks}


@pytest.mark.parametrize("limit", [0, 1, 7, 500])
def test_a_claim_takes_no_more_than_its_limit(db: Connection, kind: uuid.UUID, limit: int) -> None:
    for _ in range(4):
        _add_due(db, add_user(db), kind, 4)

    claimed = claim(db, limit=limit)

    assert len(claimed) == len(_ids(claimed)) == min(limit, 16)


def test_a_user_with_thousands_due_does_not_keep_the_others_waiting(db: Connection, kind: uuid.UUID) -> None:
    crowd, singles = add_user(db), [add_user(db) for _ in range(20)]
    _add_due(db, crowd, kind, 2_000, age_s=3600)
    for single in singles:
        _add_due(db, single, kind, 1, age_s=1)

    users = Counter(check["user_id"] for check in claim(db, limit=50))

    assert users == {str(crowd): 30, **{str(single): 1 for single in singles}}


def test_everybody_gets_one_before_anybody_gets_two(db: Connection, kind: uuid.UUID) -> None:
    users = [add_user(db) for _ in range(40)]
    for number, user in enumerate(users):
        _add_due(db, user, kind, 2, age_s=3600 - number)

    counts = Counter(check["user_id"] for check in claim(db, limit=50))

    assert len(counts) == 40


def test_whoever_is_due_longest_comes_first(db: Connection, kind: uuid.UUID) -> None:
    late, later = add_user(db), add_user(db)
    _add_due(db, late, kind, 1, age_s=10)
    _add_due(db, later, kind, 1, age_s=3600)

    assert [check["user_id"] for check in claim(db, limit=1)] == [str(later)]


def test_what_becomes_due_earlier_is_found_at_its_new_time(db: Connection, kind: uuid.UUID) -> None:
    """A user's place in the line may not be later than their earliest check."""
    owner = add_user(db)
    mine = add_integration(db, owner, kind)
    schedule(db, mine, owner, datetime.now(UTC) + timedelta(hours=1))
    assert claim(db) == []

    db.execute('update user_integrations set connection_config = \'{"url": "x"}\' where id = %s', [mine])

    assert _ids(claim(db)) == {str(mine)}


@pytest.mark.parametrize("due", ["now() - interval '1 second'", "now() + interval '1 hour'"])
def test_a_recorded_check_is_due_when_its_result_says(db: Connection, kind: uuid.UUID, due: str) -> None:
    _add_due(db, add_user(db), kind, 2)
    moment = one(db, f"select {due}")

    recorded = record_claimed(db, claim(db), next_check_at=moment.isoformat())

    assert len(recorded) == 2
    assert len(claim(db)) == (2 if "-" in due else 0)


def test_what_its_owner_switched_off_is_not_checked_until_connected_again(db: Connection, kind: uuid.UUID) -> None:
    owner = add_user(db)
    _add_due(db, owner, kind, 1)
    mine = one(db, "select id from user_integrations where user_id = %s", [owner])
    call(db, "set_integration_status", p_user_id=owner, p_integration_id=mine, p_status="disconnected")
    off = claim(db)
    call(db, "set_integration_status", p_user_id=owner, p_integration_id=mine, p_status="connected")

    assert off == []
    assert _ids(claim(db)) == {str(mine)}


@pytest.fixture
def crowded(database: Database) -> Iterator[Database]:
    """Ten users with 20 due checks each, committed."""
    with database.connect() as connection:
        kind = add_type(connection)
        users = [add_user(connection) for _ in range(10)]
        for user in users:
            _add_due(connection, user, kind, 20)
    yield database
    with database.connect() as connection:
        connection.execute("delete from auth.users where id = any(%s)", [users])


def test_every_turn_comes_when_more_users_wait_than_one_claim_serves(crowded: Database) -> None:
    with crowded.connect(autocommit=True) as connection:
        turns = [{check["user_id"] for check in claim(connection, limit=5)} for _ in range(40)]
        left = claim(connection)

    assert left == []
    for first, second in zip(turns[::2], turns[1::2], strict=True):
        assert len(first) == len(second) == 5
        assert first.isdisjoint(second)


def test_claims_at_the_same_time_never_share_and_miss_nothing(crowded: Database) -> None:
    claimed: dict[int, list[str]] = {number: [] for number in range(4)}
    together = Barrier(4, timeout=10)

    def work(number: int) -> None:
        with crowded.connect(autocommit=True) as connection:
            connection.execute("set role service_role")
            together.wait()
            while checks := claim(connection, limit=9):
                claimed[number] += [check["id"] for check in checks]
                record_claimed(connection, checks, next_check_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())

    workers = [Thread(target=work, args=[number]) for number in claimed]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    # A worker that finds all users in others' hands goes home: what is left is still due.
    with crowded.connect() as connection:
        while checks := claim(connection, limit=500):
            claimed[0] += [check["id"] for check in checks]
    everything = [id for ids in claimed.values() for id in ids]
    assert len(everything) == len(set(everything)) == 200
    with crowded.connect() as connection:
        recorded = column(connection, "select count(*) from integration_health_metrics group by user_integration_id")
    assert set(recorded) == {1}


def test_a_claim_waits_for_nobody(crowded: Database) -> None:
    """Neither for another claim that is not finished, nor for an owner who is saving."""
    with crowded.connect() as slow, crowded.connect() as owner, crowded.connect() as connection:
        for each in (slow, owner, connection):
            each.execute("set local statement_timeout = '5s'")
        first = claim(slow, limit=5)
        others = "select user_integration_id from integration_schedule where user_id <> all(%s::uuid[]) limit 1"
        saved = one(
            owner,
            f"update integration_schedule set lease_token = null where user_integration_id = ({others}) "
            "returning user_integration_id::text",
            [[check["user_id"] for check in first]],
        )
        second = claim(connection, limit=500)
        for each in (slow, owner, connection):
            each.rollback()

    assert len(first) == 5
    assert len(second) == 99  # the other five users have 20 each
    assert saved not in _ids(second)


def test_a_killed_worker_loses_nothing(crowded: Database) -> None:
    with crowded.connect() as killed:
        lost = claim(killed, limit=500)
        killed.rollback()  # as when the process dies before its commit

    with crowded.connect() as connection:
        found = claim(connection, limit=500)
        connection.rollback()

    assert len(lost) == len(found) == 200


def test_a_batch_is_recorded_together_or_not_at_all(db: Connection, kind: uuid.UUID) -> None:
    _add_due(db, add_user(db), kind, 3)
    checks = claim(db)
    broken = [{"user_id": check["user_id"], "user_integration_id": check["id"], "source": "sweep", "intent": "sweep",
               "lease_token": check["lease_token"], "checked_at": "2031-01-01T00:00:00Z", "success": True, "verdict": "ok",
               "next_check_at": "2031-01-01T00:00:00Z", "response_time_ms": -number}
              for number, check in enumerate(checks)]  # fmt: skip

    with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
        call(db, "record_checks", p_results=json.dumps(broken))

    assert one(db, "select count(*) from integration_health_metrics") == 0
    assert len(record_claimed(db, checks)) == 3
