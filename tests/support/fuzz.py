"""Generated requests against the published document: schemathesis, all its checks, signed in and with things to find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from local.api import serve
from local.processes import free_port
from tests.support.app import environment
from tests.support.rows import add_integration, one
from tests.support.stack import Stack
from tests.support.vendor import GOOD_KEY, Vendor

ROOT = Path(__file__).resolve().parents[2]
OWN_INTEGRATIONS = 300  # more than are deleted on the way
LIMIT_S = 900

# No check is switched off. What the hooks let pass of one of them, they say.
CONFIG = """
hooks = "tests.support.fuzz_hooks"
continue-on-failure = true
max-redirects = 0
warnings = false
[cache]
enabled = false
[generation]
deterministic = true
database = "none"
allow-x00 = false
[reports]
directory = "{folder}"
[reports.json]
path = "{folder}/report.json"
[auth.wfc]
path = "{folder}/users.json"
peers = ["owner", "stranger"]
"""


@dataclass(frozen=True)
class Outcome:
    """``failures`` are titles with the operations that they were seen on; ``output`` tells how to repeat each."""

    requests: int
    failures: dict[str, list[str]]
    output: str
    complete: bool


@dataclass(frozen=True)
class World:
    url: str
    tokens: dict[str, str]
    facts: dict[str, Any]


@contextmanager
def fuzzed_world(stack: Stack) -> Iterator[World]:
    """The app served on loopback, with two users; one of them has integrations, and a vendor that answers."""
    owner, token = stack.new_user()
    _, other_token = stack.new_user()
    settings = {"MCP_STDIO": "off", "TESTS_PER_MINUTE": "10000", "TESTS_PER_DAY": "1000000"}
    with Vendor() as vendor, environment(stack.environment() | settings):
        facts = {
            "integrations": [str(each) for each in _integrations(stack, owner, vendor.url)],
            "config": {"api_url": vendor.url},
            "credentials": {"api_key": GOOD_KEY},
        }
        server = serve(free_port())
        try:
            yield World(server.url, {"owner": token, "stranger": other_token}, facts)
        finally:
            server.stop()


def _integrations(stack: Stack, owner: UUID, vendor_url: str) -> list[UUID]:
    with stack.database.connect() as connection:
        type_id = one(connection, "select id from public.integration_types where slug = 'custom-vendor'")
        config = json.dumps({"api_url": vendor_url})
        return [
            add_integration(connection, owner, type_id, name=f"mine {n}", connection_config=config)
            for n in range(OWN_INTEGRATIONS)
        ]


def fuzz(world: World, folder: Path, *, examples: int) -> Outcome:
    """Send ``examples`` requests of each kind to each operation, the same ones each time; ``folder`` takes the files."""
    users = [
        {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {token}"}]}
        for name, token in world.tokens.items()
    ]
    (folder / "users.json").write_text(json.dumps({"auth": users}))
    (folder / "schemathesis.toml").write_text(CONFIG.format(folder=folder))
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "--config-file", folder / "schemathesis.toml"),
            *("run", f"{world.url}/openapi.json", "--checks", "all", "--max-examples", str(examples)),
        ],
        cwd=ROOT,
        env=os.environ | {"FUZZ_FACTS": json.dumps(world.facts), "NO_COLOR": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    output = done.stdout + done.stderr
    assert (folder / "report.json").exists(), output
    report = json.loads((folder / "report.json").read_text())
    failures = {each["title"]: each["operations"] for each in report["failures"]}
    failures |= {f"error: {each}": [] for each in report["errors"]}
    return Outcome(report["test_cases"]["generated"], failures, output, report["complete"])
