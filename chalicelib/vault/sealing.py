"""The sealed format, version 1. Pure: bytes in, bytes out.

    0x01 | alg 0x01 | key id 16 | nonce 12 | ciphertext | tag 16

``alg`` 1 is AES-256-GCM. The nonce is 96 random bits per value: with one key per user, nobody comes near the 2³² values
after which random nonces of one key become a worry (NIST SP 800-38D §8.3). The associated data ties a value to its
environment, owner, row, type, destination and row version: moved or rolled back, it does not open.

What it cannot notice: the *whole* row, version and ciphertext together, put back to an older state by somebody who can
write to the database. Only a second place that remembers versions could.
"""

from __future__ import annotations

import binascii
import os
from base64 import b64decode, b64encode
from typing import NamedTuple
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chalicelib.errors import SealError, StaleVersion
from chalicelib.model import Binding

MAX_SECRET_BYTES = 65_536
NONCE_BYTES = 12
TAG_BYTES = 16
_HEAD = b"\x01\x01"
_BODY_AT = len(_HEAD) + 16 + NONCE_BYTES
_SHORTEST = _BODY_AT + TAG_BYTES
_LONGEST_TEXT = 4 * ((_SHORTEST + MAX_SECRET_BYTES + 2) // 3)
#: How far back a row version is looked for, to tell a rollback from other damage.
_VERSIONS_BACK = 8


class Sealed(NamedTuple):
    """A sealed value taken apart; nothing in it has been checked yet."""

    key_id: UUID
    nonce: bytes
    body: bytes


def seal_bytes(plaintext: bytes, cipher: AESGCM, key_id: UUID, binding: Binding, domain: bytes) -> bytes:
    """Seal under a fresh random nonce. ``domain`` is :func:`domain_of` this deployment."""
    nonce = os.urandom(NONCE_BYTES)
    associated = _associated_data(domain, key_id, binding) + _version(binding.row_version)
    return _HEAD + key_id.bytes + nonce + cipher.encrypt(nonce, plaintext, associated)


def open_bytes(sealed: Sealed, cipher: AESGCM, binding: Binding, domain: bytes) -> bytes:
    """The plaintext. Raises ``StaleVersion`` for an older value of the same row, else ``SealError``."""
    associated = _associated_data(domain, sealed.key_id, binding)
    plaintext = _decrypt(cipher, sealed, associated + _version(binding.row_version))
    if plaintext is not None:
        return plaintext
    for older in range(binding.row_version - 1, max(0, binding.row_version - 1 - _VERSIONS_BACK), -1):
        if _decrypt(cipher, sealed, associated + _version(older)) is not None:
            raise StaleVersion
    raise SealError


def parse(sealed: object) -> Sealed:
    """Take a stored text apart. Raises ``SealError`` for anything that is not the one known format."""
    if not isinstance(sealed, str) or len(sealed) > _LONGEST_TEXT:
        raise SealError
    raw = strict_base64(sealed)
    if raw is None or len(raw) < _SHORTEST or raw[: len(_HEAD)] != _HEAD:
        raise SealError
    return Sealed(UUID(bytes=raw[2:18]), raw[18:_BODY_AT], raw[_BODY_AT:])


def domain_of(app: str, environment: str) -> bytes:
    """The part of the associated data that is the same for every value of a deployment."""
    return _field(f"{app}.credential.v1".encode()) + _field(environment.encode()) + _field(_HEAD[1:])


def strict_base64(text: str) -> bytes | None:
    """The bytes of canonical base64, or None. Bits that a lax decoder would ignore make a text non-canonical."""
    try:
        raw = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if b64encode(raw).decode() == text else None


def _decrypt(cipher: AESGCM, sealed: Sealed, associated: bytes) -> bytes | None:
    try:
        return cipher.decrypt(sealed.nonce, sealed.body, associated)
    except InvalidTag:
        return None


def _associated_data(domain: bytes, key_id: UUID, binding: Binding) -> bytes:
    """All but the row version, each part behind its length, so that no two bindings share one encoding."""
    return b"".join(
        (
            domain,
            _field(key_id.bytes),
            _field(binding.user_id.bytes),
            _field(binding.integration_id.bytes),
            _field(binding.credential_id.bytes),
            # Never fails, whatever the configuration held: a check must end in a verdict.
            _field(binding.credential_type.encode("utf-8", "surrogatepass")),
            _field(binding.destination.encode("utf-8", "surrogatepass")),
        )
    )


def _field(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _version(row_version: int) -> bytes:
    return _field(row_version.to_bytes(8, "big"))
