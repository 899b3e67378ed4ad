"""What the owner of an OAuth connection meets: tokens that renew themselves, verdicts, and secrets that stay at home."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from chalice.test import Client

from tests.peers.oauth import Provider
from tests.support.app import Person, Reply, app_client, environment
from tests.support.stack import Stack

PAST = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    unlimited = {"TESTS_PER_MINUTE": "10000", "TESTS_PER_DAY": "100000"}
    with environment(stack.environment() | unlimited), app_client() as client:
        yield client


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def attacker() -> Iterator[Provider]:
    with Provider() as attacker:
        yield attacker


class Owner(Person):
    """Somebody with one connection to the provider."""

    def __init__(self, client: Client, stack: Stack, provider: Provider) -> None:
        self.id, token = stack.new_user()
        super().__init__(client, token)
        self._stack = stack
        self.provider = provider
        self.path = ""

    def form(self, **more: Any) -> dict[str, Any]:
        access, refresh = self.provider.sign_in()
        return {
            "integration_type": "custom-vendor",
            "name": "the provider",
            "auth_method": "oauth",
            "connection_config": {"api_url": self.provider.api_url, "token_url": self.provider.token_url},
            "credentials": {"access_token": access, "refresh_token": refresh, **self.app_credentials()},
            **more,
        }

    def app_credentials(self) -> dict[str, str]:
        return dict(zip(("client_id", "client_secret"), self.provider.client, strict=True))

    def connects(self, **more: Any) -> dict[str, Any]:
        made = self.post("/integrations", self.form(**more))
        assert made.status == 201, made.body
        self.path = f"/integrations/{made.json['id']}"
        answer: dict[str, Any] = made.json
        return answer

    def says_it_ends(self, moment: str = PAST) -> None:
        """As for a token that does not say so itself."""
        value = next(iter(self.provider.sign_ins[-1].access_tokens))
        assert self.put(f"{self.path}/credentials/access_token", {"value": value, "expires_at": moment}).status == 200

    def tests(self) -> dict[str, Any]:
        result: dict[str, Any] = self.post(f"{self.path}/test").json
        return result

    def writes_to_the_database(self, config: dict[str, Any]) -> None:
        """With their own rights, past this API; so would a thief of their session."""
        with self._stack.database.connect() as connection:
            connection.execute(
                "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true)",
                [json.dumps({"sub": str(self.id), "role": "authenticated"})],
            )
            changed = connection.execute(
                "update public.user_integrations set connection_config = %s where id = %s",
                [json.dumps(config), self.path.rpartition("/")[2]],
            )
            assert changed.rowcount == 1

    def events(self) -> list[str]:
        return [entry["event_type"] for entry in self.get(f"{self.path}/logs").json["items"]]

    def credentials(self) -> dict[str, dict[str, Any]]:
        return {row["credential_type"]: row for row in self.get(f"{self.path}/credentials").json["items"]}


@pytest.fixture
def owner(client: Client, stack: Stack, provider: Provider) -> Owner:
    return Owner(client, stack, provider)


def soon() -> str:
    return (datetime.now(UTC) + timedelta(minutes=5)).isoformat()


def test_an_ended_token_is_renewed_by_the_test_itself(owner: Owner) -> None:
    owner.connects()
    owner.says_it_ends()
    owner.provider.sign_ins[0].access_tokens.clear()
    before, version = owner.credentials(), owner.events()

    result = owner.tests()

    assert result["verdict"] == "ok", result
    after = owner.credentials()
    assert after["access_token"]["last_rotated_at"] == before["access_token"]["last_rotated_at"]
    assert datetime.fromisoformat(after["access_token"]["expires_at"]) > datetime.now(UTC) + timedelta(minutes=59)
    assert after["access_token"]["hint"] == owner.provider.shown[-1][-4:]
    assert owner.get(owner.path).json["next_expiry_at"] is None  # it renews itself: nothing for its owner to see to
    assert owner.events() == ["connected", "tested", *version]
    assert owner.tests()["verdict"] == "ok"
    assert len(owner.provider.asked) == 1


def test_connecting_renews_a_token_that_is_about_to_end(owner: Owner) -> None:
    owner.connects()
    owner.says_it_ends(soon())

    assert owner.post(f"{owner.path}/connect").json["status"] == "connected"
    assert len(owner.provider.asked) == 1


def test_the_end_of_a_sign_in_asks_for_a_new_one_in_plain_words(owner: Owner) -> None:
    owner.connects()
    owner.says_it_ends(soon())
    owner.provider.sign_ins[0].revoked = True

    result = owner.tests()

    assert (result["success"], result["verdict"]) == (False, "needs_reauth")
    assert result["error_message"] == (
        "Renewing the sign-in at the token URL failed. The provider no longer accepts the refresh token: "
        "it expired, was used or was withdrawn. Sign in again."
    )
    assert result["steps"][-1] | {"ms": 0} == {
        "name": "auth", "ok": False, "ms": 0, "detail": "token endpoint: HTTP 400, invalid_grant",
    }  # fmt: skip
    one = owner.get(owner.path).json
    assert (one["status"], one["last_verdict"]) == ("error", "needs_reauth")
    assert one["last_error"] == result["error_message"]
    assert owner.provider.shown == []


def test_a_new_sign_in_mends_it(owner: Owner) -> None:
    owner.connects()
    owner.says_it_ends(soon())
    owner.provider.sign_ins[0].revoked = True
    owner.tests()
    access, refresh = owner.provider.sign_in()

    changed = owner.patch(
        owner.path, {"credentials": {"access_token": access, "refresh_token": refresh}, "test": "required"}
    )

    assert changed.json["test_result"]["verdict"] == "ok"
    assert changed.json["status"] == "connected"


def test_an_outage_of_the_token_endpoint_leaves_the_verdict_to_the_check(owner: Owner) -> None:
    owner.connects()
    owner.says_it_ends(soon())
    owner.provider.planned = [(503, {})]

    assert owner.tests()["verdict"] == "ok"
    assert [len(owner.provider.asked), len(owner.provider.shown)] == [1, 1]


def test_an_outage_of_the_token_endpoint_blames_no_token_that_has_ended(owner: Owner) -> None:
    owner.connects()
    owner.says_it_ends()
    owner.provider.planned = [(503, {"_headers": {"Retry-After": "120"}})]

    result = owner.tests()

    assert result["verdict"] == "provider_down"
    assert "not to blame" in result["error_message"]
    assert owner.tests()["verdict"] == "ok"


def test_a_token_that_was_withdrawn_early_is_renewed_and_tried_once_more(owner: Owner) -> None:
    owner.connects()
    owner.provider.sign_ins[0].access_tokens.clear()

    assert owner.tests()["verdict"] == "ok"
    assert [len(owner.provider.asked), len(owner.provider.shown)] == [1, 2]


def test_a_client_that_is_not_known_is_told_what_to_save(owner: Owner) -> None:
    owner.connects()
    owner.says_it_ends(soon())
    owner.put(f"{owner.path}/credentials/client_secret", {"value": "another-secret"})

    result = owner.tests()

    assert result["verdict"] == "misconfigured"
    assert "'client_secret'" in result["error_message"]


def test_client_credentials_alone_are_enough(owner: Owner) -> None:
    made = owner.connects(credentials=owner.app_credentials(), test="required")
    assert made["test_result"]["verdict"] == "ok"
    assert list(owner.credentials()) == ["client_id", "client_secret"]

    assert owner.tests()["verdict"] == "ok"

    assert list(owner.credentials()) == ["access_token", "client_id", "client_secret"]
    assert [asked.fields["grant_type"] for asked in owner.provider.asked] == ["client_credentials"] * 2
    assert "credential_saved" not in owner.events()[:-3]


def test_a_form_uses_and_keeps_a_renewed_token_of_the_stored_connection(owner: Owner) -> None:
    made = owner.connects()
    owner.says_it_ends(soon())
    form = owner.form(integration_id=made["id"], credentials={})

    assert owner.post("/integrations/test", form).json["verdict"] == "ok"
    assert owner.tests()["verdict"] == "ok"
    assert len(owner.provider.asked) == 1


def test_a_secret_typed_into_a_change_is_tried_with_the_stored_tokens(owner: Owner) -> None:
    owner.connects(credentials={**owner.form()["credentials"], "client_secret": "not-this-one"})
    owner.says_it_ends()
    owner.provider.sign_ins[-1].access_tokens.clear()
    right = {"client_secret": owner.provider.client[1]}

    assert owner.tests()["verdict"] == "misconfigured"
    changed = owner.patch(owner.path, {"credentials": right, "test": "required"})

    assert changed.json["test_result"]["verdict"] == "ok"
    assert owner.tests()["verdict"] == "ok"


def refused(reply: Reply) -> list[str]:
    assert (reply.status, reply.json["code"]) == (409, "credentials_bound_elsewhere"), reply.body
    types: list[str] = reply.json["credential_types"]
    return types


ALL = ["access_token", "client_id", "client_secret", "refresh_token"]
FOR_TOKENS = ["client_id", "client_secret", "refresh_token"]


def test_no_secret_follows_to_another_token_url(owner: Owner, attacker: Provider) -> None:
    owner.connects()
    owner.says_it_ends()
    moved = {"api_url": owner.provider.api_url, "token_url": attacker.token_url}

    assert refused(owner.patch(owner.path, {"connection_config": moved})) == FOR_TOKENS
    owner.writes_to_the_database(moved)
    result = owner.tests()

    assert result["verdict"] == "misconfigured"
    assert all(name in result["error_message"] for name in FOR_TOKENS)
    assert attacker.everything() == ""
    assert owner.provider.asked == []


def test_a_fresh_token_is_not_got_for_another_api_either(owner: Owner, attacker: Provider) -> None:
    """A thief of the session may delete the token that is bound to the old address, and have a new one made."""
    owner.connects()
    owner.delete(f"{owner.path}/credentials/access_token")
    moved = {"api_url": attacker.api_url, "token_url": owner.provider.token_url}

    assert refused(owner.patch(owner.path, {"connection_config": moved})) == FOR_TOKENS
    form = {
        "integration_type": "custom-vendor",
        "integration_id": owner.path.rpartition("/")[2],
        "connection_config": moved,
    }
    assert refused(owner.post("/integrations/test", form)) == FOR_TOKENS
    owner.writes_to_the_database(moved)

    assert owner.tests()["verdict"] == "misconfigured"
    assert attacker.everything() == ""
    assert owner.provider.asked == []


@pytest.mark.parametrize("grant", ["refresh_token", "client_credentials"])
def test_a_token_url_that_was_not_there_before_gets_nothing(owner: Owner, attacker: Provider, grant: str) -> None:
    credentials = owner.form()["credentials"]
    if grant == "client_credentials":
        credentials = owner.app_credentials()
    plain = {"api_url": owner.provider.api_url}
    owner.connects(connection_config=plain, credentials=credentials)
    moved = {**plain, "token_url": attacker.token_url}

    assert refused(owner.patch(owner.path, {"connection_config": moved}))
    owner.writes_to_the_database(moved)

    assert owner.tests()["verdict"] == "misconfigured"
    assert attacker.everything() == ""


def test_moving_all_of_it_takes_all_of_it_anew(owner: Owner, attacker: Provider) -> None:
    owner.connects()
    config = {"api_url": attacker.api_url, "token_url": attacker.token_url}

    assert refused(owner.patch(owner.path, {"connection_config": config})) == ALL
    access, refresh = attacker.sign_in()
    given = dict(zip(FOR_TOKENS, (*attacker.client, refresh), strict=True)) | {"access_token": access}
    changed = owner.patch(owner.path, {"connection_config": config, "credentials": given, "test": True})

    assert changed.json["test_result"]["verdict"] == "ok"


@pytest.mark.parametrize(
    "token_url",
    [
        "http://169.254.169.254/token",
        "http://10.1.2.3/token",
        "ftp://login.example.com",
        "https://a:b@login.example.com",
        7,
    ],
)
def test_a_token_url_that_cannot_be_used_is_refused_at_save(owner: Owner, token_url: object) -> None:
    config = {"api_url": owner.provider.api_url, "token_url": token_url}
    for reply in (owner.post("/integrations", owner.form(connection_config=config)),
                  owner.post("/integrations/test", owner.form(connection_config=config))):  # fmt: skip
        assert reply.status == 422
        assert {problem["field"] for problem in reply.json["errors"]} == {"connection_config.token_url"}


def test_no_token_is_ever_shown(
    owner: Owner, stack: Stack, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    canary = f"canary-{uuid.uuid4().hex}"
    owner.provider.client = (f"client-{canary}", f"secret-{canary}")
    owner.connects()
    owner.says_it_ends()
    replies = [
        owner.post(f"{owner.path}/test"),
        owner.get(owner.path),
        owner.get(f"{owner.path}/logs"),
        owner.get(f"{owner.path}/credentials"),
    ]
    owner.says_it_ends()
    owner.provider.sign_ins[0].revoked = True
    with stack.database.connect() as connection:
        connection.execute("update public.integration_credentials set refreshed_at = now() - interval '1 hour'")
    replies += [owner.post(f"{owner.path}/test"), owner.get(f"{owner.path}/logs")]
    with stack.database.connect() as connection:
        tables = connection.execute(
            "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname in ('public', 'private') and c.relkind in ('r', 'p')"
        ).fetchall()
        rows = [str(connection.execute(f"select to_jsonb(t) from {table} t").fetchall()) for (table,) in tables]  # type: ignore[arg-type]

    assert [reply.json.get("verdict") for reply in replies if "verdict" in reply.json] == ["ok", "needs_reauth"]
    printed = capfd.readouterr()
    shown = "\n".join(
        [*(f"{reply.headers} {reply.body!r}" for reply in replies), printed.out, printed.err, caplog.text, *rows]
    )
    (signed,) = owner.provider.sign_ins
    secrets = [canary, *signed.used, str(signed.refresh_token), *signed.access_tokens]
    assert len(secrets) == 5
    assert not [secret for secret in secrets if secret in shown]
