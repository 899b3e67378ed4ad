"""Who may do what to which table: every table of `public` × every command × every kind of caller."""

from __future__ import annotations

import pytest

from tests.conftest import AsRole, AsUser, Connection
from tests.support.attacks import Attack, World
from tests.support.rows import column
from tests.support.versions import on_both_versions

ACTORS = ("anon", "owner", "stranger", "service_role")

#: Of ACTORS in that order. Row level security denies in two voices: `refused` raises 42501, because there is no grant
#: or a `with check` does not hold; `silent` touches no row, because a `using` clause hides it.
EXPECTED = {
    "integration_types": {
        "select": "done done done done",
        "insert": "refused refused refused done",
        "update": "refused refused refused done",
        "delete": "refused refused refused done",
    },
    "user_integrations": {
        "select": "refused done silent done",
        "insert": "refused done refused done",
        "update": "refused done silent done",
        "delete": "refused done silent done",
    },
    "integration_schedule": {
        "select": "refused done silent done",
        "insert": "refused refused refused done",
        "update": "refused refused refused done",
        "delete": "refused refused refused done",
    },
    "user_data_keys": {
        "select": "refused refused refused done",
        "insert": "refused refused refused done",
        "update": "refused refused refused done",
        "delete": "refused refused refused done",
    },
    "integration_credentials": {
        "select": "refused done silent done",
        "insert": "refused refused refused done",
        "update": "refused refused refused done",
        "delete": "refused refused refused done",
    },
    "integration_logs": {
        "select": "refused done silent done",
        "insert": "refused refused refused done",
        "update": "refused refused refused refused",
        "delete": "refused refused refused refused",
    },
    "integration_health_metrics": {
        "select": "refused done silent done",
        "insert": "refused refused refused done",
        "update": "refused refused refused refused",
        "delete": "refused refused refused refused",
    },
    "integration_health_hourly": {
        "select": "refused done silent done",
        "insert": "refused refused refused done",
        "update": "refused refused refused done",
        "delete": "refused refused refused refused",
    },
    "integration_health_daily": {
        "select": "refused done silent done",
        "insert": "refused refused refused done",
        "update": "refused refused refused done",
        "delete": "refused refused refused refused",
    },
    "provider_incidents": {
        "select": "refused refused refused done",
        "insert": "refused refused refused done",
        "update": "refused refused refused done",
        "delete": "refused refused refused refused",
    },
    "idempotency_keys": {
        "select": "refused done silent done",
        "insert": "refused done refused done",
        "update": "refused refused refused refused",
        "delete": "refused done silent done",  # of old answers
    },
}

#: A column that each table's clients might wish to change, and a row of the owner's that does not collide.
UPDATED = {
    "integration_types": "name",
    "user_integrations": "name",
    "integration_schedule": "next_check_at",
    "user_data_keys": "wrapped_key",
    "integration_credentials": "destination",
    "integration_logs": "message",
    "integration_health_metrics": "success",
    "integration_health_hourly": "failures",
    "integration_health_daily": "failures",
    "provider_incidents": "verdict",
    "idempotency_keys": "response",
}
_ROLLUP = "(user_id, user_integration_id, starts_at, checks, failures, success_ms) values (%(owner)s, %(mine)s, {}, 1, 1, '{{}}')"
INSERTED = {
    "integration_types": "(name, slug, type, category) values ('x', 'x', 'mcp', 'x')",
    "user_integrations": "(user_id, integration_type_id, name) values (%(owner)s, %(active)s, 'Another')",
    "integration_schedule": "(user_id, user_integration_id, next_check_at) "
    "select user_id, id, now() from user_integrations where user_id = %(owner)s and name = 'Unscheduled'",
    "user_data_keys": "(id, user_id, wrapped_key, retired_at) values (%(other)s, %(owner)s, 'x', now())",
    "integration_credentials": "(id, user_integration_id, user_id, credential_type, encrypted_value, data_key_id, "
    "destination) values (%(other)s, %(mine)s, %(owner)s, 'password', 'AAAA', %(key)s, 'x')",
    "integration_logs": "(user_id, user_integration_id, event_type, message) values (%(owner)s, %(mine)s, 'tested', 'x')",
    "integration_health_metrics": "(user_id, user_integration_id, response_time_ms, success, verdict, source, checked_at) "
    "values (%(owner)s, %(mine)s, 1, true, 'ok', 'test', now())",
    "integration_health_hourly": _ROLLUP.format("date_trunc('hour', now()) + interval '1 hour'"),
    "integration_health_daily": _ROLLUP.format("date_trunc('day', now()) + interval '1 day'"),
    "provider_incidents": "(integration_type_id, verdict, started_at, users) values (%(active)s, 'timeout', now(), 5)",
    "idempotency_keys": "(user_id, key, fingerprint, response) values (%(owner)s, 'k', 'f', '{}')",
}


database = on_both_versions()


@pytest.fixture
def world(db: Connection, as_user: AsUser, as_role: AsRole) -> World:
    world = World(db, as_user, as_role)
    db.execute("update idempotency_keys set created_at = now() - interval '25 hours'")
    db.execute("insert into user_integrations (user_id, integration_type_id, name) values (%s, %s, 'Unscheduled')",
               [world.ids.owner, world.ids.active])  # fmt: skip
    db.execute("insert into integration_types (name, slug, type, category) values ('x', 'unused', 'mcp', 'x')")
    db.execute("insert into provider_incidents (integration_type_id, verdict, started_at, users) values (%s, 'timeout', now(), 5)",
               [world.ids.retired])  # fmt: skip
    return world


def test_every_table_of_public_has_its_place_in_the_matrix(db: Connection) -> None:
    tables = column(
        db,
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind not in ('i', 'I', 'S')",
    )

    assert set(tables) == set(EXPECTED)
    assert all(set(commands) == {"select", "insert", "update", "delete"} for commands in EXPECTED.values())


@pytest.mark.parametrize("command", ["select", "insert", "update", "delete"])
def test_every_caller_may_do_what_the_matrix_says(world: World, db: Connection, command: str) -> None:
    tables = column(
        db, "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
    )

    found = {table: " ".join(_voice(world, table, command, actor) for actor in ACTORS) for table in tables}

    assert found == {table: commands[command] for table, commands in EXPECTED.items()}


def _voice(world: World, table: str, command: str, actor: str) -> str:
    where = {
        "integration_types": "slug = 'unused'", "provider_incidents": "integration_type_id = %(retired)s",
    }.get(table, "user_id = %(owner)s")  # fmt: skip
    statement = {
        "select": f"select from {table} where {where}",
        "insert": f"insert into {table} {INSERTED[table]}",
        "update": f"update {table} set {UPDATED[table]} = {UPDATED[table]} where {where}",
        "delete": f"delete from {table} where {where}",
    }[command]
    outcome = world.outcome(Attack("", actor, statement, ""))
    return {"42501": "refused", "0 rows": "silent"}.get(outcome, "done" if outcome.endswith(" rows") else outcome)
