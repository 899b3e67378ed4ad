"""Opaque cursors: where a page of a list ended, signed so that nobody can make one up."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any

from chalicelib.errors import BadRequest
from chalicelib.model import Secret

MAX_CURSOR = 1024
_TAG_BYTES = 16


def derive_key(service_secret: Secret) -> bytes:
    """The edge's own key: an HMAC of the service secret, from which the secret cannot be found."""
    return hmac.digest(service_secret.reveal().encode(), b"integrations: edge v1", hashlib.sha256)


def encode(values: Sequence[str | int | float | bool | None], scope: str, key: bytes) -> str:
    """A cursor that :func:`decode` turns back into ``values`` for the same ``scope``: the list, its owner and filters.

    Raises ``ValueError`` for values too long to come back.
    """
    payload = json.dumps(list(values), separators=(",", ":"), ensure_ascii=False).encode()
    text = urlsafe_b64encode(_tag(payload, scope, key) + payload).rstrip(b"=").decode()
    if len(text) > MAX_CURSOR:
        raise ValueError("these values are too long for a cursor")
    return text


def decode(text: str, scope: str, key: bytes) -> list[Any]:
    """The values of a cursor. Raises :class:`BadRequest` for one that was tampered with or belongs to another list."""
    sealed = _sealed(text)
    tag, payload = sealed[:_TAG_BYTES], sealed[_TAG_BYTES:]
    if not hmac.compare_digest(tag, _tag(payload, scope, key)):
        raise _bad_cursor()
    values: list[Any] = json.loads(payload)
    return values


def _sealed(text: str) -> bytes:
    if len(text) > MAX_CURSOR or not text.isascii():
        raise _bad_cursor()
    try:
        sealed = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise _bad_cursor() from None
    # Several texts decode to the same bytes; only the one that we gave out counts.
    if urlsafe_b64encode(sealed).rstrip(b"=").decode() != text:
        raise _bad_cursor()
    return sealed


def _tag(payload: bytes, scope: str, key: bytes) -> bytes:
    named = scope.encode()
    signed = b"cursor" + len(named).to_bytes(4, "big") + named + payload
    return hmac.digest(key, signed, hashlib.sha256)[:_TAG_BYTES]


def _bad_cursor() -> BadRequest:
    return BadRequest("This cursor does not belong to this list. Start again without it.", code="bad_cursor")
