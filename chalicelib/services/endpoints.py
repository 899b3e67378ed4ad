"""Where an integration connects to, worked out from its type and its connection config alone.

Services validate with this before anything is stored, probes connect to it, and the vault seals each credential to
:func:`destination_of`. All three must mean the same address, so the reading of a URL here is strict: whatever two
parsers could understand differently is refused. Pure, no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from chalicelib.errors import Invalid
from chalicelib.model import AuthMethod, IntegrationType
from chalicelib.services import config_rules
from chalicelib.services.addresses import canonical_host, fill_template, is_host, origin_of, split_url, url_problem
from chalicelib.services.config_rules import ROOT, SECRET_KEY_PATTERN, Problem, credential_name_problem

__all__ = [
    "SECRET_KEY_PATTERN",
    "Endpoint",
    "config_problems",
    "credential_name_problem",
    "destination_of",
    "endpoint_of",
    "method_problem",
    "required_credentials",
    "runs_own_command",
    "stdio_refusal",
    "takes_variable",
    "token_url_of",
    "variable_problems",
]

Kind = Literal["http", "sse", "stdio", "vendor", "ssh"]

MCP_PROTOCOLS = ("http", "sse", "stdio")
MIN_TIMEOUT_MS, MAX_TIMEOUT_MS = 100, 60_000
#: As many characters as the database keeps of a destination.
MAX_DESTINATION = 8_192

#: These go to the authorization server, not to the integration itself.
TOKEN_URL_CREDENTIALS = frozenset({"refresh_token", "client_secret", "client_id"})


@dataclass(frozen=True)
class Endpoint:
    """One place to connect to. ``url`` is that of HTTP kinds, ``command`` (with its arguments) that of stdio."""

    kind: Kind
    url: str | None = None
    command: tuple[str, ...] | None = None
    host: str | None = None
    port: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """The canonical destination: ``https://host:443``, ``ssh://host:22`` or ``stdio:["command","arg"]{"KEY":"x"}``.

        A command's variables belong to it, if it has any: one such as ``API_URL`` says where its secrets go.
        """
        if self.kind == "stdio":
            return _command_line(self.command or (), self.env)
        if self.kind == "ssh":
            return f"ssh://{canonical_host(self.host or '')}:{self.port}"
        return origin_of(self.url or "")


def endpoint_of(type: IntegrationType, config: Mapping[str, Any]) -> Endpoint:
    """The endpoint of this configuration. Raises :class:`Invalid` that names every field in the way."""
    problems: list[Problem] = []
    endpoint = _resolve(type, config, problems)
    if endpoint is None or problems:
        raise Invalid("The connection settings are not complete or not valid.", problems)
    return endpoint


def destination_of(type: IntegrationType, config: Mapping[str, Any], credential_type: str) -> str:
    """The destination that a credential of this type is sealed to; ``api.md``, "Connection config".

    Raises :class:`Invalid` as :func:`endpoint_of` does.
    """
    origin = endpoint_of(type, config).origin
    token_url = token_url_of(type, config) if credential_type in TOKEN_URL_CREDENTIALS else None
    if token_url is None:
        return origin
    # The access token that they get goes on to the endpoint: whoever moves either of the two must give them anew.
    both = f"{origin_of(token_url)} for {origin}"
    return both if len(both) <= MAX_DESTINATION else f"sha256:{sha256(both.encode()).hexdigest()}"


def token_url_of(type: IntegrationType, config: Mapping[str, Any]) -> str | None:
    """Where access tokens are renewed: where the type says, else the setting ``token_url``; None if neither does.

    Raises :class:`Invalid` as :func:`endpoint_of` does.
    """
    problems: list[Problem] = []
    url = _token_url(type, config, problems)
    if problems:
        raise Invalid("The connection settings are not complete or not valid.", problems)
    return url


def config_problems(type: IntegrationType, auth_method: str, config: Mapping[str, Any]) -> list[Problem]:
    """Everything that is wrong with a connection config, as (field, message); [] if it may be stored."""
    problems = config_rules.general_problems(config)
    if any(path == ROOT for path, _ in problems):
        return problems
    problems += config_rules.table_problems(config, "env")
    problems += config_rules.table_problems(config, "headers")
    problems += config_rules.args_problems(config.get("args"))
    problems += _timeout_problems(config)
    endpoint = _resolve(type, config, problems)
    if endpoint is not None and (problem := method_problem(type, auth_method, endpoint)):
        problems.append(problem)
    if auth_method == AuthMethod.OAUTH:
        _token_url(type, config, problems)
    problems += config_rules.schema_problems(type.config_schema, config)
    return list({path: (path, message) for path, message in reversed(problems)}.values())[::-1]


def required_credentials(type: IntegrationType, auth_method: str) -> tuple[tuple[str, ...], ...]:
    """What must be saved before this can work: of each group, one credential is enough."""
    part = type.definition.get("auth", {}).get(auth_method, {})
    named = [entry for entry in part.get("fields", ()) if not entry.get("optional")]
    groups: list[tuple[str, ...]] = [(str(entry["name"]),) for entry in named]
    if auth_method == AuthMethod.JWT:
        groups = [("jwt", "jwt_signing_key") if part.get("mint") else ("jwt",)]
    if not groups:
        groups = [(name,) for name in _DEFAULT_CREDENTIALS[AuthMethod(auth_method)]]
    declared = type.definition.get("mcp", {}).get("env", ())
    return (
        *groups,
        *((f"env.{entry['name']}",) for entry in declared if entry.get("secret") and not entry.get("optional")),
    )


_DEFAULT_CREDENTIALS: Mapping[AuthMethod, tuple[str, ...]] = {
    AuthMethod.NONE: (),
    AuthMethod.API_KEY: ("api_key",),
    AuthMethod.BASIC: ("username", "password"),
    AuthMethod.OAUTH: ("access_token",),
    AuthMethod.JWT: ("jwt",),
    AuthMethod.CERTIFICATE: ("client_certificate", "client_key"),
    AuthMethod.SSH_KEY: ("username", "private_key"),
}


def method_problem(type: IntegrationType, auth_method: str, endpoint: Endpoint) -> Problem | None:
    """Why this auth method cannot be used there, or None; asked at save and at use."""
    field_name, known = "auth_method", type.definition.get("auth")
    if known and auth_method not in known:
        return field_name, "must be one of " + ", ".join(known) + " for this integration type"
    if (auth_method == AuthMethod.SSH_KEY) != (endpoint.kind == "ssh"):
        return field_name, "must be ssh_key for a connection over SSH, and only there"
    if auth_method == AuthMethod.CERTIFICATE and (endpoint.url or "https:")[:6].lower() != "https:":
        return field_name, "can be certificate only with an https address"
    return None


def takes_variable(type: IntegrationType, name: str) -> bool:
    """Whether a credential ``env.NAME`` may reach the command: a catalogue's command takes declared secrets only.

    Its other variables are settings, which belong to the destination: a credential must not stand in for one.
    """
    if not type.definition.get("mcp", {}).get("command"):
        return True
    fields = [entry for part in type.definition.get("auth", {}).values() for entry in part.get("fields", ())]
    declared = _declared_variables(type).get(name, {}).get("secret")
    return bool(declared) or any(entry["name"] == f"env.{name}" for entry in fields)


def variable_problems(
    type: IntegrationType, config: Mapping[str, Any], credential_types: Iterable[str]
) -> list[Problem]:
    """Which of these credentials may not be saved for this command, as (field, message)."""
    if endpoint_of(type, config).kind != "stdio":
        return []
    names = [name.removeprefix("env.") for name in credential_types if name.startswith("env.")]
    unknown = [name for name in names if not takes_variable(type, name)]
    twice = [name for name in names if name in _texts(config.get("env")) and name not in unknown]
    return [
        *((f"credentials.env.{name}", "is not a secret that this integration type takes") for name in unknown),
        *((f"credentials.env.{name}", "is set in connection_config already: leave it out of one") for name in twice),
    ]


def runs_own_command(type: IntegrationType, config: Mapping[str, Any]) -> bool:
    """Whether this runs a command that the user chose, and no entry of the catalogue describes."""
    return not type.definition.get("mcp", {}).get("command") and endpoint_of(type, config).kind == "stdio"


def stdio_refusal(policy: str, type: IntegrationType, endpoint: Endpoint) -> str | None:
    """Why ``MCP_STDIO`` forbids this command, or None; asked at save, at test and at use (``security.md`` §5)."""
    if endpoint.kind != "stdio" or policy == "any":
        return None
    if policy == "catalogue" and type.definition.get("mcp", {}).get("command"):
        return None
    if policy == "catalogue":
        return "This deployment runs only commands of its own catalogue. Choose a type from the catalogue, or use http."
    return "This deployment runs no commands. Connect the server over http or sse instead."


def _resolve(type: IntegrationType, config: Mapping[str, Any], problems: list[Problem]) -> Endpoint | None:
    kind = _kind_of(type, config, problems)
    if kind is None:
        return None
    if kind == "stdio":
        return _stdio(type, config, problems)
    if kind == "ssh":
        return _ssh(type, config, problems)
    return _over_http(kind, type, config, problems)


def _kind_of(type: IntegrationType, config: Mapping[str, Any], problems: list[Problem]) -> Kind | None:
    definition = type.definition
    says_ssh = config.get("protocol") == "ssh" or "host" in config
    if "ssh" in definition or (says_ssh and type.type != "mcp" and "base_url" not in definition):
        return "ssh"
    speaks_mcp = "mcp" in definition or any(name in config for name in ("protocol", "command", "url"))
    if type.type == "mcp" or (type.type == "custom" and speaks_mcp and "base_url" not in definition):
        return _protocol_of(type, config, problems)
    return "vendor"


def _protocol_of(type: IntegrationType, config: Mapping[str, Any], problems: list[Problem]) -> Kind | None:
    """The type's own protocol, else the config's, else what its other settings can only mean."""
    mcp = type.definition.get("mcp", {})
    fixed, given = mcp.get("protocol"), config.get("protocol")
    field_name = f"{ROOT}.protocol"
    if given is not None and given not in MCP_PROTOCOLS:
        problems.append((field_name, "must be one of " + ", ".join(MCP_PROTOCOLS)))
        return None
    if fixed and given and fixed != given:
        problems.append((field_name, f"must be {fixed} for this integration type"))
        return None
    protocol = fixed or given
    if protocol is None and ("url" in config or "url" in mcp):
        protocol = "http"
    if protocol is None and ("command" in config or "command" in mcp):
        protocol = "stdio"
    if protocol is None:
        problems.append((field_name, "is required: one of " + ", ".join(MCP_PROTOCOLS)))
    return protocol


def _over_http(
    kind: Kind, type: IntegrationType, config: Mapping[str, Any], problems: list[Problem]
) -> Endpoint | None:
    name = "api_url" if kind == "vendor" else "url"
    template = type.definition.get("base_url") if kind == "vendor" else type.definition.get("mcp", {}).get("url")
    if config.get(name) is not None or not template:
        url = _url_setting(f"{ROOT}.{name}", config.get(name), problems)
    else:
        url = _rendered(type, config, template, problems)
    if url is None:
        return None
    problems += config_rules.table_problems(config, "headers")
    _, host, port = split_url(url)
    headers = {**type.definition.get("headers", {}), **_texts(config.get("headers"))}
    return Endpoint(kind, url=url, host=host, port=port, headers=headers)


def _token_url(type: IntegrationType, config: Mapping[str, Any], problems: list[Problem]) -> str | None:
    template = type.definition.get("auth", {}).get("oauth", {}).get("token_url")
    if template:
        return _rendered(type, config, template, problems)
    given = config.get("token_url")
    return None if given is None else _url_setting(f"{ROOT}.token_url", given, problems)


def _url_setting(field_name: str, value: Any, problems: list[Problem]) -> str | None:
    problem = url_problem(value)
    if problem is None:
        return str(value)
    problems.append((field_name, problem))
    return None


def _rendered(type: IntegrationType, config: Mapping[str, Any], template: str, problems: list[Problem]) -> str | None:
    patterns = {str(entry["name"]): entry.get("pattern") for entry in type.definition.get("config_fields", ())}
    return fill_template(template, config, patterns, problems)


def _stdio(type: IntegrationType, config: Mapping[str, Any], problems: list[Problem]) -> Endpoint | None:
    mcp = type.definition.get("mcp", {})
    fixed = mcp.get("command")
    if fixed:
        command = (str(fixed), *(str(arg) for arg in mcp.get("args", ())))
        given = (config.get("command", fixed), *_as_list(config.get("args", command[1:])))
        if given != command:
            problems.append((f"{ROOT}.command", "is fixed by this integration type; leave command and args out"))
            return None
    else:
        problem = _command_problem(config.get("command"))
        if problem:
            problems.append((f"{ROOT}.command", problem))
            return None
        arguments = config.get("args")
        problems += [found for found in config_rules.args_problems(arguments) if found not in problems]
        command = (str(config["command"]), *(str(arg) for arg in _as_list(arguments)))
    problems += _env_problems(type, config)
    usual = {str(entry["name"]): entry["default"] for entry in mcp.get("env", ()) if "default" in entry}
    return Endpoint("stdio", command=command, env={**usual, **_texts(config.get("env"))})


def _command_line(command: tuple[str, ...], env: Mapping[str, str]) -> str:
    """Command, arguments and variables as one text that can be read in one way only; a very long one as its digest."""
    text = json.dumps(list(command), separators=(",", ":"))
    if env:
        text += json.dumps(dict(env), separators=(",", ":"), sort_keys=True)
    whole = f"stdio:{text}"
    return whole if len(whole) <= MAX_DESTINATION else f"stdio:sha256:{sha256(text.encode()).hexdigest()}"


def _command_problem(command: Any) -> str | None:
    if command is None or command == "":
        return "is required: the program to run"
    if not isinstance(command, str) or len(command) > 1_024 or not command.isprintable():
        return "must be the name or the absolute path of a program, on one line"
    if "/" in command and (not command.startswith("/") or "/../" in command or command.endswith("/..")):
        return "must be a bare program name or an absolute path"
    if command in (".", "..") or command.startswith("-") or command.strip() != command:
        return "must be a bare program name or an absolute path"
    return None


def _ssh(type: IntegrationType, config: Mapping[str, Any], problems: list[Problem]) -> Endpoint | None:
    host, port = config.get("host"), config.get("port", type.definition.get("ssh", {}).get("port", 22))
    if not isinstance(host, str) or not is_host(f"[{host}]" if ":" in host else host):
        problems.append((f"{ROOT}.host", "must be a host name in ASCII, such as git.example.com"))
        return None
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65_535:
        problems.append((f"{ROOT}.port", "must be a number from 1 to 65535"))
        return None
    return Endpoint("ssh", host=canonical_host(f"[{host}]" if ":" in host else host), port=port)


def _env_problems(type: IntegrationType, config: Mapping[str, Any]) -> list[Problem]:
    """No dangerous variable, and for a catalogue's command none but those that its entry declares."""
    problems = config_rules.table_problems(config, "env")
    if not type.definition.get("mcp", {}).get("command"):
        return problems
    given, declared = _texts(config.get("env")), _declared_variables(type)
    for name in given:
        if name not in declared:
            problems.append((f"{ROOT}.env.{name}", "is not a variable that this integration type takes"))
        elif declared[name].get("secret"):
            problems.append((f"{ROOT}.env.{name}", config_rules.secret_advice(f"{ROOT}.env.{name}", name)))
    plain = (name for name, entry in declared.items() if not entry.get("secret") and not entry.get("optional"))
    return problems + [(f"{ROOT}.env.{name}", "is required") for name in plain if name not in given]


def _declared_variables(type: IntegrationType) -> dict[str, Mapping[str, Any]]:
    return {str(entry["name"]): entry for entry in type.definition.get("mcp", {}).get("env", ())}


def _timeout_problems(config: Mapping[str, Any]) -> list[Problem]:
    value = config.get("timeout_ms", MIN_TIMEOUT_MS)
    if isinstance(value, int) and not isinstance(value, bool) and MIN_TIMEOUT_MS <= value <= MAX_TIMEOUT_MS:
        return []
    return [(f"{ROOT}.timeout_ms", f"must be a whole number from {MIN_TIMEOUT_MS} to {MAX_TIMEOUT_MS}")]


def _texts(table: Any) -> dict[str, str]:
    if not isinstance(table, Mapping):
        return {}
    return {str(name): value for name, value in table.items() if isinstance(value, str)}


def _as_list(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else ()
