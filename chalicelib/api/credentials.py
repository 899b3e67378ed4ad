"""Credentials of an integration. Values go in; only what is known about them comes out."""

from __future__ import annotations

from uuid import UUID

from chalicelib import wiring
from chalicelib.api.answers import CredentialList, CredentialMetadata
from chalicelib.api.edge import Api
from chalicelib.api.models import PutCredential
from chalicelib.api.tokens import Caller

api = Api()


@api.get("/integrations/{integration_id}/credentials", answers=CredentialList)
def list_credentials(caller: Caller, integration_id: UUID) -> object:
    """What is stored, never a value"""
    return wiring.integrations(caller).get_credentials(integration_id)


@api.put("/integrations/{integration_id}/credentials/{credential_type}", answers=CredentialMetadata, problems=(409,))
def put_credential(caller: Caller, integration_id: UUID, credential_type: str, body: PutCredential) -> object:
    """Store or replace a credential, at once"""
    return wiring.integrations(caller).store_credential(integration_id, credential_type, body.value, body.expires_at)


@api.delete("/integrations/{integration_id}/credentials/{credential_type}")
def delete_credential(caller: Caller, integration_id: UUID, credential_type: str) -> None:
    """Forget a credential"""
    wiring.integrations(caller).delete_credential(integration_id, credential_type)
