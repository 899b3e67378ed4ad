"""What an HTTP status says, for every kind of connection: the one place that blames a key for a status."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import ceil

from chalicelib.model import AuthMethod, Verdict
from chalicelib.probes.credentials import LABELS
from chalicelib.probes.verdicts import REDIRECTED_AWAY, Finding, client_certificate_finding
from chalicelib.probes.visit import Visit

MAX_RETRY_AFTER_S = 86_400
#: Of headers that are searched or read as dates: a far side may send 64 KiB of them.
LONGEST_CHALLENGE, LONGEST_DATE = 1_000, 100

#: How nginx says that it wants another client certificate: after the handshake, with a status that means many things.
_NGINX_ON_CERTIFICATES = re.compile(r"<title>400 (No required SSL certificate was sent|The SSL certificate error)")

# Two patterns, each of which looks at a character once: as one they would take the square of a header's length.
_BEARER = re.compile(r"\bbearer\b", re.IGNORECASE)
_OAUTH = re.compile(r'\b(?:resource_metadata\s*=|error\s*=\s*"?invalid_token\b)', re.IGNORECASE)


@dataclass(frozen=True)
class Meaning:
    """Which statuses mean what; a type's template may say otherwise."""

    accepted: Collection[int] = range(200, 300)
    refused: Collection[int] = (401,)
    missing_scope: Collection[int] = (403,)
    limited: Collection[int] = (429,)
    remaining: str = "X-RateLimit-Remaining"
    retry_after: str = "Retry-After"


USUAL = Meaning()


def judged(
    visit: Visit, status: int, headers: Mapping[str, str], body: str, meaning: Meaning = USUAL
) -> Finding | None:
    """None if the status is accepted, else what it means. ``headers`` must ignore case."""
    if status in meaning.accepted:
        return None
    detail = visit.with_excerpt(f"HTTP {status}", body)
    if _is_limited(status, headers, meaning):
        return _limited(detail, retry_after_s(headers.get(meaning.retry_after)))
    if status in meaning.refused or status == 401:
        return _refused(visit, detail, headers.get("WWW-Authenticate", ""))
    if status in meaning.missing_scope or status == 403:
        return _forbidden(visit, detail, headers.get("WWW-Authenticate", ""))
    if status == 400 and (told := _NGINX_ON_CERTIFICATES.search(body)):
        return client_certificate_finding(detail, missing=told[1] == "No required SSL certificate was sent")
    return _other(visit, status, detail, headers)


def _is_limited(status: int, headers: Mapping[str, str], meaning: Meaning) -> bool:
    """Some refuse with 401 or 403 when the quota is spent, and say so in a header only."""
    spent = headers.get(meaning.remaining, "").strip() == "0" or meaning.retry_after in headers
    return status in meaning.limited or (status in (401, 403) and spent)


def _limited(detail: str, wait_s: int | None) -> Finding:
    wait = f"in {wait_s} seconds" if wait_s else "in a few minutes"
    return Finding(
        Verdict.RATE_LIMITED,
        "call",
        f"The call was not answered because the server's rate limit is reached. Nothing is wrong; try again {wait}.",
        detail=detail,
        retry_after_s=wait_s,
    )


def _refused(visit: Visit, detail: str, challenge: str) -> Finding:
    method = visit.target.auth_method
    if method is AuthMethod.OAUTH:
        message = "The server no longer accepts the sign-in: it expired or was withdrawn. Sign in again."
        return Finding(Verdict.NEEDS_REAUTH, "auth", message, detail=detail)
    if visit.endpoint.kind in ("http", "sse") and is_oauth_challenge(challenge):
        message = "The server wants you to sign in with OAuth. Choose the auth method 'oauth' and sign in there."
        return Finding(Verdict.NEEDS_REAUTH, "auth", message, detail=detail)
    if method is AuthMethod.NONE:
        message = "The server refused a request without credentials. Choose an auth method and save its credential."
    else:
        message = f"The server refused the {LABELS[method]}. Create a new one and save it here."
    return Finding(Verdict.AUTH_REJECTED, "auth", message, detail=detail)


def is_oauth_challenge(challenge: str) -> bool:
    """RFC 9728 §5.1 (``resource_metadata``) or RFC 6750 §3 (``error="invalid_token"``)."""
    challenge = challenge[:LONGEST_CHALLENGE]
    bearer = _BEARER.search(challenge)
    return bearer is not None and _OAUTH.search(challenge, bearer.end()) is not None


def _forbidden(visit: Visit, detail: str, challenge: str) -> Finding:
    method = visit.target.auth_method
    if method is AuthMethod.NONE and "insufficient_scope" not in challenge[:LONGEST_CHALLENGE]:
        message = "The server forbids requests without credentials. Choose an auth method and save its credential."
        return Finding(Verdict.AUTH_REJECTED, "auth", message, detail=detail)
    message = (
        f"The server knows the {LABELS[method]} but does not allow it this. Give it the missing permission or scope "
        "at the provider, or save one that has it."
    )
    return Finding(Verdict.FORBIDDEN_SCOPE, "auth", message, detail=detail)


def _other(visit: Visit, status: int, detail: str, headers: Mapping[str, str]) -> Finding:
    step = visit.under_way if visit.under_way in ("protocol", "call") else "protocol"
    if status >= 500:
        message = "The server answered with an error of its own. Your settings are not to blame; try again later."
        wait_s = retry_after_s(headers.get("Retry-After"))
        return Finding(Verdict.PROVIDER_DOWN, step, message, detail=detail, retry_after_s=wait_s)
    if 300 <= status < 400:
        return REDIRECTED_AWAY.finding(step=step, detail=detail)
    if status in (404, 405, 410):
        message = "The server answered, but not at this address. Check the path of the URL."
    else:
        message = "The server did not understand the request. Check the URL and the other settings."
    return Finding(Verdict.PROTOCOL, step, message, detail=detail)


def retry_after_s(value: str | None) -> int | None:
    """``Retry-After`` in whole seconds from now, from seconds or a date; None if absent or unreadable."""
    if value is None:
        return None
    text = value[:LONGEST_DATE].strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        seconds = float(text)
    else:
        try:
            seconds = (parsedate_to_datetime(text).astimezone(UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(1, min(MAX_RETRY_AFTER_S, ceil(seconds)))
