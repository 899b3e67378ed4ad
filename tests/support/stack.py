"""Postgres, PostgREST and an issuer of tokens: what the app sees of a hosted Supabase project."""

from __future__ import annotations

import uuid
from pathlib import Path

from tests.support.postgres import Cluster, add_user
from tests.support.postgrest import PostgREST
from tests.support.tokens import Issuer


class Stack:
    """All of it on one fresh database. ``folder`` takes the log and the app's key file."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._folder = folder
        self.database = cluster.migrated_database()
        self.issuer = Issuer()
        self.postgrest = PostgREST(self.database.dsn("authenticator"), self.issuer.key_set(), folder / "postgrest.log")

    def start(self) -> None:
        self.postgrest.wait_until_ready()

    def stop(self) -> None:
        self.postgrest.stop()
        self.issuer.stop()
        self.database.drop()

    def new_user(self) -> tuple[uuid.UUID, str]:
        """Somebody who just signed in: the id and an access token."""
        with self.database.connect() as connection:
            user_id = add_user(connection)
        return user_id, self.issuer.user_token(user_id)

    def environment(self) -> dict[str, str]:
        """The app's settings for this stack."""
        return {
            "SUPABASE_URL": self.issuer.url,
            "SUPABASE_REST_URL": self.postgrest.url,
            "SUPABASE_PUBLISHABLE_KEY": self.issuer.api_key("anon"),
            "SUPABASE_SECRET_KEY": self.issuer.api_key("service_role"),
            "LOCAL_KEY_FILE": str(self._folder / "key"),
            "APP_ENV": "test",
            "MCP_STDIO": "any",
            "EGRESS_ALLOW": "127.0.0.0/8,::1/128",
            "ALLOWED_ORIGINS": "http://localhost:5173,http://localhost:3000",
        }
