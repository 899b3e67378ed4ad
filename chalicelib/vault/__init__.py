"""Sealing and opening credentials (``security.md`` §3).

``vault.Vault`` is the way in. A key provider wraps the data keys: KMS when deployed, a key file on one's own machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chalicelib.settings import Settings
    from chalicelib.vault.keys import KeyProvider


def provider_from(settings: Settings) -> KeyProvider:
    """The key provider that the settings name. Nothing is contacted or written until a key is asked for."""
    if settings.kms_key_id is not None:
        from chalicelib.vault.kms import KmsKeys

        return KmsKeys(settings.kms_key_id, settings.kms_endpoint_url, settings.kms_previous_key_ids)
    from chalicelib.vault.local import LocalKeys

    return LocalKeys(settings.local_key_file)


def add_local_key(settings: Settings) -> None:
    """Put a fresh key first in the local key file. Raises ``BadSettings`` where KMS is in use."""
    from chalicelib.settings import BadSettings
    from chalicelib.vault.local import LocalKeys

    if not settings.local_key_file:
        raise BadSettings(["LOCAL_KEY_FILE is not set: a new local key has nowhere to go"])
    LocalKeys(settings.local_key_file).add_key()
