"""OpenAPI 3.1, written from the routes and models that serve and validate: it cannot say anything else than they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import WithDefaultSchema

from chalicelib.api.answers import Problem
from chalicelib.api.requests import PATH_PARAMETERS
from chalicelib.api.routes import Route

_REF = "#/components/schemas/{model}"

Mode = Literal["validation", "serialization"]
References = Mapping[Any, JsonSchemaValue]

_HEADERS = {
    "X-Request-Id": {"description": "Also in the log line of this request", "schema": {"type": "string"}},
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}


class _Schemas(GenerateJsonSchema):
    """Without ``default: null`` where null may not be sent: a field that is left out has no value."""

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        return (
            super().default_schema(schema)
            if schema.get("default") is not None
            else self.generate_inner(schema["schema"])
        )


def document(routes: Iterable[Route], *, title: str = "Integration system", version: str = "1") -> dict[str, Any]:
    """The whole API. Every named route is in it, with every status that it declares."""
    listed = sorted(routes, key=lambda route: (route.path, route.method))
    references, schemas = models_json_schema(_models(listed), ref_template=_REF, schema_generator=_Schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in listed:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A Supabase access token",
                }
            },
        },
    }


def _models(routes: Iterable[Route]) -> list[tuple[type[BaseModel], Mode]]:
    wanted: dict[tuple[type[BaseModel], Mode], None] = {(Problem, "serialization"): None}
    for route in routes:
        if route.body is not None:
            wanted[route.body, "validation"] = None
        wanted |= {(model, "serialization"): None for model in route.answers.values() if model is not None}
    return list(wanted)


def _operation(route: Route, references: References) -> dict[str, Any]:
    summary, _, description = (route.view.__doc__ or "").strip().partition("\n")
    operation: dict[str, Any] = {
        "operationId": getattr(route.view, "__name__", ""),
        "summary": summary,
        "security": [] if route.open else [{"bearer": []}],
        "parameters": _parameters(route),
        "responses": {
            **{str(status): _answer(status, model, references) for status, model in route.answers.items()},
            **{str(status): _problem(status, references) for status in route.problems},
        },
    }
    if description.strip():
        operation["description"] = description.strip()
    if route.etag:
        operation["responses"]["304"] = {"description": "Not modified since the ETag of If-None-Match"}
    if route.body is not None:
        schema = references[route.body, "validation"]
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _path_schema(name)} for name in route.path_parameters
    ]
    if route.query is not None:
        schema = route.query.model_json_schema(ref_template=_REF, schema_generator=_Schemas)
        required = schema.get("required", [])
        definitions = schema.get("$defs", {})
        for name, member in schema["properties"].items():
            inlined = _inlined(member, definitions)
            # An empty value stands for none: what a form sends for a filter that is not chosen.
            shape = {"required": name in required, "allowEmptyValue": True, "schema": inlined}
            parameters.append({"name": name, "in": "query", **shape})
    if "idempotency" in route.takes:
        text = {"type": "string", "minLength": 1, "maxLength": 255}
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": False, "schema": text})
    return parameters


def _path_schema(name: str) -> dict[str, Any]:
    parameter = PATH_PARAMETERS[name]
    if parameter.kind is UUID:
        return {"type": "string", "format": "uuid"}
    return {"type": "string", "pattern": parameter.form.pattern}


def _inlined(member: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Query models are not components: the enums that they point to are written where they are used."""
    reference = member.get("$ref")
    if reference is None:
        return member
    return {**definitions[reference.rpartition("/")[2]], **{name: v for name, v in member.items() if name != "$ref"}}


def _answer(status: int, model: type[BaseModel] | None, references: References) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": _HEADERS}
    if model is not None:
        answer["content"] = {"application/json": {"schema": references[model, "serialization"]}}
    return answer


def _problem(status: int, references: References) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {**_HEADERS, **(_RETRY_AFTER if status in (429, 503) else {})},
        "content": {"application/problem+json": {"schema": references[Problem, "serialization"]}},
    }
