"""Commands as MCP servers: the policy, what a command gets to see, and that nothing of it is left behind."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import anyio
import pytest

from chalicelib.model import CheckResult, Verdict
from chalicelib.probes import run_check
from tests.peers.commands import TALKER, alive, script
from tests.peers.mcp_servers import everything
from tests.peers.targets import a_prober, a_target
from tests.sentences import assert_can_be_acted_on

MODES = ("full", "bare")


@pytest.fixture(scope="module", autouse=True)
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where commands get their temporary homes, for this module alone."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("homes")
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture
def token(homes: Path) -> Iterator[str]:
    """A word for the command line of every process of a test: none may be left, nor any temporary home."""
    word = f"leftover-{secrets.token_hex(8)}"
    yield word
    assert_gone(word, homes)


def assert_gone(word: str, homes: Path) -> None:
    ends = perf_counter() + 1
    while alive(word) and perf_counter() < ends:
        sleep(0.02)
    assert alive(word) == []
    assert list(homes.iterdir()) == []


def check(command: list[str], mode: str = "full", *, total_s: float = 5, **how: Any) -> CheckResult:
    prober = a_prober(total_s, mcp_stdio=how.pop("policy", "any"))
    config = {"protocol": "stdio", "command": command[0], "args": command[1:], **how.pop("config", {})}
    return run_check(prober, a_target(config=config, **how), mode)  # type: ignore[arg-type]


def told(result: CheckResult) -> str:
    return str(dict(result.capabilities or {}).get("server", {}).get("version"))


@pytest.mark.parametrize("mode", MODES)
def test_the_official_server_is_run_and_ended(mode: str, token: str) -> None:
    result = check([everything(), "stdio", token], mode)

    assert (result.verdict, result.steps[0].name) == (Verdict.OK, "policy")
    assert dict(result.capabilities or {})["server"]["name"] == "mcp-servers/everything"
    assert mode == "bare" or len(dict(result.capabilities or {})["tools"]) == 13


@pytest.mark.parametrize("policy", ["off", "catalogue", "any"])
@pytest.mark.parametrize("in_catalogue", [False, True])
def test_the_policy_holds_when_a_command_is_to_be_run(
    policy: str, in_catalogue: bool, tmp_path: Path, token: str
) -> None:
    command = [*script(tmp_path, TALKER.format(telling="0")), token]
    definition = {"mcp": {"protocol": "stdio", "command": command[0], "args": command[1:]}} if in_catalogue else {}
    result = check(command, policy=policy, definition=definition)

    allowed = policy == "any" or (policy == "catalogue" and in_catalogue)
    assert result.verdict is (Verdict.OK if allowed else Verdict.BLOCKED)
    assert allowed or result.steps[0].name == "policy"


def test_a_command_sees_its_own_variables_and_none_of_ours(
    tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPABASE_SECRET_KEY", "ours")
    command = [*script(tmp_path, TALKER.format(telling="sorted(os.environ)")), token]
    result = check(command, config={"env": {"PLAIN": "1"}}, secrets={"env.HIDDEN": "2"})

    names = eval(told(result).replace("null", "None"))
    assert set(names) == {"HIDDEN", "HOME", "INTEGRATION_CHECK", "LANG", "LC_CTYPE", "PATH", "PLAIN", "TMPDIR"} - (
        {"LC_CTYPE"} - set(names)
    )


@pytest.mark.parametrize(
    ("method", "given", "variables"),
    [
        ("api_key", {"api_key": "k"}, {"API_KEY": "k"}),
        ("basic", {"username": "u", "password": "p"}, {"USERNAME": "u", "PASSWORD": "p"}),
        ("jwt", {"jwt": "j"}, {"JWT": "j"}),
        ("oauth", {"access_token": "t", "refresh_token": "r"}, {"ACCESS_TOKEN": "t"}),
    ],
)
def test_the_credentials_of_the_method_become_variables(
    method: str, given: dict[str, str], variables: dict[str, str], tmp_path: Path, token: str
) -> None:
    names = ("API_KEY", "USERNAME", "PASSWORD", "JWT", "ACCESS_TOKEN", "REFRESH_TOKEN")
    telling = f"{{name: os.environ[name] for name in {names!r} if name in os.environ}}"
    command = [*script(tmp_path, TALKER.format(telling=telling)), token]

    assert eval(told(check(command, method=method, secrets=given))) == variables


def test_the_template_may_name_the_variable(tmp_path: Path, token: str) -> None:
    command = [*script(tmp_path, TALKER.format(telling="os.environ['ACME_KEY']")), token]
    definition = {"auth": {"api_key": {"place": {"in": "env", "name": "ACME_KEY"}}}}
    result = check(command, method="api_key", secrets={"api_key": "k"}, definition=definition)

    assert told(result) == '"k"'


def test_arguments_reach_the_command_as_they_are(tmp_path: Path, token: str) -> None:
    odd = ["$(id)", "; touch /tmp/x", "`id`", "a b", "*", "'", '"', "ü"]
    command = [*script(tmp_path, TALKER.format(telling="sys.argv[1:-1]")), *odd, token]

    assert eval(told(check(command))) == odd


def test_a_command_starts_in_an_empty_home_that_goes_away(tmp_path: Path, token: str) -> None:
    telling = "[os.getcwd() == os.environ['HOME'], os.listdir(), open('left', 'w').close(), os.getcwd()]"
    command = [*script(tmp_path, TALKER.format(telling=telling)), token]
    home = eval(told(check(command)).replace("true", "True").replace("null", "None"))

    assert home[:2] == [True, []]
    assert not Path(home[3]).exists()


def test_words_before_the_protocol_are_forgiven(token: str) -> None:
    for mode in MODES:
        command = ["sh", "-c", f"echo starting {token}; exec {everything()} stdio"]
        assert check(command, mode).verdict is Verdict.OK


FAULTS = {
    "exits at once": ("import sys; sys.exit(3)", Verdict.PROTOCOL, "exited with status 3"),
    "says why it exits": ("import sys; sys.exit('no such option: --x')", Verdict.PROTOCOL, "no such option"),
    "prints garbage": (
        "import time\nwhile True: print('garbage', flush=True); time.sleep(.2)",
        Verdict.PROTOCOL,
        "malformed JSON",
    ),
    "prints garbage and exits": ("print('garbage')", Verdict.PROTOCOL, "malformed JSON"),
    "stays silent": ("import time; time.sleep(60)", Verdict.TIMEOUT, "no answer in time"),
    "closes its output": ("import os, time; os.close(1); time.sleep(60)", Verdict.PROTOCOL, "closed its output"),
    "ignores SIGTERM": (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
        Verdict.TIMEOUT,
        "no answer in time",
    ),
    "floods": ("while True: print('x' * 65536)", Verdict.TOO_LARGE, "too large"),
    "floods without lines": ("import sys\nwhile True: sys.stdout.write('x' * 65536)", Verdict.TOO_LARGE, "too large"),
    "floods its errors": ("import sys\nwhile True: sys.stderr.write('x' * 65536)", Verdict.TIMEOUT, "no answer"),
    "answers another request": (
        "print('{\"jsonrpc\": \"2.0\", \"id\": 99, \"result\": {}}', flush=True); import time; time.sleep(60)",
        Verdict.PROTOCOL,
        "not sent",
    ),
    "forks": (
        "import os, time\nfor _ in range(5): os.fork()\ntime.sleep(60)",
        Verdict.TIMEOUT,
        "no answer in time",
    ),
    "leaves its session": (
        "import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0: time.sleep(60)\n os._exit(0)\n"
        "time.sleep(60)",
        Verdict.TIMEOUT,
        "no answer in time",
    ),
    "leaves its session and exits": (
        "import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0: time.sleep(60)\n os._exit(0)\n",
        Verdict.TIMEOUT,
        "no answer in time",
    ),
}  # fmt: skip


DEADLINE_S = 0.8


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, homes: Path) -> dict[tuple[str, str], tuple[CheckResult, float]]:
    """Every fault in both ways of checking, several at a time: the result, and how long it took."""
    folder, word = tmp_path_factory.mktemp("faults"), f"leftover-{secrets.token_hex(8)}"
    found: dict[tuple[str, str], tuple[CheckResult, float]] = {}

    async def check_one(fault: str, mode: str, limit: anyio.CapacityLimiter) -> None:
        command = [*script(folder, FAULTS[fault][0], f"{fault}.py".replace(" ", "-")), word]
        config = {"protocol": "stdio", "command": command[0], "args": command[1:]}
        async with limit:
            began = perf_counter()
            result = await a_prober(DEADLINE_S).check(a_target(config=config), mode=mode)  # type: ignore[arg-type]
            found[fault, mode] = result, perf_counter() - began

    async def check_all() -> None:
        limit = anyio.CapacityLimiter(3)
        async with anyio.create_task_group() as tasks:
            for fault in FAULTS:
                for mode in MODES:
                    tasks.start_soon(check_one, fault, mode, limit)

    anyio.run(check_all)
    assert_gone(word, homes)
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_a_command_does_it_is_judged_in_time_and_gone(
    outcomes: dict[tuple[str, str], tuple[CheckResult, float]], fault: str, mode: str
) -> None:
    _, verdict, detail = FAULTS[fault]
    result, took = outcomes[fault, mode]

    assert (result.verdict, result.steps[-1].ok) == (verdict, False)
    assert detail in str(result.steps[-1].detail)
    assert_can_be_acted_on(result.steps[-1].name, str(result.error_message))
    assert took < DEADLINE_S + 2


@pytest.mark.parametrize("command", ["/no/such/program", "no-such-program-anywhere", "/etc/hostname", "/"])
def test_a_command_that_cannot_start_is_the_owners_to_mend(command: str) -> None:
    for mode in MODES:
        assert check([command], mode).verdict is Verdict.MISCONFIGURED


@pytest.mark.parametrize("command", ["./server", "../server", "a\0b", "-c", ""])
def test_a_command_that_depends_on_where_it_runs_is_not_run(command: str) -> None:
    result = check([command])

    assert (result.verdict, result.steps[0].name) == (Verdict.MISCONFIGURED, "policy")


def test_a_symlinked_command_is_run_as_any_other(tmp_path: Path, token: str) -> None:
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    command = [str(link), *script(tmp_path, TALKER.format(telling="0"))[1:], token]

    assert check(command).success


def test_a_secret_that_a_command_prints_is_not_quoted(tmp_path: Path, token: str) -> None:
    key = secrets.token_urlsafe(24)
    text = "import os, sys; sys.exit('cannot use ' + os.environ['API_KEY'])"
    result = check([*script(tmp_path, text), token], method="api_key", secrets={"api_key": key})

    assert "cannot use …" in str(result.steps[-1].detail)
    assert key not in str(result.as_json())
