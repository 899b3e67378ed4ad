"""Lists: every row once on its way through the pages, filters, counts; on the newest and the oldest Postgres."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.conftest import AsUser, Connection
from tests.support.postgres import add_user
from tests.support.rows import Json, add_credential, add_integration, add_type, call, column, record
from tests.support.versions import on_both_versions

SORTS = ("attention", "name", "created")


database = on_both_versions()


def _populate(db: Connection, owner: uuid.UUID, count: int) -> list[str]:
    """Integrations with names of every case and many equal moments of creation, in every state; their ids."""
    kinds = [add_type(db, type=kind, category=category) for kind in ("mcp", "vendor") for category in ("chat", "code")]
    pick = random.Random(count)
    ids = []
    for number in range(count):
        name = pick.choice(["zebra", "Zebra", "éclair", "Éclair", "100%", "a_b", "ä\\b", "😀", '"quoted"', "o'clock"])
        state = pick.choice(["new", "well", "blamed", "waiting", "off"])
        verdict = {"well": "ok", "blamed": "auth_rejected", "waiting": "timeout"}.get(state)
        made = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=pick.randint(0, 9))
        mine = add_integration(
            db, owner, kinds[number % 4], name=f"{name} {number}", created_at=made, last_verdict=verdict,
            status={"new": "configuring", "off": "disconnected", "well": "connected"}.get(state, "error"),
            is_connected=state == "well",
        )  # fmt: skip
        ids.append(str(mine))
    return ids


def _pages(read: Callable[..., Json], **arguments: Any) -> Iterator[list[Json]]:
    cursors: list[str | None] = [None]
    while True:
        page = read(p_after=cursors[-1], **arguments)
        yield page["items"]
        if page["next"] is None:
            return
        cursors.append(json.dumps(page["next"]))
        assert len(set(cursors)) == len(cursors), "the pages go round in a circle"


def _listing(db: Connection, as_user: AsUser, owner: uuid.UUID) -> Callable[..., Json]:
    def read(**arguments: Any) -> Json:
        with as_user(owner):
            found: Json = call(db, "list_integrations", **arguments)
            return found

    return read


@pytest.mark.parametrize("limit", [1, 7, 40, 100])
@pytest.mark.parametrize("sort", SORTS)
def test_the_pages_hold_every_integration_once_and_in_order(
    db: Connection, as_user: AsUser, owner: uuid.UUID, sort: str, limit: int
) -> None:
    ids = _populate(db, owner, 40)
    _populate(db, add_user(db), 10)

    pages = list(_pages(_listing(db, as_user, owner), p_sort=sort, p_limit=limit))

    seen = [item["id"] for page in pages for item in page]
    order = {
        "attention": "attention, lower(name), id",
        "name": "lower(name), id",
        "created": "created_at desc, id desc",
    }
    assert sorted(seen) == sorted(ids)
    assert seen == column(
        db, f"select id::text from user_integrations where user_id = %s order by {order[sort]}", [owner]
    )
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert 0 < len(pages[-1]) <= limit


@pytest.mark.parametrize("sort", SORTS)
def test_what_stays_is_seen_once_while_others_come_and_go(
    db: Connection, as_user: AsUser, owner: uuid.UUID, sort: str
) -> None:
    staying = _populate(db, owner, 30)
    pick, seen = random.Random(3), []
    for page in _pages(_listing(db, as_user, owner), p_sort=sort, p_limit=4):
        seen += [item["id"] for item in page]
        for _ in range(3):
            made = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=pick.randint(0, 9))
            add_integration(db, owner, add_type(db), name=f"{pick.choice('azé')} {uuid.uuid4()}", created_at=made)
        if pick.random() < 0.5:  # the row that the next page is counted from
            db.execute("delete from user_integrations where id = %s", [seen[-1]])
            staying = [id for id in staying if id != seen[-1]]

    times = Counter(seen)
    assert max(times.values()) == 1
    assert [id for id in staying if id not in times] == []


def test_a_full_last_page_has_no_next(db: Connection, as_user: AsUser, owner: uuid.UUID) -> None:
    read = _listing(db, as_user, owner)
    empty = read(p_limit=5)
    _populate(db, owner, 5)

    assert (empty["items"], empty["next"]) == ([], None)
    assert read(p_limit=5)["next"] is None
    assert read(p_limit=4)["next"] is not None


@pytest.mark.parametrize(("filters", "condition"), [
    ({"p_status": "error"}, "i.status = 'error'"),
    ({"p_verdict": "timeout"}, "i.last_verdict = 'timeout'"),
    ({"p_type": "vendor"}, "t.type = 'vendor'"),
    ({"p_category": "chat"}, "t.category = 'chat'"),
    ({"p_q": "ZEB"}, "i.name ilike 'zeb%%'"),
    ({"p_q": "%"}, "strpos(i.name, '%%') > 0"),
    ({"p_q": "_"}, "strpos(i.name, '_') > 0"),
    ({"p_q": "\\"}, "strpos(i.name, '\\') > 0"),
    ({"p_q": "'; drop table user_integrations; --"}, "false"),
    ({"p_status": "error", "p_verdict": "auth_rejected", "p_type": "mcp", "p_q": "a"},
     "i.status = 'error' and i.last_verdict = 'auth_rejected' and t.type = 'mcp' and i.name ilike '%%a%%'"),
], ids=str)  # fmt: skip
def test_filters_hold_on_every_page_and_counts_stay_whole(
    db: Connection, as_user: AsUser, owner: uuid.UUID, filters: Json, condition: str
) -> None:
    _populate(db, owner, 40)
    read = _listing(db, as_user, owner)

    found = {
        sort: sorted(item["id"] for page in _pages(read, p_sort=sort, p_limit=7, **filters) for item in page)
        for sort in SORTS
    }

    matching = "select i.id::text from user_integrations i join integration_types t on t.id = integration_type_id " \
               f"where user_id = %s and {condition}"  # fmt: skip
    assert found == dict.fromkeys(SORTS, sorted(column(db, matching, [owner])))
    assert read(p_limit=1, **filters)["counts"] == {
        "status": dict(db.execute("select status, count(*) from user_integrations where user_id = %s group by 1", [owner])),
        "verdict": dict(db.execute("select last_verdict, count(*) from user_integrations where user_id = %s "
                                   "and last_verdict is not null group by 1", [owner])),
    }  # fmt: skip


def test_a_type_can_be_asked_for_by_its_slug(db: Connection, as_user: AsUser, owner: uuid.UUID) -> None:
    mine = add_integration(db, owner, add_type(db, slug="by-this"))
    _populate(db, owner, 8)

    assert [item["id"] for item in _listing(db, as_user, owner)(p_type="by-this")["items"]] == [str(mine)]


def test_attention_puts_first_what_the_owner_must_act_on(db: Connection, as_user: AsUser, owner: uuid.UUID) -> None:
    states = {"d off": ("disconnected", "auth_rejected"), "c well": ("connected", "ok"), "b waits": ("error", "timeout"),
              "z act": ("error", "needs_reauth"), "a new": ("configuring", None), "y act": ("connected", "blocked")}  # fmt: skip
    for name, (status, verdict) in states.items():
        add_integration(db, owner, add_type(db), name=name, status=status, is_connected=status == "connected",
                        last_verdict=verdict)  # fmt: skip

    names = [item["name"] for item in _listing(db, as_user, owner)(p_sort="attention")["items"]]

    assert names == ["y act", "z act", "b waits", "a new", "c well", "d off"]


def test_an_integration_of_a_retired_type_is_still_listed(db: Connection, as_user: AsUser, owner: uuid.UUID) -> None:
    kind = add_type(db, is_active=False)
    mine = add_integration(db, owner, kind)

    with as_user(owner):
        listed = call(db, "list_integrations")["items"]
        shown = call(db, "get_integration", p_integration_id=mine)

    assert [item["id"] for item in listed] == [str(mine)]
    assert shown["integration_type"]["slug"].startswith("type-")


def test_one_integration_is_shown_with_its_credentials_and_without_their_values(
    db: Connection, as_user: AsUser, owner: uuid.UUID
) -> None:
    mine = add_integration(db, owner, add_type(db))
    add_credential(db, owner, mine, hint="last", encrypted_value="bWFyaw==")
    record(db, owner, mine, capabilities={"tools": []})

    with as_user(owner):
        shown = call(db, "get_integration", p_integration_id=mine)
        listed = call(db, "list_credentials", p_integration_id=mine)["items"]
    with as_user(add_user(db)):
        hidden = [call(db, name, p_integration_id=mine) for name in ("get_integration", "list_credentials")]

    assert [(entry["credential_type"], entry["hint"]) for entry in shown["credentials"]] == [("api_key", "last")]
    assert shown["credentials"] == listed
    assert shown["capabilities"] == {"tools": []}
    assert "bWFyaw==" not in json.dumps([shown, listed])
    assert hidden == [None, None]


@pytest.mark.parametrize("limit", [1, 5, 40])
@pytest.mark.parametrize(("function", "table", "moment"), [
    ("list_integration_logs", "integration_logs", "created_at"),
    ("list_health_metrics", "integration_health_metrics", "checked_at"),
])  # fmt: skip
def test_history_is_paged_newest_first_with_every_row_once(
    db: Connection, as_user: AsUser, owner: uuid.UUID, function: str, table: str, moment: str, limit: int
) -> None:
    mine, other = [add_integration(db, owner, add_type(db)) for _ in range(2)]
    for number in range(12):  # many at the same moment, over several weeks
        record(db, owner, mine, success=number % 3 > 0, checked_at=f"2026-0{1 + number % 3}-05T00:00:00Z")
        record(db, owner, other)

    def read(**arguments: Any) -> Json:
        with as_user(owner):
            found: Json = call(db, function, p_integration_id=mine, **arguments)
            return found

    seen = [item["id"] for page in _pages(read, p_limit=limit) for item in page]

    assert seen == column(
        db, f"select id::text from {table} where user_integration_id = %s order by {moment} desc, id desc", [mine]
    )
    assert len(seen) >= 12


def test_logs_are_filtered_by_their_event(db: Connection, as_user: AsUser, owner: uuid.UUID) -> None:
    mine = add_integration(db, owner, add_type(db))
    for success in (True, False, True):
        record(db, owner, mine, success=success)

    def read(**arguments: Any) -> Json:
        with as_user(owner):
            found: Json = call(db, "list_integration_logs", p_integration_id=mine, p_event_type="tested", **arguments)
            return found

    seen = [item["event_type"] for page in _pages(read, p_limit=2) for item in page]

    assert seen == ["tested"] * 3


@pytest.mark.parametrize("function", ["list_integration_logs", "list_health_metrics"])
def test_history_of_somebody_elses_integration_is_none_and_not_empty(
    db: Connection, as_user: AsUser, owner: uuid.UUID, function: str
) -> None:
    mine = add_integration(db, owner, add_type(db))
    record(db, owner, mine)

    with as_user(owner):
        assert call(db, function, p_integration_id=mine)["items"]
    with as_user(add_user(db)):
        assert call(db, function, p_integration_id=mine) is None
        assert call(db, function, p_integration_id=uuid.uuid4()) is None


@pytest.mark.parametrize("function", ["list_integrations", "list_integration_logs", "list_health_metrics"])
def test_a_forged_cursor_reads_nothing_of_others_and_harms_nothing(
    db: Connection, as_user: AsUser, owner: uuid.UUID, function: str
) -> None:
    mine, stranger = add_integration(db, owner, add_type(db)), add_user(db)
    theirs = add_integration(db, stranger, add_type(db))
    record(db, owner, mine)
    record(db, stranger, theirs)
    of_one = {} if function == "list_integrations" else {"p_integration_id": mine}
    with as_user(owner):
        own = {item["id"] for item in call(db, function, **of_one)["items"]}
    forged = [
        "",
        "x",
        "[]",
        "{}",
        "null",
        '["x", "y"]',
        "[1, 2, 3]",
        '["2026-01-01", "no-id"]',
        '[{"a": 1}, []]',
        "[" * 500,
    ]
    for after in [*forged, f'["infinity", "{uuid.UUID(int=2**128 - 1)}"]']:
        try:
            with as_user(owner):
                found = {item["id"] for item in call(db, function, p_after=after, **of_one)["items"]}
        except psycopg.DataError:
            found = set()
        assert found <= own, after
