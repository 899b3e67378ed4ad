"""What answers look like. Unknown members are dropped, so that a new column of a table is never shown by accident."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, RootModel

from chalicelib.api.models import Window
from chalicelib.model import AuthMethod, Source, Status, Verdict


class Answer(BaseModel):
    """Made from mappings or from attributes of our own values."""

    model_config = ConfigDict(from_attributes=True, hide_input_in_errors=True, defer_build=True)


class FieldError(Answer):
    field: str
    message: str


class Problem(Answer):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] | None = None
    credential_types: list[str] | None = Field(None, description="Of credentials_bound_elsewhere: what to give again")


class Health(Answer):
    status: Literal["ok", "degraded"]
    checks: dict[str, Any]


class JsonDocument(RootModel[dict[str, Any]]):
    """A JSON object of any shape."""

    model_config = ConfigDict(hide_input_in_errors=True, defer_build=True)


class IntegrationTypeSummary(Answer):
    id: UUID
    slug: str
    name: str
    type: Literal["mcp", "vendor", "custom"]
    category: str
    description: str
    icon_type: str | None = None
    tags: list[str] = []
    auth_methods: list[AuthMethod] = []
    source: str = "custom"


class FormField(Answer):
    """A field of a type's form, in the order to show it."""

    name: str
    goes_to: Literal["connection_config", "credentials"] = Field(
        "connection_config", description="Where to send it; env.NAME of a config is the member NAME of env"
    )
    auth_method: AuthMethod | None = Field(
        None, description="Of a credential: the method that it belongs to; without it, it belongs to each of them"
    )
    label: str
    help: str | None = None
    where: str | None = Field(None, description="The page that tells where to find the value")
    example: Any = Field(None, description="How a value looks, in the type of the field")
    pattern: str | None = None
    secret: bool = False
    required: bool = False
    type: str | None = Field(None, description="boolean, integer, array or object; text if absent")
    choices: list[str] | None = None
    default: Any = None
    when: dict[str, list[str]] | None = Field(None, description="Show it only while these settings have these values")


class IntegrationTypeDetail(IntegrationTypeSummary):
    config_schema: dict[str, Any]
    fields: list[FormField] = []
    protocols: list[str] = Field([], description="Those that this deployment allows; none: it cannot connect here")
    docs: dict[str, str] = Field({}, description="Pages to read on: developer, key")
    status_page: str | None = None
    verified: dict[str, str] | None = Field(None, description="The page that the facts were read from, and the day")


class IntegrationTypeList(Answer):
    items: list[IntegrationTypeSummary]
    next_cursor: str | None = None


class CheckStep(Answer):
    name: str
    ok: bool
    ms: int
    detail: str | None = None


class TestResult(Answer):
    """A vendor that refuses a key is a finding, not an error."""

    __test__ = False  # not a test case, whatever pytest may think of the name

    success: bool
    verdict: Verdict
    response_time_ms: int
    error_message: str | None = None
    capabilities: dict[str, Any] | None = None
    steps: list[CheckStep]
    checked_at: AwareDatetime


class TypeOfIntegration(Answer):
    slug: str
    name: str
    type: str
    category: str
    icon_type: str | None = None


class HealthCell(Answer):
    # Text as the database wrote it: a list of 50 has 1,200 of these, and reading them as moments is most of its cost.
    at: str = Field(json_schema_extra={"format": "date-time"})
    checks: int
    failures: int


class ListedIntegration(Answer):
    id: UUID
    name: str
    integration_type: TypeOfIntegration
    auth_method: AuthMethod
    connection_config: dict[str, Any]
    status: Status
    is_connected: bool
    last_tested_at: AwareDatetime | None = None
    last_error: str | None = None
    connected_at: AwareDatetime | None = None
    created_at: AwareDatetime
    updated_at: AwareDatetime
    last_verdict: Verdict | None = None
    last_success_at: AwareDatetime | None = None
    failing_since: AwareDatetime | None = None
    next_check_at: AwareDatetime | None = None
    next_expiry_at: AwareDatetime | None = None
    capabilities_changed_at: AwareDatetime | None = None
    incident: dict[str, Any] | None = None
    recent: list[HealthCell] = Field([], description="24 hours, oldest first")


class CredentialMetadata(Answer):
    """Never the value; ``hint`` is its end, where it is long enough to tell nothing."""

    credential_type: str
    hint: str | None = None
    destination: str | None = None
    expires_at: AwareDatetime | None = None
    last_rotated_at: AwareDatetime
    created_at: AwareDatetime


class Integration(ListedIntegration):
    capabilities: dict[str, Any] | None = None
    credentials: list[CredentialMetadata] = []


class TestedIntegration(Integration):
    """``test_result`` is null unless a test was asked for."""

    __test__ = False

    test_result: TestResult | None = None


class NotSaved(Answer):
    """What ``"test": "required"`` answers when the test failed: nothing was kept."""

    saved: Literal[False] = False
    test_result: TestResult


class UpdatedOrNot(RootModel[TestedIntegration | NotSaved]):
    """The integration as it is now; or, if ``"test": "required"`` failed, as it was not saved."""

    model_config = ConfigDict(hide_input_in_errors=True, defer_build=True)


class Counts(Answer):
    status: dict[Status, int]
    verdict: dict[Verdict, int]


class IntegrationList(Answer):
    items: list[ListedIntegration]
    next_cursor: str | None = None
    counts: Counts


class LogEntry(Answer):
    id: UUID
    event_type: str
    message: str
    metadata: dict[str, Any]
    created_at: AwareDatetime


class LogList(Answer):
    items: list[LogEntry]
    next_cursor: str | None = None


class HealthMetric(Answer):
    id: UUID
    response_time_ms: int
    success: bool
    verdict: Verdict
    error_message: str | None = None
    source: Source
    checked_at: AwareDatetime


class HealthMetricList(Answer):
    items: list[HealthMetric]
    next_cursor: str | None = None


class ResponseTimes(Answer):
    avg: float | None = None
    p50: int | None = None
    p95: int | None = None
    max: int | None = None


class HealthPoint(HealthCell):
    p50: int | None = None
    p95: int | None = None


class HealthSummary(Answer):
    window: Window
    checks: int
    success_rate: float | None = Field(None, description="From 0 to 1; null without checks")
    response_time_ms: ResponseTimes
    last_success_at: AwareDatetime | None = None
    failing_since: AwareDatetime | None = None
    series: list[HealthPoint]


class OverallTimes(Answer):
    avg: float | None = None
    max: int | None = None


class ChangedIntegration(Answer):
    integration_id: UUID
    name: str
    status: Status
    last_verdict: Verdict | None = None
    at: AwareDatetime


class ExpiringIntegration(Answer):
    integration_id: UUID
    name: str
    next_expiry_at: AwareDatetime


class Overview(Answer):
    """All own integrations at once."""

    window: Window
    counts: Counts
    checks: int
    success_rate: float | None = None
    response_time_ms: OverallTimes
    changed: list[ChangedIntegration]
    expiring: list[ExpiringIntegration]
    incidents: list[dict[str, Any]]


class CredentialList(Answer):
    items: list[CredentialMetadata]
