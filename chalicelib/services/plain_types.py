"""Integration types that came by plain SQL: what their ``config_schema`` means, so that they work as others do.

The product's documentation inserts a row with a ``config_schema`` whose members are those of the connection config:
``protocol``, ``command``, ``args``, ``url``, ``env``, or ``api_url``, ``api_version``, ``oauth_provider``, ``scopes``,
``webhook_url``, ``webhook_secret``. A member is a value (``"stdio"``), empty (the user is asked), the name of a JSON
type (``"string"``), alternatives (``"stdio|http|sse"``) or a piece of JSON Schema; or all of it is one JSON Schema.
Here each form becomes the same two things: a JSON Schema, and a definition as ``catalogue/schema.json`` describes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from chalicelib.model import IntegrationType
from chalicelib.services.addresses import PLACEHOLDER
from chalicelib.services.config_rules import SECRET_KEY_PATTERN, WEBHOOK_SECRET
from chalicelib.services.ports import Json

_TYPES = ("string", "array", "object", "number", "integer", "boolean")
_ALTERNATIVES = re.compile(r"\w+(\s*\|\s*\w+)+")
_TABLES = ("env", "headers")
#: jsonb keeps no order of members: this one is for people, and what is not named here comes last.
_ORDER_TEXT = """
    protocol url command args env headers host port api_url api_version oauth_provider scopes webhook_url
"""
_ORDER = {name: place for place, name in enumerate(_ORDER_TEXT.split())}
_LEADING = ("protocol", "url", "command", "args", "api_url")
_SHOWN_FOR = {name: ["http", "sse"] for name in ("url", "headers")} | {
    name: ["stdio"] for name in ("command", "args", "env")
}


@dataclass(frozen=True)
class _Member:
    """``value`` is what the row itself says; ``open`` that users may give another; else they are asked."""

    name: str
    schema: Json
    value: Any = None
    open: bool = True
    required: bool = False


def type_from(row: Json) -> IntegrationType:
    """The integration type of a row of the database."""
    row = understood(row)
    return IntegrationType(
        id=UUID(row["id"]),
        slug=row["slug"],
        name=row["name"],
        type=row["type"],
        category=row["category"],
        config_schema=row["config_schema"],
        definition=row["definition"],
    )


def understood(row: Json) -> Json:
    """The row with a JSON Schema for ``config_schema`` and, if it has none, a ``definition`` worked out from it.

    Whatever looks like a secret leaves the schema: it is asked for as a credential, and a value that somebody put
    there is not repeated.
    """
    given = row["config_schema"]
    if row["definition"] or not given:
        return row
    members = [member for member in _members(given) if not SECRET_KEY_PATTERN.search(member.name)]
    members.sort(key=lambda member: _ORDER.get(member.name, len(_ORDER)))
    definition = _definition(row["type"], {member.name: member for member in members})
    if WEBHOOK_SECRET in _pieces(given):
        definition["secrets"] = [
            {"name": WEBHOOK_SECRET, "label": "Webhook secret", "help": "What the provider signs its messages with."}
        ]
    return {**row, "config_schema": _schema(given, members, definition), "definition": definition}


def _is_schema(given: Mapping[str, Any]) -> bool:
    return isinstance(given.get("properties"), Mapping) or given.get("type") == "object" or "$schema" in given


def _pieces(given: Mapping[str, Any]) -> Mapping[str, Any]:
    return (given.get("properties") or {}) if _is_schema(given) else given


def _members(given: Mapping[str, Any]) -> Iterable[_Member]:
    required = given.get("required", ()) if _is_schema(given) else ()
    for name, piece in _pieces(given).items():
        yield _member(str(name), piece, isinstance(required, list) and name in required)


def _member(name: str, given: Any, required: bool) -> _Member:
    if isinstance(given, Mapping) and (name not in _TABLES or given.get("type") == "object"):
        return _from_piece(name, given, required)
    if isinstance(given, str):
        return _from_text(name, given)
    if name == "protocol" and isinstance(given, list):
        return _Member(name, {"enum": given})
    if name in _TABLES:
        return _Member(name, {"type": "object"}, dict(given) if isinstance(given, Mapping) else {})
    if isinstance(given, list):
        return _Member(name, {"type": "array", "items": {"type": "string"}}, given or None, open=False)
    kind = "boolean" if isinstance(given, bool) else "number" if isinstance(given, int | float) else "string"
    return _Member(name, {"type": kind}, given, open=False)


#: What else stands there is somebody's slip, and left out.
_KINDS: Mapping[str, type] = {
    "title": str, "description": str, "pattern": str, "enum": list, "examples": list, "required": list,
}  # fmt: skip


def _from_piece(name: str, given: Mapping[str, Any], required: bool) -> _Member:
    piece = {key: value for key, value in given.items() if isinstance(value, _KINDS.get(key, object))}
    if piece.get("type", "string") not in _TYPES and not isinstance(piece.get("type"), list):
        piece["type"] = "string"
    value = piece.get("const", piece.get("default"))
    return _Member(name, piece, value, "const" not in piece, required or given.get("required") is True)


def _from_text(name: str, given: str) -> _Member:
    kind = given.rstrip("?")
    if kind in ("", *_TYPES):
        return _Member(name, {"type": kind or "string"} | ({"items": {"type": "string"}} if kind == "array" else {}))
    if _ALTERNATIVES.fullmatch(given.strip()):
        return _Member(name, {"enum": [part.strip() for part in given.split("|")]})
    return _Member(name, {"type": "string"}, given, open=False)


def _definition(kind: str, members: Mapping[str, _Member]) -> Json:
    values = {name: member.value for name, member in members.items() if member.value is not None}
    if kind == "mcp" or (kind == "custom" and {"protocol", "command", "url"} & set(members)):
        definition: Json = {"mcp": _mcp(members, values)}
    elif kind == "custom" and "host" in members:
        definition = {"ssh": {"port": values["port"]} if isinstance(values.get("port"), int) else {}}
    else:
        definition = {"base_url": values["api_url"]} if isinstance(values.get("api_url"), str) else {}
    fields = [_field(member, members) for member in members.values() if not _is_settled(member, definition)]
    known = {field["name"] for field in fields}
    address = str(definition.get("base_url") or definition.get("mcp", {}).get("url", ""))
    for name in dict.fromkeys(PLACEHOLDER.findall(address)):
        if name not in known:
            fields.append({"name": name, "label": _label(name), "optional": False})
    return definition | ({"config_fields": fields} if fields else {})


def _mcp(members: Mapping[str, _Member], values: Mapping[str, Any]) -> Json:
    mcp: Json = {}
    if isinstance(values.get("protocol"), str):
        mcp["protocol"] = values["protocol"]
    if isinstance(values.get("url"), str):
        mcp["url"] = values["url"]
    # A command is fixed only with all that goes with it; otherwise users type their own, where that is allowed.
    asked = [name for name in ("command", "args") if name in members and members[name].open]
    if isinstance(values.get("command"), str) and not asked and not _is_free(members.get("env")):
        mcp |= {"command": values["command"], "args": [str(arg) for arg in values.get("args") or ()]}
        env = [*_variables(members.get("env"))]
        mcp |= {"env": env} if env else {}
    return mcp


def _is_free(env: _Member | None) -> bool:
    """True if users may set any variable: the row speaks of an object and names no members."""
    return env is not None and env.schema.get("type") == "object" and not [*_variables(env)] and env.value is None


def _variables(env: _Member | None) -> Iterable[Json]:
    if env is None:
        return
    needed = env.schema.get("required", ())
    for name in env.schema.get("properties") or {}:
        yield _variable(name, None, optional=name not in needed)
    for name, value in (env.value or {}).items():
        yield _variable(str(name), value if isinstance(value, str) and value else None, optional=False)


def _variable(name: str, value: str | None, *, optional: bool) -> Json:
    secret = bool(SECRET_KEY_PATTERN.search(name))
    variable: Json = {"name": name, "label": name, "secret": secret, "optional": optional or bool(value and not secret)}
    return variable | ({"default": value} if value and not secret else {})


def _is_settled(member: _Member, definition: Json) -> bool:
    """True if users are not asked: the row says it, or another part of the form asks for it."""
    mcp = definition.get("mcp", {})
    protocol = mcp.get("protocol")
    if protocol and protocol not in _SHOWN_FOR.get(member.name, (protocol,)):
        return True
    if member.name in ("command", "args"):
        return "command" in mcp
    if member.name == "env":
        return "command" in mcp or not _is_free(member)
    if member.name == "protocol":
        return "protocol" in mcp
    return member.name == "api_url" and bool(PLACEHOLDER.search(str(definition.get("base_url", ""))))


def _field(member: _Member, members: Mapping[str, _Member]) -> Json:
    schema = member.schema
    kind = schema.get("type", "string")
    shown = _SHOWN_FOR.get(member.name)
    parts = {
        "name": member.name,
        "label": str(schema.get("title") or _label(member.name)),
        "help": schema.get("description"),
        "example": next(iter(schema.get("examples", ())), None),
        "pattern": schema.get("pattern"),
        "type": kind if kind in ("integer", "array", "object") else None,
        "choices": [str(choice) for choice in schema["enum"]] if "enum" in schema else None,
        "default": member.value,
        "when": {"protocol": shown} if shown and "protocol" in members and members["protocol"].value is None else None,
        "optional": member.value is not None
        or not (member.required or member.name in _LEADING[:3] or member.name == "api_url"),
    }
    return {name: value for name, value in parts.items() if value is not None}


_WORDS = {"api": "API", "url": "URL", "id": "ID", "oauth": "OAuth"}


def _label(name: str) -> str:
    words = [_WORDS.get(word, word) for word in name.replace("_", " ").split()]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]]) if words else name


def _schema(given: Mapping[str, Any], members: Iterable[_Member], definition: Json) -> Json:
    """A JSON Schema of the connection config; what the row says itself need not be given again."""
    members = list(members)
    properties: Json = {}
    for member in members:
        properties[member.name] = {key: value for key, value in member.schema.items() if key != "required"}
        if member.name == "env":
            properties["env"] = {"type": "object", "additionalProperties": {"type": "string"}}
        elif member.value is not None and _is_settled(member, definition):
            properties[member.name] = {"const": member.value}
        elif member.value is not None:
            properties[member.name]["default"] = member.value
    schema = dict(given) if _is_schema(given) else {}
    required = [m.name for m in members if m.required and not (m.value is not None and m.name in _LEADING)]
    schema |= {"type": "object", "properties": properties, "required": required}
    return schema if required else {key: value for key, value in schema.items() if key != "required"}
