"""The same promises from where an attacker stands: a browser with its own token, talking to the real PostgREST."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.support.rows import add_credential, add_integration, add_type, record
from tests.support.stack import Stack


@dataclass(frozen=True)
class Browser:
    """``owner`` has an integration with a credential and some history; ``stranger`` has nothing."""

    api: httpx2.Client
    mine: uuid.UUID
    kind: uuid.UUID
    owner: str
    stranger: str

    def ask(self, token: str, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.api.request(method, path, json=body, headers={"Authorization": f"Bearer {token}", **named})


@pytest.fixture(scope="module")
def browser(stack: Stack) -> Iterator[Browser]:
    owner, token = stack.new_user()
    _, stranger = stack.new_user()
    with stack.database.connect() as connection:
        kind = add_type(connection)
        mine = add_integration(connection, owner, kind, name="Payroll")
        add_credential(connection, owner, mine)
        record(connection, owner, mine, intent="connect")
    with httpx2.Client(base_url=stack.postgrest.url, trust_env=False) as api:
        yield Browser(api, mine, kind, token, stranger)


@pytest.mark.parametrize(("method", "path", "body"), [
    ("GET", "/integration_credentials", None),  # select=*
    ("GET", "/integration_credentials?select=encrypted_value", None),
    ("GET", "/integration_credentials?select=id&encrypted_value=like.A*", None),  # guessed letter by letter
    ("GET", "/integration_credentials?select=id&order=encrypted_value", None),
    ("GET", "/user_integrations?select=id,integration_credentials(encrypted_value)", None),
    ("GET", "/user_data_keys", None),
    ("PATCH", "/user_integrations", {"status": "connected"}),
    ("PATCH", "/user_integrations", {"name": "x", "last_verdict": "ok"}),
    ("POST", "/user_integrations", {"name": "x", "is_connected": True}),
    ("POST", "/integration_logs", {"event_type": "connected", "message": "x"}),
    ("DELETE", "/integration_health_metrics", None),
    ("POST", "/rpc/claim_due_checks", {}),
    ("POST", "/rpc/record_checks", {"p_results": "[]"}),
    ("POST", "/rpc/drop_history", {"p_metrics_days": 1, "p_logs_days": 1}),
    ("POST", "/rpc/sealed_credentials", {"p_user_id": str(uuid.UUID(int=1)), "p_integration_id": str(uuid.UUID(int=1))}),
    ("POST", "/rpc/prepare_write", {"p_user_id": str(uuid.UUID(int=1)), "p_secrets": True}),
], ids=str)  # fmt: skip
def test_an_owner_is_refused(browser: Browser, method: str, path: str, body: Any) -> None:
    answer = browser.ask(browser.owner, method, path, body)

    assert (answer.status_code, answer.json()["code"]) == (403, "42501")


def test_nothing_outside_public_answers(browser: Browser) -> None:
    elsewhere = [
        browser.ask(browser.owner, "GET", "/test_budgets"),
        browser.ask(browser.owner, "GET", "/sweep_turns", Accept_Profile="private"),
        browser.ask(browser.owner, "GET", "/users", Accept_Profile="auth"),
        browser.ask(browser.owner, "POST", "/rpc/write_log", {}),
        browser.ask(browser.owner, "POST", "/rpc/spend_test", {}, Content_Profile="private"),
        browser.ask(browser.owner, "POST", "/rpc/set_config", {"setting_name": "role", "new_value": "service_role"}),
    ]

    assert [answer.status_code for answer in elsewhere] == [404, 406, 406, 404, 406, 404]


def test_an_owner_does_what_is_theirs_to_do(browser: Browser) -> None:
    """The counterpart of the refusals above."""
    seen = browser.ask(browser.owner, "GET", "/integration_credentials?select=credential_type,destination,hint")
    renamed = browser.ask(
        browser.owner,
        "PATCH",
        f"/user_integrations?id=eq.{browser.mine}",
        {"name": "Wages"},
        Prefer="return=representation",
    )
    history = [browser.ask(browser.owner, "GET", f"/{table}").json() for table in (
        "integration_logs", "integration_health_metrics", "integration_health_hourly", "integration_health_daily",
    )]  # fmt: skip

    assert [row["credential_type"] for row in seen.json()] == ["api_key"]
    assert [row["name"] for row in renamed.json()] == ["Wages"]
    assert all(history)


def test_a_stranger_sees_and_changes_nothing_of_it(browser: Browser) -> None:
    tables = ("user_integrations", "integration_logs", "integration_health_metrics", "integration_health_hourly",
              "integration_health_daily", "integration_schedule", "idempotency_keys")  # fmt: skip
    seen = {table: browser.ask(browser.stranger, "GET", f"/{table}").json() for table in tables}
    changed = [
        browser.ask(
            browser.stranger, method, f"/user_integrations?id=eq.{browser.mine}", body, Prefer="return=representation"
        )
        for method, body in (("PATCH", {"name": "x"}), ("DELETE", None))
    ]

    assert seen == {table: [] for table in tables}
    assert [answer.json() for answer in changed] == [[], []]


def test_a_name_that_somebody_else_has_taken_is_free_and_ones_own_is_a_conflict(browser: Browser) -> None:
    body = {"integration_type_id": str(browser.kind), "name": "Games"}
    answers = [browser.ask(token, "POST", "/user_integrations", body) for token in (browser.owner, browser.stranger)]
    again = browser.ask(browser.stranger, "POST", "/user_integrations", body)

    assert [answer.status_code for answer in answers] == [201, 201]
    assert (again.status_code, again.json()["code"]) == (409, "23505")
