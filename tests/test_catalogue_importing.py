"""Entries from the public MCP registry's format, and a team's own folder, through the command that people type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
import pytest

from catalogue.__main__ import FOLDER, main, own_rows_of
from catalogue.checking import example_config, mistakes_in
from catalogue.compiling import compiled
from catalogue.reading import read
from chalicelib.model import AuthMethod, IntegrationType
from chalicelib.services.endpoints import config_problems, endpoint_of

CASES = Path(__file__).parent / "cases" / "server_json"


def imported(name: str, into: Path, *options: str) -> dict[str, Any]:
    """The entry that ``import`` makes of a case, read as the compiler reads it."""
    before = set(into.iterdir())
    assert main(["import", str(CASES / f"{name}.json"), "--into", str(into), *options]) == 0
    (made,) = set(into.iterdir()) - before
    source = read(made, made.name)
    assert source.data["slug"] == made.stem
    entry: dict[str, Any] = source.data
    return entry


def reviewed(entry: dict[str, Any], into: Path) -> IntegrationType:
    """What a reviewer must add is the category; then it compiles and leads somewhere."""
    path = into / f"{entry['slug']}.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("\ntype: mcp\n", "\ntype: mcp\ncategory: developer-tools\n"), encoding="utf-8")
    source = read(path, path.name)
    assert mistakes_in(source) == []
    row = compiled(source.data)
    return IntegrationType(row.id, row.slug, row.name, row.type, row.category, row.config_schema, row.definition)


@pytest.mark.parametrize("name", sorted(path.stem for path in CASES.glob("*.json")))
def test_only_the_category_is_missing_from_what_is_imported(name: str, tmp_path: Path) -> None:
    entry = imported(name, tmp_path)
    before = [str(mistake) for mistake in mistakes_in(read(tmp_path / f"{entry['slug']}.yaml", "new.yaml"))]
    assert len(before) == 1
    assert "lacks 'category'" in before[0]

    type = reviewed(entry, tmp_path)

    config = example_config(read(tmp_path / f"{entry['slug']}.yaml", "").data)
    for method in type.definition["auth"]:
        assert config_problems(type, AuthMethod(method), config) == []
    assert endpoint_of(type, config)
    assert "verified" in entry
    assert "on" not in entry["verified"]  # nobody has read the page yet


def test_a_remote_server_keeps_its_address_and_prefers_streamable_http(tmp_path: Path) -> None:
    entry = imported("neon", tmp_path)

    assert (entry["slug"], entry["name"]) == ("neon-mcp", "Neon")
    assert entry["mcp"] == {"protocol": "http", "url": "https://mcp.neon.tech/mcp"}
    assert entry["docs"] == {"developer": "https://neon.tech/docs/ai/neon-mcp-server"}
    assert [*entry["auth"]] == ["api_key", "oauth"]
    assert entry["auth"]["api_key"]["place"] == {"in": "bearer"}


def test_a_required_header_is_the_only_way_in(tmp_path: Path) -> None:
    entry = imported("apify", tmp_path)

    assert entry["auth"] == {
        "api_key": {
            "fields": [{"name": "api_key", "label": "API key", "help": "An API token of Apify"}],
            "place": {"in": "bearer"},
        }
    }


def test_what_the_file_does_not_say_is_told_and_not_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = imported("figma", tmp_path)
    shown = capsys.readouterr().out
    text = (tmp_path / "figma-mcp.yaml").read_text(encoding="utf-8")

    assert entry["auth"] == {"oauth": {}, "none": {}}
    for note in ("write the category", "keep oauth if the server asks for it", "add the day to verified"):
        assert note in shown
        assert f"# review: {note}" in text or note in text


def test_headers_that_are_no_secrets_are_sent_or_named_in_the_review(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert imported("tenant", tmp_path)["headers"] == {"X-Client": "catalogue"}
    imported("neon", tmp_path)

    assert "the header x-read-only is left out: true offers only tools that read" in capsys.readouterr().out


def test_variables_of_an_address_become_settings(tmp_path: Path) -> None:
    entry = imported("tenant", tmp_path)
    type = reviewed(entry, tmp_path)

    assert entry["config"] == [
        {"name": "tenant_id", "label": "Tenant id", "help": "Your tenant's name", "example": "acme"},
        {"name": "region", "label": "Region", "help": "Where your data is", "choices": ["eu", "us"], "default": "eu"},
    ]
    assert entry["auth"]["api_key"]["place"] == {"in": "header", "name": "X-Api-Key"}
    endpoint = endpoint_of(type, {"tenant_id": "acme", "region": "us"})
    assert endpoint.url == "https://acme.api.example.com/us/mcp"
    assert endpoint.headers == {"X-Client": "catalogue"}


@pytest.mark.parametrize(
    ("name", "command", "args"),
    [
        ("context7", "npx", ["-y", "@upstash/context7-mcp@1.0.26"]),
        ("browserbase", "npx", ["-y", "@browserbasehq/mcp-server-browserbase@2.1.1"]),
        ("pagerduty", "uvx", ["pagerduty-mcp@0.2.1", "--enable-write-tools"]),
        (
            "github",
            "docker",
            ["run", "-i", "--rm", "-e", "GITHUB_PERSONAL_ACCESS_TOKEN", "ghcr.io/github/github-mcp-server:1.0.0"],
        ),
    ],
)
def test_a_package_becomes_a_command_with_its_version_pinned(
    name: str, command: str, args: list[str], tmp_path: Path
) -> None:
    entry = imported(name, tmp_path)

    assert (entry["mcp"]["protocol"], entry["mcp"]["command"], entry["mcp"]["args"]) == ("stdio", command, args)


def test_variables_of_a_package_are_asked_for_and_secret_ones_stay_secret(tmp_path: Path) -> None:
    browserbase, pagerduty = imported("browserbase", tmp_path), imported("pagerduty", tmp_path)

    assert browserbase["mcp"]["env"] == [
        {"name": "BROWSERBASE_API_KEY", "label": "Browserbase api key", "help": "Your Browserbase API key", "secret": True},
        {"name": "BROWSERBASE_PROJECT_ID", "label": "Browserbase project id", "help": "Your Browserbase project"},
    ]  # fmt: skip
    host = pagerduty["mcp"]["env"][1]
    assert (host["default"], host["optional"]) == ("https://api.pagerduty.com", True)
    assert imported("github", tmp_path)["mcp"]["env"] == [
        {
            "name": "GITHUB_PERSONAL_ACCESS_TOKEN",
            "label": "Github personal access token",
            "help": "A personal access token",
            "secret": True,
        }
    ]


def test_the_default_of_a_variable_reaches_the_command(tmp_path: Path) -> None:
    type = reviewed(imported("pagerduty", tmp_path), tmp_path)

    assert endpoint_of(type, {}).env == {"PAGERDUTY_API_HOST": "https://api.pagerduty.com"}
    given = {"PAGERDUTY_API_HOST": "https://api.eu.pagerduty.com"}
    assert endpoint_of(type, {"env": given}).env == given


def test_arguments_that_users_give_leave_the_command_to_them(tmp_path: Path) -> None:
    entry = imported("filesystem", tmp_path)

    assert entry["mcp"] == {"protocol": "stdio"}
    assert entry["config"][1]["example"] == ["-y", "@modelcontextprotocol/server-filesystem@2026.1.14", "<folder>"]


def test_a_server_that_is_offered_in_several_ways_names_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = imported("postman", tmp_path)
    shown = capsys.readouterr().out
    (tmp_path / "postman-mcp.yaml").unlink()
    local = imported("postman", tmp_path, "--local")

    assert remote["mcp"]["url"] == "https://mcp.postman.com/mcp"
    assert "also offered as the package @postman/postman-mcp-server" in shown
    assert "also offered as https://mcp.eu.postman.com/mcp" in shown
    assert local["mcp"]["command"] == "npx"


def test_a_file_that_exists_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "neon-mcp.yaml").write_text("mine")

    assert main(["import", str(CASES / "neon.json"), "--into", str(tmp_path)]) == 0

    assert (tmp_path / "neon-mcp.yaml").read_text() == "mine"
    assert "compare the two by hand" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "line", "advice"),
    [
        (None, 1, "cannot be read"),
        ('{\n  "name": }', 2, "this is not JSON"),
        ('{"name": "a/b"}', 1, "there is no server here"),
        ("[]", 1, "there is no server here"),
        ('"text"', 1, "there is no server here"),
    ],
)
def test_what_is_no_server_json_is_told_with_its_line(
    content: str | None, line: int, advice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "server.json"
    if content is not None:
        path.write_text(content)

    assert main(["import", str(path), "--into", str(tmp_path)]) == 1

    told = capsys.readouterr().err
    assert f"server.json:{line}: " in told
    assert advice in told


def test_a_package_that_nothing_here_runs_is_not_connected(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    packages = [{"registryType": "mcpb", "identifier": "https://example.com/a.mcpb", "transport": {"type": "stdio"}}]
    path.write_text(json.dumps({"name": "com.example/a", "description": "Something", "packages": packages}))

    main(["import", str(path), "--into", str(tmp_path)])

    assert "# review: no remote server and no package" in (tmp_path / "a-mcp.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("com.neon/mcp", "neon-mcp"), ("io.github.upstash/context7", "context7-mcp"), ("com.figma.mcp/mcp", "figma-mcp"),
        ("com.monday/monday.com", "monday-com-mcp"), ("io.github.a/B_c.server", "b-c-mcp"), ("mcp/mcp", "server-mcp"),
    ],
)  # fmt: skip
def test_names_of_the_registry_become_slugs(name: str, slug: str, tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    path.write_text(json.dumps({"name": name, "remotes": [{"type": "sse", "url": "https://a.example/sse"}]}))

    main(["import", str(path), "--into", str(tmp_path)])

    assert [each.stem for each in tmp_path.glob("*.yaml")] == [slug]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A team's folder with one private entry."""
    text = (FOLDER / "custom-vendor.yaml").read_text(encoding="utf-8")
    text = text.replace("slug: custom-vendor", "slug: our-erp").replace("name: Custom HTTP API", "name: Our ERP", 1)
    (tmp_path / "our-erp.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_teams_own_entries_compile_to_sql_for_its_own_database(
    own: Path, db: psycopg.Connection[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["own", str(own)]) == 0
    assert "1 integration types" in capsys.readouterr().out
    sql = (own / "own-types.sql").read_text(encoding="utf-8")

    for _ in range(2):
        db.execute(cast(LiteralString, sql))

    stored = db.execute("select name, source, is_active from integration_types where slug = 'our-erp'").fetchall()
    assert stored == [("Our ERP", "custom", True)]


def test_the_folder_may_be_named_by_a_setting(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATALOGUE_FOLDER", str(own))

    assert main(["own"]) == 0
    assert (own / "own-types.sql").exists()


def test_an_own_entry_must_not_take_the_name_of_one_of_ours(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "stripe.yaml").write_text((FOLDER / "stripe.yaml").read_text(encoding="utf-8"), encoding="utf-8")

    assert main(["own", str(own)]) == 1
    assert "stripe.yaml:1: the catalogue has an entry of this name already" in capsys.readouterr().err


def test_a_mistake_of_an_own_entry_is_told_like_ours(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own / "our-erp.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("category: custom", "category: costum"), encoding="utf-8")

    assert main(["own", str(own)]) == 1
    assert 'our-erp.yaml:4: category cannot be "costum": write custom' in capsys.readouterr().err


def test_an_empty_folder_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["own", str(tmp_path)]) == 1
    assert "there is no entry here" in capsys.readouterr().err


def test_own_rows_are_custom_whatever_they_say(own: Path) -> None:
    assert [row.source for row in own_rows_of(own)] == ["custom"]
