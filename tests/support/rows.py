"""Rows for tests of the data layer, and calls of its functions, as the service makes them."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql

Connection = psycopg.Connection[Any]
Json = dict[str, Any]


def call(connection: Connection, function: str, /, **arguments: Any) -> Any:
    """What a function of schema `public` answers, called with named arguments as PostgREST does it."""
    named = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments
    )
    statement = sql.SQL("select public.{}({})").format(sql.Identifier(function), named)
    return one(connection, statement, arguments)


def one(connection: Connection, statement: Any, arguments: Any = None) -> Any:
    """The first column of the first row; None without a row."""
    row = connection.execute(statement, arguments).fetchone()
    return None if row is None else row[0]


def column(connection: Connection, statement: Any, arguments: Any = None) -> list[Any]:
    """The first column of all rows."""
    return [row[0] for row in connection.execute(statement, arguments).fetchall()]


def add_type(connection: Connection, **columns: Any) -> uuid.UUID:
    slug = f"type-{uuid.uuid4().hex}"
    columns = {"name": slug, "slug": slug, "type": "mcp", "category": "tests", **columns}
    found: uuid.UUID = _insert(connection, "integration_types", columns)
    return found


def add_integration(connection: Connection, user_id: uuid.UUID, type_id: uuid.UUID, **columns: Any) -> uuid.UUID:
    """Not scheduled: see :func:`schedule` and :func:`record`."""
    columns = {"user_id": user_id, "integration_type_id": type_id, "name": f"name {uuid.uuid4()}", **columns}
    found: uuid.UUID = _insert(connection, "user_integrations", columns)
    return found


def add_credential(connection: Connection, user_id: uuid.UUID, integration_id: uuid.UUID, **columns: Any) -> uuid.UUID:
    """A credential with noise for ciphertext, under the user's data key, which is made if it is missing."""
    key = one(connection, "select id from public.user_data_keys where user_id = %s", [user_id])
    if key is None:
        key = _insert(connection, "user_data_keys", {"id": uuid.uuid4(), "user_id": user_id, "wrapped_key": "bm9pc2U="})
    columns = {
        "id": uuid.uuid4(), "user_integration_id": integration_id, "user_id": user_id, "credential_type": "api_key",
        "encrypted_value": "bm9pc2U=", "data_key_id": key, "destination": "https://example.com:443", **columns,
    }  # fmt: skip
    found: uuid.UUID = _insert(connection, "integration_credentials", columns)
    return found


def _insert(connection: Connection, table: str, columns: Json) -> Any:
    statement = sql.SQL("insert into public.{} ({}) values ({}) returning id").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(map(sql.Placeholder, columns)),
    )
    return one(connection, statement, columns)


def schedule(connection: Connection, integration_id: uuid.UUID, user_id: uuid.UUID, at: datetime | None = None) -> None:
    """Have the sweep check it at that moment; by default it is due since a second ago."""
    connection.execute(
        "insert into public.integration_schedule (user_integration_id, user_id, next_check_at) "
        "values (%s, %s, coalesce(%s, now() - interval '1 second'))",
        [integration_id, user_id, at],
    )


def result(integration_id: uuid.UUID, *, success: bool = True, **fields: Any) -> Json:
    """A check's result in the form that the database records; by default a person's test, just now."""
    now = datetime.now(UTC).isoformat()
    return {
        "user_integration_id": str(integration_id),
        "source": "test",
        "intent": "test",
        "checked_at": now,
        "response_time_ms": 100,
        "success": success,
        "verdict": "ok" if success else "auth_rejected",
        "error_message": None if success else "It did not work.",
        "next_check_at": now,
        "steps": [],
        "shown": {"success": success},
        **fields,
    }


def record(connection: Connection, user_id: uuid.UUID, integration_id: uuid.UUID, **fields: Any) -> Any:
    """Record a person's check of the configuration that stands now."""
    version = one(connection, "select config_version from public.user_integrations where id = %s", [integration_id])
    row = result(integration_id, **{"config_version": version, **fields})
    return call(connection, "record_check", p_user_id=user_id, p_result=json.dumps(row, default=str))


def claim(connection: Connection, limit: int = 500, lease_s: int = 120) -> list[Json]:
    found: list[Json] = call(connection, "claim_due_checks", p_limit=limit, p_lease_s=lease_s)["checks"]
    return found


def record_claimed(connection: Connection, checks: list[Json], **fields: Any) -> list[str]:
    """Record one result for each claimed check; the ids that were recorded."""
    rows = [
        {
            **result(check["id"]), "user_id": check["user_id"], "lease_token": check["lease_token"],
            "source": "sweep", "intent": "sweep", **fields,
        }
        for check in checks
    ]  # fmt: skip
    found: list[str] = call(connection, "record_checks", p_results=json.dumps(rows, default=str))
    return found


def integration(connection: Connection, integration_id: uuid.UUID) -> Json:
    """Its row, with `next_check_at` and `lease_token` of its schedule (None if it has none)."""
    found: Json = one(
        connection,
        "select to_jsonb(i) || jsonb_build_object('next_check_at', s.next_check_at, 'lease_token', s.lease_token) "
        "from public.user_integrations i left join public.integration_schedule s on s.user_integration_id = i.id "
        "where i.id = %s",
        [integration_id],
    )
    return found


def logs(connection: Connection, integration_id: uuid.UUID) -> list[tuple[str, str, Json]]:
    """Event, message and metadata, oldest first."""
    return connection.execute(
        "select event_type, message, metadata from public.integration_logs where user_integration_id = %s "
        "order by created_at, event_type",
        [integration_id],
    ).fetchall()


def events(connection: Connection, integration_id: uuid.UUID) -> list[str]:
    return [event for event, _, _ in logs(connection, integration_id)]
