"""Vendor HTTP: one verification request as the type's template says, and what its answer proves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2

from chalicelib.model import Verdict
from chalicelib.probes.clients import guarded_client
from chalicelib.probes.credentials import LABELS
from chalicelib.probes.kept import shortened
from chalicelib.probes.redirects import same_place
from chalicelib.probes.statuses import Meaning, judged
from chalicelib.probes.verdicts import Finding
from chalicelib.probes.visit import Visit
from chalicelib.services.addresses import fill_template


async def check(visit: Visit) -> None:
    """Finds what the verification proves. Raises :class:`Finding`, or what the guard's client raises."""
    verify = visit.target.type.definition.get("verify", {})
    meaning = _meaning(visit)
    url = httpx2.URL(_url(visit, verify)).copy_merge_params(verify.get("query") or {})
    async with guarded_client(visit) as client:
        request = client.build_request(verify.get("method", "GET"), url, json=verify.get("body"))
        response = await same_place(visit, client, request)
        await response.aread()
    finding = judged(visit, response.status_code, response.headers, response.text, meaning)
    if finding:
        raise finding
    body = _json(visit, response)
    _judge_body(visit, verify, body, response)
    visit.passed("auth", "call")
    visit.passed("call", "call")
    visit.conclude(_proved(visit, response, body))


def _url(visit: Visit, verify: Mapping[str, Any]) -> str:
    base, path = visit.endpoint.url or "", verify.get("path")
    if not path:
        return base
    literal = base.rstrip("/").replace("{", "%7B").replace("}", "%7D")
    definition = visit.target.type.definition
    patterns = {str(entry["name"]): entry.get("pattern") for entry in definition.get("config_fields", ())}
    problems: list[tuple[str, str]] = []
    url = fill_template(literal + "/" + path.lstrip("/"), visit.target.config, patterns, problems)
    if url is None:
        field, problem = problems[0]
        message = f"Before connecting: the setting {field} {problem}. Correct it and test again."
        raise Finding(Verdict.MISCONFIGURED, "policy", message, detail=f"{field} {problem}")
    return url


def _meaning(visit: Visit) -> Meaning:
    verify = visit.target.type.definition.get("verify", {})
    limits = visit.target.type.definition.get("rate_limit", {})
    given = {name: verify[name] for name in ("accepted", "refused", "missing_scope", "limited") if name in verify}
    given |= {name: limits[name] for name in ("remaining", "retry_after") if name in limits}
    return Meaning(**given)


def _json(visit: Visit, response: httpx2.Response) -> Any:
    """The body as JSON, None if it is of another kind: whether JSON is needed, the type's template says.

    Raises :class:`Finding` for a web page, which a proxy or a sign-in may put before the API, and for broken JSON:
    an accepted status proves nothing then.
    """
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        pass
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not response.content.strip() or not ("html" in kind or kind.endswith("json")):
        return None
    what = "a web page" if "html" in kind else "broken JSON"
    message = f"The server answered the call with {what}. Check that the URL leads to its API, or tell its operator."
    raise Finding(Verdict.PROTOCOL, "call", message, detail=visit.with_excerpt(what, response.text))


def _judge_body(visit: Visit, verify: Mapping[str, Any], body: Any, response: httpx2.Response) -> None:
    """Some vendors answer 200 to everything and tell the truth in the body."""
    for rule in verify.get("body_verdicts", ()):
        found = _find(rule["path"], body)
        if found is not None and found in rule["in"]:
            raise _body_finding(visit, Verdict(rule["verdict"]), str(found))
    expected = verify.get("accepted_when")
    if expected and _find(expected["path"], body) != expected["equals"]:
        detail = visit.with_excerpt(f"HTTP {response.status_code}", response.text)
        message = "The server answered the call with something unexpected. Check that the URL leads to its API."
        raise Finding(Verdict.PROTOCOL, "call", message, detail=detail)


_BODY_MESSAGES = {
    Verdict.AUTH_REJECTED: ("auth", "The server refused the {label}. Create a new one and save it here."),
    Verdict.NEEDS_REAUTH: ("auth", "The server no longer accepts the sign-in. Sign in again."),
    Verdict.FORBIDDEN_SCOPE: (
        "auth",
        "The server knows the {label} but does not allow it this. Give it the missing permission or scope at the "
        "provider, or save one that has it.",
    ),
    Verdict.RATE_LIMITED: (
        "call",
        "The call was not answered because the server's rate limit is reached. Try again in a few minutes.",
    ),
    Verdict.PROVIDER_DOWN: ("call", "The server answered the call with an error of its own. Try again later."),
}


def _body_finding(visit: Visit, verdict: Verdict, word: str) -> Finding:
    fallback = ("call", "The server did not accept the call. Check the settings of this connection.")
    step, message = _BODY_MESSAGES.get(verdict, fallback)
    return Finding(verdict, step, message.format(label=LABELS[visit.target.auth_method]), detail=visit.excerpt(word))


def _proved(visit: Visit, response: httpx2.Response, body: Any) -> dict[str, Any]:
    definition = visit.target.type.definition
    proved: dict[str, Any] = {}
    for name, source in definition.get("proves", {}).items():
        header = source.get("header")
        proved[name] = shortened(response.headers.get(header) if header else _find(source["path"], body))
    names = {"limit": "X-RateLimit-Limit", "remaining": "X-RateLimit-Remaining", "reset": "X-RateLimit-Reset"}
    names |= {name: header for name, header in definition.get("rate_limit", {}).items() if name in names}
    limits = {name: shortened(response.headers[header]) for name, header in names.items() if header in response.headers}
    return {**proved, "rate_limit": limits} if limits else proved


def _find(path: str, body: Any) -> Any:
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        return jmespath.search(path, body)
    except (JMESPathError, RecursionError, TypeError):
        return None
