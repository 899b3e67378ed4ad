"""A small app behind the real edge, with users who have real tokens of a shared secret."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import jwt
from chalice.app import Chalice
from chalice.test import Client, HTTPResponse

from chalicelib.api.edge import Api, Door, mount
from chalicelib.api.tokens import TokenVerifier
from chalicelib.model import Secret

ORIGINS = ("https://app.example.com", "http://localhost:5173")
ISSUER = "https://project.example/auth/v1"
USER = UUID("6f1c9a52-3c1e-4b8e-9c55-0d5f6d1f1a01")
HS256_SECRET = secrets.token_urlsafe(32)
EDGE_KEY = secrets.token_bytes(32)


def access_token(**claims: Any) -> str:
    now = int(time.time())
    good = {"iss": ISSUER, "aud": "authenticated", "role": "authenticated", "sub": str(USER), "iat": now}
    return jwt.encode({**good, "exp": now + 3600, **claims}, HS256_SECRET, algorithm="HS256")


def a_door(**parts: Any) -> Door:
    verifier = TokenVerifier("http://127.0.0.1:1/none", ISSUER, Secret(HS256_SECRET))
    return Door(**{"verifier": verifier, "origins": ORIGINS, "key": EDGE_KEY, **parts})


def an_app(*apis: Api, door: Door | None = None) -> Chalice:
    app = Chalice(f"edge-{uuid4()}", configure_logs=False)
    mount(app, apis, lambda: door or a_door())
    return app


@dataclass(frozen=True)
class Browser:
    """Sends requests of a signed-in user through ``chalice.test.Client``."""

    app: Chalice

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        signed_in: bool = True,
    ) -> HTTPResponse:
        sent = {"Authorization": f"Bearer {access_token()}"} if signed_in else {}
        if body is not None:
            raw = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        with Client(self.app) as client:
            return client.http.request(method, path, headers={**sent, **(headers or {})}, body=raw or b"")


def assert_problem(response: HTTPResponse, status: int, code: str) -> dict[str, Any]:
    """An RFC 9457 problem of ours, in full and with nothing else in it."""
    problem: dict[str, Any] = response.json_body
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code), problem
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Request-Id"] == problem["request_id"]
    assert problem.keys() - {"errors", "credential_types"} == {
        "type", "title", "status", "detail", "code", "request_id",
    }  # fmt: skip
    assert "Traceback" not in str(problem)
    return problem
