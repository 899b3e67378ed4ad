"""A small real vendor API over HTTP: it knows one key, says who its owner is, and counts what it is asked."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from tests.peers.raw import Loop, Request, http_server, response

ACCOUNT = {"user": {"name": "Ada", "id": 7}, "plan": "pro"}
LIMITS = {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "99", "X-OAuth-Scopes": "read, write"}


def vendor_server(
    loop: Loop, lets_in: Callable[[Mapping[str, str], Mapping[str, str]], bool], *, tls: ssl.SSLContext | None = None
) -> Any:
    """Answers ``GET /v1/me`` to whoever ``lets_in(headers, query)`` accepts, 401 to others, 404 elsewhere."""

    def answer(request: Request) -> bytes:
        if request.path != "/v1/me":
            return response(404, b'{"error": "no such path"}')
        if not lets_in(request.headers, dict(parse_qsl(request.target.partition("?")[2]))):
            return response(401, b'{"error": "invalid key"}')
        return response(200, json.dumps(ACCOUNT).encode(), LIMITS)

    return http_server(loop, answer, tls=tls)
