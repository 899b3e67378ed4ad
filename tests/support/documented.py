"""A vendor that behaves as its catalogue entry says: which request it expects, and what it answers to whom.

Everything here is read from the entry as it is written, not from what the product made of it.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from functools import reduce
from itertools import zip_longest
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import jmespath

from catalogue.checking import example_config
from chalicelib.model import Verdict
from tests.peers.raw import Request, response

Entry = Mapping[str, Any]
Json = Any

SECRETS = {
    "api_key": ("api_key",),
    "basic": ("username", "password"),
    "oauth": ("access_token",),
    "jwt": ("jwt",),
    "none": (),
}
_KEY_PLACE: Mapping[str, Any] = {"in": "bearer"}
_EXAMPLES: Mapping[str, Json] = {"string": "text", "array": [], "object": {}}


def configs(entry: Entry) -> Iterator[dict[str, Any]]:
    """The least that must be filled in, then with each choice of each field, then with everything."""
    everything = example_config(entry)
    fields = entry.get("config", ())
    least = {f["name"]: everything[f["name"]] for f in fields if not f.get("optional") and f["name"] in everything}
    yield least
    for field in fields:
        for choice in field.get("choices", ()):
            yield least | {field["name"]: choice}
    if everything != least:
        yield everything


def filled(template: str, config: Mapping[str, Any]) -> str:
    for name, value in config.items():
        template = template.replace("{" + name + "}", str(value))
    return template


def address(entry: Entry, config: Mapping[str, Any]) -> str:
    """Where the verification goes."""
    base = config.get("api_url") or filled(entry["base_url"], config)
    path = filled(entry.get("verify", {}).get("path", ""), config)
    return base.rstrip("/") + path if path else str(base)


def presented(entry: Entry, method: str, secrets: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The headers and the query parameters that show these credentials, as ``schema.json`` describes the places."""
    extra = {name.removeprefix("header.").lower(): text for name, text in secrets.items() if name.startswith("header.")}
    if method == "none":
        return extra, {}
    if method == "basic":
        return {**extra, "authorization": _basic(secrets["username"], secrets["password"])}, {}
    place = (entry["auth"][method] or {}).get("place", _KEY_PLACE)
    key, name = secrets[SECRETS[method][0]], place.get("name", "")
    if place["in"] == "query":
        return extra, {name: place.get("prefix", "") + key}
    shown = {
        "bearer": ("authorization", f"Bearer {key}"),
        "header": (name.lower(), place.get("prefix", "") + key),
        "basic_user": ("authorization", _basic(key, name)),
        "basic_password": ("authorization", _basic(name, key)),
    }[place["in"]]
    return {**extra, shown[0]: shown[1]}, {}


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def complaints(entry: Entry, config: Mapping[str, Any], query: Mapping[str, str], request: Request) -> list[str]:
    """What is not as documented in a request, its credentials aside; ``query`` are those shown in the query."""
    verify, expected = entry.get("verify", {}), urlsplit(address(entry, config))
    asked = urlsplit(request.target)
    wanted_query = {name: str(value) for name, value in verify.get("query", {}).items()} | dict.fromkeys(query, "")
    given_query = {name: "" if name in query else value for name, value in parse_qsl(asked.query)}
    given_body = json.loads(request.body) if request.body else None
    pairs = {
        "method": (request.method, verify.get("method", "GET")),
        "host": (request.headers.get("host"), expected.netloc.lower()),
        "path": (unquote(asked.path), unquote(expected.path) or "/"),
        "query": (given_query, wanted_query),
        "body": (given_body, verify.get("body")),
        **{name: (request.headers.get(name.lower()), value) for name, value in entry.get("headers", {}).items()},
    }
    return [f"{what}: {given!r}, not {wanted!r}" for what, (given, wanted) in pairs.items() if given != wanted]


def knows(headers: Mapping[str, str], query: Mapping[str, str], request: Request) -> bool:
    """Whether a request shows these credentials."""
    asked = dict(parse_qsl(urlsplit(request.target).query))
    return headers.items() <= request.headers.items() and query.items() <= asked.items()


def welcome(entry: Entry) -> bytes:
    """The answer to the right credential: everything that the entry reads out, and its rate limit headers."""
    verify, proves = entry.get("verify", {}), entry.get("proves", {})
    body: Json = None
    for name, source in proves.items():
        if "path" in source:
            body = _merged(body, _shaped(_parsed(source["path"]), _leaf(source["path"], name)))
    if "accepted_when" in verify:
        body = _merged(body, _shaped(_parsed(verify["accepted_when"]["path"]), verify["accepted_when"]["equals"]))
    headers = {source["header"]: f"header of {name}" for name, source in proves.items() if "header" in source}
    headers |= {entry["rate_limit"][name]: text for name, text in known_limits(entry).items()}
    return _answer(verify.get("accepted", [200])[0], body, headers)


def known_limits(entry: Entry) -> dict[str, str]:
    """What the documented headers of an accepted answer tell about the rate limit."""
    values = {"remaining": "42", "limit": "100", "reset": "60"}
    return {name: text for name, text in values.items() if name in entry.get("rate_limit", {})}


def proved(entry: Entry, body: Json) -> dict[str, Any]:
    """What the body proves, by the paths of the entry."""
    return {
        name: jmespath.search(source["path"], body) if "path" in source else f"header of {name}"
        for name, source in entry.get("proves", {}).items()
    }


def refusals(entry: Entry, method: str) -> list[tuple[bytes, Verdict]]:
    """Every documented way to say that the credential is wrong."""
    verdict = Verdict.NEEDS_REAUTH if method == "oauth" else Verdict.AUTH_REJECTED
    blaming = ("auth_rejected", "needs_reauth")
    return [(_answer(status), verdict) for status in _statuses(entry, "refused")] + _in_words(entry, blaming)


def troubles(entry: Entry, method: str) -> list[tuple[bytes, Verdict]]:
    """Every documented way to say anything else than yes or no, and an outage."""
    scope = Verdict.AUTH_REJECTED if method == "none" else Verdict.FORBIDDEN_SCOPE
    wait = {entry.get("rate_limit", {}).get("retry_after", "Retry-After"): "17"}
    found = [(_answer(status), scope) for status in _statuses(entry, "missing_scope")]
    found += [(_answer(status, headers=wait), Verdict.RATE_LIMITED) for status in _statuses(entry, "limited")]
    found += [(_answer(status), Verdict.PROVIDER_DOWN) for status in (500, 503)]
    return found + _in_words(entry, ("forbidden_scope", "rate_limited", "provider_down", "misconfigured"))


_USUAL = {"refused": [401], "missing_scope": [403], "limited": [429]}


def _statuses(entry: Entry, meaning: str) -> list[int]:
    """The statuses of that meaning alone: some are told apart by words of the body only."""
    verify = entry.get("verify", {})
    others = set(verify.get("accepted", ()))
    others |= set(verify.get("refused", ())) if meaning == "missing_scope" else set()
    return [status for status in verify.get(meaning, _USUAL[meaning]) if status not in others]


def _in_words(entry: Entry, verdicts: tuple[str, ...]) -> list[tuple[bytes, Verdict]]:
    verify = entry.get("verify", {})
    return [
        (_answer(verify["accepted"][-1], _shaped(_parsed(rule["path"]), word)), Verdict(rule["verdict"]))
        for rule in verify.get("body_verdicts", ())
        if rule["verdict"] in verdicts
        for word in rule["in"]
    ]


def _answer(status: int, body: Json = None, headers: dict[str, str] | None = None) -> bytes:
    return response(status, json.dumps({} if body is None else body).encode(), headers)


def _parsed(path: str) -> Json:
    return jmespath.compile(path).parsed


def _leaf(path: str, name: str) -> Json:
    root = _parsed(path)
    if root["type"] == "projection":
        return [f"one of {name}", f"other of {name}"]
    return 2 if root.get("value") == "length" else f"text of {name}"


def _shaped(node: Json, leaf: Json) -> Json:
    """The smallest JSON in which this JMESPath expression finds ``leaf``."""
    kind, children = node["type"], node.get("children", [])
    if kind == "field":
        return {node["value"]: leaf}
    if kind == "subexpression":
        return reduce(lambda inner, child: _shaped(child, inner), reversed(children), leaf)
    if kind == "index_expression":
        return _shaped(children[0], [*[None] * children[1]["value"], leaf])
    if kind == "projection":
        return _shaped(children[0], [_shaped(children[1], item) for item in leaf])
    if kind == "flatten":
        return _shaped(children[0], leaf)
    if kind in ("current", "identity"):
        return leaf
    if kind == "and_expression":
        return _merged(_shaped(children[0], leaf), _shaped(children[1], leaf))
    if kind == "comparator" and leaf is True:
        return _shaped(children[0], children[1].get("value") if children[1]["type"] == "literal" else None)
    if kind == "function_expression" and node["value"] == "length":
        return _shaped(children[0], [None] * leaf)
    if kind == "function_expression" and node["value"] == "type":
        return _shaped(children[0], _EXAMPLES[leaf])
    raise NotImplementedError(f"an expression of kind {kind}: teach it here")


def _merged(one: Json, other: Json) -> Json:
    """Both at once; where both say something, the other, but never less than a container that holds something."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _merged(one.get(name), other.get(name)) for name in {**one, **other}}
    if isinstance(one, list) and isinstance(other, list):
        return [_merged(left, right) for left, right in zip_longest(one, other)]
    return one if other is None or (isinstance(one, dict | list) and one) else other
