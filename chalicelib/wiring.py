"""The one place that joins services with the outside. Built once a process; connects and imports on first use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

from chalicelib.model import AuthMethod, CheckResult, Secret, Target
from chalicelib.services.catalogue import CatalogueService
from chalicelib.services.ports import Json
from chalicelib.settings import Settings, read_settings

if TYPE_CHECKING:
    from chalicelib.api.edge import Door
    from chalicelib.api.tokens import Caller, TokenVerifier
    from chalicelib.egress.policy import Policy
    from chalicelib.probes.check import Prober
    from chalicelib.services.integrations import IntegrationService
    from chalicelib.store.supabase import Supabase
    from chalicelib.vault.vault import Vault

APP_NAME = "integrations"


@cache
def settings() -> Settings:
    return read_settings()


@cache
def supabase() -> Supabase:
    from chalicelib.store.supabase import Supabase

    return Supabase(settings())


@cache
def tokens() -> TokenVerifier:
    from chalicelib.api.tokens import TokenVerifier

    read = settings()
    return TokenVerifier(read.jwks_url, read.jwt_issuer, read.jwt_secret, read.jwt_issuer_optional)


@cache
def vault() -> Vault:
    from chalicelib.vault import provider_from
    from chalicelib.vault.vault import Vault

    read = settings()
    return Vault(provider_from(read), app=APP_NAME, environment=read.environment)


@cache
def egress_policy() -> Policy:
    from chalicelib.egress.policy import Policy

    return Policy(settings().egress_allow, settings().on_lambda)


def prober() -> Prober:
    from chalicelib.egress.guard import Guard
    from chalicelib.probes.check import Prober

    read = settings()
    guard = Guard(egress_policy(), connect_s=read.check_connect_s)
    return Prober(guard, mcp_stdio=read.mcp_stdio, connect_s=read.check_connect_s, total_s=read.check_total_s)


@cache
def edge_key() -> bytes:
    from chalicelib.api.cursors import derive_key

    return derive_key(settings().supabase_secret_key)


@cache
def door() -> Door:
    from chalicelib.api.edge import Door
    from chalicelib.store.supabase import round_trips

    return Door(tokens(), settings().allowed_origins, edge_key(), round_trips.get)


def health() -> Json:
    """What answers right now. Takes less than a second."""
    from chalicelib.services.liveness import ask_all

    return ask_all({"database": lambda: supabase().ping(), "sign_in": lambda: tokens().ping()})


def catalogue() -> CatalogueService:
    from chalicelib.store.integrations import TypeStore

    return CatalogueService(TypeStore(supabase()))


def integrations(caller: Caller) -> IntegrationService:
    """The service for one signed-in user."""
    from chalicelib.services.integrations import IntegrationService, Limits
    from chalicelib.services.rules import Rules
    from chalicelib.store.integrations import TypeStore, UserStore

    read = settings()
    return IntegrationService(
        caller.user_id,
        store=UserStore(supabase(), caller.user_id, caller.token),
        types=TypeStore(supabase()),
        vault=vault(),
        check=_check,
        rules=Rules(addresses=egress_policy(), credentials=_CredentialRules(), mcp_stdio=read.mcp_stdio),
        limits=Limits(
            tests_per_minute=read.tests_per_minute,
            tests_per_day=read.tests_per_day,
            check_interval_s=read.check_interval_s,
            check_backoff_cap_s=read.check_backoff_cap_s,
        ),
    )


def _check(target: Target) -> CheckResult:
    from chalicelib.probes.check import run_check

    return run_check(prober(), target)


class _CredentialRules:
    def inspect(
        self, method: AuthMethod, secrets: Mapping[str, Secret], stored: Collection[str]
    ) -> Mapping[str, datetime | None]:
        if not secrets:
            return {}
        from chalicelib.vault.inspection import inspect_credentials

        return inspect_credentials(method, secrets, stored=stored)

    def belongs(self, method: AuthMethod, credential_type: str) -> bool:
        from chalicelib.vault.inspection import credential_type_problem

        return credential_type_problem(method, credential_type) is None
