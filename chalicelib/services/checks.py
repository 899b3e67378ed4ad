"""A check from stored rows to a stored result; shared by a person's test and the sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from chalicelib.errors import Invalid
from chalicelib.model import CheckResult, IntegrationType, Source, Step, Verdict
from chalicelib.services.capability_changes import changes
from chalicelib.services.endpoints import endpoint_of
from chalicelib.services.ports import Json
from chalicelib.services.schedule import next_check_at

Intent = Literal["connect", "test", "sweep"]


def unreadable_credentials(credential_types: Sequence[str]) -> CheckResult:
    """The result when stored credentials do not open for where the configuration leads now. Nothing was sent."""
    names = ", ".join(credential_types)
    return CheckResult(
        verdict=Verdict.MISCONFIGURED,
        response_time_ms=0,
        error_message=(
            f"These credentials were saved for another destination or can no longer be read: {names}. "
            "Save them again for the address that this integration has now."
        ),
        checked_at=datetime.now(UTC),
        steps=(Step("policy", False, 0, f"save again: {names}"),),
    )


def is_command(type: IntegrationType, config: Mapping[str, Any]) -> bool:
    """Whether checking this means running a command, which is no part of a hosted sweep (``security.md`` §5)."""
    try:
        return endpoint_of(type, config).kind == "stdio"
    except Invalid:
        return False


def result_row(
    integration_id: UUID,
    result: CheckResult,
    *,
    source: Source,
    intent: Intent,
    failures_before: int,
    old_capabilities: Mapping[str, Any] | None,
    interval_s: int,
    backoff_cap_s: int,
    config_version: int | None = None,
    lease_token: str | None = None,
    scheduled: bool = True,
    incident: bool = False,
) -> Json:
    """The form in which the database records a result (``private.apply_results``).

    With ``scheduled`` false it names no next check: the integration is on no schedule, or does not come on it.
    ``incident``: its vendor was known to be in trouble.
    """
    due = next_check_at(
        integration_id,
        result,
        failures_before,
        interval_s=interval_s,
        backoff_cap_s=backoff_cap_s,
        incident=incident,
    )
    shown = result.as_json()
    return {
        "user_integration_id": str(integration_id),
        "source": source.value,
        "intent": intent,
        "config_version": config_version,
        "lease_token": lease_token,
        "checked_at": shown["checked_at"],
        "response_time_ms": result.response_time_ms,
        "success": result.success,
        "verdict": result.verdict.value,
        "error_message": result.error_message,
        "next_check_at": due.isoformat() if scheduled else None,
        "steps": shown["steps"],
        "capabilities": shown["capabilities"],
        "capability_changes": changes(old_capabilities, result.capabilities) if result.capabilities else None,
        "shown": shown,
    }
