"""The published document against the routes that exist and the answers that they give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from chalice.test import Client

from chalicelib.api.apis import APIS
from tests.support.app import Person, app_client, environment
from tests.support.stack import Stack
from tests.support.vendor import GOOD_KEY, Vendor

#: `api.md`, "Routes": fixed.
CONTRACT = {
    "GET /health", "GET /openapi.json", "GET /integration-types", "GET /integration-types/{slug}",
    "GET /integrations", "GET /integrations/overview", "POST /integrations", "GET /integrations/{integration_id}",
    "PATCH /integrations/{integration_id}", "DELETE /integrations/{integration_id}",
    "POST /integrations/{integration_id}/connect", "POST /integrations/{integration_id}/disconnect",
    "POST /integrations/{integration_id}/test", "POST /integrations/test", "GET /integrations/{integration_id}/logs",
    "GET /integrations/{integration_id}/health", "GET /integrations/{integration_id}/health/summary",
    "GET /integrations/{integration_id}/credentials",
    "PUT /integrations/{integration_id}/credentials/{credential_type}",
    "DELETE /integrations/{integration_id}/credentials/{credential_type}",
}  # fmt: skip


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with environment(stack.environment()), app_client() as client:
        yield client


@pytest.fixture(scope="module")
def document(client: Client) -> dict[str, Any]:
    published: dict[str, Any] = Person(client, None).get("/openapi.json").json
    return published


def test_the_document_lists_exactly_the_routes_that_are_served(document: dict[str, Any]) -> None:
    import app

    served = {
        f"{method} {path}" for path, methods in app.app.routes.items() for method in methods if method != "OPTIONS"
    }
    listed = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}

    assert listed == served == {f"{route.method} {route.path}" for api in APIS for route in api.routes}
    assert listed >= CONTRACT


def test_every_closed_route_asks_for_a_token(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            is_open = path in ("/health", "/openapi.json") or path.startswith("/integration-types")
            assert (operation["security"] == []) == is_open, (method, path)
            assert operation["summary"]


def test_answers_are_what_the_document_says(client: Client, stack: Stack, document: dict[str, Any]) -> None:
    person = Person(client, stack.new_user()[1])

    def asked(method: str, path: str, template: str, body: Any = None) -> Any:
        reply = person.send(method, path, body, {})
        answer = document["paths"][template][method.lower()]["responses"][str(reply.status)]
        if reply.body:
            media = reply.headers["Content-Type"]
            schema = answer["content"][media]["schema"] | {"components": document["components"]}
            jsonschema.Draft202012Validator(schema).validate(reply.json)
            return reply.json
        assert "content" not in answer
        return None

    one = "/integrations/{integration_id}"
    with Vendor() as vendor:
        body = {
            "integration_type": "custom-vendor", "name": "x", "auth_method": "api_key", "test": True,
            "connection_config": {"api_url": vendor.url}, "credentials": {"api_key": GOOD_KEY},
        }  # fmt: skip
        made = asked("POST", "/integrations", "/integrations", body)
        path = f"/integrations/{made['id']}"
        asked("POST", "/integrations", "/integrations", body)
        asked(
            "POST",
            "/integrations",
            "/integrations",
            body | {"name": "y", "test": "required", "credentials": {"api_key": "no" * 9}},
        )
        asked("POST", "/integrations", "/integrations", {})
        asked("POST", "/integrations/test", "/integrations/test", body)
        for action in ("test", "connect", "disconnect"):
            asked("POST", f"{path}/{action}", f"{one}/{action}")
        asked("PUT", f"{path}/credentials/api_key", f"{one}/credentials/{{credential_type}}", {"value": GOOD_KEY})
    asked("PATCH", path, one, {"name": "z"})
    for part in ("", "/logs", "/health", "/health/summary", "/credentials"):
        asked("GET", f"{path}{part}", f"{one}{part}")
    asked("GET", "/integrations", "/integrations")
    asked("GET", "/integrations/overview", "/integrations/overview")
    asked("GET", "/integration-types", "/integration-types")
    asked("GET", "/integration-types/custom-vendor", "/integration-types/{slug}")
    asked("GET", "/health", "/health")
    asked("DELETE", f"{path}/credentials/api_key", f"{one}/credentials/{{credential_type}}")
    asked("DELETE", path, one)
    asked("GET", path, one)
