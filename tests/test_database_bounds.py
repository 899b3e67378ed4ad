"""What a row may hold, whoever writes it: nobody's row can stop the checks of the others."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chalicelib.services.config_rules import general_problems
from tests.conftest import AsUser, Connection
from tests.support.postgres import add_user
from tests.support.rows import add_credential, add_integration, add_type, integration, one, schedule
from tests.support.versions import on_both_versions

NOW = datetime.now(UTC)


database = on_both_versions()


@pytest.mark.parametrize(
    "config",
    [
        '{"x": 1e5000}',
        '{"x": -1e16}',
        '{"timeout_ms": 1e400}',
        '{"x": ' + "[" * 3_000 + "]" * 3_000 + "}",
        '{"x": ' + '{"a": ' * 10 + "1" + "}" * 11,
        '{"x": "' + "a" * 33_000 + '"}',
        "[]",
        "1",
    ],
    ids=["huge", "low", "huge timeout", "3,000 deep", "11 deep", "long", "list", "number"],
)
def test_an_owner_cannot_store_a_configuration_that_nobody_can_read(
    as_user: AsUser, owner: uuid.UUID, mine: uuid.UUID, config: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation), as_user(owner) as db:
        db.execute("update user_integrations set connection_config = %s where id = %s", [config, mine])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(-1e15, 1e15) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=st.dictionaries(st.text(max_size=8), JSON, max_size=6))
def test_what_the_api_accepts_the_database_takes(db: Connection, config: dict[str, Any]) -> None:
    if not general_problems(config):
        assert one(db, "select private.is_plain_config(%s)", [json.dumps(config)])


def test_the_largest_configuration_of_the_api_fits(db: Connection) -> None:
    config = {"x": [1] * 5_450}
    assert not general_problems(config)
    assert general_problems({"x": [1] * 5_500})
    assert one(db, "select private.is_plain_config(%s)", [json.dumps(config)])


@pytest.mark.parametrize("response", ["1", "[]", "null", json.dumps({"x": "a" * 600_000})])
def test_an_owner_cannot_keep_an_answer_that_is_none(as_user: AsUser, owner: uuid.UUID, response: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation), as_user(owner) as db:
        db.execute(
            "insert into idempotency_keys (user_id, key, fingerprint, response) values (%s, 'k', 'f', %s)",
            [owner, response],
        )


@pytest.mark.parametrize("expiry", ["0001-01-01", "1999-12-31", "9999-12-31", "infinity", "-infinity"])
def test_an_expiry_lies_in_years_that_can_be_computed_with(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID, expiry: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        add_credential(db, owner, mine, expires_at=expiry)


def test_an_integration_keeps_forty_credentials(db: Connection, owner: uuid.UUID, mine: uuid.UUID) -> None:
    for number in range(40):
        add_credential(db, owner, mine, credential_type=f"env.V{number}")
    with pytest.raises(psycopg.Error, match="too_many_credentials") as refused, db.transaction():
        add_credential(db, owner, mine, credential_type="env.ONE_MORE")
    assert refused.value.sqlstate == "PT422"
    db.execute("update integration_credentials set last_rotated_at = now()")  # replacing stays possible


def test_an_integration_keeps_a_quarter_of_a_megabyte_of_secrets(
    db: Connection, owner: uuid.UUID, mine: uuid.UUID
) -> None:
    largest = "a" * 87_400  # 64 KiB, sealed and in base64
    for kind in ("client_certificate", "client_key"):
        add_credential(db, owner, mine, credential_type=kind, encrypted_value=largest)
    with pytest.raises(psycopg.Error, match="too_many_credentials"), db.transaction():
        add_credential(db, owner, mine, credential_type="ca_certificate", encrypted_value=largest + "aaaa")
    add_credential(  # given once by the token endpoint, and to nobody again
        db, owner, mine, credential_type="access_token", encrypted_value=largest, refreshed_at=NOW + timedelta(days=1)
    )


def test_a_user_has_fifty_thousand_integrations_at_most(db: Connection, owner: uuid.UUID, as_user: AsUser) -> None:
    kind = add_type(db)
    many = "insert into user_integrations (user_id, integration_type_id, name) select %s, %s, n::text "
    db.execute("alter table user_integrations disable trigger log_integration")
    db.execute(many + "from generate_series(1, 50000) n", [owner, kind])
    db.execute("alter table user_integrations enable trigger log_integration")

    with pytest.raises(psycopg.Error, match="too_many_integrations"), as_user(owner) as mine:
        mine.execute(many + "from generate_series(0, 0) n", [owner, kind])
    db.execute(many + "from generate_series(0, 0) n", [add_user(db), kind])


@pytest.mark.parametrize("rows", [100, 101])
def test_a_request_of_a_client_writes_a_hundred_rows_at_most(
    db: Connection, owner: uuid.UUID, as_user: AsUser, rows: int
) -> None:
    """Every row is logged, checked anew, and locked until the last one is written."""
    kind = add_type(db)
    db.execute(
        "insert into user_integrations (user_id, integration_type_id, name) select %s, %s, n::text "
        "from generate_series(1, %s) n", [owner, kind, rows],
    )  # fmt: skip
    statements = [
        ("insert into user_integrations (user_id, integration_type_id, name) select %s, %s, 'x' || n from generate_series(1, %s) n",
         [owner, kind, rows]),
        ("update user_integrations set connection_config = '{\"n\": 1}' where name not like 'x%%' and user_id = %s", [owner]),
        ("insert into idempotency_keys (user_id, key, fingerprint, response) select %s, n::text, 'f', '{}' from generate_series(1, %s) n",
         [owner, rows]),
    ]  # fmt: skip
    for statement, values in statements:
        db.execute("select set_config('private.rows_written', '', true)")  # a request is a transaction of its own
        if rows > 100:
            with pytest.raises(psycopg.Error, match="too_many_at_once"), as_user(owner) as mine:
                mine.execute(statement, values)
        else:
            with as_user(owner) as mine:
                mine.execute(statement, values)
    db.execute("update user_integrations set name = name || '!'")  # the service's own jobs are not bounded


@pytest.mark.parametrize(("fits", "length"), [(2_000, 1), (50, 300_000)])
def test_kept_answers_do_not_pile_up(db: Connection, owner: uuid.UUID, fits: int, length: int) -> None:
    noise = "".join(uuid.uuid4().hex for _ in range(length // 32 + 1))[:length]  # which does not compress

    def keep(whose: uuid.UUID, how_many: int) -> None:
        db.execute(
            "insert into idempotency_keys (user_id, key, fingerprint, response) "
            "select %s, gen_random_uuid()::text, 'f', jsonb_build_object('x', %s::text) from generate_series(1, %s)",
            [whose, noise, how_many],
        )

    keep(owner, fits)
    with pytest.raises(psycopg.Error, match="too_many_keys"), db.transaction():
        keep(owner, 20)
    keep(add_user(db), 1)


def test_a_retired_type_is_nobodys_to_begin_with(db: Connection, owner: uuid.UUID, as_user: AsUser) -> None:
    insert = "insert into user_integrations (user_id, integration_type_id, name) values (%s, %s, 'mine')"
    kind = add_type(db, is_active=False)
    add_integration(db, owner, kind)  # who has it keeps it, and may read of it
    with pytest.raises(psycopg.errors.InsufficientPrivilege), as_user(owner) as mine:
        mine.execute(insert, [owner, kind])


@pytest.mark.parametrize(("claims", "refused"), [({"is_anonymous": True}, True), ({"is_anonymous": False}, False)])
def test_an_anonymous_sign_in_has_no_integrations(
    db: Connection, owner: uuid.UUID, claims: dict[str, Any], refused: bool
) -> None:
    kind = add_type(db)
    token = json.dumps({"sub": str(owner), "role": "authenticated", **claims})
    with db.transaction():
        db.execute(
            "select set_config('request.jwt.claims', %s, true), set_config('role', 'authenticated', true)", [token]
        )
        insert = "insert into user_integrations (user_id, integration_type_id, name) values (%s, %s, 'mine')"
        if refused:
            with pytest.raises(psycopg.errors.InsufficientPrivilege), db.transaction():
                db.execute(insert, [owner, kind])
        else:
            db.execute(insert, [owner, kind])


@pytest.mark.parametrize(
    ("tested_ago", "due_in", "leased", "expected"),
    [
        (None, None, False, 0),
        ("1 minute", None, False, 240),  # was off the schedule
        ("1 hour", "1 hour", False, 0),  # waited for its turn after failures
        ("1 minute", "1 hour", False, 240),
        ("4 minutes", "30 seconds", False, 30),  # comes earlier by itself
        ("1 minute", "90 seconds", True, 240),  # the end of a lease is no turn
    ],
)
def test_a_changed_integration_is_checked_early_but_not_more_often(
    db: Connection,
    owner: uuid.UUID,
    mine: uuid.UUID,
    tested_ago: str | None,
    due_in: str | None,
    leased: bool,
    expected: int,
) -> None:
    db.execute(
        "update user_integrations set status = 'connected', is_connected = true, "
        "last_tested_at = now() - %s::interval where id = %s", [tested_ago, mine],
    )  # fmt: skip
    if due_in:
        schedule(db, mine, owner, one(db, "select now() + %s::interval", [due_in]))
    if leased:
        db.execute("update integration_schedule set lease_token = gen_random_uuid()")

    db.execute('update user_integrations set connection_config = \'{"url": "https://b"}\' where id = %s', [mine])

    row = db.execute(
        "select extract(epoch from next_check_at - now())::int, lease_token from integration_schedule"
    ).fetchone()
    assert row == (expected, None)
    assert integration(db, mine)["config_version"] == 2
