"""Searching the real catalogue as a new user would, through the function that the API calls, on a real Postgres."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from catalogue.__main__ import FOLDER, rows_of
from tests.conftest import AsRole, Connection
from tests.support.new_users import NEW_USERS
from tests.support.postgres import ROOT

ROWS = {row.slug: row for row in rows_of(FOLDER)}


@pytest.fixture
def search(db: Connection, as_role: AsRole) -> Iterator[Any]:
    """``search(typed, **filters)`` – the slugs of the first page, as a visitor finds them."""
    with as_role("anon") as visitor:
        yield lambda typed, **filters: [item["slug"] for item in page(visitor, typed, **filters)["items"]]


def page(db: Connection, typed: str | None, **filters: Any) -> dict[str, Any]:
    names = {"type": "p_type", "category": "p_category", "after": "p_after", "limit": "p_limit"}
    given = {"p_q": typed} | {names[name]: value for name, value in filters.items()}
    call = ", ".join(f"{name} => %({name})s" for name in given)
    found = db.execute(f"select public.list_integration_types({call})", given).fetchone()  # type: ignore[arg-type]
    assert found is not None
    answer: dict[str, Any] = found[0]
    return answer


def add(
    db: Connection, name: str, *, tags: list[str] | None = None, category: str = "crm", description: str = ""
) -> str:
    slug = name.lower().replace(" ", "-").replace(".", "-")
    db.execute(
        "insert into public.integration_types (name, slug, type, category, tags, description)"
        " values (%s, %s, 'vendor', %s, %s, %s)",
        [name, slug, category, tags or [], description],
    )
    return slug


@pytest.mark.parametrize("category", NEW_USERS)
def test_a_new_user_of_each_category_finds_something_to_connect(search: Any, category: str) -> None:
    typed, wanted = NEW_USERS[category]
    found = search(typed)

    assert ROWS[wanted].category == category
    assert wanted in found[:10], found


@pytest.mark.parametrize("slug", ROWS)
def test_every_entry_comes_first_by_its_name_and_by_its_slug(search: Any, slug: str) -> None:
    assert search(ROWS[slug].name)[0] == slug
    assert search(slug)[0] == slug


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("githbu", "github"), ("gihtub", "github"), ("strpie", "stripe"), ("slcak", "slack"), ("zendsk", "zendesk"),
        ("hubpsot", "hubspot"), ("google calender", "google-calendar"), ("cloudfalre", "cloudflare-api-mcp"),
        ("postgers", "neon-mcp"), ("microsft", "microsoft-learn-mcp"), ("anthropc", "anthropic"), ("shopfy", "shopify"),
    ],
)  # fmt: skip
def test_a_typing_error_still_finds_it(search: Any, typed: str, wanted: str) -> None:
    assert wanted in search(typed)[:8]


def test_exact_names_come_before_starts_before_words_before_tags_before_descriptions(db: Connection) -> None:
    order = [
        add(db, "Quince"),
        add(db, "Quince Cloud"),
        add(db, "Acme Quince"),
        add(db, "Acme Fruit", tags=["quince"]),
        add(db, "Acme Basket", description="Keeps every quince that you pick."),
    ]

    assert [item["slug"] for item in page(db, "quince")["items"]] == order
    assert [item["slug"] for item in page(db, "QUINCE")["items"]] == order
    assert [item["slug"] for item in page(db, "quinc")["items"]] == [*order[:2], *order[2:]]


def test_a_match_in_the_words_keeps_guesses_out(db: Connection) -> None:
    add(db, "Quince")
    add(db, "Quintet")

    assert [item["name"] for item in page(db, "quince")["items"]] == ["Quince"]
    assert [item["name"] for item in page(db, "quinze")["items"]] == ["Quince", "Quintet"]


def test_all_words_must_match_if_anything_matches_all_of_them(db: Connection) -> None:
    both = add(db, "Quince Jam", tags=["breakfast"])
    add(db, "Quince Tart", tags=["dessert"])

    assert [item["slug"] for item in page(db, "breakfast quince")["items"]] == [both]


def test_if_nothing_has_all_the_words_what_has_most_of_them_is_found(db: Connection) -> None:
    two = add(db, "Quince Jam", tags=["breakfast"])
    add(db, "Quince Tart", tags=["dessert"])

    found = [item["slug"] for item in page(db, "where is the quince for my breakfast meeting")["items"]]
    assert found[0] == two


def test_filters_combine_with_words_and_with_each_other(search: Any) -> None:
    assert search("github", type="mcp") == [slug for slug in search("github") if ROWS[slug].type == "mcp"]
    assert search("", type="mcp", category="payments") == sorted(
        (row.slug for row in ROWS.values() if (row.type, row.category) == ("mcp", "payments")),
        key=lambda slug: ROWS[slug].name.lower(),
    )
    assert search("stripe", category="crm") == []


def test_retired_entries_are_not_found(db: Connection) -> None:
    db.execute("update public.integration_types set is_active = false where slug = 'stripe'")

    assert "stripe" not in [item["slug"] for item in page(db, "stripe")["items"]]


@pytest.mark.parametrize("typed", [None, "s", "mcp", "own server", "githbu", "team meeting quince pizza", "pizza chat"])
@pytest.mark.parametrize("limit", [1, 7])
def test_pages_hold_everything_once_and_in_order(db: Connection, typed: str | None, limit: int) -> None:
    whole = [item["slug"] for item in page(db, typed, limit=1000)["items"]]
    seen: list[str] = []
    after = None
    while True:
        found = page(db, typed, limit=limit, after=after)
        seen += [item["slug"] for item in found["items"]]
        if found["next"] is None:
            break
        after = json.dumps(found["next"])

    assert seen == whole
    assert len(set(whole)) == len(whole) > 0


def test_an_entry_that_comes_or_goes_moves_no_other_between_pages(db: Connection) -> None:
    first = page(db, "mcp", limit=10)
    rest = [item["slug"] for item in page(db, "mcp", limit=1000)["items"]][10:]
    after = json.dumps(first["next"])

    add(db, "AAA MCP")
    db.execute("delete from public.integration_types where slug = %s", [first["items"][0]["slug"]])

    assert [item["slug"] for item in page(db, "mcp", limit=1000, after=after)["items"]] == rest


def plan(db: Connection, statement: str) -> str:
    db.execute("set local enable_seqscan = off")
    lines = db.execute(f"explain {statement}").fetchall()  # type: ignore[arg-type]
    return "\n".join(line for (line,) in lines)


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        ("lower(name) like 'git%'", "integration_types_by_name_start"),
        ("search_name @@ to_tsquery('simple', 'git:*')", "integration_types_search_name"),
        ("search_tags @@ to_tsquery('simple', 'git:*')", "integration_types_search_tags"),
        ("search @@ to_tsquery('simple', 'git:*')", "integration_types_search"),
        ("'githbu' operator(extensions.<%) search_typos", "integration_types_typos"),
    ],
)
def test_every_way_of_matching_has_its_index(db: Connection, condition: str, index: str) -> None:
    assert index in plan(db, f"select id from public.integration_types where {condition}")


def test_the_search_looks_at_active_types_only_although_it_runs_as_its_owner(db: Connection, as_role: AsRole) -> None:
    slug = add(db, "Quince")
    db.execute("update public.integration_types set is_active = false where slug = %s", [slug])
    for role in ("anon", "authenticated"):
        with as_role(role) as somebody:
            for typed in ("quince", "quinse", ""):
                call = "select id from private.found_types(null, null, %s, null, null, null, 1000)"
                ids = {found[0] for found in somebody.execute(call, [typed]).fetchall()}
                own = db.execute("select id from public.integration_types where slug = %s", [slug]).fetchall()
                assert not ids & {found[0] for found in own}


def test_only_the_api_may_call_the_search(db: Connection, as_role: AsRole) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), as_role("service_role") as service:
        service.execute("select * from private.found_types(null, null, '', null, null, null, 1)")


def test_the_measurement_runs() -> None:
    """A few rounds of ``python -m bench.catalogue``; what it measures is for people to read."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.catalogue", "--rounds", "1", "--entries", "50"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert "a typing error" in done.stdout
