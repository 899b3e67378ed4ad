"""From an entry as people write it to the row of ``integration_types`` as the product reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from chalicelib.services.forms import USUAL_FIELDS

#: Ids follow from slugs, so that every deployment has the same.
NAMESPACE = UUID("8f1f8c5e-6f0a-4c58-9a53-0d7d6c1f7b1e")

Json = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One row of ``integration_types``."""

    id: UUID
    name: str
    slug: str
    type: str
    category: str
    description: str
    icon_type: str
    config_schema: Json
    tags: list[str]
    auth_methods: list[str]
    definition: Json
    source: str


MINTING_FIELDS: list[Json] = [
    {
        "name": "jwt_signing_key",
        "label": "Signing key",
        "help": "The key that signs a new token for each call.",
        "secret": True,
        "optional": False,
    }
]

_FIELD_ORDER = (
    "name",
    "label",
    "help",
    "help_url",
    "example",
    "pattern",
    "type",
    "choices",
    "default",
    "when",
    "secret",
    "optional",
)
_COPIED = (
    "base_url",
    "headers",
    "verify",
    "proves",
    "rate_limit",
    "mcp",
    "ssh",
    "webhooks",
    "docs",
    "status_page",
    "verified",
)


def fields_of(method: str, part: Mapping[str, Any]) -> list[Json]:
    """The credential fields of a method in order: the usual ones with what the entry says of them, then its own."""
    usual = MINTING_FIELDS if "mint" in part else USUAL_FIELDS[method]
    given = {field["name"]: field for field in part.get("fields", ())}
    merged = [{**field, **given.pop(field["name"], {})} for field in usual]
    added = [{"label": name, "secret": True, "optional": False, **field} for name, field in given.items()]
    return [_ordered(field) for field in (*merged, *added)]


def compiled(entry: Mapping[str, Any]) -> Row:
    """The row of an entry in which nothing is wrong."""
    auth = {method: _method(method, part or {}) for method, part in entry["auth"].items()}
    definition: Json = {"auth": auth}
    fields = [_ordered({"optional": False, **field}) for field in settings_of(entry)]
    definition |= {"config_fields": fields} if fields else {}
    definition |= {name: entry[name] for name in _COPIED if entry.get(name)}
    return Row(
        id=uuid5(NAMESPACE, entry["slug"]),
        name=entry["name"],
        slug=entry["slug"],
        type=entry["type"],
        category=entry["category"],
        description=entry["description"],
        icon_type=entry.get("icon", entry["slug"]),
        config_schema=_config_schema(entry),
        tags=entry["tags"],
        auth_methods=list(auth),
        definition=definition,
        source=entry.get("source", "builtin"),
    )


def settings_of(entry: Mapping[str, Any]) -> list[Json]:
    """What the form asks for beside credentials: the entry's own settings, then another address than the usual one."""
    own = [*entry.get("config", ())]
    for name, label, address in (
        ("url", "Server URL", entry.get("mcp", {}).get("url")),
        ("api_url", "API URL", entry.get("base_url")),
    ):
        if address and name not in {field["name"] for field in own}:
            field = {"name": name, "label": label, "help": "Only if yours is another than this.", "optional": True}
            own.append(field | ({} if "{" in address else {"default": address}))
    return own


def _method(method: str, part: Mapping[str, Any]) -> Json:
    return {"fields": fields_of(method, part)} | {name: value for name, value in part.items() if name != "fields"}


def _ordered(field: Mapping[str, Any]) -> Json:
    return {name: field[name] for name in _FIELD_ORDER if name in field}


def _config_schema(entry: Mapping[str, Any]) -> Json:
    """A JSON Schema of the connection config, under the names that the product's documentation gives them."""
    properties: Json = {field["name"]: _setting(field) for field in settings_of(entry)}
    usual = _mcp_settings(entry["mcp"]) if "mcp" in entry else {}
    usual = _vendor_settings(entry) if entry["type"] == "vendor" else usual
    properties = {name: properties.pop(name, setting) for name, setting in usual.items()} | properties
    # A field that waits for another is required only then; the product's own rules see to that.
    required = [f["name"] for f in entry.get("config", ()) if not f.get("optional") and "when" not in f]
    schema: Json = {"type": "object", "properties": properties}
    return schema | {"required": required} if required else schema


def _setting(field: Mapping[str, Any]) -> Json:
    setting: Json = {"type": field.get("type", "string"), "title": field["label"]}
    if "help" in field:
        setting["description"] = field["help"]
    if setting["type"] == "array":
        setting["items"] = {"type": "string"}
    if setting["type"] == "object":
        setting["additionalProperties"] = {"type": "string"}
    renamed = {"pattern": "pattern", "choices": "enum", "default": "default"}
    setting |= {there: field[here] for here, there in renamed.items() if here in field}
    return setting | {"examples": [field["example"]]} if "example" in field else setting


_TEXT: Json = {"type": "string"}
_TEXTS: Json = {"type": "array", "items": _TEXT}


def _mcp_settings(mcp: Mapping[str, Any]) -> Json:
    settings: Json = {"protocol": {"const": mcp["protocol"]}} if "protocol" in mcp else {}
    if "url" in mcp:
        settings["url"] = _TEXT
    if "command" in mcp:
        settings |= {"command": {"const": mcp["command"]}, "args": {"const": mcp.get("args", [])}}
    if "env" in mcp:
        settings["env"] = {"type": "object", "additionalProperties": _TEXT}
    return settings


def _vendor_settings(entry: Mapping[str, Any]) -> Json:
    settings: Json = {"api_url": _TEXT, "api_version": _TEXT}
    if "oauth" in entry["auth"]:
        settings |= {"oauth_provider": _TEXT, "scopes": _TEXTS}
    if "webhooks" in entry:
        settings["webhook_url"] = _TEXT
    return settings
