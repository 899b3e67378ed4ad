"""What people paste into a credential form, freshly made, and what the inspection says to it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from chalicelib.errors import Invalid
from chalicelib.model import AuthMethod, Secret
from chalicelib.vault.inspection import inspect_credentials

DAY = timedelta(days=1)
PASSPHRASE = "a passphrase, ünicode"
RSA_KEY = rsa.generate_private_key(65537, 2048)
PRIVATE_KEYS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "rsa": RSA_KEY,
}
FORMATS = {
    "pkcs8": PrivateFormat.PKCS8,
    "traditional": PrivateFormat.TraditionalOpenSSL,
    "openssh": PrivateFormat.OpenSSH,
}


def pem(key, form=PrivateFormat.PKCS8, passphrase: str | None = None) -> str:
    lock = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, form, lock).decode()


def certificate(key, *, ends: timedelta = 30 * DAY, name: str = "client") -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC).replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 400 * DAY)
        .not_valid_after(now + ends)
    )
    return builder.sign(RSA_KEY, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def token(**claims) -> str:
    return jwt.encode(claims, "k" * 32, algorithm="HS256")


def inspect(method: str, stored=(), **values: str):
    named = {kind.replace("__", "."): Secret(value) for kind, value in values.items()}
    return inspect_credentials(AuthMethod(method), named, stored=stored)


def problems(method: str, stored=(), **values: str) -> dict[str, str]:
    """What is wrong by field; checks that no line of any value is repeated, in texts or in causes."""
    with pytest.raises(Invalid) as caught:
        inspect(method, stored, **values)
    error = caught.value
    shown = f"{error!r} {error.errors}"
    for value in values.values():
        for line in value.split("\n"):
            assert len(line) < 8 or line not in shown
    assert error.__cause__ is None
    assert error.__context__ is None
    return dict(error.errors)


def refusals(method: str, **values: str) -> set[str]:
    """The fields found wrong, if any."""
    try:
        inspect(method, **values)
    except Invalid as refused:
        return {field for field, _ in refused.errors}
    return set()


def halved(text: str) -> str:
    """A PEM file that lost its middle."""
    lines = text.split("\n")
    return "\n".join(lines[:3] + lines[-2:])
