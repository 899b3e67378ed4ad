"""The one place that joins services with the outside. Built once a process; connects and imports on first use."""

from __future__ import annotations

import gc
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

from chalicelib.errors import Unavailable
from chalicelib.model import AuthMethod, CheckResult, IssuedTokens, Secret, Target
from chalicelib.services.catalogue import CatalogueService
from chalicelib.services.ports import Json
from chalicelib.settings import Settings, parameters_of, read_settings
from chalicelib.watch import log_to_stdout

if TYPE_CHECKING:
    from chalicelib.api.edge import Door
    from chalicelib.api.tokens import Caller, TokenVerifier
    from chalicelib.egress.policy import Policy
    from chalicelib.jobs.sweep import Progress, Sweep
    from chalicelib.jobs.tickets import TicketQueue
    from chalicelib.probes.check import Prober, StdioRunner
    from chalicelib.services.integrations import IntegrationService
    from chalicelib.services.token_refresh import Grant, TokenRefresher
    from chalicelib.store.supabase import Supabase
    from chalicelib.store.sweeps import SweepStore, UpkeepStore
    from chalicelib.vault.vault import Vault

APP_NAME = "integrations"


@cache
def settings() -> Settings:
    """Read once. Raises ``BadSettings``, or ``Unavailable`` if a store of secrets is down: then the next call tries."""
    kept = parameters_of(os.environ)
    if not kept:
        return read_settings()
    from chalicelib.store.parameters import read_parameters

    values = read_parameters(set(kept.values()), os.environ)
    return read_settings({**os.environ, **{name: values[parameter] for name, parameter in kept.items()}})


def loaded() -> None:
    """Say that a function has loaded its code: from now on garbage is collected, but not looked for in that."""
    if not gc.isenabled():  # on Lambda: see `chalicelib/__init__.py`
        gc.freeze()
        gc.enable()


def start() -> None:
    """What every function does before its first event: on Lambda, log as JSON, and fail if a setting is bad."""
    if not os.environ.get("AWS_LAMBDA_FUNCTION_NAME"):
        return
    loaded()
    log_to_stdout()
    with suppress(Unavailable):  # it may pass: until it does, requests are answered 503, and sweeps are tried again
        settings()


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
    return Prober(
        Guard(egress_policy(), connect_s=read.check_connect_s),
        mcp_stdio=read.mcp_stdio,
        connect_s=read.check_connect_s,
        total_s=read.check_total_s,
        stdio_runner=_stdio_runner(read.stdio_runner_function),
    )


def _stdio_runner(function: str | None) -> StdioRunner | None:
    if not function:
        return None
    from chalicelib.probes.stdio_remote import LambdaRunner

    return LambdaRunner(function)


def command_prober(total_s: float) -> Prober:
    """For the function that runs commands: it has no settings, and nothing that it could open connections to."""
    from chalicelib.egress.guard import Guard
    from chalicelib.egress.policy import Policy
    from chalicelib.probes.check import Prober

    guard = Guard(Policy(hosted=True), connect_s=total_s)
    return Prober(guard, mcp_stdio="catalogue", connect_s=total_s, total_s=total_s)


@cache
def edge_key() -> bytes:
    from chalicelib.api.cursors import derive_key

    return derive_key(settings().supabase_secret_key)


@cache
def door() -> Door:
    from chalicelib.api.edge import Door
    from chalicelib.store.supabase import round_trips

    read = settings()
    metrics_of = read.environment if read.on_lambda else None
    return Door(tokens(), read.allowed_origins, edge_key(), round_trips.get, metrics_of)


def health() -> Json:
    """What answers right now. Takes less than a second."""
    from chalicelib.services.liveness import ask_all

    return ask_all(
        {"database": lambda: supabase().ping(), "sign_in": lambda: tokens().ping(), "keys": lambda: vault().ping()}
    )


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
        tokens=token_refresher(),
        rules=Rules(addresses=egress_policy(), credentials=_CredentialRules(), mcp_stdio=read.mcp_stdio),
        limits=Limits(
            tests_per_minute=read.tests_per_minute,
            tests_per_day=read.tests_per_day,
            check_interval_s=read.check_interval_s,
            check_backoff_cap_s=read.check_backoff_cap_s,
            sweeps_commands=not read.on_lambda,
        ),
    )


def token_refresher() -> TokenRefresher:
    """Renews OAuth tokens; of a person's test and of a sweep alike."""
    from chalicelib.services.token_refresh import TokenRefresher
    from chalicelib.store.token_refreshes import TokenRefreshStore

    return TokenRefresher(store=TokenRefreshStore(supabase()), vault=vault(), ask=_ask_for_tokens)


def _ask_for_tokens(target: Target, grant: Grant) -> IssuedTokens | CheckResult:
    from chalicelib.egress.guard import Guard
    from chalicelib.probes.token_endpoint import TokenEndpoint, ask_for_tokens

    read = settings()
    guard = Guard(egress_policy(), connect_s=read.check_connect_s)
    endpoint = TokenEndpoint(guard, connect_s=read.check_connect_s, total_s=read.check_total_s)
    return ask_for_tokens(endpoint, target, grant)


def sweep(progress: Progress) -> Sweep:
    """One sweep, to be run once. Knows nothing of the API."""
    from chalicelib.jobs.sweep import Limits, Sweep

    read = settings()
    return Sweep(
        store=sweep_store(),
        vault=vault(),
        checker=prober(),
        tokens=token_refresher(),
        limits=Limits(
            batch=read.sweep_batch,
            lease_s=read.sweep_lease_s,
            work=read.sweep_work,
            slow=read.sweep_slow,
            per_host=read.sweep_per_host,
            total_s=read.check_total_s,
            interval_s=read.check_interval_s,
            backoff_cap_s=read.check_backoff_cap_s,
            commands=not read.on_lambda,
        ),
        progress=progress,
    )


def sweep_store() -> SweepStore:
    from chalicelib.store.sweeps import SweepStore

    return SweepStore(supabase())


def upkeep_store() -> UpkeepStore:
    from chalicelib.store.sweeps import UpkeepStore

    return UpkeepStore(supabase())


@cache
def tickets() -> TicketQueue | None:
    """The queue of the sweep, in deployments that have one."""
    from chalicelib.jobs.tickets import TicketQueue

    url = settings().sweep_queue_url
    return TicketQueue(url) if url else None


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
