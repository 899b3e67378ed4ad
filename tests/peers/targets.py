"""Targets and probers as a test wants them, in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from chalicelib.egress.guard import Guard
from chalicelib.egress.network import Resolver
from chalicelib.egress.policy import Policy
from chalicelib.model import AuthMethod, IntegrationType, Secret, Target
from chalicelib.probes import Prober

LOOPBACK = Policy(allow=("127.0.0.0/8",))


def a_type(
    kind: str = "mcp", definition: Mapping[str, Any] | None = None, schema: Mapping[str, Any] | None = None
) -> IntegrationType:
    return IntegrationType(UUID(int=7), "sample", "Sample", kind, "test", schema or {}, definition or {})


def fields(problems: Iterable[tuple[str, str]]) -> set[str]:
    """The fields that pairs of (field, message) name."""
    return {field for field, _ in problems}


def a_target(
    kind: str = "mcp",
    config: Mapping[str, Any] | None = None,
    *,
    method: str = "none",
    secrets: Mapping[str, str] | None = None,
    definition: Mapping[str, Any] | None = None,
    capabilities: Mapping[str, Any] | None = None,
) -> Target:
    return Target(
        a_type(kind, definition),
        AuthMethod(method),
        config or {},
        {name: Secret(value) for name, value in (secrets or {}).items()},
        capabilities,
    )


def a_prober(
    total_s: float = 5,
    *,
    mcp_stdio: str = "any",
    policy: Policy = LOOPBACK,
    resolver: Resolver | None = None,
    connect_s: float = 1.0,
) -> Prober:
    connect_s = min(connect_s, total_s)
    guard = Guard(policy, connect_s=connect_s, resolver=resolver)
    return Prober(guard, mcp_stdio=mcp_stdio, connect_s=connect_s, total_s=total_s)
