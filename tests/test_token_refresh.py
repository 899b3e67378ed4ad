"""Renewing tokens: once, by one worker, and never at the cost of what is stored. Real database, provider and processes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from chalice.test import Client

from chalicelib import wiring
from chalicelib.errors import Unavailable
from chalicelib.model import Secret, Verdict
from chalicelib.store.token_refreshes import TokenRefreshStore
from tests.peers.oauth import Provider
from tests.support.app import app_client, environment
from tests.support.postgres import ROOT
from tests.support.refreshing import digest
from tests.support.signed_in import SOON, Connection, a_refresher, access
from tests.support.stack import Stack


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    unlimited = {"TESTS_PER_MINUTE": "10000", "TESTS_PER_DAY": "100000"}
    with environment(stack.environment() | unlimited), app_client() as client:
        yield client


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def connection(client: Client, stack: Stack, provider: Provider) -> Connection:
    return Connection(client, stack, provider)


def test_a_token_that_ends_soon_is_renewed_and_stored_before_it_is_used(connection: Connection) -> None:
    before = connection.stored()

    fresh = wiring.token_refresher().fresh(connection.held())

    after = connection.stored()
    assert fresh.renewed
    assert access(fresh) == after["access_token"] != before["access_token"]
    assert after["refresh_token"] == connection.provider.sign_ins[0].refresh_token != before["refresh_token"]
    (row,) = connection.sql("select expires_at - now() from public.integration_credentials where user_integration_id = %s "
                            "and credential_type = 'access_token'", connection.id)  # fmt: skip
    assert timedelta(minutes=59) < row[0] <= timedelta(hours=1)


@pytest.mark.parametrize(
    ("lives", "due"),
    [
        (timedelta(minutes=15, seconds=20), False),
        (timedelta(minutes=14, seconds=40), True),
        (timedelta(minutes=-1), True),
        (None, False),
    ],
    ids=str,
)
def test_a_token_is_due_a_quarter_of_an_hour_before_its_end(
    client: Client, stack: Stack, provider: Provider, lives: timedelta | None, due: bool
) -> None:
    held = Connection(client, stack, provider, lives=lives).held()

    assert wiring.token_refresher().is_due(held) is due
    assert wiring.token_refresher().fresh(held).renewed is due
    assert len(provider.asked) == due


@pytest.mark.parametrize("when", ["early", "late"])
def test_fifty_workers_of_five_processes_cause_one_request_and_nothing_is_revoked(
    connection: Connection, when: str
) -> None:
    connection.provider.takes_s = 0.3
    command = [
        sys.executable,
        "-m",
        "tests.support.refreshing",
        str(connection.user_id),
        str(connection.id),
        "10",
        when,
    ]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=connection.stack.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [answer for process in processes for answer in json.loads(process.communicate(timeout=60)[0])]
    finally:
        for process in processes:
            process.kill()
            process.communicate()

    (signed,) = connection.provider.sign_ins
    assert len(answers) == 50
    assert len(connection.provider.asked) == 1
    assert not signed.revoked
    assert {answer["token"] for answer in answers} == {digest(connection.stored()["access_token"])}
    assert {answer["failure"] for answer in answers} == {None}
    assert connection.stored()["refresh_token"] == signed.refresh_token


def test_renewals_one_after_another_use_each_refresh_token_once(connection: Connection) -> None:
    for _ in range(4):
        connection.sql("update public.integration_credentials set expires_at = now(), refreshed_at = refreshed_at - interval '1 hour' "
                       "where user_integration_id = %s and credential_type = 'access_token'", connection.id)  # fmt: skip
        assert wiring.token_refresher().fresh(connection.held()).renewed

    (signed,) = connection.provider.sign_ins
    assert len(signed.used) == len(connection.provider.asked) == 4
    assert not signed.revoked


def test_a_provider_that_does_not_rotate_keeps_its_refresh_token(connection: Connection) -> None:
    connection.provider.rotates = False
    before = connection.stored()

    wiring.token_refresher().fresh(connection.held())

    assert connection.stored()["refresh_token"] == before["refresh_token"]
    assert connection.stored()["access_token"] != before["access_token"]


class LosingStore(TokenRefreshStore):
    """Its answers, or its requests, to store get lost on the way."""

    def __init__(self, lost: list[str]) -> None:
        super().__init__(wiring.supabase())
        self.lost = lost

    def store_refreshed(self, *args: Any) -> Any:
        lost = self.lost.pop(0) if self.lost else None
        found = None if lost == "request" else super().store_refreshed(*args)
        if lost is not None:
            raise Unavailable("lost")
        return found


@pytest.mark.parametrize("lost", [["answer"], ["request"], ["request", "answer"], ["request", "request"]], ids=" ".join)
def test_a_lost_answer_of_storing_is_harmless_and_a_lost_request_is_repeated(
    connection: Connection, lost: list[str]
) -> None:
    fresh = a_refresher(store=LosingStore(lost)).fresh(connection.held())

    assert access(fresh) == connection.stored()["access_token"]
    assert connection.stored()["refresh_token"] == connection.provider.sign_ins[0].refresh_token
    assert len(connection.provider.asked) == 1


def test_a_worker_that_dies_after_storing_leaves_all_in_order(connection: Connection) -> None:
    with pytest.raises(Unavailable):
        a_refresher(store=LosingStore(["answer"] * 3)).fresh(connection.held())

    fresh = wiring.token_refresher().fresh(connection.held())

    assert access(fresh) == connection.stored()["access_token"]
    assert (len(connection.provider.asked), connection.provider.sign_ins[0].revoked) == (1, False)


def test_a_token_that_cannot_be_stored_is_not_used(connection: Connection) -> None:
    """The known limit: this refresh token is used up, and a provider that forgives nothing asks for a new sign-in."""
    with pytest.raises(Unavailable):
        a_refresher(store=LosingStore(["request"] * 3)).fresh(connection.held())
    connection.sql("update private.token_refreshes set leased_until = now()")

    fresh = wiring.token_refresher().fresh(connection.held())

    assert fresh.failure is not None
    assert fresh.failure.verdict is Verdict.NEEDS_REAUTH


def test_nobody_is_asked_while_what_comes_could_not_be_sealed(connection: Connection) -> None:
    class LockedVault:
        def open(self, *args: Any) -> Secret:
            return wiring.vault().open(*args)

        def seal(self, *_: Any) -> str:
            raise Unavailable("no key")

        def new_key(self, *_: Any) -> Any:
            raise Unavailable("no key")

    with pytest.raises(Unavailable):
        a_refresher(vault=LockedVault()).fresh(connection.held())

    assert connection.provider.asked == []
    assert wiring.token_refresher().fresh(connection.held()).renewed  # the lease was given back


def test_a_refused_refresh_token_blames_nobody_if_it_was_replaced_meanwhile(connection: Connection) -> None:
    """As when its owner has just signed in again, or a worker whose lease ran out was faster after all."""
    provider = connection.provider
    new_access, new_refresh = provider.sign_in()
    provider.sign_ins[0].revoked = True

    def owner_saves() -> None:
        provider.meanwhile = lambda: None
        connection.saves("access_token", new_access)
        connection.saves("refresh_token", new_refresh)

    provider.meanwhile = owner_saves
    fresh = wiring.token_refresher().fresh(connection.held())

    assert (access(fresh), fresh.renewed) == (new_access, True)
    assert len(provider.asked) == 1


def test_what_an_owner_saves_while_tokens_are_renewed_stays(connection: Connection) -> None:
    typed, _ = connection.provider.sign_in()
    connection.provider.meanwhile = lambda: connection.saves("access_token", typed)

    fresh = wiring.token_refresher().fresh(connection.held())

    assert access(fresh) == typed == connection.stored()["access_token"]
    assert connection.stored()["refresh_token"] == connection.provider.sign_ins[0].refresh_token


def test_whoever_comes_second_waits_for_the_first(connection: Connection) -> None:
    asked, go = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        go.wait(30)

    connection.provider.meanwhile = hold
    held, found = connection.held(), []
    first = threading.Thread(target=lambda: found.append(wiring.token_refresher().fresh(held)))
    first.start()
    assert asked.wait(30)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        go.set()
        first.join()

    second = a_refresher(sleep=pause).fresh(held)
    first.join()

    assert pauses == [0.1]
    assert access(second) == access(found[0]) == connection.stored()["access_token"]
    assert second.renewed
    assert len(connection.provider.asked) == 1


@pytest.mark.parametrize(("lives", "waited_s"), [(SOON, 2.0), (-SOON, 12.0)], ids=["holds", "ended"])
def test_waiting_ends_with_the_old_token_if_it_holds_and_with_no_blame_if_not(
    client: Client, stack: Stack, provider: Provider, lives: timedelta, waited_s: float
) -> None:
    connection = Connection(client, stack, provider, lives=lives)
    held, pauses = connection.held(), []
    wiring.token_refresher()._store.claim_refresh(connection.user_id, connection.id, 1, 60)  # and dies

    fresh = a_refresher(sleep=pauses.append).fresh(held)

    assert sum(pauses) == pytest.approx(waited_s)
    assert len(pauses) < 20
    assert (fresh.failure and fresh.failure.verdict) == (None if lives > timedelta(0) else Verdict.TIMEOUT)
    assert fresh.target == held.target
    assert provider.asked == []
