"""Who may do what in our schemas: the expectation that tests hold against the catalog."""

from __future__ import annotations

from typing import Any

import psycopg

Connection = psycopg.Connection[Any]

#: Functions that each role of an API request may call, in both schemas. Trigger functions need no grant.
_OPEN = {
    "public.list_integration_types", "public.get_integration_type", "private.found_types", "private.type_detail",
}  # fmt: skip
_BOTH = {
    "public.prepare_write", "public.create_integration", "public.update_integration",
    "private.type_detail", "private.type_json", "private.recent_json", "private.integration_json",
    "private.integration_detail", "private.credentials_json", "private.like_pattern", "private.counts_json",
    "private.window_start", "private.rollups", "private.owns", "private.spend_test", "private.has_secret_key",
    "private.is_plain_config",
    "private.store_sealed", "private.remember_answer", "private.answer", "private.incident_json",
    "private.incidents_json",
}  # fmt: skip
FUNCTIONS: dict[str, set[str]] = {
    "anon": _OPEN,
    "authenticated": _OPEN | _BOTH | {
        "public.get_integration", "public.list_integrations", "public.get_health_summary", "public.get_overview",
        "public.list_integration_logs", "public.list_health_metrics", "public.list_credentials",
    },
    "service_role": _BOTH | {
        "public.sealed_credentials", "public.delete_credential", "public.set_integration_status", "public.log_event",
        "public.record_check", "public.record_checks", "public.claim_due_checks", "public.drop_history",
        "private.sealed_json", "private.status_after", "private.apply_results", "private.ensure_history",
        "private.write_log", "private.joined", "public.begin_key_rotation", "public.finish_key_rotation",
        "public.count_sealed", "public.list_data_keys", "public.rewrap_data_keys", "public.replace_data_keys",
        "public.list_sealed", "public.reseal_credentials", "public.forget_retired_keys", "public.count_due",
        "public.claim_refresh", "public.store_refreshed", "public.note_expiries", "public.forget_old", "private.has_vendor", "private.is_outage",
        "private.renews_itself", "private.note_providers", "private.open_incidents", "private.close_incidents",
    },
}  # fmt: skip

#: (table, role): what the role may do with every column.
TABLES: dict[tuple[str, str], set[str]] = {
    ("public.integration_types", "anon"): {"SELECT"},
    ("public.integration_types", "authenticated"): {"SELECT"},
    ("public.integration_types", "service_role"): {"SELECT", "INSERT", "UPDATE", "DELETE"},
    ("public.user_integrations", "authenticated"): {"SELECT", "DELETE"},
    ("public.user_integrations", "service_role"): {"SELECT", "INSERT", "UPDATE", "DELETE"},
    ("public.integration_schedule", "authenticated"): {"SELECT"},
    ("public.integration_schedule", "service_role"): {"SELECT", "INSERT", "UPDATE", "DELETE"},
    ("public.user_data_keys", "service_role"): {"SELECT", "INSERT", "UPDATE", "DELETE"},
    ("public.integration_credentials", "service_role"): {"SELECT", "INSERT", "UPDATE", "DELETE"},
    ("public.integration_logs", "authenticated"): {"SELECT"},
    ("public.integration_logs", "service_role"): {"SELECT", "INSERT"},
    ("public.integration_health_metrics", "authenticated"): {"SELECT"},
    ("public.integration_health_metrics", "service_role"): {"SELECT", "INSERT"},
    ("public.integration_health_hourly", "authenticated"): {"SELECT"},
    ("public.integration_health_hourly", "service_role"): {"SELECT", "INSERT", "UPDATE"},
    ("public.integration_health_daily", "authenticated"): {"SELECT"},
    ("public.integration_health_daily", "service_role"): {"SELECT", "INSERT", "UPDATE"},
    ("public.idempotency_keys", "authenticated"): {"SELECT", "DELETE"},
    ("public.idempotency_keys", "service_role"): {"SELECT", "INSERT", "DELETE"},
    ("public.provider_incidents", "service_role"): {"SELECT", "INSERT", "UPDATE"},
    ("private.provider_minutes", "service_role"): {"SELECT", "INSERT", "UPDATE", "DELETE"},
    ("private.provider_failures", "service_role"): {"SELECT", "INSERT", "UPDATE", "DELETE"},
    ("private.sweep_turns", "service_role"): {"SELECT", "INSERT", "UPDATE"},
    ("private.token_refreshes", "service_role"): {"SELECT", "INSERT", "UPDATE"},
    ("private.data_key_rotations", "service_role"): {"SELECT", "INSERT", "UPDATE"},
}

#: (table, role, command): the columns, where it is not all of them.
COLUMNS: dict[tuple[str, str, str], set[str]] = {
    ("public.user_integrations", "authenticated", "INSERT"): {
        "user_id", "integration_type_id", "name", "connection_config", "auth_method",
    },
    ("public.user_integrations", "authenticated", "UPDATE"): {"name", "connection_config", "auth_method"},
    ("public.integration_credentials", "authenticated", "SELECT"): {
        "id", "user_integration_id", "user_id", "credential_type", "destination", "hint", "expires_at",
        "last_rotated_at", "created_at",
    },
    ("public.idempotency_keys", "authenticated", "INSERT"): {"user_id", "key", "fingerprint", "response"},
}  # fmt: skip


def wrong_privileges(db: Connection) -> list[str]:
    """What is granted and should not be, and what should be and is not, on tables, columns, sequences and functions."""
    granted, expected = _granted(db), _expected()
    return sorted(
        [f"granted: {' '.join(grant)}" for grant in granted - expected]
        + [f"missing: {' '.join(grant)}" for grant in expected - granted]
    )


def _granted(db: Connection) -> set[tuple[str, ...]]:
    """All grants in our schemas but those to the owner itself."""
    return set(
        db.execute("""
            with grants as (
              select n.nspname, c.relname || coalesce('.' || attname, '') as name, a.grantee, a.privilege_type
              from pg_class c
              join pg_namespace n on n.oid = c.relnamespace
              left join pg_attribute on attrelid = c.oid and attacl is not null
              cross join lateral aclexplode(coalesce(attacl, relacl)) a
              where a.grantee <> c.relowner
              union all
              select n.nspname, c.relname, a.grantee, a.privilege_type
              from pg_class c join pg_namespace n on n.oid = c.relnamespace, aclexplode(relacl) a
              where a.grantee <> c.relowner
              union all
              select n.nspname, p.proname, a.grantee, a.privilege_type
              from pg_proc p join pg_namespace n on n.oid = p.pronamespace,
              aclexplode(coalesce(proacl, acldefault('f', proowner))) a
              where a.grantee <> p.proowner
            )
            select nspname || '.' || name, case grantee when 0 then 'PUBLIC' else grantee::regrole::text end, privilege_type
            from grants where nspname in ('public', 'private')
        """).fetchall()
    )


def _expected() -> set[tuple[str, ...]]:
    return (
        {(table, role, command) for (table, role), commands in TABLES.items() for command in commands}
        | {(f"{table}.{name}", role, command) for (table, role, command), names in COLUMNS.items() for name in names}
        | {(function, role, "EXECUTE") for role, functions in FUNCTIONS.items() for function in functions}
    )
