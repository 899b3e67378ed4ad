"""Who wraps data keys, and what a wrapped key is bound to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from uuid import UUID

DATA_KEY_BYTES = 32


class KeyProvider(Protocol):
    """Makes and unwraps data keys under a key of its own. Safe to share between threads.

    A wrapped key is base64 text that says which key wrapped it, and opens only with the context it was made with.
    Raises ``KeyMissing`` when the wrapping key is not there any more, ``SealError`` when the wrapped text or the
    context is wrong, and ``Unavailable`` when nobody can tell right now.
    """

    @property
    def name(self) -> str:
        """``kms`` or ``local``."""

    def generate(self, context: Mapping[str, str]) -> tuple[bytes, str]:
        """A new data key: 32 bytes of plaintext, and the wrapped text to store."""

    def unwrap(self, wrapped: str, context: Mapping[str, str]) -> bytes:
        """The 32 bytes behind a wrapped text."""

    def rewrap(self, wrapped: str, context: Mapping[str, str]) -> str:
        """The same data key under the current wrapping key; the same text if it is under that key already."""


def encryption_context(*, app: str, environment: str, user_id: UUID, key_id: UUID) -> dict[str, str]:
    """What a wrapped data key is bound to. ``user_id`` comes from the request, never from the key's row."""
    return {
        "app": app,
        "env": environment,
        "purpose": "credential",
        "user_id": str(user_id),
        "key_id": str(key_id),
    }
