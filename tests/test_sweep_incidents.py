"""A vendor's outage is the vendor's: seen from many users' failures, recorded once, and held against nobody."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from chalicelib.model import OUTAGE, Verdict
from tests.conftest import AsUser, Connection
from tests.peers.field import Field, field
from tests.peers.raw import background
from tests.support import rows
from tests.support.postgres import Database, add_user
from tests.support.stack import Stack
from tests.support.sweeping import World, a_world
from tests.support.versions import on_both_versions

database = on_both_versions()


@dataclass
class Vendor:
    """An integration type with one connection of each of several users."""

    db: Connection
    kind: uuid.UUID
    owners: list[uuid.UUID]
    ids: list[uuid.UUID]

    def found(self, verdict: str, which: slice | None = None, **fields: Any) -> None:
        """The sweep checks these connections, in one batch, with that result."""
        chosen = [str(one) for one in self.ids[which or slice(None)]]
        self.db.execute("delete from integration_schedule where user_integration_id = any(%s::uuid[])", [chosen])
        self.db.execute(
            "insert into integration_schedule (user_integration_id, user_id, next_check_at) "
            "select id, user_id, now() - interval '1 second' from user_integrations where id = any(%s::uuid[])", [chosen]
        )  # fmt: skip
        checks = [check for check in rows.claim(self.db) if check["id"] in chosen]
        fields = {"success": verdict == "ok", "verdict": verdict, "error_message": None if verdict == "ok" else "No.",
                  "next_check_at": "2100-01-01T00:00:00Z", **fields}  # fmt: skip
        assert len(rows.record_claimed(self.db, checks, **fields)) == len(chosen)

    def passes(self, minutes: float) -> None:
        """So much time: what the sweep noted of the past lies that much further back."""
        for table, column in (("provider_minutes", "minute"), ("provider_failures", "failed_at")):
            # Farther first, so that no two rows of one type meet on the way.
            self.db.execute(f"update private.{table} set {column} = {column} - make_interval(secs => 100000)")  # type: ignore[arg-type]
            self.db.execute(
                f"update private.{table} set {column} = {column} + make_interval(secs => %s)", [100_000 - minutes * 60]
            )  # type: ignore[arg-type]
        self.db.execute(
            "update provider_incidents set opened_at = opened_at - make_interval(secs => %(s)s), "
            "started_at = started_at - make_interval(secs => %(s)s), ended_at = ended_at - make_interval(secs => %(s)s)",
            {"s": minutes * 60},
        )

    def incidents(self) -> list[tuple[Any, ...]]:
        return self.db.execute(
            "select verdict, users, ended_at is null from provider_incidents where integration_type_id = %s",
            [self.kind],
        ).fetchall()

    def states(self, column: str) -> list[Any]:
        return [rows.integration(self.db, one)[column] for one in self.ids]


def a_vendor(db: Connection, users: int, *, each: int = 1, **columns: Any) -> Vendor:
    kind = rows.add_type(db, **{"type": "vendor", **columns})
    owners = [add_user(db) for _ in range(users)]
    ids = [
        rows.add_integration(db, owner, kind, status="connected", is_connected=True, usual_ms=50)
        for owner in owners
        for _ in range(each)
    ]
    return Vendor(db, kind, owners, ids)


OPEN = [("provider_down", 6, True)]


def test_many_users_failing_alike_are_one_incident(db: Connection) -> None:
    vendor = a_vendor(db, 8)
    vendor.found("ok", slice(6, None))
    vendor.found("provider_down", slice(0, 3))
    assert vendor.incidents() == []

    vendor.found("provider_down", slice(3, 6))

    assert vendor.incidents() == OPEN


@pytest.mark.parametrize("verdict", sorted(OUTAGE))
def test_every_kind_of_outage_can_be_an_incident(db: Connection, verdict: Verdict) -> None:
    vendor = a_vendor(db, 5)

    vendor.found(verdict.value)

    assert vendor.incidents() == [(verdict.value, 5, True)]


def test_it_is_shown_on_what_it_affects_and_to_those_whom_it_concerns(db: Connection, as_user: AsUser) -> None:
    vendor, other = a_vendor(db, 7), a_vendor(db, 1)
    vendor.found("ok", slice(6, None))
    vendor.found("timeout", slice(0, 6))
    other.found("timeout")

    def seen(owner: uuid.UUID, mine: uuid.UUID) -> tuple[Any, Any]:
        with as_user(owner) as own:
            return rows.call(own, "get_integration", p_integration_id=mine)["incident"], rows.call(own, "get_overview")[
                "incidents"
            ]

    affected, overview = seen(vendor.owners[0], vendor.ids[0])
    well, same_overview = seen(vendor.owners[6], vendor.ids[6])
    assert set(affected) == {"id", "verdict", "started_at"}
    assert affected["verdict"] == "timeout"
    assert well is None
    assert [incident["id"] for incident in overview] == [affected["id"]]
    assert overview == same_overview
    assert overview[0]["integrations"] == 1
    assert (overview[0]["ended_at"], overview[0]["integration_type"]["slug"]) == (
        None, rows.one(db, "select slug from integration_types where id = %s", [vendor.kind]),
    )  # fmt: skip
    assert seen(other.owners[0], other.ids[0]) == (None, [])


@pytest.mark.parametrize(("users", "failing", "each"), [
    pytest.param(4, 4, 1, id="four users"),
    pytest.param(1, 50, 50, id="one user with many connections"),
    pytest.param(12, 5, 1, id="fewer than half"),
])  # fmt: skip
def test_a_few_failures_are_no_incident(db: Connection, users: int, failing: int, each: int) -> None:
    vendor = a_vendor(db, users, each=each)
    vendor.found("ok", slice(failing, None))

    vendor.found("provider_down", slice(0, failing))

    assert vendor.incidents() == []


@pytest.mark.parametrize("verdict", sorted(set(Verdict) - OUTAGE))
def test_what_is_no_outage_is_no_incident(db: Connection, verdict: Verdict) -> None:
    vendor = a_vendor(db, 9)

    vendor.found(verdict.value)

    assert vendor.incidents() == []


def test_connections_that_failed_before_prove_nothing(db: Connection) -> None:
    vendor = a_vendor(db, 9)
    for one in range(9):  # one after the other, over a long time
        vendor.found("provider_down", slice(one, one + 1))
        vendor.passes(11)

    vendor.found("provider_down")

    assert vendor.incidents() == []


def test_failures_that_are_not_alike_are_no_incident_and_the_most_frequent_names_it(db: Connection) -> None:
    mixed, alike = a_vendor(db, 8), a_vendor(db, 8)
    for vendor, split in ((mixed, 4), (alike, 5)):
        vendor.found("provider_down", slice(0, split))
        vendor.found("timeout", slice(split, None))

    assert mixed.incidents() == []
    assert alike.incidents() == [("provider_down", 5, True)]


@pytest.mark.parametrize("columns", [
    {"type": "custom"},
    {"definition": '{"auth": {"api_key": {}}}'},
    {"type": "mcp", "definition": '{"mcp": {"protocol": "stdio", "command": "npx"}}'},
], ids=["custom", "each user's own address", "a command"])  # fmt: skip
def test_generic_types_have_no_vendor_in_common(db: Connection, columns: dict[str, str]) -> None:
    vendor = a_vendor(db, 9, **columns)

    vendor.found("provider_down")

    assert vendor.incidents() == []


def test_of_the_catalogue_those_that_say_where_to_go_have_one(db: Connection) -> None:
    found = dict(db.execute(
        "select slug, private.has_vendor(t) from integration_types t "
        "where slug in ('github', 'slack', 'github-mcp', 'mcp-custom', 'custom-vendor', 'ssh-host', 'memory-mcp')"
    ).fetchall())  # fmt: skip

    assert found == {"github": True, "slack": True, "github-mcp": True, "mcp-custom": False, "custom-vendor": False,
                     "ssh-host": False, "memory-mcp": False}  # fmt: skip


def test_an_outage_is_seen_within_a_minute_however_well_all_was_before(db: Connection) -> None:
    vendor = a_vendor(db, 30)
    for _ in range(9):
        vendor.found("ok")
        vendor.passes(1)

    vendor.found("network", slice(0, 8))

    assert vendor.incidents() == [("network", 8, True)]


def test_failures_far_apart_do_not_add_up(db: Connection) -> None:
    vendor = a_vendor(db, 8)
    vendor.found("provider_down", slice(0, 4))
    vendor.passes(11)

    vendor.found("provider_down", slice(4, None))

    assert vendor.incidents() == []


def test_while_it_lasts_such_failures_count_against_nobody(db: Connection) -> None:
    vendor = a_vendor(db, 6)
    vendor.found("provider_down")
    logged = [rows.events(db, one) for one in vendor.ids]
    for verdict in ("provider_down", "timeout", "network", "rate_limited", "timeout"):
        vendor.found(verdict)

    assert vendor.states("status") == ["connected"] * 6
    assert vendor.states("consecutive_failures") == [1] * 6
    assert vendor.states("last_verdict") == ["timeout"] * 6
    assert None not in vendor.states("failing_since")
    assert [rows.events(db, one) for one in vendor.ids] == logged
    assert rows.one(db, "select count(*) from integration_health_metrics where not success") == 36
    assert vendor.incidents() == OPEN


def test_what_is_no_outage_counts_also_during_an_incident(db: Connection) -> None:
    vendor = a_vendor(db, 6)
    vendor.found("provider_down")

    vendor.found("auth_rejected", slice(0, 1))
    vendor.found("protocol", slice(1, 2))

    assert vendor.states("status")[:2] == ["error", "connected"]
    assert vendor.states("consecutive_failures")[:2] == [2, 2]


def test_a_person_who_tests_during_an_incident_is_told_what_was_found(db: Connection) -> None:
    vendor = a_vendor(db, 6)
    vendor.found("provider_down")

    shown = rows.record(db, vendor.owners[0], vendor.ids[0], success=False, verdict="provider_down")

    assert (shown["status"], shown["incident"]["verdict"]) == ("error", "provider_down")


def test_it_is_over_when_most_checks_succeed_again_and_failures_count_from_then_on(
    db: Connection, as_user: AsUser
) -> None:
    vendor = a_vendor(db, 6)
    vendor.found("provider_down")
    vendor.passes(5)
    vendor.found("ok", slice(0, 2))
    vendor.found("provider_down", slice(2, None))
    assert vendor.incidents() == OPEN
    vendor.passes(5)

    vendor.found("ok", slice(0, 4))

    assert vendor.incidents() == [("provider_down", 6, False)]
    with as_user(vendor.owners[5]) as own:
        assert rows.call(own, "get_integration", p_integration_id=vendor.ids[5])["incident"] is None
        (ended,) = rows.call(own, "get_overview")["incidents"]
    assert ended["ended_at"] is not None
    vendor.found("timeout", slice(5, None))
    assert vendor.states("consecutive_failures")[5] == 2


def test_what_succeeded_before_does_not_end_it(db: Connection) -> None:
    vendor = a_vendor(db, 40)
    vendor.found("ok", slice(0, 30))
    vendor.passes(1)
    vendor.found("provider_down", slice(30, None))
    vendor.found("ok", slice(0, 1))

    assert [open for *_, open in vendor.incidents()] == [True]


def test_a_vendor_that_fails_again_soon_had_one_outage_and_later_another(db: Connection) -> None:
    vendor = a_vendor(db, 6)
    vendor.found("provider_down")
    vendor.passes(6)
    vendor.found("ok")
    assert vendor.incidents() == [("provider_down", 6, False)]
    vendor.passes(4)
    vendor.found("timeout")
    assert vendor.incidents() == [("timeout", 6, True)]
    vendor.passes(6)
    vendor.found("ok")
    vendor.passes(11)

    vendor.found("provider_down")

    assert vendor.incidents() == [("timeout", 6, False), ("provider_down", 6, True)]


def test_many_workers_that_see_it_at_once_record_one_incident(database: Database) -> None:
    with database.connect(autocommit=True) as db:
        vendor = a_vendor(db, 40)
        for one in vendor.ids:
            owner = rows.one(db, "select user_id from user_integrations where id = %s", [one])
            rows.schedule(db, one, owner)
        batches = [rows.claim(db, limit=10) for _ in range(4)]
        together = threading.Barrier(4)

        def work(checks: list[Any]) -> None:
            with database.connect(autocommit=True) as mine:
                together.wait()
                rows.record_claimed(mine, checks, success=False, verdict="provider_down")

        workers = [threading.Thread(target=work, args=[batch]) for batch in batches]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

        assert [(verdict, open) for verdict, _, open in vendor.incidents()] == [("provider_down", True)]
        db.execute("delete from auth.users where id = any(%s)", [vendor.owners])
        db.execute("delete from integration_types where id = %s", [vendor.kind])


def test_upkeep_forgets_what_was_noted_and_ends_what_nobody_can_tell_of(db: Connection) -> None:
    gone, failing = a_vendor(db, 6), a_vendor(db, 6)
    gone.found("provider_down")
    failing.found("provider_down")
    gone.passes(60 * 26)
    failing.found("provider_down")

    assert rows.call(db, "forget_old") == {"answers": 0, "incidents": 1}

    assert [open for *_, open in gone.incidents()] == [False]
    assert [open for *_, open in failing.incidents()] == [True]
    left = rows.column(db, "select integration_type_id from private.provider_minutes")
    assert left == [failing.kind]


@pytest.fixture
def servers() -> Iterator[Field]:
    with background() as loop, field(loop) as servers:
        yield servers


def a_type_at(world: World, url: str) -> uuid.UUID:
    return rows.add_type(world.db, type="vendor", config_schema=Jsonb({"api_url": url}))


def test_servers_of_ones_own_do_not_speak_for_a_vendor(stack: Stack, servers: Field) -> None:
    """Whoever could make them would hide a vendor's failures from everybody, and cry wolf."""
    with a_world(stack) as world:
        kind = a_type_at(world, servers.at("/ok"))
        ids = world.add(servers.at("/ok"), users=6, kind=kind) + world.add("", users=6, kind=kind)
        world.sweep()
        for one in ids[6:]:
            world.configure(one, timeout_ms=100)
        servers.instead["/ok"] = "/503"
        world.make_due(ids)
        world.sweep()
        servers.instead.clear()

        assert rows.column(world.db, "select verdict from provider_incidents") == []
        assert {world.row(one)["last_verdict"] for one in ids} == {"provider_down"}


def test_a_changed_configuration_has_to_be_well_first(db: Connection) -> None:
    """An account of one's own that does not exist is no outage."""
    vendor = a_vendor(db, 8)
    db.execute('update user_integrations set connection_config = \'{"subdomain": "nobody"}\'')

    vendor.found("network")

    assert vendor.incidents() == []


@pytest.mark.parametrize(("url", "counts"), [
    ("https://api.example.com/v1/{account}", True),
    ("https://{subdomain}.example.com", True),
    ("https://{host}/api", False),
    ("https://erp.{domain}:8443", False),
    (None, False),
])  # fmt: skip
def test_a_vendor_has_an_address_of_its_own(db: Connection, url: str | None, counts: bool) -> None:
    definition = {"base_url": url} if url else {"auth": {"none": {}}}
    vendor = a_vendor(db, 5, definition=Jsonb(definition))

    vendor.found("provider_down")

    assert bool(vendor.incidents()) is counts


def test_in_sweeps_an_outage_is_found_and_its_checks_keep_their_usual_interval(stack: Stack, servers: Field) -> None:
    with a_world(stack) as world:
        ids = world.add("", users=6, kind=a_type_at(world, servers.at("/ok")))
        world.sweep()
        servers.instead["/ok"] = "/503"
        world.make_due(ids)
        world.sweep()
        first = rows.one(world.db, "select max(next_check_at) - now() from integration_schedule").total_seconds()
        world.make_due(ids)
        world.sweep()
        second = rows.one(world.db, "select min(next_check_at) - now() from integration_schedule").total_seconds()
        incidents = rows.column(world.db, "select ended_at from provider_incidents")
        states = {(world.row(one)["status"], world.row(one)["consecutive_failures"]) for one in ids}
        servers.instead.clear()
        world.db.execute("update private.provider_minutes set minute = minute - interval '6 minutes'")
        world.make_due(ids)
        world.sweep()
        ended = rows.column(world.db, "select ended_at is not null from provider_incidents")

    assert first <= 60 < 40_000 < second
    assert incidents == [None]
    assert states == {("connected", 1)}
    assert ended == [True]
