"""From what happened to what its owner reads: one verdict, one step at fault, one sentence with the next thing to do.

Only positive evidence blames the connection (``design.md`` §6). Decisions that others might take differently:

* 403 without a word about scopes: with a credential shown, the server knew it and still refused (RFC 9110 §15.5.4), so
  it is ``forbidden_scope``; with none shown it is ``auth_rejected``. With a spent rate limit it is ``rate_limited``.
* 404, 405 and pages of HTML are ``protocol``: a broken deployment gives them too, so they prove nothing about a key.
* A redirect to another origin is ``protocol``: the key was not shown there, so its answer says nothing about the key.
* A server that ends TLS because of our client certificate has refused a credential: ``auth_rejected``.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

import httpx2

from chalicelib.egress.failures import ResponseTooLarge, causes
from chalicelib.errors import Blocked
from chalicelib.model import Verdict


class Finding(Exception):
    """A check's conclusion. ``step`` is the one at fault; ``detail`` is short and technical, ``message`` for people."""

    def __init__(
        self, verdict: Verdict, step: str, message: str, *, detail: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(f"{verdict}: {detail or step}")
        self.verdict = verdict
        self.step = step
        self.message = message
        self.detail = detail
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Reason:
    verdict: Verdict
    step: str
    message: str
    detail: str

    def finding(self, *, step: str | None = None, message: str | None = None, detail: str | None = None) -> Finding:
        return Finding(self.verdict, step or self.step, message or self.message, detail=detail or self.detail)


_NETWORK, _TLS, _PROTOCOL = Verdict.NETWORK, Verdict.TLS, Verdict.PROTOCOL

UNKNOWN_NAME = Reason(
    _NETWORK,
    "dns",
    "Looking up the server's name found no address. Check the spelling of the host in the URL.",
    "name not found",
)
LOOKUP_FAILED = Reason(
    _NETWORK,
    "dns",
    "Looking up the server's name failed because its name servers did not help. Try again later.",
    "lookup failed",
)
REFUSED = Reason(
    _NETWORK,
    "tcp",
    "Connecting failed: nothing listens at this address and port. Check the port, and that the server is running.",
    "connection refused",
)
UNREACHABLE = Reason(
    _NETWORK,
    "tcp",
    "Connecting failed: the server cannot be reached. Check the host, and that the server is running.",
    "unreachable",
)
CUT_OFF = Reason(
    _NETWORK,
    "protocol",
    "The server closed the connection in the middle of the exchange. Try again; if it stays so, tell its operator.",
    "connection closed",
)
NOT_HTTP = Reason(
    _PROTOCOL,
    "protocol",
    "What answers at this address does not speak HTTP. Check the port and the path of the URL.",
    "not HTTP",
)
TOO_MANY_REDIRECTS = Reason(
    _PROTOCOL,
    "protocol",
    "The server redirects in circles. Ask its operator for the final address, and save that URL.",
    "too many redirects",
)
REDIRECTED_AWAY = Reason(
    _PROTOCOL,
    "protocol",
    "The server redirects to another address, where credentials are not sent. Save its final address as the URL.",
    "redirect to another origin",
)
TOO_LARGE = Reason(
    Verdict.TOO_LARGE,
    "call",
    "The server's answer is larger than a check may read (1 MiB). Check that the URL leads to the API itself.",
    "answer too large",
)
BLOCKED = Reason(Verdict.BLOCKED, "policy", Blocked().detail, "address not allowed")
BROKEN_STREAM = Reason(
    _PROTOCOL,
    "protocol",
    "The server's answer, an event stream, broke off or holds an event that is too large. Check the path of the URL.",
    "broken event stream",
)
UNEXPECTED = Reason(
    _PROTOCOL,
    "protocol",
    "The exchange with the server broke in a way that says nothing about your settings. Try again later.",
    "unexpected failure",
)

_TLS_REASONS = {
    "expired": "The server's certificate has expired. Ask its operator to renew it.",
    "not_yet": "The server's certificate is not valid yet. Ask its operator to check it, and the server's clock.",
    "name": "The server's certificate is for another name. Check the host in the URL, or ask its operator to mend it.",
    "self_signed": "The server's TLS certificate is signed by itself. Ask its operator for one of a public authority; "
    "with the auth method 'certificate', it can also be saved as the credential 'ca_certificate'.",
    "unknown_root": "The server's TLS certificate comes from an authority that is not known here. Ask its operator for "
    "the full chain; with the auth method 'certificate', that authority can be saved as 'ca_certificate'.",
    "extensions": "The server's TLS certificate, or its authority, lacks fields that are required today (such as key "
    "usage or authority key identifier). Ask its operator to issue it anew.",
    "old": "The server speaks only outdated versions of TLS. Ask its operator to allow TLS 1.2 or 1.3.",
    "plain": "The server does not speak TLS at this port. Check the port, and whether the URL should begin with http.",
    "other": "Agreeing on a secure TLS connection failed. Ask the server's operator to check its TLS settings.",
}

#: OpenSSL's numbers for a failed verification (x509_vfy.h).
_VERIFY_CODES = {
    9: "not_yet",
    10: "expired",
    18: "self_signed",
    19: "unknown_root",
    20: "unknown_root",
    21: "unknown_root",
    2: "unknown_root",
    62: "name",
    64: "name",
}
_STRICT_CODES = range(79, 96)

_CLIENT_CERTIFICATE_ALERTS = (
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_REQUIRED",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_UNKNOWN_CA",
    "ALERT_UNSUPPORTED_CERTIFICATE",
)


def tls_finding(error: ssl.SSLError) -> Finding:
    """What a failure of TLS means: whose certificate, or which agreement, is at fault."""
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        kind = "extensions" if code in _STRICT_CODES else _VERIFY_CODES.get(code, "other")
        kind = "name" if "mismatch" in (error.verify_message or "") else kind
        return Finding(_TLS, "tls", _TLS_REASONS[kind], detail=f"certificate: {error.verify_message}"[:120])
    reason = (error.reason or "").upper()
    if reason.endswith(_CLIENT_CERTIFICATE_ALERTS):
        detail = reason.partition("ALERT_")[2].lower().replace("_", " ")
        return client_certificate_finding(detail, missing=reason.endswith("CERTIFICATE_REQUIRED"))
    if "PROTOCOL_VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason:
        return Finding(_TLS, "tls", _TLS_REASONS["old"], detail="no common TLS version")
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
        return Finding(_TLS, "tls", _TLS_REASONS["plain"], detail="not TLS")
    return Finding(
        _TLS, "tls", _TLS_REASONS["other"], detail=reason.lower().replace("_", " ")[:80] or "handshake failed"
    )


def client_certificate_finding(detail: str, *, missing: bool) -> Finding:
    message = (
        "The server refused the client certificate. Get one from the server's operator and save it as "
        "'client_certificate', with its key as 'client_key'."
    )
    if missing:
        message = (
            "The server wants a client certificate for TLS and got none that it accepts. Choose the auth method "
            "'certificate' and save 'client_certificate' and 'client_key'."
        )
    return Finding(Verdict.AUTH_REJECTED, "tls", message, detail=detail)


def timeout_finding(step: str, total_s: float) -> Finding:
    """Nothing came in time; ``step`` is what was under way."""
    texts = {
        "policy": "Before connecting, opening the private key took too long. Try again later, or save a key whose "
        "passphrase is cheaper to check.",
        "auth": "Signing in got no answer in time. Try again later; if it stays so, tell the server's operator.",
        "dns": "Looking up the server's name took too long. Try again later; check the spelling of the host.",
        "tcp": "Connecting got no reply from this address and port. Check both, and any firewall in between.",
        "tls": "The server accepted the connection but did not agree on a secure one in time. Check the port; if it "
        "stays so, tell its operator.",
    }
    fallback = (
        f"The server was reached but did not answer in full within {total_s:g} seconds. "
        "Try again later; if it stays so, check the address, or tell the server's operator."
    )
    return Finding(Verdict.TIMEOUT, step, texts.get(step, fallback), detail="no answer in time")


def finding_of(errors: Iterable[BaseException], step: str, total_s: float) -> Finding:
    """The conclusion from exceptions, most telling first. ``step`` is what was under way when they came."""
    found = [inner for error in errors for inner in causes(error)]
    for error in found:
        if isinstance(error, Finding):
            return error
    for judge in (_ours, _lookup, _tls, _refused, _cut, _unreachable, _http):
        for error in found:
            finding = judge(error)
            if finding is not None:
                return _placed(finding, step)
    if any(isinstance(error, TimeoutError | httpx2.TimeoutException) for error in found):
        return timeout_finding(step, total_s)
    return UNEXPECTED.finding(step=step)


def _placed(finding: Finding, step: str) -> Finding:
    """What can happen in any exchange is put on the step that was under way."""
    if finding.detail == CUT_OFF.detail:
        return cut_off(step)
    if finding.detail in (TOO_LARGE.detail, NOT_HTTP.detail) and step in ("protocol", "call"):
        finding.step = step
    return finding


def cut_off(step: str) -> Finding:
    """The far side closed the connection at this step."""
    texts = {
        "tcp": "Connecting failed: the server closed the connection at once. Check the port, and any firewall in "
        "between.",
        "tls": "The server closed the connection while agreeing on a secure one. Check the port; if it stays so, tell "
        "its operator.",
    }
    return CUT_OFF.finding(step=step if step in texts or step == "call" else CUT_OFF.step, message=texts.get(step))


def _ours(error: BaseException) -> Finding | None:
    if isinstance(error, Blocked):
        return BLOCKED.finding(message=error.detail)
    return TOO_LARGE.finding() if isinstance(error, ResponseTooLarge) else None


def _lookup(error: BaseException) -> Finding | None:
    if not isinstance(error, socket.gaierror):
        return None
    unknown = error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
    return (UNKNOWN_NAME if unknown else LOOKUP_FAILED).finding()


def _tls(error: BaseException) -> Finding | None:
    harmless = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLWantReadError)
    return tls_finding(error) if isinstance(error, ssl.SSLError) and not isinstance(error, harmless) else None


def _refused(error: BaseException) -> Finding | None:
    return REFUSED.finding() if isinstance(error, ConnectionRefusedError) else None


def _cut(error: BaseException) -> Finding | None:
    cut = isinstance(error, ConnectionError | ssl.SSLEOFError | ssl.SSLZeroReturnError)
    return CUT_OFF.finding() if cut else None


def _unreachable(error: BaseException) -> Finding | None:
    other = isinstance(error, TimeoutError | ssl.SSLError | socket.gaierror)
    return UNREACHABLE.finding() if isinstance(error, OSError) and not other else None


def _http(error: BaseException) -> Finding | None:
    if isinstance(error, httpx2.TooManyRedirects):
        return TOO_MANY_REDIRECTS.finding()
    if isinstance(error, httpx2.SSEError):
        return BROKEN_STREAM.finding()
    if isinstance(error, httpx2.RemoteProtocolError):
        closed = any(words in str(error) for words in ("disconnected", "closed", "incomplete"))
        return (CUT_OFF if closed else NOT_HTTP).finding()
    return CUT_OFF.finding() if isinstance(error, httpx2.NetworkError) else None
