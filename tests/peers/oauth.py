"""A small real provider with OAuth: a token endpoint that rotates refresh tokens and revokes all on reuse, and an API.

As RFC 9700 §4.14.2 advises, a refresh token is good for one use; a second use revokes everything that came from the same
sign-in. Who asks for what is remembered.
"""

from __future__ import annotations

import json
import secrets
import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote_plus

Answer = tuple[int, Mapping[str, Any]]


@dataclass
class SignIn:
    """What came from one sign-in: the refresh token that is good now, those used up, and living access tokens."""

    refresh_token: str | None = None
    used: set[str] = field(default_factory=set)
    access_tokens: dict[str, float] = field(default_factory=dict)  # until when
    revoked: bool = False


@dataclass(frozen=True)
class Asked:
    """A request to the token endpoint."""

    path: str
    headers: Mapping[str, str]
    fields: Mapping[str, str]
    text: str


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


class Provider:
    """``/token`` gives tokens, ``/v1/me`` answers 200 to a living access token and 401 to others.

    ``planned`` are answers of the token endpoint to give first: a status and a body, or a function that makes them.
    ``meanwhile`` is called while a request for tokens is under way.
    """

    def __init__(self) -> None:
        self.client = (f"client-{secrets.token_hex(6)}", f"secret-{secrets.token_urlsafe(24)}")
        self.client_ways = {"basic", "body"}
        self.rotates = True
        self.expires_in: Any = 3600
        self.takes_s = 0.0
        self.planned: list[Answer | Callable[[], Answer]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.asked: list[Asked] = []
        self.shown: list[str] = []  # access tokens, as the API saw them
        self.sign_ins: list[SignIn] = []
        self._lock = Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.token_url = f"{self.url}/token"
        self.api_url = f"{self.url}/v1/me"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def sign_in(self, *, lives_s: float = 3600) -> tuple[str, str]:
        """Somebody signs in: an access and a refresh token."""
        with self._lock:
            found = SignIn(refresh_token=_new("refresh"))
            self.sign_ins.append(found)
            return self._new_access(found, lives_s), str(found.refresh_token)

    def everything(self) -> str:
        """All that either endpoint was sent."""
        return "\n".join([*(f"{asked.headers} {asked.text}" for asked in self.asked), *self.shown])

    def answer_token(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            planned = self.planned.pop(0) if self.planned else None
        self.meanwhile()
        time.sleep(self.takes_s)
        if planned is not None:
            return planned() if callable(planned) else planned
        with self._lock:
            if not self._is_client(asked):
                return 401, {"error": "invalid_client"}
            if asked.fields.get("grant_type") == "client_credentials":
                made = SignIn()
                self.sign_ins.append(made)
                return 200, self._body(made)
            return self._refresh(asked.fields.get("refresh_token", ""))

    def answer_api(self, authorization: str) -> Answer:
        with self._lock:
            self.shown.append(authorization)
            token = authorization.removeprefix("Bearer ")
            living = any(one.access_tokens.get(token, 0) > time.time() and not one.revoked for one in self.sign_ins)
        return (200, {"ok": True}) if living else (401, {"error": "invalid_token"})

    def _refresh(self, token: str) -> Answer:
        for one in self.sign_ins:
            if token in one.used:
                one.revoked = True
            elif token and token == one.refresh_token and not one.revoked:
                if self.rotates:
                    one.used.add(token)
                    one.refresh_token = _new("refresh")
                return 200, self._body(one) | ({"refresh_token": one.refresh_token} if self.rotates else {})
        return 400, {"error": "invalid_grant"}

    def _body(self, one: SignIn) -> dict[str, Any]:
        token = self._new_access(one, self.expires_in if isinstance(self.expires_in, int) else 3600)
        body = {"access_token": token, "token_type": "Bearer"}
        return body | ({"expires_in": self.expires_in} if self.expires_in is not None else {})

    def _new_access(self, one: SignIn, lives_s: float) -> str:
        token = _new("access")
        one.access_tokens[token] = time.time() + lives_s
        return token

    def _is_client(self, asked: Asked) -> bool:
        kind, _, given = asked.headers.get("authorization", "").partition(" ")
        if kind == "Basic" and "basic" in self.client_ways:
            name, _, secret = b64decode(given).decode().partition(":")
            return (unquote_plus(name), unquote_plus(secret)) == self.client
        return "body" in self.client_ways and self.client == (
            asked.fields.get("client_id"),
            asked.fields.get("client_secret"),
        )


def _new(kind: str) -> str:
    return f"{kind}-{secrets.token_urlsafe(24)}"


def _handler(provider: Provider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            is_json = self.headers["Content-Type"] == "application/json"
            fields = json.loads(text) if is_json else dict(parse_qsl(text))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._send(*provider.answer_token(Asked(self.path, headers, fields, text)))

        def do_GET(self) -> None:
            self._send(*provider.answer_api(self.headers.get("Authorization", "")))

        def _send(self, status: int, body: Mapping[str, Any]) -> None:
            headers = {"Content-Type": "application/json", **body.get("_headers", {})}
            raw = body.get("_raw", json.dumps({key: value for key, value in body.items() if key != "_headers"}))
            content = raw if isinstance(raw, bytes) else raw.encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
