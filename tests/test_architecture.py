"""Rules about the code itself: who may import whom, and what a cold start may load."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chalicelib.jobs.tickets import TICKET
from local.processes import bare_environment
from tests.support.events import queue_event, request_event
from tests.support.rows import add_integration, one, schedule
from tests.support.stack import Stack

ROOT = Path(__file__).resolve().parents[1]
DRIVERS = {"chalice", "boto3", "botocore", "postgrest", "supabase", "httpx", "httpx2", "mcp", "asyncssh"}
LAYERS = {"api", "probes", "vault", "egress", "store", "jobs"}


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever it stands, but for those of type checking alone."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_by(folder: str) -> set[str]:
    files = list((ROOT / folder).rglob("*.py"))
    assert files, f"no sources in {folder}"
    return {name for file in files for name in imports_of(file)}


def packages(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def layers(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("chalicelib.")}


def test_services_know_no_framework_no_driver_and_no_layer_but_their_own() -> None:
    names = imported_by("chalicelib/services")

    assert not packages(names) & DRIVERS
    assert layers(names) <= {"services", "model", "errors"}


@pytest.mark.parametrize("module", ["model", "errors", "settings"])
def test_words_rules_and_names_need_the_standard_library_only(module: str) -> None:
    names = packages(set(imports_of(ROOT / f"chalicelib/{module}.py")))

    assert names <= sys.stdlib_module_names | {"chalicelib"}


@pytest.mark.parametrize("layer", ["vault", "egress", "store", "probes"])
def test_adapters_do_not_know_the_edge_the_wiring_or_the_framework(layer: str) -> None:
    names = imported_by(f"chalicelib/{layer}")

    assert not layers(names) & {"api", "jobs", "wiring"}
    assert "chalice" not in packages(names)


def test_only_probes_know_the_guard_among_the_adapters() -> None:
    for layer in ("vault", "store"):
        assert not layers(imported_by(f"chalicelib/{layer}")) & (LAYERS - {layer})


def test_the_edge_reaches_adapters_through_the_wiring_only() -> None:
    assert not layers(imported_by("chalicelib/api")) & {"vault", "egress", "store", "probes", "jobs"}


def test_only_the_wiring_builds_adapters() -> None:
    builders = [
        file.relative_to(ROOT).as_posix()
        for file in [ROOT / "app.py", *(ROOT / "chalicelib").rglob("*.py")]
        if file.parent.name not in ("store", "vault", "egress")
        and any(
            name in text
            for text in [file.read_text()]
            for name in ("Supabase(", "Vault(", "Guard(", "Prober(", "KmsKeys(", "LocalKeys(", "TokenVerifier(")
        )
    ]

    classes = {"chalicelib/api/tokens.py", "chalicelib/probes/check.py"}  # where two of them are defined
    assert set(builders) - classes == {"chalicelib/wiring.py"}


def test_the_app_assembles_in_under_a_hundred_lines() -> None:
    assert len((ROOT / "app.py").read_text().splitlines()) < 100


def modules_after(script: str, env: dict[str, str] | None = None) -> set[str]:
    """What a fresh interpreter has loaded when the script is through."""
    code = f"{script}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = {
    "mcp",
    "boto3",
    "botocore",
    "asyncssh",
    "httpx2",
    "jsonschema",
    "supabase",
    "realtime",
    "storage3",
    "supabase_auth",
}


def test_importing_the_app_loads_nothing_that_the_first_request_does_not_need() -> None:
    assert not packages(modules_after("import app")) & HEAVY


FIRST_REQUEST = """
import json, sys
import app
answer = app.app(json.loads(sys.argv[1]), None)
assert answer["statusCode"] == 200, answer
"""


@pytest.mark.parametrize("path", ["/integration-types", "/integrations"])
def test_the_first_request_loads_nothing_that_it_does_not_need(stack: Stack, path: str) -> None:
    event = request_event("GET", path, token=stack.new_user()[1])
    script = FIRST_REQUEST.replace("sys.argv[1]", repr(json.dumps(event)))

    loaded = packages(modules_after(script, bare_environment() | stack.environment()))

    assert not loaded & HEAVY
    assert {"postgrest", "httpx", "pydantic"} <= loaded


@pytest.mark.parametrize("module", ["handlers", "stdio_runner", "rotation"])
def test_what_aws_starts_besides_the_api_does_not_load_the_api(module: str) -> None:
    loaded = modules_after(f"import chalicelib.jobs.{module}")

    assert not {name for name in loaded if name == "app" or name.startswith("chalicelib.api")}
    assert not packages(loaded) & HEAVY


WORK = """
import json, sys
from chalicelib.jobs import handlers
class context:
    get_remaining_time_in_millis = staticmethod(lambda: 60_000)
assert handlers.work(json.loads(EVENT), context) == {"batchItemFailures": []}
"""


def test_a_worker_that_has_worked_has_not_loaded_the_api(stack: Stack) -> None:
    user_id, _ = stack.new_user()
    with stack.database.connect() as connection:
        vendor = one(connection, "select id from public.integration_types where slug = 'custom-vendor'")
        config = json.dumps({"api_url": "http://127.0.0.1:9/"})
        how = {"connection_config": config, "is_connected": True, "status": "connected"}
        schedule(connection, add_integration(connection, user_id, vendor, **how), user_id)
    script = WORK.replace("EVENT", repr(json.dumps(queue_event([TICKET]))))

    loaded = modules_after(script, bare_environment() | stack.environment())

    assert "chalicelib.probes.vendor" in loaded, "it has checked something"
    assert not {name for name in loaded if name == "app" or name.startswith("chalicelib.api")}
    assert not packages(loaded) & {"mcp", "boto3", "asyncssh", "supabase", "supabase_auth", "storage3", "realtime"}
