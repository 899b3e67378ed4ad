"""Certificates as a matter of health: client contexts for mutual TLS, and the days that a certificate has left."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from chalicelib.model import Secret, Target
from chalicelib.probes.private_keys import unlocked, unusable


def client_context(target: Target) -> ssl.SSLContext | None:
    """A context of this target's own, with its client certificate and authority; None if it has neither.

    Raises :class:`Finding`, ``misconfigured``, naming the credential that cannot be used. The key never touches a
    disk where the system has anonymous memory files.
    """
    secrets = target.secrets
    if not (secrets.get("client_certificate") or secrets.get("ca_certificate")):
        return None
    import httpx2

    context: ssl.SSLContext = httpx2.create_ssl_context(trust_env=False)
    if secrets.get("ca_certificate"):
        _trust(context, secrets["ca_certificate"])
    if secrets.get("client_certificate"):
        _present(context, secrets)
    return context


def _trust(context: ssl.SSLContext, authority: Secret) -> None:
    try:
        context.load_verify_locations(cadata=authority.reveal())
    except (ssl.SSLError, ValueError):
        raise unusable("ca_certificate", "is not a certificate in PEM form") from None


def _present(context: ssl.SSLContext, secrets: Mapping[str, Secret]) -> None:
    certificate = secrets["client_certificate"]
    _check_certificate(certificate)
    key = unlocked(secrets, "client_key")
    try:
        with _memory_file(certificate) as certificate_path, _memory_file(key) as key_path:
            context.load_cert_chain(certificate_path, key_path)
    except (ssl.SSLError, OSError, ValueError):
        raise unusable("client_key", "does not belong to 'client_certificate'") from None


def _check_certificate(pem: Secret) -> None:
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(pem.reveal().encode())
    except (ValueError, x509.InvalidVersion):
        raise unusable("client_certificate", "is not a certificate in PEM form") from None
    if certificate.not_valid_after_utc < datetime.now(UTC):
        raise unusable("client_certificate", "has expired")


@contextmanager
def _memory_file(text: Secret) -> Iterator[str]:
    """A path that OpenSSL can read for as long as the block lasts; the file has no name on any disk."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, text.reveal().encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def lifetimes(server_der: bytes | None, target: Target) -> dict[str, Any] | None:
    """``{"server": {"expires_at", "days_left"}, "client": …}`` of the certificates that took part, or None."""
    client = target.secrets.get("client_certificate")
    found = {
        "server": _lifetime(server_der) if server_der else None,
        "client": _lifetime(client.reveal().encode()) if client else None,
    }
    return {name: lifetime for name, lifetime in found.items() if lifetime} or None


def _lifetime(data: bytes) -> dict[str, Any] | None:
    from cryptography import x509

    try:
        load = x509.load_pem_x509_certificate if data.lstrip().startswith(b"-") else x509.load_der_x509_certificate
        ends = load(data).not_valid_after_utc
    except (ValueError, x509.InvalidVersion):
        return None
    left = (ends - datetime.now(UTC)).total_seconds()
    return {"expires_at": ends.isoformat().replace("+00:00", "Z"), "days_left": int(left // 86_400)}
