"""Credentials put where the type's template says: headers, query, environment of a command, or the TLS handshake.

Nothing here judges a credential by its looks: a key without the usual prefix is shown to the server, who knows.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from chalicelib.model import AuthMethod, Secret, Target, Verdict
from chalicelib.probes.verdicts import Finding
from chalicelib.services.endpoints import Endpoint, credential_name_problem, required_credentials, takes_variable

_SENDABLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")

LABELS = {
    AuthMethod.NONE: "request without credentials",
    AuthMethod.API_KEY: "API key",
    AuthMethod.BASIC: "user name or password",
    AuthMethod.OAUTH: "access token",
    AuthMethod.JWT: "token",
    AuthMethod.CERTIFICATE: "client certificate",
    AuthMethod.SSH_KEY: "SSH key",
}

#: The credential that each method's ``place`` is about.
_PLACED = {AuthMethod.API_KEY: "api_key", AuthMethod.OAUTH: "access_token", AuthMethod.JWT: "jwt"}


@dataclass(frozen=True)
class Shown:
    """What the far side gets to see of the credentials. Never printed: the values are secrets."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    def texts(self) -> list[str]:
        """Every text that must not be quoted back, were the far side to echo it."""
        return [*self.sent(), *self.env.values()]

    def sent(self) -> list[str]:
        """Those of them that a request carries."""
        return [*(value.rpartition(" ")[2] for value in self.headers.values()), *self.query.values()]


class InQuery(httpx2.Auth):
    """Adds secret parameters to the URL at the moment of sending, so that no library above holds or logs them."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._parameters = parameters

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        request.url = request.url.copy_merge_params(dict(self._parameters))
        yield request


def shown_by(target: Target, endpoint: Endpoint) -> Shown:
    """Everything that this target's credentials put into a request or a command. Raises :class:`Finding`.

    The finding is ``misconfigured`` and names the credential to save, if one is missing or cannot be sent.
    """
    _require(target)
    if endpoint.kind == "ssh":
        return Shown()
    if endpoint.kind == "stdio":
        named = {name: value.reveal() for name, value in _named(target, "env.") if takes_variable(target.type, name)}
        return Shown(env={**_as_environment(target), **named})
    headers = {name: value.reveal() for name, value in _named(target, "header.")}
    for name, value in headers.items():
        _check_sendable(f"credential for {name}", value)
    placed = _placed(target)
    return Shown(headers={**headers, **placed.headers}, query=placed.query)


def _require(target: Target) -> None:
    for group in required_credentials(target.type, target.auth_method):
        if not any(target.secrets.get(name) for name in group):
            raise missing(" or ".join(group))


def missing(credential_type: str) -> Finding:
    return Finding(
        Verdict.MISCONFIGURED,
        "policy",
        f"Before connecting, a credential is needed that is not saved. Save '{credential_type}' and test again.",
        detail=f"{credential_type} is missing",
    )


def _check_sendable(label: str, value: str) -> None:
    if not _SENDABLE.fullmatch(value):
        raise Finding(
            Verdict.MISCONFIGURED,
            "policy",
            f"Before connecting: the saved {label} holds a line break, a space at its start or end, or a character "
            "that cannot be sent. Copy it again and save it.",
            detail="credential cannot be sent",
        )


def _named(target: Target, prefix: str) -> list[tuple[str, Secret]]:
    allowed = ((name, value) for name, value in target.secrets.items() if not credential_name_problem(name))
    return [(name.removeprefix(prefix), value) for name, value in allowed if name.startswith(prefix)]


def _placed(target: Target) -> Shown:
    method, part = target.auth_method, target.type.definition.get("auth", {}).get(target.auth_method, {})
    if method is AuthMethod.BASIC:
        return Shown(headers=_basic(_secret(target, "username"), _secret(target, "password")))
    if method not in _PLACED:
        return Shown()
    value = _jwt(target, part) if method is AuthMethod.JWT else _secret(target, _PLACED[method])
    place = part.get("place", {})
    if place.get("in", "bearer") in ("bearer", "header"):
        _check_sendable(LABELS[method], value)
    return _at(place, value)


def _at(place: Mapping[str, Any], value: str) -> Shown:
    where, name, prefix = place.get("in", "bearer"), place.get("name", ""), place.get("prefix", "")
    if where == "query":
        return Shown(query={name: prefix + value})
    if where == "header":
        return Shown(headers={name: prefix + value})
    if where == "basic_user":
        return Shown(headers=_basic(value, name))
    if where == "basic_password":
        return Shown(headers=_basic(name, value))
    return Shown(headers={"Authorization": f"Bearer {value}"})


def _basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _secret(target: Target, name: str) -> str:
    return target.secrets[name].reveal()


def _jwt(target: Target, part: Mapping[str, Any]) -> str:
    """The token as it was given, or one minted for this call."""
    if target.secrets.get("jwt"):
        return _secret(target, "jwt")
    from chalicelib.probes.minting import minted

    return minted(target, part.get("mint", {}))


def _as_environment(target: Target) -> dict[str, str]:
    """A command gets each credential of its method as a variable: ``API_KEY``, or what the type's template names."""
    method = target.auth_method
    part = target.type.definition.get("auth", {}).get(method, {})
    place = part.get("place", {})
    values = {
        name.upper(): value.reveal()
        for name, value in target.secrets.items()
        if "." not in name and _fits(method, name)
    }
    if method is AuthMethod.JWT:
        values = {"JWT": _jwt(target, part)}
    main = _PLACED.get(method, "").upper()
    if place.get("in") == "env" and main in values:
        values[place["name"]] = values.pop(main)
    return values


_OF_METHOD = {
    AuthMethod.API_KEY: ("api_key",),
    AuthMethod.BASIC: ("username", "password"),
    AuthMethod.OAUTH: ("access_token",),
    AuthMethod.CERTIFICATE: ("client_certificate", "client_key", "client_key_passphrase", "ca_certificate"),
}


def _fits(method: AuthMethod, name: str) -> bool:
    return name in _OF_METHOD.get(method, ())
