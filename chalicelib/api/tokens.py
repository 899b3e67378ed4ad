"""Supabase access tokens: who is calling, or a refusal that does not say why (``security.md`` §2)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn
from uuid import UUID

from jwt import PyJWK, PyJWS
from jwt.exceptions import PyJWTError
from jwt.utils import base64url_decode

from chalicelib.api.key_set import MAX_KID, KeySet
from chalicelib.errors import Forbidden, Unauthenticated
from chalicelib.model import Secret

MAX_TOKEN = 8 * 1024
LEEWAY_S = 10
MAX_LIFETIME_S = 7 * 24 * 3600
AUDIENCE = ROLE = "authenticated"

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LARGEST_TIME = 2**53

# Refuses RSA keys below 2048 bits and HS256 secrets below 32 bytes.
_jws = PyJWS(algorithms=["ES256", "RS256", "HS256"], options={"enforce_minimum_key_length": True})


@dataclass(frozen=True)
class Caller:
    """A signed-in user. ``token`` is their own access token, for PostgREST; ``aal`` says whether MFA was passed."""

    user_id: UUID
    token: Secret
    email: str | None = field(default=None, repr=False)
    aal: str | None = None


class _Refused(Exception):
    """Some check failed. Which one stays here."""


class TokenVerifier:
    """Verifies bearer tokens: with the project's published keys or, where a secret is given, with HS256 alone.

    ``issuer_optional`` accepts a missing ``iss`` on the HS256 path (Supabase Lite sends none). Threads may share one.
    """

    def __init__(
        self,
        jwks_url: str,
        issuer: str,
        hs256_secret: Secret | None = None,
        issuer_optional: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuer = issuer
        self._secret = hs256_secret
        self._issuer_optional = issuer_optional and hs256_secret is not None
        self._clock = clock
        self._keys = KeySet(jwks_url, clock)

    def verify(self, authorization: str | None, *, needs_aal2: bool = False) -> Caller:
        """The caller whose token the header holds.

        Raises :class:`Unauthenticated` for every fault of the token, :class:`Unavailable` when there are no keys to
        check it with, :class:`Forbidden` when ``needs_aal2`` and the caller did not pass a second factor.
        """
        try:
            caller = self._verified(_bearer(authorization))
        except (_Refused, PyJWTError, ValueError, RecursionError):
            # The cause may quote the token.
            raise Unauthenticated from None
        if needs_aal2 and caller.aal != "aal2":
            raise Forbidden("Confirm your second factor first.", code="mfa_required")
        return caller

    def ping(self) -> None:
        """Return if tokens can be verified now; else raise :class:`Unavailable`."""
        if self._secret is None:
            self._keys.require()

    def _verified(self, token: str) -> Caller:
        header = _json_object(token.partition(".")[0])
        _check_header(header)
        key, algorithm = self._key_for(header)
        _require(header.get("alg") == algorithm)
        payload = _jws.decode_complete(token, key, [algorithm])["payload"]
        return self._caller(_strict_json(payload), token)

    def _key_for(self, header: dict[str, Any]) -> tuple[PyJWK | str, str]:
        if self._secret is not None:
            return self._secret.reveal(), "HS256"
        kid = header.get("kid")
        key = self._keys.key(kid) if isinstance(kid, str) else None
        if key is None:
            raise _Refused
        return key, key.algorithm_name

    def _caller(self, claims: dict[str, Any], token: str) -> Caller:
        issuer_fits = claims.get("iss") == self._issuer or (self._issuer_optional and "iss" not in claims)
        audience, subject = claims.get("aud"), claims.get("sub")
        _require(issuer_fits)
        _require(AUDIENCE in audience if isinstance(audience, list) else audience == AUDIENCE)
        _require(claims.get("role") == ROLE)
        _require(claims.get("is_anonymous") in (None, False))
        self._check_times(claims)
        if not isinstance(subject, str) or str(UUID(subject)) != subject:
            raise _Refused
        return Caller(UUID(subject), Secret(token), _text(claims.get("email")), _text(claims.get("aal")))

    def _check_times(self, claims: dict[str, Any]) -> None:
        now = self._clock()
        expires, issued = _moment(claims.get("exp")), _moment(claims.get("iat"))
        starts = _moment(claims["nbf"]) if "nbf" in claims else issued
        _require(now < expires + LEEWAY_S)
        _require(max(issued, starts) <= now + LEEWAY_S)
        _require(expires - issued <= MAX_LIFETIME_S)


def _bearer(authorization: str | None) -> str:
    scheme, _, rest = (authorization or "").partition(" ")
    token = rest.strip(" ")
    _require(scheme.lower() == "bearer" and len(token) <= MAX_TOKEN and bool(_COMPACT.fullmatch(token)))
    return token


def _check_header(header: dict[str, Any]) -> None:
    kid = header.get("kid", "")
    _require(isinstance(kid, str) and len(kid) <= MAX_KID)
    _require(header.get("typ", "JWT") == "JWT")
    _require("crit" not in header and "b64" not in header)


def _json_object(segment: str) -> dict[str, Any]:
    return _strict_json(base64url_decode(segment))


def _strict_json(text: bytes) -> dict[str, Any]:
    """One reading only: names that repeat, NaN and the like are refused."""
    value = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    if not isinstance(value, dict):
        raise _Refused
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    _require(len(read) == len(pairs))
    return read


def _moment(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < _LARGEST_TIME:
        raise _Refused
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _require(holds: bool) -> None:
    if not holds:
        raise _Refused


def _refuse(_: str) -> NoReturn:
    raise _Refused
