"""OAuth access tokens are renewed before they end, by one worker at a time.

A worker *claims*: the database leases it the renewal if the access token is still the one it has read and nobody else
holds the lease. It then asks the token endpoint, with no connection and no lock held, and *stores* what it got before
anything else uses it. Whoever comes second reads again until the first is through, and uses what that one stored.

Refresh tokens are often good for one use, and a second use revokes all that came from the same sign-in (RFC 9700
§4.14.2). A lost answer of ``store_refreshed`` is harmless: what is stored is read again, and a repetition changes
nothing. Only this cannot be healed here: a worker that dies, or whose connection breaks, after the provider has used up
the refresh token and before the new one is stored. Some providers forgive a repetition within seconds; with the others,
the owner signs in again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol
from uuid import UUID

from chalicelib.errors import Invalid, Unavailable
from chalicelib.model import BLAMING, AuthMethod, CheckResult, IssuedTokens, Secret, Step, Target, Verdict
from chalicelib.services.checks import unreadable_credentials
from chalicelib.services.credentials import keys_of, open_all, seal_all
from chalicelib.services.endpoints import TOKEN_URL_CREDENTIALS, token_url_of
from chalicelib.services.ports import Check, Json, Sealer

TOKEN_CREDENTIALS = TOKEN_URL_CREDENTIALS | {"access_token"}
EARLY = timedelta(minutes=15)
#: Longer than asking and storing can take together, so that no second worker uses a refresh token that is under way.
LEASE_S = 90
#: A second check that would begin later than this does not fit into one request.
SOON_ENOUGH_MS = 5_000

Grant = Literal["refresh_token", "client_credentials"]


class TokenStore(Protocol):
    """``chalicelib/store/token_refreshes.py``. Both answer ``credentials`` and ``keys``, or None for no integration."""

    def claim_refresh(
        self, user_id: UUID, integration_id: UUID, access_version: int | None, lease_s: int
    ) -> Json | None:
        """``lease_token`` is not None for the one who may renew; ``held``: somebody else is at it (and no rows)."""

    def store_refreshed(self, user_id: UUID, integration_id: UUID, lease_token: str, payload: Json) -> Json | None:
        """Give the lease back, and store the ``credentials`` of ``payload`` whose rows are as they were read."""


class AskForTokens(Protocol):
    """One request to the target's token endpoint (``chalicelib/probes/token_endpoint.py``). Raises nothing."""

    def __call__(self, target: Target, grant: Grant) -> IssuedTokens | CheckResult: ...


@dataclass(frozen=True)
class Held:
    """A stored target of auth method ``oauth``, with the sealed rows that its secrets were opened from.

    ``typed`` are the types whose secrets somebody has just typed instead: they are tried, and not stored here.
    """

    user_id: UUID
    integration_id: UUID
    target: Target
    rows: Sequence[Json]
    typed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fresh:
    """The target to check. ``renewed``: its token is another than before. With ``failure``, it cannot be checked."""

    target: Target
    renewed: bool = False
    failure: CheckResult | None = None


class TokenRefresher:
    """Renews tokens. Blocks while it asks: an event loop calls it in a thread.

    ``patience_s``: how long a worker waits for another who renews the token that it needs. Raises ``Unavailable`` when
    the database or the key service cannot be reached.
    """

    def __init__(
        self,
        *,
        store: TokenStore,
        vault: Sealer,
        ask: AskForTokens,
        patience_s: float = 12.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._vault = vault
        self._ask = ask
        self._patience_s = patience_s
        self._now = now
        self._sleep = sleep

    def checked(self, held: Held, check: Check) -> CheckResult:
        """The check, with a fresh token; and once more if a token was refused that could be renewed."""
        if _tokens_are_typed(held):
            return self.checked_as_typed(held.target, check)
        fresh = self.fresh(held)
        if fresh.failure:
            return fresh.failure
        result = check(fresh.target)
        again = None if fresh.renewed else self.after_refusal(held, result)
        if again is None:
            return result
        return again.failure or check(again.target)

    def checked_as_typed(self, target: Target, check: Check) -> CheckResult:
        """The check of credentials that are not stored: no refresh token is spent on it, since none could be kept."""
        grant = None if "access_token" in target.secrets else _grant(target, target.secrets.keys(), issued=False)
        if grant == "refresh_token":
            return _result(
                Verdict.MISCONFIGURED,
                "policy",
                "Before connecting: there is no access token, and a refresh token is used only once it is saved. "
                "Save this connection without a test, then test it.",
                "access_token is missing",
                self._now(),
            )
        if grant is None:
            return check(target)
        answer = self._ask(target, grant)
        return answer if isinstance(answer, CheckResult) else check(_with(target, access_token=answer.access_token))

    def is_due(self, held: Held) -> bool:
        """Whether the access token ends soon, or is missing, and something can be done about it. Asks nobody."""
        if _grant_of(held, held.rows) is None:
            return False
        access = _row(held.rows, "access_token")
        ends_at = _ends_at(access) if access else self._now()
        return ends_at is not None and ends_at - self._now() <= EARLY

    def fresh(self, held: Held) -> Fresh:
        """What to check with. A token that still holds is used, if nobody says that the sign-in is over."""
        return self._renewed(held, refused=False) if self.is_due(held) else Fresh(held.target)

    def may_help(self, held: Held, result: CheckResult) -> bool:
        """Whether the check refused the token, soon enough to renew it and to check again. Asks nobody."""
        refused = result.verdict in (Verdict.AUTH_REJECTED, Verdict.NEEDS_REAUTH)
        return refused and result.response_time_ms <= SOON_ENOUGH_MS and _grant_of(held, held.rows) is not None

    def after_refusal(self, held: Held, result: CheckResult) -> Fresh | None:
        """What to check with once more after the token was refused; None if there is nothing else to try."""
        if not self.may_help(held, result):
            return None
        fresh = self._renewed(held, refused=True)
        return fresh if fresh.renewed or fresh.failure else None

    def _renewed(self, held: Held, *, refused: bool) -> Fresh:
        """Renew it, or let somebody else do so. ``refused``: the present token is no good whatever its row says."""
        access = _row(held.rows, "access_token")
        usable = access is not None and not refused and self._holds(access)
        found: Json | None = None
        for pause in _pauses(2.0 if usable else self._patience_s):
            found = self._store.claim_refresh(
                held.user_id, held.integration_id, access["row_version"] if access else None, LEASE_S
            )
            if found is None:
                break
            if found["lease_token"] is not None:
                return self._renew(held, found, usable)
            if not found["held"]:
                return self._reopened(held, found)
            self._sleep(pause)
        gone = found is None  # whoever records the result finds that out
        return Fresh(held.target) if usable or gone else Fresh(held.target, failure=self._still_at_it())

    def _renew(self, held: Held, found: Json, usable: bool) -> Fresh:
        """The work of the one who holds the lease."""
        grant = _grant_of(held, found["credentials"])
        try:
            opened = self._reopened(held, found)
            # What comes cannot be had twice, so nothing may be missing to seal it: this unwraps the data key now.
            self._sealed(held, found, {"access_token": Secret("")})
        except Unavailable:
            self._give_back(held, found)
            raise
        if opened.failure or grant is None:
            self._give_back(held, found)
            return opened
        answer = self._ask(opened.target, grant)
        if isinstance(answer, CheckResult):
            return self._without(held, found, opened, answer, usable)
        issued = {"access_token": answer.access_token}
        if grant == "refresh_token" and answer.refresh_token:
            issued["refresh_token"] = answer.refresh_token
        return self._kept(held, found["lease_token"], self._sealed(held, found, issued, answer.expires_at))

    def _give_back(self, held: Held, found: Json) -> Json | None:
        """End the lease with nothing new; the rows as they are now."""
        return self._store.store_refreshed(held.user_id, held.integration_id, found["lease_token"], {})

    def _kept(self, held: Held, lease: str, payload: Json) -> Fresh:
        """Store it, with patience: there is no other copy. A repetition of what was done already changes nothing."""
        for pause in (0.5, 2.0, None):
            try:
                stored = self._store.store_refreshed(held.user_id, held.integration_id, lease, payload)
                return Fresh(held.target) if stored is None else self._reopened(held, stored)
            except Unavailable:
                if pause is None:
                    raise
                self._sleep(pause)
        raise AssertionError("unreachable")

    def _without(self, held: Held, found: Json, opened: Fresh, failure: CheckResult, usable: bool) -> Fresh:
        """Nothing new came. It blames nobody if the tokens were replaced meanwhile, by whomever."""
        after = self._give_back(held, found)
        if after is not None and _versions(after["credentials"]) != _versions(found["credentials"]):
            return self._reopened(held, after)
        tell = failure.verdict in BLAMING or not usable
        return replace(opened, failure=failure) if tell else opened

    def _reopened(self, held: Held, found: Json) -> Fresh:
        """The target with the tokens that are stored now."""
        wanted = TOKEN_CREDENTIALS - held.typed
        rows = [row for row in found["credentials"] if row["credential_type"] in wanted]
        opened, unreadable = open_all(
            rows,
            keys_of(found, held.user_id),
            user_id=held.user_id,
            integration_id=held.integration_id,
            type=held.target.type,
            config=held.target.config,
            vault=self._vault,
        )
        if unreadable:
            return Fresh(held.target, failure=unreadable_credentials(unreadable))
        others = {name: value for name, value in held.target.secrets.items() if name not in wanted}
        target = replace(held.target, secrets={**others, **opened})
        return Fresh(target, renewed=_version(rows) != _version(held.rows))

    def _sealed(
        self, held: Held, found: Json, secrets: Mapping[str, Secret], expires_at: datetime | None = None
    ) -> Json:
        return seal_all(
            secrets,
            {"access_token": expires_at},
            user_id=held.user_id,
            integration_id=held.integration_id,
            type=held.target.type,
            config=held.target.config,
            found=found,
            vault=self._vault,
        )

    def _holds(self, access: Json) -> bool:
        ends_at = _ends_at(access)
        return ends_at is None or ends_at > self._now()

    def _still_at_it(self) -> CheckResult:
        message = "The sign-in is being renewed at the provider, and that takes long. Test again in a minute."
        return _result(Verdict.TIMEOUT, "auth", message, "renewal under way", self._now())


def _tokens_are_typed(held: Held) -> bool:
    tokens = {"access_token", "refresh_token"}
    if held.typed & tokens:
        return True
    return bool(held.typed & TOKEN_URL_CREDENTIALS) and not any(row["credential_type"] in tokens for row in held.rows)


def _grant_of(held: Held, rows: Sequence[Json]) -> Grant | None:
    """How new tokens are got, if they can be."""
    access = _row(rows, "access_token")
    # Rows that do not say who gave the token are no reason to give up yet: the claim's rows say it.
    issued = access is None or bool(access.get("issued", True))
    return _grant(held.target, held.typed | {row["credential_type"] for row in rows}, issued=issued)


def _grant(target: Target, given: Set[str], *, issued: bool) -> Grant | None:
    """``given`` are types of credentials. ``issued``: the access token, if any, came from the token endpoint."""
    try:
        if token_url_of(target.type, target.config) is None:
            return None
    except Invalid:
        return None
    if "refresh_token" in given:
        return "refresh_token"
    # Where people sign in, a token of theirs must not become one of the app itself, who is somebody else there.
    people_sign_in = "authorize_url" in target.type.definition.get("auth", {}).get(AuthMethod.OAUTH, {})
    its_own = "access_token" not in given or issued or not people_sign_in
    return "client_credentials" if its_own and {"client_id", "client_secret"} <= given else None


def _row(rows: Sequence[Json], credential_type: str) -> Json | None:
    return next((row for row in rows if row["credential_type"] == credential_type), None)


def _version(rows: Sequence[Json]) -> int | None:
    access = _row(rows, "access_token")
    return access["row_version"] if access else None


def _versions(rows: Sequence[Json]) -> dict[str, int]:
    return {row["id"]: row["row_version"] for row in rows if row["credential_type"] in TOKEN_CREDENTIALS}


def _ends_at(row: Json) -> datetime | None:
    return datetime.fromisoformat(row["expires_at"]) if row["expires_at"] else None


def _pauses(patience_s: float) -> Iterator[float]:
    """Waiting times that grow to a second and add up to ``patience_s``."""
    pause, left = 0.1, patience_s
    while left > 0:
        yield min(pause, left)
        left -= pause
        pause = min(1.0, pause * 1.6)


def _with(target: Target, **secrets: Secret) -> Target:
    return replace(target, secrets={**target.secrets, **secrets})


def _result(verdict: Verdict, step: str, message: str, detail: str, checked_at: datetime) -> CheckResult:
    return CheckResult(verdict, 0, message, checked_at, (Step(step, False, 0, detail),))
