"""What seed.sql does to a real database: the first time, again, and after an entry changed or went."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import Any, LiteralString, cast
from uuid import uuid4

import psycopg
import pytest

from catalogue.__main__ import FOLDER, SEED_FILE, rows_of
from catalogue.compiling import Row
from catalogue.seeding import own_types_sql, seed_sql
from local.postgres import wheel_programs
from tests.support.postgres import Database

COLUMNS = (
    "id, name, slug, type, category, description, icon_type, config_schema, tags, auth_methods, definition, source"
)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return rows_of(FOLDER)


def run(db: psycopg.Connection[Any], sql: str) -> None:
    db.execute(cast(LiteralString, sql))


def snapshot(db: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Every row with its version (``xmin`` changes when a row is written, even with the same values)."""
    return db.execute("select t.*, t.xmin::text from public.integration_types t order by slug").fetchall()


def row_of(db: psycopg.Connection[Any], slug: str) -> dict[str, Any]:
    cursor = db.execute("select * from public.integration_types where slug = %s", [slug])
    names = [column.name for column in cursor.description or ()]
    found = cursor.fetchone()
    assert found is not None
    return dict(zip(names, found, strict=True))


def test_every_entry_becomes_a_row_with_nothing_lost(db: psycopg.Connection[Any], rows: list[Row]) -> None:
    stored = db.execute(cast(LiteralString, f"select {COLUMNS} from public.integration_types order by slug")).fetchall()

    assert stored == [
        tuple(getattr(row, name) for name in COLUMNS.split(", ")) for row in sorted(rows, key=lambda row: row.slug)
    ]


def test_running_it_again_writes_no_row(db: psycopg.Connection[Any]) -> None:
    before = snapshot(db)

    run(db, SEED_FILE.read_text(encoding="utf-8"))

    assert snapshot(db) == before


def test_a_changed_entry_changes_only_its_row_and_keeps_its_id(db: psycopg.Connection[Any], rows: list[Row]) -> None:
    before = snapshot(db)
    changed = [replace(row, name="Stripe's") if row.slug == "stripe" else row for row in rows]

    run(db, seed_sql(changed))

    different = [new for old, new in zip(before, snapshot(db), strict=True) if old != new]
    assert len(different) == 1
    assert row_of(db, "stripe")["name"] == "Stripe's"
    assert row_of(db, "stripe")["id"] in {row[0] for row in before}


def test_an_entry_that_is_gone_becomes_inactive_and_returns_with_its_id(
    db: psycopg.Connection[Any], rows: list[Row]
) -> None:
    known = row_of(db, "stripe")

    run(db, seed_sql(row for row in rows if row.slug != "stripe"))
    retired = row_of(db, "stripe")
    run(db, seed_sql(rows))

    assert (retired["is_active"], retired["id"]) == (False, known["id"])
    assert row_of(db, "stripe")["is_active"]
    assert row_of(db, "stripe")["id"] == known["id"]


def test_a_teams_own_rows_are_left_alone(db: psycopg.Connection[Any], rows: list[Row]) -> None:
    insert = "insert into public.integration_types (name, slug, type, category) values (%s, %s, 'vendor', 'custom')"
    db.execute("delete from public.integration_types where slug = 'stripe'")
    db.execute(insert, ["Our Stripe", "stripe"])
    db.execute(insert, ["Our ERP", "our-erp"])

    run(db, seed_sql(rows))

    assert row_of(db, "stripe")["name"] == "Our Stripe"
    assert row_of(db, "our-erp")["is_active"]


def test_own_entries_replace_own_rows_but_never_builtin_ones(db: psycopg.Connection[Any], rows: list[Row]) -> None:
    stripe = next(row for row in rows if row.slug == "stripe")
    own = [replace(stripe, name="Ours", source="custom"), replace(stripe, id=uuid4(), slug="our-erp", source="custom")]

    run(db, own_types_sql(own))
    run(db, own_types_sql([replace(own[1], name="Renamed")]))

    assert row_of(db, "stripe")["name"] == "Stripe"
    assert row_of(db, "our-erp")["name"] == "Renamed"


def test_quotes_backslashes_and_non_ascii_arrive_as_they_were_written(
    db: psycopg.Connection[Any], rows: list[Row]
) -> None:
    stripe = next(row for row in rows if row.slug == "stripe")
    odd = "it's \\ \"quoted\"; -- $$ %s {é…}\n''"
    changed = replace(stripe, description=odd, tags=[odd], definition={odd: [odd]})

    run(db, seed_sql([changed]))

    stored = row_of(db, "stripe")
    assert (stored["description"], stored["tags"], stored["definition"]) == (odd, [odd], {odd: [odd]})


def test_psql_runs_it_without_a_word(database: Database) -> None:
    done = subprocess.run(
        [
            wheel_programs() / "bin" / "psql",
            database.dsn(),
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            f"--file={SEED_FILE}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
