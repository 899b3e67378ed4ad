"""Starting programs so that nothing of them is left."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local.processes import CannotStart, Child, free_port, require_free
from tests.support.processes import ends


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    return tmp_path / "logs/program.log"


def test_what_a_program_started_ends_with_it(log: Path) -> None:
    child = Child("A shell", ["sh", "-c", "sleep 600 & echo $!; wait"], log=log)
    child.wait_until(lambda: log.read_text() != "")
    grandchild = psutil.Process(int(log.read_text()))
    child.stop()

    assert not psutil.pid_exists(child.pid)
    assert ends(grandchild)


def test_a_program_that_will_not_stop_is_ended_all_the_same(log: Path) -> None:
    child = Child("A shell", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 600; done"], log=log)
    child.wait_until(lambda: log.read_text() != "")
    child.grace_s = 0.2
    child.stop()

    assert not psutil.pid_exists(child.pid)


def test_stopping_twice_is_harmless(log: Path) -> None:
    child = Child("A shell", ["sh", "-c", "exit 0"], log=log)
    child.stop()
    child.stop()


def test_a_program_that_fails_says_why(log: Path) -> None:
    child = Child("The thing", ["sh", "-c", "echo no license >&2; exit 3"], log=log)

    with pytest.raises(CannotStart, match=r"The thing ended with status 3\.(.|\n)*no license"):
        child.wait_until(lambda: False)


def test_a_program_that_never_answers_is_not_waited_for_without_end(log: Path) -> None:
    child = Child("The thing", ["sleep", "600"], log=log)

    with pytest.raises(CannotStart, match="The thing did not answer within"):
        child.wait_until(lambda: False, seconds=0.1)
    child.stop()


def test_only_the_owner_reads_a_programs_log(log: Path) -> None:
    log.parent.mkdir()
    log.write_text("of an earlier run")
    log.chmod(0o644)
    child = Child("A shell", ["sh", "-c", "exit 0"], log=log)
    child.stop()

    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert log.read_text() == ""


def test_a_program_sees_only_the_environment_that_it_is_given(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "made-up")
    child = Child("env", ["/usr/bin/env"], log=log, env={"GIVEN": "yes"})
    child.wait_until(lambda: log.read_text() != "")
    child.stop()

    assert log.read_text() == "GIVEN=yes\n"


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(CannotStart, match=f"Port {port} is taken, and the API needs it"):
            require_free(port, "the API")


def test_a_free_port_is_let_be() -> None:
    require_free(free_port(), "the API")
