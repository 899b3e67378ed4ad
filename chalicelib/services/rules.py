"""What may be stored at all: the configuration, where it leads, and the credentials that come with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chalicelib.errors import Blocked, Invalid
from chalicelib.model import AuthMethod, IntegrationType, Secret
from chalicelib.services.endpoints import config_problems, endpoint_of, stdio_refusal, token_url_of, variable_problems
from chalicelib.services.ports import AddressRules, CredentialRules, Json


@dataclass(frozen=True)
class Rules:
    """``mcp_stdio`` is the policy on commands: off, catalogue or any."""

    addresses: AddressRules
    credentials: CredentialRules
    mcp_stdio: str

    def belongs(self, method: AuthMethod, credential_type: str) -> bool:
        return self.credentials.belongs(method, credential_type)

    def require_acceptable(
        self,
        type: IntegrationType,
        found: Json,
        method: AuthMethod,
        config: Mapping[str, Any],
        credentials: Mapping[str, Secret],
    ) -> Mapping[str, datetime | None]:
        """Refuse what may not be stored, all of it in one answer. Returns when each credential expires.

        ``found`` is the answer of ``prepare``.
        """
        problems = list(config_problems(type, method, config))
        known = found["type"]["auth_methods"]
        if known and method not in known:
            problems.append(("auth_method", f"{type.name} knows: {', '.join(known)}"))
        if not problems:
            problems += self._destination_problems(type, config)
            problems += variable_problems(type, config, credentials)
            problems += self._token_url_problems(type, config) if method is AuthMethod.OAUTH else []
        expiries: Mapping[str, datetime | None] = {}
        try:
            stored = [row["credential_type"] for row in found.get("credentials", [])]
            expiries = self.credentials.inspect(method, credentials, stored)
        except Invalid as refused:
            problems += refused.errors
        if problems:
            raise Invalid("Some fields cannot be accepted; nothing was stored.", problems)
        return expiries

    def _destination_problems(self, type: IntegrationType, config: Mapping[str, Any]) -> list[tuple[str, str]]:
        endpoint = endpoint_of(type, config)
        refusal = stdio_refusal(self.mcp_stdio, type, endpoint)
        if refusal:
            return [("connection_config.command", refusal)]
        try:
            if endpoint.url is not None:
                self.addresses.check_url(endpoint.url)
            elif endpoint.host is not None and endpoint.port is not None:
                self.addresses.check_host_port(endpoint.host, endpoint.port)
        except Blocked as refused:
            field = next((name for name in ("url", "api_url", "host") if name in config), None)
            return [(f"connection_config.{field}" if field else "connection_config", refused.detail)]
        return []

    def _token_url_problems(self, type: IntegrationType, config: Mapping[str, Any]) -> list[tuple[str, str]]:
        token_url = token_url_of(type, config)
        try:
            if token_url is not None:
                self.addresses.check_url(token_url)
        except Blocked as refused:
            return [("connection_config.token_url", refused.detail)]
        return []
