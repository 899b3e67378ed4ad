"""What somebody might try against the data layer, and the answer that each attempt must get.

Tests run them all against the migrations as they are, and again with each rule loosened: then one must come out
differently.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from tests.support import rows
from tests.support.postgres import add_user

Connection = psycopg.Connection[Any]
AsUser = Callable[[uuid.UUID], AbstractContextManager[Connection]]
AsRole = Callable[[str], AbstractContextManager[Connection]]

REFUSED = "42501"
WRITABLE = ("name", "connection_config", "auth_method")
INSERTABLE = ("user_id", "integration_type_id", *WRITABLE)


@dataclass(frozen=True)
class Ids:
    """Two users with one integration each; the owner's has a row in every table and a retired type."""

    owner: uuid.UUID
    stranger: uuid.UUID
    active: uuid.UUID
    retired: uuid.UUID
    mine: uuid.UUID
    theirs: uuid.UUID
    key: uuid.UUID
    other: uuid.UUID = field(default_factory=uuid.uuid4)


@dataclass(frozen=True)
class Attack:
    """``statement`` refers to :class:`Ids` by name. ``answer``: an SQLSTATE, or how many rows were touched.

    ``given`` is run by the owner of the tables just before: it opens one door to show that another is shut.
    """

    name: str
    actor: str  # owner, stranger, anon or service_role
    statement: str
    answer: str
    given: str = ""


class World:
    def __init__(self, db: Connection, as_user: AsUser, as_role: AsRole) -> None:
        self.db, self._as_user, self._as_role = db, as_user, as_role
        self.ids = _populate(db)

    @contextmanager
    def acting(self, actor: str) -> Iterator[Connection]:
        """As that actor; all of it is undone afterwards."""
        person = getattr(self.ids, actor, None)
        with self.db.transaction(force_rollback=True), self._as_user(person) if person else self._as_role(actor):
            yield self.db

    def outcome(self, attack: Attack) -> str:
        try:
            with self.db.transaction(force_rollback=True):
                if attack.given:
                    self.db.execute(attack.given)
                with self.acting(attack.actor) as connection:
                    done = connection.execute(attack.statement, asdict(self.ids))
                    return f"{done.rowcount} rows"
        except psycopg.Error as error:
            return error.sqlstate or repr(error)

    def violations(self, attacks: list[Attack]) -> list[str]:
        """The attacks that did not get their answer."""
        outcomes = {attack: self.outcome(attack) for attack in attacks}
        return [
            f"{attack.name}: {outcome} instead of {attack.answer}"
            for attack, outcome in outcomes.items()
            if outcome != attack.answer
        ]


def _populate(db: Connection) -> Ids:
    owner, stranger = add_user(db), add_user(db)
    active, retired = rows.add_type(db), rows.add_type(db, is_active=False)
    mine = rows.add_integration(db, owner, retired, name="Payroll", connection_config='{"url": "https://example.com"}')
    theirs = rows.add_integration(db, stranger, active, name="Games")
    rows.add_credential(db, owner, mine)
    rows.record(db, owner, mine, intent="connect")
    db.execute(
        "insert into public.idempotency_keys (user_id, key, fingerprint, response, created_at) "
        "values (%s, 'once', 'print', '{}', now() - interval '23 hours')",
        [owner],
    )
    key = rows.one(db, "select id from public.user_data_keys where user_id = %s", [owner])
    return Ids(owner, stranger, active, retired, mine, theirs, key)


ALLOWED = [  # what an attack differs from by one step; without these, a broken statement would pass for a refusal
    Attack("owners add integrations", "owner",
           "insert into user_integrations (integration_type_id, name) values (%(active)s, 'New')", "1 rows"),
    Attack("owners change their integrations", "owner",
           "update user_integrations set name = 'New', connection_config = '{}', auth_method = 'basic'", "1 rows"),
    Attack("owners delete their integrations", "owner", "delete from user_integrations where id = %(mine)s", "1 rows"),
    Attack("owners read the metadata of their credentials", "owner",
           "select credential_type, destination, hint from integration_credentials", "1 rows"),
    Attack("owners read the retired type of their integration", "owner",
           "select from integration_types where id = %(retired)s", "1 rows"),
    Attack("owners keep answers", "owner",
           "insert into idempotency_keys (key, fingerprint, response) values ('k', 'f', '{}')", "1 rows"),
    Attack("owners forget old answers", "owner", "delete from idempotency_keys", "1 rows",
           given="update idempotency_keys set created_at = now() - interval '25 hours'"),
]  # fmt: skip

READING = [
    Attack(f"a stranger reads {table}", "stranger", f"select from {table} where user_id = %(owner)s", "0 rows")
    for table in ("user_integrations", "integration_credentials", "integration_logs", "integration_health_metrics",
                  "integration_health_hourly", "integration_health_daily", "integration_schedule", "idempotency_keys")
] + [
    Attack("a visitor reads a retired type", "anon", "select from integration_types where not is_active", "0 rows"),
    Attack("a stranger reads another's retired type", "stranger",
           "select from integration_types where not is_active", "0 rows"),
    Attack("a visitor reads integrations", "anon", "select from user_integrations", REFUSED),
    Attack("an owner reads ciphertext", "owner", "select encrypted_value from integration_credentials", REFUSED),
    Attack("an owner reads ciphertext by the row", "owner", "select c from integration_credentials c", REFUSED),
    Attack("an owner reads which key sealed it", "owner", "select data_key_id from integration_credentials", REFUSED),
    Attack("an owner reads wrapped keys", "owner", "select wrapped_key from user_data_keys", REFUSED),
    Attack("an owner counts data keys", "owner", "select count(*) from user_data_keys", REFUSED),
    Attack("an owner copies ciphertext by the way of returning", "owner",
           "update user_integrations set name = (select encrypted_value from integration_credentials)", REFUSED),
    *(Attack(f"an owner reads {table}", "owner", f"select from {table}", REFUSED)
      for table in ("private.test_budgets", "private.sweep_turns", "private.token_refreshes", "auth.users")),
]  # fmt: skip

# A `using` clause says nothing and touches no row. Without `where` and `returning`, no select policy hides the row first.
OTHERS = [
    Attack("a stranger renames everything in sight", "stranger", "update user_integrations set name = 'x'", "1 rows"),
    Attack("a stranger deletes everything in sight", "stranger", "delete from user_integrations", "1 rows"),
    Attack("a stranger renames another's integration", "stranger",
           "update user_integrations set name = 'x' where id = %(mine)s returning id", "0 rows"),
    Attack("a stranger deletes another's integration", "stranger",
           "delete from user_integrations where id = %(mine)s returning id", "0 rows"),
    Attack("a visitor deletes integrations", "anon", "delete from user_integrations", REFUSED),
    Attack("a stranger adds an integration for somebody else", "stranger",
           "insert into user_integrations (user_id, integration_type_id, name) "
           "values (%(owner)s, %(active)s, 'x')", REFUSED),
    Attack("an owner gives an integration away", "owner", "update user_integrations set user_id = %(stranger)s", REFUSED),
    Attack("an owner gives an integration away, with the column open", "owner",
           "update user_integrations set user_id = %(stranger)s", REFUSED,
           given="grant update (user_id) on user_integrations to authenticated"),
    Attack("a stranger keeps an answer for somebody else", "stranger",
           "insert into idempotency_keys (user_id, key, fingerprint, response) "
           "values (%(owner)s, 'k', 'f', '{}')", REFUSED),
    Attack("a stranger forgets another's old answers", "stranger", "delete from idempotency_keys", "0 rows",
           given="update idempotency_keys set created_at = now() - interval '25 hours'"),
    Attack("an owner forgets a fresh answer", "owner", "delete from idempotency_keys", "0 rows"),
    Attack("an owner rewrites an answer", "owner", "update idempotency_keys set response = '[]'", REFUSED),
    Attack("an owner keeps an answer for ever", "owner",
           "insert into idempotency_keys (key, fingerprint, response, created_at) "
           "values ('k', 'f', '{}', '2100-01-01')", REFUSED),
]  # fmt: skip

FORGING = [
    Attack("an owner forges a log", "owner",
           "insert into integration_logs (user_id, user_integration_id, event_type, message) "
           "values (%(owner)s, %(mine)s, 'connected', 'x')", REFUSED),
    Attack("an owner forges a metric", "owner",
           "insert into integration_health_metrics (user_id, user_integration_id, response_time_ms, success, verdict, "
           "source, checked_at) values (%(owner)s, %(mine)s, 1, true, 'ok', 'test', now())", REFUSED),
    *(Attack(f"an owner forges a row of {table}", "owner",
             f"insert into {table} (user_id, user_integration_id, starts_at, checks, failures, success_ms) "
             "values (%(owner)s, %(mine)s, '2020-01-01', 1, 0, '{1}')", REFUSED)
      for table in ("integration_health_hourly", "integration_health_daily")),
    Attack("an owner schedules a check", "owner",
           "insert into integration_schedule (user_id, user_integration_id, next_check_at) "
           "values (%(owner)s, %(mine)s, now())", REFUSED),
    Attack("an owner hurries a check", "owner", "update integration_schedule set next_check_at = now()", REFUSED),
    Attack("an owner takes a lease", "owner", "update integration_schedule set lease_token = null", REFUSED),
    Attack("an owner rewrites a log", "owner", "update integration_logs set message = 'x'", REFUSED),
    Attack("an owner puts another's ciphertext in place", "owner",
           "update integration_credentials set encrypted_value = 'AAAA'", REFUSED),
    Attack("an owner redirects a credential", "owner",
           "update integration_credentials set destination = 'https://evil.example:443'", REFUSED),
    *(Attack(f"an owner deletes from {table}", "owner", f"delete from {table}", REFUSED)
      for table in ("integration_logs", "integration_health_metrics", "integration_health_hourly",
                    "integration_health_daily", "integration_schedule", "integration_credentials", "user_data_keys",
                    "integration_types")),
    *(Attack(f"the service rewrites {table}", "service_role", f"{command} {table} {rest}", REFUSED)
      for table in ("integration_logs", "integration_health_metrics")
      for command, rest in (("update", "set user_id = user_id"), ("delete from", ""))),
    *(Attack(f"{actor} truncates {table}", actor, f"truncate {table} cascade", REFUSED)
      for table in ("integration_logs", "user_integrations", "integration_types")
      for actor in ("anon", "owner", "service_role")),
]  # fmt: skip

# The log of it would be refused, too; here, the key itself is tried.
_UNLOGGED = "alter table integration_credentials disable trigger log_credential"

# Not even the service, with a slip in its code, can hang a row on an integration of somebody else.
HANGING = [
    Attack("the service hangs a log on another's integration", "service_role",
           "insert into integration_logs (user_id, user_integration_id, event_type, message) "
           "values (%(owner)s, %(theirs)s, 'connected', 'x')", "23503"),
    Attack("the service hangs a metric on another's integration", "service_role",
           "insert into integration_health_metrics (user_id, user_integration_id, response_time_ms, success, verdict, "
           "source, checked_at) values (%(owner)s, %(theirs)s, 1, true, 'ok', 'test', now())", "23503"),
    *(Attack(f"the service hangs a row of {table} on another's integration", "service_role",
             f"insert into {table} (user_id, user_integration_id, starts_at, checks, failures, success_ms) "
             "values (%(owner)s, %(theirs)s, date_trunc('hour', now()), 1, 0, '{1}')", "23503")
      for table in ("integration_health_hourly", "integration_health_daily")),
    Attack("the service hangs a credential on another's integration", "service_role",
           "insert into integration_credentials (id, user_integration_id, user_id, credential_type, encrypted_value, "
           "data_key_id, destination) values (%(other)s, %(theirs)s, %(owner)s, 'api_key', 'AAAA', %(key)s, 'x')",
           "23503", given=_UNLOGGED),
    Attack("the service seals with another's key", "service_role",
           "insert into integration_credentials (id, user_integration_id, user_id, credential_type, encrypted_value, "
           "data_key_id, destination) values (%(other)s, %(theirs)s, %(stranger)s, 'api_key', 'AAAA', %(key)s, 'x')",
           "23503", given=_UNLOGGED),
    Attack("the service schedules another's integration", "service_role",
           "insert into integration_schedule (user_id, user_integration_id, next_check_at) "
           "values (%(owner)s, %(theirs)s, now())", "23503"),
    Attack("the service leases another's integration", "service_role",
           "insert into private.token_refreshes (user_id, user_integration_id) values (%(owner)s, %(theirs)s)", "23503"),
    Attack("the service renews the tokens of another's integration", "service_role",
           "insert into private.token_refreshes (user_id, user_integration_id) values (%(owner)s, %(theirs)s)", "23503"),
    Attack("the service moves an integration", "service_role",
           "update user_integrations set user_id = %(stranger)s where id = %(mine)s", "23503"),
]  # fmt: skip

CALLING = [
    Attack("a stranger prepares a write to another's integration", "stranger",
           "select public.prepare_write(%(owner)s, %(mine)s)", "PT404"),
    Attack("an unknown integration sounds the same", "stranger",
           "select public.prepare_write(%(owner)s, %(other)s)", "PT404"),
    Attack("an owner asks for ciphertext", "owner",
           "select public.prepare_write(%(owner)s, %(mine)s, p_secrets => true)", REFUSED),
    Attack("a stranger asks for ciphertext", "stranger",
           "select public.prepare_write(%(owner)s, p_secrets => true)", REFUSED),
    Attack("a stranger creates for somebody else", "stranger",
           """select public.create_integration(%(owner)s, json_build_object(
                'integration_type_id', %(active)s::uuid, 'name', 'x', 'auth_method', 'none',
                'connection_config', '{}'::json)::text)""", REFUSED),
    Attack("an owner chooses an id", "owner",
           """select public.create_integration(%(owner)s, json_build_object('id', %(other)s::uuid,
                'integration_type_id', %(active)s::uuid, 'name', 'x', 'auth_method', 'none',
                'connection_config', '{}'::json)::text)""", REFUSED),
    Attack("an owner brings a result along", "owner",
           """select public.update_integration(%(owner)s, %(mine)s, json_build_object('expected_config_version',
                (select config_version from user_integrations), 'result', json_build_object('source', 'test'))::text)""",
           REFUSED),
    Attack("an owner seals by hand", "owner",
           """select public.update_integration(%(owner)s, %(mine)s, json_build_object('expected_config_version',
                (select config_version from user_integrations), 'credentials', json_build_array('{}'::json))::text)""",
           REFUSED),
    Attack("an owner drops a credential past the log", "owner",
           """select public.update_integration(%(owner)s, %(mine)s, json_build_object('expected_config_version',
                (select config_version from user_integrations), 'drop_credentials', json_build_array('api_key'))::text)""",
           REFUSED),
    Attack("a stranger updates another's integration", "stranger",
           """select public.update_integration(%(owner)s, %(mine)s, '{"name": "x", "expected_config_version": 2}')""",
           "PT409"),
    Attack("updating an unknown integration sounds the same", "stranger",
           """select public.update_integration(%(owner)s, %(other)s, '{"name": "x", "expected_config_version": 2}')""",
           "PT409"),
]  # fmt: skip

TAKING_OVER = [
    Attack(f"{actor} tries: {statement}", actor, statement, REFUSED)
    for actor in ("owner", "anon")
    for statement in (
        "set session_replication_role = replica",
        "alter table public.user_integrations disable row level security",
        "alter table public.user_integrations disable trigger log_integration",
        "drop trigger log_integration on public.user_integrations",
        "create trigger mine before insert on public.user_integrations for each row "
        "execute function private.touch_updated_at()",
        "create policy mine on public.user_integrations using (true)",
        "create function public.mine() returns int language sql as 'select 1'",
        "create table public.mine ()",
        "create table private.mine ()",
        "grant select on public.user_data_keys to authenticated",
        "drop table public.integration_logs cascade",
    )
]

FAMILIES = {
    "what is allowed": ALLOWED,
    "reading what is not theirs": READING,
    "writing what is not theirs": OTHERS,
    "forging history": FORGING,
    "hanging rows on another's integration": HANGING,
    "calling with another's id": CALLING,
    "taking over": TAKING_OVER,
}
ATTACKS = [attack for family in FAMILIES.values() for attack in family]


def column_attacks(db: Connection) -> list[Attack]:
    """An owner sets each column that only the service may set, at birth and later."""
    columns = rows.column(
        db,
        "select attname::text from pg_attribute where attrelid = 'public.user_integrations'::regclass "
        "and attnum > 0 and not attisdropped order by attnum",
    )
    return [
        Attack(f"an owner sets {name}", "owner", f"update user_integrations set {name} = default", REFUSED)
        for name in columns
        if name not in WRITABLE
    ] + [
        Attack(f"an owner begins with {name}", "owner",
               f"insert into user_integrations (integration_type_id, name, {name}) "
               "values (%(active)s, 'New', default)", REFUSED)
        for name in columns
        if name not in INSERTABLE
    ]  # fmt: skip


def function_attacks(db: Connection, allowed: dict[str, set[str]]) -> list[Attack]:
    """Clients call every function of ours that is not theirs; ``allowed`` by role.

    With a plain null as its argument, a strict function would be folded away before anybody asks for permission.
    """
    functions = db.execute(
        "select n.nspname || '.' || p.proname, p.proargtypes::regtype[]::text[] "
        "from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname in ('public', 'private') "
        "order by 1"
    ).fetchall()
    return [
        Attack(
            f"{actor} calls {name}",
            actor,
            f"select {name}({', '.join(f'(select null::{kind})' for kind in kinds)})",
            REFUSED,
        )
        for name, kinds in functions
        for actor, role in (("anon", "anon"), ("owner", "authenticated"))
        if name not in allowed[role]
    ]


def policies(db: Connection) -> list[tuple[sql.Composable, str]]:
    """Every way to loosen one policy of ours: the statement, and what it does in words."""
    found = db.execute(
        "select tablename, policyname, qual is not null, with_check is not null from pg_policies "
        "where schemaname = 'public' order by 1, 2"
    ).fetchall()
    return [
        (
            sql.SQL("alter policy {} on public.{} " + clause + " (true)").format(
                sql.Identifier(policy), sql.Identifier(table)
            ),
            f"{table}: {policy}: {clause} (true)",
        )
        for table, policy, has_using, has_check in found
        for clause, there in (("using", has_using), ("with check", has_check))
        if there
    ]
