"""Entries are checked with words that help, and compiled to the same seed.sql every time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator

from catalogue.__main__ import FOLDER, SEED_FILE, rows_of, summary
from catalogue.checking import example_config, mistakes_in, schema
from catalogue.compiling import Row, compiled
from catalogue.reading import Mistakes, Source, read
from catalogue.seeding import seed_sql
from chalicelib.model import IntegrationType
from chalicelib.services.endpoints import config_problems, endpoint_of, required_credentials

ENTRIES = sorted(FOLDER.glob("*.yaml"))

VALID = """\
slug: acme
name: Acme
type: vendor
category: crm
description: Read and change the contacts of an Acme account.
tags: [contacts]
docs: {developer: "https://docs.acme.example"}
auth:
  api_key:
    fields:
      - {name: api_key, label: Secret key, example: ak_…, pattern: ^ak_}
    place: {in: header, name: X-Api-Key}
config:
  - {name: subdomain, label: Subdomain, example: acme, pattern: "^[a-z0-9-]+$"}
base_url: https://{subdomain}.acme.example
verify:
  path: /v1/me
proves:
  account: {path: user.name}
verified: {page: "https://docs.acme.example/auth"}
"""


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """``written(text)`` – the source of an entry with this text, in a file called acme.yaml."""

    def write(text: str) -> Source:
        file = tmp_path / "acme.yaml"
        file.write_text(text, encoding="utf-8")
        return read(file, "catalogue/acme.yaml")

    return write


def typed(row: Row) -> IntegrationType:
    return IntegrationType(row.id, row.slug, row.name, row.type, row.category, row.config_schema, row.definition)


def test_the_schema_is_a_schema_and_describes_every_field() -> None:
    Draft202012Validator.check_schema(schema())

    def silent(part: Any, path: str) -> list[str]:
        if not isinstance(part, dict):
            return []
        own = [path] if "type" in part and "description" not in part and "$ref" not in part else []
        children = [*part.get("properties", {}).items(), *part.get("$defs", {}).items()]
        children += [("[]", part["items"])] if isinstance(part.get("items"), dict) else []
        return own + [found for name, child in children for found in silent(child, f"{path}.{name}")]

    assert [path for path in silent(schema(), "") if not path.endswith("when.[]")] == []


def test_the_valid_entry_of_these_tests_is_valid(written: Any) -> None:
    assert mistakes_in(written(VALID)) == []


MISTAKES = {
    "category: crm": ("category: crn", 4, "write crm"),
    "tags: [contacts]": ("tag: [contacts]", 6, "write 'tags'"),
    "name: Acme\n": ("", 1, "lacks 'name'"),
    "slug: acme": ("slug: acme-crm", 1, "write 'acme'"),
    "type: vendor": ("type: Vendor", 3, "write vendor"),
    "description: Read and change the contacts of an Acme account.": ("description: A CRM.", 5, "what a user gets"),
    "place: {in: header, name: X-Api-Key}": ("place: {in: header}", 12, "lacks 'name'"),
    "in: header": ("in: body", 12, "write one of: header, bearer"),
    "name: api_key, label": ("name: api_token, label", 11, "write one of api_key"),
    "example: ak_…": ("example: ak_live_51", 10, "end the example with …"),
    "pattern: ^ak_": ("pattern: ^sk_", 11, "does not match"),
    'pattern: "^[a-z0-9-]+$"': ('pattern: "^[a-z0-9-+$"', 14, "no regular expression"),
    'example: acme, pattern: "^[a-z0-9-]+$"': ('example: acme, pattern: "[a-z0-9-]+"', 14, "'^[a-z0-9-]+$'"),
    "name: subdomain": ("name: region", 15, "add a field 'subdomain'"),
    "- {name: subdomain, label: Subdomain, example: acme": (
        "- {name: subdomain, label: Subdomain, example: a.b", 14, "does not match",
    ),
    "base_url: https://{subdomain}.acme.example": ("base_url: http://{subdomain}.acme.example", 15, "an https address"),
    "  path: /v1/me": ("  path: v1/me", 17, "for example \"/v1/me\""),
    "path: user.name": ("path: 'user..name'", 19, "no JMESPath"),
    "verified: {page": ("verified: {on: 24.11.2026, page", 20, "2026-11-24"),
    "verify:\n  path: /v1/me\n": ("", 1, "lacks 'verify'"),
    "name: Acme": ("name: Acme\nname: Acme 2", 3, "a second time"),
    "name: Acme\ntype": ("name: Acme: the CRM\ntype", 2, "in quotes"),
}  # fmt: skip


@pytest.mark.parametrize("right", MISTAKES, ids=lambda text: text.strip()[:40])
def test_a_mistake_is_reported_with_its_line_and_what_to_write_instead(written: Any, right: str) -> None:
    wrong, line, advice = MISTAKES[right]
    assert right in VALID

    try:
        found = mistakes_in(written(VALID.replace(right, wrong, 1)))
    except Mistakes as raised:
        found = raised.found

    told = [str(mistake) for mistake in found]
    assert any(text.startswith(f"catalogue/acme.yaml:{line}: ") and advice in text for text in told), told


def test_a_setting_that_looks_like_a_secret_is_refused(written: Any) -> None:
    found = mistakes_in(written(VALID.replace("subdomain", "access_token")))

    assert "make it a field of auth" in found[0].message


def test_words_that_yaml_1_1_takes_for_booleans_and_dates_are_texts(written: Any) -> None:
    source = written('on: no\nday: 2026-11-24\nyes: true\nempty:\nnumber: 12\nfloat: 1.5\nquoted: "12"\n')

    assert source.data == {
        "on": "no", "day": "2026-11-24", "yes": True, "empty": None, "number": 12, "float": 1.5, "quoted": "12",
    }  # fmt: skip


def test_all_mistakes_of_a_folder_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "acme.yaml").write_text(VALID.replace("category: crm", "category: crn").replace("type: v", "type: V"))
    (tmp_path / "other.yaml").write_text("slug: [")
    (tmp_path / "third.yml").write_text(VALID)

    with pytest.raises(Mistakes) as caught:
        rows_of(tmp_path)

    found = [Path(mistake.file).name for mistake in caught.value.found]
    assert sorted(found) == ["acme.yaml", "acme.yaml", "other.yaml", "third.yml"]


def test_the_form_of_a_method_is_complete_and_in_order(written: Any) -> None:
    entry = written(VALID).data
    entry["auth"]["oauth"] = {"fields": [{"name": "client_id", "label": "Consumer key"}, {"name": "header.X-App"}]}

    definition = compiled(entry).definition

    assert definition["auth"]["api_key"]["fields"] == [
        {
            "name": "api_key",
            "label": "Secret key",
            "help": "A key or token that the provider gave you.",
            "example": "ak_…",
            "pattern": "^ak_",
            "secret": True,
            "optional": False,
        }
    ]
    assert [(field["name"], field["label"], field["optional"]) for field in definition["auth"]["oauth"]["fields"]] == [
        ("access_token", "Access token", False),
        ("refresh_token", "Refresh token", True),
        ("client_id", "Consumer key", True),
        ("client_secret", "Client secret", True),
        ("header.X-App", "header.X-App", False),
    ]
    assert [field["name"] for field in definition["config_fields"]] == ["subdomain", "api_url"]
    assert definition["config_fields"][0] == {
        "name": "subdomain", "label": "Subdomain", "example": "acme", "pattern": "^[a-z0-9-]+$", "optional": False,
    }  # fmt: skip
    assert definition["config_fields"][1]["optional"]
    assert "default" not in definition["config_fields"][1]  # it would not be an address yet


def test_the_config_schema_uses_the_names_of_the_documentation(written: Any) -> None:
    vendor = compiled(written(VALID).data).config_schema
    command = compiled(read(FOLDER / "memory-mcp.yaml", "").data).config_schema
    remote = compiled(read(FOLDER / "linear-mcp.yaml", "").data).config_schema

    assert list(vendor["properties"]) == ["api_url", "api_version", "subdomain"]
    assert vendor["required"] == ["subdomain"]
    assert list(command["properties"]) == ["protocol", "command", "args", "env"]
    assert list(remote["properties"]) == ["protocol", "url"]


def test_ids_follow_from_slugs_and_never_change() -> None:
    assert compiled(read(FOLDER / "stripe.yaml", "").data).id == UUID("3da749b5-1d7a-5507-800a-c5f39db99c4b")


def test_the_seed_is_the_same_whatever_the_order_of_rows() -> None:
    rows = rows_of(FOLDER)

    assert seed_sql(rows) == seed_sql(list(reversed(rows)))


def test_seed_sql_is_up_to_date() -> None:
    assert SEED_FILE.read_text(encoding="utf-8") == seed_sql(rows_of(FOLDER)), "run `make catalogue`"


def test_the_summary_counts_by_type_category_and_method() -> None:
    text = summary(rows_of(FOLDER))

    assert f"{len(ENTRIES)} integration types" in text
    assert all(f"by {what}: " in text for what in ("type", "category", "auth method"))


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.stem)
def test_an_entry_leads_somewhere_with_its_own_examples(path: Path) -> None:
    entry = read(path, path.name).data
    row = compiled(entry)
    config = example_config(entry)

    endpoint = endpoint_of(typed(row), config)

    assert endpoint.kind in ("ssh", "stdio") or (endpoint.url or "").startswith("https://")
    for method in row.auth_methods:
        assert config_problems(typed(row), method, config) == []


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.stem)
def test_what_the_form_demands_is_what_a_check_needs(path: Path) -> None:
    row = compiled(read(path, path.name).data)

    for method, part in row.definition["auth"].items():
        demanded = {field["name"] for field in part["fields"] if not field["optional"]}
        needed = required_credentials(typed(row), method)
        assert all(set(group) & demanded for group in needed if not group[0].startswith("env."))


def test_no_entry_holds_a_whole_secret() -> None:
    for path in ENTRIES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"\b(sk|rk|pk|xox[bp]|ghp|glpat|pat|SG|hf|key)[-_.](?=[A-Za-z]*[0-9])[A-Za-z0-9]{12,}", text
        ), path.name


def test_the_definition_is_plain_json() -> None:
    for row in rows_of(FOLDER):
        assert json.loads(json.dumps(row.definition)) == row.definition
