"""A user's integrations."""

from __future__ import annotations

from uuid import UUID

from chalicelib import wiring
from chalicelib.api.answers import Integration, IntegrationList, NotSaved, Overview, TestedIntegration, UpdatedOrNot
from chalicelib.api.edge import Api
from chalicelib.api.models import CreateIntegration, IntegrationsQuery, UpdateIntegration, WindowQuery
from chalicelib.api.paging import after, filters_of, page, scope_of
from chalicelib.api.routes import Reply
from chalicelib.api.tokens import Caller
from chalicelib.services.drafts import Idempotency

api = Api()


@api.get("/integrations", answers=IntegrationList)
def list_integrations(caller: Caller, query: IntegrationsQuery) -> object:
    """Own integrations, with their health of 24 hours, and counts of all"""
    scope = scope_of("integrations", query, caller.user_id)
    found = wiring.integrations(caller).get_user_integrations(
        filters_of(query), after=after(query, scope), limit=query.limit
    )
    return page(found, scope)


@api.get("/integrations/overview", answers=Overview)
def get_overview(caller: Caller, query: WindowQuery) -> object:
    """All own integrations at once"""
    return wiring.integrations(caller).get_overview(query.window)


@api.post("/integrations", answers={201: TestedIntegration, 200: NotSaved}, problems=(404, 409, 429))
def create_integration(caller: Caller, body: CreateIntegration, idempotency: Idempotency | None) -> object:
    """Store an integration, tested first if asked

    With `"test": "required"` it is stored only if the verdict is ok; else the answer is 200 and nothing is kept.
    """
    made = wiring.integrations(caller).create_user_integration(body.as_draft(), idempotency)
    return Reply(200 if made.get("saved") is False else 201, made)


@api.get("/integrations/{integration_id}", answers=Integration)
def get_integration(caller: Caller, integration_id: UUID) -> object:
    """One integration"""
    return wiring.integrations(caller).get_user_integration_by_id(integration_id)


@api.patch("/integrations/{integration_id}", answers=UpdatedOrNot, problems=(409, 429))
def update_integration(caller: Caller, integration_id: UUID, body: UpdateIntegration) -> object:
    """Change what is given

    A change of destination needs the credentials again: 409 `credentials_bound_elsewhere` names them.
    """
    return wiring.integrations(caller).update_user_integration(integration_id, body.as_change())


@api.delete("/integrations/{integration_id}")
def delete_integration(caller: Caller, integration_id: UUID) -> None:
    """Delete an integration, and its credentials, metrics and logs with it"""
    wiring.integrations(caller).delete_user_integration(integration_id)
