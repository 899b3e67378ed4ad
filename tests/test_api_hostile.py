"""Whatever is sent, by whoever has a valid account: a clear refusal, never a 500, and nothing is stored."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from chalice.test import Client

from chalicelib.api.apis import APIS
from tests.support.app import Person, Reply, app_client, environment
from tests.support.stack import Stack

ROUTES = [route for api in APIS for route in api.routes]
DEEP = b'{"connection_config":' * 10_000 + b"1" + b"}" * 10_000
RIGHT_TO_LEFT = "\u202e"


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with environment(stack.environment()), app_client() as client:
        yield client


@pytest.fixture
def mallory(client: Client, stack: Stack) -> Person:
    return Person(client, stack.new_user()[1])


@pytest.fixture(scope="module")
def contents(stack: Stack) -> Any:
    def count() -> dict[str, int]:
        with stack.database.connect() as connection:
            tables = connection.execute(
                "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
                " where n.nspname in ('public', 'private') and c.relkind = 'r' and c.relname not in ('test_budgets')"
            ).fetchall()
            return {name: connection.execute(f"select count(*) from {name}").fetchone()[0] for (name,) in tables}  # type: ignore[arg-type,index]

    return count


def is_refusal(reply: Reply) -> bool:
    problem = reply.json
    return (
        400 <= reply.status < 500
        and reply.headers["Content-Type"] == "application/problem+json"
        and problem["status"] == reply.status
        and bool(problem["code"] and problem["detail"])
        and "Traceback" not in problem["detail"]
    )


def good() -> dict[str, Any]:
    return {"integration_type": "custom-vendor", "name": "x", "connection_config": {"api_url": "http://127.0.0.1:9/"}}


BODIES: dict[str, tuple[bytes, set[int]]] = {
    "empty": (b"", {400, 422}),
    "not JSON": (b"{", {400}),
    "not UTF-8": (b'{"name": "\xff"}', {400}),
    "NaN": (b'{"name": NaN}', {400}),
    "the same name twice": (b'{"name": "a", "name": "b"}', {400}),
    "null": (b"null", {422}),
    "a list": (b"[]", {422}),
    "10,000 deep": (DEEP, {400, 422}),
    "2 MB": (b'{"name": "' + b"a" * 2_000_000 + b'"}', {413}),
    "an unknown field": (json.dumps(good() | {"user_id": str(uuid.uuid4())}).encode(), {422}),
    "a status": (json.dumps(good() | {"status": "connected"}).encode(), {422}),
    "a number for a name": (json.dumps(good() | {"name": 7}).encode(), {422}),
    "1 MB of name": (json.dumps(good() | {"name": "n" * 1_000_000}).encode(), {422}),
    "a blank name": (json.dumps(good() | {"name": "  "}).encode(), {422}),
    "NUL in a name": (json.dumps(good() | {"name": "a\0b"}).encode(), {422}),
    "a lone surrogate": (b'{"integration_type": "custom-vendor", "name": "\\ud800"}', {422}),
    "a name that reads backwards": (json.dumps(good() | {"name": f"a{RIGHT_TO_LEFT}b"}).encode(), {422}),
    "a list for a config": (json.dumps(good() | {"connection_config": []}).encode(), {422}),
    "NUL deep in a config": (json.dumps(good() | {"connection_config": {"a": [{"b": "\0"}]}}).encode(), {422}),
    "a secret in a config": (json.dumps(good() | {"connection_config": {"api_url": "http://127.0.0.1:9/", "a": {"apiKey": "x"}}}).encode(), {422}),
    "an unknown auth method": (json.dumps(good() | {"auth_method": "magic"}).encode(), {422}),
    "a credential of another method": (json.dumps(good() | {"auth_method": "none", "credentials": {"api_key": "x"}}).encode(), {422}),
    "a header that is split": (json.dumps(good() | {"credentials": {"header.X-A": "a\r\nX-B: b"}}).encode(), {422}),
    "a header name with a space": (json.dumps(good() | {"credentials": {"header.X A": "a"}}).encode(), {422}),
    "a Host header": (json.dumps(good() | {"credentials": {"header.Host": "internal"}}).encode(), {422}),
    "a preloaded library": (json.dumps(good() | {"credentials": {"env.LD_PRELOAD": "/tmp/x.so"}}).encode(), {422}),
    "an empty credential": (json.dumps(good() | {"auth_method": "api_key", "credentials": {"api_key": ""}}).encode(), {422}),
    "65 KiB of credential": (json.dumps(good() | {"auth_method": "api_key", "credentials": {"api_key": "k" * 66_561}}).encode(), {422}),
    "the metadata service": (json.dumps(good() | {"connection_config": {"api_url": "http://169.254.169.254/latest"}}).encode(), {422}),
    "a user in a URL": (json.dumps(good() | {"connection_config": {"api_url": "http://a:b@127.0.0.1:9/"}}).encode(), {422}),
    "a file": (json.dumps(good() | {"connection_config": {"api_url": "file:///etc/passwd"}}).encode(), {422}),
    "an unknown type": (json.dumps(good() | {"integration_type": "no-such-type"}).encode(), {404}),
    "an injected type": (json.dumps(good() | {"integration_type": "x' or 1=1 --"}).encode(), {422}),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_is_refused_and_stores_nothing(name: str, mallory: Person, contents: Any) -> None:
    body, statuses = BODIES[name]
    before = contents()

    reply = mallory.post("/integrations", body)

    assert is_refusal(reply), reply.body
    assert reply.status in statuses
    assert contents() == before


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.body], ids=lambda route: f"{route.method} {route.path}"
)
def test_every_route_that_takes_a_body_refuses_bad_ones(route: Any, mallory: Person) -> None:
    path = route.path.format(integration_id=uuid.uuid4(), credential_type="api_key", slug="x")
    for name in ("empty", "not JSON", "null", "a list", "10,000 deep", "2 MB", "NaN", "an unknown field"):
        reply = mallory.send(route.method, path, BODIES[name][0], {})
        assert is_refusal(reply), (name, reply.body)
    assert mallory.send(route.method, path, b"<a/>", {"Content_Type": "application/xml"}).status == 415


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if "{" in route.path], ids=lambda route: f"{route.method} {route.path}"
)
@pytest.mark.parametrize(
    "bad", ["1", "null", "..%2F..", "%00", "a" * 300, "ABCDEFGH-0000-4000-8000-000000000000", "'or'1"]
)
def test_ids_that_are_none_are_not_found(route: Any, bad: str, mallory: Person) -> None:
    path = route.path.replace("{integration_id}", bad).replace("{slug}", bad).replace("{credential_type}", "api_key")
    body = {"value": "x" * 20} if route.method == "PUT" else {}

    reply = mallory.send(route.method, path, body if route.body else None, {})

    assert reply.status == 404, reply.body


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "limit=1&limit=2", "cursor=abc", "cursor=%F0%9F%98%80", "status=nope", "sort=id;drop",
     "verdict=bad", "nope=1", "type=%00", "q=%00", "window=1h"],
)  # fmt: skip
def test_bad_queries_are_refused(query: str, mallory: Person) -> None:
    reply = mallory.get(f"/integrations?{query}")

    assert is_refusal(reply)
    assert reply.status in (400, 422)


@pytest.mark.parametrize("q", ["%_\\", "' or 1=1 --", "&|!:*()<->", "a" * 200, "ÄÖ日本", "\\"])
def test_hostile_searches_are_just_searches(q: str, mallory: Person) -> None:
    assert mallory.get(f"/integrations?q={quote(q)}").status == 200
    assert mallory.get(f"/integration-types?q={quote(q)}").status == 200


def test_an_idempotency_key_of_any_shape_is_refused_or_kept(mallory: Person) -> None:
    for key in ("", " ", "ä", "k" * 256):
        assert is_refusal(mallory.post("/integrations", good(), Idempotency_Key=key))


def test_nobody_without_a_token_gets_past_any_closed_route(client: Client) -> None:
    stranger = Person(client, None)
    for route in ROUTES:
        path = route.path.format(integration_id=uuid.uuid4(), credential_type="api_key", slug="custom-vendor")
        reply = stranger.send(route.method, path, {} if route.body else None, {})
        assert (reply.status == 401) != route.open, (route.method, route.path)


def test_methods_that_a_path_does_not_know_are_refused(mallory: Person) -> None:
    assert mallory.send("DELETE", "/integrations", None, {}).status in (403, 405)
    assert mallory.send("PUT", "/integrations/overview", {}, {}).status in (403, 405)


def test_credentials_do_not_pile_up(mallory: Person) -> None:
    """Each request is small, and all that they bring has to be read at every check."""
    made = mallory.post("/integrations", good()).json["id"]
    many = {"credentials": {f"header.X-{number}": "x" for number in range(40)}}
    assert mallory.patch(f"/integrations/{made}", many).status == 200

    more = mallory.put(f"/integrations/{made}/credentials/header.X-40", {"value": "x"})
    again = mallory.put(f"/integrations/{made}/credentials/header.X-0", {"value": "y"})

    assert (more.status, more.json["code"]) == (422, "too_many_credentials")
    assert "Delete one" in more.json["detail"]
    assert again.status == 200
    assert len(mallory.get(f"/integrations/{made}/credentials").json["items"]) == 40


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "1999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"])
def test_an_expiry_that_nobody_can_compute_with_is_refused(mallory: Person, moment: str) -> None:
    made = mallory.post("/integrations", good()).json["id"]

    reply = mallory.put(f"/integrations/{made}/credentials/api_key", {"value": "x", "expires_at": moment})

    assert (reply.status, reply.json["errors"][0]["field"]) == (422, "expires_at")
    assert mallory.get(f"/integrations/{made}").status == 200
