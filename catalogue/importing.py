"""From the public MCP registry's format to an entry for review: what ``server.json`` says, and nothing besides.

The format is described at https://github.com/modelcontextprotocol/registry/tree/main/docs/reference/server-json
(schemas 2025-07-09 to 2025-12-11). It knows no category, and not how a remote server signs people in unless a header
does: such gaps are named in comments at the top of the file, and whoever reviews it fills them in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from catalogue.reading import Mistake, Mistakes

Json = dict[str, Any]

_PROTOCOLS = {"streamable-http": "http", "sse": "sse"}
_FILLING = frozenset(["mcp", "server", "official", "remote", "the"])
_DOMAINS = frozenset(["com", "io", "ai", "dev", "net", "org", "app", "co", "github", "www", "mcp"])
_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ENVIRONMENT = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(=(?P<value>.*))?")
#: What runs a package of each registry, and how a version is pinned.
_RUNTIMES = {
    "npm": ("npx", ["-y"], "{identifier}@{version}"),
    "pypi": ("uvx", [], "{identifier}@{version}"),
    "nuget": ("dnx", ["--yes"], "{identifier}@{version}"),
    "oci": ("docker", ["run", "-i", "--rm"], "{identifier}"),
}


@dataclass
class Draft:
    """An entry as far as the registry's file tells it, and what a person must look at."""

    entry: Json
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        comments = [f"# review: {note}" for note in self.notes]
        body = yaml.safe_dump(self.entry, sort_keys=False, allow_unicode=True, width=120)
        return "\n".join([*comments, body])


def drafts_from(path: Path, shown_as: str, *, local: bool = False) -> list[Draft]:
    """The entries of one file: a ``server.json``, or an answer of a registry. Raises :class:`Mistakes`.

    ``local`` prefers a package that is run over a server that is reached.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Mistakes([Mistake(shown_as, 1, f"cannot be read ({error.strerror}): name a server.json")]) from None
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise Mistakes([Mistake(shown_as, line, f"this is not JSON ({error}): name a server.json")]) from None
    servers = [*_servers(_camel(found))]
    if not servers:
        advice = "there is no server here: it has 'name' and 'remotes' or 'packages', or lists such under 'servers'"
        raise Mistakes([Mistake(shown_as, 1, advice)])
    return [_draft(server, local) for server in servers]


def _servers(found: Any) -> Iterator[Json]:
    if isinstance(found, list):
        for each in found:
            yield from _servers(each)
    elif isinstance(found, dict) and isinstance(found.get("servers"), list):
        yield from _servers(found["servers"])
    elif isinstance(found, dict) and isinstance(found.get("server"), dict):
        yield from _servers(found["server"])
    elif isinstance(found, dict) and isinstance(found.get("name"), str) and {"remotes", "packages"} & set(found):
        yield found


def _camel(found: Any) -> Any:
    """Until September 2025 the names of fields were written with underscores."""
    if isinstance(found, list):
        return [_camel(each) for each in found]
    if not isinstance(found, dict):
        return found
    named = {re.sub(r"(?<=[a-z])_([a-z])", lambda m: m[1].upper(), key): value for key, value in found.items()}
    return {key: value if key == "variables" else _camel(value) for key, value in named.items()}


def _draft(server: Json, local: bool) -> Draft:
    words = _words(server["name"])
    title = server.get("title") or " ".join(word.capitalize() for word in words) + " MCP"
    page = server.get("websiteUrl") or server.get("repository", {}).get("url")
    draft = Draft({"slug": "-".join([*words, "mcp"]), "name": title, "type": "mcp"})
    draft.notes.append("write the category, after name: the one shelf where a new user looks first")
    draft.entry |= {"description": " ".join(str(server.get("description", "")).split())[:300], "tags": ["mcp", *words]}
    if page:
        draft.entry["docs"] = {"developer": page}
    remotes = [each for each in server.get("remotes", ()) if each.get("type") in _PROTOCOLS]
    packages = [each for each in server.get("packages", ()) if _is_run(each)]
    if remotes and not (local and packages):
        _describe_remote(draft, min(remotes, key=lambda each: [*_PROTOCOLS].index(each["type"])))
        others = [f"the package {each['identifier']}" for each in packages]
        others += [each["url"] for each in remotes if each.get("url") != draft.entry["mcp"].get("url")]
        draft.notes += [f"it is also offered as {other}" for other in others]
    elif packages:
        _describe_package(draft, packages[0])
    else:
        draft.entry |= {"auth": {"none": {}}, "mcp": {}}
        draft.notes.append(
            "no remote server and no package that npx, uvx, dnx or docker runs: this cannot be connected"
        )
    if page:
        draft.entry["verified"] = {"page": page}
        draft.notes.append(f"read {page}, compare, and add the day to verified as 'on'")
    return draft


def _words(name: str) -> list[str]:
    """``com.neon/mcp`` → neon; ``io.github.upstash/context7`` → context7."""
    namespace, _, last = name.lower().rpartition("/")
    own = [word for word in re.split(r"[^a-z0-9]+", last) if word and word not in _FILLING]
    vendor = [word for word in re.split(r"[^a-z0-9]+", namespace) if word and word not in _DOMAINS]
    return own or vendor[-1:] or ["server"]


def _describe_remote(draft: Draft, remote: Json) -> None:
    url = str(remote.get("url", ""))
    variables = remote.get("variables") or {}
    settings = [_setting(name, variables.get(name, {})) for name in dict.fromkeys(_VARIABLE.findall(url))]
    methods, headers = _signing_in(draft, remote.get("headers") or [])
    draft.entry["auth"] = methods
    if settings:
        draft.entry["config"] = settings
    if headers:
        draft.entry["headers"] = headers
    draft.entry["mcp"] = {"protocol": _PROTOCOLS[remote["type"]], "url": url}


def _signing_in(draft: Draft, headers: list[Json]) -> tuple[Json, Json]:
    """The auth methods that the headers speak of, and the headers that everybody sends."""
    secret = [header for header in headers if _is_secret(header)]
    fixed = {}
    for header in headers:
        value = header.get("value")
        if header in secret:
            continue
        if value and not _VARIABLE.search(value):
            fixed[header["name"]] = value
        else:
            draft.notes.append(f"the header {header['name']} is left out: {_described(header) or 'nothing says why'}")
    if not secret:
        draft.notes.append("no header says how to sign in: keep oauth if the server asks for it, none if it is open")
        return {"oauth": {}, "none": {}}, fixed
    first = next((header for header in secret if header["name"].lower() == "authorization"), secret[0])
    fields = [_credential("api_key", first)]
    fields += [_credential(f"header.{header['name']}", header) for header in secret if header is not first]
    methods: Json = {"api_key": {"fields": fields, "place": _place(first)}}
    if not first.get("isRequired"):
        draft.notes.append(
            f"{first['name']} may be left out: is it oauth that stands in for it, or is the server open?"
        )
        methods["oauth"] = {}
    return methods, fixed


def _place(header: Json) -> Json:
    template = str(header.get("value") or "")
    prefix = template[: template.find("{")] if "{" in template else ""
    says_bearer = prefix == "Bearer " or (not template and "bearer" in str(header.get("description", "")).lower())
    if header["name"].lower() == "authorization" and (says_bearer or not template):
        return {"in": "bearer"}
    return {"in": "header", "name": header["name"]} | ({"prefix": prefix} if prefix else {})


def _is_secret(value: Json) -> bool:
    return bool(value.get("isSecret")) or any(each.get("isSecret") for each in (value.get("variables") or {}).values())


def _described(value: Json) -> str:
    parts = [value, *(value.get("variables") or {}).values()]
    return next((" ".join(str(each["description"]).split()) for each in parts if each.get("description")), "")


def _help(value: Json) -> Json:
    text = _described(value)[:300]
    return {"help": text} if len(text) >= 5 else {}


def _label(name: str) -> str:
    return re.sub(r"[_.-]+", " ", name).strip().capitalize()[:60]


def _credential(name: str, header: Json) -> Json:
    label = "API key" if name == "api_key" else _label(header["name"])
    return {"name": name, "label": label} | _help(header)


def _setting(name: str, value: Json) -> Json:
    setting = {"name": name, "label": _label(name)} | _help(value)
    example = value.get("placeholder") or value.get("default")
    if example and not value.get("choices"):
        setting["example"] = str(example)[:100]
    if value.get("choices"):
        setting["choices"] = [str(choice) for choice in value["choices"]]
    if value.get("default"):
        setting["default"] = str(value["default"])
    return setting


def _is_run(package: Json) -> bool:
    transport = (package.get("transport") or {}).get("type", "stdio")
    return package.get("registryType") in _RUNTIMES and transport == "stdio"


def _describe_package(draft: Draft, package: Json) -> None:
    command, before, pinned = _RUNTIMES[package["registryType"]]
    version = package.get("version")
    identifier = pinned.format(identifier=package["identifier"], version=version) if version else package["identifier"]
    variables = [_variable(each) for each in package.get("environmentVariables") or ()]
    given, asked = _arguments(package.get("runtimeArguments") or (), variables)
    after, also_asked = _arguments(package.get("packageArguments") or (), variables)
    # A registry may repeat what its runtime needs anyway, and the image.
    given = [word for word in given if word not in before and word.partition(":")[0] != identifier.partition(":")[0]]
    if package["registryType"] == "oci":
        known = {word for word in given if not word.startswith("-")}
        given += [word for each in variables if each["name"] not in known for word in ("-e", each["name"])]
    words = [*before, *given, identifier, *after]
    draft.entry["auth"] = {"none": {}}
    if asked or also_asked:
        draft.notes.append("it takes arguments from the user, so that it runs only where any command may run")
        draft.entry["config"] = [
            {"name": "command", "label": "Command", "default": command, "example": command},
            {"name": "args", "label": "Arguments", "type": "array", "example": [*words, *asked, *also_asked]},
        ]
        draft.entry["mcp"] = {"protocol": "stdio"}
    else:
        draft.entry["mcp"] = {"protocol": "stdio", "command": command, "args": words}
        if variables:
            draft.entry["mcp"]["env"] = variables


def _variable(value: Json) -> Json:
    secret = _is_secret(value)
    variable = {"name": value["name"], "label": _label(value["name"])} | _help(value)
    example = value.get("placeholder") or value.get("default")
    if example and not secret:
        variable["example"] = str(example)[:100]
    default = value.get("value") or value.get("default")
    if default and not secret and not _VARIABLE.search(str(default)):
        variable["default"] = str(default)
    if secret:
        variable["secret"] = True
    if not value.get("isRequired", value.get("required")):
        variable["optional"] = True
    return variable


def _arguments(arguments: Any, variables: list[Json]) -> tuple[list[str], list[str]]:
    """The words that are the same for everybody, and placeholders for those that each user gives."""
    words: list[str] = []
    asked: list[str] = []
    for argument in arguments:
        value = argument.get("value")
        name = argument.get("name") if argument.get("type") == "named" else None
        environment = _ENVIRONMENT.fullmatch(str(value or "")) if name in ("-e", "--env") else None
        if environment:
            _remember(variables, environment["name"], argument)
            words += [str(name), environment["name"]]
        elif name and (argument.get("format") == "boolean" or value is None) and not argument.get("isRequired"):
            words += [str(name)] if str(value) == "true" else []
        elif value is not None and not _VARIABLE.search(str(value)):
            words += [str(word) for word in (name, value) if word is not None and str(word) != "true"]
        elif argument.get("isRequired"):
            asked += [str(name)] if name else []
            asked.append(f"<{argument.get('valueHint') or argument.get('default') or 'value'}>")
    return words, asked


def _remember(variables: list[Json], name: str, argument: Json) -> None:
    """A variable that is given to docker with -e."""
    if name not in {each["name"] for each in variables}:
        required = any(each.get("isRequired") for each in (argument.get("variables") or {}).values())
        variables.append(_variable({**argument, "name": name, "value": None, "isRequired": required}))
