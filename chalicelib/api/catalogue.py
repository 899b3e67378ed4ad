"""What can be connected. Open to everybody."""

from __future__ import annotations

from chalicelib import wiring
from chalicelib.api.answers import IntegrationTypeDetail, IntegrationTypeList
from chalicelib.api.edge import Api
from chalicelib.api.models import TypesQuery
from chalicelib.api.paging import after, filters_of, page, scope_of
from chalicelib.services.forms import with_form

api = Api()


@api.get("/integration-types", answers=IntegrationTypeList, open=True, etag=True, problems=(503,))
def list_integration_types(query: TypesQuery) -> object:
    """The integration types, best match for `q` first"""
    scope = scope_of("types", query)
    found = wiring.catalogue().get_all_integration_types(
        **filters_of(query), after=after(query, scope), limit=query.limit
    )
    return page(found, scope)


@api.get("/integration-types/{slug}", answers=IntegrationTypeDetail, open=True, etag=True, problems=(503,))
def get_integration_type(slug: str) -> object:
    """One integration type, with all that its form needs"""
    return with_form(wiring.catalogue().get_integration_type_by_slug(slug), wiring.settings().mcp_stdio)
