"""Pages of lists: a cursor in, the service's key out, and the same the other way round."""

from __future__ import annotations

from typing import Any

from chalicelib import wiring
from chalicelib.api import cursors
from chalicelib.api.models import PageQuery
from chalicelib.services.ports import Json


def filters_of(query: PageQuery) -> dict[str, Any]:
    """The query's parameters but for those that only say which page."""
    given = query.model_dump(mode="json", exclude_none=True)
    return {name: value for name, value in given.items() if name not in ("limit", "cursor")}


def after(query: PageQuery, scope: str) -> list[Any] | None:
    """Where the page before ended. Raises ``BadRequest`` for a cursor of another list."""
    return None if query.cursor is None else cursors.decode(query.cursor, scope, wiring.edge_key())


def page(found: Json, scope: str) -> Json:
    """The service's answer with a cursor instead of a key."""
    key = found.pop("next", None)
    return found | {"next_cursor": None if key is None else cursors.encode(key, scope, wiring.edge_key())}


def scope_of(name: str, query: PageQuery, owner: object = "") -> str:
    """A cursor fits one list of one owner with the same filters only."""
    return f"{name}|{owner}|{sorted(filters_of(query).items())}"
