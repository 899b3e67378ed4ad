"""The function that runs commands for the API: what goes to it and comes back, what it refuses, what it hides."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import secrets
import subprocess
import sys
from typing import Any

import anyio
import pytest

from chalicelib.errors import Unavailable
from chalicelib.jobs import stdio_runner
from chalicelib.model import CheckResult, Target, Verdict
from chalicelib.probes import stdio_remote
from chalicelib.probes.stdio_remote import LambdaRunner, answer_of, payload_of, request_in, result_in
from tests.peers.mcp_servers import everything
from tests.peers.targets import a_target
from tests.support.answers_all import AnswersAll
from tests.support.app import environment

SECRET = secrets.token_hex(12)
PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4


def catalogue_target(*command: str, **config: Any) -> Target:
    """Of a type that fixes the command; its owner gave a secret to put into its environment."""
    definition = {"mcp": {"protocol": "stdio", "command": command[0], "args": list(command[1:])}}
    return a_target("mcp", {"protocol": "stdio", **config}, definition=definition, secrets={"env.TOKEN": SECRET})


@pytest.fixture
def run_command() -> Any:
    """The deployed function; afterwards this process may be looked into again."""
    yield lambda target, mode="full", seconds=10.0: stdio_runner.run_command(payload_of(target, mode, seconds), None)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    logging.basicConfig(force=True, level=logging.WARNING)


@pytest.mark.parametrize("mode", ["full", "bare"])
def test_a_command_of_the_catalogue_is_run_and_its_result_comes_back(run_command: Any, mode: str) -> None:
    answer = json.loads(json.dumps(run_command(catalogue_target(everything(), "stdio"), mode)))
    result = result_in(answer)

    assert result.verdict is Verdict.OK
    assert dict(result.capabilities or {})["server"]["name"] == "mcp-servers/everything"
    assert answer_of(result) == answer


def test_a_command_that_its_type_does_not_fix_is_refused(run_command: Any) -> None:
    target = a_target("mcp", {"protocol": "stdio", "command": everything(), "args": ["stdio"]})

    assert run_command(target)["verdict"] == "blocked"


def test_nothing_but_commands_is_checked(run_command: Any) -> None:
    with pytest.raises(ValueError, match="connects to nothing"):
        run_command(a_target("mcp", {"protocol": "http", "url": "https://mcp.example.com/"}))


def test_a_command_cannot_look_into_the_function_that_runs_it(run_command: Any) -> None:
    run_command(catalogue_target(everything(), "stdio"), "bare")

    assert ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0


def test_a_target_survives_the_way_with_all_that_belongs_to_it() -> None:
    target = catalogue_target("npx", "-y", "server", env={"LOG": "1"})
    sent = json.loads(json.dumps(payload_of(target, "bare", 7.5)))

    assert request_in(sent) == (target, "bare", 7.5)


def checked_away(server: AnswersAll) -> CheckResult:
    aws = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-central-1"}
    with environment(aws | {"AWS_ENDPOINT_URL": server.url}):
        return anyio.run(LambdaRunner("integrations-dev-stdio_runner"), catalogue_target("npx"), "full", 5.0)


def test_the_api_invokes_the_function_and_gets_its_result() -> None:
    answer = {
        "verdict": "rate_limited", "response_time_ms": 7, "error_message": "Later.", "retry_after_s": 30,
        "checked_at": "2026-01-02T03:04:05Z", "capabilities": None, "success": False,
        "steps": [{"name": "call", "ok": False, "ms": 7, "detail": "HTTP 429"}],
    }  # fmt: skip
    with AnswersAll(200, answer) as aws:
        result = checked_away(aws)

    ((path, body),) = aws.asked
    assert path == "/2015-03-31/functions/integrations-dev-stdio_runner/invocations"
    assert json.loads(body)["secrets"] == {"env.TOKEN": SECRET}
    assert answer_of(result) == answer


@pytest.mark.parametrize(
    ("status", "answer", "headers"),
    [
        (200, {"errorMessage": f"{SECRET} timed out"}, {"X-Amz-Function-Error": "Unhandled"}),
        (429, {"message": f"slow down {SECRET}"}, {"X-Amzn-ErrorType": "TooManyRequestsException"}),
        (200, {"verdict": "fine"}, {}),
        (200, [], {}),
    ],
    ids=["it failed", "it is throttled", "nonsense", "no object"],
)
def test_a_runner_without_a_result_is_our_fault_and_tells_nothing(
    status: int, answer: Any, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with AnswersAll(status, answer, headers) as aws, pytest.raises(Unavailable) as raised:
        checked_away(aws)

    assert len(aws.asked) == 1, "a command is not run twice"
    assert SECRET not in caplog.text + str(raised.value)


def test_boto3_does_not_print_what_the_runner_is_sent() -> None:
    script = (
        "import logging, sys; logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)\n"
        "import tests.test_stdio_runner as here\n"
        "with here.AnswersAll(429, {}) as aws:\n"
        "    try: here.checked_away(aws)\n"
        "    except here.Unavailable: print(here.SECRET in aws.asked[0][1].decode(), file=sys.stderr)\n"
        "    print(here.SECRET[::-1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."}, check=True
    )
    secret = done.stdout.splitlines()[-1][::-1]

    assert done.stderr.strip().endswith("True")
    assert secret not in done.stdout


def test_the_longest_check_answers_before_the_gateway_gives_up() -> None:
    longest_check_s, gateway_s = 25, 29

    assert longest_check_s + stdio_remote.BESIDES_S < gateway_s
