"""The signing keys that Supabase publishes: fetched within bounds, cached, and kept through outages.

PyJWT's own ``PyJWKClient`` reads a reply of any length for any time, and forgets its keys when they expire during an
outage; hence this one. Parsing and checking keys is PyJWT's.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from chalicelib.errors import Unavailable

LIFESPAN_S = 300  # a key that was withdrawn is honoured this long at most while the endpoint answers
COOLDOWN_S = 30  # between two fetches that unknown key ids or failures ask for
COLD_RETRY_S = 1  # the same, while there are no keys at all
STALE_S = 24 * 3600  # known keys are served this long while the endpoint fails
TIMEOUT_S = 3.0  # for the whole fetch, name resolution included
MAX_BYTES = 64 * 1024
MAX_KEYS = 20
MAX_KID = 128

#: The one algorithm for each kind of key, whatever a token's header says.
ALGORITHMS = {"EC": "ES256", "RSA": "RS256"}


class BadKeySet(Exception):
    """The endpoint gave nothing to verify with. Says no more: the reply is not ours."""


@dataclass(frozen=True)
class _Loaded:
    keys: Mapping[str, PyJWK]
    at: float


class KeySet:
    """Keys by their id. Safe to share between threads; one fetch at a time."""

    # The clock is the wall's: a monotonic one may stand still while Lambda keeps the process frozen.
    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None
        self._tried_at: float | None = None
        self._failed = False

    def key(self, kid: str) -> PyJWK | None:
        """The key of this id; None when the published set has none.

        Raises :class:`Unavailable` when there is no set to ask, or none that is new enough to say no.
        """
        found = self._fresh(kid)
        if found is not None:
            return found
        with self._lock:
            if self._may_try():  # not where the thread before us has just tried
                self._try()
            return self._settle(kid)

    def require(self) -> None:
        """Return if the published set is here and new; else raise :class:`Unavailable`."""
        with self._lock:
            if self._loaded is None or self._age(self._loaded.at) >= LIFESPAN_S:
                if self._may_try():
                    self._try()
                if self._failed or self._loaded is None:
                    raise Unavailable("The keys that sign-ins are checked with cannot be fetched.")

    def _age(self, since: float) -> float:
        age = self._clock() - since
        return age if age >= 0 else float("inf")  # a clock that was set back must not keep keys alive

    def _fresh(self, kid: str) -> PyJWK | None:
        loaded = self._loaded
        return loaded.keys.get(kid) if loaded and self._age(loaded.at) < LIFESPAN_S else None

    def _may_try(self) -> bool:
        pause = COOLDOWN_S if self._loaded else COLD_RETRY_S
        return self._tried_at is None or self._age(self._tried_at) >= pause

    def _try(self) -> None:
        try:
            self._loaded = _Loaded(parse_key_set(_fetch(self._url)), self._clock())
            self._failed = False
        except BadKeySet:
            self._failed = True
        self._tried_at = self._clock()

    def _settle(self, kid: str) -> PyJWK | None:
        if self._loaded is not None and self._age(self._loaded.at) > STALE_S:
            self._loaded = None
        found = self._loaded.keys.get(kid) if self._loaded else None
        # After a failed fetch an unknown id may be a new key: "sign in again" would be a guess.
        if found is None and (self._failed or self._loaded is None):
            raise Unavailable(
                "Sign-in cannot be checked right now. Try again in a few seconds.", code="sign_in_unavailable"
            )
        return found


def parse_key_set(body: bytes) -> dict[str, PyJWK]:
    """The usable keys by id. Raises :class:`BadKeySet` for anything but a small key set with one or more of them."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise BadKeySet from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise BadKeySet
    keys: dict[str, PyJWK] = {}
    for jwk in listed:
        key = _usable(jwk) if isinstance(jwk, dict) else None
        if key is not None and key.key_id is not None:
            keys.setdefault(key.key_id, key)
    if not keys:
        raise BadKeySet
    return keys


def _usable(jwk: dict[str, Any]) -> PyJWK | None:
    kind, kid = jwk.get("kty"), jwk.get("kid")
    algorithm = ALGORITHMS.get(kind) if isinstance(kind, str) else None
    operations = jwk.get("key_ops")
    if (
        algorithm is None
        or jwk.get("alg") not in (None, algorithm)
        or jwk.get("use") not in (None, "sig")
        or not isinstance(kid, str)
        or not 0 < len(kid) <= MAX_KID
        or (operations is not None and not (isinstance(operations, list) and "verify" in operations))
        or "d" in jwk  # a published private key signs for everybody
    ):
        return None
    try:
        return PyJWK(jwk, algorithm)
    except PyJWTError:
        return None


def _fetch(url: str) -> bytes:
    """The body of a 200 answer of at most :data:`MAX_BYTES`, within :data:`TIMEOUT_S`. No redirects, no proxies."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(parts.netloc, timeout=TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
    outcome: SimpleQueue[bytes | None] = SimpleQueue()
    # Socket timeouts are per read, and name resolution has none: only another thread can keep the time.
    threading.Thread(target=lambda: outcome.put(_read(connection, parts.path)), daemon=True).start()
    try:
        body = outcome.get(timeout=TIMEOUT_S)
    except Empty:
        body = None
        sock = connection.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the reader, which then ends
    if body is None:
        raise BadKeySet
    return body


def _read(connection: http.client.HTTPConnection, path: str) -> bytes | None:
    try:
        connection.request("GET", path or "/", headers={"Accept": "application/json"})
        response = connection.getresponse()
        body = response.read(MAX_BYTES + 1)
        return body if response.status == 200 and len(body) <= MAX_BYTES else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
