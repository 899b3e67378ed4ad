"""What a caller asks to store or to test, as plain values; the HTTP edge fills these in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from chalicelib.model import AuthMethod, Secret

WhenToTest = Literal[True, False, "required"]


@dataclass(frozen=True)
class Draft:
    """An integration to create, or a form to test that is not saved."""

    integration_type: str  # slug
    name: str
    connection_config: Mapping[str, Any] = field(default_factory=dict)
    auth_method: AuthMethod | None = None
    credentials: Mapping[str, Secret] = field(default_factory=dict)
    test: WhenToTest = False
    integration_id: UUID | None = None  # whose sealed credentials stand in for those not typed


@dataclass(frozen=True)
class Change:
    """What to change of an integration; None leaves a part as it is."""

    name: str | None = None
    connection_config: Mapping[str, Any] | None = None
    auth_method: AuthMethod | None = None
    credentials: Mapping[str, Secret] = field(default_factory=dict)
    test: WhenToTest = False


@dataclass(frozen=True)
class Idempotency:
    """A caller's key, and a keyed digest of the body that came with it."""

    key: str
    fingerprint: str
