"""Rows as the text of ``supabase/seed.sql``: the same rows always give the same text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from catalogue.compiling import Row

_HEAD = """\
-- Compiled from catalogue/ by `make catalogue`. Change the entries there; this file is overwritten.
-- It may run any number of times: unchanged rows are not touched, entries that are gone become inactive but stay for
-- the integrations that use them, and a team's own rows (source 'custom') are left alone.
"""
_COLUMNS = (
    "id", "name", "slug", "type", "category", "description", "icon_type", "config_schema", "tags", "auth_methods",
    "definition", "source",
)  # fmt: skip
_CHANGING = tuple(column for column in _COLUMNS if column not in ("id", "slug"))


def seed_sql(rows: Iterable[Row]) -> str:
    """One statement that upserts by slug, one that retires what is gone."""
    ordered = sorted(rows, key=lambda row: row.slug)
    return "\n".join([_HEAD, _upsert(ordered, own=False), "", _retire(ordered), ""])


def own_types_sql(rows: Iterable[Row]) -> str:
    """One statement that upserts a team's own entries; nothing is retired, since others may come from plain SQL."""
    return _upsert(sorted(rows, key=lambda row: row.slug), own=True) + "\n"


def _upsert(rows: Sequence[Row], *, own: bool) -> str:
    lines = [f"insert into public.integration_types as t ({', '.join(_COLUMNS)}) values"]
    lines.append(",\n".join(f"({_values(row)})" for row in rows))
    lines.append("on conflict (slug) do update set")
    lines.append("  " + ", ".join(f"{column} = excluded.{column}" for column in _CHANGING) + ", is_active = true")
    lines.append(f"where t.source {'=' if own else '<>'} 'custom' and")
    old = ", ".join(f"t.{column}" for column in _CHANGING)
    new = ", ".join(f"excluded.{column}" for column in _CHANGING)
    lines.append(f"  ({old}, t.is_active) is distinct from\n  ({new}, true);")
    return "\n".join(lines)


def _retire(rows: Sequence[Row]) -> str:
    slugs = ", ".join(_text(row.slug) for row in rows)
    change = "update public.integration_types set is_active = false"
    return f"{change}\nwhere source <> 'custom' and is_active and slug not in ({slugs});"


def _values(row: Row) -> str:
    parts = [_literal(getattr(row, column)) for column in _COLUMNS]
    return ", ".join(parts)


def _literal(value: Any) -> str:
    if isinstance(value, dict):
        return _text(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) + "::jsonb"
    if isinstance(value, list):
        return "array[" + ", ".join(map(_text, value)) + "]::text[]"
    return _text(str(value))


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
