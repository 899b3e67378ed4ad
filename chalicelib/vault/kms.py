"""Data keys wrapped by AWS KMS.

A wrapped key is base64 of ``K1 | length of ARN, 2 bytes | ARN of the wrapping key | KMS's ciphertext``. The ARN is a
claim, good for counting what is still under an old key and for choosing which configured key to try; the ``KeyId`` that
``Decrypt`` and ``ReEncrypt`` get is always one of the settings, so a key of somebody else's account never unwraps.
"""

from __future__ import annotations

import logging
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chalicelib.errors import AppError, KeyMissing, SealError, Unavailable
from chalicelib.vault.keys import DATA_KEY_BYTES
from chalicelib.vault.sealing import strict_base64

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

KEY_NOT_CONFIGURED = (
    "The KMS key that protects this credential is not configured here. The operator must name it in "
    "KMS_PREVIOUS_KEY_IDS; if it is gone, save the credential again."
)
_MAGIC = b"K1"
_LOG = logging.getLogger(__name__)
#: Proof that the ciphertext or its context is wrong. Everything else that KMS refuses may be mended by the operator.
_DAMAGED = frozenset({"InvalidCiphertextException"})
_OTHER_KEY = frozenset({"IncorrectKeyException"})
_PASSING = frozenset(
    {"ThrottlingException", "LimitExceededException", "KMSInternalException", "DependencyTimeoutException"}
)


class _OtherKey(AppError):
    """Another key wrapped it than the one that was tried."""


class KmsKeys:
    """The ``KeyProvider`` of deployed stages. Keys are ids, ARNs or aliases; the first one wraps, all may unwrap.

    Calls give up after about 6 s at the worst: three attempts, botocore's backoff with full jitter, short timeouts.
    """

    name = "kms"

    def __init__(self, key_id: str, endpoint_url: str | None = None, previous: Sequence[str] = ()) -> None:
        self._keys = (key_id, *previous)
        self._endpoint_url = endpoint_url
        self._lock = threading.Lock()
        self._made: KMSClient | None = None
        self._current_arn = key_id if ":key/" in key_id else None

    def generate(self, context: Mapping[str, str]) -> tuple[bytes, str]:
        with _our_errors("GenerateDataKey"):
            answer = self._client().generate_data_key(
                KeyId=self._keys[0], KeySpec="AES_256", EncryptionContext=dict(context)
            )
        return answer["Plaintext"], _pack(answer["KeyId"], answer["CiphertextBlob"])

    def unwrap(self, wrapped: str, context: Mapping[str, str]) -> bytes:
        arn, blob = _unpack(wrapped)
        for key_id in self._candidates(arn):
            try:
                with _our_errors("Decrypt"):
                    answer = self._client().decrypt(KeyId=key_id, CiphertextBlob=blob, EncryptionContext=dict(context))
            except _OtherKey:
                continue
            if len(answer["Plaintext"]) != DATA_KEY_BYTES:
                raise SealError
            return answer["Plaintext"]
        raise KeyMissing(KEY_NOT_CONFIGURED)

    def rewrap(self, wrapped: str, context: Mapping[str, str]) -> str:
        arn, blob = _unpack(wrapped)
        if arn == self._current_arn:
            return wrapped
        for key_id in self._candidates(arn):
            try:
                with _our_errors("ReEncrypt"):
                    answer = self._client().re_encrypt(
                        CiphertextBlob=blob,
                        SourceKeyId=key_id,
                        SourceEncryptionContext=dict(context),
                        DestinationKeyId=self._keys[0],
                        DestinationEncryptionContext=dict(context),
                    )
            except _OtherKey:
                continue
            self._current_arn = answer["KeyId"]
            return wrapped if arn == answer["KeyId"] else _pack(answer["KeyId"], answer["CiphertextBlob"])
        raise KeyMissing(KEY_NOT_CONFIGURED)

    def _candidates(self, arn: str) -> tuple[str, ...]:
        """The configured key that the ARN names, else every alias: only KMS knows where those point today."""
        for key_id in self._keys:
            if arn == key_id or arn.endswith(f":key/{key_id}"):
                return (key_id,)
        return tuple(key_id for key_id in self._keys if "alias/" in key_id)

    def _client(self) -> KMSClient:
        with self._lock:
            if self._made is None:
                self._made = _new_client(self._keys[0], self._endpoint_url)
            return self._made


def _new_client(key_id: str, endpoint_url: str | None) -> KMSClient:
    from boto3.session import Session
    from botocore.config import Config

    # At DEBUG this logger prints whole answers, and an answer of KMS is a data key in plain.
    logging.getLogger("botocore.parsers").setLevel(logging.INFO)
    config = Config(
        connect_timeout=1,
        read_timeout=2,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=50,
    )
    region = key_id.split(":")[3] if key_id.startswith("arn:") else None
    return Session().client("kms", region_name=region, endpoint_url=endpoint_url, config=config)


@contextmanager
def _our_errors(action: str) -> Iterator[None]:
    """What boto3 raises holds ids and addresses of the operator's, no key material: it stays as the cause, for logs."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise _refused(action, str(error.response.get("Error", {}).get("Code", "unknown"))) from error
    except BotoCoreError as error:
        _LOG.warning("KMS %s failed: %s", action, type(error).__name__)
        raise Unavailable("The key service does not answer. Try again in a moment.") from error


def _refused(action: str, code: str) -> AppError:
    if code in _DAMAGED:
        return SealError()
    if code in _OTHER_KEY:
        return _OtherKey(KEY_NOT_CONFIGURED)
    _LOG.warning("KMS refused %s: %s", action, code)
    if code in _PASSING:
        return Unavailable("The key service is busy. Try again in a moment.")
    return Unavailable("The key service refuses to work. The operator has been told; try again later.", retry_after=30)


def _pack(arn: str, blob: bytes) -> str:
    name = arn.encode()
    return b64encode(_MAGIC + len(name).to_bytes(2, "big") + name + blob).decode()


def _unpack(wrapped: str) -> tuple[str, bytes]:
    raw = strict_base64(wrapped)
    if raw is None or len(raw) < 4:
        raise SealError
    if raw[:2] != _MAGIC:
        raise KeyMissing("This credential was not sealed with KMS, which is in use here. Save it again.")
    end = 4 + int.from_bytes(raw[2:4], "big")
    if end >= len(raw):
        raise SealError
    return raw[4:end].decode("ascii", "replace"), raw[end:]
