"""How Postgres goes about it with 20,000 integrations: by index everywhere, reading only what it answers with.

The plans are those that ran inside our functions, as `auto_explain` reports them, after the functions were called so
often that Postgres may have settled for a plan that suits all arguments.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.support.postgres import Database
from tests.support.rows import Connection, Json, call, claim, one, record_claimed
from tests.support.versions import on_both_versions

SORTS = ("attention", "name", "created")
CALLS = 8  # five with plans of their own, then Postgres chooses
MUCH = 1000  # rows of one table; a page shows 50, a claim takes 50, the user has 200 integrations
FILL = """
    insert into auth.users (id) select md5('user' || u)::uuid from generate_series(1, 5000) u;
    insert into integration_types (id, name, slug, type, category)
    select md5('type' || t)::uuid, 'Type ' || t, 'type-' || t, 'mcp', 'category ' || t % 10 from generate_series(1, 100) t;
    insert into user_integrations (id, user_id, integration_type_id, name, status, is_connected, last_verdict, created_at)
    select md5('i' || i)::uuid, md5('user' || (case when i <= 200 then 1 else i % 4999 + 2 end))::uuid,
      md5('type' || i % 100 + 1)::uuid, 'integration ' || i, 'connected', true, 'ok', now() - i * interval '1 minute'
    from generate_series(1, 20000) i;
    insert into integration_schedule (user_integration_id, user_id, next_check_at)
    select id, user_id, now() + (i % 100 - 5) * interval '1 minute'
    from (select id, user_id, row_number() over () as i from user_integrations) numbered;
    insert into private.sweep_turns select user_id, min(next_check_at) from integration_schedule group by 1;
    insert into user_data_keys (id, user_id, wrapped_key) select md5('key' || id)::uuid, id, 'x' from auth.users;
    insert into integration_credentials (id, user_integration_id, user_id, credential_type, encrypted_value, data_key_id,
      destination)
    select id, id, user_id, 'api_key', 'AAAA', md5('key' || user_id)::uuid, 'x' from user_integrations;
    insert into integration_logs (user_id, user_integration_id, event_type, message)
    select user_id, id, 'tested', 'x' from user_integrations
    union all select user_id, id, 'tested', 'x' from user_integrations, generate_series(1, 2000) where id = md5('i1')::uuid;
    insert into integration_health_metrics
      (user_id, user_integration_id, response_time_ms, success, verdict, source, checked_at)
    select user_id, id, 1, true, 'ok', 'sweep', now() from user_integrations
    union all select user_id, id, 1, true, 'ok', 'sweep', now() - n * interval '1 second'
    from user_integrations, generate_series(1, 2000) n where id = md5('i1')::uuid;
    insert into integration_health_hourly select user_id, id, date_trunc('hour', now()), 1, 0, '{1}' from user_integrations;
    insert into integration_health_daily select user_id, id, date_trunc('day', now()), 1, 0, '{1}' from user_integrations;
"""


database = on_both_versions()


@dataclass
class Observed:
    """A connection of the superuser, whose every statement's plan arrives in ``plans``."""

    db: Connection
    owner: uuid.UUID
    mine: uuid.UUID
    plans: list[Json]

    def nodes(self) -> Iterator[Json]:
        waiting = list(self.plans)
        while waiting:
            node = waiting.pop()
            waiting += node.get("Plans", [])
            yield node

    def read_much(self) -> dict[str, float]:
        """How many rows were read from each table, also those thrown away; small numbers are left out."""
        found: dict[str, float] = {}
        for node in self.nodes():
            if table := node.get("Relation Name"):
                rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                found[table] = found.get(table, 0) + rows * node["Actual Loops"]
        return {table: rows for table, rows in found.items() if rows > MUCH}


@pytest.fixture(scope="module")
def observed(database: Database) -> Iterator[Observed]:
    with database.connect("supabase_admin", autocommit=True) as db:
        owner, mine = [one(db, "select md5(%s)::uuid", [word]) for word in ("user1", "i1")]
        db.execute("set session_replication_role = replica")  # as for a restored dump
        for statement in FILL.split(";\n"):
            db.execute(statement)
        db.execute("set session_replication_role = origin")
        db.execute("analyze")
        db.execute("load 'auto_explain'")
        for setting, value in {
            "log_min_duration": "0", "log_nested_statements": "on", "log_analyze": "on", "log_timing": "off",
            "log_format": "json", "log_level": "notice",
        }.items():  # fmt: skip
            db.execute(f"set auto_explain.{setting} = '{value}'")
        plans: list[Json] = []
        db.add_notice_handler(lambda notice: plans.append(_plan(notice)))
        yield Observed(db, owner, mine, plans)


def _plan(notice: psycopg.errors.Diagnostic) -> Json:
    text = notice.message_primary or ""
    plan: Json = json.loads(text[text.index("{") :])["Plan"]
    return plan


def _page(sort: str, o: Observed, after: str | None = None) -> Any:
    return call(o.db, "list_integrations", p_sort=sort, p_after=after, p_limit=20)


def _later_page(sort: str, o: Observed) -> Any:
    after = json.dumps(_page(sort, o)["next"])
    o.plans.clear()
    return _page(sort, o, after)


def _last_page(o: Observed, function: str, table: str, moment: str) -> Any:
    key = one(
        o.db,
        f"select jsonb_build_array({moment}, id) from {table} where user_id = %s and user_integration_id = %s "
        f"order by {moment}, id offset 40 limit 1",
        [o.owner, o.mine],
    )
    o.plans.clear()
    return call(o.db, function, p_integration_id=o.mine, p_after=json.dumps(key))


READS: dict[str, Callable[[Observed], Any]] = {
    **{f"a page by {sort}": partial(_page, sort) for sort in SORTS},
    **{f"a later page by {sort}": partial(_later_page, sort) for sort in SORTS},
    "one integration": lambda o: call(o.db, "get_integration", p_integration_id=o.mine),
    "a health summary of hours": lambda o: call(o.db, "get_health_summary", p_integration_id=o.mine, p_window="7d"),
    "a health summary of days": lambda o: call(o.db, "get_health_summary", p_integration_id=o.mine, p_window="30d"),
    "the overview": lambda o: call(o.db, "get_overview", p_window="30d"),
    "logs": lambda o: call(o.db, "list_integration_logs", p_integration_id=o.mine),
    "a late page of logs": lambda o: _last_page(o, "list_integration_logs", "integration_logs", "created_at"),
    "metrics": lambda o: call(o.db, "list_health_metrics", p_integration_id=o.mine),
    "a late page of metrics": lambda o: _last_page(o, "list_health_metrics", "integration_health_metrics", "checked_at"),
    "preparing a write": lambda o: call(o.db, "prepare_write", p_user_id=o.owner, p_integration_id=o.mine),
}  # fmt: skip


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_user_reads_by_index_and_only_what_is_theirs(observed: Observed, read: Callable[[Observed], Any]) -> None:
    db = observed.db
    with db.transaction(force_rollback=True):
        claims = {"sub": str(observed.owner), "role": "authenticated"}
        db.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
        db.execute("set local role authenticated")
        for _ in range(CALLS):
            observed.plans.clear()
            answer = read(observed)

    assert answer
    assert len(observed.plans) > 1
    assert observed.read_much() == {}


def test_claiming_and_recording_go_by_index(observed: Observed) -> None:
    db = observed.db
    with db.transaction(force_rollback=True):
        db.execute("set local role service_role")
        for _ in range(CALLS):
            observed.plans.clear()
            checks = claim(db, limit=50)
            recorded = record_claimed(db, checks)
            assert len(recorded) == len(checks) == 50

    assert len(observed.plans) > 10
    assert observed.read_much() == {}


def test_deleting_an_integration_goes_by_index(observed: Observed) -> None:
    db = observed.db
    with db.transaction(force_rollback=True):
        observed.plans.clear()
        deleted = db.execute("delete from user_integrations where id = md5('i300')::uuid").rowcount

    assert deleted == 1
    assert len(observed.plans) > 5
    assert observed.read_much() == {}
