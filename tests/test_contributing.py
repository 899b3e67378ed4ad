"""CONTRIBUTING.md tells the truth: its examples are accepted, its files exist, its commands run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from catalogue.checking import mistakes_in
from catalogue.compiling import compiled
from catalogue.reading import read
from chalicelib.services.forms import with_form
from tests.conftest import Connection
from tests.support.postgres import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks("yaml"))))
def test_the_entries_it_shows_are_accepted_and_make_a_form(number: int, tmp_path: Path) -> None:
    text = blocks("yaml")[number]
    path = tmp_path / (re.findall(r"^slug: (.*)$", text, re.MULTILINE)[0] + ".yaml")
    path.write_text(text, encoding="utf-8")
    source = read(path, path.name)

    assert mistakes_in(source) == []
    row = compiled(source.data)
    assert row.definition["auth"]


def test_the_sql_it_shows_makes_types_that_ask_for_their_secrets(db: Connection) -> None:
    (statement,) = blocks("sql")
    db.execute(statement)  # type: ignore[arg-type]

    shown = {slug: asked(db, slug) for slug in ("our-tools", "our-erp")}
    assert shown["our-tools"] == {"env.OUR_TOKEN": "credentials", "env.REGION": "connection_config"}
    assert shown["our-erp"]["webhook_secret"] == "credentials"
    assert shown["our-erp"]["api_url"] == "connection_config"


def asked(db: Connection, slug: str) -> dict[str, str]:
    """Where each field goes that is not one of an auth method."""
    found: Any = db.execute("select public.get_integration_type(%s)", [slug]).fetchone()
    return {
        field["name"]: field["goes_to"]
        for field in with_form(found[0], "catalogue")["fields"]
        if "auth_method" not in field
    }


def test_the_mistake_it_shows_is_the_one_that_is_told(tmp_path: Path) -> None:
    path = tmp_path / "acme.yaml"
    path.write_text(blocks("yaml")[0].replace("category: crm", "category: crn"), encoding="utf-8")
    (shown,) = re.findall(r"^    (catalogue/acme.yaml:.*)$", TEXT, re.MULTILINE)

    (told,) = mistakes_in(read(path, "catalogue/acme.yaml"))
    assert str(told).startswith(shown.split("(")[0])


def test_every_file_it_names_exists() -> None:
    named = set(re.findall(r"(?:catalogue|tests|supabase)/[a-z_-]+\.(?:yaml|json|py|sql)", TEXT)) - {
        "catalogue/acme.yaml"
    }

    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_every_target_of_make_that_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    for target in set(re.findall(r"make ([a-z]+)", TEXT)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
