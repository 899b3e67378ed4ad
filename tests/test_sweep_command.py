"""`make sweep`, as a person runs it, and the sweeps of `make run`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from threading import Event

import psycopg

from chalicelib.errors import Unavailable
from chalicelib.jobs.sweep import Summary
from local.processes import free_port
from local.supabase import LocalSupabase
from local.sweep import Progress, Sweeps, progress_line, summary_lines
from tests.peers.field import Field
from tests.support import rows
from tests.support.app import environment
from tests.support.postgres import ROOT
from tests.support.stack import Stack
from tests.support.sweeping import World

MAIN = "import sys; from pathlib import Path; from local.sweep import main; sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))"


def make_sweep(state: Path, port: int, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], **settings}
    return subprocess.run(
        [sys.executable, "-c", MAIN, str(state), str(port)], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )  # fmt: skip


def test_it_checks_what_is_due_and_tells_what_it_found(world: World, servers: Field, tmp_path: Path) -> None:
    ids = world.add(servers.at("/ok/{n}"), 25)
    ids += world.add(servers.at("/503"), 3)

    done = make_sweep(tmp_path, 1, **world.stack.environment())
    again = make_sweep(tmp_path, 1, **world.stack.environment())

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Sweeping 127.0.0.1:")
    assert lines[1].startswith("Checked 28 in ")
    assert lines[1].endswith("; 3 failing.")
    assert [line.split() for line in lines[2:4]] == [["ok", "25"], ["provider_down", "3"]]
    assert lines[4].startswith("Recorded 28, still due 0. ")
    assert lines[5] == "2 round trips to the database, 0 keys unwrapped."
    assert world.metrics() == dict.fromkeys(ids, 1)
    assert (again.returncode, again.stdout.splitlines()[1:]) == (0, ["Nothing is due."])


def test_it_works_on_the_local_stack_that_runs_here(servers: Field, tmp_path: Path) -> None:
    """Through @supabase/lite, with the keys that `make run` has made."""
    port = free_port()
    supabase = LocalSupabase(tmp_path / "state", port)
    supabase.start()
    try:
        with psycopg.connect(supabase.postgres.dsn(), autocommit=True) as db:
            user = rows.one(
                db, "insert into auth.users (id, email) values (gen_random_uuid(), 'a@example.com') returning id"
            )
            kind = rows.add_type(db, type="vendor")
            ids = [
                rows.add_integration(db, user, kind, status="connected", is_connected=True,
                                     connection_config=json.dumps({"api_url": servers.at(path)}))
                for path in ("/ok", "/401")
            ]  # fmt: skip
            for one in ids:
                rows.schedule(db, one, user)
            done = make_sweep(tmp_path / "state", port)
            verdicts = [rows.integration(db, one)["last_verdict"] for one in ids]
    finally:
        supabase.stop()

    assert (done.returncode, done.stderr) == (0, "")
    assert "Checked 2 in " in done.stdout
    assert verdicts == ["ok", "auth_rejected"]


def test_without_a_stack_it_says_what_to_start(tmp_path: Path) -> None:
    done = make_sweep(tmp_path, free_port())

    assert (done.returncode, done.stdout) == (1, "")
    assert "Start `make run` in another terminal" in done.stderr


def test_with_wrong_settings_it_names_them(tmp_path: Path) -> None:
    done = make_sweep(tmp_path, 1, SUPABASE_URL="https://example.com")

    assert done.returncode == 1
    assert "SUPABASE_SECRET_KEY is missing" in done.stderr


def test_a_database_that_is_away_is_told_of(tmp_path: Path, stack: Stack) -> None:
    done = make_sweep(tmp_path, 1, **stack.environment() | {"SUPABASE_REST_URL": "http://127.0.0.1:9"})

    assert (done.returncode, done.stderr) == (
        1,
        "The database cannot be reached at the moment. Nothing was changed; try again shortly.\n",
    )


def test_progress_says_how_much_is_done_and_how_long_the_rest_takes() -> None:
    summary = Summary(due=5_000, checked=1_200, postponed=40, dropped=10, verdicts=Counter(ok=1_100, timeout=100))

    assert progress_line(summary, 5.0) == "1,250 of 5,000 done, 100 failing, 250 a second, 15 s left"
    assert progress_line(Summary(due=7), 0.0) == "0 of 7 done, 0 failing, 0 a second, time left unknown"
    assert progress_line(Summary(due=7, checked=9, verdicts=Counter(ok=9)), 1.0).startswith("9 of 9 done")


def test_progress_is_said_every_few_seconds_and_not_for_every_check() -> None:
    said: list[str] = []
    progress = Progress(said.append, terminal=False, every_s=0.0)
    seldom = Progress(said.append, terminal=False)

    progress(Summary(due=2, checked=1))
    seldom(Summary(due=2, checked=1))

    assert len(said) == 1


def test_what_went_wrong_stands_in_the_summary() -> None:
    summary = Summary(checked=2, failure=Unavailable("The database is away."))

    assert summary_lines(summary)[-1] == (
        "Not all could be claimed or recorded: The database is away. The rest is still due."
    )


def test_make_run_sweeps_again_and_again_until_it_stops(world: World, servers: Field) -> None:
    heard = Event()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        heard.set()

    ids = world.add(servers.at("/ok/{n}"), 3)
    with environment(world.stack.environment()):
        sweeps = Sweeps(say, every_s=0.05)
        assert heard.wait(20)
        heard.clear()
        world.make_due(ids[:1])
        assert heard.wait(20)
        sweeps.stop()

    assert said == ["Sweep: 3 checked, 0 failing.", "Sweep: 1 checked, 0 failing."]
    assert world.metrics() == {ids[0]: 2, ids[1]: 1, ids[2]: 1}
