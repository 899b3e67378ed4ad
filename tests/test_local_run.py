"""`make run`, as a person or a script starts and stops it; with a small app in place of the product."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from local.processes import free_port, listens
from local.state import forget
from tests.support.postgres import ROOT
from tests.support.processes import ends

APP = """
from chalice.app import Chalice
app = Chalice("tiny")

@app.route("/integrations")
def integrations():
    return {"items": [], "authorization": app.current_request.headers["authorization"][:10]}
"""
MAIN = """
import sys
from pathlib import Path
from local.run import main
sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
"""
Start = Callable[..., "Run"]


class Run:
    """`python -m local.run` on ports and in a folder of the test's."""

    def __init__(self, folder: Path, *, ignoring: signal.Signals | None = None, **environment: str) -> None:
        self.state, self.api_port, self.supabase_port = folder / "state", free_port(), free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, str(self.state), str(self.api_port), str(self.supabase_port)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=ignoring and (lambda: signal.signal(ignoring, signal.SIG_IGN)),
        )

    def read_until(self, words: str) -> str:
        """What it says up to the line with these words, or all of it if they do not come."""
        said = ""
        for line in self.process.stdout or ():
            said += line
            if words in line:
                break
        return said

    def programs(self) -> list[psutil.Process]:
        """Everything that it has started: Supabase is its child, Postgres is nobody's."""
        server = int((self.state / "postgres/data/postmaster.pid").read_text().split()[0])
        return [psutil.Process(server), *psutil.Process(self.process.pid).children(recursive=True)]

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        self.process.wait(timeout=60)
        if self.process.stdout:
            self.process.stdout.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        (folder / "app.py").write_text(APP)
        yield folder
        if (folder / "state").exists():
            forget(folder / "state")


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    runs: list[Run] = []

    def start_one(**options: object) -> Run:
        runs.append(Run(folder, **options))  # type: ignore[arg-type]
        return runs[-1]

    yield start_one
    for run in runs:
        run.end()


def password_in(said: str) -> str:
    found = re.search(r"password +(\S+)", said)
    assert found, said
    return found[1]


def command_in(said: str) -> str:
    return said[said.index("TOKEN=") : said.index("Ctrl-C")]


def test_the_command_that_it_prints_signs_in_and_asks_the_api(start: Start) -> None:
    said = start().read_until("Ctrl-C")

    answer = subprocess.run(["bash", "-c", command_in(said)], capture_output=True, text=True, check=True)

    assert answer.stdout == '{"items":[],"authorization":"Bearer eyJ"}'


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_all_that_it_started(start: Start, number: signal.Signals) -> None:
    run = start()
    run.read_until("Ctrl-C")
    programs = run.programs()
    run.process.send_signal(number)

    assert run.read_until("Stopped.").endswith("Stopped.\n")
    assert run.process.wait(timeout=60) == 0
    assert len(programs) == 2
    assert all(ends(program) for program in programs)
    assert not listens(run.api_port)
    assert not listens(run.supabase_port)


def test_ctrl_c_works_in_a_scripts_background_job_too(start: Start) -> None:
    run = start(ignoring=signal.SIGINT)
    run.read_until("Ctrl-C")
    run.process.send_signal(signal.SIGINT)

    assert run.process.wait(timeout=60) == 0


def test_a_signal_during_the_start_ends_it_cleanly(start: Start) -> None:
    run = start()
    run.read_until("Starting")
    run.process.terminate()

    assert run.read_until("Stopped.") == "Stopped.\n"
    assert run.process.wait(timeout=60) == 0
    assert not (run.state / "postgres/data/postmaster.pid").exists()
    assert not listens(run.supabase_port)


def test_the_demo_user_stays_the_same(start: Start) -> None:
    first = start()
    password = password_in(first.read_until("Ctrl-C"))
    first.end()
    second = start()
    said = second.read_until("Ctrl-C")

    assert password_in(said) == password
    assert subprocess.run(["bash", "-c", command_in(said)], capture_output=True, check=True).stdout


def test_a_run_that_was_killed_does_not_hinder_the_next(start: Start) -> None:
    killed = start()
    killed.read_until("Ctrl-C")
    supabase, postgres = killed.programs()[1], killed.programs()[0]
    killed.process.kill()
    killed.process.wait()
    supabase.kill()
    run = start()

    assert "running" in run.read_until("Ctrl-C")
    assert ends(postgres)


@pytest.mark.parametrize("taken", ["api_port", "supabase_port"])
def test_a_taken_port_is_named_and_nothing_is_started(folder: Path, taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ports = [str(port), str(free_port())] if taken == "api_port" else [str(free_port()), str(port)]
        done = subprocess.run(
            [sys.executable, "-c", MAIN, str(folder / "state"), *ports],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert f"Port {port} is taken" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "state/postgres").exists()


def test_with_a_supabase_of_ones_own_only_the_api_is_started(start: Start) -> None:
    run = start(
        SUPABASE_URL="http://127.0.0.1:9",
        SUPABASE_PUBLISHABLE_KEY="sb_publishable_made_up",
        SUPABASE_SECRET_KEY="sb_secret_made_up",
    )
    said = run.read_until("Ctrl-C")

    assert "the Supabase that your environment names" in said
    assert "sb_secret_made_up" not in said
    assert listens(run.api_port)
    assert psutil.Process(run.process.pid).children(recursive=True) == []
    assert not (run.state / "postgres").exists()


def test_settings_that_are_missing_or_malformed_are_named_together(start: Start) -> None:
    run = start(SUPABASE_URL="ftp://example.com", SUPABASE_PUBLISHABLE_KEY="made_up")
    said = run.read_until("the whole output")

    assert run.process.wait(timeout=60) == 1
    assert all(name in said for name in ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY"))
    assert "made_up" not in said
    assert "Traceback" not in said
