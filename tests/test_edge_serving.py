"""What every route gets from the edge: the caller, an answer in every case, a request id, one log line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from chalice.app import Chalice
from chalice.test import HTTPResponse

from chalicelib import errors
from chalicelib.api.answers import IntegrationTypeSummary, JsonDocument, TestResult
from chalicelib.api.edge import Api, Guarded, Reply, mount
from chalicelib.api.models import PutCredential, WindowQuery
from chalicelib.api.tokens import Caller
from chalicelib.model import CheckResult, Secret, Step, Verdict
from chalicelib.services.drafts import Idempotency
from tests.support.edge import ORIGINS, USER, Browser, a_door, access_token, an_app, assert_problem

INTEGRATION = "8f14e45f-ceea-467f-a8d2-3f0a4f7e0001"
CHECKED = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)
LEAK = "sk-live-never-shown"


class Unforeseen(Exception):
    pass


RAISED = {
    "bad_request": (errors.BadRequest("Unreadable."), 400),
    "forbidden": (errors.Forbidden("Not for you."), 403),
    "integration_not_found": (errors.IntegrationNotFound(), 404),
    "name_taken": (errors.NameTaken(), 409),
    "credential_unreadable": (errors.SealError(), 409),
    "too_large": (errors.TooLarge("Too much."), 413),
    "destination_blocked": (errors.Blocked(), 422),
    "idempotency_key_reused": (errors.IdempotencyKeyReused(), 422),
    "rate_limited": (errors.RateLimited("Slowly.", 7), 429),
    "unavailable": (errors.Unavailable("Later.", 11), 503),
    "internal_error": (Unforeseen(LEAK), 500),
}

api = Api()


@api.get("/whoami", answers=JsonDocument)
def whoami(caller: Caller, request_id: str) -> dict[str, str]:
    return {"user": str(caller.user_id), "request_id": request_id}


@api.get("/ping", answers=JsonDocument, open=True)
def ping() -> dict[str, str]:
    return {"pong": "yes"}


@api.post("/integrations/{integration_id}/test", answers=TestResult)
def check(integration_id: UUID) -> CheckResult:
    capabilities = {"seen": str(integration_id)}
    return CheckResult(Verdict.OK, 12, None, CHECKED, (Step("dns", True, 3),), capabilities)


@api.delete("/integrations/{integration_id}")
def delete(integration_id: UUID) -> None:
    """Forget it."""


@api.post("/either", answers={201: JsonDocument, 200: JsonDocument})
def either(query: WindowQuery) -> object:
    return Reply(200, {"kept": False}) if query.window == "7d" else {"kept": True}


@api.put("/integrations/{integration_id}/credentials/{credential_type}", answers=JsonDocument)
def put(
    integration_id: UUID, credential_type: str, body: PutCredential, idempotency: Idempotency | None
) -> dict[str, Any]:
    return {"type": credential_type, "key": idempotency and [idempotency.key, idempotency.fingerprint]}


@api.get("/types/{slug}", answers=IntegrationTypeSummary, open=True, etag=True)
def type_of(slug: str) -> dict[str, Any]:
    members = {"type": "mcp", "category": "code", "description": "", "encrypted_value": LEAK}
    return {"id": INTEGRATION, "slug": slug, "name": "One", **members}


@api.post("/raise", answers=None, problems=(429,))
def fail(body: PutCredential) -> None:
    raise RAISED[body.value.reveal()][0]


@api.post("/broken-answer", answers=TestResult)
def broken() -> dict[str, Any]:
    return {"verdict": LEAK}


@api.post("/undeclared-status", answers=JsonDocument)
def undeclared() -> Reply:
    return Reply(202, {"x": 1})


@pytest.fixture(scope="module")
def app() -> Chalice:
    return an_app(api)


@pytest.fixture
def browser(app: Chalice) -> Browser:
    return Browser(app)


def test_a_view_gets_the_caller_and_the_request_id(browser: Browser) -> None:
    response = browser.send("GET", "/whoami", headers={"X-Request-Id": "mine.1-a_b"})

    assert response.json_body == {"user": str(USER), "request_id": "mine.1-a_b"}
    assert response.headers["X-Request-Id"] == "mine.1-a_b"
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("given", ["", "with space", "x" * 65, "línea", "a\r\nSet-Cookie: b=c"])
def test_a_request_id_that_is_not_well_formed_is_replaced(browser: Browser, given: str) -> None:
    own = browser.send("GET", "/ping", headers={"X-Request-Id": given}).headers["X-Request-Id"]

    assert str(UUID(own)) == own


def test_on_lambda_the_gateways_request_id_is_used(app: Chalice) -> None:
    event = {
        "requestContext": {"httpMethod": "GET", "resourcePath": "/ping", "requestId": "from-the-gateway"},
        "headers": None, "multiValueQueryStringParameters": None, "pathParameters": None,
        "stageVariables": None, "body": None,
    }  # fmt: skip

    assert app(event, None)["headers"]["X-Request-Id"] == "from-the-gateway"


def test_an_open_route_needs_no_token_and_the_others_do(browser: Browser) -> None:
    assert browser.send("GET", "/ping", signed_in=False).status_code == 200
    refusals = [
        browser.send("GET", "/whoami", signed_in=False),
        browser.send("GET", "/whoami", headers={"Authorization": f"Bearer {access_token(role='service_role')}"}),
        browser.send("DELETE", f"/integrations/{INTEGRATION}", signed_in=False),
        browser.send("DELETE", "/integrations/no-uuid", signed_in=False),
    ]

    assert len({assert_problem(refusal, 401, "unauthenticated")["detail"] for refusal in refusals}) == 1
    assert {refusal.headers["WWW-Authenticate"] for refusal in refusals} == {"Bearer"}


def test_a_value_of_ours_is_presented_by_its_answer_model(browser: Browser) -> None:
    assert browser.send("POST", f"/integrations/{INTEGRATION}/test").json_body == {
        "success": True, "verdict": "ok", "response_time_ms": 12, "error_message": None,
        "capabilities": {"seen": INTEGRATION}, "steps": [{"name": "dns", "ok": True, "ms": 3, "detail": None}],
        "checked_at": "2026-01-02T03:04:05.678000Z",
    }  # fmt: skip


def test_no_content_is_an_empty_body(browser: Browser) -> None:
    response = browser.send("DELETE", f"/integrations/{INTEGRATION}")

    assert (response.status_code, response.body) == (204, b"")


def test_a_view_may_choose_among_its_declared_statuses(browser: Browser) -> None:
    assert browser.send("POST", "/either").status_code == 201
    assert browser.send("POST", "/either?window=7d").status_code == 200


@pytest.mark.parametrize(
    "text", ["1", "8f14e45fceea467fa8d23f0a4f7e0001", f"{{{INTEGRATION}}}", "%00", INTEGRATION + "0"]
)
def test_an_id_that_is_no_uuid_is_the_same_404_as_a_missing_one(browser: Browser, text: str) -> None:
    problem = assert_problem(browser.send("DELETE", f"/integrations/{text}"), 404, "integration_not_found")

    assert problem["detail"] == errors.IntegrationNotFound().detail


def test_other_parts_of_a_path_have_their_forms_too(browser: Browser) -> None:
    credentials = f"/integrations/{INTEGRATION}/credentials"
    assert_problem(browser.send("PUT", f"{credentials}/no!", {"value": "x"}), 404, "credential_not_found")
    assert_problem(browser.send("GET", "/types/No_Slug"), 404, "integration_type_not_found")
    assert browser.send("PUT", f"{credentials}/header.X-Key", {"value": "x"}).json_body["type"] == "header.X-Key"


@pytest.mark.parametrize("code", RAISED)
def test_an_error_becomes_the_problem_of_its_kind(browser: Browser, code: str) -> None:
    error, status = RAISED[code]
    response = browser.send("POST", "/raise", {"value": code})
    problem = assert_problem(response, status, code)

    assert LEAK not in str(problem)
    assert response.headers.get("Retry-After") == {429: "7", 503: "11"}.get(status)
    if isinstance(error, errors.AppError):
        assert problem["detail"] == error.detail


def test_an_error_of_no_known_kind_tells_nothing(browser: Browser) -> None:
    RAISED["kindless"] = (errors.AppError(LEAK), 500)

    assert LEAK not in str(assert_problem(browser.send("POST", "/raise", {"value": "kindless"}), 500, "internal_error"))


def test_the_credentials_to_give_again_are_named(browser: Browser) -> None:
    RAISED["moved"] = (errors.CredentialsBoundElsewhere(["api_key", "header.X-Key"]), 409)
    problem = assert_problem(browser.send("POST", "/raise", {"value": "moved"}), 409, "credentials_bound_elsewhere")

    assert problem["credential_types"] == ["api_key", "header.X-Key"]


@pytest.mark.parametrize("path", ["/broken-answer", "/undeclared-status"])
def test_an_answer_that_was_not_declared_is_an_internal_error_and_never_sent(
    browser: Browser, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    response = browser.send("POST", path)

    assert_problem(response, 500, "internal_error")
    assert LEAK not in response.body.decode() + caplog.text


def test_what_was_not_foreseen_is_logged_by_type_and_place_only(
    browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    response = browser.send("POST", "/raise", {"value": "internal_error"}, headers={"X-Request-Id": "find-me"})
    lines = [json.loads(record.message) for record in caplog.records if record.levelno == logging.ERROR]

    assert_problem(response, 500, "internal_error")
    assert [(line["event"], line["request_id"]) for line in lines] == [("unexpected_error", "find-me")]
    assert lines[0]["errors"][0]["type"] == "tests.test_edge_serving.Unforeseen"
    assert any("test_edge_serving.py:" in place for place in lines[0]["errors"][0]["stack"])
    assert LEAK not in caplog.text


def test_each_request_is_one_log_line_without_names_or_tokens(caplog: pytest.LogCaptureFixture) -> None:
    trips = iter((10, 12))
    browser = Browser(an_app(api, door=a_door(round_trips=lambda: next(trips))))
    with caplog.at_level(logging.INFO, logger="integrations"):
        browser.send("DELETE", f"/integrations/{INTEGRATION}", headers={"X-Request-Id": "r-1"})
    (line,) = [json.loads(record.message) for record in caplog.records]

    assert line.pop("ms") >= 0
    assert len(line.pop("user")) == 16
    assert line == {
        "event": "request", "request_id": "r-1", "method": "DELETE", "route": "/integrations/{integration_id}",
        "status": 204, "code": None, "verdict": None, "round_trips": 2,
    }  # fmt: skip
    assert str(USER) not in caplog.text


def test_the_line_of_a_check_says_its_verdict(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="integrations"):
        browser.send("POST", f"/integrations/{INTEGRATION}/test")
    (line,) = [json.loads(record.message) for record in caplog.records]

    assert (line["status"], line["verdict"]) == (200, "ok")


def test_where_metrics_are_wanted_the_line_holds_them(caplog: pytest.LogCaptureFixture) -> None:
    browser = Browser(an_app(api, door=a_door(metrics_of="prod")))
    with caplog.at_level(logging.INFO, logger="integrations"):
        browser.send("GET", "/whoami", signed_in=False)
    (line,) = [json.loads(record.message) for record in caplog.records]
    (directive,) = line["_aws"]["CloudWatchMetrics"]

    assert (line["environment"], line["event"], line["refused"], line["server_errors"]) == ("prod", "request", 1, 0)
    assert directive["Dimensions"] == [["environment", "event"]]
    assert all(isinstance(line[metric["Name"]], int | float) for metric in directive["Metrics"])


def test_a_refusal_is_logged_with_its_code(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="integrations"):
        browser.send("GET", "/whoami", signed_in=False)
    (line,) = [json.loads(record.message) for record in caplog.records]

    assert (line["status"], line["code"], line["user"]) == (401, "unauthenticated", None)


def test_a_method_that_a_path_does_not_know_is_a_problem_with_allow(
    browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="integrations")
    response = browser.send("PATCH", "/whoami", headers={"Origin": ORIGINS[0]})

    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["Allow"] == "GET, OPTIONS"
    assert [json.loads(record.message)["code"] for record in caplog.records] == ["method_not_allowed"]
    assert response.headers["Access-Control-Allow-Origin"] == ORIGINS[0]


def test_an_event_of_another_gateway_is_a_problem_and_no_crash(app: Chalice) -> None:
    answer = app({"version": "2.0", "rawPath": "/ping"}, None)

    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (500, "internal_error")


def test_a_deployment_that_cannot_start_answers_problems(caplog: pytest.LogCaptureFixture) -> None:
    def no_door() -> Any:
        raise RuntimeError(LEAK)

    app = Chalice("without-a-door", configure_logs=False)
    mount(app, [api], no_door)
    browser = Browser(app)
    assert_problem(browser.send("GET", "/ping"), 500, "internal_error")
    assert_problem(browser.send("POST", "/ping"), 405, "method_not_allowed")
    assert browser.send("OPTIONS", "/ping").status_code == 204
    assert LEAK not in caplog.text


def etag_of(response: HTTPResponse) -> str:
    return str(response.headers["ETag"])


def test_an_answer_that_rarely_changes_is_sent_once(browser: Browser) -> None:
    first = browser.send("GET", "/types/one", signed_in=False)
    other = browser.send("GET", "/types/two", signed_in=False)

    assert etag_of(first) != etag_of(other)
    for held in (etag_of(first), f'"other", W/{etag_of(first)}', "*"):
        again = browser.send("GET", "/types/one", headers={"If-None-Match": held}, signed_in=False)
        assert (again.status_code, again.body, etag_of(again)) == (304, b"", etag_of(first))
    assert browser.send("GET", "/types/one", headers={"If-None-Match": etag_of(other)}).status_code == 200


def test_a_column_that_the_answer_model_does_not_know_is_not_shown(browser: Browser) -> None:
    assert LEAK not in browser.send("GET", "/types/one").body.decode()


def test_an_idempotency_key_comes_with_a_fingerprint_of_the_bodys_meaning(browser: Browser) -> None:
    path = f"/integrations/{INTEGRATION}/credentials/api_key"

    def fingerprint(raw: bytes, key: str = "k-1") -> Any:
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        return browser.send("PUT", path, raw=raw, headers=headers).json_body["key"]

    first = fingerprint(b'{"value": "a", "expires_at": null}')
    assert first[0] == "k-1"
    assert fingerprint(b'{ "expires_at":null,"value":"a" }') == first
    assert fingerprint(b'{"value": "b", "expires_at": null}') != first
    assert browser.send("PUT", path, {"value": "a"}).json_body["key"] is None
    for bad in ("", "x" * 256, "a b", "ü"):
        refusal = browser.send("PUT", path, {"value": "a"}, headers={"Idempotency-Key": bad})
        assert assert_problem(refusal, 422, "invalid")["errors"][0]["field"] == "Idempotency-Key"


def test_a_view_that_could_not_be_served_is_refused_at_import() -> None:
    def no_id() -> None: ...
    def odd_name(stranger: str) -> None: ...
    def odd_kind(integration_id: str) -> None: ...
    def open_caller(caller: Caller) -> None: ...
    def open_owner(integration_id: UUID) -> None: ...
    def odd_body(body: dict) -> None: ...  # type: ignore[type-arg]

    for path, view, open in (
        ("/x/{integration_id}", no_id, False),
        ("/x", odd_name, False),
        ("/x/{integration_id}", odd_kind, False),
        ("/x/{unknown}", no_id, False),
        ("/x", open_caller, True),
        ("/x/{integration_id}", open_owner, True),
        ("/x", odd_body, False),
    ):
        with pytest.raises(TypeError):
            Api().post(path, answers=None, open=open)(view)


def test_every_route_of_a_mounted_app_is_guarded(app: Chalice) -> None:
    views = [
        entry.view_function for methods in app.routes.values() for name, entry in methods.items() if name != "OPTIONS"
    ]

    assert views
    assert all(isinstance(view, Guarded) for view in views)
    assert all("OPTIONS" in methods for methods in app.routes.values())


def test_a_declared_view_stays_a_plain_function() -> None:
    assert ping() == {"pong": "yes"}
    assert whoami(Caller(USER, Secret("t")), "r") == {"user": str(USER), "request_id": "r"}
