"""Connecting and testing. A far side that refuses is a finding, answered with 200 and a verdict."""

from __future__ import annotations

from uuid import UUID

from chalicelib import wiring
from chalicelib.api.answers import Integration, TestedIntegration, TestResult
from chalicelib.api.edge import Api
from chalicelib.api.models import TestDraft
from chalicelib.api.tokens import Caller

api = Api()


@api.post("/integrations/{integration_id}/connect", answers=TestedIntegration, problems=(409, 429))
def connect_integration(caller: Caller, integration_id: UUID) -> object:
    """Check it; on success it is connected and watched from now on"""
    return wiring.integrations(caller).connect_integration(integration_id)


@api.post("/integrations/{integration_id}/disconnect", answers=Integration)
def disconnect_integration(caller: Caller, integration_id: UUID) -> object:
    """Stop watching it; credentials stay"""
    return wiring.integrations(caller).disconnect_integration(integration_id)


@api.post("/integrations/{integration_id}/test", answers=TestResult, problems=(409, 429))
def test_integration(caller: Caller, integration_id: UUID) -> object:
    """Check it now; the result is recorded as metric, log and status"""
    return wiring.integrations(caller).test_connection(integration_id)


@api.post("/integrations/test", answers=TestResult, problems=(404, 409, 429))
def test_form(caller: Caller, body: TestDraft) -> object:
    """Check a form that is not saved; nothing is stored

    With `integration_id`, secrets that were not typed are the stored ones, if the destination is the same.
    """
    return wiring.integrations(caller).test_draft(body.as_draft())
