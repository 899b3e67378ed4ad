"""A frontend draws the form of any type from what the detail route says, and what it collects is accepted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from catalogue.__main__ import FOLDER, rows_of
from catalogue.compiling import Row
from chalicelib.api.answers import IntegrationTypeDetail
from chalicelib.model import AuthMethod
from chalicelib.services.endpoints import config_problems, required_credentials
from chalicelib.services.forms import USUAL_FIELDS, with_form
from chalicelib.services.plain_types import type_from
from chalicelib.vault.inspection import credential_type_problem
from tests.support.app import Person, app_client, environment
from tests.support.stack import Stack

ROWS = {row.slug: row for row in rows_of(FOLDER)}
every_entry = pytest.mark.parametrize("slug", ROWS)


def detail_of(row: Row) -> dict[str, Any]:
    """The row as the database gives it."""
    names = ("slug", "name", "type", "category", "description", "icon_type", "tags", "auth_methods", "source")
    parts = {name: getattr(row, name) for name in (*names, "config_schema", "definition")}
    return {"id": str(row.id), **parts}


def form(slug: str, mcp_stdio: str = "any") -> dict[str, Any]:
    """The answer of the detail route, as JSON."""
    answer = IntegrationTypeDetail.model_validate(with_form(detail_of(ROWS[slug]), mcp_stdio))
    return answer.model_dump(mode="json")


def named(fields: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {field["name"]: field for field in fields}


def fields_for(shown: dict[str, Any], method: str) -> list[dict[str, Any]]:
    return [field for field in shown["fields"] if field["auth_method"] in (None, method)]


def typed(field: dict[str, Any]) -> Any:
    """What a person who follows the form gives: its default, the first choice, or what looks like the example."""
    if field["default"] is not None:
        return field["default"]
    if field["choices"]:
        return field["choices"][0]
    if field["example"] is not None:
        return field["example"]
    return {"integer": 1, "array": ["a"], "object": {"A": "a"}, "boolean": True}.get(field["type"], "something")


def filled_in(shown: dict[str, Any], method: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Config and credentials from the required fields alone, by somebody who knows nothing of the type."""
    config: dict[str, Any] = {}
    credentials: dict[str, str] = {}
    for field in fields_for(shown, method):
        hidden = any(config.get(other) not in values for other, values in (field["when"] or {}).items())
        if hidden or not field["required"]:
            continue
        if field["goes_to"] == "credentials":
            credentials[field["name"]] = typed(field)
        elif field["name"].startswith("env."):
            config.setdefault("env", {})[field["name"].removeprefix("env.")] = typed(field)
        else:
            config[field["name"]] = typed(field)
    return config, credentials


@every_entry
def test_what_the_form_collects_is_all_that_a_connection_needs(slug: str) -> None:
    shown = form(slug)
    kind = type_from(detail_of(ROWS[slug]))

    for method in shown["auth_methods"]:
        config, credentials = filled_in(shown, method)
        assert config_problems(kind, method, config) == []
        for group in required_credentials(kind, method):
            assert set(group) & set(credentials), f"{method} needs {group}"
        for name in credentials:
            assert credential_type_problem(AuthMethod(method), name) is None


@every_entry
def test_every_field_tells_what_it_is_and_where_to_find_it(slug: str) -> None:
    shown = form(slug)

    assert shown["auth_methods"] == ROWS[slug].auth_methods
    for field in shown["fields"]:
        assert field["label"], field
        assert field["help"] or field["where"], field["name"]
        if field["pattern"]:
            assert re.compile(field["pattern"])
        if field["secret"]:
            assert field["goes_to"] == "credentials"
            assert field["example"] is None or field["example"].endswith("…")
        if field["choices"] and field["default"] is not None:
            assert field["default"] in field["choices"]


@every_entry
def test_fields_stand_in_the_order_to_show_them(slug: str) -> None:
    fields = form(slug)["fields"]
    places = [field["goes_to"] for field in fields]
    methods = [field["auth_method"] for field in fields if field["auth_method"]]

    assert places == sorted(places)  # connection_config, then credentials
    assert list(dict.fromkeys(methods)) == [name for name in ROWS[slug].auth_methods if name in methods]
    for method in ROWS[slug].auth_methods:
        names = [field["name"] for field in fields_for({"fields": fields}, method)]
        assert len(names) == len(set(names))
        for field in fields_for({"fields": fields}, method):
            for other in field["when"] or {}:
                assert names.index(other) < names.index(field["name"])


def test_a_secret_of_a_command_is_asked_for_as_a_credential_and_the_rest_as_settings() -> None:
    row = detail_of(ROWS["memory-mcp"])
    row["definition"] = {
        "auth": {"none": {"fields": []}},
        "mcp": {
            "protocol": "stdio", "command": "npx", "args": ["acme"],
            "env": [{"name": "ACME_KEY", "label": "Key", "secret": True}, {"name": "ACME_REGION", "label": "Region"}],
        },
    }  # fmt: skip

    fields = named(with_form(row, "any")["fields"])

    assert (fields["env.ACME_KEY"]["goes_to"], fields["env.ACME_KEY"]["secret"]) == ("credentials", True)
    assert (fields["env.ACME_REGION"]["goes_to"], fields["env.ACME_REGION"]["secret"]) == ("connection_config", False)
    assert "env" not in fields


@pytest.mark.parametrize(
    ("slug", "mcp_stdio", "protocols"),
    [
        ("time-mcp", "any", ["stdio"]),
        ("time-mcp", "catalogue", ["stdio"]),
        ("time-mcp", "off", []),
        ("filesystem-mcp", "catalogue", []),  # its arguments are the user's own
        ("mcp-custom", "any", ["http", "sse", "stdio"]),
        ("mcp-custom", "catalogue", ["http", "sse"]),
        ("mcp-custom", "off", ["http", "sse"]),
        ("linear-mcp", "off", ["http"]),
        ("stripe", "off", ["https"]),
        ("ssh-host", "off", ["ssh"]),
    ],
)
def test_only_the_ways_that_this_deployment_allows_are_offered(slug: str, mcp_stdio: str, protocols: list[str]) -> None:
    assert form(slug, mcp_stdio)["protocols"] == protocols


def test_a_form_asks_nothing_about_commands_where_none_may_run() -> None:
    allowed, forbidden = named(form("mcp-custom", "any")["fields"]), named(form("mcp-custom", "off")["fields"])

    assert set(allowed) - set(forbidden) == {"command", "args", "env"}
    assert allowed["protocol"]["choices"] == ["http", "sse", "stdio"]
    assert forbidden["protocol"]["choices"] == ["http", "sse"]


def test_what_a_type_fixes_is_not_asked_for() -> None:
    assert {"protocol", "command", "args"} & set(named(form("time-mcp")["fields"])) == set()
    assert "protocol" not in named(form("linear-mcp")["fields"])


def test_examples_keep_the_type_of_their_field() -> None:
    fields = named(form("mcp-custom")["fields"])

    assert fields["timeout_ms"]["example"] == 10000
    assert isinstance(fields["args"]["example"], list)
    assert isinstance(fields["env"]["example"], dict)


def test_a_field_without_a_page_of_its_own_points_to_the_page_about_keys() -> None:
    row = detail_of(ROWS["stripe"])
    row["definition"] = {**row["definition"], "docs": {"developer": "https://d.example", "key": "https://k.example"}}
    row["definition"]["auth"] = {"api_key": {"fields": [{"name": "api_key", "label": "Key"}]}}
    row["definition"]["config_fields"] = [{"name": "account", "label": "Account"}]

    fields = named(with_form(row | {"auth_methods": ["api_key"]}, "off")["fields"])

    assert fields["api_key"]["where"] == "https://k.example"
    assert fields["account"]["where"] == "https://d.example"


@pytest.mark.parametrize("kind", ["mcp", "vendor"])
def test_a_type_that_names_no_methods_offers_all_that_can_work_with_the_usual_fields(kind: str) -> None:
    row = detail_of(ROWS["stripe"]) | {"type": kind, "auth_methods": [], "definition": {}, "config_schema": {}}

    shown = with_form(row, "off")

    assert set(shown["auth_methods"]) == set(AuthMethod) - {"ssh_key"}
    for method in shown["auth_methods"]:
        names = [field["name"] for field in fields_for(shown, method) if field["auth_method"]]
        assert names == [field["name"] for field in USUAL_FIELDS[method]]


@pytest.fixture(scope="module")
def visitor(stack: Stack) -> Iterator[Person]:
    with environment(stack.environment()), app_client() as client:
        yield Person(client, None)


def test_the_route_gives_the_form_of_every_entry(visitor: Person) -> None:
    for slug in ROWS:
        reply = visitor.get(f"/integration-types/{slug}")

        assert reply.status == 200, slug
        assert reply.json == form(slug)
