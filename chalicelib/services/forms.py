"""The form of an integration type: what to ask a person for, in order, without knowing the type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chalicelib.model import AuthMethod
from chalicelib.services.endpoints import MCP_PROTOCOLS
from chalicelib.services.plain_types import understood
from chalicelib.services.ports import Json


def _secret(name: str, label: str, help: str, *, optional: bool = False) -> Json:
    return {"name": name, "label": label, "help": help, "secret": True, "optional": optional}


def _open(name: str, label: str, help: str, *, optional: bool = False) -> Json:
    return {"name": name, "label": label, "help": help, "secret": False, "optional": optional}


_PEM = "The whole text of the file, from the first dashes to the last."
_PASSPHRASE = "Only if the private key has one."  # noqa: S105 - a help text
#: What a method asks for, where a type says nothing else. The catalogue is compiled with the same fields.
USUAL_FIELDS: Mapping[str, list[Json]] = {
    "api_key": [_secret("api_key", "API key", "A key or token that the provider gave you.")],
    "basic": [
        _open("username", "User name", "The name that you sign in with."),
        _secret("password", "Password", "The password that belongs to the user name."),
    ],
    "oauth": [
        _secret("access_token", "Access token", "The token that a sign-in at the provider gave."),
        _secret("refresh_token", "Refresh token", "Gets a new access token when the old one ends.", optional=True),
        _open("client_id", "Client ID", "Of the app that you registered at the provider.", optional=True),
        _secret("client_secret", "Client secret", "Of the same app; apps without one leave it out.", optional=True),
    ],
    "jwt": [_secret("jwt", "JSON Web Token", "A token that the provider, or a service of yours, has signed.")],
    "certificate": [
        _secret("client_certificate", "Client certificate (PEM)", _PEM),
        _secret("client_key", "Private key (PEM)", _PEM),
        _secret("client_key_passphrase", "Passphrase of the private key", _PASSPHRASE, optional=True),
        _secret(
            "ca_certificate",
            "Certificate authority of the server (PEM)",
            "Only if the server's certificate is not signed by a public authority.",
            optional=True,
        ),
    ],
    "ssh_key": [
        _open("username", "User name", "The account to sign in as."),
        _secret("private_key", "Private key", _PEM),
        _secret("private_key_passphrase", "Passphrase of the private key", _PASSPHRASE, optional=True),
        _open("host_key", "Public key of the host", "Without it, the first key seen is pinned.", optional=True),
    ],
    "none": [],
}


def with_form(detail: Json, mcp_stdio: str) -> Json:
    """A type's detail with ``fields`` (settings first, then credentials by method) and allowed ``protocols``.

    ``mcp_stdio`` is the deployment's policy on commands: what it forbids is not offered.
    """
    detail = understood(detail)
    definition = detail["definition"]
    methods = [AuthMethod(name) for name in detail["auth_methods"]] or _possible_methods(detail)
    protocols = _protocols(detail, mcp_stdio)
    docs = definition.get("docs", {})
    fields = [
        field | {"where": field["where"] or docs.get("developer")}
        for field in (*_settings(definition, protocols), *_variables(definition, secret=False))
    ]
    secrets = [*_variables(definition, secret=True)]
    for method in methods:
        secrets += _credentials(method, definition)
    secrets += [_field(entry, secret=True, goes_to="credentials") for entry in definition.get("secrets", ())]
    fields += [field | {"where": field["where"] or docs.get("key") or docs.get("developer")} for field in secrets]
    return detail | {
        "auth_methods": [method.value for method in methods],
        "fields": fields,
        "protocols": protocols,
        "docs": docs,
        "status_page": definition.get("status_page"),
        "verified": definition.get("verified"),
    }


def _possible_methods(detail: Json) -> list[AuthMethod]:
    """What a type may mean that does not say how it signs in."""
    definition = detail["definition"]
    if "ssh" in definition:
        return [AuthMethod.SSH_KEY]
    if definition.get("mcp", {}).get("protocol") == "stdio":
        return [AuthMethod.NONE, AuthMethod.API_KEY]
    undecided = detail["type"] == "custom" and not definition
    return [method for method in AuthMethod if method is not AuthMethod.SSH_KEY or undecided]


def _settings(definition: Mapping[str, Any], protocols: list[str]) -> Iterable[Json]:
    for entry in definition.get("config_fields", ()):
        field = _field(entry, secret=False)
        if field["name"] == "protocol" and "choices" in field:
            field["choices"] = [choice for choice in field["choices"] if choice in protocols]
        shown_for = field.get("when", {}).get("protocol")
        if shown_for and not set(shown_for) & set(protocols):
            continue
        yield field


def _variables(definition: Mapping[str, Any], *, secret: bool) -> Iterable[Json]:
    for entry in definition.get("mcp", {}).get("env", ()):
        if bool(entry.get("secret")) is secret:
            goes_to = "credentials" if secret else "connection_config"
            yield _field({**entry, "name": f"env.{entry['name']}"}, secret=secret, goes_to=goes_to)


def _credentials(method: AuthMethod, definition: Mapping[str, Any]) -> Iterable[Json]:
    declared = definition.get("auth", {}).get(method.value, {}).get("fields")
    for entry in declared or USUAL_FIELDS[method.value]:
        secret = bool(entry.get("secret", True))
        yield _field(entry, secret=secret, goes_to="credentials") | {"auth_method": method.value}


def _field(entry: Mapping[str, Any], *, secret: bool, goes_to: str = "connection_config") -> Json:
    return {
        "name": entry["name"],
        "goes_to": goes_to,
        "label": entry.get("label") or entry["name"],
        "help": entry.get("help"),
        "where": entry.get("help_url"),
        "example": entry.get("example"),
        "pattern": entry.get("pattern"),
        "secret": secret,
        "required": not entry.get("optional", False),
        **{part: entry[part] for part in ("type", "choices", "default", "when") if part in entry},
    }


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
