"""Data keys wrapped by a key file, for one's own machine.

A wrapped key is base64 of ``L1 | id of the wrapping key 16 | nonce 12 | data key 32 | tag 16``: AES-256-GCM with the
context as associated data. The file may hold several keys, newest first: the first one wraps, all unwrap.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chalicelib.errors import KeyMissing, SealError, Unavailable
from chalicelib.settings import BadSettings
from chalicelib.vault.keys import DATA_KEY_BYTES
from chalicelib.vault.sealing import NONCE_BYTES, TAG_BYTES, strict_base64

KEY_LOST = (
    "The local key file does not hold the key that protects this credential: the file that LOCAL_KEY_FILE names was "
    "lost or replaced. Put the old file back, or save the credential again."
)
FILE_EXPOSED = "The local key file can be read by other users of this machine. Run chmod 600 on LOCAL_KEY_FILE."
FILE_DAMAGED = "The local key file is damaged. Restore LOCAL_KEY_FILE from a copy; nothing was sealed or opened."
FILE_UNUSABLE = "The local key file cannot be read or written. Check LOCAL_KEY_FILE and its folder."
_NOTE = "Without this file nothing that was sealed with it can be read. Keep a copy, show it to nobody."
_MAGIC = b"L1"
_NONCE_AT = len(_MAGIC) + 16
_LENGTH = _NONCE_AT + NONCE_BYTES + DATA_KEY_BYTES + TAG_BYTES


class LocalKeys:
    """The ``KeyProvider`` of local runs. Refused on Lambda, whose disk forgets.

    The file is made, whole and with mode 0600, when the first data key is asked for; unwrapping never makes one.
    """

    name = "local"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if os.environ.get("AWS_LAMBDA_FUNCTION_NAME"):
            raise BadSettings(["LOCAL_KEY_FILE is refused on Lambda: set KMS_KEY_ID instead"])
        self._path = Path(path)

    def generate(self, context: Mapping[str, str]) -> tuple[bytes, str]:
        plaintext = os.urandom(DATA_KEY_BYTES)
        return plaintext, self._wrap(plaintext, context)

    def unwrap(self, wrapped: str, context: Mapping[str, str]) -> bytes:
        raw = strict_base64(wrapped)
        if raw is None or len(raw) < len(_MAGIC):
            raise SealError
        if raw[: len(_MAGIC)] != _MAGIC:
            raise KeyMissing("This credential was not sealed with the local key file in use here. Save it again.")
        if len(raw) != _LENGTH:
            raise SealError
        key = self._read().get(UUID(bytes=raw[len(_MAGIC) : _NONCE_AT]))
        if key is None:
            raise KeyMissing(KEY_LOST)
        body_at = _NONCE_AT + NONCE_BYTES
        try:
            return AESGCM(key).decrypt(raw[_NONCE_AT:body_at], raw[body_at:], _associated(context))
        except InvalidTag:
            raise SealError from None

    def rewrap(self, wrapped: str, context: Mapping[str, str]) -> str:
        plaintext = self.unwrap(wrapped, context)
        raw = strict_base64(wrapped) or b""
        newest = next(iter(self._read()), None)
        if newest is not None and raw[len(_MAGIC) : _NONCE_AT] == newest.bytes:
            return wrapped
        return self._wrap(plaintext, context)

    def add_key(self) -> None:
        """Put a fresh key first in the file (made if there is none); the older ones stay, to unwrap."""
        with self._exclusive():
            self._write({uuid4(): os.urandom(DATA_KEY_BYTES), **self._read()})

    def _wrap(self, plaintext: bytes, context: Mapping[str, str]) -> str:
        key_id, key = next(iter((self._read() or self._made()).items()))
        nonce = os.urandom(NONCE_BYTES)
        body = AESGCM(key).encrypt(nonce, plaintext, _associated(context))
        return b64encode(_MAGIC + key_id.bytes + nonce + body).decode()

    def _made(self) -> dict[UUID, bytes]:
        with self._exclusive():
            if not self._read():
                self._write({uuid4(): os.urandom(DATA_KEY_BYTES)})
            return self._read()

    def _read(self) -> dict[UUID, bytes]:
        """Every key, newest first; none if there is no file. Read anew each time: the vault caches what comes of it."""
        try:
            with self._path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Unavailable(FILE_UNUSABLE) from error
        if stat.S_IMODE(mode) & 0o077:
            raise Unavailable(FILE_EXPOSED)
        keys = _parse(text)
        if not keys:
            raise Unavailable(FILE_DAMAGED)
        return keys

    def _write(self, keys: Mapping[UUID, bytes]) -> None:
        """The whole file or nothing, whenever the power goes: written beside, synced, then renamed."""
        content = {"note": _NOTE, "keys": [{"id": str(i), "key": b64encode(k).decode()} for i, k in keys.items()]}
        beside = self._path.with_name(f".{self._path.name}.{uuid4().hex}")
        try:
            with open(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        finally:
            beside.unlink(missing_ok=True)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One writer at a time among processes, by a lock on the folder; also turns the system's errors into ours."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                yield
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise Unavailable(FILE_UNUSABLE) from error


def _parse(text: bytes) -> dict[UUID, bytes]:
    """The keys of a file, or nothing if any part of it is not as we wrote it."""
    try:
        keys = {UUID(entry["id"]): strict_base64(entry["key"]) or b"" for entry in json.loads(text)["keys"]}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return keys if all(len(key) == DATA_KEY_BYTES for key in keys.values()) else {}


def _associated(context: Mapping[str, str]) -> bytes:
    return json.dumps(dict(context), sort_keys=True, separators=(",", ":")).encode()
