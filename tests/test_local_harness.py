"""What the other tests stand on: a Postgres like hosted Supabase's, PostgREST in front of it, tokens for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx2
import jwt
import psutil
import psycopg
import pytest

from tests.conftest import AsRole, AsUser, Connection
from tests.support.postgres import ROOT, Cluster, Database, add_user, apply_migrations
from tests.support.processes import ends
from tests.support.stack import Stack
from tests.support.tokens import Issuer

ENDLESS = """
import threading

def test_that_takes_for_ever(stack, cluster):
    with cluster.migrated_database().connect() as connection:
        print("backend", connection.info.backend_pid, flush=True)
        threading.Event().wait()
"""


@pytest.fixture
def bare(cluster: Cluster) -> Iterator[Database]:
    database = cluster.bare_database()
    yield database
    database.drop()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


def test_who_migrates_is_no_superuser_as_on_hosted_supabase(bare: Database) -> None:
    with bare.connect() as connection:
        found = connection.execute(
            "select rolsuper, rolbypassrls from pg_roles where rolname = current_user"
        ).fetchone()

    assert found == (False, True)


def test_a_table_is_open_to_everybody_until_its_migration_closes_it(bare: Database) -> None:
    with bare.connect() as connection:
        connection.execute("create table public.notes (body text)")
        allowed = connection.execute(
            "select every(has_table_privilege(role, 'public.notes', 'insert')) "
            "from unnest(array['anon', 'authenticated', 'service_role']) role"
        ).fetchone()

    assert allowed == (True,)


def test_the_owner_of_a_table_may_publish_it(bare: Database) -> None:
    with bare.connect() as connection:
        connection.execute("create table public.notes (body text)")
        connection.execute("alter publication supabase_realtime add table public.notes")


def test_a_migration_that_fails_is_named_and_leaves_nothing(bare: Database, tmp_path: Path) -> None:
    (tmp_path / "1_good.sql").write_text("create table public.good ();")
    (tmp_path / "2_bad.sql").write_text("create table public.half (); select nonsense;")

    with bare.connect() as connection:
        with pytest.raises(psycopg.Error) as failure:
            apply_migrations(connection, tmp_path)
        tables = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()

    assert failure.value.__notes__ == ["in 2_bad.sql"]
    assert tables == [("good",)]


@pytest.mark.parametrize("version", ["cluster", "oldest_cluster"])
def test_our_migrations_apply_on_the_newest_and_the_oldest_postgres(
    request: pytest.FixtureRequest, version: str
) -> None:
    database = request.getfixturevalue(version).migrated_database()
    with database.connect() as connection:
        found = connection.execute("select to_regclass('public.user_integrations') is not null").fetchone()
    database.drop()

    assert found == (True,)


def test_databases_of_one_cluster_are_independent(cluster: Cluster) -> None:
    first, second = cluster.migrated_database(), cluster.migrated_database()
    with first.connect() as connection:
        add_user(connection)
    with second.connect() as connection:
        users = connection.execute("select count(*) from auth.users").fetchone()
    first.drop()
    second.drop()

    assert users == (0,)


def test_a_user_is_one_only_inside_the_block(db: Connection, as_user: AsUser) -> None:
    ada = add_user(db)
    with as_user(ada) as connection:
        inside = connection.execute("select current_user, auth.uid(), auth.role()").fetchone()
    outside = db.execute("select current_user, auth.uid(), auth.role()").fetchone()

    assert inside == ("authenticated", ada, "authenticated")
    assert outside == ("postgres", None, None)


def test_an_error_inside_the_block_undoes_what_was_done_there_and_ends_the_role(
    db: Connection, as_role: AsRole
) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero), as_role("service_role") as connection:
        connection.execute("create temporary table mine (); select 1 / 0")
    after = db.execute("select current_user, to_regclass('mine')").fetchone()

    assert after == ("postgres", None)


def test_anon_is_nobody(as_role: AsRole) -> None:
    with as_role("anon") as connection:
        found = connection.execute("select current_user, auth.uid()").fetchone()

    assert found == ("anon", None)


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_postgrest_believes_the_issuers_tokens(stack: Stack, algorithm: str) -> None:
    user_id, _ = stack.new_user()
    token = stack.issuer.user_token(user_id, algorithm=algorithm)

    assert rows_seen(stack, token) == (200, [])


def test_postgrest_believes_nobody_else(stack: Stack) -> None:
    stranger = Issuer()
    token = stranger.user_token(uuid.uuid4())
    stranger.stop()

    assert rows_seen(stack, token)[0] == 401


def test_the_secret_key_is_the_service_and_the_publishable_key_is_anon(stack: Stack) -> None:
    environment = stack.environment()

    assert rows_seen(stack, environment["SUPABASE_SECRET_KEY"]) == (200, [])
    assert rows_seen(stack, environment["SUPABASE_PUBLISHABLE_KEY"])[0] == 401


def rows_seen(stack: Stack, token: str) -> tuple[int, object]:
    url = f"{stack.postgrest.url}/user_integrations?select=id&limit=0"
    answer = httpx2.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    return answer.status_code, answer.json()


def test_tokens_verify_against_the_published_keys(stack: Stack) -> None:
    user_id, token = stack.new_user()
    published = jwt.PyJWKSet.from_dict(httpx2.get(stack.issuer.key_set_url, trust_env=False).json())
    key = published[jwt.get_unverified_header(token)["kid"]]

    claims = jwt.decode(token, key, algorithms=["ES256"], audience="authenticated", issuer=stack.issuer.issuer)

    assert (claims["sub"], claims["role"]) == (str(user_id), "authenticated")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_test_run_that_is_stopped_leaves_nothing_running(folder: Path, number: signal.Signals) -> None:
    (folder / "test_endless.py").write_text(ENDLESS)
    pytest_run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-s", "-c", ROOT / "pyproject.toml", "-p", "tests.conftest", folder],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert pytest_run.stdout is not None
    backend = next(line for line in pytest_run.stdout if "backend" in line)
    server = psutil.Process(int(backend.split()[-1])).parent()
    programs = [*psutil.Process(pytest_run.pid).children(recursive=True), server]
    pytest_run.send_signal(number)
    said, _ = pytest_run.communicate(timeout=60)

    assert "KeyboardInterrupt" in said
    assert len(programs) == 2
    assert all(ends(program) for program in programs)
    assert list(folder.glob("postgres-for-tests-*")) == []
