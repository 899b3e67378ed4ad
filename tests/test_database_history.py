"""What the database itself writes down, whoever acts; on the newest and the oldest Postgres."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.conftest import AsRole, AsUser, Connection
from tests.support.attacks import World
from tests.support.postgres import Database, add_user
from tests.support.rows import (
    add_credential,
    add_integration,
    add_type,
    call,
    claim,
    column,
    events,
    integration,
    logs,
    one,
    record,
    record_claimed,
    schedule,
)
from tests.support.versions import on_both_versions

database = on_both_versions()


@pytest.fixture
def mine(db: Connection, owner: uuid.UUID) -> uuid.UUID:
    return add_integration(db, owner, add_type(db), name="Payroll", connection_config='{"url": "https://a.example"}')


@pytest.mark.parametrize("actor", ["owner", "service_role", "postgres"])
def test_creation_and_change_are_logged_whoever_makes_them(
    db: Connection, as_user: AsUser, as_role: AsRole, owner: uuid.UUID, actor: str
) -> None:
    kind = add_type(db)
    with as_user(owner) if actor == "owner" else as_role(actor):
        made = one(
            db,
            "insert into user_integrations (user_id, integration_type_id, name) values (%s, %s, 'Payroll') returning id",
            [owner, kind],
        )
        db.execute(
            "update user_integrations set name = 'Wages', connection_config = '{\"url\": \"x\"}', auth_method = 'basic' "
            "where id = %s",
            [made],
        )
        db.execute("update user_integrations set name = 'Wages' where id = %s", [made])  # no change

    assert logs(db, made) == [
        ("created", "Payroll was created.", {}),
        (
            "config_updated",
            "Changed: name, connection_config, auth_method.",
            {"changed": ["name", "connection_config", "auth_method"]},
        ),
    ]


@pytest.mark.parametrize("actor", ["owner", "service_role", "postgres"])
def test_the_log_of_a_deletion_stays_with_its_owner(
    db: Connection, as_user: AsUser, as_role: AsRole, owner: uuid.UUID, mine: uuid.UUID, actor: str
) -> None:
    record(db, owner, mine, intent="connect")
    add_credential(db, owner, mine)
    with as_user(owner) if actor == "owner" else as_role(actor):
        db.execute("delete from user_integrations where id = %s", [mine])

    with as_user(owner):
        kept = db.execute(
            "select event_type, message, metadata->>'user_integration_id' from integration_logs"
        ).fetchall()
    with as_user(add_user(db)):
        others = db.execute("select from integration_logs").rowcount

    assert kept == [("deleted", "Payroll was deleted.", str(mine))]
    assert others == 0


def test_everything_else_goes_with_an_integration(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    add_credential(db, owner, mine)
    record(db, owner, mine, intent="connect")

    db.execute("delete from user_integrations where id = %s", [mine])

    assert _rows_of(db, owner) == {"public.user_data_keys": 1, "public.integration_logs": 1, "private.sweep_turns": 1}


@pytest.mark.parametrize("actor", ["supabase_auth_admin", "postgres"])
def test_nothing_is_left_of_a_deleted_account(database: Database, actor: str) -> None:
    """Auth deletes the row of `auth.users` under a role of its own, which has no rights on our tables."""
    with database.connect("supabase_admin") as db:
        owner = add_user(db)
        for _ in range(2):
            mine = add_integration(db, owner, add_type(db))
            add_credential(db, owner, mine)
            record(db, owner, mine, intent="connect")
        call(db, "prepare_write", p_user_id=owner, p_tests_per_minute=20, p_tests_per_day=500)
        db.execute(
            "insert into idempotency_keys (user_id, key, fingerprint, response) values (%s, 'k', 'f', '{}')", [owner]
        )
        assert len(_rows_of(db, owner)) == 11

        db.execute(f"set local role {actor}")
        deleted = db.execute("delete from auth.users where id = %s", [owner]).rowcount
        db.execute("reset role")

        assert deleted == 1
        assert _rows_of(db, owner) == {}
        db.rollback()


def _rows_of(db: Connection, user_id: uuid.UUID) -> dict[str, int]:
    """How many rows each table has of this user, where it has any."""
    tables = column(
        db,
        "select c.oid::regclass::text from pg_class c join pg_attribute a on attrelid = c.oid and attname = 'user_id' "
        "where relkind in ('r', 'p') and not relispartition and relnamespace::regnamespace::text in ('public', 'private')",
    )
    named = [table if "." in table else f"public.{table}" for table in tables]
    counts = {table: one(db, f"select count(*) from {table} where user_id = %s", [user_id]) for table in named}
    return {table: count for table, count in counts.items() if count}


def test_no_value_of_a_configuration_or_credential_is_logged(
    db: Connection, as_user: AsUser, owner: uuid.UUID, mine: uuid.UUID
) -> None:
    marks = [uuid.uuid4().hex for _ in range(4)]
    with as_user(owner):
        db.execute(
            "update user_integrations set connection_config = %s", [json.dumps({"url": marks[0], "a": {"b": marks[1]}})]
        )
    credential = add_credential(db, owner, mine, encrypted_value=marks[2], hint="last")
    db.execute("update integration_credentials set encrypted_value = %s, last_rotated_at = clock_timestamp() where id = %s",
               [marks[3], credential])  # fmt: skip
    db.execute("delete from integration_credentials where id = %s", [credential])

    written = json.dumps(logs(db, mine))

    assert [event for event in events(db, mine) if event.startswith("c")] == [
        "created", "config_updated", "credential_saved", "credential_saved", "credential_deleted",
    ]  # fmt: skip
    assert [mark for mark in [*marks, "last"] if mark in written] == []


Change = Callable[[Connection, uuid.UUID, uuid.UUID], object]


def _reconfigure(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    db.execute(
        'update user_integrations set connection_config = \'{"url": "https://b.example"}\' where id = %s', [mine]
    )


def _change_method(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    db.execute("update user_integrations set auth_method = 'basic' where id = %s", [mine])


def _replace_credential(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    db.execute("update integration_credentials set encrypted_value = 'AAAA', last_rotated_at = clock_timestamp() "
               "where user_integration_id = %s", [mine])  # fmt: skip


def _drop_credential(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    db.execute("delete from integration_credentials where user_integration_id = %s", [mine])


def _add_credential(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    add_credential(db, owner, mine, credential_type="password")


@pytest.mark.parametrize(
    "change", [_reconfigure, _change_method, _add_credential, _replace_credential, _drop_credential]
)
def test_a_change_ends_the_check_that_is_under_way_and_is_due_at_once(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID, change: Change
) -> None:
    add_credential(db, owner, mine)
    schedule(db, mine, owner)
    under_way = claim(db)
    before = integration(db, mine)

    change(db, owner, mine)

    after = integration(db, mine)
    assert after["config_version"] == before["config_version"] + 1
    assert record_claimed(db, under_way) == []
    assert integration(db, mine)["last_verdict"] is None
    assert [check["config_version"] for check in claim(db)] == [after["config_version"]]


@pytest.mark.parametrize("statement", [
    "update user_integrations set name = 'Wages' where id = %s",
    "update user_integrations set connection_config = connection_config where id = %s",
    "update integration_credentials set encrypted_value = 'AAAA' where user_integration_id = %s",  # another key
])  # fmt: skip
def test_what_changes_no_connection_leaves_the_check_alone(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID, statement: str
) -> None:
    add_credential(db, owner, mine)
    schedule(db, mine, owner)
    under_way = claim(db)

    db.execute(statement, [mine])

    assert record_claimed(db, under_way) == [str(mine)]


def test_a_change_schedules_nothing_that_was_not_scheduled(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    _reconfigure(db, owner, mine)
    add_credential(db, owner, mine)

    assert integration(db, mine)["next_check_at"] is None


def test_the_earliest_expiry_of_its_credentials_stands_on_the_integration(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID
) -> None:
    seen = []
    for statement in (
        "insert", "insert later", "update integration_credentials set expires_at = '2041-01-01' where credential_type = 'a'",
        "update integration_credentials set expires_at = null where credential_type = 'a'",
        "delete from integration_credentials where credential_type = 'b'",
    ):  # fmt: skip
        if statement == "insert":
            add_credential(db, owner, mine, credential_type="a", expires_at="2031-01-01T00:00:00Z")
        elif statement == "insert later":
            add_credential(db, owner, mine, credential_type="b", expires_at="2032-01-01T00:00:00Z")
        else:
            db.execute(statement)
        seen.append(integration(db, mine)["next_expiry_at"])

    assert [expiry and expiry[:4] for expiry in seen] == ["2031", "2031", "2032", "2032", None]


def test_updated_at_moves_with_what_the_owner_sees_and_not_with_every_check(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID
) -> None:
    old = datetime(2020, 1, 1, tzinfo=UTC).isoformat()

    def moves(statement: str) -> bool:
        db.execute("alter table user_integrations disable trigger integration_changes")
        db.execute("update user_integrations set updated_at = %s, status = 'connected', is_connected = true", [old])
        db.execute("alter table user_integrations enable trigger integration_changes")
        db.execute(statement, [mine])
        return bool(one(db, "select updated_at > %s from user_integrations where id = %s", [old, mine]))

    assert moves("update user_integrations set name = 'Wages' where id = %s")
    assert moves("update user_integrations set status = 'error', is_connected = false where id = %s")
    assert not moves("update user_integrations set last_tested_at = now(), last_verdict = 'ok' where id = %s")


def test_two_names_that_differ_by_case_are_one_name(world: World) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation), world.db.transaction():
        add_integration(world.db, world.ids.owner, world.ids.active, name="PAYROLL")


@pytest.fixture
def world(db: Connection, as_user: AsUser, as_role: AsRole) -> World:
    return World(db, as_user, as_role)


def test_an_idempotent_answer_is_forgotten_after_a_day(world: World, as_user: AsUser) -> None:
    db, ids = world.db, world.ids
    payload = json.dumps({
        "integration_type_id": str(ids.active), "name": "Again", "auth_method": "none", "connection_config": {},
        "idempotency": {"key": "once", "fingerprint": "new"},
    })  # fmt: skip
    with as_user(ids.owner):
        replay = call(db, "prepare_write", p_user_id=ids.owner, p_idempotency_key="once")["replay"]
    db.execute("update idempotency_keys set created_at = now() - %s", [timedelta(hours=25)])
    with as_user(ids.owner):
        forgotten = call(db, "prepare_write", p_user_id=ids.owner, p_idempotency_key="once")["replay"]
        answer = call(db, "create_integration", p_user_id=ids.owner, p_payload=payload)
        again = call(db, "prepare_write", p_user_id=ids.owner, p_idempotency_key="once")["replay"]

    assert replay == {"fingerprint": "print", "response": {}}
    assert forgotten is None
    assert again == {"fingerprint": "new", "response": answer}
