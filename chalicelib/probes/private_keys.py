"""Private keys as their owners saved them, opened with their passphrases."""

from __future__ import annotations

from collections.abc import Mapping

from chalicelib.model import Secret, Verdict
from chalicelib.probes.verdicts import Finding


def unlocked(secrets: Mapping[str, Secret], name: str) -> Secret:
    """The key saved as ``name`` in plain PEM (PKCS#8), opened with ``<name>_passphrase`` if it needs one.

    Raises :class:`Finding`, ``misconfigured``, also for a key that asks for more rounds of key derivation than anybody
    needs: those allowed may take seconds.
    """
    # Loaded on first use: few connections have a private key.
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from chalicelib.vault import material

    text, passphrase = secrets[name].reveal(), secrets.get(f"{name}_passphrase")
    try:
        try:
            key = material.read_private_key(text, None, if_locked=f"save its passphrase as '{name}_passphrase'")
        except material.Unusable:
            if not passphrase:
                raise
            key = material.read_private_key(text, passphrase.reveal())
    except material.Unusable as unusable_key:
        raise unusable(name, str(unusable_key)) from None
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def unusable(credential: str, why: str) -> Finding:
    """``why`` follows the credential's name: what is wrong with it, and what to do if that is more than saving it."""
    return Finding(
        Verdict.MISCONFIGURED,
        "policy",
        f"Before connecting: the credential '{credential}' {why}. Save it again.",
        detail=f"{credential} cannot be used",
    )
