"""The document says what the routes do, no more and no less; and the edge starts light."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any
from uuid import UUID

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel

from chalicelib.api import answers, models
from chalicelib.api.answers import Integration, JsonDocument, NotSaved, TestedIntegration, UpdatedOrNot
from chalicelib.api.edge import Api
from chalicelib.api.models import CreateIntegration, IntegrationsQuery, PutCredential, UpdateIntegration
from chalicelib.api.openapi import document
from chalicelib.services.drafts import Idempotency

api = Api()


@api.get("/health", answers=JsonDocument, open=True)
def health() -> dict[str, Any]:
    """Whether it lives."""
    return {}


@api.get("/types/{slug}", answers=JsonDocument, open=True, etag=True)
def type_of(slug: str) -> dict[str, Any]:
    return {}


@api.get("/integrations", answers=answers.IntegrationList)
def integrations(query: IntegrationsQuery) -> dict[str, Any]:
    """Own integrations.

    The rest of the story.
    """
    return {}


@api.post("/integrations", answers={201: TestedIntegration, 200: NotSaved}, problems=(409, 429))
def create(body: CreateIntegration, idempotency: Idempotency | None) -> dict[str, Any]:
    return {}


@api.patch("/integrations/{integration_id}", answers=UpdatedOrNot, problems=(409,))
def update(integration_id: UUID, body: UpdateIntegration) -> dict[str, Any]:
    return {}


@api.delete("/integrations/{integration_id}")
def delete(integration_id: UUID) -> None:
    pass


@api.put("/integrations/{integration_id}/credentials/{credential_type}", answers=answers.CredentialMetadata)
def put(integration_id: UUID, credential_type: str, body: PutCredential) -> dict[str, Any]:
    return {}


DOCUMENT = document(api.routes)
DOCUMENT = json.loads(json.dumps(DOCUMENT))


def operation(method: str, path: str) -> Any:
    return DOCUMENT["paths"][path][method]


def test_the_document_is_valid_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_every_route_is_in_it_with_its_statuses() -> None:
    assert {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods} == {
        (route.method, route.path) for route in api.routes
    }
    assert operation("post", "/integrations")["responses"].keys() == {
        "201", "200", "400", "401", "409", "413", "415", "422", "429", "503",
    }  # fmt: skip
    assert operation("get", "/types/{slug}")["responses"].keys() == {"200", "304", "404"}
    assert operation("get", "/health")["responses"].keys() == {"200"}
    assert operation("delete", "/integrations/{integration_id}")["responses"].keys() == {"204", "401", "404", "503"}


def test_open_routes_ask_for_no_token_and_the_others_do() -> None:
    assert operation("get", "/health")["security"] == []
    assert operation("get", "/integrations")["security"] == [{"bearer": []}]


def test_texts_come_from_the_docstrings() -> None:
    listing = operation("get", "/integrations")

    assert (listing["summary"], listing["description"]) == ("Own integrations.", "The rest of the story.")


def test_parameters_of_query_path_and_header_are_those_that_are_read() -> None:
    parameters = {parameter["name"]: parameter for parameter in operation("get", "/integrations")["parameters"]}
    assert parameters.keys() == IntegrationsQuery.model_fields.keys()
    assert parameters["limit"]["schema"].items() >= {"minimum": 1, "maximum": 100, "default": 50}.items()
    assert "timeout" in parameters["verdict"]["schema"]["enum"]
    in_path = operation("put", "/integrations/{integration_id}/credentials/{credential_type}")["parameters"]
    assert [(one["name"], one["in"]) for one in in_path] == [("integration_id", "path"), ("credential_type", "path")]
    assert operation("post", "/integrations")["parameters"][0]["name"] == "Idempotency-Key"


def test_what_is_optional_may_be_left_out_but_not_be_null() -> None:
    schema = DOCUMENT["components"]["schemas"]["CreateIntegration"]

    assert schema["required"] == ["integration_type", "name"]
    assert schema["additionalProperties"] is False
    assert "null" not in json.dumps(schema["properties"])
    assert DOCUMENT["components"]["schemas"]["PutCredential"]["properties"]["value"]["writeOnly"] is True


ITEM = {
    "id": "8f14e45f-ceea-467f-a8d2-3f0a4f7e0001", "name": "Mine", "auth_method": "none", "connection_config": {},
    "integration_type": {"slug": "github", "name": "GitHub", "type": "mcp", "category": "code", "icon_type": None},
    "status": "connected", "is_connected": True, "created_at": "2026-01-02T03:04:05.678901+00:00",
    "updated_at": "2026-01-02T03:04:05+00:00", "user_id": "never shown", "encrypted_value": "never shown",
}  # fmt: skip
RESULT = {
    "success": False, "verdict": "timeout", "response_time_ms": 9, "steps": [], "checked_at": "2026-01-02T03:04:05Z",
}  # fmt: skip


def test_times_are_utc_with_a_zone_and_unknown_members_stay_behind() -> None:
    shown = json.loads(Integration.model_validate(ITEM).model_dump_json())

    assert shown["created_at"] == "2026-01-02T03:04:05.678901Z"
    assert "never shown" not in str(shown)


def test_a_change_answers_either_the_integration_or_that_it_was_not_saved() -> None:
    saved = json.loads(UpdatedOrNot.model_validate({**ITEM, "test_result": RESULT}).model_dump_json())
    kept_out = json.loads(UpdatedOrNot.model_validate({"saved": False, "test_result": RESULT}).model_dump_json())

    assert (saved["name"], saved["test_result"]["verdict"]) == ("Mine", "timeout")
    assert kept_out.keys() == {"saved", "test_result"}


@pytest.mark.parametrize("module", [answers, models])
def test_no_model_quotes_what_it_refuses(module: Any) -> None:
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, BaseModel)]
    own = [model for model in found if model.__module__ == module.__name__ and "[" not in model.__name__]

    assert own
    assert [model.__name__ for model in own if not model.model_config.get("hide_input_in_errors")] == []


def test_the_edge_starts_without_what_the_first_request_does_not_need() -> None:
    heavy = {"boto3", "botocore", "mcp", "httpx", "httpx2", "asyncssh", "postgrest", "jsonschema", "tenacity"}
    code = "import sys, chalicelib.api.edge, chalicelib.api.openapi; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "chalicelib.api.tokens" in loaded
    assert not heavy & set(loaded)
