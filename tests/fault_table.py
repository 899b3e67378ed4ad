"""The one table of faults, and how all of it is run through every way of checking at once."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib import import_module
from time import perf_counter
from typing import Any

import anyio

from chalicelib.model import CheckResult, Target, Verdict
from tests.peers import faults
from tests.peers.certificates import DAY, Authority, server_context
from tests.peers.faults import (
    CHUNKED,
    HEAD,
    Opened,
    answers,
    redirects,
    replies,
    says,
    served,
    typed,
    unheard,
)
from tests.peers.raw import Loop, response
from tests.peers.targets import a_prober, a_target

KEY = secrets.token_urlsafe(24)
KINDS = ("http", "sse", "vendor")
MCP = ("http", "sse")
MODES = ("full", "bare")

#: Of a fault that ends with the deadline; of any other, which must not need it.
SHORT_S, LONG_S = 1.0, 8.0
#: By so much may a check outlive its deadline.
GRACE_S = 0.5

AUTHORITY = Authority("Ours")
STRANGER = Authority("Somebody's")
GOOD = AUTHORITY.issue()
CLIENT = AUTHORITY.issue("client", client=True)


@dataclass(frozen=True)
class Fault:
    """``step`` is the one at fault. ``waits``: it shows in nothing but silence until the deadline."""

    verdict: Verdict
    step: str
    opened: Opened
    detail: str = ""
    kinds: tuple[str, ...] = KINDS
    waits: bool = False
    method: str = "api_key"
    secrets: dict[str, str] = field(default_factory=lambda: {"api_key": KEY})
    resolver: Callable[[str, int], Awaitable[Sequence[str]]] | None = None
    verify: dict[str, Any] = field(default_factory=dict)
    retry_after_s: int | None = None


async def unknown(host: str, port: int) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def broken(host: str, port: int) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


async def stalled(host: str, port: int) -> Sequence[str]:
    await asyncio.sleep(60)
    return []


async def inside(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1", "169.254.169.254"]


def introduced(version: str = "2025-11-25", **changes: Any) -> Callable[[Any], Any]:
    result = {"protocolVersion": version, "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}
    return lambda request_id: {"jsonrpc": "2.0", "id": request_id, "result": result, **changes}


def over_tls(context: Any) -> Opened:
    return served(replies(introduced()), tls=context)


V = Verdict
TRUSTING = {"ca_certificate": AUTHORITY.pem}
CHALLENGE = 'Bearer resource_metadata="https://a.example/.well-known/oauth-protected-resource"'
INVALID = 'Bearer error="invalid_token"'
SCOPE = 'Bearer error="insufficient_scope", scope="tools"'
HTML = b"<!doctype html><title>Sign in</title><p>Welcome"
TO_METADATA = "http://169.254.169.254/latest/meta-data/"
OAUTH: dict[str, Any] = {"method": "oauth", "secrets": {"access_token": KEY}}
NONE: dict[str, Any] = {"method": "none", "secrets": {}}
PRESENTING: dict[str, Any] = {
    "method": "certificate",
    "secrets": {"client_certificate": CLIENT.certificate, "client_key": CLIENT.key, **TRUSTING},
}
POST = {"method": "POST", "body": {"mine": KEY}}
PLAIN = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
NGINX = b"<html><head><title>400 %s</title></head><body><h1>400 Bad Request</h1></body></html>"
HEADERS = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 1_000) for number in range(10_000))
HALF = b'Content-Length: 1000\r\n\r\n{"jsonrpc": "2.0", '
BOMB = faults.gzip_bomb()
PACKED = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB
ZEROS = b"x" * 65_536

NETWORK = {
    "refused": Fault(V.NETWORK, "tcp", faults.nothing_listens, "refused"),
    "black hole": Fault(V.TIMEOUT, "tcp", faults.black_hole, waits=True),
    "half-open": Fault(V.TIMEOUT, "protocol", served(unheard("stay")), waits=True),
    "silent after the request": Fault(V.TIMEOUT, "protocol", served(says()), waits=True),
    "closed at once": Fault(V.NETWORK, "protocol", served(unheard("close")), "closed"),
    "closed before headers": Fault(V.NETWORK, "protocol", served(says(then="close")), "closed"),
    "reset before headers": Fault(V.NETWORK, "protocol", served(says(then="reset")), "closed"),
    "reset within headers": Fault(V.NETWORK, "protocol", served(says(HEAD + b"X: ", then="reset")), "closed"),
    "reset after headers": Fault(V.NETWORK, "protocol", served(typed(CHUNKED, then="reset")), "closed"),
    "closed within the body": Fault(V.NETWORK, "protocol", served(typed(HALF, then="close")), "closed"),
    "reset within the body": Fault(V.NETWORK, "protocol", served(typed(HALF, then="reset")), "closed"),
    "half a body and silence": Fault(V.TIMEOUT, "protocol", served(typed(HALF)), waits=True),
    "no HTTP": Fault(V.PROTOCOL, "protocol", served(says(b"220 mail.example ESMTP\r\n\r\n")), "not HTTP"),
    "unknown name": Fault(V.NETWORK, "dns", faults.nothing_listens, "not found", resolver=unknown),
    "failing name servers": Fault(V.NETWORK, "dns", faults.nothing_listens, "lookup failed", resolver=broken),
    "stalled name servers": Fault(V.TIMEOUT, "dns", faults.nothing_listens, resolver=stalled, waits=True),
    "name with a forbidden address": Fault(V.BLOCKED, "policy", faults.nothing_listens, resolver=inside),
}

TLS = {
    "expired": Fault(V.TLS, "tls", over_tls(server_context(AUTHORITY.issue(starts=-3 * DAY, ends=-DAY))), "expired"),
    "not yet valid": Fault(V.TLS, "tls", over_tls(server_context(AUTHORITY.issue(starts=DAY))), "not yet"),
    "wrong name": Fault(V.TLS, "tls", over_tls(server_context(AUTHORITY.issue("127.0.0.9"))), "mismatch"),
    "wrong host name": Fault(V.TLS, "tls", over_tls(server_context(AUTHORITY.issue("b.example"))), "mismatch"),
    "self-signed": Fault(V.TLS, "tls", over_tls(server_context(AUTHORITY.issue(self_signed=True))), "self-signed"),
    "unknown root": Fault(V.TLS, "tls", over_tls(server_context(STRANGER.issue())), "local issuer"),
    "outdated protocol": Fault(V.TLS, "tls", faults.alerting(faults.outdated(GOOD)), "TLS version"),
    "no TLS": Fault(V.TLS, "tls", served(faults.greets(PLAIN), called_https=True), "not TLS"),
    "handshake stall": Fault(V.TIMEOUT, "tls", served(unheard("stay"), called_https=True), waits=True),
    "closed in the handshake": Fault(
        V.NETWORK, "tls", served(faults.greets(b"", "close"), called_https=True), "closed"
    ),
    "reset in the handshake": Fault(V.NETWORK, "tls", served(faults.greets(b"", "reset"), called_https=True), "closed"),
    "client certificate missing": Fault(
        V.AUTH_REJECTED, "tls", faults.alerting(server_context(GOOD, clients_of=STRANGER)), "certificate required"
    ),
    "client certificate wrong": Fault(
        V.AUTH_REJECTED, "tls", faults.alerting(server_context(GOOD, clients_of=STRANGER)), "unknown ca", **PRESENTING
    ),
}

STATUSES = {
    "400": Fault(V.PROTOCOL, "protocol", served(answers(400)), "HTTP 400"),
    "400 for want of a client certificate": Fault(
        V.AUTH_REJECTED, "tls", served(answers(400, NGINX % b"No required SSL certificate was sent")), "HTTP 400"
    ),
    "400 for another client certificate": Fault(
        V.AUTH_REJECTED, "tls", served(answers(400, NGINX % b"The SSL certificate error")), "HTTP 400"
    ),
    "401": Fault(V.AUTH_REJECTED, "auth", served(answers(401)), "HTTP 401"),
    "401 without a credential": Fault(V.AUTH_REJECTED, "auth", served(answers(401)), "HTTP 401", **NONE),
    "401 with a challenge": Fault(
        V.NEEDS_REAUTH, "auth", served(answers(401, WWW_Authenticate=CHALLENGE)), "HTTP 401", kinds=MCP, **NONE
    ),
    "401 to a sign-in": Fault(
        V.NEEDS_REAUTH, "auth", served(answers(401, WWW_Authenticate=CHALLENGE)), "HTTP 401", **OAUTH
    ),
    "401 with a challenge to a key": Fault(
        V.NEEDS_REAUTH, "auth", served(answers(401, WWW_Authenticate=CHALLENGE)), "HTTP 401", kinds=MCP
    ),
    "401 for an invalid token": Fault(
        V.NEEDS_REAUTH, "auth", served(answers(401, WWW_Authenticate=INVALID)), "HTTP 401", **OAUTH
    ),
    "401 with a challenge of another kind": Fault(
        V.AUTH_REJECTED, "auth", served(answers(401, WWW_Authenticate='Basic realm="x"')), "HTTP 401", **NONE
    ),
    "401 with a challenge without end": Fault(
        V.AUTH_REJECTED, "auth", served(answers(401, WWW_Authenticate="bearer " * 8_900)), "HTTP 401"
    ),
    "401 with a challenge that says nothing": Fault(
        V.AUTH_REJECTED, "auth", served(answers(401, WWW_Authenticate="Bearer")), "HTTP 401"
    ),
    "403": Fault(V.FORBIDDEN_SCOPE, "auth", served(answers(403)), "HTTP 403"),
    "403 for want of a scope": Fault(
        V.FORBIDDEN_SCOPE, "auth", served(answers(403, WWW_Authenticate=SCOPE)), "HTTP 403", **OAUTH
    ),
    "403 without a credential": Fault(V.AUTH_REJECTED, "auth", served(answers(403)), "HTTP 403", **NONE),
    "403 for want of a scope without a credential": Fault(
        V.FORBIDDEN_SCOPE, "auth", served(answers(403, WWW_Authenticate=SCOPE)), "HTTP 403", **NONE
    ),
    "403 with a spent limit": Fault(
        V.RATE_LIMITED, "call", served(answers(403, X_RateLimit_Remaining="0")), "HTTP 403"
    ),
    "404": Fault(V.PROTOCOL, "protocol", served(answers(404)), "HTTP 404"),
    "405": Fault(V.PROTOCOL, "protocol", served(answers(405)), "HTTP 405"),
    "410": Fault(V.PROTOCOL, "protocol", served(answers(410)), "HTTP 410"),
    "429": Fault(V.RATE_LIMITED, "call", served(answers(429)), "HTTP 429"),
    "429 with a time": Fault(
        V.RATE_LIMITED, "call", served(answers(429, Retry_After="7")), "HTTP 429", retry_after_s=7
    ),
    "500": Fault(V.PROVIDER_DOWN, "protocol", served(answers(500)), "HTTP 500"),
    "502": Fault(V.PROVIDER_DOWN, "protocol", served(answers(502, HTML, Content_Type="text/html")), "HTTP 502"),
    "503 with a time": Fault(
        V.PROVIDER_DOWN, "protocol", served(answers(503, Retry_After="7")), "HTTP 503", retry_after_s=7
    ),
    "504": Fault(V.PROVIDER_DOWN, "protocol", served(answers(504)), "HTTP 504"),
}

CONTENTS = {
    "a web page": Fault(V.PROTOCOL, "", served(answers(200, HTML, Content_Type="text/html")), "Sign in"),
    "malformed JSON": Fault(V.PROTOCOL, "", served(replies(lambda _: b'{"oops'))),
    "JSON of no use": Fault(V.PROTOCOL, "protocol", served(replies(lambda _: ["a"])), kinds=MCP),
    "an answer to another request": Fault(
        V.PROTOCOL, "protocol", served(replies(introduced(id="other"))), "not sent", kinds=MCP
    ),
    "an answer without a result": Fault(
        V.PROTOCOL, "protocol", served(replies(lambda id: {"jsonrpc": "2.0", "id": id})), kinds=MCP
    ),
    "a result of the wrong shape": Fault(
        V.PROTOCOL, "protocol", served(replies(introduced(result={"hello": 1}))), kinds=MCP
    ),
    "an unsupported version": Fault(
        V.PROTOCOL, "protocol", served(replies(introduced("1999-12-31"))), "unsupported version", kinds=MCP
    ),
    "an event stream without an answer": Fault(
        V.PROTOCOL, "protocol", served(faults.events(then="close")), "ended without an answer", kinds=MCP
    ),
    "an event stream cut off": Fault(
        V.NETWORK, "protocol", served(faults.events(chunked=True, then="reset")), "closed", kinds=MCP
    ),
    "an event stream closed early": Fault(
        V.NETWORK, "protocol", served(faults.events(chunked=True, then="close")), "closed", kinds=MCP
    ),
    "answers that were only accepted": Fault(V.PROTOCOL, "protocol", served(answers(202)), kinds=("http",)),
    "an error to everything": Fault(
        V.PROTOCOL,
        "protocol",
        served(replies(lambda id: {"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": "no"}})),
        "JSON-RPC error -32000",
        kinds=MCP,
    ),
}

POSTING = {
    "reset": Fault(V.NETWORK, "protocol", served(faults.posts_meet(then="reset")), "closed", kinds=("sse",)),
    "silence": Fault(V.TIMEOUT, "protocol", served(faults.posts_meet()), kinds=("sse",), waits=True),
    "401": Fault(V.AUTH_REJECTED, "auth", served(faults.posts_meet(response(401))), "HTTP 401", kinds=("sse",)),
    "500": Fault(V.PROVIDER_DOWN, "protocol", served(faults.posts_meet(response(500))), "HTTP 500", kinds=("sse",)),
    "accepted, and silence": Fault(
        V.TIMEOUT, "protocol", served(faults.posts_meet(response(202))), kinds=("sse",), waits=True
    ),
}

FLOODS = {
    "200 MB announced": Fault(
        V.TOO_LARGE, "protocol", served(typed(b"Content-Length: 209715200\r\n\r\n", endlessly=ZEROS))
    ),
    "200 MB unannounced": Fault(V.TOO_LARGE, "protocol", served(typed(b"\r\n", *[ZEROS] * 3_200, then="close"))),
    "gzip bomb": Fault(V.TOO_LARGE, "protocol", served(typed(PACKED))),
    "endless chunks": Fault(V.TOO_LARGE, "protocol", served(typed(CHUNKED, endlessly=faults.chunk(ZEROS)))),
    "endless chunks of a byte": Fault(
        V.TOO_LARGE, "protocol", served(typed(CHUNKED, endlessly=faults.chunk(b"x") * 10_000))
    ),
    "endless fast events": Fault(V.TOO_LARGE, "protocol", served(faults.events(endlessly=True))),
    "endless slow events": Fault(V.TIMEOUT, "protocol", served(faults.events(endlessly=True, pause_s=0.1)), waits=True),
    "10 MB of headers": Fault(V.TOO_LARGE, "protocol", served(says(HEAD + HEADERS))),
    "endless headers": Fault(V.TOO_LARGE, "protocol", served(says(HEAD, endlessly=b"X: " + b"x" * 8_000 + b"\r\n"))),
    "a byte each second": Fault(
        V.TIMEOUT, "protocol", served(says(*(HEAD[at:][:1] for at in range(10)), pause_s=1)), waits=True
    ),
    "a body of a byte each 0.2 s": Fault(
        V.TIMEOUT, "protocol", served(typed(b"Content-Length: 100\r\n\r\n", endlessly=b" ", pause_s=0.2)), waits=True
    ),
}

REDIRECTS = {
    "redirect loop": Fault(V.PROTOCOL, "protocol", served(redirects("{same}")), "too many redirects"),
    "redirect to a forbidden address": Fault(V.BLOCKED, "policy", served(redirects(TO_METADATA)), "redirect"),
    "redirect to another origin": Fault(V.PROTOCOL, "protocol", served(redirects("http://127.0.0.1:1/")), "redirect"),
    "redirect to another origin with a body": Fault(
        V.PROTOCOL, "protocol", served(redirects("http://127.0.0.1:1/{same}", 308)), "redirect", verify=POST
    ),
    "redirect to nowhere": Fault(V.BLOCKED, "policy", served(redirects("http://[")), "redirect"),
}

FAULTS: dict[str, Fault] = {
    **NETWORK,
    **{f"TLS: {name}": replace(fault, secrets={**fault.secrets, **TRUSTING}) for name, fault in TLS.items()},
    **STATUSES,
    **CONTENTS,
    **{f"posting: {name}": fault for name, fault in POSTING.items()},
    **FLOODS,
    **REDIRECTS,
}

#: (fault, kind, mode)
Case = tuple[str, str, str]
CASES: list[Case] = [(name, kind, mode) for name, fault in FAULTS.items() for kind in fault.kinds for mode in MODES]


@dataclass(frozen=True)
class Outcome:
    result: CheckResult
    took_s: float
    deadline_s: float

    @property
    def in_time(self) -> bool:
        return self.took_s < self.deadline_s + GRACE_S


def target_of(fault: Fault, kind: str, origin: str) -> Target:
    if fault.resolver:
        origin = origin.replace("127.0.0.1", "api.example.com")
    how: dict[str, Any] = {"method": fault.method, "secrets": fault.secrets}
    if kind == "vendor":
        definition = {"verify": {"path": "/v1/me", **fault.verify}}
        return a_target("vendor", {"api_url": origin}, definition=definition, **how)
    return a_target("mcp", {"protocol": kind, "url": f"{origin}/{kind}"}, **how)


def outcomes(loop: Loop, cases: Sequence[Case]) -> dict[Case, Outcome]:
    """Every case checked in one event loop, several at once, against servers in another."""
    found: dict[Case, Outcome] = {}

    async def check(case: Case, target: Target, limit: anyio.CapacityLimiter) -> None:
        fault = FAULTS[case[0]]
        deadline_s = SHORT_S if fault.waits else LONG_S
        prober = a_prober(deadline_s, resolver=fault.resolver, connect_s=deadline_s)
        async with limit:
            began = perf_counter()
            result = await prober.check(target, mode=case[2])  # type: ignore[arg-type]
            found[case] = Outcome(result, perf_counter() - began, deadline_s)

    async def check_some(targets: dict[Case, Target], at_once: int) -> None:
        limit = anyio.CapacityLimiter(at_once)
        async with anyio.create_task_group() as tasks:
            for case, target in targets.items():
                tasks.start_soon(check, case, target, limit)

    async def check_all(targets: dict[Case, Target]) -> None:
        # First those that only wait: those that work would keep them from being in time.
        for waits, at_once in ((True, 10), (False, 3)):
            some = {case: target for case, target in targets.items() if FAULTS[case[0]].waits is waits}
            await check_some(some, at_once)
        # A machine that is busy with other things makes anybody late; a check that is late by itself is so again.
        await check_some({case: target for case, target in targets.items() if not found[case].in_time}, 2)

    import_module("mcp.client.streamable_http")  # takes half a second, and holds up whatever is under way
    with ExitStack() as stack:
        origins: dict[tuple[str, str], str] = {}
        for name, kind, _ in cases:
            if (name, kind) not in origins:
                origins[name, kind] = stack.enter_context(FAULTS[name].opened(loop, kind))
        anyio.run(check_all, {case: target_of(FAULTS[case[0]], case[1], origins[case[:2]]) for case in cases})
    return found
