"""Does the database's work stay flat as the tables grow? The same calls at two sizes, on one server, in one run."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, cast
from uuid import UUID, uuid5

import psycopg

from tests.support.postgres import Cluster, Database

RESULTS = Path(__file__).with_name("results")
NAMESPACE = UUID("5d0f2c52-5a3c-4c46-9f3a-5d7f1f7d8a11")
WATCHED = uuid5(NAMESPACE, "watched user")
BATCH = 500

#: Rows are made inside the server. Triggers and foreign keys are off meanwhile, as for a restored dump.
FILL = """
set session_replication_role = replica;
insert into auth.users (id, email) select md5('user' || u)::uuid, u || '@example.com' from generate_series(1, {users}) u;
insert into auth.users (id, email) values ('{watched}', 'watched@example.com');
insert into public.user_integrations
  (id, user_id, integration_type_id, name, status, is_connected, auth_method, last_verdict, connection_config)
select md5('integration' || i)::uuid, md5('user' || (i % {users} + 1))::uuid, t.id, 'integration ' || i, 'connected', true,
  'none', 'ok', '{{"api_url": "https://api.example.com/v1"}}'
from generate_series(1, {integrations}) i, (select id from public.integration_types where slug = 'custom-vendor') t;
insert into public.user_integrations
  (id, user_id, integration_type_id, name, status, is_connected, auth_method, last_verdict, connection_config)
select md5('watched' || i)::uuid, '{watched}', t.id, 'watched ' || i,
  case when i % 10 = 0 then 'error' else 'connected' end, i % 10 <> 0, 'none',
  case when i % 10 = 0 then 'auth_rejected' else 'ok' end, '{{"api_url": "https://api.example.com/v1"}}'
from generate_series(1, 50) i, (select id from public.integration_types where slug = 'custom-vendor') t;
select private.ensure_history(now() - weeks * interval '7 days') from generate_series(0, 5) weeks;
insert into public.integration_health_metrics
  (user_id, user_integration_id, response_time_ms, success, verdict, source, checked_at)
select i.user_id, i.id, 20 + (m * 37) % 400, m % 20 <> 0, case when m % 20 = 0 then 'timeout' else 'ok' end, 'sweep',
  now() - m * interval '5 minutes'
from public.user_integrations i, generate_series(1, {metrics_each}) m where i.user_id <> '{watched}';
insert into public.integration_health_hourly (user_id, user_integration_id, starts_at, checks, failures, success_ms)
select user_id, id, date_trunc('hour', now()), 10, 0, array[21, 35, 48, 59, 64, 73, 88, 91, 120, 240]
from public.user_integrations where user_id <> '{watched}';
insert into public.integration_health_daily (user_id, user_integration_id, starts_at, checks, failures, success_ms)
select user_id, id, date_trunc('day', now(), 'UTC'), 10, 0, array[21, 35, 48, 59, 64, 73, 88, 91, 120, 240]
from public.user_integrations where user_id <> '{watched}';
insert into public.integration_health_hourly (user_id, user_integration_id, starts_at, checks, failures, success_ms)
select user_id, id, date_trunc('hour', now()) - h * interval '1 hour', 12, 1, array[21, 35, 48, 59, 64, 73, 88, 91, 120, 240, 260]
from public.user_integrations, generate_series(0, 167) h where user_id = '{watched}';
insert into public.integration_health_daily (user_id, user_integration_id, starts_at, checks, failures, success_ms)
select user_id, id, date_trunc('day', now(), 'UTC') - d * interval '1 day', 288, 1, (select array_agg(20 + (n * 37) % 400) from generate_series(1, 287) n)
from public.user_integrations, generate_series(0, 29) d where user_id = '{watched}';
insert into public.integration_schedule (user_integration_id, user_id, next_check_at)
select id, user_id, case when user_id = '{watched}' then now() + interval '1 hour' else now() - random() * interval '1 hour' end
from public.user_integrations;
insert into private.sweep_turns (user_id, next_due_at)
select user_id, min(next_check_at) from public.integration_schedule group by user_id;
set session_replication_role = origin;
"""


@dataclass(frozen=True)
class Size:
    name: str
    integrations: int
    metrics: int

    @property
    def users(self) -> int:
        return self.integrations // 10


SMALL = Size("small", 1_000, 10_000)
DEFAULT = Size("large", 50_000, 500_000)
FULL = Size("large", 1_000_000, 10_000_000)


def filled(cluster: Cluster, size: Size) -> Database:
    database = cluster.migrated_database()
    started = time.perf_counter()
    print(f"  making {size.integrations:,} integrations, {size.metrics:,} metrics …", flush=True)
    script = FILL.format(
        users=size.users,
        integrations=size.integrations,
        metrics_each=size.metrics // size.integrations,
        watched=WATCHED,
    )
    # session_replication_role needs the superuser.
    with psycopg.connect(cluster.server.dsn(database.name), autocommit=True) as connection:
        for statement in script.split(";\n"):
            if statement.strip():
                connection.execute(cast(LiteralString, statement))
        connection.execute("vacuum (analyze)")
        connection.execute("checkpoint")
    print(f"  … {time.perf_counter() - started:.0f} s", flush=True)
    return database


@contextmanager
def acting(database: Database, role: str) -> Iterator[psycopg.Connection[Any]]:
    """As PostgREST acts: a role and its claims inside a transaction, which is rolled back here."""
    with database.connect() as connection:
        claims = json.dumps({"sub": str(WATCHED), "role": role})
        connection.execute(
            "select set_config('role', %s, false), set_config('request.jwt.claims', %s, false)", [role, claims]
        )
        connection.commit()
        yield connection


READS = {
    "list 50 integrations": ("authenticated", "select public.list_integrations(p_limit => 50)"),
    "list by attention": ("authenticated", "select public.list_integrations(p_sort => 'attention', p_limit => 50)"),
    "overview of 30 days": ("authenticated", "select public.get_overview('30d')"),
    "health summary of 30 days": (
        "authenticated",
        "select public.get_health_summary(md5('watched7')::uuid, '30d')",
    ),
}
CLAIM = f"select public.claim_due_checks({BATCH}, 120)"


def claimed_results(connection: psycopg.Connection[Any]) -> str:
    """Claim a batch, and make a result for each."""
    claim = connection.execute(cast(LiteralString, CLAIM)).fetchone()
    assert claim is not None
    checks = claim[0]["checks"]
    assert len(checks) == BATCH
    return json.dumps(
        [
            {
                "user_id": check["user_id"], "user_integration_id": check["id"], "lease_token": check["lease_token"],
                "source": "sweep", "intent": "sweep", "checked_at": "now", "response_time_ms": 50, "success": True,
                "verdict": "ok", "next_check_at": "tomorrow",
            }
            for check in checks
        ]
    )  # fmt: skip


class Pair:
    """The small and the large database; measured in turns, so that both see the same noise."""

    def __init__(self, small: Database, large: Database) -> None:
        self.databases = {"small": small, "large": large}

    def compare(self, name: str, role: str, action: Callable[[psycopg.Connection[Any]], float], times: int) -> Row:
        spent: dict[str, list[float]] = {"small": [], "large": []}
        for turn in range(times + 2):
            for size, database in self.databases.items():
                with acting(database, role) as connection:
                    took = action(connection)
                    connection.rollback()
                if turn >= 2:  # the first two warm caches
                    spent[size].append(took)
        return Row(name, statistics.median(spent["small"]) * 1000, statistics.median(spent["large"]) * 1000)


@dataclass(frozen=True)
class Row:
    name: str
    small_ms: float
    large_ms: float

    @property
    def ratio(self) -> float:
        return self.large_ms / self.small_ms


def timed(statement: str, parameters: list[Any] | None = None) -> Callable[[psycopg.Connection[Any]], float]:
    def action(connection: psycopg.Connection[Any]) -> float:
        # A connection of the pool has planned these before; so has ours after the first run.
        connection.execute(cast(LiteralString, statement), parameters)
        connection.rollback()
        started = time.perf_counter()
        connection.execute(cast(LiteralString, statement), parameters).fetchone()
        return time.perf_counter() - started

    return action


def time_record(connection: psycopg.Connection[Any]) -> float:
    connection.execute("select public.record_checks(%s)", [claimed_results(connection)])
    connection.rollback()
    results = claimed_results(connection)
    started = time.perf_counter()
    recorded = connection.execute("select public.record_checks(%s)", [results]).fetchone()
    took = time.perf_counter() - started
    assert recorded is not None
    assert len(recorded[0]) == BATCH
    return took


def keep_plans(databases: dict[str, Database]) -> None:
    """The plans behind the figures, statement by statement inside the functions (auto_explain)."""
    RESULTS.mkdir(exist_ok=True)
    for size, database in databases.items():
        lines: list[str] = []
        with psycopg.connect(database.cluster.server.dsn(database.name)) as connection:
            connection.add_notice_handler(lambda notice, kept=lines: kept.append(notice.message_primary or ""))  # type: ignore[misc]
            connection.execute(
                "load 'auto_explain'; set auto_explain.log_min_duration = 1; set auto_explain.log_nested_statements = on;"
                "set auto_explain.log_level = notice; set auto_explain.log_analyze = on; set auto_explain.log_timing = off;"
                "set client_min_messages = notice"
            )
            connection.commit()
            for name, (role, statement) in {**READS, "claim 500": ("service_role", CLAIM)}.items():
                claims = json.dumps({"sub": str(WATCHED), "role": role})
                connection.execute(
                    "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)", [role, claims]
                )
                lines.append(f"==== {name}")
                connection.execute(cast(LiteralString, statement))
                connection.rollback()
        (RESULTS / f"plans-{size}.txt").write_text("\n".join(lines) + "\n")


def run(full: bool) -> list[Row]:
    cluster = Cluster(settings={"shared_buffers": "1GB", "max_wal_size": "8GB", "maintenance_work_mem": "512MB"})
    cluster.start()
    try:
        small, large = filled(cluster, SMALL), filled(cluster, FULL if full else DEFAULT)
        pair = Pair(small, large)
        rows = [pair.compare(name, role, timed(sql), 40) for name, (role, sql) in READS.items()]
        rows.append(pair.compare(f"claim {BATCH} due checks", "service_role", timed(CLAIM), 15))
        rows.append(pair.compare(f"record {BATCH} results", "service_role", time_record, 15))
        keep_plans(pair.databases)
    finally:
        cluster.stop()
    return rows


def report(full: bool) -> None:
    size = FULL if full else DEFAULT
    print(f"Database at {size.integrations:,} integrations against {SMALL.integrations:,} (wanted: at most 1.5 times)")
    for row in run(full):
        print(f"  {row.name:<28} {row.small_ms:8.2f} ms {row.large_ms:8.2f} ms   {row.ratio:5.2f} times", flush=True)
