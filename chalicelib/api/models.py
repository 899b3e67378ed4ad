"""What requests may hold. Validation, presentation and ``/openapi.json`` have these models as their one source."""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from chalicelib.model import AuthMethod, Secret, Status, Verdict
from chalicelib.services.credentials import EARLIEST_EXPIRY, LATEST_EXPIRY
from chalicelib.services.drafts import Change, Draft

MAX_NAME = 100
MAX_CONFIG_BYTES = 32 * 1024
MAX_CONFIG_DEPTH = 8
MAX_CREDENTIALS = 40
MAX_SECRET_BYTES = 64 * 1024
SLUG = r"^[a-z0-9]+(-[a-z0-9]+)*$"
CREDENTIAL_TYPE = r"^([a-z_]+|env\.[A-Za-z_][A-Za-z0-9_]*|header\.[A-Za-z0-9_-]+)$"
EventType = Literal[
    "created", "connected", "disconnected", "tested", "error", "config_updated", "deleted",
    "credential_saved", "credential_deleted", "credential_expiring", "capabilities_changed",
]  # fmt: skip
Window = Literal["24h", "7d", "30d"]

# Marks, embeddings, overrides and isolates: they make a name read as another.
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_DIGITS = re.compile(r"[0-9]{1,9}", re.ASCII)


def refusal(message: str) -> PydanticCustomError:
    """A validation error in our own words (no braces: pydantic would fill them in)."""
    return PydanticCustomError("plain", "{message}", {"message": message})


class _Omittable:
    """None stands for "left out" here; the documentation does not offer null, which nobody may send."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return next(member for member in handler(schema)["anyOf"] if member != {"type": "null"})


class _SecretText:
    """Text that becomes a :class:`Secret` while it is validated."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(_as_secret, core_schema.str_schema(min_length=1))

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "format": "password", "writeOnly": True}


def _as_secret(text: str) -> Secret:
    if len(text.encode()) > MAX_SECRET_BYTES:
        raise refusal(f"Must be {MAX_SECRET_BYTES} bytes or less.")
    return Secret(text)


def _trimmed(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _readable(name: str) -> str:
    if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") or char in _BIDI_CONTROLS for char in name):
        raise refusal("Must not hold control characters or characters that change the direction of text.")
    return name


def _small(config: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [config]
    for _ in range(MAX_CONFIG_DEPTH):
        level = [child for node in level for child in _children(node)]
    if any(isinstance(node, dict | list) for node in level):
        raise refusal(f"Must not be nested deeper than {MAX_CONFIG_DEPTH} levels.")
    if len(json.dumps(config, ensure_ascii=False).encode()) > MAX_CONFIG_BYTES:
        raise refusal(f"Must be {MAX_CONFIG_BYTES} bytes or less.")
    return config


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _in_sane_years(moment: datetime) -> datetime:
    if not EARLIEST_EXPIRY <= moment < LATEST_EXPIRY:
        raise refusal("Must be between the years 2000 and 9000. Leave it out if the credential does not end.")
    return moment


def _one_of_three(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError:
        raise refusal('Must be true, false or "required".') from None


Kind = TypeVar("Kind")
Omittable = Annotated[Kind | None, _Omittable]
SecretText = Annotated[Secret, _SecretText]
Name = Annotated[str, BeforeValidator(_trimmed), Field(min_length=1, max_length=MAX_NAME), AfterValidator(_readable)]
Slug = Annotated[str, Field(pattern=SLUG, max_length=63)]
ConnectionConfig = Annotated[dict[str, Any], AfterValidator(_small)]
CredentialType = Annotated[str, Field(pattern=CREDENTIAL_TYPE, max_length=128)]
Credentials = Annotated[dict[CredentialType, SecretText], Field(max_length=MAX_CREDENTIALS)]
WhetherToTest = Annotated[bool | Literal["required"], WrapValidator(_one_of_three)]
# pydantic would also take "1_0", " 10 " and "1e1" for ten.
PageSize = Annotated[
    int, Field(ge=1, le=100), BeforeValidator(lambda value: value if _DIGITS.fullmatch(str(value)) else "?")
]


class Asked(BaseModel):
    """A request body. Strict: ``"1"`` is no number and ``1`` no text."""

    # Models are built when they are first used: building all of them would cost a cold start 25 ms.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, defer_build=True)


class _Settings(Asked):
    connection_config: Omittable[ConnectionConfig] = None
    auth_method: Omittable[AuthMethod] = None
    credentials: Omittable[Credentials] = None
    test: WhetherToTest = False

    @field_validator("*", mode="before")
    @classmethod
    def _no_null(cls, value: Any) -> Any:
        if value is None:
            raise refusal("Must not be null. Leave the field out instead.")
        return value


class CreateIntegration(_Settings):
    integration_type: Slug
    name: Name

    def as_draft(self) -> Draft:
        return Draft(
            integration_type=self.integration_type,
            name=self.name,
            connection_config=self.connection_config or {},
            auth_method=self.auth_method,
            credentials=self.credentials or {},
            test=self.test,
        )


class UpdateIntegration(_Settings):
    """Only the fields that are there change."""

    name: Omittable[Name] = None

    def as_change(self) -> Change:
        return Change(
            name=self.name,
            connection_config=self.connection_config,
            auth_method=self.auth_method,
            credentials=self.credentials or {},
            test=self.test,
        )


class TestDraft(_Settings):
    """A form that is not saved. With ``integration_id``, secrets that were not typed are the stored ones."""

    __test__ = False  # not a test case, whatever pytest may think of the name

    integration_type: Slug
    name: Omittable[Name] = None
    integration_id: Omittable[UUID] = None

    def as_draft(self) -> Draft:
        return Draft(
            integration_type=self.integration_type,
            name=self.name or "",
            connection_config=self.connection_config or {},
            auth_method=self.auth_method,
            credentials=self.credentials or {},
            integration_id=self.integration_id,
        )


class PutCredential(Asked):
    value: SecretText
    expires_at: Annotated[AwareDatetime, AfterValidator(_in_sane_years)] | None = None


class Query(BaseModel):
    """Query parameters: each at most once, no unknown ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)


class PageQuery(Query):
    limit: PageSize = 50
    cursor: Omittable[str] = None


class TypesQuery(PageQuery):
    type: Omittable[Literal["mcp", "vendor", "custom"]] = None
    category: Omittable[Annotated[str, Field(max_length=63)]] = None
    q: Omittable[Annotated[str, Field(max_length=200)]] = None


class IntegrationsQuery(PageQuery):
    status: Omittable[Status] = None
    verdict: Omittable[Verdict] = None
    type: Omittable[Slug] = Field(None, description="A slug, or one of mcp, vendor and custom")
    category: Omittable[Annotated[str, Field(max_length=63)]] = None
    q: Omittable[Annotated[str, Field(max_length=200)]] = None
    sort: Literal["attention", "name", "created"] = "created"


class LogsQuery(PageQuery):
    event_type: Omittable[EventType] = None


class WindowQuery(Query):
    window: Window = "24h"
