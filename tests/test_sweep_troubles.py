"""What a sweep depends on fails in the middle of it: nothing is lost, nothing is doubled, and it ends in time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from chalicelib.errors import Invalid
from chalicelib.settings import read_settings
from chalicelib.store.supabase import Supabase
from chalicelib.store.sweeps import SweepStore
from chalicelib.vault.kms import KmsKeys
from chalicelib.vault.vault import Vault
from tests.peers.field import Field
from tests.peers.kms import troubled_kms
from tests.peers.meddler import meddler
from tests.peers.raw import Loop
from tests.support.postgres import Cluster
from tests.support.stack import Stack
from tests.support.sweeping import World, a_world

REGION = "eu-central-1"


@pytest.mark.parametrize("moment_s", [0.3, 0.8, 1.5])
def test_postgres_restarted_in_the_middle_of_a_thousand_costs_no_result(
    servers: Field, tmp_path: Path, moment_s: float
) -> None:
    # As in production: what was committed is still there after a crash.
    cluster = Cluster(settings={"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"})
    cluster.start()
    stack = Stack(cluster, tmp_path)
    try:
        stack.start()
        with a_world(stack) as world:
            ids = world.add(servers.at("/ok/{n}?ms=20"), 20, users=50)
            restarted = threading.Thread(target=_restart, args=[cluster, moment_s])
            began = time.monotonic()
            restarted.start()
            first = world.sweep(batch=100, per_host=50, lease_s=15)
            restarted.join()
            world.db.close()
            world.db = stack.database.connect(autocommit=True)
            world.end_leases()
            second = world.sweep(batch=100, per_host=50)
            took_s = time.monotonic() - began

            assert first.failure is None
            assert first.recorded > 0
            assert world.metrics() == dict.fromkeys(ids, 1)
            assert second.claimed <= len(ids) - first.recorded  # of claims that were cut off, if anything
            assert took_s < 60
    finally:
        stack.stop()
        cluster.stop()


def _restart(cluster: Cluster, moment_s: float) -> None:
    time.sleep(moment_s)
    # On the same port, at which PostgREST looks for it; not waiting for anybody's transaction to end.
    cluster.server._run("pg_ctl", "restart", "-w", "-t", "60", "-m", "immediate")


@pytest.mark.parametrize("function", ["claim_due_checks", "record_checks"])
def test_a_database_that_answers_503_for_a_while_is_asked_again(
    world: World, servers: Field, loop: Loop, function: str
) -> None:
    ids = world.add(servers.at("/ok/{n}"), 30)
    refused: list[str] = []

    def whim(path: str) -> Any:
        if path.endswith(function) and len(refused) < 3:
            refused.append(path)
            return "503"
        return "pass"

    with _between(world, loop, whim) as store:
        summary = world.sweep(store=store, per_host=50, batch=10)

    assert (len(refused), summary.failure, summary.recorded) == (3, None, 30)
    assert world.metrics() == dict.fromkeys(ids, 1)
    assert summary.round_trips == 3 + 4 + 3
    assert set(servers.asked.values()) == {1}


def test_a_database_that_takes_no_results_is_told_of_and_everything_is_due_again(
    world: World, servers: Field, loop: Loop
) -> None:
    ids = world.add(servers.at("/ok/{n}"), 5)

    with _between(world, loop, lambda path: "503" if path.endswith("record_checks") else "pass") as store:
        summary = world.sweep(store=store, budget_s=13.0, total_s=1.0, per_host=50)

    assert (summary.checked, summary.recorded) == (5, 0)
    assert summary.failure is not None
    assert summary.failure.code == "unavailable"
    assert summary.duration_s < 14
    assert world.metrics() == {}
    world.end_leases()
    assert world.sweep(per_host=50).recorded == 5
    assert world.metrics() == dict.fromkeys(ids, 1)


def test_a_database_that_cannot_be_reached_at_all_is_told_of_in_time(world: World, loop: Loop) -> None:
    with _between(world, loop, lambda _: "503") as store:
        summary = world.sweep(store=store, budget_s=13.0, total_s=1.0)

    assert summary.failure is not None
    assert (summary.claimed, summary.duration_s < 13) == (0, True)


class Unreadable(SweepStore):
    """Answers with a number of 5,000 digits wherever ``row`` is leased."""

    def __init__(self, world: World, row: str) -> None:
        super().__init__(world.supabase)
        self._row = row

    def claim(self, limit: int, lease_s: int) -> Any:
        answer = json.dumps(super().claim(limit, lease_s))
        return json.loads(answer.replace('"busy"', f'"odd": 1{"0" * 5_000}, "busy"') if self._row in answer else answer)


def test_a_claim_that_nobody_can_read_is_told_of_and_stops_no_other(world: World, servers: Field) -> None:
    ids = world.add(servers.at("/ok/{n}"), 30)

    summary = world.sweep(store=Unreadable(world, ids[7]), batch=10, per_host=50)

    assert summary.failure is not None
    assert summary.failure.code == "claim_unreadable"
    assert (summary.claimed, summary.checked, summary.recorded) == (20, 20, 20)
    world.end_leases()
    assert world.sweep(per_host=50).recorded == 10
    assert world.metrics() == dict.fromkeys(ids, 1)


def test_claims_that_nobody_can_ever_read_end_the_sweep(world: World, servers: Field) -> None:
    world.add(servers.at("/ok/{n}"), 30)

    summary = world.sweep(store=Unreadable(world, "checks"), batch=1)

    assert summary.failure is not None
    assert (summary.claimed, summary.round_trips) == (0, 10)


def test_a_claim_that_the_database_refuses_is_told_of(world: World, servers: Field) -> None:
    class Refused(SweepStore):
        def claim(self, limit: int, lease_s: int) -> Any:
            raise Invalid("no", code="refused_by_database")

    world.add(servers.at("/ok/{n}"), 3)

    summary = world.sweep(store=Refused(world.supabase))

    assert summary.failure is not None
    assert (summary.failure.code, summary.claimed) == ("refused_by_database", 0)


@contextmanager
def _between(world: World, loop: Loop, whim: Any) -> Iterator[SweepStore]:
    """The store, with somebody between it and PostgREST."""
    with meddler(loop, world.stack.postgrest.url, whim) as between:
        supabase = Supabase(read_settings(world.stack.environment() | {"SUPABASE_REST_URL": between.url}))
        yield SweepStore(supabase)
        supabase.close()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("aws")
def test_a_key_service_that_throttles_postpones_what_needs_it_and_nothing_else(world: World, servers: Field) -> None:
    sealed = world.add(servers.at("/ok/sealed/{n}"), 3, users=8, auth_method="api_key")
    plain = world.add(servers.at("/ok/plain/{n}"), 5)
    with mock_aws():
        arn = boto3.client("kms", region_name=REGION).create_key()["KeyMetadata"]["Arn"]
        world.provider = KmsKeys(arn)
        for one in sealed:
            world.save(one, f"s3cret of {one}")
        world.make_due(sealed)
        with troubled_kms(400, "ThrottlingException") as kms:
            throttled = Vault(KmsKeys(arn, kms.url), app="integrations", environment="test")
            first = world.sweep(vault=throttled, per_host=50)
        asked = len(kms.calls)
        world.end_leases()
        second = world.sweep(per_host=50)

    assert (first.checked, first.postponed, first.failure) == (5, 24, None)
    assert asked <= 8 * 3  # once for each user, and the client's own second and third attempt
    assert (second.checked, second.recorded) == (24, 24)
    assert world.metrics() == dict.fromkeys([*sealed, *plain], 1)
    assert set(world.verdicts(sealed)) == {"ok"}
    assert set(servers.asked.values()) == {1}
