"""A row inserted exactly as the product's documentation shows it is found, asked for, connected and tested."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from chalice.test import Client

from chalicelib.model import AuthMethod
from chalicelib.services.endpoints import config_problems, endpoint_of, stdio_refusal
from chalicelib.services.forms import with_form
from chalicelib.services.plain_types import type_from, understood
from tests.peers.mcp_servers import everything, everything_over
from tests.support.app import Person, app_client, environment
from tests.support.stack import Stack
from tests.support.vendor import GOOD_KEY, Vendor

#: The statement of the product's documentation.
INSERT = """
insert into integration_types (name, slug, type, category, description, icon_type, config_schema) values
  (%s, %s, %s, %s, %s, %s, %s)
"""


def plain(type: str, config_schema: dict[str, Any]) -> dict[str, Any]:
    """A row as the database gives it that was inserted with these columns only."""
    return {
        "id": "5b0c8a0e-54f8-4c0a-8f0c-1f3f7a2d9c11", "slug": "acme", "name": "Acme", "type": type, "category": "crm",
        "description": "", "icon_type": None, "tags": [], "auth_methods": [], "source": "custom",
        "config_schema": config_schema, "definition": {},
    }  # fmt: skip


def asked(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The form's fields by name, without the credentials of the auth methods."""
    fields = with_form(row, "any")["fields"]
    return {field["name"]: field for field in fields if "auth_method" not in field}


VALUES = {
    "api_url": "https://api.acme.example/v2", "api_version": "2026-01", "oauth_provider": "acme", "scopes": ["read"],
    "webhook_url": "https://hooks.acme.example/in", "webhook_secret": "",
}  # fmt: skip
FORMS = {
    "values": VALUES,
    "names of types": {name: "array" if name == "scopes" else "string" for name in VALUES},
    "optional names of types": {name: "array?" if name == "scopes" else "string?" for name in VALUES},
    "empty": {name: [] if name == "scopes" else "" for name in VALUES},
    "pieces of JSON Schema": {name: {"type": "array" if name == "scopes" else "string"} for name in VALUES},
    "pieces with required": {name: {"type": "string", "required": name == "api_url"} for name in VALUES},
    "a JSON Schema": {"type": "object", "properties": {name: {} for name in VALUES}, "required": [*VALUES]},
    "odd types of a form": {name: {"type": "text", "label": name} for name in VALUES},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_way_of_writing_the_members_asks_for_them_in_one_order(form: str) -> None:
    fields = asked(plain("vendor", FORMS[form]))

    assert list(fields) == ["api_url", "api_version", "oauth_provider", "scopes", "webhook_url", "webhook_secret"]
    assert fields["api_url"]["label"] == "API URL"


@pytest.mark.parametrize("form", FORMS)
def test_the_webhook_secret_is_a_credential_and_never_a_setting(form: str) -> None:
    row = plain("vendor", FORMS[form])
    field = asked(row)["webhook_secret"]
    shown = understood(row)

    assert (field["goes_to"], field["secret"], field["required"]) == ("credentials", True, True)
    assert "webhook_secret" not in shown["config_schema"]["properties"]
    assert "webhook_secret" not in shown["config_schema"].get("required", [])
    config = {"api_url": "https://api.acme.example", "scopes": ["read"], "api_version": "1"}
    config |= {"oauth_provider": "acme", "webhook_url": "https://hooks.acme.example"}
    if form in ("pieces with required", "odd types of a form"):
        del config["scopes"]  # it says that scopes are a text
    assert config_problems(type_from(row), AuthMethod.API_KEY, config) == []
    refused = config_problems(type_from(row), AuthMethod.API_KEY, config | {"webhook_secret": "x"})
    assert [path for path, _ in refused] == ["connection_config.webhook_secret"]


def test_a_secret_value_that_somebody_put_into_the_row_is_not_repeated() -> None:
    row = plain("vendor", VALUES | {"webhook_secret": "whsec_real", "api_key": "ak_real"})
    command = plain("mcp", {"protocol": "stdio", "command": "npx", "args": [], "env": {"ACME_TOKEN": "tok_real"}})

    for each in (row, command):
        assert "_real" not in json.dumps(with_form(each, "any"))
    assert "api_key" not in asked(row)  # the auth method api_key asks for it


def test_what_the_row_says_need_not_be_said_again() -> None:
    vendor = type_from(plain("vendor", VALUES))
    remote = type_from(plain("mcp", {"protocol": "sse", "url": "https://mcp.acme.example/sse"}))
    command = type_from(plain("mcp", {"protocol": "stdio", "command": "npx", "args": ["-y", "acme"], "env": {}}))

    assert endpoint_of(vendor, {}).url == "https://api.acme.example/v2"
    assert (endpoint_of(remote, {}).kind, endpoint_of(remote, {}).url) == ("sse", "https://mcp.acme.example/sse")
    assert endpoint_of(command, {}).command == ("npx", "-y", "acme")
    for type in (vendor, remote, command):
        assert config_problems(type, AuthMethod.NONE, {}) == []


def test_a_command_of_a_row_is_fixed_like_one_of_the_catalogue() -> None:
    type = type_from(plain("mcp", {"protocol": "stdio", "command": "npx", "args": ["-y", "acme"]}))

    assert stdio_refusal("catalogue", type, endpoint_of(type, {})) is None
    assert config_problems(type, AuthMethod.NONE, {"command": "sh", "args": ["-c", "id"]})
    assert config_problems(type, AuthMethod.NONE, {"env": {"OTHER": "x"}})


def test_a_row_that_only_names_a_command_leaves_it_to_users_where_any_command_may_run() -> None:
    row = plain("mcp", {"protocol": "stdio", "command": "string", "args": "array", "env": "object"})
    type = type_from(row)
    endpoint = endpoint_of(type, {"command": "npx", "args": ["acme"], "env": {"A": "b"}})

    assert list(asked(row)) == ["command", "args", "env"]
    assert stdio_refusal("catalogue", type, endpoint) is not None
    assert stdio_refusal("any", type, endpoint) is None


@pytest.mark.parametrize("env", ["object", {"type": "object"}])
def test_a_command_with_free_variables_is_no_command_of_the_catalogue(env: Any) -> None:
    type = type_from(plain("mcp", {"protocol": "stdio", "command": "npx", "args": ["acme"], "env": env}))
    config = {"command": "npx", "args": ["acme"], "env": {"ANY": "value"}}

    assert config_problems(type, AuthMethod.NONE, config) == []
    assert stdio_refusal("catalogue", type, endpoint_of(type, config)) is not None


def test_variables_of_a_command_are_asked_for_by_name() -> None:
    row = plain(
        "mcp",
        {
            "protocol": "stdio",
            "command": "npx",
            "args": ["acme"],
            "env": {"ACME_TOKEN": "", "REGION": "", "LEVEL": "info"},
        },
    )
    fields = asked(row)
    type = type_from(row)

    assert (fields["env.ACME_TOKEN"]["goes_to"], fields["env.ACME_TOKEN"]["secret"]) == ("credentials", True)
    assert (fields["env.REGION"]["goes_to"], fields["env.REGION"]["required"]) == ("connection_config", True)
    assert (fields["env.LEVEL"]["default"], fields["env.LEVEL"]["required"]) == ("info", False)
    assert [path for path, _ in config_problems(type, AuthMethod.NONE, {})] == ["connection_config.env.REGION"]
    assert dict(endpoint_of(type, {"env": {"REGION": "eu"}}).env) == {"REGION": "eu", "LEVEL": "info"}


def test_alternatives_become_choices_and_the_rest_waits_for_them() -> None:
    row = plain("mcp", {"protocol": "stdio|http|sse", "url": "string?", "command": "string?", "args": "array?"})
    fields = asked(row)

    assert fields["protocol"]["choices"] == ["stdio", "http", "sse"]
    assert fields["url"]["when"] == {"protocol": ["http", "sse"]}
    assert fields["command"]["when"] == {"protocol": ["stdio"]}
    assert config_problems(type_from(row), AuthMethod.NONE, {"protocol": "ftp", "url": "https://a.example"})


def test_a_fixed_protocol_leaves_out_what_belongs_to_the_others() -> None:
    empty = {"url": "", "command": "", "args": [], "env": {}}

    assert list(asked(plain("mcp", {"protocol": "http", **empty}))) == ["url"]
    assert list(asked(plain("mcp", {"protocol": "stdio", **empty}))) == ["command", "args"]


def test_placeholders_of_an_address_are_asked_for() -> None:
    row = plain("vendor", {"api_url": "https://{subdomain}.acme.example/api"})

    assert list(asked(row)) == ["subdomain"]
    assert endpoint_of(type_from(row), {"subdomain": "me"}).url == "https://me.acme.example/api"


def test_a_json_schema_of_the_operator_still_rules() -> None:
    schema = {
        "type": "object", "properties": {"api_url": {"default": "https://a.example"}, "region": {"enum": ["eu", "us"]}},
        "required": ["api_url", "region"], "additionalProperties": False,
    }  # fmt: skip
    type = type_from(plain("vendor", schema))

    assert config_problems(type, AuthMethod.NONE, {"region": "eu"}) == []
    assert {path for path, _ in config_problems(type, AuthMethod.NONE, {"region": "mars", "more": 1})} == {
        "connection_config.region", "connection_config.more",
    }  # fmt: skip


@pytest.mark.parametrize("type", ["mcp", "vendor", "custom"])
@pytest.mark.parametrize(
    "odd",
    [
        {"protocol": 1}, {"command": None}, {"args": "x"}, {"env": []}, {"url": {}}, {"api_url": [1]}, {"properties": []},
        {"type": "object"}, {"type": 7, "properties": {"a": 3}}, {"scopes": {"type": "array", "items": 5}}, {"": ""},
        {"host": "git.example.com", "port": 2222}, {"env": {"A": None, "B": 3, "C": {}}}, {"a": {"type": ["string"]}},
        {"api_url": {"enum": 5, "examples": 3, "title": 1, "description": [], "pattern": {}, "default": 2}},
        {"protocol": ["http", "sse"]}, {"properties": {"env": {"properties": {"T": {}}, "type": "object"}}},
    ],
    ids=str,
)  # fmt: skip
def test_no_config_schema_breaks_the_form_or_the_check(type: str, odd: dict[str, Any]) -> None:
    row = plain(type, odd)

    assert with_form(row, "off")["fields"]
    for path, message in config_problems(type_from(row), AuthMethod.NONE, {"url": "https://a.example"}):
        assert path.startswith(("connection_config", "auth_method"))
        assert message


def test_a_host_of_a_custom_row_is_reached_over_ssh() -> None:
    type = type_from(plain("custom", {"host": "", "port": 2222}))

    assert endpoint_of(type, {"host": "git.example.com"}).origin == "ssh://git.example.com:2222"


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with environment(stack.environment()), app_client() as client:
        yield client


@pytest.fixture
def ann(client: Client, stack: Stack) -> Person:
    return Person(client, stack.new_user()[1])


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with Vendor() as vendor:
        yield vendor


def insert(stack: Stack, slug: str, type: str, config_schema: dict[str, Any]) -> None:
    with stack.database.connect() as connection:
        row = [f"Acme {slug}", slug, type, "crm", "Contacts and deals of Acme.", "acme", json.dumps(config_schema)]
        connection.execute(INSERT, row)


def connected(person: Person, slug: str, **body: Any) -> dict[str, Any]:
    reply = person.post("/integrations", {"integration_type": slug, "name": slug, "test": True, **body})
    assert reply.status == 201, reply.body
    answer: dict[str, Any] = reply.json
    return answer


def test_a_documented_vendor_row_is_found_and_connects(ann: Person, stack: Stack, vendor: Vendor) -> None:
    insert(stack, "acme-crm", "vendor", VALUES | {"api_url": vendor.url})

    assert [item["slug"] for item in ann.get("/integration-types?q=acme-crm").json["items"]] == ["acme-crm"]
    assert "acme-crm" in [item["slug"] for item in ann.get("/integration-types?q=acm&category=crm").json["items"]]
    shown = ann.get("/integration-types/acme-crm").json
    assert [field["name"] for field in shown["fields"] if field["goes_to"] == "connection_config"] == [
        "api_url", "api_version", "oauth_provider", "scopes", "webhook_url",
    ]  # fmt: skip

    credentials = {"api_key": GOOD_KEY, "webhook_secret": "whsec-0123456789"}
    made = connected(ann, "acme-crm", auth_method="api_key", credentials=credentials)

    assert made["test_result"]["verdict"] == "ok"
    assert made["status"] == "connected"
    assert ann.post(f"/integrations/{made['id']}/test").json["success"] is True
    stored = ann.get(f"/integrations/{made['id']}/credentials").json["items"]
    assert [row["credential_type"] for row in stored] == ["api_key", "webhook_secret"]
    assert "whsec-0123456789" not in vendor.everything()
    assert "whsec-0123456789" not in ann.get(f"/integrations/{made['id']}").body.decode()


def test_a_wrong_key_for_a_documented_vendor_row_is_blamed(ann: Person, stack: Stack, vendor: Vendor) -> None:
    insert(stack, "acme-erp", "vendor", {"api_url": vendor.url})

    made = connected(ann, "acme-erp", auth_method="api_key", credentials={"api_key": "wrong-key-0123456789"})

    assert made["test_result"]["verdict"] == "auth_rejected"


def test_a_documented_command_row_runs_its_command(ann: Person, stack: Stack) -> None:
    insert(stack, "acme-stdio", "mcp", {"protocol": "stdio", "command": everything(), "args": ["stdio"], "env": {}})

    made = connected(ann, "acme-stdio")

    assert made["test_result"]["verdict"] == "ok", made["test_result"]
    assert made["test_result"]["capabilities"]["tools"]


def test_a_documented_remote_row_is_reached_at_its_url(ann: Person, stack: Stack) -> None:
    with everything_over("streamableHttp") as url:
        insert(stack, "acme-http", "mcp", {"protocol": "http", "url": url, "command": "", "args": [], "env": {}})

        made = connected(ann, "acme-http")

    assert made["test_result"]["verdict"] == "ok", made["test_result"]
    assert made["test_result"]["capabilities"]["server"]["name"] == "mcp-servers/everything"
