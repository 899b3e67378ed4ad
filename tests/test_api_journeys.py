"""What a frontend does from end to end: Chalice, services, PostgREST and Postgres for real, vendors on loopback."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from chalice.test import Client

from tests.support.app import Person, Reply, app_client, environment
from tests.support.canary import found_in
from tests.support.stack import Stack
from tests.support.vendor import GOOD_KEY, Vendor

WRONG_KEY = "wrong-key-0123456789"


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    plenty = {"TESTS_PER_MINUTE": "10000", "TESTS_PER_DAY": "100000"}
    with environment(stack.environment() | plenty), app_client() as client:
        yield client


@pytest.fixture
def ann(client: Client, stack: Stack) -> Person:
    return Person(client, stack.new_user()[1])


@pytest.fixture
def bob(client: Client, stack: Stack) -> Person:
    return Person(client, stack.new_user()[1])


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    with Vendor() as vendor:
        yield vendor


def draft(vendor: Vendor, **more: Any) -> dict[str, Any]:
    return {
        "integration_type": "custom-vendor",
        "name": "My vendor",
        "auth_method": "api_key",
        "connection_config": {"api_url": vendor.url},
        "credentials": {"api_key": GOOD_KEY},
    } | more


def created(person: Person, body: dict[str, Any]) -> dict[str, Any]:
    reply = person.post("/integrations", body)
    assert reply.status == 201, reply.body
    answer: dict[str, Any] = reply.json
    return answer


def events(person: Person, integration: dict[str, Any]) -> list[str]:
    """Newest first."""
    return [entry["event_type"] for entry in person.get(f"/integrations/{integration['id']}/logs").json["items"]]


def assert_problem(reply: Reply, status: int, code: str) -> dict[str, Any]:
    assert reply.status == status, reply.body
    assert reply.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = reply.json
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == reply.headers["X-Request-Id"]
    return problem


def assert_consistent(person: Person, integration_id: str) -> dict[str, Any]:
    """Status, verdict, error, metrics and logs tell one story."""
    one: dict[str, Any] = person.get(f"/integrations/{integration_id}").json
    metrics = person.get(f"/integrations/{integration_id}/health").json["items"]
    assert one["status"] != "testing"
    assert one["is_connected"] == (one["status"] == "connected")
    assert (one["next_check_at"] is not None) == (one["status"] in ("connected", "error"))
    if metrics:
        newest = metrics[0]
        assert one["last_verdict"] == newest["verdict"]
        assert one["last_tested_at"] == newest["checked_at"]
        assert one["last_error"] == (None if newest["success"] else newest["error_message"])
        assert (one["failing_since"] is None) == newest["success"]
    return one


def test_a_good_key_connects_and_its_health_is_told(ann: Person, vendor: Vendor) -> None:
    made = created(ann, draft(vendor))
    assert made["status"] == "configuring"
    assert made["test_result"] is None

    connected = ann.post(f"/integrations/{made['id']}/connect").json
    assert connected["status"] == "connected"
    assert connected["test_result"]["verdict"] == "ok"
    assert [step["name"] for step in connected["test_result"]["steps"]][:2] == ["policy", "tcp"]

    one = assert_consistent(ann, made["id"])
    assert one["connected_at"] is not None
    assert one["recent"][-1] | {"at": ""} == {"at": "", "checks": 1, "failures": 0}
    assert events(ann, made) == ["connected", "tested", "credential_saved", "created"]
    summary = ann.get(f"/integrations/{made['id']}/health/summary?window=7d").json
    assert summary["checks"] == 1
    assert summary["success_rate"] == 1.0
    assert summary["response_time_ms"]["p50"] == connected["test_result"]["response_time_ms"]


def test_a_wrong_key_is_blamed_at_once_and_mended_by_a_new_one(ann: Person, vendor: Vendor) -> None:
    made = created(ann, draft(vendor, credentials={"api_key": WRONG_KEY}, test=True))
    assert made["test_result"]["verdict"] == "auth_rejected"
    assert made["status"] == "error"
    assert_consistent(ann, made["id"])

    ann.put(f"/integrations/{made['id']}/credentials/api_key", {"value": GOOD_KEY})
    result = ann.post(f"/integrations/{made['id']}/test").json

    assert result["success"] is True
    assert assert_consistent(ann, made["id"])["status"] == "connected"


def test_required_keeps_nothing_of_a_connection_that_fails(ann: Person, vendor: Vendor) -> None:
    reply = ann.post("/integrations", draft(vendor, credentials={"api_key": WRONG_KEY}, test="required"))

    assert reply.status == 200
    assert reply.json["saved"] is False
    assert reply.json["test_result"]["verdict"] == "auth_rejected"
    assert ann.get("/integrations").json["items"] == []

    assert created(ann, draft(vendor, test="required"))["status"] == "connected"


def test_off_stays_off_until_its_owner_connects_again(ann: Person, vendor: Vendor) -> None:
    made = created(ann, draft(vendor, test=True))
    off = ann.post(f"/integrations/{made['id']}/disconnect").json
    assert off["status"] == "disconnected"
    assert off["next_check_at"] is None

    assert ann.post(f"/integrations/{made['id']}/test").json["success"] is True
    assert assert_consistent(ann, made["id"])["status"] == "disconnected"
    assert [row["credential_type"] for row in ann.get(f"/integrations/{made['id']}/credentials").json["items"]] == [
        "api_key"
    ]

    assert ann.post(f"/integrations/{made['id']}/connect").json["status"] == "connected"


def test_a_form_is_tested_without_being_stored(ann: Person, vendor: Vendor) -> None:
    result = ann.post("/integrations/test", {k: v for k, v in draft(vendor).items() if k != "name"})

    assert result.json["verdict"] == "ok"
    assert ann.get("/integrations").json["items"] == []


def test_a_form_for_a_stored_integration_uses_its_sealed_secret_for_the_same_destination_only(
    ann: Person, vendor: Vendor
) -> None:
    made = created(ann, draft(vendor))
    form = {"integration_type": "custom-vendor", "integration_id": made["id"], "auth_method": "api_key"}

    same = ann.post("/integrations/test", form | {"connection_config": {"api_url": f"{vendor.url}/other"}})
    assert same.json["verdict"] == "ok"

    with Vendor() as attacker:
        refused = ann.post("/integrations/test", form | {"connection_config": {"api_url": attacker.url}})
        assert assert_problem(refused, 409, "credentials_bound_elsewhere")["credential_types"] == ["api_key"]
        assert attacker.requests == []


def test_a_stored_secret_never_follows_to_another_destination(ann: Person, vendor: Vendor) -> None:
    made = created(ann, draft(vendor, test=True))
    with Vendor() as attacker:
        moved = ann.patch(f"/integrations/{made['id']}", {"connection_config": {"api_url": attacker.url}})
        assert assert_problem(moved, 409, "credentials_bound_elsewhere")["credential_types"] == ["api_key"]

        again = ann.patch(
            f"/integrations/{made['id']}",
            {
                "connection_config": {"api_url": attacker.url},
                "credentials": {"api_key": "typed-for-the-new-place"},
                "test": True,
            },
        )
        assert again.status == 200
        assert GOOD_KEY not in attacker.everything()
        assert "typed-for-the-new-place" in attacker.everything()


def test_straight_through_postgrest_the_secret_does_not_follow_either(
    client: Client, stack: Stack, vendor: Vendor
) -> None:
    user_id, token = stack.new_user()
    ann = Person(client, token)
    made = created(ann, draft(vendor, test=True))
    with Vendor() as attacker:
        with stack.database.connect() as connection:
            connection.execute(
                "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true)",
                [json.dumps({"sub": str(user_id), "role": "authenticated"})],
            )
            connection.execute(
                "update public.user_integrations set connection_config = %s where id = %s",
                [json.dumps({"api_url": attacker.url}), made["id"]],
            )
        result = ann.post(f"/integrations/{made['id']}/test").json

        assert result["verdict"] == "misconfigured"
        assert "api_key" in result["error_message"]
        assert GOOD_KEY not in attacker.everything()
    assert_consistent(ann, made["id"])


def test_renaming_and_another_path_or_timeout_keep_the_secret(ann: Person, vendor: Vendor) -> None:
    made = created(ann, draft(vendor))
    config = {"api_url": f"{vendor.url}/v2/me", "timeout_ms": 5000}

    changed = ann.patch(f"/integrations/{made['id']}", {"name": "Another name", "connection_config": config})

    assert changed.status == 200
    assert changed.json["name"] == "Another name"
    assert ann.post(f"/integrations/{made['id']}/test").json["success"] is True
    assert "config_updated" in events(ann, made)


def test_another_auth_method_drops_the_secrets_of_the_old_one(ann: Person, vendor: Vendor) -> None:
    made = created(ann, draft(vendor))

    changed = ann.patch(
        f"/integrations/{made['id']}",
        {"auth_method": "basic", "credentials": {"username": "ann", "password": "correct horse battery staple"}},
    )

    assert [row["credential_type"] for row in changed.json["credentials"]] == ["password", "username"]


def test_strangers_see_and_change_nothing(ann: Person, bob: Person, vendor: Vendor) -> None:
    made = created(ann, draft(vendor))
    path = f"/integrations/{made['id']}"

    replies = [
        bob.get(path), bob.get(f"{path}/logs"), bob.get(f"{path}/health"), bob.get(f"{path}/health/summary"),
        bob.get(f"{path}/credentials"), bob.patch(path, {"name": "mine"}), bob.delete(path),
        bob.post(f"{path}/test"), bob.post(f"{path}/connect"), bob.post(f"{path}/disconnect"),
        bob.put(f"{path}/credentials/api_key", {"value": "x" * 20}), bob.delete(f"{path}/credentials/api_key"),
        bob.post("/integrations/test", draft(vendor, integration_id=made["id"], credentials={})),
    ]  # fmt: skip
    unknown = bob.get(f"/integrations/{uuid.uuid4()}")

    for reply in replies:
        assert_problem(reply, 404, "integration_not_found")
        assert reply.json | {"request_id": ""} == unknown.json | {"request_id": ""}
    assert ann.get(path).json["name"] == "My vendor"
    assert created(bob, draft(vendor))["name"] == "My vendor"  # names are one's own


def test_a_taken_name_is_a_conflict_and_leaves_nothing_behind(ann: Person, vendor: Vendor) -> None:
    created(ann, draft(vendor))

    assert_problem(ann.post("/integrations", draft(vendor, name="my VENDOR")), 409, "name_taken")
    assert len(ann.get("/integrations").json["items"]) == 1


def test_the_same_idempotency_key_and_body_give_the_same_answer(ann: Person, vendor: Vendor) -> None:
    first = ann.post("/integrations", draft(vendor, test=True), Idempotency_Key="k-1")
    again = ann.post("/integrations", draft(vendor, test=True), Idempotency_Key="k-1")

    assert (first.status, again.status) == (201, 201)
    assert first.json == again.json
    assert len(ann.get("/integrations").json["items"]) == 1
    other = ann.post(
        "/integrations", draft(vendor, credentials={"api_key": WRONG_KEY}, test=True), Idempotency_Key="k-1"
    )
    assert_problem(other, 422, "idempotency_key_reused")


def test_deleting_takes_everything_along(ann: Person, stack: Stack, vendor: Vendor) -> None:
    made = created(ann, draft(vendor, test=True))

    gone = ann.delete(f"/integrations/{made['id']}")

    assert (gone.status, gone.body) == (204, b"")
    assert_problem(ann.get(f"/integrations/{made['id']}"), 404, "integration_not_found")
    with stack.database.connect() as connection:
        for table in (
            "integration_credentials",
            "integration_logs",
            "integration_health_metrics",
            "integration_schedule",
        ):
            left = connection.execute(
                f"select count(*) from public.{table} where user_integration_id = %s", [made["id"]]
            )  # type: ignore[arg-type]
            assert left.fetchone() == (0,)


def test_pages_of_own_integrations_are_complete_for_every_sort(ann: Person, vendor: Vendor) -> None:
    names = [f"integration {n}" for n in range(5)]
    for name in names:
        created(ann, draft(vendor, name=name, credentials={}, auth_method="none"))

    for sort in ("created", "name", "attention"):
        seen: list[str] = []
        cursor = ""
        for _ in range(3):
            page = ann.get(f"/integrations?limit=2&sort={sort}{cursor}").json
            seen += [item["name"] for item in page["items"]]
            cursor = f"&cursor={page['next_cursor']}"
        assert page["next_cursor"] is None
        assert sorted(seen) == names
        assert page["counts"] == {"status": {"configuring": 5}, "verdict": {}}


def test_a_cursor_fits_its_own_list_only(ann: Person, bob: Person, vendor: Vendor) -> None:
    for n in range(3):
        created(ann, draft(vendor, name=f"integration {n}", credentials={}, auth_method="none"))
    cursor = ann.get("/integrations?limit=1").json["next_cursor"]

    assert ann.get(f"/integrations?limit=1&cursor={cursor}").status == 200
    for reply in (
        ann.get(f"/integrations?limit=1&sort=name&cursor={cursor}"),
        ann.get(f"/integrations?limit=1&cursor={cursor[:-2]}"),
        bob.get(f"/integrations?limit=1&cursor={cursor}"),
        ann.get("/integrations?cursor=%00"),
    ):
        assert reply.status in (400, 422)


def test_attention_puts_first_what_its_owner_must_act_on(ann: Person, vendor: Vendor) -> None:
    created(ann, draft(vendor, name="a fine one", test=True))
    created(ann, draft(vendor, name="b waits", connection_config={"api_url": f"{vendor.url}/503"}, test=True))
    created(ann, draft(vendor, name="c refused", credentials={"api_key": WRONG_KEY}, test=True))

    listed = ann.get("/integrations?sort=attention").json

    assert [item["name"] for item in listed["items"]] == ["c refused", "b waits", "a fine one"]
    assert listed["counts"]["verdict"] == {"ok": 1, "provider_down": 1, "auth_rejected": 1}
    assert [item["name"] for item in ann.get("/integrations?verdict=ok").json["items"]] == ["a fine one"]
    assert [item["name"] for item in ann.get("/integrations?status=error&q=WAITS").json["items"]] == ["b waits"]


def test_tests_are_rationed_and_say_when_to_come_back(client: Client, stack: Stack, vendor: Vendor) -> None:
    with environment(stack.environment() | {"TESTS_PER_MINUTE": "2"}):
        ann = Person(client, stack.new_user()[1])
        made = created(ann, draft(vendor))
        statuses = [ann.post(f"/integrations/{made['id']}/test").status for _ in range(3)]
        refused = ann.post("/integrations/test", draft(vendor))

    # A minute may have turned between the calls, but not twice.
    assert statuses[:2] == [200, 200]
    assert 429 in (statuses[2], refused.status)
    problem = refused if refused.status == 429 else None
    if problem is not None:
        assert_problem(problem, 429, "tests_per_minute")
        assert 1 <= int(problem.headers["Retry-After"]) <= 60


def test_no_route_ever_shows_a_secret(
    client: Client, stack: Stack, vendor: Vendor, capfd: pytest.CaptureFixture[str]
) -> None:
    canary = f"canary-{uuid.uuid4().hex}"
    ann = Person(client, stack.new_user()[1])
    bodies = [
        ann.post("/integrations", draft(vendor, credentials={"api_key": canary, "header.X-Extra": canary}, test=True))
    ]
    made = bodies[0].json
    path = f"/integrations/{made['id']}"
    bodies += [
        ann.post("/integrations/test", draft(vendor, credentials={"api_key": canary})),
        ann.post("/integrations", draft(vendor, name="bad", credentials={"api_key": f"{canary}\n"})),
        ann.post("/integrations", draft(vendor, name="bad", credentials={"client_key": canary})),
        ann.post("/integrations", draft(vendor, name="bad", connection_config={"api_url": vendor.url, "token": canary})),
        ann.post("/integrations", draft(vendor, name="bad", connection_config={"api_url": f"https://a:{canary}@example.com"})),
        ann.put(f"{path}/credentials/api_key", {"value": canary, "more": canary}),
        ann.put(f"{path}/credentials/api_key", {"value": canary}),
        ann.patch(path, {"credentials": {"api_key": canary}, "test": True}),
        ann.get(path), ann.get("/integrations"), ann.get(f"{path}/logs"), ann.get(f"{path}/credentials"),
        ann.post(f"{path}/test"), ann.post(f"{path}/connect"), ann.get(f"{path}/health"),
    ]  # fmt: skip
    printed = capfd.readouterr()
    with stack.database.connect() as connection:
        tables = connection.execute(
            "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname in ('public', 'private') and c.relkind in ('r', 'p')"
        ).fetchall()
        rows = [str(connection.execute(f"select to_jsonb(t) from {table} t").fetchall()) for (table,) in tables]  # type: ignore[arg-type]

    shown = "\n".join(
        [
            *(reply.body.decode() for reply in bodies),
            *(str(reply.headers) for reply in bodies),
            printed.out,
            printed.err,
            *rows,
        ]
    )
    assert found_in(shown, canary) == []
    assert canary in vendor.everything()  # it did reach the place that it was typed for
