"""What browsers are told, through the test client and through Chalice's own server on loopback."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from chalice.config import Config
from chalice.local import LocalDevServer, create_local_server

from chalicelib.api.answers import JsonDocument
from chalicelib.api.edge import Api
from chalicelib.api.tokens import Caller
from tests.support.edge import ORIGINS, USER, Browser, access_token, an_app, assert_problem

STRANGER = "https://app.example.com.evil.example"
INTEGRATION = "8f14e45f-ceea-467f-a8d2-3f0a4f7e0001"

api = Api()


@api.get("/integrations/{integration_id}", answers=JsonDocument)
def get(integration_id: UUID, caller: Caller) -> dict[str, Any]:
    return {"id": str(integration_id), "user": str(caller.user_id), "text": "✓"}


@api.delete("/integrations/{integration_id}")
def delete(integration_id: UUID) -> None:
    pass


@api.get("/types", answers=JsonDocument, open=True, etag=True)
def types() -> dict[str, Any]:
    return {"items": []}


@pytest.fixture(scope="module")
def browser() -> Browser:
    return Browser(an_app(api))


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize(
    ("method", "path", "signed_in", "status"),
    [
        ("GET", f"/integrations/{INTEGRATION}", True, 200),
        ("DELETE", f"/integrations/{INTEGRATION}", True, 204),
        ("GET", f"/integrations/{INTEGRATION}", False, 401),
        ("GET", "/integrations/none", True, 404),
        ("PUT", "/types", True, 405),
        ("GET", "/types", False, 200),
    ],
)
def test_each_allowed_origin_is_named_on_every_answer(
    browser: Browser, origin: str, method: str, path: str, signed_in: bool, status: int
) -> None:
    response = browser.send(method, path, headers={"Origin": origin}, signed_in=signed_in)

    assert response.status_code == status
    assert response.headers["Access-Control-Allow-Origin"] == origin
    assert response.headers["Vary"] == "Origin"
    assert "x-request-id" in response.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize("headers", [{}, {"Origin": STRANGER}, {"Origin": "null"}, {"Origin": ""}])
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "PUT"])
def test_other_origins_learn_nothing_but_the_answer_varies_for_caches(
    browser: Browser, headers: dict[str, str], method: str
) -> None:
    response = browser.send(method, "/types", headers=headers)

    assert not [name for name in response.headers if name.startswith("Access-Control")]
    assert response.headers["Vary"] == "Origin"


def test_a_preflight_names_the_methods_and_headers_of_its_path(browser: Browser) -> None:
    asks = {"Origin": ORIGINS[1], "Access-Control-Request-Method": "DELETE"}
    response = browser.send("OPTIONS", f"/integrations/{INTEGRATION}", headers=asks, signed_in=False)

    assert (response.status_code, response.body) == (204, b"")
    assert response.headers["Access-Control-Allow-Origin"] == ORIGINS[1]
    assert response.headers["Access-Control-Allow-Methods"] == "DELETE, GET"
    allowed = response.headers["Access-Control-Allow-Headers"].split(", ")
    assert {"authorization", "content-type", "idempotency-key", "if-none-match", "x-request-id"} == set(allowed)
    assert int(response.headers["Access-Control-Max-Age"]) > 0


def test_an_answer_not_modified_names_the_origin_too(browser: Browser) -> None:
    tag = browser.send("GET", "/types").headers["ETag"]
    response = browser.send("GET", "/types", headers={"Origin": ORIGINS[0], "If-None-Match": tag})

    assert response.status_code == 304
    assert response.headers["Access-Control-Allow-Origin"] == ORIGINS[0]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalDevServer]:
    server = create_local_server(an_app(api), Config.create(), "127.0.0.1", 0)
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server.server_close()


@pytest.fixture
def connection(server: LocalDevServer) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server.server_port, timeout=10)
    yield connection
    connection.close()


def exchange(connection: http.client.HTTPConnection, method: str, path: str, **headers: str) -> Any:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers={"Authorization": f"Bearer {access_token()}", **sent})
    response = connection.getresponse()
    return response.status, response.headers, response.read().decode()


def test_one_kept_connection_carries_answers_of_every_kind(connection: http.client.HTTPConnection) -> None:
    path = f"/integrations/{INTEGRATION}"
    for _ in range(2):
        status, _, body = exchange(connection, "DELETE", path)
        assert (status, body) == (204, "")
        status, headers, body = exchange(connection, "GET", path, Origin=ORIGINS[0])
        assert (status, str(USER) in body, "✓" in body) == (200, True, True)
        assert headers["Access-Control-Allow-Origin"] == ORIGINS[0]
        tag = exchange(connection, "GET", "/types")[1]["ETag"]
        assert exchange(connection, "GET", "/types", If_None_Match=tag)[::2] == (304, "")
        status, headers, _ = exchange(connection, "GET", path, Authorization="Bearer no", Origin=ORIGINS[1])
        assert (status, headers["Access-Control-Allow-Origin"]) == (401, ORIGINS[1])
        status, headers, body = exchange(connection, "OPTIONS", path, Origin=ORIGINS[1])
        assert (status, body, headers["Access-Control-Allow-Origin"]) == (204, "", ORIGINS[1])
        assert exchange(connection, "PATCH", path, Origin=ORIGINS[1])[0] == 405


def test_requests_at_the_same_time_keep_their_own_ids(server: LocalDevServer) -> None:
    wrong: list[str] = []

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.server.server_port, timeout=10)
        for turn in range(5):
            own = f"request-{number}-{turn}"
            if exchange(connection, "GET", "/types", X_Request_Id=own)[1]["X-Request-Id"] != own:
                wrong.append(own)
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_problem_of_a_wrong_method_is_whole(browser: Browser) -> None:
    assert_problem(browser.send("POST", "/types", {}), 405, "method_not_allowed")
