"""How fast is the search of the catalogue in the database, with our entries and with 5,000 more? Target: under 5 ms."""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg

from tests.support.new_users import NEW_USERS
from tests.support.postgres import Cluster, Database

RESULTS = Path(__file__).with_name("results")

#: Invented vendors: names of two or three syllables and a word, words from a stock as large as real descriptions have.
SYLLABLES = [
    first + middle + last for first in "bcdfghklmnprstvwz" for middle in "aeiou" for last in ("", "n", "r", "x")
]
WORDS_TEXT = """
account alert api app archive asset audit backup billing board booking bucket build calendar campaign card cart case
channel chat cloud code commerce contact content contract customer dashboard data database deal delivery deploy design
document domain email employee event expense feature file finance flag form forecast gateway identity image incident
index insight inventory invoice issue journal key label lead ledger license log mail map market media meeting message
metric model monitor note notification order page payment payroll person pipeline plan point policy post price product
profile project queue quote record region release report repository request review role rule sale schedule search
secret segment sensor server service session shipment shop signal site space sprint store stream subscription support
survey task tax team template test ticket token trace transaction transfer trip user vault video view voice warehouse
webhook widget workflow workspace
"""
WORDS = WORDS_TEXT.split()

QUERIES = {
    "no words": None,
    "an exact name": "Stripe",
    "the start of a name": "git",
    "one letter": "s",
    "a word of descriptions": "invoice",
    "two words": "issue track",
    "a typing error": "sentri",
    "a name with a typing error": "cloudfalre",
    "nothing like it": "qqqqzzzz",
    "a long sentence": "where do i keep the invoices of my customers and their payments",
}
CALL = "select public.list_integration_types(p_q => %s, p_limit => 50)"


def fill(database: Database, entries: int) -> None:
    chance = random.Random(7)
    categories = [
        "ai",
        "analytics",
        "calendar",
        "commerce",
        "crm",
        "databases",
        "email",
        "finance",
        "payments",
        "support",
    ]
    rows = []
    for number in range(entries):
        name = "".join(chance.choices(SYLLABLES, k=chance.choice((2, 3)))).title() + " " + chance.choice(WORDS).title()
        tags = chance.sample(WORDS, 6)
        text = "Read and change " + ", ".join(chance.sample(WORDS, 8)) + f" of an account at {name}."
        rows.append((name, f"made-{number}", "vendor", chance.choice(categories), text, tags))
    with database.connect(autocommit=True) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into public.integration_types (name, slug, type, category, description, tags) values (%s, %s, %s, %s, %s, %s)",
            rows,
        )
        connection.execute("vacuum (analyze) public.integration_types")


def timed(connection: psycopg.Connection[Any], typed: str | None, rounds: int) -> tuple[float, float, float, int]:
    """Least (what the work takes), median and 95th percentile in ms of the call, and the rows of the first page."""
    took = []
    found: Any = None
    for _ in range(rounds):
        began = time.perf_counter()
        found = connection.execute(CALL, [typed]).fetchone()
        took.append((time.perf_counter() - began) * 1000)
    took.sort()
    return took[0], statistics.median(took), took[int(len(took) * 0.95)], len(found[0]["items"])


def measure(database: Database, title: str, rounds: int) -> list[str]:
    lines = [title, f"  {'query':30} {'least':>9} {'median':>9} {'p95':>9}  first page"]
    with database.connect() as connection:
        connection.execute("select set_config('role', 'anon', false)")
        for name, typed in QUERIES.items():
            least, median, high, rows = timed(connection, typed, rounds)
            lines.append(f"  {name:30} {least:6.2f} ms {median:6.2f} ms {high:6.2f} ms  {rows}")
    return lines


def first_finds(database: Database) -> list[str]:
    """What a new user of each category finds first."""
    lines = ["what new users find"]
    with database.connect() as connection:
        for category, (typed, _) in NEW_USERS.items():
            found: Any = connection.execute(CALL, [typed]).fetchone()
            names = [item["name"] for item in found[0]["items"][:4]]
            lines.append(f"  {category:20} {typed:32} {', '.join(names)}")
    return lines


def scans(plan: str) -> list[str]:
    """How the table is reached, and how long each statement takes."""
    return [line for line in plan.splitlines() if "on integration_types" in line or line.startswith("duration")]


def plans(database: Database) -> list[str]:
    """What the planner does inside the function: auto_explain tells of nested statements."""
    lines: list[str] = []
    with psycopg.connect(database.cluster.server.dsn(database.name)) as connection:
        connection.add_notice_handler(lambda notice: lines.extend(scans(notice.message_primary or "")))
        for setting in (
            "load 'auto_explain'", "set auto_explain.log_min_duration = 0", "set auto_explain.log_analyze = on",
            "set auto_explain.log_nested_statements = on", "set client_min_messages = 'log'", "set role anon",
        ):  # fmt: skip
            connection.execute(cast(LiteralString, setting))
        for name, typed in QUERIES.items():
            lines.append(f"== {name}: {typed!r}")
            connection.execute(CALL, [typed])
    return lines


def report(entries: int = 5_000, rounds: int = 200, keep_plans: bool = False) -> None:
    cluster = Cluster()
    cluster.start()
    try:
        database = cluster.migrated_database()
        print("\n".join(first_finds(database)), flush=True)
        print("\n".join(measure(database, "entries: our own", rounds)), flush=True)
        fill(database, entries)
        print("\n".join(measure(database, f"entries: our own and {entries:,} more", rounds)), flush=True)
        if keep_plans:
            RESULTS.joinpath("catalogue-plans.txt").write_text("\n".join(plans(database)) + "\n", encoding="utf-8")
    finally:
        cluster.stop()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.catalogue", description=__doc__)
    parser.add_argument("--entries", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--plans", action="store_true", help="keep the plans in bench/results/catalogue-plans.txt")
    chosen = parser.parse_args(arguments)
    report(chosen.entries, chosen.rounds, chosen.plans)


if __name__ == "__main__":
    main(sys.argv[1:])
