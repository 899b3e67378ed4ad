"""Users with integrations that are due, servers that behave as told, and sweeps over them."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import psycopg

from chalicelib import wiring
from chalicelib.egress.guard import Guard
from chalicelib.jobs.sweep import Limits, Store, Summary, Sweep
from chalicelib.probes.check import Prober
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

    def add(self, url: str, count: int = 1, *, users: int = 1, kind: uuid.UUID | None = None, **columns: Any) -> list[str]:
        """Connected integrations that are due: ``count`` for each of ``users`` users. ``{n}`` in the URL counts them."""
        kind = kind or rows.add_type(self.db, type="vendor")
        columns = {"status": "connected", "is_connected": True, **columns}
        made = []
        with self.db.transaction():
            for user in range(users):
                owner = add_user(self.db)
                for number in range(count):
                    config = psycopg.types.json.Jsonb({"api_url": url.format(n=user * count + number)})
                    made.append(rows.add_integration(self.db, owner, kind, connection_config=config, **columns))
            self.make_due(made)
        return [str(one) for one in made]

    def make_due(self, ids: list[Any]) -> None:
        """Due since a moment ago, leased to nobody."""
        self.db.execute(
            "insert into public.integration_schedule (user_integration_id, user_id, next_check_at) "
            "select id, user_id, now() - interval '1 second' from public.user_integrations where id = any(%s::uuid[]) "
            "on conflict (user_integration_id) do update set next_check_at = excluded.next_check_at, lease_token = null",
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
            tokens=tokens or TokenRefresher(store=_NoTokens(), vault=self.vault(), ask=_no_tokens),
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
