"""A sweep end to end: what is due is checked by its own rules and recorded, whatever the servers do."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from chalicelib.model import AuthMethod, CheckResult, Secret, Verdict
from chalicelib.services.drafts import Draft
from chalicelib.services.integrations import IntegrationService, Limits
from chalicelib.services.rules import Rules
from chalicelib.settings import BadSettings, read_settings
from chalicelib.store.integrations import TypeStore, UserStore
from tests.peers.field import Field
from tests.peers.mcp_servers import sdk_server
from tests.peers.targets import LOOPBACK
from tests.support import rows
from tests.support.stack import Stack
from tests.support.sweeping import World, a_prober, no_renewals


def test_everything_due_is_checked_and_recorded_with_two_round_trips_a_batch(world: World, servers: Field) -> None:
    ids = world.add(servers.at("/ok/{n}"), 10, users=6)

    summary = world.sweep(batch=20, per_host=20)

    assert world.metrics() == dict.fromkeys(ids, 1)
    assert set(world.verdicts(ids)) == {"ok"}
    assert summary.verdicts == {"ok": 60}
    assert (summary.claimed, summary.checked, summary.recorded, summary.postponed) == (60, 60, 60, 0)
    # Three batches, and a last claim that finds nothing.
    assert summary.round_trips == 7
    assert 1 <= summary.lag_s < 60
    assert set(servers.asked.values()) == {1}


def test_nothing_due_costs_one_round_trip(world: World) -> None:
    summary = world.sweep()

    assert (summary.claimed, summary.round_trips, summary.failure) == (0, 1, None)


def test_each_server_gets_its_own_verdict_and_sinks_no_other(world: World, servers: Field) -> None:
    expected = {"/ok": "ok", "/401": "auth_rejected", "/503": "provider_down", "/429": "rate_limited",
                "/hang": "timeout", "/drip": "timeout", "/cut": "network"}  # fmt: skip
    ids = {path: world.add(servers.at(path), 3) for path in expected}

    world.sweep(total_s=2.0, per_host=100)

    assert {path: set(world.verdicts(ids[path])) for path in expected} == {
        path: {verdict} for path, verdict in expected.items()
    }


def test_a_users_keys_are_unwrapped_once_and_their_secrets_reach_the_right_server(world: World, servers: Field) -> None:
    (first,) = world.add(servers.at("/ok"), auth_method="api_key")
    owner = rows.one(world.db, "select user_id from user_integrations where id = %s", [first])
    kind = rows.one(world.db, "select integration_type_id from user_integrations where id = %s", [first])
    ids = [first] + [
        str(rows.add_integration(world.db, owner, kind, status="connected", is_connected=True, auth_method="api_key",
                                 connection_config=json.dumps({"api_url": servers.at(f"/ok/{n}")})))
        for n in range(4)
    ]  # fmt: skip
    for one in ids:
        world.save(one, "s3cret-of-" + one)
    # Where the configuration leads elsewhere now, the sealed credential does not follow.
    world.configure(ids[-1], api_url=servers.at("/stolen", host="127.0.0.9"))
    world.make_due(ids)
    vault = world.vault()

    summary = world.sweep(vault=vault)

    assert vault.unwraps == 1
    assert summary.verdicts == {"ok": 4, "misconfigured": 1}
    assert "Save them again" in world.row(ids[-1])["last_error"]
    assert "/stolen" not in servers.asked
    assert world.row(ids[-1])["status"] == "error"


def test_what_is_usual_for_a_server_is_learnt_and_shortens_its_deadline(world: World, servers: Field) -> None:
    (fast,) = world.add(servers.at("/ok/fast"))
    (unknown,) = world.add(servers.at("/ok/unknown?ms=3000"))
    world.sweep()
    learnt = world.row(fast)["usual_ms"]
    servers.instead["/ok/fast"] = "/hang"
    world.make_due([fast])
    world.sweep()
    first = _metric(world, fast)
    world.make_due([fast])
    world.sweep()
    second = _metric(world, fast)

    assert 0 < learnt < 200
    assert world.row(unknown)["usual_ms"] >= 3000
    # Two seconds for a server that answers at once; after a failure all the time there is, lest slow be taken for dead.
    assert (first[0], second[0]) == ("timeout", "timeout")
    assert 1_900 <= first[1] < 4_000
    assert second[1] >= 4_900
    assert world.row(fast)["usual_ms"] == learnt


@pytest.mark.parametrize(("stood_still_s", "asked"), [(2.5, 2), (0.0, 1)])
def test_time_in_which_we_stood_still_ourselves_is_not_held_against_a_server(
    world: World, stood_still_s: float, asked: int
) -> None:
    """The whole process gets no CPU, until its deadlines are long past."""
    (mine,) = world.add("http://127.0.0.1:9", usual_ms=5)
    deadlines: list[float] = []

    class Checker:
        async def check(self, target: Any, *, mode: str, total_s: float) -> CheckResult:
            deadlines.append(total_s)
            began = datetime.now(UTC)
            with anyio.move_on_after(total_s):
                time.sleep(stood_still_s if len(deadlines) == 1 else 0)  # noqa: ASYNC251 - that is the point
                await anyio.sleep_forever()
            return CheckResult(Verdict.TIMEOUT, 2_000, "Too slow.", began)

    world.sweep(prober=Checker())

    assert deadlines == [2.0] * asked
    assert (world.metrics(), world.verdicts([mine])) == ({mine: 1}, ["timeout"])


def _metric(world: World, integration_id: str) -> tuple[Any, ...]:
    found = world.db.execute(
        "select verdict, response_time_ms from integration_health_metrics where user_integration_id = %s "
        "order by checked_at desc limit 1", [integration_id]
    ).fetchone()  # fmt: skip
    assert found
    return tuple(found)


def test_a_usual_check_keeps_the_tools_and_once_a_day_they_are_listed_again(world: World) -> None:
    kind = rows.add_type(world.db, type="mcp")
    tools = [{"name": "gone", "fingerprint": "a"}, {"name": "add_0", "fingerprint": "b"}]
    known = {"protocol_version": "2025-11-25", "server": {"name": "sample", "version": "0"}, "tools": tools}
    with sdk_server() as server:
        (mine,) = world.add("http://127.0.0.1:9", kind=kind, capabilities=json.dumps(known),
                            capabilities_listed_at=datetime.now(UTC) - timedelta(hours=1))  # fmt: skip
        world.configure(mine, protocol="http", url=server.url)
        world.db.execute("update user_integrations set capabilities_listed_at = now() - interval '17 hours'")
        world.make_due([mine])
        world.sweep()
        bare = world.row(mine)
        world.db.execute("update user_integrations set capabilities_listed_at = now() - interval '24 hours'")
        world.make_due([mine])
        world.sweep()
        full = world.row(mine)

    assert bare["last_verdict"] == full["last_verdict"] == "ok"
    assert bare["capabilities"]["tools"] == tools
    assert bare["capabilities"]["server"] == {"name": "sample", "version": "1.2.3"}
    assert bare["capabilities_changed_at"] is None
    assert [tool["name"] for tool in full["capabilities"]["tools"]] == ["add_0", "add_1"]
    changed = [metadata for event, _, metadata in rows.logs(world.db, mine) if event == "capabilities_changed"]
    assert changed == [{"added": ["add_1"], "changed": ["add_0"], "removed": ["gone"]}]
    assert datetime.fromisoformat(full["capabilities_listed_at"]) > datetime.now(UTC) - timedelta(minutes=1)


def test_tools_that_cannot_be_listed_are_not_asked_for_at_every_check(world: World, servers: Field) -> None:
    kind = rows.add_type(world.db, type="mcp")
    (mine,) = world.add(servers.at("/503"), kind=kind, capabilities='{"protocol_version": "2025-11-25"}')
    world.configure(mine, protocol="http", url=servers.at("/503"))

    world.sweep()

    assert world.row(mine)["last_verdict"] == "provider_down"
    assert world.row(mine)["capabilities_listed_at"] is not None


def test_hosted_a_command_leaves_the_schedule_unrun_and_comes_back_when_it_is_changed(
    world: World, servers: Field
) -> None:
    kind = rows.add_type(world.db, type="mcp")
    (command,) = world.add(servers.at("/ok"), kind=kind)
    world.configure(command, protocol="stdio", command="touch", args=["/tmp/never"])
    (other,) = world.add(servers.at("/ok"))

    summary = world.sweep(commands=False)

    assert (summary.dropped, summary.checked) == (1, 1)
    assert world.row(command)["next_check_at"] is None
    assert world.row(command)["status"] == "connected"
    assert world.metrics() == {other: 1}
    config = json.dumps({"protocol": "http", "url": servers.at("/ok")})
    world.db.execute("update user_integrations set connection_config = %s where id = %s", [config, command])
    assert world.sweep(commands=False).checked == 1
    assert world.metrics()[command] == 1


def test_a_sweep_stops_in_time_and_leaves_the_rest_due(world: World, servers: Field) -> None:
    ids = world.add(servers.at("/hang", host="127.0.0.2"), 40)
    world.add(servers.at("/ok"), 5)

    summary = world.sweep(budget_s=14.0, total_s=2.5, per_host=4)

    assert summary.verdicts["ok"] == 5
    assert summary.recorded == summary.checked < summary.claimed == 45
    assert summary.checked + summary.postponed == 45
    assert summary.duration_s < 14
    world.end_leases()
    assert len(rows.claim(world.db)) == 45 - summary.checked
    assert max(world.metrics()[one] for one in ids) <= 1


def test_a_budget_in_which_nothing_can_be_checked_is_refused_with_words(world: World) -> None:
    with pytest.raises(ValueError, match="needs 16 s at least"):
        world.sweep(budget_s=15.0)


def test_a_sweep_for_a_few_claims_no_more_than_those(world: World, servers: Field) -> None:
    world.add(servers.at("/ok"), 30)

    summary = world.sweep(batch=10, most=15)

    assert (summary.claimed, summary.checked) == (15, 15)


def test_a_check_whose_lease_would_end_before_its_result_is_left_to_others(world: World, servers: Field) -> None:
    world.add(servers.at("/ok?ms=1500"), 3)

    summary = world.sweep(per_host=1, total_s=4.0, lease_s=5)

    assert (summary.checked, summary.postponed) == (1, 2)


def test_a_check_that_fails_in_an_unforeseen_way_sinks_no_other(world: World, servers: Field) -> None:
    class Broken:
        async def check(self, target: Any, **options: Any) -> Any:
            if "bad" in target.config["api_url"]:
                raise ZeroDivisionError
            return await prober.check(target, **options)

    prober = a_prober()
    world.add(servers.at("/ok"), 5)
    (bad,) = world.add(servers.at("/bad"))

    summary = world.sweep(prober=Broken())

    assert (summary.checked, summary.postponed) == (5, 1)
    assert world.metrics()[bad] == 0


@pytest.mark.parametrize("path", ["/503", "/hang", "/cut", "/429"])
def test_an_outage_must_be_seen_three_times_and_success_counts_at_once(world: World, servers: Field, path: str) -> None:
    (mine,) = world.add(servers.at("/ok"))
    world.sweep()
    servers.instead["/ok"] = path
    seen = []
    for _ in range(4):
        world.make_due([mine])
        world.sweep(total_s=1.5)
        seen.append(world.row(mine)["status"])
    servers.instead.clear()
    world.make_due([mine])
    world.sweep()

    assert seen == ["connected", "connected", "error", "error"]
    assert (world.row(mine)["status"], world.row(mine)["consecutive_failures"]) == ("connected", 0)
    assert rows.events(world.db, mine)[1:] == ["error"]  # and no word of the recovery yet: ten minutes have not passed
    recorded = set(rows.column(world.db, "select verdict from integration_health_metrics"))
    assert recorded <= {"ok", "provider_down", "timeout", "network", "rate_limited"}


def test_after_flapping_the_last_state_is_told_once_ten_minutes_are_over(world: World, servers: Field) -> None:
    (mine,) = world.add(servers.at("/401"))
    told = []
    for path in ("/401", "/ok", "/401", "/ok", "/ok"):
        servers.instead["/401"] = path
        world.make_due([mine])
        world.sweep()
        told.append(rows.events(world.db, mine)[1:])
    world.db.execute("update user_integrations set state_logged_at = state_logged_at - interval '11 minutes'")
    for _ in range(2):
        world.make_due([mine])
        world.sweep()

    assert told == [["error"]] * 5
    assert rows.events(world.db, mine)[1:] == ["error", "connected"]


def test_a_refused_key_counts_at_once(world: World, servers: Field) -> None:
    (mine,) = world.add(servers.at("/401"))

    world.sweep()

    assert world.row(mine)["status"] == "error"


def test_a_limit_is_waited_for_as_long_as_the_server_says(world: World, servers: Field) -> None:
    (mine,) = world.add(servers.at("/429?retry_after=5000"))

    world.sweep()

    wait_s = rows.one(world.db, "select extract(epoch from next_check_at - now()) from integration_schedule")
    assert world.row(mine)["last_verdict"] == "rate_limited"
    assert 4_990 <= wait_s <= 5_500


@pytest.mark.parametrize("config", [
    {"protocol": "stdio", "command": "npx", "args": ["-y", "some-server"]},
    {"protocol": "http", "url": "https://mcp.example.com/mcp"},
], ids=["a command", "a URL"])  # fmt: skip
@pytest.mark.parametrize("sweeps_commands", [True, False], ids=["local", "hosted"])
def test_a_connected_command_is_on_the_schedule_only_where_sweeps_run_commands(
    world: World, config: dict[str, Any], sweeps_commands: bool
) -> None:
    user_id, token = world.stack.new_user()
    service = IntegrationService(
        user_id,
        store=UserStore(world.supabase, user_id, Secret(token)),
        types=TypeStore(world.supabase),
        vault=world.vault(),
        check=lambda _: CheckResult(Verdict.OK, 5, None, datetime.now(UTC)),
        tokens=no_renewals(world.vault()),
        rules=Rules(addresses=LOOPBACK, credentials=_AnyCredentials(), mcp_stdio="any"),
        limits=Limits(tests_per_minute=9, tests_per_day=9, check_interval_s=300, check_backoff_cap_s=600,
                      sweeps_commands=sweeps_commands),
    )  # fmt: skip
    draft = Draft("mcp-custom", "Mine", config, AuthMethod.NONE)

    connected = service.connect_integration(uuid.UUID(service.create_user_integration(draft)["id"]))

    assert connected["status"] == "connected"
    assert (connected["next_check_at"] is not None) == (sweeps_commands or "url" in config)


class _AnyCredentials:
    def inspect(self, *_: Any, **__: Any) -> dict[str, None]:
        return {}

    def belongs(self, *_: Any) -> bool:
        return True


def test_a_lease_that_no_check_could_keep_stops_the_start(stack: Stack) -> None:
    with pytest.raises(BadSettings, match="SWEEP_LEASE_S must be 10 or more above CHECK_TOTAL_S"):
        read_settings(stack.environment() | {"SWEEP_LEASE_S": "30", "CHECK_TOTAL_S": "25"})
