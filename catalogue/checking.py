"""What is wrong with an entry, in words that say what to write instead.

First ``schema.json`` speaks; whoever passes it is asked what a schema cannot: that placeholders, examples, patterns and
paths fit together, and that the product itself can connect with the entry's own examples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import jmespath
from jmespath.exceptions import JMESPathError
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from catalogue.compiling import compiled, fields_of
from catalogue.reading import Mistake, Place, Source
from chalicelib.model import IntegrationType
from chalicelib.services.config_rules import SECRET_KEY_PATTERN, credential_name_problem
from chalicelib.services.endpoints import config_problems

SCHEMA_FILE = Path(__file__).with_name("schema.json")
PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")

#: The credentials that each method can store (``api.md``).
CREDENTIALS = {
    "api_key": {"api_key"},
    "basic": {"username", "password"},
    "oauth": {"access_token", "refresh_token", "client_id", "client_secret"},
    "jwt": {"jwt", "jwt_signing_key", "key_id", "issuer"},
    "certificate": {"client_certificate", "client_key", "client_key_passphrase", "ca_certificate"},
    "ssh_key": {"username", "private_key", "private_key_passphrase", "host_key"},
    "none": set(),
}


@cache
def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return found


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(schema())


def mistakes_in(source: Source) -> list[Mistake]:
    """Everything that is wrong with this file; [] if it may be compiled."""
    if not isinstance(source.data, dict):
        return [source.mistake((), "the file is empty: begin with 'slug: " + source.stem + "'")]
    found = [mistake for error in _validator().iter_errors(source.data) for mistake in _said(source, error)]
    found = found or list(_deeper(source))
    return found or list(_about_connecting(source, source.data))


def _said(source: Source, error: ValidationError) -> Iterator[Mistake]:
    place = tuple(error.absolute_path)
    name = _shown(place)
    value, rule = error.instance, error.validator_value
    if error.validator == "required":
        missing = [key for key in rule if key not in value]
        for key in missing:
            yield source.mistake(place, f"{name} lacks '{key}': add it, {_advice(_subschema(error, key))}")
    elif error.validator == "dependentRequired":
        for key, needed in rule.items():
            for other in needed if key in value else ():
                if other not in value:
                    yield source.mistake((*place, key), f"{name} has '{key}' but no '{other}': add '{other}'")
    elif error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        for key in value:
            if key not in known:
                close = get_close_matches(str(key), known, 1)
                advice = f"write '{close[0]}'" if close else "write one of: " + ", ".join(known)
                yield source.mistake((*place, key), f"{name} has no field '{key}': {advice}")
    elif error.validator == "enum":
        close = get_close_matches(str(value), [str(choice) for choice in rule], 1)
        choices = ", ".join(map(str, rule))
        advice = f"write {close[0]} (or another of: {choices})" if close else f"write one of: {choices}"
        yield source.mistake(place, f"{name} cannot be {_quoted(value)}: {advice}")
    else:
        yield source.mistake(place, f"{name} cannot be {_quoted(value)}: write {_advice(_plain(error.schema))}")


def _shown(place: Place) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".") or "the entry"


def _quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _plain(part: Any) -> Mapping[str, Any]:
    """A part of the schema with what it refers to."""
    if not isinstance(part, Mapping):
        return {}
    if "$ref" in part:
        return {**schema()["$defs"][part["$ref"].rpartition("/")[2]], **part}
    return part


def _subschema(error: ValidationError, key: str) -> Mapping[str, Any]:
    part = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
    return _plain(part.get(key) or schema()["properties"].get(key))


def _advice(part: Mapping[str, Any]) -> str:
    advice = str(part.get("description", "as catalogue/schema.json says"))
    if "enum" in part:
        advice += " (one of: " + ", ".join(map(str, part["enum"])) + ")"
    examples = part.get("examples")
    return advice + (f"; for example {_quoted(examples[0])}" if examples else "")


def _deeper(source: Source) -> Iterator[Mistake]:
    entry = source.data
    if entry["slug"] != source.stem:
        yield source.mistake(("slug",), f"slug must be the name of the file: write '{source.stem}', or rename the file")
    yield from _about_config(source, entry)
    yield from _about_credentials(source, entry)
    yield from _about_placeholders(source, entry)
    yield from _about_expressions(source, entry)
    if entry["type"] == "vendor" and "base_url" not in entry and "verify" in entry:
        fields = {field["name"] for field in entry.get("config", ())}
        if "api_url" not in fields:
            yield source.mistake((), "there is no base_url: add it, or a field 'api_url' to config that asks for it")


def _about_config(source: Source, entry: Mapping[str, Any]) -> Iterator[Mistake]:
    seen: set[str] = set()
    for index, field in enumerate(entry.get("config", ())):
        place, name = ("config", index, "name"), field["name"]
        if name in seen:
            yield source.mistake(place, f"two config fields are called '{name}': rename one")
        seen.add(name)
        if SECRET_KEY_PATTERN.search(name):
            yield source.mistake(
                place, f"'{name}' looks like a secret, which no config may hold: make it a field of auth"
            )
        for other in field.get("when", {}):
            if other not in {known["name"] for known in entry["config"]}:
                yield source.mistake(("config", index, "when"), f"there is no config field '{other}' to wait for")
        yield from _about_examples(source, ("config", index), field, whole=True)


def _about_credentials(source: Source, entry: Mapping[str, Any]) -> Iterator[Mistake]:
    for method, part in entry["auth"].items():
        for index, field in enumerate((part or {}).get("fields", ())):
            place, name = ("auth", method, "fields", index), field["name"]
            allowed = CREDENTIALS[method]
            problem = credential_name_problem(name)
            if problem:
                yield source.mistake((*place, "name"), f"'{name}' {problem}")
            elif "." not in name and name not in allowed:
                names = ", ".join([*sorted(allowed), "header.NAME", "env.NAME"])
                yield source.mistake((*place, "name"), f"{method} cannot store '{name}': write one of {names}")
            yield from _about_examples(source, place, field, whole=False)
        for field in fields_of(method, part or {}):
            if field["secret"] and field.get("example", "…")[-1] != "…":
                message = f"end the example with …, so that nobody takes it for a real secret: {field['example'][:12]}…"
                yield source.mistake(("auth", method, "fields"), message)


def _about_examples(source: Source, place: Place, field: Mapping[str, Any], *, whole: bool) -> Iterator[Mistake]:
    pattern, example = field.get("pattern"), field.get("example")
    if pattern is None:
        return
    try:
        compiled_pattern = re.compile(pattern)
    except re.error as error:
        yield source.mistake(
            (*place, "pattern"), f"this is no regular expression ({error}): correct {_quoted(pattern)}"
        )
        return
    if whole and not (pattern.startswith("^") and pattern.endswith("$")):
        yield source.mistake(
            (*place, "pattern"), f"a setting's pattern covers the whole value: write '^{pattern.strip('^$')}$'"
        )
    elif isinstance(example, str) and not compiled_pattern.search(example):
        yield source.mistake(
            (*place, "example"), f"the example {_quoted(example)} does not match {pattern}: correct one of them"
        )


def _about_placeholders(source: Source, entry: Mapping[str, Any]) -> Iterator[Mistake]:
    settings = {field["name"] for field in entry.get("config", ())}
    oauth = entry["auth"].get("oauth") or {}
    places: list[tuple[Place, Any, set[str]]] = [
        (("base_url",), entry.get("base_url"), settings),
        (("mcp", "url"), entry.get("mcp", {}).get("url"), settings),
        (("verify", "path"), entry.get("verify", {}).get("path"), settings),
        *(
            (("auth", "oauth", name), oauth.get(name), settings)
            for name in ("authorize_url", "token_url", "revoke_url")
        ),
    ]
    jwt = entry["auth"].get("jwt") or {}
    minting = settings | {field["name"] for field in fields_of("jwt", jwt)}
    places += [
        (("auth", "jwt", "mint", part), jwt.get("mint", {}).get(part), minting) for part in ("claims", "headers")
    ]
    for place, value, known in places:
        for name in PLACEHOLDER.findall(json.dumps(value)) if value else ():
            if name not in known:
                yield source.mistake(place, f"nothing fills {{{name}}}: add a field '{name}' to config")


def _about_expressions(source: Source, entry: Mapping[str, Any]) -> Iterator[Mistake]:
    paths: list[tuple[Place, str]] = [
        (("proves", name, "path"), part["path"]) for name, part in entry.get("proves", {}).items() if "path" in part
    ]
    verify = entry.get("verify", {})
    if "accepted_when" in verify:
        paths.append((("verify", "accepted_when", "path"), verify["accepted_when"]["path"]))
    for index, rule in enumerate(verify.get("body_verdicts", ())):
        paths.append((("verify", "body_verdicts", index, "path"), rule["path"]))
    for where, path in paths:
        try:
            jmespath.compile(path)
        except JMESPathError:
            yield source.mistake(where, f"this is no JMESPath: {_quoted(path)}; write for example user.name")


def _about_connecting(source: Source, entry: Mapping[str, Any]) -> Iterator[Mistake]:
    """The product's own rules, with the entry's own examples as what a user typed."""
    row = compiled(entry)
    kind = IntegrationType(UUID(int=0), row.slug, row.name, row.type, row.category, row.config_schema, row.definition)
    fields = entry.get("config", ())
    for method in row.auth_methods:
        for field, problem in config_problems(kind, method, example_config(entry)):
            index = next((i for i, known in enumerate(fields) if field.endswith("." + known["name"])), None)
            place: Place = ("auth", method) if index is None else ("config", index)
            yield source.mistake(place, f"connecting with the entry's own examples fails: {field} {problem}")


def example_config(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A connection config made of the entry's own examples, defaults and first choices."""
    config: dict[str, Any] = {}
    for field in entry.get("config", ()):
        value = field.get("example", field.get("default", field.get("choices", [None])[0]))
        shown = all(config.get(other) in values for other, values in field.get("when", {}).items())
        if shown and value is not None:
            config[field["name"]] = value
    env = {
        variable["name"]: variable.get("example", "x")
        for variable in entry.get("mcp", {}).get("env", ())
        if not variable.get("secret")
    }
    return config | {"env": env} if env else config
