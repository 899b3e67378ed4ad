"""The words of the product as values: standard library only, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NoReturn
from uuid import UUID


class Secret:
    """A value that shows itself only to :meth:`reveal`.

    ``repr``, ``str``, f-strings and logging print ``Secret(…)``; pickling and copying by reduction are refused.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def hint(self) -> str | None:
        """The last 4 characters, if there are more than 12; else None (``security.md`` §3)."""
        return self._value[-4:] if len(self._value) > 12 else None

    def __repr__(self) -> str:
        return "Secret(…)"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


class AuthMethod(StrEnum):
    NONE = "none"
    API_KEY = "api_key"
    BASIC = "basic"
    OAUTH = "oauth"
    JWT = "jwt"
    CERTIFICATE = "certificate"
    SSH_KEY = "ssh_key"


class Status(StrEnum):
    CONFIGURING = "configuring"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    ERROR = "error"
    TESTING = "testing"


class Source(StrEnum):
    """Who asked for a check: a person, or the schedule."""

    TEST = "test"
    SWEEP = "sweep"


class Verdict(StrEnum):
    """What a check found (``design.md`` §6). A closed list."""

    OK = "ok"
    AUTH_REJECTED = "auth_rejected"
    FORBIDDEN_SCOPE = "forbidden_scope"
    RATE_LIMITED = "rate_limited"
    PROVIDER_DOWN = "provider_down"
    TIMEOUT = "timeout"
    NETWORK = "network"
    TLS = "tls"
    PROTOCOL = "protocol"
    TOO_LARGE = "too_large"
    BLOCKED = "blocked"
    MISCONFIGURED = "misconfigured"
    NEEDS_REAUTH = "needs_reauth"


#: Positive evidence that the owner must act; everything else proves nothing about a credential.
BLAMING = frozenset({Verdict.AUTH_REJECTED, Verdict.FORBIDDEN_SCOPE, Verdict.NEEDS_REAUTH, Verdict.MISCONFIGURED})
#: The far side or the way there is at fault, and it may pass.
OUTAGE = frozenset({Verdict.PROVIDER_DOWN, Verdict.NETWORK, Verdict.TIMEOUT, Verdict.RATE_LIMITED})


@dataclass(frozen=True)
class Step:
    """One named step of a check: policy, dns, tcp, tls, auth, protocol or call. ``ms`` is whole milliseconds."""

    name: str
    ok: bool
    ms: int
    detail: str | None = None

    def as_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"name": self.name, "ok": self.ok, "ms": self.ms}
        if self.detail is not None:
            shown["detail"] = self.detail
        return shown


@dataclass(frozen=True)
class CheckResult:
    """What a check returns (``api.md``, "A test result")."""

    verdict: Verdict
    response_time_ms: int
    error_message: str | None
    checked_at: datetime
    steps: tuple[Step, ...] = ()
    capabilities: Mapping[str, Any] | None = None
    retry_after_s: int | None = None  # what the far side asked for, with rate_limited or provider_down

    @property
    def success(self) -> bool:
        return self.verdict is Verdict.OK

    def as_json(self) -> dict[str, Any]:
        return {
            "success": self.success,
            "verdict": self.verdict.value,
            "response_time_ms": self.response_time_ms,
            "error_message": self.error_message,
            "capabilities": None if self.capabilities is None else dict(self.capabilities),
            "steps": [step.as_json() for step in self.steps],
            "checked_at": self.checked_at.isoformat().replace("+00:00", "Z"),
        }


@dataclass(frozen=True)
class IntegrationType:
    """An entry of the catalogue; ``definition`` (see ``catalogue/schema.json``) is ``{}`` for plain SQL rows."""

    id: UUID
    slug: str
    name: str
    type: str  # mcp | vendor | custom
    category: str
    config_schema: Mapping[str, Any] = field(default_factory=dict)
    definition: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """All that a check needs: where to go, and what to show there. ``secrets`` are opened credentials by type."""

    type: IntegrationType
    auth_method: AuthMethod
    config: Mapping[str, Any]
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    capabilities: Mapping[str, Any] | None = None  # of the last good check: says which protocol era to speak


@dataclass(frozen=True)
class IssuedTokens:
    """What a token endpoint gave. No ``refresh_token``: the old one stays good. No ``expires_at``: it did not say."""

    access_token: Secret
    refresh_token: Secret | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class DataKey:
    """One row of ``user_data_keys``: the wrapped key, never the plaintext."""

    id: UUID
    user_id: UUID
    wrapped: str


@dataclass(frozen=True)
class Binding:
    """What a sealed value belongs to. ``destination`` is derived from the configuration at the moment of use."""

    user_id: UUID
    integration_id: UUID
    credential_id: UUID
    credential_type: str
    destination: str
    row_version: int
