"""What a function of Lambda writes: JSON and nothing but JSON, also of libraries and of failures, and what starts it."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.alarms import KEY_ERROR_PATTERN
from local.processes import bare_environment

ROOT = Path(__file__).resolve().parents[1]
SECRET = secrets.token_hex(12)
ON_LAMBDA = {
    "AWS_LAMBDA_FUNCTION_NAME": "integrations-test",
    "AWS_REGION": "eu-central-1",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "SUPABASE_URL": "https://project.example",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x",
    "SUPABASE_SECRET_KEY": "sb_secret_x",
    "KMS_KEY_ID": "alias/x",
}
#: As Lambda's own runtime does before it loads anything of ours.
RUNTIME = """
import logging, sys
logging.basicConfig(format="[%(levelname)s]\\t%(message)s", stream=sys.stdout)
"""


def run(script: str, **changed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUNTIME + script],
        cwd=ROOT,
        env={**bare_environment(), **ON_LAMBDA, **changed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def lines(script: str, **changed: str) -> list[dict[str, Any]]:
    done = run(script, **changed)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_our_lines_stay_as_they_are_and_others_are_wrapped() -> None:
    told = lines(
        "from chalicelib import wiring; wiring.start()\n"
        "logging.getLogger('integrations').info('{\"event\": \"request\"}')\n"
        "logging.getLogger('some.library').warning('careful: %s', 'x')\n"
        "logging.getLogger('some.library').info('chatter')\n"
    )

    assert told == [
        {"event": "request"},
        {"event": "log", "level": "WARNING", "logger": "some.library", "message": "careful: x"},
    ]


def test_an_exception_is_told_by_its_type_and_never_by_its_text() -> None:
    (line,) = lines(
        "from chalicelib import wiring; wiring.start()\n"
        f"try: raise ValueError('{SECRET}')\n"
        "except ValueError: logging.getLogger('some.library').exception('it broke')\n"
    )

    assert line["error"] == "ValueError"
    assert SECRET not in json.dumps(line)


def test_a_failing_key_service_writes_what_the_alarm_counts() -> None:
    (line,) = lines(
        "from chalicelib import wiring; wiring.start()\n"
        "from chalicelib.errors import Unavailable\n"
        "from uuid import uuid4\n"
        "try: wiring.vault().new_key(uuid4())\n"
        "except Unavailable: pass\n",
        KMS_ENDPOINT_URL="http://127.0.0.1:1",
    )

    assert f'{{ $.logger = "{line["logger"]}" }}' == KEY_ERROR_PATTERN


def test_a_function_with_bad_settings_does_not_start_and_names_them_all() -> None:
    failed = run("import app", SUPABASE_URL="", MCP_STDIO="any")

    assert failed.returncode != 0
    assert "SUPABASE_URL is missing" in failed.stderr
    assert "MCP_STDIO=any is refused on Lambda" in failed.stderr


def test_commands_never_run_beside_secrets() -> None:
    failed = run("import app", MCP_STDIO="catalogue")

    assert "MCP_STDIO=catalogue needs STDIO_RUNNER_FUNCTION" in failed.stderr


def test_while_the_store_of_secrets_is_down_a_function_starts_and_says_when_to_come_back() -> None:
    script = (
        "import json, app\n"
        "from tests.support.events import request_event\n"
        "answer = app.app(request_event('GET', '/integration-types'), None)\n"
        "print(json.dumps([answer['statusCode'], answer['headers']['Retry-After'], json.loads(answer['body'])['code']]))"
    )
    told = lines(
        script,
        SUPABASE_SECRET_KEY="",
        SUPABASE_SECRET_KEY_PARAMETER="/integrations/test/key",
        AWS_ENDPOINT_URL_SSM="http://127.0.0.1:1",
    )

    assert told[-1] == [503, "5", "unavailable"]
    assert {line["logger"] for line in told[:-1] if line["event"] == "log"} == {"chalicelib.store.parameters"}


@pytest.mark.parametrize(
    "module", ["app", "chalicelib.jobs.handlers", "chalicelib.jobs.rotation", "chalicelib.jobs.stdio_runner"]
)
def test_garbage_is_not_collected_while_a_function_loads_and_is_afterwards(module: str) -> None:
    script = f"import gc, chalicelib; during = gc.isenabled(); import {module}; print([during, gc.isenabled()])"

    assert run(script).stdout == "[False, True]\n"
    assert run(script, AWS_LAMBDA_FUNCTION_NAME="").stdout == "[True, True]\n"
