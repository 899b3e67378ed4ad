"""The app itself, as a frontend meets it: requests in, answers out, through Chalice's own test client."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from chalice.test import Client

from chalicelib import wiring

CACHED = ("settings", "supabase", "tokens", "vault", "egress_policy", "edge_key", "door", "tickets")


def app_client() -> Client:
    """`app.py` as it is served. Of no stage that `.chalice/config.json` knows: Chalice would set what that says."""
    import app

    return Client(app.app, stage_name="tests")


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Person:
    """Somebody at a browser: sends what they type with their own token."""

    def __init__(self, client: Client, token: str | None) -> None:
        self._client = client
        self._token = token

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, None, headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        return self.send("POST", path, body, headers)

    def put(self, path: str, body: Any) -> Reply:
        return self.send("PUT", path, body, {})

    def patch(self, path: str, body: Any) -> Reply:
        return self.send("PATCH", path, body, {})

    def delete(self, path: str) -> Reply:
        return self.send("DELETE", path, None, {})

    def send(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Reply:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self._token is not None:
            sent.setdefault("Authorization", f"Bearer {self._token}")
        content = b""
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        response = self._client.http.request(method, path, headers=sent, body=content)
        return Reply(response.status_code, response.headers, response.body)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """The app with these settings; nothing that it built before or builds now outlives this."""
    before = dict(os.environ)
    os.environ.update(values)
    _forget()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        _forget()


def _forget() -> None:
    for name in CACHED:
        built = getattr(wiring, name)
        if name == "supabase" and built.cache_info().currsize:
            built().close()
        built.cache_clear()
