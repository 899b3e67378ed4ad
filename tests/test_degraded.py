"""What users and operators see while something that we depend on is down: the truth, soon, and when to come back."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chalice.test import Client

from chalicelib.api.apis import APIS
from tests.support.app import Person, environment
from tests.support.postgres import Cluster
from tests.support.stack import Stack

HEALTH_DEADLINE_S = 1.0
OWN = [route for api in APIS for route in api.routes if not route.open]
SOMETHING = "8f14e45f-ceea-467f-a8d2-3f0a4f7e0001"
BODIES = {
    "/integrations": {"integration_type": "custom-vendor", "name": "x"},
    "/integrations/test": {"integration_type": "custom-vendor"},
    "/integrations/{integration_id}": {"name": "y"},
    "/integrations/{integration_id}/credentials/{credential_type}": {"value": "made-up-key"},
}


@contextmanager
def black_hole() -> Iterator[str]:
    """An address that accepts connections and then says nothing, for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def everybody(stack: Stack, **changed: str) -> Iterator[tuple[Person, Person]]:
    """A signed-in user and a passer-by, of a process that has just started."""
    _, token = stack.new_user()
    with environment(stack.environment() | changed):
        import app

        with Client(app.app) as client:
            yield Person(client, token), Person(client, None)


def health_of(person: Person) -> dict[str, object]:
    began = time.monotonic()
    reply = person.get("/health")

    assert time.monotonic() - began < HEALTH_DEADLINE_S
    assert reply.status == 200
    document: dict[str, object] = reply.json
    return document


def assert_every_user_route_says_come_back_later(user: Person) -> None:
    for route in OWN:
        path = route.path.replace("{integration_id}", SOMETHING).replace("{credential_type}", "api_key")
        body = BODIES.get(route.path) if route.body else None
        reply = user.send(route.method, path, body, {})

        assert (reply.status, reply.json["code"] in ("unavailable", "sign_in_unavailable")) == (503, True), route.path
        assert int(reply.headers["Retry-After"]) >= 1


def test_all_is_well(stack: Stack) -> None:
    with everybody(stack) as (_, anybody):
        assert health_of(anybody) == {"status": "ok", "checks": {"database": "ok", "sign_in": "ok", "keys": "ok"}}


def test_without_postgrest(stack: Stack) -> None:
    with everybody(stack, SUPABASE_REST_URL="http://127.0.0.1:1") as (user, anybody):
        assert health_of(anybody) == {
            "status": "degraded",
            "checks": {"database": "down", "sign_in": "ok", "keys": "ok"},
        }
        assert_every_user_route_says_come_back_later(user)
        assert anybody.get("/integration-types").status == 503


def test_with_a_postgrest_that_swallows_everything(stack: Stack) -> None:
    with black_hole() as url, everybody(stack, SUPABASE_REST_URL=url) as (user, anybody):
        assert health_of(anybody) == {
            "status": "degraded",
            "checks": {"database": "slow", "sign_in": "ok", "keys": "ok"},
        }
        reply = user.get("/integrations")

    assert (reply.status, reply.json["code"]) == (503, "unavailable")
    assert "Retry-After" in reply.headers


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A database's API that answers everything with this."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "body",
    [b"<html>", b'{"items": [1' + b"0" * 5_000 + b"]}", b'{"items": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
    ids=["no JSON", "a number of 5,000 digits", "100,000 levels"],
)
def test_with_answers_that_nobody_can_read(stack: Stack, body: bytes) -> None:
    with answering(body) as url, everybody(stack, SUPABASE_REST_URL=url) as (user, _):
        replies = [user.get("/integrations"), user.get(f"/integrations/{SOMETHING}")]

    for reply in replies:
        assert (reply.status, reply.json["code"]) == (503, "unavailable"), reply.body


def test_without_the_keys_of_sign_ins(stack: Stack) -> None:
    with everybody(stack, SUPABASE_JWKS_URL="http://127.0.0.1:1/keys") as (user, anybody):
        assert health_of(anybody) == {
            "status": "degraded",
            "checks": {"database": "ok", "sign_in": "down", "keys": "ok"},
        }
        assert_every_user_route_says_come_back_later(user)
        assert anybody.get("/integration-types").status == 200


def test_without_the_service_that_keeps_keys(stack: Stack) -> None:
    aws = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-central-1"}
    settings = {**aws, "KMS_ENDPOINT_URL": "http://127.0.0.1:1", "KMS_KEY_ID": "alias/x", "LOCAL_KEY_FILE": ""}
    with everybody(stack, **settings) as (user, anybody):
        body = {"integration_type": "custom-vendor", "name": "x", "auth_method": "api_key"}
        config = {"connection_config": {"api_url": "http://127.0.0.1:9/"}}
        reply = user.post("/integrations", body | config | {"credentials": {"api_key": "made-up-key"}})

        assert (reply.status, reply.json["code"]) == (503, "unavailable")
        assert "Retry-After" in reply.headers
        assert health_of(anybody) == {
            "status": "degraded", "checks": {"database": "ok", "sign_in": "ok", "keys": "down"},
        }  # fmt: skip
        assert user.get("/integrations").status == 200, "what needs no key goes on"


def test_with_everything_silent(stack: Stack) -> None:
    with black_hole() as url, everybody(stack, SUPABASE_REST_URL=url, SUPABASE_JWKS_URL=f"{url}/k") as (user, anybody):
        assert health_of(anybody) == {
            "status": "degraded",
            "checks": {"database": "slow", "sign_in": "slow", "keys": "ok"},
        }
        reply = user.get("/integrations")

    assert (reply.status, reply.json["code"]) == (503, "sign_in_unavailable")


def test_with_postgres_stopped_behind_a_postgrest_that_runs(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.start()
    try:
        stack = Stack(cluster, tmp_path)
        stack.start()
        with everybody(stack) as (user, anybody):
            assert user.get("/integrations").status == 200
            cluster.server.stop()

            assert health_of(anybody)["status"] == "degraded"
            assert_every_user_route_says_come_back_later(user)
        stack.postgrest.stop()
        stack.issuer.stop()
    finally:
        cluster.stop()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_open_route_that_needs_nothing_is_not_dragged_along(stack: Stack, method: str) -> None:
    with black_hole() as url, everybody(stack, SUPABASE_REST_URL=url) as (_, anybody):
        reply = anybody.send(method, "/openapi.json", None, {})

    assert reply.status == (200 if method == "GET" else 405)
