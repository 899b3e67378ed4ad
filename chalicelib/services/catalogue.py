"""The integration types, open to everybody."""

from __future__ import annotations

from typing import Any

from chalicelib.services.ports import Json, Types


class CatalogueService:
    """The integration types, open to everybody. Answers are JSON values as `api.md` describes them."""

    def __init__(self, types: Types) -> None:
        self._types = types

    def get_all_integration_types(
        self,
        *,
        type: str | None = None,
        category: str | None = None,
        q: str | None = None,
        after: list[Any] | None = None,
        limit: int = 50,
    ) -> Json:
        """A page of active types, best match for ``q`` first: ``{"items": […], "next": key or None}``."""
        return self._types.list_types({"type": type, "category": category, "q": q}, after, limit)

    def get_integration_types_by_type(self, type: str) -> Json:
        return self.get_all_integration_types(type=type)

    def get_integration_types_by_category(self, category: str) -> Json:
        return self.get_all_integration_types(category=category)

    def get_integration_type_by_slug(self, slug: str) -> Json:
        """Raises ``IntegrationTypeNotFound``."""
        return self._types.get_type(slug)

    def search_integrations(self, q: str) -> Json:
        """What can be connected, by a name or words typed by a person."""
        return self.get_all_integration_types(q=q)
