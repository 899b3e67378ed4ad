"""The hourly upkeep: owners hear of what expires, and what has served its time goes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chalicelib import wiring
from chalicelib.errors import Unavailable
from chalicelib.jobs.upkeep import run_upkeep
from tests.conftest import AsRole, Connection
from tests.support import rows
from tests.support.app import environment
from tests.support.postgres import add_user
from tests.support.stack import Stack
from tests.support.versions import on_both_versions

database = on_both_versions()


def told(db: Connection, mine: uuid.UUID) -> list[int]:
    """How many days before the end the owner was told, in order."""
    return [more["days"] for event, _, more in rows.logs(db, mine) if event == "credential_expiring"]


def expire(db: Connection, credential: uuid.UUID, **left: float) -> None:
    """Time passes until so much is left: the trigger that forgets what was noted is for new dates, not for this."""
    db.execute("alter table integration_credentials disable trigger user")
    db.execute(
        "update integration_credentials set expires_at = %s where id = %s",
        [datetime.now(UTC) + timedelta(**left), credential],
    )
    db.execute("alter table integration_credentials enable trigger user")


def test_an_owner_is_told_once_each_at_30_7_and_1_days(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    credential = rows.add_credential(db, owner, mine, credential_type="client_certificate",
                                     expires_at=datetime.now(UTC) + timedelta(days=31))  # fmt: skip
    heard = {}
    for hours in (31 * 24, 30 * 24 - 1, 20 * 24, 7 * 24 + 1, 7 * 24 - 1, 3 * 24, 25, 23, 1, -1, -50):
        expire(db, credential, hours=hours)
        for _ in range(2):
            rows.call(db, "note_expiries")
        heard[hours] = told(db, mine)

    assert heard == {
        744: [], 719: [30], 480: [30], 169: [30], 167: [30, 7], 72: [30, 7], 25: [30, 7], 23: [30, 7, 1], 1: [30, 7, 1],
        -1: [30, 7, 1], -50: [30, 7, 1],
    }  # fmt: skip


def test_what_is_said_names_the_credential_and_its_end_and_no_value(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID, as_role: AsRole
) -> None:
    ends = (datetime.now(UTC) + timedelta(days=5)).replace(microsecond=0)
    rows.add_credential(db, owner, mine, credential_type="jwt", expires_at=ends)

    with as_role("service_role"):
        assert rows.call(db, "note_expiries") == 1

    ((message, more),) = [(m, x) for event, m, x in rows.logs(db, mine) if event == "credential_expiring"]
    assert message == f"The credential jwt expires on {ends:%Y-%m-%d at %H:%M} UTC. Save a new one before then."
    assert more == {"credential_type": "jwt", "expires_at": ends.isoformat(), "days": 7}


def test_a_credential_saved_shortly_before_its_end_is_told_of_once(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID
) -> None:
    rows.add_credential(db, owner, mine, expires_at=datetime.now(UTC) + timedelta(hours=5))
    for _ in range(3):
        rows.call(db, "note_expiries")

    assert told(db, mine) == [1]


def test_a_new_date_starts_anew(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    credential = rows.add_credential(db, owner, mine, expires_at=datetime.now(UTC) + timedelta(days=3))
    rows.call(db, "note_expiries")
    db.execute("update integration_credentials set expires_at = now() + interval '60 days' where id = %s", [credential])
    rows.call(db, "note_expiries")
    db.execute("update integration_credentials set expires_at = now() + interval '6 days' where id = %s", [credential])
    rows.call(db, "note_expiries")

    assert told(db, mine) == [7, 7]


def test_tokens_that_renew_themselves_are_no_news_but_others_are(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID
) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=50)
    rows.add_credential(db, owner, mine, credential_type="access_token", expires_at=soon)
    rows.call(db, "note_expiries")
    assert told(db, mine) == [1]
    other = rows.add_integration(db, owner, rows.add_type(db))
    rows.add_credential(db, owner, other, credential_type="access_token", expires_at=soon)
    rows.add_credential(db, owner, other, credential_type="refresh_token")

    assert rows.call(db, "note_expiries") == 0


def test_it_is_done_in_portions(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    for number in range(5):
        rows.add_credential(db, owner, mine, credential_type=f"env.KEY_{number}",
                            expires_at=datetime.now(UTC) + timedelta(days=2))  # fmt: skip

    assert [rows.call(db, "note_expiries", p_most=2) for _ in range(4)] == [2, 2, 1, 0]


def test_answers_that_nobody_asks_for_any_more_are_forgotten(db: Connection, owner: uuid.UUID) -> None:
    for key, age in (("old", "25 hours"), ("fresh", "23 hours")):
        db.execute("insert into idempotency_keys (user_id, key, fingerprint, response, created_at) "
                   "values (%s, %s, 'f', '{}', now() - %s::interval)", [owner, key, age])  # fmt: skip

    assert rows.call(db, "forget_old")["answers"] == 1
    assert rows.column(db, "select key from idempotency_keys where user_id = %s", [owner]) == ["fresh"]


def test_how_much_is_due_is_counted_up_to_a_limit(db: Connection, owner: uuid.UUID) -> None:
    kind, others = rows.add_type(db), [add_user(db) for _ in range(3)]
    now = datetime.now(UTC)
    for number, user in enumerate([owner] * 4 + others):
        rows.schedule(db, rows.add_integration(db, user, kind), user, now - timedelta(minutes=number + 1))
    rows.schedule(db, rows.add_integration(db, owner, kind), owner, now + timedelta(minutes=1))
    rows.claim(db, limit=1)

    found = rows.call(db, "count_due")
    assert found["due"] == 6
    assert datetime.fromisoformat(found["oldest"]) == now - timedelta(minutes=6)
    assert rows.call(db, "count_due", p_most=2)["due"] == 2
    db.execute("delete from integration_schedule")
    assert rows.call(db, "count_due") == {"due": 0, "oldest": None}


@pytest.fixture
def said(stack: Stack) -> Iterator[list[dict[str, Any]]]:
    with environment(stack.environment() | {"METRICS_DAYS": "20", "LOGS_DAYS": "40"}):
        yield []


def test_the_job_does_all_of_it_and_says_so_in_one_line(stack: Stack, said: list[dict[str, Any]]) -> None:
    with stack.database.connect(autocommit=True) as db:
        user = add_user(db)
        mine = rows.add_integration(db, user, rows.add_type(db))
        rows.add_credential(db, user, mine, expires_at=datetime.now(UTC) + timedelta(days=2))
        rows.one(db, "select private.ensure_history(now() - interval '10 weeks')")
        run_upkeep(lambda line: said.append(json.loads(line)))
        left = told(db, mine)
        db.execute("delete from auth.users where id = %s", [user])

    (line,) = said
    dropped = [name.rpartition("_")[0] for name in line.pop("dropped")]
    assert dropped == ["integration_health_hourly", "integration_health_metrics", "integration_logs"]
    assert line == {
        "event": "upkeep",
        "environment": "test",
        "expiries_told": 1,
        "forgotten": {"answers": 0, "incidents": 0},
    }
    assert left == [7]


def test_a_part_that_fails_stops_no_other_and_is_told_of(
    stack: Stack, said: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class HalfBroken:
        def drop_history(self, *_: int) -> list[str]:
            raise Unavailable("The database is away.")

        def note_expiries(self, _: int) -> int:
            return 0

        def forget_old(self) -> dict[str, int]:
            return {"answers": 3}

    monkeypatch.setattr(wiring, "upkeep_store", HalfBroken)

    with pytest.raises(Unavailable):
        run_upkeep(lambda line: said.append(json.loads(line)))

    assert said == [{"event": "upkeep", "environment": "test", "dropped": "unavailable", "expiries_told": 0,
                     "forgotten": {"answers": 3}}]  # fmt: skip
