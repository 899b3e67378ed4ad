"""Each promise of the data layer, tried as an attacker would, on the newest and the oldest Postgres."""

from __future__ import annotations

import json
import random
import uuid

import psycopg
import pytest

from chalicelib.services.config_rules import SECRET_KEY_PATTERN
from tests.conftest import AsRole, AsUser, Connection
from tests.support import rows
from tests.support.attacks import FAMILIES, Attack, World, column_attacks, function_attacks
from tests.support.postgres import Database
from tests.support.privileges import FUNCTIONS
from tests.support.versions import on_both_versions

database = on_both_versions()


@pytest.fixture
def world(db: Connection, as_user: AsUser, as_role: AsRole) -> World:
    return World(db, as_user, as_role)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_attack_gets_its_answer(world: World, family: str) -> None:
    assert world.violations(FAMILIES[family]) == []


def test_no_column_of_the_service_can_be_set_by_an_owner(world: World) -> None:
    attacks = column_attacks(world.db)

    assert len(attacks) >= 40
    assert world.violations(attacks) == []


def test_no_client_can_call_a_function_that_is_not_for_clients(world: World) -> None:
    attacks = function_attacks(world.db, FUNCTIONS)

    assert len(attacks) > 60
    assert world.violations(attacks) == []


def test_a_service_key_reaches_every_function_for_the_service(world: World) -> None:
    """The counterpart of the refusals above: they come from grants, not from broken calls."""
    sealed = Attack("", "service_role", "select public.sealed_credentials(%(owner)s, %(mine)s)", "1 rows")
    logged = Attack("", "service_role", "select public.log_event(%(owner)s, %(mine)s, 'tested', 'x')", "1 rows")

    assert world.violations([sealed, logged]) == []


@pytest.mark.parametrize("name", ["Payroll", "PAYROLL", "free"])
def test_a_name_taken_by_somebody_else_is_free(world: World, name: str) -> None:
    with world.acting("stranger") as connection:
        added = connection.execute(
            "insert into user_integrations (integration_type_id, name) values (%s, %s) returning name",
            [world.ids.active, name],
        ).fetchall()

    assert added == [(name,)]


def test_no_error_tells_whether_somebody_else_has_a_name(world: World) -> None:
    def error(name: str) -> str:
        with pytest.raises(psycopg.Error) as raised, world.acting("stranger") as connection:
            connection.execute(
                "insert into user_integrations (user_id, integration_type_id, name) values (%s, %s, %s)",
                [world.ids.owner, world.ids.active, name],
            )
        return f"{raised.value.sqlstate} {raised.value.diag.message_primary} {raised.value.diag.message_detail}"

    assert error("Payroll") == error("free")


def test_an_owner_hears_of_their_own_name_that_is_taken(world: World) -> None:
    attack = Attack("", "owner", "insert into user_integrations (integration_type_id, name) "
                                 "values (%(active)s, 'pAYROLL')", "23505")  # fmt: skip

    assert world.outcome(attack) == attack.answer


@pytest.mark.parametrize(
    "config",
    [
        {"api_key": "x"},
        {"apiKey": "x"},
        {"API-KEY": "x"},
        {"x-api-key": "x"},
        {"githubToken": "x"},
        {"Authorization": "x"},
        {"set-cookie": "x"},
        {"client_secret": ""},
        {"password": None},
        {"credentials": {}},
        {"headers": {"X-Auth-Token": "x"}},
        {"a": [{"b": [[{"privateKey": "x"}]]}]},
        {"env": [{"deep": {"er": {"signing_key": 1}}}]},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("actor", ["owner", "service_role"])
def test_a_configuration_with_something_like_a_secret_is_refused(world: World, actor: str, config: object) -> None:
    for statement in (
        "insert into user_integrations (user_id, integration_type_id, name, connection_config) "
        "values (%(user)s, %(type)s, 'x', %(config)s)",
        "update user_integrations set connection_config = %(config)s where user_id = %(user)s",
    ):
        with pytest.raises(psycopg.errors.CheckViolation), world.acting(actor) as connection:
            connection.execute(
                statement, {"user": world.ids.owner, "type": world.ids.active, "config": json.dumps(config)}
            )


@pytest.mark.parametrize("levels", [50, 1000, 10_000])
def test_no_depth_hides_a_secret(world: World, levels: int) -> None:
    """At 10,000 levels, Postgres may run out of stack before it finds the secret; it stores nothing either way."""
    config = '{"a":' * levels + '{"apiKey": "x"}' + "}" * levels

    with (
        pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.StatementTooComplex)),
        world.acting("owner") as connection,
    ):
        connection.execute("update user_integrations set connection_config = %s", [config])


@pytest.mark.parametrize(("opens", "closes"), [('{"":', "}"), ("[", "]"), ('{"a":[', "]}")])
@pytest.mark.parametrize("levels", [9_000, 12_000, 30_000])
def test_no_depth_ends_the_server(world: World, opens: str, closes: str, levels: int) -> None:
    """Ten thousand levels, looked through for secrets, once took all connections of everybody with them."""
    config = '{"x":' + opens * levels + "1" + closes * levels + "}"

    with (
        pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.StatementTooComplex)),
        world.acting("owner") as connection,
    ):
        connection.execute("update user_integrations set connection_config = %s", [config])

    assert world.db.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize(
    "config", ['{"url": "https://e.example", "tokens": 3, "keyboard": []}', '{"headers": {"token_type": "x"}}']
)
def test_a_configuration_without_secrets_is_stored(world: World, config: str) -> None:
    with world.acting("owner") as connection:
        stored = connection.execute("update user_integrations set connection_config = %s", [config]).rowcount

    assert stored == 1


def test_the_database_and_the_service_refuse_the_same_keys(db: Connection) -> None:
    words = "token secret password passwd passphrase authorization api access private signing key credential cookie"
    pick = random.Random(7)
    keys = [
        "".join(pick.choice([word, word.upper(), word.title()]) + pick.choice(["", "", "", "-", "_", "s", "."]) for word in
                pick.choices([*words.split(), "my", "url", "é"], k=pick.randint(1, 3)))
        for _ in range(2000)
    ]  # fmt: skip

    refused = rows.column(
        db,
        "select key from unnest(%s::text[]) as key where private.has_secret_key(jsonb_build_object('a', array["
        "jsonb_build_object(key, 1)]))",
        [keys],
    )

    assert 400 < len(refused) < 1600
    assert refused == [key for key in keys if SECRET_KEY_PATTERN.search(key)]


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb", "x" + " " * 5000, " " * 200 + "x"])
def test_a_name_nobody_could_read_is_refused(world: World, name: str) -> None:
    """Also one that is long by its spaces: it would not fit into the log, and its owner could not delete it any more."""
    with pytest.raises(psycopg.errors.CheckViolation), world.acting("owner") as connection:
        connection.execute("update user_integrations set name = %s", [name])


def test_a_test_spends_the_callers_budget_whoever_is_named(world: World, db: Connection, as_user: AsUser) -> None:
    spend = "select private.spend_test(%s, 20, 500)"
    with as_user(world.ids.stranger) as connection:
        connection.execute(spend, [world.ids.owner])
        rows.call(connection, "prepare_write", p_user_id=world.ids.owner, p_type="x", p_tests_per_minute=20,
                  p_tests_per_day=500)  # fmt: skip

    spent = db.execute("select user_id, minute_used, day_used from private.test_budgets").fetchall()

    assert spent == [(world.ids.stranger, 2, 2)]


def test_a_spent_budget_is_refused_with_the_seconds_to_wait(world: World) -> None:
    def spend(per_minute: int, per_day: int) -> None:
        rows.call(world.db, "prepare_write", p_user_id=world.ids.owner, p_integration_id=world.ids.mine,
                  p_tests_per_minute=per_minute, p_tests_per_day=per_day)  # fmt: skip

    spend(2, 500)
    spend(2, 500)
    for limits, longest in (((2, 500), 60), ((20, 2), 86_400)):
        with pytest.raises(psycopg.Error) as refused, world.db.transaction():
            spend(*limits)
        assert refused.value.sqlstate == "PT429"
        assert 0 < int(refused.value.diag.message_detail or 0) <= longest


def test_a_budget_is_fresh_with_the_next_minute_and_the_next_day(world: World) -> None:
    spend = "select private.spend_test(%s, 1, 2)"
    world.db.execute(spend, [world.ids.owner])
    world.db.execute("update private.test_budgets set minute = minute - interval '1 minute'")
    world.db.execute(spend, [world.ids.owner])
    world.db.execute("update private.test_budgets set minute = minute - interval '1 day', day = day - interval '1 day'")
    world.db.execute(spend, [world.ids.owner])

    spent = world.db.execute("select minute_used, day_used from private.test_budgets").fetchone()

    assert spent == (1, 1)


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_no_role_of_an_api_request_can_become_another(database: Database, role: str) -> None:
    with database.connect("supabase_admin", autocommit=True) as connection:
        connection.execute(f"set session authorization {role}")
        for other in {"anon", "authenticated", "service_role", "postgres", "supabase_admin", "authenticator"} - {role}:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"set role {other}")


def test_claims_without_the_role_open_nothing(world: World) -> None:
    """The grants are for `authenticated`; the policies come after them."""
    world.db.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": str(world.ids.owner)})])
    world.db.execute("set local role anon")

    with pytest.raises(psycopg.errors.InsufficientPrivilege), world.db.transaction():
        world.db.execute("select from user_integrations")


def test_a_signed_in_nobody_sees_nothing(world: World, as_user: AsUser) -> None:
    with as_user(uuid.uuid4()) as connection:
        seen = {
            table: connection.execute(f"select from {table}").rowcount
            for table in (
                "user_integrations",
                "integration_logs",
                "integration_credentials",
                "integration_health_daily",
            )
        }

    assert set(seen.values()) == {0}
