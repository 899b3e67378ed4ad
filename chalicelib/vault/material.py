"""Reading keys, certificates and tokens that people paste. No refusal repeats a part of the value.

What a stranger may send is bounded before it is believed: OpenSSL checks an 8192-bit RSA key for seconds, and a file
may ask for any number of key derivation rounds. So RSA numbers are checked here by arithmetic instead of by primality
tests, and the rounds are read before a passphrase is tried.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from math import prod

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
MAX_PRIVATE_KEY_CHARS = 16_384
#: ssh-keygen's default is 24, OpenSSL's 2,048, and for scrypt N·r·p is 2¹⁷; careful people multiply that by some tens.
MAX_BCRYPT_ROUNDS = 256
MAX_PBKDF2_ROUNDS = 2_000_000
MAX_SCRYPT_COST = 2**20

_PRIVATE_BLOCK = re.compile(r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----\s(.+?)\s-----END \1PRIVATE KEY-----", re.DOTALL)
_PEM_HEADERS = re.compile(r"\s*Proc-Type: 4,ENCRYPTED\s+DEK-Info: [A-Z0-9,-]+\s")
_HOST_KEY = re.compile(r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]+={0,2}( [^\r\n]*)?")
_OPENSSH_MAGIC = b"openssh-key-v1\0"
_SCRYPT_OID = bytes.fromhex("06092b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11
_UNREADABLE = "is not a private key in PEM or OpenSSH form, or it is damaged"
_UNSUPPORTED = "is of a kind that is not supported: use an RSA, ECDSA or Ed25519 key"


class Unusable(Exception):
    """What is wrong with a value and what to do, in words that follow its name. Never repeats the value."""


def read_private_key(text: str, passphrase: str | None, *, if_locked: str = "save it without one") -> PrivateKey:
    """The key of a PEM (PKCS#8, PKCS#1, SEC1) or OpenSSH private key file.

    Raises :class:`Unusable`; ``if_locked`` is the advice for a key whose passphrase is not given.
    """
    block = _private_block(text)
    label, body = block.groups()
    der = _binary(body)
    if label == "OPENSSH ":
        encrypted = der.startswith(_OPENSSH_MAGIC) and not der.startswith(_OPENSSH_MAGIC + b"\0\0\0\4none")
    else:
        encrypted = label == "ENCRYPTED " or bool(_PEM_HEADERS.match(body))
    if encrypted and not passphrase:
        raise Unusable(f"has a passphrase: {if_locked}")
    if passphrase and not encrypted:
        raise Unusable("has no passphrase: leave the passphrase out")
    if encrypted and _derivation_is_excessive(label, der):
        raise Unusable("asks for too many key derivation rounds: save it again with the usual number")
    return _usable(_load(label, block.group(), passphrase, der))


def _private_block(text: str) -> re.Match[str]:
    """The one private key block. Only this is handed on, so that what was looked at is what is loaded."""
    if text.startswith("PuTTY-User-Key-File"):
        raise Unusable("is in PuTTY's format: export it as an OpenSSH key in PuTTYgen")
    blocks = list(_PRIVATE_BLOCK.finditer(text)) if len(text) <= MAX_PRIVATE_KEY_CHARS else []
    if len(blocks) == 1:
        return blocks[0]
    if "-----BEGIN CERTIFICATE-----" in text:
        raise Unusable("is a certificate: paste the private key that belongs to it")
    if "PUBLIC KEY-----" in text or text.startswith(("ssh-", "ecdsa-")):
        raise Unusable("is the public half: paste the private key file")
    raise Unusable(_UNREADABLE)


def _load(label: str, block: str, passphrase: str | None, der: bytes) -> PrivateKeyTypes:
    openssh = label == "OPENSSH "
    if openssh and b"\0\0\0\7ssh-dss" in der:
        raise Unusable(_UNSUPPORTED)
    load = load_ssh_private_key if openssh else load_pem_private_key
    password = None if passphrase is None else passphrase.encode()
    try:
        return load(block.encode(), password, unsafe_skip_rsa_key_validation=True)
    except (UnsupportedAlgorithm, NotImplementedError):  # the second is cryptography's for a compressed point
        raise Unusable(_UNSUPPORTED) from None
    except Exception:  # a parser under hostile input: whatever it raises, this is no key
        raise Unusable("does not open with this passphrase, or it is damaged" if passphrase else _UNREADABLE) from None


def _usable(key: PrivateKeyTypes) -> PrivateKey:
    if isinstance(key, rsa.RSAPrivateKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise Unusable(f"is an RSA key of {key.key_size} bits: use {MIN_RSA_BITS} to {MAX_RSA_BITS}")
        if not _adds_up(key.private_numbers()):
            raise Unusable(_UNREADABLE)
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return key
    raise Unusable(_UNSUPPORTED)


def _adds_up(key: rsa.RSAPrivateNumbers) -> bool:
    beyond_one = key.public_numbers.e * key.d - 1
    return key.p * key.q == key.public_numbers.n and beyond_one % (key.p - 1) == 0 and beyond_one % (key.q - 1) == 0


def _derivation_is_excessive(label: str, der: bytes) -> bool:
    """Whether opening the key would cost more than anybody needs. What is unreadable passes: loading refuses it."""
    if label == "OPENSSH ":
        options = _third_string(der[len(_OPENSSH_MAGIC) :])
        return int.from_bytes(options[-4:], "big") > MAX_BCRYPT_ROUNDS
    numbers = list(_integers(der)) if label == "ENCRYPTED " else []
    if _SCRYPT_OID in der and prod(numbers[:3]) > MAX_SCRYPT_COST:
        return True
    return max(numbers, default=0) > MAX_PBKDF2_ROUNDS


def _third_string(data: bytes) -> bytes:
    """Of the length-prefixed strings at the start of an OpenSSH key (cipher, KDF, KDF options), the third."""
    for _ in range(2):
        data = data[4 + int.from_bytes(data[:4], "big") :]
    return data[4 : 4 + int.from_bytes(data[:4], "big")]


def _integers(der: bytes) -> Iterator[int]:
    """Every INTEGER of a DER text at any depth of SEQUENCE. Strings, ciphertext included, are stepped over."""
    at = 0
    while at + 2 <= len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length > 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        if tag == 0x02:
            yield int.from_bytes(der[at : at + length], "big")
        if tag != 0x30:
            at += length


def _binary(body: str) -> bytes:
    """What the base64 lines of a block say, past the headers of old PEM files."""
    lines = re.sub(r"\s", "", _PEM_HEADERS.sub("", body, count=1))
    try:
        return b64decode(lines, validate=True)
    except ValueError:
        raise Unusable(_UNREADABLE) from None


def read_certificates(text: str) -> list[x509.Certificate]:
    """The certificates of a PEM file, leaf first. Raises :class:`Unusable` if there is none or one is damaged."""
    with suppress(Exception):  # as above
        return x509.load_pem_x509_certificates(text.encode())
    if "PRIVATE KEY-----" in text:
        raise Unusable("is a private key: paste the certificate here and the key as client_key")
    raise Unusable("is not a certificate in PEM form, or it is damaged")


def client_certificate_expiry(text: str) -> datetime:
    """When the first certificate of the chain ends. Raises :class:`Unusable` also if that is past."""
    expires_at = min(certificate.not_valid_after_utc for certificate in read_certificates(text))
    return _not_past(expires_at, "expired", "save a new one")


def ca_certificate_expiry(text: str) -> datetime:
    """When the last of the trusted certificates ends. Raises :class:`Unusable` also if that is past."""
    expires_at = max(certificate.not_valid_after_utc for certificate in read_certificates(text))
    return _not_past(expires_at, "expired", "save the current one")


def belong_together(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Whether the certificate was issued for this key."""
    with suppress(Exception):  # the key inside the certificate may be of any kind, or rubbish
        return _spki(certificate.public_key()) == _spki(key.public_key())
    return False


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def read_host_key(text: str) -> None:
    """Check an SSH host key, one line of ``type base64 comment``. Raises :class:`Unusable`."""
    line = text.strip()
    if _HOST_KEY.fullmatch(line):
        with suppress(Exception):  # as above
            load_ssh_public_key(line.encode())
            return
    raise Unusable("is not an SSH public key: paste its line without the host name, such as 'ssh-ed25519 AAAA…'")


def token_expiry(text: str) -> datetime | None:
    """The ``exp`` of a JWT, None if it has none. The signature is the far side's to judge. Raises :class:`Unusable`."""
    claims = None
    with suppress(Exception):  # as above
        claims = jwt.decode(text, options={"verify_signature": False})
    if claims is None or text.count(".") != 2:
        raise Unusable("is not a JWT: it must have three parts, with dots between them")
    expires = claims.get("exp")
    if expires is None:
        return None
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not 0 < expires < 253_402_300_799:
        raise Unusable("has an exp that is no time: ask its issuer for a new one")
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=expires)


def current_token_expiry(text: str) -> datetime | None:
    """Like :func:`token_expiry`; raises :class:`Unusable` also if the token is no longer valid."""
    expires_at = token_expiry(text)
    return None if expires_at is None else _not_past(expires_at, "expired", "save a fresh one")


def _not_past(moment: datetime, what: str, advice: str) -> datetime:
    if moment <= datetime.now(UTC):
        raise Unusable(f"{what} on {moment:%Y-%m-%d}: {advice}")
    return moment
