"""Every rule is needed: whoever loosens one finds that an attack gets somewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import LiteralString, cast

import pytest

from tests.conftest import AsRole, AsUser, Connection
from tests.support.attacks import ATTACKS, World, column_attacks, function_attacks, policies
from tests.support.privileges import FUNCTIONS, wrong_privileges
from tests.support.rows import column


@pytest.fixture
def world(db: Connection, as_user: AsUser, as_role: AsRole) -> World:
    return World(db, as_user, as_role)


def test_every_policy_is_missed_when_it_lets_everything_through(world: World) -> None:
    loosened = policies(world.db)

    assert len(loosened) >= 15
    assert [words for statement, words in loosened if not _found(world, statement, world.violations, ATTACKS)] == []


def test_every_policy_is_missed_when_it_stands_for_everybody(world: World, db: Connection) -> None:
    """Row level security switched off, table by table."""
    guarded = column(
        db,
        "select relname from pg_class, unnest(array['anon', 'authenticated']) as role "
        "where relnamespace = 'public'::regnamespace and relrowsecurity "
        "and has_any_column_privilege(role, pg_class.oid, 'select, insert, update') group by 1",
    )
    unnoticed = [
        table
        for table in guarded
        if not _found(world, f"alter table public.{table} disable row level security", world.violations, ATTACKS)
    ]

    assert len(guarded) >= 9
    assert unnoticed == []


def test_every_column_that_only_the_service_sets_is_missed_when_it_is_opened(world: World, db: Connection) -> None:
    unnoticed = []
    for attack in column_attacks(db):
        command, name = attack.statement.split()[0], attack.name.split()[-1]
        grant = f"grant {command} ({name}) on public.user_integrations to authenticated"
        if not _found(world, grant, world.violations, [attack]):
            unnoticed.append(grant)

    assert unnoticed == []


def test_every_composite_key_is_missed_when_it_is_dropped(world: World, db: Connection) -> None:
    dropped = column(
        db,
        """select format('alter table %s drop constraint %I', conrelid::regclass, conname)
           from pg_constraint where contype = 'f' and conparentid = 0 and cardinality(conkey) > 1""",
    )

    assert len(dropped) >= 7
    assert [change for change in dropped if not _found(world, change, world.violations, ATTACKS)] == []


@pytest.mark.parametrize(
    "grant",
    [
        "select (encrypted_value) on public.integration_credentials",
        "select (data_key_id) on public.integration_credentials",
        "select on public.integration_credentials",
        "select (wrapped_key), select (id) on public.user_data_keys",
        "update (encrypted_value) on public.integration_credentials",
        "update (destination) on public.integration_credentials",
        "update (next_check_at) on public.integration_schedule",
        "update (lease_token) on public.integration_schedule",
        "update (response) on public.idempotency_keys",
        "insert (created_at) on public.idempotency_keys",
        "select on private.sweep_turns",
        "select on private.token_refreshes",
        "select on private.test_budgets",
        "truncate on public.integration_logs",
    ],
)
def test_an_open_grant_is_found_by_an_attack(world: World, grant: str) -> None:
    assert _found(world, f"grant {grant} to authenticated", world.violations, ATTACKS)


def test_an_open_function_with_its_owners_rights_is_found_by_a_call(world: World, db: Connection) -> None:
    """The others run as their caller: behind the closed function, the closed tables stop a client again."""
    attacks = function_attacks(db, FUNCTIONS)
    functions = column(
        db,
        f"{_CLOSED_FUNCTIONS} and prosecdef and prorettype <> 'trigger'::regtype",
    )

    assert len(functions) >= 3
    assert [
        name
        for name in functions
        if not _found(world, f"grant execute on function {name} to authenticated", world.violations, attacks)
    ] == []


def test_any_other_grant_is_found_in_the_catalog(world: World, db: Connection) -> None:
    """Also those that no attack of ours would use, because row level security stands behind them."""
    grants = column(
        db,
        """select format('grant %s (%I) on %s to %I', command, attname, c.oid::regclass, role)
           from pg_class c join pg_attribute a on attrelid = c.oid and attnum > 0 and not attisdropped,
             unnest(array['select', 'insert', 'update']) as command,
             unnest(array['anon', 'authenticated']) as role
           where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
             and not has_column_privilege(role, c.oid, attname, command)""",
    ) + [f"grant execute on function {name} to authenticated" for name in column(db, _CLOSED_FUNCTIONS)]

    assert len(grants) > 400
    assert [grant for grant in grants if not _found(world, grant, wrong_privileges, db)] == []


_CLOSED_FUNCTIONS = """
    select oid::regprocedure::text from pg_proc
    where pronamespace in ('public'::regnamespace, 'private'::regnamespace)
      and not has_function_privilege('authenticated', oid, 'execute')
"""


@pytest.mark.parametrize(
    "change",
    [
        "revoke select on public.integration_logs from authenticated",
        "revoke update (name) on public.user_integrations from authenticated",
        "revoke execute on function public.get_integration(uuid) from authenticated",
        "grant delete on public.integration_logs to service_role",
        "grant execute on function public.drop_history(integer, integer, integer) to public",
        "create table public.forgotten ()",
        "create function public.forgotten() returns int language sql as 'select 1'",
    ],
)
def test_a_change_of_the_privileges_is_found_in_the_catalog(world: World, db: Connection, change: str) -> None:
    assert _found(world, change, wrong_privileges, db)


def _found(world: World, change: object, find: Callable[..., list[str]], argument: object) -> bool:
    """Whether ``find`` finds something once the rule is changed, and nothing before. The change is undone."""
    with world.db.transaction(force_rollback=True):
        world.db.execute(cast(LiteralString, change))
        return find(argument) != []


def test_nothing_is_found_while_all_rules_stand(world: World, db: Connection) -> None:
    assert world.violations(ATTACKS) == []
    assert world.violations(column_attacks(db)) == []
    assert world.violations(function_attacks(db, FUNCTIONS)) == []
    assert wrong_privileges(db) == []
