"""`make demo` must be able to fail: here the product's part is played by answers that are wrong in one point."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from chalice.app import Chalice, Response

from local.journey import Case, NotAsExpected, Visitor, table, visit
from local.processes import free_port
from local.server import ApiServer
from local.vendor import Vendor

KEY = "demo_only_for_this_test"
WORKS = Case("Works", "mcp-custom", {"protocol": "http", "url": "http://127.0.0.1:9/mcp"}, "ok")
REFUSED = Case(
    "Refused", "custom-vendor", {"api_url": "http://127.0.0.1:9"}, "auth_rejected", "api_key", {"api_key": KEY}
)
TOOLS = {"server": {"name": "everything", "version": "1"}, "tools": [{"name": "echo"}, {"name": "add"}]}
Answers = dict[str, dict[str, Any]]


def good_answers() -> Answers:
    """By name of the case: what connect, summary and logs say about it when all is well."""
    return {
        "catalogue": {"slugs": ["mcp-custom", "custom-vendor"]},
        "Works": {
            "id": "Works",
            "status": "connected",
            "last_error": None,
            "test_result": {"verdict": "ok", "response_time_ms": 12, "error_message": None, "capabilities": TOOLS},
            "summary": {"checks": 1, "success_rate": 1, "failing_since": None, "response_time_ms": {"p50": 12}},
            "logs": [{"event_type": "connected", "message": "It answers."}],
        },
        "Refused": {
            "id": "Refused",
            "status": "error",
            "last_error": "Save a new key.",
            "test_result": {
                "verdict": "auth_rejected",
                "response_time_ms": 3,
                "error_message": "Save a new key.",
                "capabilities": None,
            },
            "summary": {"checks": 1, "success_rate": 0, "failing_since": "today", "response_time_ms": {"p50": None}},
            "logs": [{"event_type": "error", "message": "Save a new key."}],
        },
    }


def product(answers: Answers) -> Chalice:
    app = Chalice("stand-in")

    @app.route("/integration-types")
    def types() -> dict[str, Any]:
        return {"items": [{"slug": slug, "name": slug, "category": "custom"} for slug in answers["catalogue"]["slugs"]]}

    @app.route("/integrations", methods=["POST"])
    def create() -> Response:
        return Response({"id": app.current_request.json_body["name"]}, status_code=201)

    @app.route("/integrations/{name}/connect", methods=["POST"])
    def connect(name: str) -> dict[str, Any]:
        return answers[name]

    @app.route("/integrations/{name}/health/summary")
    def summary(name: str) -> Any:
        return answers[name]["summary"]

    @app.route("/integrations/{name}/logs")
    def logs(name: str) -> dict[str, Any]:
        return {"items": answers[name]["logs"]}

    return app


@pytest.fixture
def walk() -> Iterator[Callable[[Answers], tuple[list[str], str]]]:
    servers: list[ApiServer] = []

    def walk_through(answers: Answers) -> tuple[list[str], str]:
        servers.append(ApiServer(product(answers), free_port(), []))
        said: list[str] = []
        with Visitor(servers[-1].url, "token") as visitor:
            mistakes = visit(visitor, [WORKS, REFUSED], said.append)
        return mistakes, "\n".join(said)

    yield walk_through
    for server in servers:
        server.stop()


Walk = Callable[[Answers], tuple[list[str], str]]


def test_what_is_as_it_should_be_is_shown_and_not_complained_about(walk: Walk) -> None:
    mistakes, said = walk(good_answers())

    assert mistakes == []
    assert "Works    http        ok             12  everything 1, 2 tools" in said
    assert "Refused  vendor API  auth_rejected  3   Save a new key." in said
    assert "Refused  1       0%       -       failing since today" in said
    assert "Works    connected  It answers." in said


def spoil_search(answers: Answers) -> None:
    answers["catalogue"]["slugs"].remove("custom-vendor")


def spoil_verdict(answers: Answers) -> None:
    answers["Refused"]["test_result"]["verdict"] = "ok"


def spoil_status(answers: Answers) -> None:
    answers["Works"]["status"] = "error"


def spoil_tools(answers: Answers) -> None:
    answers["Works"]["test_result"]["capabilities"] = {**TOOLS, "tools": []}


def spoil_words(answers: Answers) -> None:
    answers["Refused"]["last_error"] = None


def spoil_health(answers: Answers) -> None:
    answers["Works"]["summary"]["success_rate"] = 0


def spoil_checks(answers: Answers) -> None:
    answers["Works"]["summary"]["checks"] = 2


def spoil_logs(answers: Answers) -> None:
    answers["Works"]["logs"] = []


def spoil_secrecy(answers: Answers) -> None:
    answers["Refused"]["logs"][0]["message"] = f"The key {KEY} was refused."


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (spoil_search, 'A search for "custom" does not find custom-vendor'),
        (spoil_verdict, "Refused: the verdict is ok, not auth_rejected"),
        (spoil_status, "Works: its status is error"),
        (spoil_tools, "Works: no tools were found"),
        (spoil_words, "Refused: nothing says what to do"),
        (spoil_health, "Works: its health says 1 checks, success rate 0"),
        (spoil_checks, "Works: its health says 2 checks"),
        (spoil_logs, "Works: nothing was logged"),
        (spoil_secrecy, "An answer of the API contained a credential"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_anything_else_is_complained_about(walk: Walk, spoil: Callable[[Answers], None], complaint: str) -> None:
    answers = good_answers()
    spoil(answers)

    mistakes, _ = walk(answers)

    assert len(mistakes) == 1
    assert mistakes[0].startswith(complaint)


def test_an_unexpected_status_ends_the_demo_with_the_answer(walk: Walk) -> None:
    with pytest.raises(NotAsExpected, match=r"POST /integrations/Works/connect answered 500, not 200"):
        walk({"catalogue": {"slugs": []}})


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    assert table("A B", [["long cell", "x"]]) == "  A          B\n  long cell  x\n"


@pytest.mark.parametrize(
    "headers", [{"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}], ids=["its own header", "bearer token"]
)
def test_the_vendor_knows_its_key(headers: dict[str, str]) -> None:
    vendor = Vendor(KEY)
    answer = httpx2.get(vendor.url, headers=headers, trust_env=False)
    vendor.stop()

    assert answer.json()["account"] == "Demo GmbH"


@pytest.mark.parametrize(
    "headers", [{}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}], ids=["none", "wrong", "wrong bearer"]
)
def test_the_vendor_refuses_every_other_key(headers: dict[str, str]) -> None:
    vendor = Vendor(KEY)
    answer = httpx2.get(vendor.url, headers=headers, trust_env=False)
    vendor.stop()

    assert answer.status_code == 401
