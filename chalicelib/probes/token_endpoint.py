"""One request to an OAuth token endpoint (RFC 6749 §4.4, §6), through the guard and nowhere else.

Only the words that mean so blame anybody; a failure of the endpoint proves nothing about a token. Nothing of an answer
is quoted but those words, since an answer may hold tokens.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn
from urllib.parse import quote_plus

import anyio
import httpx2

from chalicelib.egress.failures import ResponseTooLarge
from chalicelib.egress.guard import Guard
from chalicelib.errors import Invalid
from chalicelib.model import AuthMethod, CheckResult, IssuedTokens, Secret, Target, Verdict
from chalicelib.probes.clients import USER_AGENT
from chalicelib.probes.credentials import Shown
from chalicelib.probes.statuses import retry_after_s
from chalicelib.probes.verdicts import Finding, finding_of, timeout_finding
from chalicelib.probes.visit import Visit
from chalicelib.services.endpoints import Endpoint, token_url_of
from chalicelib.services.token_refresh import Grant

MAX_BYTES = 65_536
MAX_TOKEN = 60_000
LONGEST_LIFE_S = 10 * 365 * 86_400

#: RFC 6749 §5.2, and what GitHub and Slack say instead.
_GRANT_REFUSED = frozenset({"invalid_grant", "bad_refresh_token", "invalid_refresh_token"})
_CLIENT_REFUSED = frozenset(
    {"invalid_client", "unauthorized_client", "incorrect_client_credentials", "invalid_client_id", "bad_client_secret"}
)
_REQUEST_REFUSED = frozenset({"invalid_request", "unsupported_grant_type", "invalid_scope", "invalid_target"})
_LIMITED = frozenset({"slow_down", "ratelimited"})
_DOWN = frozenset({"server_error", "temporarily_unavailable"})
_WORDS = _GRANT_REFUSED | _CLIENT_REFUSED | _REQUEST_REFUSED | _LIMITED | _DOWN
#: They need a key or a signature beside the token. Vendors have words of their own for bearer tokens (Slack: "bot").
_NOT_BEARER = frozenset({"mac", "pop", "dpop"})


class TokenEndpoint:
    """Asks through the guard. Holds no connection, so one serves any number of event loops. Times are seconds."""

    def __init__(self, guard: Guard, *, connect_s: float, total_s: float) -> None:
        self._guard = guard
        self._connect_s = connect_s
        self._total_s = total_s

    async def ask(self, target: Target, grant: Grant) -> IssuedTokens | CheckResult:
        """What the target's token endpoint gives for its refresh token or its client's credentials, or why nothing.

        Ends within the deadline and half a second. Raises nothing that the far side did.
        """
        began_at = datetime.now(UTC)
        visit = Visit(
            target, Endpoint("vendor"), Shown(), self._guard, self._total_s, self._connect_s, under_way="auth"
        )
        try:
            with anyio.fail_after(self._total_s):
                return await _exchange(visit, grant, began_at)
        except TimeoutError:
            failure = timeout_finding(visit.step_at_fault(), self._total_s)
        except ResponseTooLarge:
            message = "The answer is larger than any that gives tokens. Check the token URL."
            failure = Finding(Verdict.TOO_LARGE, "auth", message, detail="answer too large")
        except Exception as error:
            failure = finding_of([error, *reversed(visit.trace.failures)], visit.step_at_fault(), self._total_s)
        return CheckResult(
            verdict=failure.verdict,
            response_time_ms=visit.elapsed_ms,
            error_message=f"Renewing the sign-in at the token URL failed. {failure.message}",
            checked_at=began_at,
            steps=visit.steps(failure),
            retry_after_s=failure.retry_after_s,
        )


def ask_for_tokens(endpoint: TokenEndpoint, target: Target, grant: Grant) -> IssuedTokens | CheckResult:
    """:meth:`TokenEndpoint.ask` for callers without an event loop."""
    return anyio.run(lambda: endpoint.ask(target, grant))


async def _exchange(visit: Visit, grant: Grant, began_at: datetime) -> IssuedTokens:
    """Raises :class:`Finding`, or what the guard's client raises."""
    url = _url(visit.target)
    timeout = httpx2.Timeout(visit.total_s, connect=visit.connect_s)
    headers = {"user-agent": USER_AGENT, "accept": "application/json"}
    async with visit.guard.client(max_bytes=MAX_BYTES, headers=headers, timeout=timeout, trace=visit.trace) as client:
        *others, last = _ways(visit.target)
        for way in others:
            response = await _post(visit, client, url, grant, way)
            if _word(_members(response)) not in _CLIENT_REFUSED:
                return _issued(response, began_at)
        return _issued(await _post(visit, client, url, grant, last), began_at)


def _url(target: Target) -> str:
    try:
        url = token_url_of(target.type, target.config)
    except Invalid:
        url = None
    if url is None:
        message = "The settings do not say where. Correct the setting token_url."
        raise Finding(Verdict.MISCONFIGURED, "policy", message, detail="no token URL")
    return url


def _ways(target: Target) -> tuple[str, ...]:
    """How the client shows itself: ``basic``, ``body`` or ``json``. RFC 6749 §2.3.1 demands that servers understand
    ``basic``, and many do not: where no way is documented, whoever refuses the client so is asked the other way."""
    if "client_secret" not in target.secrets:
        return ("body",)
    documented = target.type.definition.get("auth", {}).get(AuthMethod.OAUTH, {}).get("client_auth")
    return (documented,) if documented else ("basic", "body")


async def _post(visit: Visit, client: httpx2.AsyncClient, url: str, grant: Grant, way: str) -> httpx2.Response:
    """The answer, whatever it is. A redirect is not followed: nothing secret goes anywhere else."""
    fields, headers = _fields(visit.target, grant), {}
    if way == "basic":
        pair = ":".join(quote_plus(fields.pop(name, "")) for name in ("client_id", "client_secret"))
        headers["authorization"] = "Basic " + b64encode(pair.encode()).decode()
    body: dict[str, Any] = {"json": fields} if way == "json" else {"data": fields}
    request = client.build_request("POST", url, headers=headers, **body)
    return await visit.guard.send(client, request, deadline_s=visit.total_s, max_redirects=0)


def _fields(target: Target, grant: Grant) -> dict[str, str]:
    fields: dict[str, str] = {"grant_type": grant}
    wanted = ["client_id", "client_secret"]
    if grant == "refresh_token":
        wanted.append("refresh_token")
    elif scopes := _scopes(target):
        fields["scope"] = " ".join(scopes)
    return fields | {name: target.secrets[name].reveal() for name in wanted if name in target.secrets}


def _scopes(target: Target) -> list[str]:
    asked = target.config.get("scopes")
    if not isinstance(asked, list):
        asked = target.type.definition.get("auth", {}).get(AuthMethod.OAUTH, {}).get("scopes", [])
    return [scope for scope in asked if isinstance(scope, str)]


def _issued(response: httpx2.Response, began_at: datetime) -> IssuedTokens:
    """The tokens of a good answer. Raises :class:`Finding`."""
    members = _members(response)
    if response.status_code not in range(200, 300) or _word(members) is not None:
        raise _refused(response, _word(members))
    kind = members.get("token_type")
    if isinstance(kind, str) and kind.lower() in _NOT_BEARER:
        message = "The provider gives tokens of a kind that is not supported here. Choose another auth method."
        raise Finding(Verdict.PROTOCOL, "auth", message, detail="no bearer token")
    access = _token(members.get("access_token"))
    if access is None:
        raise _not_oauth(response)
    return IssuedTokens(access, _token(members.get("refresh_token")), _ends_at(members.get("expires_in"), began_at))


def _members(response: httpx2.Response) -> Mapping[str, Any]:
    """The answer's JSON object; empty for anything else."""
    try:
        found = json.loads(response.content, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _word(members: Mapping[str, Any]) -> str | None:
    """The error, if the answer names one."""
    word = members.get("error")
    return None if word is None else word if isinstance(word, str) else "unknown"


def _token(value: Any) -> Secret | None:
    """What travels in headers and forms: visible ASCII."""
    usable = isinstance(value, str) and 0 < len(value) <= MAX_TOKEN and all("!" <= char <= "~" for char in value)
    return Secret(value) if usable else None


def _ends_at(value: Any, began_at: datetime) -> datetime | None:
    """Some send seconds as a text; zero and what is beyond all reason say nothing."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= LONGEST_LIFE_S:
        return None
    return began_at + timedelta(seconds=int(value))


def _refused(response: httpx2.Response, word: str | None) -> Finding:
    status, headers = response.status_code, response.headers
    detail = f"token endpoint: HTTP {status}" + (f", {word}" if word in _WORDS else "")
    wait_s = retry_after_s(headers.get("Retry-After"))
    if status == 429 or word in _LIMITED or (status in (401, 403) and word not in _WORDS and wait_s):
        message = "Its rate limit is reached. Nothing is wrong; try again in a few minutes."
        return Finding(Verdict.RATE_LIMITED, "auth", message, detail=detail, retry_after_s=wait_s)
    if status >= 500 or word in _DOWN:
        message = "The provider answered with an error of its own. Your settings are not to blame; try again later."
        return Finding(Verdict.PROVIDER_DOWN, "auth", message, detail=detail, retry_after_s=wait_s)
    if word in _GRANT_REFUSED:
        message = (
            "The provider no longer accepts the refresh token: it expired, was used or was withdrawn. Sign in again."
        )
        return Finding(Verdict.NEEDS_REAUTH, "auth", message, detail=detail)
    if word in _CLIENT_REFUSED:
        message = (
            "The provider does not accept the client. Save 'client_id' and 'client_secret' as its pages show them."
        )
        return Finding(Verdict.MISCONFIGURED, "auth", message, detail=detail)
    if word in _REQUEST_REFUSED:
        message = (
            "The provider does not give tokens for this request. Check token_url and scopes, and save 'client_id'."
        )
        return Finding(Verdict.MISCONFIGURED, "auth", message, detail=detail)
    return _not_oauth(response)


def _not_oauth(response: httpx2.Response) -> Finding:
    message = "What answers there does not speak OAuth as expected. Check the token URL."
    if 300 <= response.status_code < 400:
        message = "It redirects to another address, where secrets are not sent. Check the token URL."
    detail = f"token endpoint: HTTP {response.status_code}"
    return Finding(Verdict.PROTOCOL, "auth", message, detail=detail)
