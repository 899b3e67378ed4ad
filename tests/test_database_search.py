"""Searching the catalogue: what people type, and what attackers type; on the newest and the oldest Postgres."""

from __future__ import annotations

import json
import random
import string
from typing import Any

import pytest

from tests.conftest import AsRole, Connection
from tests.support.rows import Json, add_type, call
from tests.support.versions import on_both_versions

TYPES: dict[str, Json] = {
    "github": {"name": "GitHub", "type": "vendor", "category": "developer-tools", "tags": ["git", "code hosting"],
               "description": "Repositories, issues and pull requests."},
    "gitlab": {"name": "GitLab", "type": "vendor", "category": "developer-tools", "tags": ["git"],
               "description": "DevOps platform with repositories and pipelines."},
    "sentry": {"name": "Sentry", "type": "mcp", "category": "monitoring", "tags": ["errors"],
               "description": "Finds the errors of your application before your users do."},
    "notion": {"name": "Notion", "type": "mcp", "category": "productivity", "description": "Notes, documents and wikis."},
    "google-drive": {"name": "Google Drive", "type": "vendor", "category": "storage", "description": "Files in the cloud."},
    "node-js": {"name": "Node.js registry", "type": "custom", "category": "developer-tools", "description": "Packages."},
    "cafe": {"name": "Café Zürich", "type": "custom", "category": "food", "description": "Orders at https://cafe.example/a."},
}  # fmt: skip


database = on_both_versions()


@pytest.fixture
def catalogue(db: Connection) -> Connection:
    """A catalogue of exactly TYPES, and one retired type."""
    db.execute("delete from integration_types")
    for slug, columns in TYPES.items():
        add_type(db, slug=slug, **columns)
    add_type(db, slug="gone", name="GitHub Gone", is_active=False)
    return db


def _search(db: Connection, q: str | None = None, **arguments: Any) -> list[str]:
    return [item["slug"] for item in call(db, "list_integration_types", p_q=q, **arguments)["items"]]


#: What somebody types, and the type that must come first.
WANTED = {
    "github": ["GitHub", "github", "  GITHUB  ", "git", "gith", "githbu", "hosting", "issues", "repositories", "repository"],
    "gitlab": ["gitla", "pipelines", "devops"],
    "sentry": ["sentr", "sentri", "monitoring", "errors", "application", "the errors of your application"],
    "notion": ["noti", "notoin", "productivity", "wikis", "wiki", "documents"],
    "google-drive": ["drive", "google drive", "google-drive", "drive google", "files in the cloud"],
    "node-js": ["node.js", "Node", "packages"],
    "cafe": ["café", "CAFÉ", "zürich"],
}  # fmt: skip


def test_what_people_type_finds_what_they_mean(catalogue: Connection) -> None:
    """Beginnings of words, typing errors, other forms of a word, categories, tags and descriptions."""
    found = {
        slug: [typed for typed in queries if _search(catalogue, typed)[:1] == [slug]]
        for slug, queries in WANTED.items()
    }

    assert found == WANTED


def test_the_exact_name_comes_before_better_known_words(catalogue: Connection) -> None:
    add_type(catalogue, slug="git", name="Git", category="x", description="Git.")

    assert _search(catalogue, "git")[0] == "git"
    assert _search(catalogue, "github")[0] == "github"


@pytest.mark.parametrize("typed", ["", "   ", None])
def test_nothing_typed_lists_everything_by_name(catalogue: Connection, typed: str | None) -> None:
    assert _search(catalogue, typed) == ["cafe", "github", "gitlab", "google-drive", "node-js", "notion", "sentry"]


@pytest.mark.parametrize(("arguments", "found"), [
    ({"p_type": "mcp"}, ["notion", "sentry"]),
    ({"p_category": "developer-tools"}, ["github", "gitlab", "node-js"]),
    ({"p_type": "vendor", "p_category": "developer-tools"}, ["github", "gitlab"]),
    ({"p_type": "mcp", "p_category": "developer-tools"}, []),
    ({"p_type": "vendor", "q": "drive"}, ["google-drive"]),
    ({"p_type": "mcp", "q": "drive"}, []),
], ids=str)  # fmt: skip
def test_filters_narrow_a_search(catalogue: Connection, arguments: Json, found: list[str]) -> None:
    assert _search(catalogue, **arguments) == found


def test_what_matches_nothing_finds_nothing(catalogue: Connection) -> None:
    assert _search(catalogue, "xylophone") == []


def test_retired_types_are_not_found(catalogue: Connection, as_role: AsRole) -> None:
    for role in ("anon", "authenticated"):
        with as_role(role):
            assert "gone" not in _search(catalogue, "github gone")
            assert call(catalogue, "get_integration_type", p_slug="gone") is None
            assert call(catalogue, "get_integration_type", p_slug="github")["name"] == "GitHub"


HOSTILE = [
    "'", '"', "\\", "%", "_", "&", "|", "!", ":", "*", "(", ")", "<->", ":*", "a:*", "!a", "a & | b", "((((", "a <2> b",
    "'; drop table integration_types; --", "git' | 'x", "git:* & !hub", "\t\n\r", "\u200b\u202e", "😀", "ｇｉｔ", "İ", "ß",
    "a" * 10_000, "a " * 5_000, "& " * 5_000, "'" * 10_000, "é" * 10_000, " ".join(map(str, range(2_000))), "git-" * 2_500,
    "http://" + "a" * 5_000 + ".example/x", "\ud7ff\ue000\uffff",
]  # fmt: skip


def test_no_query_is_an_error(catalogue: Connection, as_role: AsRole) -> None:
    pick = random.Random(1)
    alphabet = string.printable + "éßİ😀\u0300\u202e"
    mixtures = ["".join(pick.choices(alphabet, k=pick.randint(1, 40))) for _ in range(200)]
    with as_role("anon"):
        for query in HOSTILE + mixtures:
            assert len(_search(catalogue, query)) <= 7, ascii(query)


@pytest.mark.parametrize("typed", [None, "git", "githbu"])
@pytest.mark.parametrize("limit", [1, 2, 100])
def test_the_pages_of_a_search_hold_every_type_once_and_in_order(
    catalogue: Connection, typed: str | None, limit: int
) -> None:
    for number in range(5):
        add_type(catalogue, name="Git same rank", slug=f"same-{number}")
    whole = _search(catalogue, typed, p_limit=1000)

    seen: list[str] = []
    after = None
    while len(seen) <= len(whole):
        page = call(catalogue, "list_integration_types", p_q=typed, p_after=after, p_limit=limit)
        seen += [item["slug"] for item in page["items"]]
        if page["next"] is None:
            break
        after = json.dumps(page["next"])

    assert seen == whole
    assert len(whole) == len(set(whole)) > 0
