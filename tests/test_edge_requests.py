"""Bodies and queries of every kind: a plain answer for each, never a 500, and never the input in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.api.answers import JsonDocument
from chalicelib.api.edge import Api
from chalicelib.api.models import (
    CreateIntegration,
    IntegrationsQuery,
    LogsQuery,
    PutCredential,
    TestDraft,
    TypesQuery,
    UpdateIntegration,
    WindowQuery,
)
from chalicelib.api.requests import MAX_BODY_BYTES
from chalicelib.model import AuthMethod, Secret
from chalicelib.services.drafts import Change, Draft
from tests.support.edge import Browser, access_token, an_app, assert_problem

GOOD = {"integration_type": "github", "name": "Mine"}
JSON = {"Content-Type": "application/json"}
INTEGRATION = "8f14e45f-ceea-467f-a8d2-3f0a4f7e0001"
seen: list[Any] = []

api = Api()


def keep(value: Any) -> dict[str, Any]:
    seen.append(value)
    return {}


@api.post("/create", answers=JsonDocument)
def create(body: CreateIntegration) -> dict[str, Any]:
    return keep(body.as_draft())


@api.patch("/update", answers=JsonDocument)
def update(body: UpdateIntegration) -> dict[str, Any]:
    return keep(body.as_change())


@api.post("/draft", answers=JsonDocument)
def draft(body: TestDraft) -> dict[str, Any]:
    return keep(body.as_draft())


@api.put("/credential", answers=JsonDocument)
def credential(body: PutCredential) -> dict[str, Any]:
    return keep(body)


@api.post("/bare", answers=JsonDocument)
def bare() -> dict[str, Any]:
    return {}


@api.get("/types", answers=JsonDocument)
def types(query: TypesQuery) -> dict[str, Any]:
    return query.model_dump(mode="json")


@api.get("/integrations", answers=JsonDocument)
def integrations(query: IntegrationsQuery) -> dict[str, Any]:
    return query.model_dump(mode="json")


@api.get("/logs", answers=JsonDocument)
def logs(query: LogsQuery) -> dict[str, Any]:
    return query.model_dump(mode="json")


@api.get("/window", answers=JsonDocument)
def window(query: WindowQuery) -> dict[str, Any]:
    return query.model_dump(mode="json")


browser = Browser(an_app(api))


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


def refused(path: str, body: Any, method: str = "POST") -> dict[str, str]:
    """The fields of a 422 and what is said of them."""
    problem = assert_problem(browser.send(method, path, body), 422, "invalid")
    assert seen == []
    return {error["field"]: error["message"] for error in problem["errors"]}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


BODIES = {
    "nothing": (b"", 400),
    "half of it": (b'{"name": "Mine"', 400),
    "NaN": (b'{"name": NaN}', 400),
    "-Infinity": (b'{"name": -Infinity}', 400),
    "a name twice": (b'{"name": "a", "name": "b"}', 400),
    "not UTF-8": (b'{"name": "\xff"}', 400),
    "UTF-16": ('{"name": "a"}'.encode("utf-16"), 400),
    "a comment": (b'{"name": "a" /* b */}', 400),
    "a number without end": (b'{"name": ' + b"9" * 5_000 + b"}", 400),
    "two documents": (b"{}{}", 400),
    "null": (b"null", 422),
    "a list": (b"[]", 422),
    "a text": (b'"text"', 422),
    "10,000 objects deep": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 422),
    "10,000 lists deep": (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 422),
    "51 levels deep": (json.dumps(nested(52)).encode(), 422),
    "a number beyond all bounds": (b'{"integration_type": "x", "name": "a", "connection_config": {"a": 1e999}}', 422),
    "NUL": (json.dumps({**GOOD, "name": "a\0b"}).encode(), 422),
    "NUL in a secret": (json.dumps({**GOOD, "credentials": {"private_key": "a\0b"}}).encode(), 422),
    "NUL in the configuration": (json.dumps({**GOOD, "connection_config": {"a": ["\0"]}}).encode(), 422),
    "NUL in a name": (json.dumps({**GOOD, "connection_config": {"a\0": 1}}).encode(), 422),
    "half a surrogate pair": (b'{"integration_type": "x", "name": "a", "connection_config": {"a": ["\\ud83d"]}}', 422),
    "a name of 1 MB": (json.dumps({**GOOD, "name": "n" * 1_048_576}).encode(), 422),
    "too much": (json.dumps({**GOOD, "name": "n" * MAX_BODY_BYTES}).encode(), 413),
}


@pytest.mark.parametrize(("raw", "status"), BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_not_what_it_should_be_is_refused_before_the_view(raw: bytes, status: int) -> None:
    response = browser.send("POST", "/create", raw=raw, headers=JSON)

    assert_problem(response, status, {400: "not_json", 413: "too_large", 422: "invalid"}[status])
    assert seen == []


@pytest.mark.parametrize("depth", [51, 300, 5_000, 10_000])
def test_too_much_nesting_is_said_of_the_whole_body(depth: int) -> None:
    response = browser.send("POST", "/create", raw=b'{"a":' * depth + b"1" + b"}" * depth, headers=JSON)

    assert [error["field"] for error in assert_problem(response, 422, "invalid")["errors"]] == ["body"]


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=150, deadline=None)
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    assert browser.send("POST", "/create", raw=raw, headers=JSON).status_code in (400, 422)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)


@given(anything, st.sampled_from([*CreateIntegration.model_fields, "credentials.api_key", "stranger"]))
@settings(max_examples=200, deadline=None)
def test_no_value_of_any_field_breaks_the_reader(value: Any, field: str) -> None:
    body = {**GOOD, "credentials": {"api_key": value}} if "." in field else {**GOOD, field: value}

    assert browser.send("POST", "/create", body).status_code in (200, 422)


@pytest.mark.parametrize(
    "content_type", ["application/json", "APPLICATION/JSON; charset=UTF-8", 'application/json;charset="utf-8"', None]
)
def test_json_is_read_under_each_of_its_names(content_type: str | None) -> None:
    headers = {"content-TYPE": content_type} if content_type else {}

    assert browser.send("POST", "/create", raw=json.dumps(GOOD).encode(), headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": ""},
        {**JSON, "Content-Encoding": "gzip"},
    ],
)
def test_anything_but_plain_json_is_an_unsupported_media_type(headers: dict[str, str]) -> None:
    response = browser.send("POST", "/create", raw=json.dumps(GOOD).encode(), headers=headers)

    assert_problem(response, 415, "unsupported_media_type")


def test_a_route_without_a_body_does_not_mind_one() -> None:
    assert browser.send("POST", "/bare", raw=b"<>", headers={"Content-Type": "text/html"}).status_code == 200


def test_a_whole_form_arrives_as_values() -> None:
    config = {"protocol": "http", "url": "https://mcp.example/x", "args": [1, 2.5, None, True]}
    body = {
        **GOOD, "name": "  Mine ✓ ", "connection_config": config, "auth_method": "api_key", "test": "required",
        "credentials": {"api_key": "k-1", "env.MY_KEY": "two\nlines", "header.X-Key": "h"},
    }  # fmt: skip
    browser.send("POST", "/create", body)

    assert seen == [
        Draft(
            "github", "Mine ✓", config, AuthMethod.API_KEY,
            {"api_key": Secret("k-1"), "env.MY_KEY": Secret("two\nlines"), "header.X-Key": Secret("h")}, "required",
        )
    ]  # fmt: skip
    assert "k-1" not in repr(seen)


def test_what_a_change_leaves_out_stays_as_it_is() -> None:
    browser.send("PATCH", "/update", {"name": "New"})
    browser.send("PATCH", "/update", {})

    assert seen == [Change(name="New"), Change()]


def test_a_draft_needs_no_name_and_may_build_on_a_saved_integration() -> None:
    browser.send("POST", "/draft", {"integration_type": "github", "integration_id": INTEGRATION})

    assert [(draft.name, str(draft.integration_id)) for draft in seen] == [("", INTEGRATION)]
    assert refused_after_clearing({"integration_type": "github", "integration_id": "1"}) == {
        "integration_id": "Must be a UUID."
    }


def refused_after_clearing(body: Any) -> dict[str, str]:
    seen.clear()
    return refused("/draft", body)


def test_every_fault_is_named_with_its_field_in_plain_words() -> None:
    assert refused("/create", {"naem": 1, "connection_config": [], "auth_method": "magic", "test": "yes"}) == {
        "connection_config": "Must be an object.",
        "auth_method": "Must be one of 'none', 'api_key', 'basic', 'oauth', 'jwt', 'certificate' or 'ssh_key'.",
        "test": 'Must be true, false or "required".',
        "integration_type": "This field is required.",
        "name": "This field is required.",
        "naem": "There is no such field.",
    }
    assert refused("/update", {"name": None, "credentials": None}, "PATCH") == dict.fromkeys(
        ("name", "credentials"), "Must not be null. Leave the field out instead."
    )
    assert refused("/create", {**GOOD, "credentials": {"api_key": 5}}) == {"credentials.api_key": "Must be text."}
    assert refused("/create", {**GOOD, "credentials": {"env.K": "x" * 65_537}}) == {
        "credentials.env.K": "Must be 65536 bytes or less."
    }


NAMES = {
    "empty": "",
    "blank": " \t\n ",
    "of 101 characters": "x" * 101,
    "with a line break": "a\nb",
    "with an escape": "a\x1b[31mb",
    "with a right-to-left override": "a\u202eb",
    "with an isolate": "a\u2066b",
    "with a line separator": "a\u2028b",
    "no text": 7,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_that_nobody_could_read_is_refused(name: Any) -> None:
    assert refused("/create", {**GOOD, "name": name}).keys() == {"name"}


def test_names_of_every_script_are_welcome() -> None:
    for name in ("x" * 100, "متصل", "接続", "👩‍💻 work", "Ünïted"):
        assert browser.send("POST", "/create", {**GOOD, "name": name}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {**GOOD, "connection_config": nested(9)},
        {**GOOD, "connection_config": {"a": "x" * 32_768}},
        {**GOOD, "credentials": {f"env.K{n}": "v" for n in range(41)}},
        {**GOOD, "credentials": {"API KEY": "v"}},
        {**GOOD, "credentials": {"header.X\r\nEvil": "v"}},
        {**GOOD, "credentials": {"api_key": ""}},
        {**GOOD, "integration_type": "Git Hub"},
        {**GOOD, "integration_type": "x" * 64},
    ],
)
def test_what_goes_beyond_the_limits_of_a_field_is_refused(body: dict[str, Any]) -> None:
    assert len(refused("/create", body)) == 1


def test_what_stays_within_the_limits_passes() -> None:
    body = {
        **GOOD,
        "connection_config": {**nested(7), "text": "x" * 30_000},
        "credentials": {f"env.K{n}": "v" for n in range(40)},
    }
    assert browser.send("POST", "/create", body).status_code == 200


SECRET = "sk_live_4eC39HqLyjWDarjtT1zdp7dc"


@pytest.mark.parametrize(
    "body",
    [
        {**GOOD, "credentials": SECRET},
        {**GOOD, "credentials": [SECRET]},
        {**GOOD, "credentials": {SECRET: "api_key"}},
        {**GOOD, "credentials": {"api_key": {"value": SECRET}}},
        {**GOOD, "credentials": {"api_key": SECRET + "\0"}},
        {**GOOD, "auth_method": SECRET},
        {**GOOD, "test": SECRET},
        {**GOOD, "integration_type": SECRET},
        {**GOOD, "connection_config": SECRET},
        {"value": SECRET, "expires_at": SECRET},
    ],
)
def test_what_was_sent_is_never_quoted(body: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    response = browser.send("PUT" if "value" in body else "POST", "/credential" if "value" in body else "/create", body)

    assert response.status_code == 422
    assert SECRET not in response.body.decode() + caplog.text


def test_field_names_that_are_long_or_strange_are_not_repeated() -> None:
    assert refused("/create", {**GOOD, "x" * 65: 1, "<script>": 2}).keys() == {"…"}
    problem = browser.send("POST", "/create", {**GOOD, **{f"f{n}": n for n in range(1_000)}}).json_body
    assert len(problem["errors"]) == 20


@pytest.mark.parametrize("moment", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678+02:00", None])
def test_an_expiry_is_a_moment_with_its_zone_or_nothing(moment: str | None) -> None:
    assert browser.send("PUT", "/credential", {"value": "v", "expires_at": moment}).status_code == 200


@pytest.mark.parametrize("moment", ["2026-01-02T03:04:05", "tomorrow", 1767323045, "2026-13-01T00:00:00Z", True])
def test_any_other_expiry_is_refused(moment: Any) -> None:
    message = refused("/credential", {"value": "v", "expires_at": moment}, "PUT")["expires_at"]

    assert message == "Must be a moment with its time zone, such as 2026-01-02T03:04:05Z."


def test_a_query_has_defaults_and_typed_values() -> None:
    assert browser.send("GET", "/integrations").json_body == {
        "limit": 50, "cursor": None, "status": None, "verdict": None, "type": None, "category": None, "q": None,
        "sort": "created",
    }  # fmt: skip
    empty = "/integrations?status=&verdict=&type=&category=&q=&sort=&limit=&cursor="
    assert browser.send("GET", empty).json_body == browser.send("GET", "/integrations").json_body
    asked = "/integrations?limit=1&cursor=abc&status=error&verdict=ok&type=mcp&q=a%20b&sort=attention"
    answer = browser.send("GET", asked).json_body
    assert (answer["limit"], answer["status"], answer["q"], answer["sort"]) == (1, "error", "a b", "attention")


QUERIES = {
    "/integrations?limit=0": "limit",
    "/integrations?limit=101": "limit",
    "/integrations?limit=1_0": "limit",
    "/integrations?limit=%2010": "limit",
    "/integrations?limit=1e1": "limit",
    "/integrations?limit=" + "9" * 5_000: "limit",
    "/integrations?limit=\u0661": "limit",
    "/integrations?limit=1&limit=2": "limit",
    "/integrations?status=fine": "status",
    "/integrations?verdict=fine": "verdict",
    "/integrations?sort=id": "sort",
    "/integrations?order=asc": "order",
    "/integrations?order=": "order",
    "/integrations?q=%00": "q",
    "/types?q=" + "x" * 201: "q",
    "/types?type=other": "type",
    "/types?category=" + "x" * 64: "category",
    "/logs?event_type=slept": "event_type",
    "/window?window=1y": "window",
    "/window?%00=1": "…",
}


@pytest.mark.parametrize("path", QUERIES)
def test_a_query_that_is_not_what_it_should_be_is_refused(path: str) -> None:
    problem = assert_problem(browser.send("GET", path), 422, "invalid")

    assert [error["field"] for error in problem["errors"]] == [QUERIES[path]]


def test_a_body_that_lambda_could_not_encode_is_not_json() -> None:
    event = {
        "requestContext": {"httpMethod": "POST", "resourcePath": "/create"},
        "headers": {"Authorization": f"Bearer {access_token()}"}, "multiValueQueryStringParameters": None,
        "pathParameters": None, "stageVariables": None, "body": "\ud800",
    }  # fmt: skip
    for changed in ({}, {"body": "%%%=", "isBase64Encoded": True}):
        answer = browser.app({**event, **changed}, None)
        assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (400, "not_json")
