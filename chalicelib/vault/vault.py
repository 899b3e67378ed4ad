"""The vault: one data key per user, one sealed text per credential."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chalicelib.errors import Invalid, KeyMissing, SealError
from chalicelib.model import Binding, DataKey, Secret
from chalicelib.vault import sealing
from chalicelib.vault.cache import KeyCache
from chalicelib.vault.keys import KeyProvider, encryption_context
from chalicelib.vault.observed import ObservedKeys

NO_DATA_KEY = "The key of this stored credential is gone. Save the credential again."


class Vault:
    """Seals and opens credentials. Safe to share between threads; one per process, so that the key cache works.

    It blocks while a data key is unwrapped: an event loop calls it in a thread.
    """

    def __init__(
        self, provider: KeyProvider, *, app: str, environment: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._provider = ObservedKeys(provider, clock)
        self._app = app
        self._environment = environment
        self._domain = sealing.domain_of(app, environment)
        self._cache = KeyCache(clock)

    @property
    def unwraps(self) -> int:
        """How often the key provider was asked to unwrap a key so far, with or without success."""
        return self._cache.loads

    def ping(self) -> None:
        """Raise ``Unavailable`` if the key provider failed when last asked, a minute ago at most. Asks nobody."""
        self._provider.require()

    def new_key(self, user_id: UUID) -> DataKey:
        """A data key for a user who has none yet, or who gets a fresh one. Raises ``Unavailable``."""
        key_id = uuid4()
        plaintext, wrapped = self._provider.generate(self._context(user_id, key_id))
        key = DataKey(key_id, user_id, wrapped)
        self._cache.put(key, plaintext)
        return key

    def rewrap(self, key: DataKey) -> DataKey:
        """The same data key under the provider's current wrapping key; equal to ``key`` if it is there already."""
        return DataKey(key.id, key.user_id, self._provider.rewrap(key.wrapped, self._context(key.user_id, key.id)))

    def seal(self, secret: Secret, binding: Binding, key: DataKey) -> str:
        """The text for ``encrypted_value``. The row must get ``binding.row_version`` in the same statement.

        Raises ``Invalid`` for a value that is no storable text, ``KeyMissing``, ``SealError`` or ``Unavailable`` when
        the data key cannot be had.
        """
        if key.user_id != binding.user_id:
            raise ValueError("the data key belongs to another user")
        plaintext = _utf8(secret)
        cipher = self._cipher(key, binding.user_id)
        return b64encode(sealing.seal_bytes(plaintext, cipher, key.id, binding, self._domain)).decode()

    def open(self, sealed: object, binding: Binding, keys: Mapping[UUID, DataKey] | Iterable[DataKey]) -> Secret:
        """The secret behind ``encrypted_value``; ``keys`` are the owner's data keys (others' do no harm).

        Raises ``SealError`` (``StaleVersion``, ``KeyMissing``) when it does not open, whatever was stored there, and
        ``Unavailable`` when the data key is not cached and the key service does not answer.
        """
        parsed = sealing.parse(sealed)
        key = _find(keys, parsed.key_id)
        if key is None:
            raise KeyMissing(NO_DATA_KEY)
        if key.user_id != binding.user_id:
            raise SealError
        plaintext = sealing.open_bytes(parsed, self._cipher(key, binding.user_id), binding, self._domain)
        return Secret(plaintext.decode())

    def _cipher(self, key: DataKey, user_id: UUID) -> AESGCM:
        return self._cache.get(key, lambda: self._provider.unwrap(key.wrapped, self._context(user_id, key.id)))

    def _context(self, user_id: UUID, key_id: UUID) -> dict[str, str]:
        return encryption_context(app=self._app, environment=self._environment, user_id=user_id, key_id=key_id)


def _find(keys: Mapping[UUID, DataKey] | Iterable[DataKey], key_id: UUID) -> DataKey | None:
    if isinstance(keys, Mapping):
        return keys.get(key_id)
    return next((key for key in keys if key.id == key_id), None)


def _utf8(secret: Secret) -> bytes:
    """Bytes to seal. The error is raised outside ``except``: a UnicodeEncodeError carries the whole text with it."""
    plaintext: bytes | None = None
    with suppress(UnicodeEncodeError):
        plaintext = secret.reveal().encode()
    if plaintext is None or len(plaintext) > sealing.MAX_SECRET_BYTES:
        raise Invalid("A credential must be text of at most 64 KiB.")
    return plaintext
