"""Speaking to Supabase: one pooled HTTP client a process; each call as a user, as anybody, or as the service."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn, cast

import httpx
from postgrest import APIError, SyncPostgrestClient

from chalicelib.errors import (
    AppError,
    ChangedMeanwhile,
    IntegrationNotFound,
    Invalid,
    NameTaken,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from chalicelib.model import Secret
from chalicelib.settings import Settings

#: Calls made to Supabase for the request at work, for its log line and the bench.
round_trips: contextvars.ContextVar[int] = contextvars.ContextVar("round_trips", default=0)

TIMEOUT = httpx.Timeout(8.0, connect=2.0, pool=2.0)
_DOWN = "The database cannot be reached at the moment. Nothing was changed; try again shortly."

_UNREADABLE = "The database gave an answer that cannot be read. Try again shortly; if it stays so, tell the operator."

#: How much one may keep (``supabase/migrations``, bounds).
_FULL = {
    "too_many_credentials": "An integration keeps 40 credentials at most, of 192 KiB together. Delete one first.",
    "too_many_keys": "You used 2,000 idempotency keys within a day, which is the most. Leave the header out, or wait.",
    "too_many_integrations": "You have 50,000 integrations, which is the most. Delete some first.",
}


class AnswerKept(AppError):
    """Another request with the same idempotency key has stored its answer first."""


class Supabase:
    """The database of one project. Connects on first use; safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http = httpx.Client(
            timeout=TIMEOUT, trust_env=False, limits=httpx.Limits(max_connections=64, max_keepalive_connections=32)
        )

    def as_user(self, token: Secret) -> Caller:
        """Row level security sees the user whose access token this is."""
        return self._caller(self._settings.supabase_publishable_key, token.reveal())

    def as_anybody(self) -> Caller:
        return self._caller(self._settings.supabase_publishable_key, None)

    def as_service(self) -> Caller:
        """Past row level security: every statement has to carry the owner's id."""
        return self._caller(self._settings.supabase_secret_key.reveal(), None)

    def close(self) -> None:
        self._http.close()

    def ping(self) -> None:
        """Return if the database answers a question about the catalogue; else raise ``Unavailable``."""
        self.as_anybody().call("get_integration_type", p_slug="ping")

    def _caller(self, api_key: str, bearer: str | None) -> Caller:
        # Keys of the new form (sb_…) are only valid as `apikey`; those of the old form are tokens themselves.
        bearer = bearer or (api_key if api_key.startswith("eyJ") else None)
        headers = {"apikey": api_key} | ({"Authorization": f"Bearer {bearer}"} if bearer else {})
        return Caller(
            SyncPostgrestClient(self._settings.rest_url, headers=headers, http_client=self._http, retry_enabled=False)
        )


class Caller:
    """One identity's calls."""

    def __init__(self, client: SyncPostgrestClient) -> None:
        self._client = client

    def call(self, function: str, **params: Any) -> Any:
        """The JSON that a database function returns, which is no text. Raises our errors only."""
        return _send(lambda: _document(self._client.rpc(function, params).execute().data))

    def moment(self, function: str) -> datetime:
        """The moment that a database function returns."""
        return cast(datetime, _send(lambda: datetime.fromisoformat(str(self._client.rpc(function, {}).execute().data))))

    def delete(self, table: str, **equal: str) -> list[Any]:
        """Delete the rows that match; returns their ids."""
        query = self._client.from_(table).delete()
        for column, value in equal.items():
            query = query.eq(column, value)
        return list(_send(lambda: query.select("id").execute().data))


def _document(data: Any) -> Any:
    """The client gives a text where the body was no JSON."""
    if isinstance(data, str):
        raise ValueError("no JSON")
    return data


def _send(request: Any) -> Any:
    round_trips.set(round_trips.get() + 1)
    try:
        return request()
    except APIError as error:
        _raise_ours(error)
    except httpx.HTTPError:
        raise Unavailable(_DOWN) from None  # the cause may hold a URL with a caller's words in it
    except (ValueError, RecursionError):
        raise Unavailable(_UNREADABLE) from None  # an answer that is no JSON, or none that can be read


def _raise_ours(error: APIError) -> NoReturn:
    """The database's refusals as ours. Its own texts hold SQL and values, so they go no further."""
    code, message = str(error.code or ""), str(error.message or "")
    if code == "PT404":
        raise IntegrationNotFound from None
    if code == "PT409":
        raise ChangedMeanwhile from None
    if code == "PT429":
        raise _too_many_tests(message, error.details) from None
    if code == "PT422":
        raise Invalid(_FULL.get(message, "The database refused this request."), code=message) from None
    if code == "23505" and "user_integrations_name" in message:
        raise NameTaken from None
    if code == "23505" and "idempotency_keys" in message:
        raise AnswerKept("kept") from None
    if code[:2] in ("22", "23", "54"):  # bad data, a broken rule, more than the database can take in
        raise Invalid("The database refused a value of this request.", code="refused_by_database") from None
    if code.startswith("PGRST3") or code == "42501":
        # The token passed our own check a moment ago: it expired meanwhile, or the project's keys changed.
        raise Unauthenticated from None
    raise Unavailable(_DOWN) from None


def _too_many_tests(limit: str, seconds: object) -> RateLimited:
    span = "today" if limit == "tests_per_day" else "this minute"
    wait = int(str(seconds)) if str(seconds).isdigit() else 60
    return RateLimited(f"You have used up your tests of connections for {span}. Try again later.", wait, code=limit)


def plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Without the entries that are None, so that the database's own defaults hold."""
    return {name: value for name, value in params.items() if value is not None}
