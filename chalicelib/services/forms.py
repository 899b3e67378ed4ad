"""The form of an integration type: what to ask a person for, in order, without knowing the type."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from chalicelib.model import AuthMethod
from chalicelib.services.endpoints import MCP_PROTOCOLS
from chalicelib.services.ports import Json

#: Where a type says nothing about the credentials of a method. (name, label, secret, optional)
_USUAL: Mapping[AuthMethod, tuple[tuple[str, str, bool, bool], ...]] = {
    AuthMethod.NONE: (),
    AuthMethod.API_KEY: (("api_key", "API key", True, False),),
    AuthMethod.BASIC: (("username", "User name", False, False), ("password", "Password", True, False)),
    AuthMethod.OAUTH: (
        ("access_token", "Access token", True, False),
        ("refresh_token", "Refresh token", True, True),
        ("client_id", "Client ID", False, True),
        ("client_secret", "Client secret", True, True),
    ),
    AuthMethod.JWT: (("jwt", "JSON Web Token", True, False),),
    AuthMethod.CERTIFICATE: (
        ("client_certificate", "Client certificate (PEM)", False, False),
        ("client_key", "Private key (PEM)", True, False),
        ("client_key_passphrase", "Passphrase of the private key", True, True),
        ("ca_certificate", "Certificate of the server's authority (PEM)", False, True),
    ),
    AuthMethod.SSH_KEY: (
        ("username", "User name", False, False),
        ("private_key", "Private key", True, False),
        ("private_key_passphrase", "Passphrase of the private key", True, True),
        ("host_key", "Host key to expect", False, True),
    ),
}


def with_form(detail: Json, mcp_stdio: str) -> Json:
    """A type's detail with ``fields`` (settings first, then credentials by method) and allowed ``protocols``."""
    definition = detail["definition"]
    methods = [AuthMethod(name) for name in detail["auth_methods"]] or [
        *(method for method in AuthMethod if detail["type"] != "vendor" or method is not AuthMethod.SSH_KEY)
    ]
    fields = [*_settings(detail["config_schema"], definition)]
    for method in methods:
        fields += _credentials(method, definition)
    return detail | {
        "auth_methods": [method.value for method in methods],
        "fields": fields,
        "protocols": _protocols(detail, mcp_stdio),
    }


def _settings(schema: Mapping[str, Any], definition: Mapping[str, Any]) -> Iterable[Json]:
    declared = definition.get("config_fields") or []
    known = {entry["name"] for entry in declared}
    for entry in declared:
        yield _field(entry, secret=False)
    required = schema.get("required", [])
    for name, member in schema.get("properties", {}).items():
        if name not in known:
            yield {
                "name": name,
                "goes_to": "connection_config",
                "label": member.get("title") or name.replace("_", " ").capitalize(),
                "help": member.get("description"),
                "example": _text(next(iter(member.get("examples", [])), None)),
                "pattern": member.get("pattern"),
                "required": name in required,
            }
    for entry in definition.get("mcp", {}).get("env", []):
        secret = bool(entry.get("secret"))
        name = f"env.{entry['name']}"
        yield _field({**entry, "name": name}, secret=secret, goes_to="credentials" if secret else "connection_config")


def _credentials(method: AuthMethod, definition: Mapping[str, Any]) -> Iterable[Json]:
    declared = definition.get("auth", {}).get(method.value, {}).get("fields")
    entries = declared or [
        {"name": name, "label": label, "secret": secret, "optional": optional}
        for name, label, secret, optional in _USUAL[method]
    ]
    for entry in entries:
        secret = bool(entry.get("secret", True))
        yield _field(entry, secret=secret, goes_to="credentials") | {"auth_method": method.value}


def _field(entry: Mapping[str, Any], *, secret: bool, goes_to: str = "connection_config") -> Json:
    return {
        "name": entry["name"],
        "goes_to": goes_to,
        "label": entry.get("label") or entry["name"],
        "help": entry.get("help"),
        "where": entry.get("help_url"),
        "example": _text(entry.get("example")),
        "pattern": entry.get("pattern"),
        "secret": secret,
        "required": not entry.get("optional", False),
        **{part: entry[part] for part in ("type", "choices", "default", "when") if part in entry},
    }


def _text(value: Any) -> str | None:
    """An example as a person would type it."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _protocols(detail: Json, mcp_stdio: str) -> list[str]:
    """The ways of reaching it that this deployment allows (``MCP_STDIO``)."""
    mcp = detail["definition"].get("mcp", {})
    if detail["type"] == "vendor":
        return ["https"]
    if "ssh" in detail["definition"]:
        return ["ssh"]
    offered = [mcp["protocol"]] if "protocol" in mcp else list(MCP_PROTOCOLS)
    runs_commands = mcp_stdio == "any" or (mcp_stdio == "catalogue" and "command" in mcp)
    return [name for name in offered if name != "stdio" or runs_commands]
