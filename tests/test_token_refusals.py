"""What a token endpoint's refusals, outages and client credentials make of a connection, and a token that was refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from chalice.test import Client

from chalicelib import wiring
from chalicelib.model import CheckResult, Secret, Target, Verdict
from chalicelib.services.token_refresh import Held
from tests.peers.oauth import Provider
from tests.peers.targets import a_target
from tests.support.app import app_client, environment
from tests.support.signed_in import SOON, Connection, access
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


OUTAGES = [
    (503, {}, Verdict.PROVIDER_DOWN),
    (500, {"error": "invalid_grant"}, Verdict.PROVIDER_DOWN),
    (429, {}, Verdict.RATE_LIMITED),
    (400, {"error": "temporarily_unavailable"}, Verdict.PROVIDER_DOWN),
    (200, {"_raw": "<html>"}, Verdict.PROTOCOL),
    (302, {"_headers": {"Location": "https://example.com/"}}, Verdict.PROTOCOL),
]


@pytest.mark.parametrize(("status", "body", "verdict"), OUTAGES, ids=lambda value: str(value)[:20])
def test_an_outage_discards_no_token_and_blames_nobody(
    client: Client, stack: Stack, provider: Provider, status: int, body: dict[str, Any], verdict: Verdict
) -> None:
    for lives in (SOON, -SOON):
        connection = Connection(client, stack, provider, lives=lives)
        provider.planned = [(status, body)]
        before = connection.stored()

        fresh = wiring.token_refresher().fresh(connection.held())

        told = fresh.failure and fresh.failure.verdict
        assert told == (None if lives > timedelta(0) else verdict)
        assert fresh.target.secrets["access_token"].reveal() == before["access_token"]
        assert connection.stored() == before
        assert wiring.token_refresher().fresh(connection.held()).renewed  # at once, when the provider is back


@pytest.mark.parametrize("lives", [SOON, -SOON], ids=str)
def test_the_end_of_a_sign_in_is_told_at_once_and_keeps_what_is_stored(
    client: Client, stack: Stack, provider: Provider, lives: timedelta
) -> None:
    connection = Connection(client, stack, provider, lives=lives)
    provider.sign_ins[0].revoked = True
    before = connection.stored()

    fresh = wiring.token_refresher().fresh(connection.held())

    assert fresh.failure is not None
    assert fresh.failure.verdict is Verdict.NEEDS_REAUTH
    assert "Sign in again" in (fresh.failure.error_message or "")
    assert connection.stored() == before


def test_a_client_without_a_sign_in_renews_its_own_token(client: Client, stack: Stack, provider: Provider) -> None:
    old = provider.sign_in()[0]
    for given in ({"access_token": old}, {"header.X-Tenant": "acme"}):
        connection = Connection(client, stack, provider, **given)
        fresh = wiring.token_refresher().fresh(connection.held())

        assert access(fresh) == connection.stored()["access_token"] != old
        assert provider.asked[-1].fields["grant_type"] == "client_credentials"
        assert "refresh_token" not in connection.stored()
    assert fresh.target.secrets["header.X-Tenant"] == Secret("acme")


def test_a_persons_token_is_not_replaced_by_one_of_the_app_itself(
    client: Client, stack: Stack, provider: Provider
) -> None:
    """Where people sign in, client credentials are those of the app: another account, or none."""
    connection = Connection(client, stack, provider, access_token=provider.sign_in()[0])
    held = connection.held()
    oauth = {"token_url": provider.token_url, "authorize_url": "https://login.example/authorize"}
    type = replace(held.target.type, definition={"auth": {"oauth": oauth}})
    people = replace(held, target=replace(held.target, type=type))

    assert not wiring.token_refresher().is_due(people)
    assert wiring.token_refresher().fresh(people).target == people.target
    # The sweep's rows do not say who gave a token: the claim does.
    unsure = replace(people, rows=[{name: row[name] for name in row if name != "issued"} for row in people.rows])
    assert wiring.token_refresher().is_due(unsure)
    assert access(wiring.token_refresher().fresh(unsure)) == held.target.secrets["access_token"].reveal()
    assert provider.asked == []


class Checks:
    """What the API itself says to the token, and which tokens it was shown."""

    def __init__(self, provider: Provider, ms: int = 3) -> None:
        self._provider, self._ms = provider, ms
        self.shown: list[str] = []

    def __call__(self, target: Target) -> CheckResult:
        token = target.secrets["access_token"].reveal()
        self.shown.append(token)
        good = self._provider.answer_api(f"Bearer {token}")[0] == 200
        return CheckResult(Verdict.OK if good else Verdict.NEEDS_REAUTH, self._ms, None, datetime.now(UTC))


def checked(held: Held, checks: Checks) -> CheckResult:
    return wiring.token_refresher().checked(held, checks)


def test_a_refused_token_is_renewed_and_checked_once_more(client: Client, stack: Stack, provider: Provider) -> None:
    connection = Connection(client, stack, provider, lives=None)
    provider.sign_ins[0].access_tokens.clear()
    checks = Checks(provider)
    old = connection.stored()["access_token"]

    assert checked(connection.held(), checks).verdict is Verdict.OK
    assert checks.shown == [old, connection.stored()["access_token"]]


def test_a_refused_token_that_was_renewed_just_before_is_not_renewed_again(connection: Connection) -> None:
    checks = Checks(connection.provider)
    connection.provider.expires_in = -1  # its tokens are dead at birth

    assert checked(connection.held(), checks).verdict is Verdict.NEEDS_REAUTH
    assert checked(connection.held(), checks).verdict is Verdict.NEEDS_REAUTH
    assert (len(checks.shown), len(connection.provider.asked)) == (2, 1)


def test_a_refused_token_blames_nobody_while_the_token_endpoint_is_down(
    client: Client, stack: Stack, provider: Provider
) -> None:
    connection = Connection(client, stack, provider, lives=None)
    provider.sign_ins[0].access_tokens.clear()
    provider.planned = [(503, {})]

    assert checked(connection.held(), Checks(provider)).verdict is Verdict.PROVIDER_DOWN


def test_a_refused_token_stays_refused_without_a_way_to_renew_it(
    client: Client, stack: Stack, provider: Provider
) -> None:
    connection = Connection(client, stack, provider, lives=None, access_token="of-nobody", client_secret="")

    assert checked(connection.held(), Checks(provider)).verdict is Verdict.NEEDS_REAUTH
    assert provider.asked == []


def test_a_token_that_was_refused_late_is_left_at_that(client: Client, stack: Stack, provider: Provider) -> None:
    connection = Connection(client, stack, provider, lives=None)
    provider.sign_ins[0].access_tokens.clear()

    assert checked(connection.held(), Checks(provider, ms=5_001)).verdict is Verdict.NEEDS_REAUTH
    assert provider.asked == []


def test_a_token_whose_sign_in_is_over_is_not_shown_to_the_api(
    client: Client, stack: Stack, provider: Provider
) -> None:
    connection = Connection(client, stack, provider, lives=-SOON)
    provider.sign_ins[0].revoked = True
    checks = Checks(provider)

    assert "Sign in again" in (checked(connection.held(), checks).error_message or "")
    assert checks.shown == []


def test_no_refresh_token_is_spent_on_a_form(provider: Provider, client: Client) -> None:
    config = {"api_url": provider.api_url, "token_url": provider.token_url}
    target = a_target("vendor", config, method="oauth", secrets={"refresh_token": provider.sign_in()[1]})

    result = wiring.token_refresher().checked_as_typed(target, Checks(provider))

    assert (result.verdict, provider.asked) == (Verdict.MISCONFIGURED, [])
    assert "then test it" in (result.error_message or "")
