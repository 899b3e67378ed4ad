"""Exactly one recorded result per integration and slot: every due time that is claimed leads to one metric, whatever
is redelivered, repeated, lost or killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from chalicelib import wiring
from chalicelib.jobs import handlers
from chalicelib.jobs.tickets import TICKET
from chalicelib.settings import read_settings
from chalicelib.store.supabase import Supabase
from chalicelib.store.sweeps import SweepStore
from tests.peers.field import Field
from tests.peers.meddler import meddler
from tests.peers.raw import Loop
from tests.support import rows
from tests.support.app import environment
from tests.support.postgres import ROOT
from tests.support.sweeping import World

KILLS = 200


def together(*works: Any) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def all_consistent(world: World, ids: list[str]) -> bool:
    """One metric each, counted once by hour and day, nothing leased, nothing due."""
    hours = rows.one(world.db, "select sum(checks) from public.integration_health_hourly")
    days = rows.one(world.db, "select sum(checks) from public.integration_health_daily")
    leased = rows.one(world.db, "select count(*) from public.integration_schedule where lease_token is not null")
    return (
        world.metrics() == dict.fromkeys(ids, 1)
        and (hours, days, leased) == (len(ids), len(ids), 0)
        and rows.claim(world.db) == []
    )


def test_sweeps_at_the_same_time_share_the_work(world: World, servers: Field) -> None:
    ids = world.add(servers.at("/ok/{n}"), 20, users=10)

    together(*[lambda: world.sweep(batch=15, per_host=50)] * 4)

    assert all_consistent(world, ids)
    assert set(servers.asked.values()) == {1}


def test_every_ticket_three_times_in_any_order_makes_no_second_result(world: World, servers: Field) -> None:
    ids = world.add(servers.at("/ok/{n}"), 20, users=10)
    records = [{"messageId": str(n), "body": TICKET, "receiptHandle": "r"} for n in range(10)] * 3
    random.Random(5).shuffle(records)
    failures: list[Any] = []
    settings = world.stack.environment() | {"SWEEP_BATCH": "20", "CHECK_INTERVAL_S": "86400"}
    with environment(settings):
        wiring.supabase()  # one for all, as in a process of its own

        def worker(mine: list[Any]) -> None:
            for start in range(0, len(mine), 3):
                event = {"Records": mine[start : start + 3]}
                failures.extend(handlers.work(event, _Context())["batchItemFailures"])

        together(*[lambda part=part: worker(records[part::3]) for part in range(3)])

    assert failures == []
    assert all_consistent(world, ids)


class _Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def test_an_answer_of_the_recording_that_is_lost_records_nothing_twice(
    world: World, servers: Field, loop: Loop
) -> None:
    ids = world.add(servers.at("/ok/{n}"), 30)
    lost: list[str] = []

    def whim(path: str) -> Any:
        if path.endswith("record_checks") and len(lost) < 2:
            lost.append(path)
            return "lose"
        return "pass"

    with meddler(loop, world.stack.postgrest.url, whim) as between, _store_over(world, between.url) as store:
        summary = world.sweep(store=store, batch=10, per_host=50)

    assert len(lost) == 2
    assert summary.failure is None
    assert all_consistent(world, ids)
    assert set(servers.asked.values()) == {1}


def test_an_answer_of_a_claim_that_is_lost_loses_nothing(world: World, servers: Field, loop: Loop) -> None:
    ids = world.add(servers.at("/ok/{n}"), 30)
    lost: list[str] = []

    def whim(path: str) -> Any:
        if path.endswith("claim_due_checks") and not lost:
            lost.append(path)
            return "lose"
        return "pass"

    with meddler(loop, world.stack.postgrest.url, whim) as between, _store_over(world, between.url) as store:
        first = world.sweep(store=store, batch=10, per_host=50)
        world.end_leases()
        second = world.sweep(per_host=50)

    assert (first.checked, second.checked) == (20, 10)
    assert all_consistent(world, ids)


@contextmanager
def _store_over(world: World, url: str) -> Iterator[SweepStore]:
    supabase = Supabase(read_settings(world.stack.environment() | {"SUPABASE_REST_URL": url}))
    yield SweepStore(supabase)
    supabase.close()


def test_a_result_that_comes_after_its_lease_was_taken_over_is_dropped(world: World, servers: Field) -> None:
    (mine,) = world.add(servers.at("/ok"))
    late = rows.claim(world.db)
    world.end_leases()
    world.sweep()

    assert rows.record_claimed(world.db, late, success=False, verdict="timeout") == []
    assert world.metrics() == {mine: 1}
    assert world.row(mine)["last_verdict"] == "ok"


def test_a_lease_that_ran_out_is_due_again_by_itself(world: World, servers: Field) -> None:
    ids = world.add(servers.at("/ok"), 3)
    assert len(rows.claim(world.db, lease_s=1)) == 3
    assert world.sweep().claimed == 0
    rows.one(world.db, "select pg_sleep(1.1)")

    assert world.sweep().checked == 3
    assert all_consistent(world, ids)


def test_two_hundred_workers_killed_at_any_point_lose_nothing_and_double_nothing(world: World, servers: Field) -> None:
    ids = world.add(servers.at("/ok/{n}?ms=5"), 50, users=60)
    pick = random.Random(7)
    cut_off = 0
    longest = 0.12
    with _maker(world) as ask:
        for killed in range(0, KILLS, 2):
            if sum(world.metrics().values()) <= 2 * killed:
                longest = min(1.0, longest * 1.1)  # on a busy machine workers need more time to get anything done
            pids = [int(ask("sweep")), int(ask("sweep"))]
            for pid in pids:
                time.sleep(pick.uniform(0.01, longest))
                os.kill(pid, signal.SIGKILL)
            assert ask("reap") == "reaped"
            cut_off += rows.one(world.db, "select count(*) from integration_schedule where lease_token is not null")
            world.end_leases()
    survived = sum(world.metrics().values())
    while rows.one(
        world.db, "select count(*) from integration_schedule where next_check_at < now() + interval '1 minute'"
    ):
        world.end_leases()
        world.sweep(per_host=50)

    # Kills did come in the middle of batches, and work was done in spite of them.
    assert cut_off > KILLS
    assert survived > KILLS
    assert all_consistent(world, ids)


@contextmanager
def _maker(world: World) -> Iterator[Callable[[str], str]]:
    """Asks the process that makes sweepers, and gives its answer."""
    maker = subprocess.Popen(
        [sys.executable, "-m", "tests.support.sweepers"],
        cwd=ROOT, env=os.environ | world.stack.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with maker:
        assert maker.stdin is not None
        assert maker.stdout is not None
        talk = (maker.stdin, maker.stdout)

        def ask(line: str) -> str:
            print(line, file=talk[0], flush=True)
            return talk[1].readline().strip()

        try:
            yield ask
        finally:
            maker.kill()
