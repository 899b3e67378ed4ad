"""Connections to a provider with OAuth, as tests of renewing tokens need them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from chalice.test import Client

from chalicelib import wiring
from chalicelib.services.token_refresh import Fresh, Held, TokenRefresher
from chalicelib.store.token_refreshes import TokenRefreshStore
from tests.peers.oauth import Provider
from tests.support.app import Person
from tests.support.refreshing import read_held
from tests.support.stack import Stack

SOON = timedelta(minutes=5)


class Connection:
    """Somebody's connection to the provider, with a token that ends soon."""

    def __init__(
        self, client: Client, stack: Stack, provider: Provider, *, lives: timedelta | None = SOON, **given: str
    ) -> None:
        self.stack, self.provider = stack, provider
        self.user_id, token = stack.new_user()
        self.person = Person(client, token)
        if not given:
            access, refresh = provider.sign_in()
            given = {"access_token": access, "refresh_token": refresh}
        names = dict(zip(("client_id", "client_secret"), provider.client, strict=True))
        made = self.person.post(
            "/integrations",
            {
                "integration_type": "custom-vendor",
                "name": "a provider",
                "auth_method": "oauth",
                "connection_config": {"api_url": provider.api_url, "token_url": provider.token_url},
                "credentials": {name: value for name, value in {**names, **given}.items() if value},
            },
        )
        assert made.status == 201, made.body
        self.id = UUID(made.json["id"])
        if lives is not None and "access_token" in given:
            self.sql("update public.integration_credentials set expires_at = now() + %s where user_integration_id = %s "
                     "and credential_type = 'access_token'", lives, self.id)  # fmt: skip

    def sql(self, statement: Any, *values: Any) -> list[Any]:
        with self.stack.database.connect() as connection:
            done = connection.execute(statement, values)
            return done.fetchall() if done.description else []

    def held(self) -> Held:
        return read_held(self.user_id, self.id)

    def stored(self) -> dict[str, str]:
        return {name: secret.reveal() for name, secret in self.held().target.secrets.items()}

    def saves(self, credential_type: str, value: str) -> None:
        assert self.person.put(f"/integrations/{self.id}/credentials/{credential_type}", {"value": value}).status == 200


def a_refresher(**parts: Any) -> TokenRefresher:
    usual: dict[str, Any] = {
        "store": TokenRefreshStore(wiring.supabase()),
        "vault": wiring.vault(),
        "ask": wiring._ask_for_tokens,
        "sleep": lambda _: None,
    }
    return TokenRefresher(**{**usual, **parts})


def access(fresh: Fresh) -> str:
    assert fresh.failure is None, fresh.failure
    return fresh.target.secrets["access_token"].reveal()
