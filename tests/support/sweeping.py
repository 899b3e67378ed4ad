"""Users with integrations that are due, servers that behave as told, and sweeps over them."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import anyio
import psycopg

from chalicelib import wiring
from chalicelib.egress.guard import Guard
from chalicelib.jobs.sweep import Limits, Store, Summary, Sweep
from chalicelib.model import Secret
from chalicelib.probes.check import Prober
from chalicelib.services.credentials import seal_all
from chalicelib.services.plain_types import type_from
from chalicelib.services.token_refresh import TokenRefresher
from chalicelib.settings import Settings, read_settings
from chalicelib.store.supabase import Supabase
from chalicelib.store.sweeps import SweepStore
from chalicelib.vault import provider_from
from chalicelib.vault.vault import Vault
from tests.peers.targets import LOOPBACK
from tests.support import rows
from tests.support.postgres import add_user
from tests.support.stack import Stack

#: Short enough for tests, long enough for a machine that has other things to do.
LIMITS = Limits(total_s=5.0, lease_s=30, interval_s=86_400, commands=True)
BUDGET_S = 40.0


def _no_tokens(*_: Any) -> Any:
    raise AssertionError("nothing here has OAuth tokens")


def no_renewals(vault: Vault) -> TokenRefresher:
    return TokenRefresher(store=_NoTokens(), vault=vault, ask=_no_tokens)


class World:
    """One database with a service over it."""

    def __init__(self, stack: Stack, more: Mapping[str, str] | None = None) -> None:
        self.stack = stack
        self.settings: Settings = read_settings({**stack.environment(), **(more or {})})
        self.supabase = Supabase(self.settings)
        self.store = SweepStore(self.supabase)
        self.db: psycopg.Connection[Any] = stack.database.connect(autocommit=True)
        self.provider: Any = provider_from(self.settings)

    def close(self) -> None:
        """Forget everybody; the catalogue stays."""
        self.db.execute("delete from auth.users")
        self.db.execute("delete from public.provider_incidents")
        self.db.execute("delete from private.provider_minutes")
        self.db.execute("delete from private.provider_failures")
        self.db.close()
        self.supabase.close()

    def vault(self) -> Vault:
        """As a process that has just started has it."""
        return Vault(self.provider, app=wiring.APP_NAME, environment=self.settings.environment)

    def add(
        self, url: str, count: int = 1, *, users: int = 1, kind: uuid.UUID | None = None, **columns: Any
    ) -> list[str]:
        """Connected integrations that are due: ``count`` for each of ``users`` users. ``{n}`` in the URL counts them.

        Without a URL they are where their ``kind`` leads.
        """
        kind = kind or rows.add_type(self.db, type="vendor")
        columns = {"status": "connected", "is_connected": True, **columns}
        made = []
        with self.db.transaction():
            for user in range(users):
                owner = add_user(self.db)
                for number in range(count):
                    place = {"api_url": url.format(n=user * count + number)} if url else {}
                    config = psycopg.types.json.Jsonb(place)
                    made.append(rows.add_integration(self.db, owner, kind, connection_config=config, **columns))
            self.make_due(made)
        return [str(one) for one in made]

    def save(
        self, integration_id: str, value: str, kind: str = "api_key", *, expires_at: datetime | None = None
    ) -> None:
        """Store a credential as the service does it."""
        owner, config, type_row = self.db.execute(
            "select i.user_id, i.connection_config, to_jsonb(t) from public.user_integrations i "
            "join public.integration_types t on t.id = i.integration_type_id where i.id = %s", [integration_id]
        ).fetchone()  # type: ignore[misc]  # fmt: skip
        found = rows.call(self.db, "sealed_credentials", p_user_id=owner, p_integration_id=integration_id)
        payload = seal_all(
            {kind: Secret(value)}, {kind: expires_at}, user_id=owner, integration_id=uuid.UUID(integration_id),
            type=type_from(type_row), config=config, found=found, vault=self.vault(),
        )  # fmt: skip
        payload["expected_config_version"] = self.row(integration_id)["config_version"]
        rows.call(self.db, "update_integration", p_user_id=owner, p_integration_id=integration_id,
                  p_payload=json.dumps(payload))  # fmt: skip

    def configure(self, integration_id: str, **config: Any) -> None:
        """Another configuration, and due at once."""
        self.db.execute("update public.user_integrations set connection_config = %s where id = %s",
                        [json.dumps(config), integration_id])  # fmt: skip
        self.make_due([integration_id])

    def make_due(self, ids: list[Any]) -> None:
        """Due since a moment ago, leased to nobody."""
        self.db.execute(
            "insert into public.integration_schedule (user_integration_id, user_id, next_check_at) "
            "select id, user_id, now() - interval '1 second' from public.user_integrations where id = any(%s::uuid[]) "
            "on conflict (user_id, user_integration_id) do update "
            "set next_check_at = excluded.next_check_at, lease_token = null",
            [[str(one) for one in ids]],
        )

    def end_leases(self) -> None:
        self.db.execute("update public.integration_schedule set next_check_at = now() where lease_token is not null")

    def sweep(
        self,
        *,
        store: Store | None = None,
        vault: Vault | None = None,
        prober: Any = None,
        tokens: TokenRefresher | None = None,
        budget_s: float = BUDGET_S,
        most: int | None = None,
        **limits: Any,
    ) -> Summary:
        sweep = Sweep(
            store=store or self.store,
            vault=vault or self.vault(),
            checker=prober or a_prober(),
            tokens=tokens or no_renewals(self.vault()),
            limits=replace(LIMITS, **limits),
        )
        return anyio.run(partial(sweep.run, budget_s, most=most))

    def row(self, integration_id: str) -> dict[str, Any]:
        return rows.integration(self.db, uuid.UUID(integration_id))

    def verdicts(self, ids: list[str]) -> list[str | None]:
        return [self.row(one)["last_verdict"] for one in ids]

    def metrics(self) -> Counter[str]:
        """How many results are recorded, by integration."""
        return Counter(rows.column(self.db, "select user_integration_id::text from public.integration_health_metrics"))


class _NoTokens:
    claim_refresh = store_refreshed = staticmethod(_no_tokens)


def a_prober(**options: Any) -> Prober:
    return Prober(Guard(LOOPBACK, connect_s=2), **{"mcp_stdio": "any", "connect_s": 2, "total_s": 10, **options})


@contextmanager
def a_world(stack: Stack, more: Mapping[str, str] | None = None) -> Iterator[World]:
    world = World(stack, more)
    try:
        yield world
    finally:
        world.close()
