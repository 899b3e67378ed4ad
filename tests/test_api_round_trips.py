"""How often each route goes to the database, and as whom: `docs/round-trips.md` is checked against what happens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from chalice.test import Client

from chalicelib import wiring
from tests.peers.oauth import Provider
from tests.support.app import Person, app_client, environment
from tests.support.stack import Stack
from tests.support.vendor import GOOD_KEY, Vendor

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/round-trips.md"
ROW = re.compile(r"\| `([A-Z]+ [^`]+)` \| ([^|]*?) *\| (.*?) *\|")


class Watched:
    """One person's requests, with the identity of each database call that they caused."""

    def __init__(self, client: Client, stack: Stack) -> None:
        _, token = stack.new_user()
        self.person = Person(client, token)
        self.calls: list[str] = []
        self._names = {
            f"Bearer {token}": "user",
            f"Bearer {wiring.settings().supabase_secret_key.reveal()}": "service",
            f"Bearer {wiring.settings().supabase_publishable_key}": "anybody",
        }
        hooks = wiring.supabase()._http.event_hooks
        hooks["request"] = [self._note]
        wiring.supabase()._http.event_hooks = hooks

    def _note(self, request: httpx.Request) -> None:
        self.calls.append(self._names[request.headers["Authorization"]])

    def asked(self, method: str, path: str, body: Any = None) -> tuple[list[str], Any]:
        self.calls.clear()
        reply = self.person.send(method, path, body, {})
        assert reply.status < 300, reply.body
        return list(self.calls), reply.json if reply.body else None


@pytest.fixture(scope="module")
def watched(stack: Stack) -> Iterator[Watched]:
    with environment(stack.environment()), app_client() as client:
        yield Watched(client, stack)


def about_to_expire(watched: Watched, provider: Provider) -> str:
    """An integration whose access token has ended; who may renew it is asked first, what was issued is stored then."""
    access, refresh = provider.sign_in()
    given = dict(zip(("client_id", "client_secret"), provider.client, strict=True))
    form = {
        "integration_type": "custom-vendor",
        "name": "about to expire",
        "auth_method": "oauth",
        "connection_config": {"api_url": provider.api_url, "token_url": provider.token_url},
        "credentials": {"access_token": access, "refresh_token": refresh, **given},
    }
    _, made = watched.asked("POST", "/integrations", form)
    path = f"/integrations/{made['id']}"
    watched.asked("PUT", f"{path}/credentials/access_token", {"value": access, "expires_at": "2026-01-01T00:00:00Z"})
    return path


def measured(watched: Watched, vendor: Vendor, provider: Provider) -> dict[tuple[str, str], list[str]]:
    """Every route, and what it cost; data keys are not cached at first, as in a cold process."""
    config = {"api_url": vendor.url}
    base = {"integration_type": "custom-vendor", "auth_method": "api_key", "connection_config": config}
    key = {"credentials": {"api_key": GOOD_KEY}}
    cost: dict[tuple[str, str], list[str]] = {}

    def note(route: str, when: str, path: str, body: Any = None) -> Any:
        calls, answer = watched.asked(route.split()[0], path, body)
        cost[route, when] = calls
        return answer

    note("GET /integration-types", "", "/integration-types")
    note("GET /integration-types/{slug}", "", "/integration-types/custom-vendor")
    note("POST /integrations", "no secret", "/integrations", base | {"name": "plain"})
    wiring.vault.cache_clear()
    made = note("POST /integrations", "with a secret", "/integrations", base | {"name": "a"} | key)
    wiring.vault.cache_clear()
    note("POST /integrations", "with a secret and a test", "/integrations", base | {"name": "b", "test": True} | key)
    path = f"/integrations/{made['id']}"
    note("GET /integrations", "", "/integrations")
    note("GET /integrations/overview", "", "/integrations/overview")
    note("GET /integrations/{id}", "", path)
    note("PATCH /integrations/{id}", "no secret", path, {"name": "renamed"})
    note("PATCH /integrations/{id}", "with a secret and a test", path, {"test": True} | key)
    wiring.vault.cache_clear()
    note("POST /integrations/{id}/connect", "", f"{path}/connect")
    note("POST /integrations/{id}/test", "", f"{path}/test")
    expiring = about_to_expire(watched, provider)
    note("POST /integrations/{id}/test", "with a token about to expire", f"{expiring}/test")
    note("POST /integrations/test", "typed secrets", "/integrations/test", base | key)
    note("POST /integrations/test", "stored secrets", "/integrations/test", base | {"integration_id": made["id"]})
    note("POST /integrations/{id}/disconnect", "", f"{path}/disconnect")
    note("GET /integrations/{id}/logs", "", f"{path}/logs")
    note("GET /integrations/{id}/health", "", f"{path}/health")
    note("GET /integrations/{id}/health/summary", "", f"{path}/health/summary")
    note("GET /integrations/{id}/credentials", "", f"{path}/credentials")
    note("PUT /integrations/{id}/credentials/{type}", "", f"{path}/credentials/api_key", {"value": GOOD_KEY})
    note("DELETE /integrations/{id}/credentials/{type}", "", f"{path}/credentials/api_key")
    note("DELETE /integrations/{id}", "", path)
    return cost


def documented() -> dict[tuple[str, str], list[str]]:
    rows = ROW.findall(DOCUMENT.read_text())
    return {(route, when): [] if calls == "–" else calls.split(", ") for route, when, calls in rows}


def test_every_route_costs_what_is_documented(watched: Watched) -> None:
    with Vendor() as vendor, Provider() as provider:
        cost = measured(watched, vendor, provider)

    assert cost == documented()


def test_one_call_for_a_read_two_for_a_write_three_for_a_test_and_two_more_for_a_token() -> None:
    for (route, when), calls in documented().items():
        tests = "test" in when or route.endswith(("/connect", "/test"))
        most = 1 if route.startswith("GET") else 3 if tests else 2
        assert 1 <= len(calls) <= most + 2 * ("token" in when), route


def test_reads_of_own_things_and_writes_without_secrets_run_under_the_users_own_token() -> None:
    for (route, when), calls in documented().items():
        if "integration-types" in route:
            assert calls == ["anybody"]
        elif route.startswith("GET") or when == "no secret" or route == "DELETE /integrations/{id}":
            assert set(calls) == {"user"}, route


def test_a_test_of_a_stored_integration_starts_as_its_user() -> None:
    for route in ("POST /integrations/{id}/connect", "POST /integrations/{id}/test"):
        assert documented()[route, ""][0] == "user"
