"""What happened to an integration: logs, single checks, and their summary."""

from __future__ import annotations

from uuid import UUID

from chalicelib import wiring
from chalicelib.api.answers import HealthMetricList, HealthSummary, LogList
from chalicelib.api.edge import Api
from chalicelib.api.models import LogsQuery, PageQuery, WindowQuery
from chalicelib.api.paging import after, page, scope_of
from chalicelib.api.tokens import Caller

api = Api()


@api.get("/integrations/{integration_id}/logs", answers=LogList)
def list_logs(caller: Caller, integration_id: UUID, query: LogsQuery) -> object:
    """Events, newest first"""
    scope = scope_of("logs", query, integration_id)
    found = wiring.integrations(caller).get_integration_logs(
        integration_id, event_type=query.event_type, after=after(query, scope), limit=query.limit
    )
    return page(found, scope)


@api.get("/integrations/{integration_id}/health", answers=HealthMetricList)
def list_health(caller: Caller, integration_id: UUID, query: PageQuery) -> object:
    """Single checks, newest first"""
    scope = scope_of("health", query, integration_id)
    found = wiring.integrations(caller).get_health_metrics(integration_id, after=after(query, scope), limit=query.limit)
    return page(found, scope)


@api.get("/integrations/{integration_id}/health/summary", answers=HealthSummary)
def get_health_summary(caller: Caller, integration_id: UUID, query: WindowQuery) -> object:
    """Success rate and response times over a window"""
    return wiring.integrations(caller).get_health_summary(integration_id, query.window)
