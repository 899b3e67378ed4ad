"""OAuth tokens in the sweep: renewed before they end, and when they are refused before their time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from chalicelib.errors import Unavailable
from chalicelib.model import CheckResult, IssuedTokens, Secret, Target, Verdict
from chalicelib.services.token_refresh import Grant, TokenRefresher
from chalicelib.store.token_refreshes import TokenRefreshStore
from tests.peers.field import Field
from tests.support import rows
from tests.support.sweeping import World

TYPE = '{"auth": {"oauth": {"token_url": "https://auth.example.com/token"}}}'
IN_A_YEAR = datetime.now(UTC) + timedelta(days=365)


class Provider:
    """The token endpoint: gives ``issued``, and remembers which refresh tokens it was shown."""

    def __init__(self, issued: str | CheckResult = "new") -> None:
        self.issued = issued
        self.shown: list[str] = []

    def __call__(self, target: Target, grant: Grant) -> IssuedTokens | CheckResult:
        self.shown.append(target.secrets["refresh_token"].reveal())
        if isinstance(self.issued, CheckResult):
            return self.issued
        return IssuedTokens(Secret(self.issued), Secret("next"), IN_A_YEAR)

    def renewer(self, world: World) -> TokenRefresher:
        return TokenRefresher(store=TokenRefreshStore(world.supabase), vault=world.vault(), ask=self)


def signed_in(world: World, url: str, token: str, ends: timedelta) -> str:
    kind = rows.add_type(world.db, type="vendor", definition=TYPE)
    (mine,) = world.add(url, kind=kind, auth_method="oauth")
    world.save(mine, token, "access_token", expires_at=datetime.now(UTC) + ends)
    world.save(mine, "once", "refresh_token")
    return mine


def test_a_token_that_ends_soon_is_renewed_before_the_check(world: World, servers: Field) -> None:
    mine = signed_in(world, servers.at("/bearer/new"), "old", timedelta(minutes=5))
    provider = Provider()

    world.sweep(tokens=provider.renewer(world))
    world.make_due([mine])
    world.sweep(tokens=provider.renewer(world))

    assert provider.shown == ["once"]
    assert rows.column(world.db, "select verdict from integration_health_metrics") == ["ok", "ok"]
    assert world.row(mine)["next_expiry_at"] is None  # it renews itself: nothing for its owner to see to


def test_a_token_that_holds_is_left_alone(world: World, servers: Field) -> None:
    mine = signed_in(world, servers.at("/bearer/old"), "old", timedelta(hours=2))
    provider = Provider()

    world.sweep(tokens=provider.renewer(world))

    assert (provider.shown, world.verdicts([mine])) == ([], ["ok"])


def test_a_token_that_is_refused_before_its_time_is_renewed_and_tried_once_more(world: World, servers: Field) -> None:
    mine = signed_in(world, servers.at("/bearer/new"), "revoked", timedelta(hours=2))
    provider = Provider()

    world.sweep(tokens=provider.renewer(world))

    assert (provider.shown, world.verdicts([mine])) == (["once"], ["ok"])
    assert world.metrics() == {mine: 1}
    assert servers.asked == {"/bearer/new": 2}


def test_a_sign_in_that_is_over_needs_its_owner(world: World, servers: Field) -> None:
    mine = signed_in(world, servers.at("/bearer/new"), "old", timedelta(minutes=-5))
    over = CheckResult(Verdict.NEEDS_REAUTH, 0, "Sign in again.", datetime.now(UTC))

    world.sweep(tokens=Provider(over).renewer(world))

    assert (world.row(mine)["last_verdict"], world.row(mine)["status"]) == ("needs_reauth", "error")
    assert servers.asked == {}


def test_a_token_endpoint_that_is_down_blames_nobody(world: World, servers: Field) -> None:
    mine = signed_in(world, servers.at("/bearer/new"), "old", timedelta(minutes=-5))
    down = CheckResult(Verdict.PROVIDER_DOWN, 0, "Try again later.", datetime.now(UTC))

    world.sweep(tokens=Provider(down).renewer(world))

    assert (world.row(mine)["last_verdict"], world.row(mine)["status"]) == ("provider_down", "connected")


def test_where_nobody_can_tell_the_token_the_check_is_left_for_later(world: World, servers: Field) -> None:
    signed_in(world, servers.at("/bearer/new"), "old", timedelta(minutes=5))

    class Away(TokenRefreshStore):
        def claim_refresh(self, *_: object) -> None:  # type: ignore[override]
            raise Unavailable("The database is away.")

    tokens = TokenRefresher(store=Away(world.supabase), vault=world.vault(), ask=Provider())
    summary = world.sweep(tokens=tokens)

    assert (summary.checked, summary.postponed) == (0, 1)


def test_a_renewal_that_might_not_be_through_in_time_is_not_begun(world: World, servers: Field) -> None:
    """A refresh token is often good for one use: cut off in the middle, it would be lost."""
    mine = signed_in(world, servers.at("/bearer/new"), "old", timedelta(minutes=5))
    refused = signed_in(world, servers.at("/bearer/other"), "revoked", timedelta(hours=2))
    others = [signed_in(world, servers.at(path), "held", timedelta(hours=2)) for path in ("/bearer/held", "/503")]
    provider = Provider()

    summary = world.sweep(tokens=provider.renewer(world), budget_s=20.0)

    assert (provider.shown, summary.checked, summary.postponed) == ([], 2, 2)
    assert world.verdicts([mine, refused, *others]) == [None, None, "ok", "provider_down"]
