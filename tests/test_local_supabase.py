"""Supabase on one's own machine, as `make run` starts it."""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import jwt
import psycopg
import pytest

from chalicelib.settings import read_settings
from local.accounts import sign_up
from local.api import local_settings
from local.processes import CannotStart, free_port
from local.state import exclusive, forget
from local.supabase import LocalSupabase
from tests.support.postgres import PROJECT, Database

NOTES = """
create table public.notes (
  body text primary key,
  user_id uuid default auth.uid() references auth.users (id) on delete cascade
);
alter table public.notes enable row level security;
create policy "owners read their notes" on public.notes for select to authenticated
  using ((select auth.uid()) = user_id);
create policy "owners write their notes" on public.notes for insert to authenticated
  with check ((select auth.uid()) = user_id);
revoke all on public.notes from anon, authenticated;
grant select, insert (body) on public.notes to authenticated;
create function public.me() returns uuid language sql stable set search_path = '' as $$ select auth.uid() $$;
"""
SEED = "insert into public.notes (body) values ('seeded 100%') on conflict do nothing;"
PASSWORD = "correct horse battery"
Make = Callable[[], LocalSupabase]


@contextmanager
def a_state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        state = Path(name) / "state"
        yield state
        forget(state)


def a_project(folder: Path) -> Path:
    (folder / "migrations").mkdir()
    (folder / "migrations/20260101000000_notes.sql").write_text(NOTES)
    (folder / "seed.sql").write_text(SEED)
    shutil.copy(PROJECT / "config.toml", folder)
    return folder


@pytest.fixture(scope="module")
def kept() -> Iterator[Path]:
    """Where `running` keeps its things."""
    with a_state() as state:
        yield state


@pytest.fixture(scope="module")
def running(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSupabase]:
    """One that is running, for tests that only use it."""
    supabase = LocalSupabase(kept, free_port(), a_project(tmp_path_factory.mktemp("project")))
    try:
        supabase.start()
        yield supabase
    finally:
        supabase.stop()


@pytest.fixture
def state() -> Iterator[Path]:
    with a_state() as state:
        yield state


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return a_project(tmp_path)


@pytest.fixture
def make(state: Path, project: Path) -> Iterator[Make]:
    made: list[LocalSupabase] = []

    def make_one() -> LocalSupabase:
        made.append(LocalSupabase(state, free_port(), project))
        return made[-1]

    yield make_one
    for supabase in made:
        supabase.stop()


def rows(supabase: LocalSupabase, **headers: str) -> Any:
    return httpx2.get(f"{supabase.url}/rest/v1/notes?select=body", headers=headers, trust_env=False)


def test_a_signed_up_user_sees_their_rows_and_the_keys_are_enforced(running: LocalSupabase) -> None:
    publishable, secret = running.keys.publishable_key, running.keys.secret_key
    token = sign_up(running.url, publishable, "her@example.com", PASSWORD)
    user = {"apikey": publishable, "authorization": f"Bearer {token}"}
    written = httpx2.post(f"{running.url}/rest/v1/notes", headers=user, json={"body": "hers"}, trust_env=False)

    assert written.status_code == 201
    assert rows(running, **user).json() == [{"body": "hers"}]
    assert rows(running, apikey=publishable).status_code == 401
    assert {row["body"] for row in rows(running, apikey=secret).json()} == {"seeded 100%", "hers"}
    assert rows(running).status_code == 401
    assert rows(running, apikey="sb_secret_guessed").status_code == 401


def test_what_a_migration_has_revoked_stays_revoked(make: Make) -> None:
    for _ in range(2):
        supabase = make()
        supabase.start()
        key = supabase.keys.publishable_key
        token = sign_up(supabase.url, key, "ada@example.com", PASSWORD)
        user = {"apikey": key, "authorization": f"Bearer {token}"}
        forged = {"body": "mine", "user_id": "00000000-0000-4000-8000-000000000000"}
        for headers in (user, {"apikey": key}):
            answer = httpx2.post(f"{supabase.url}/rest/v1/notes", headers=headers, json=forged, trust_env=False)
            assert answer.json()["code"] == "42501", answer.text
            assert "permission denied for table" in answer.json()["message"]
        supabase.stop()


PRIVILEGES = r"""
with held as (
  select c.oid::regclass::text as thing, a.* from pg_class c, aclexplode(c.relacl) a
  where c.relnamespace::regnamespace::text in ('public', 'private')
  union all
  select format('%s.%s', t.attrelid::regclass, t.attname), a.* from pg_attribute t, aclexplode(t.attacl) a
  union all
  select p.oid::regprocedure::text, a.* from pg_proc p, aclexplode(p.proacl) a
  where p.pronamespace::regnamespace::text in ('public', 'private')
)
select distinct regexp_replace(thing, '\d{6,}', 'DAY'), grantee::regrole::text, privilege_type from held
where grantee::regrole::text in ('anon', 'authenticated', 'service_role', '-')
"""


def test_clients_may_do_the_same_as_on_hosted_supabase(state: Path, database: Database) -> None:
    supabase = LocalSupabase(state, free_port())
    try:
        supabase.start()
        for key in (supabase.keys.publishable_key, supabase.keys.secret_key):
            httpx2.get(f"{supabase.url}/rest/v1/integration_types", headers={"apikey": key}, trust_env=False)
        with psycopg.connect(supabase.postgres.dsn()) as connection:
            local = set(connection.execute(PRIVILEGES))
    finally:
        supabase.stop()
    with database.connect() as connection:
        hosted = set(connection.execute(PRIVILEGES))

    assert len(hosted) > 50
    assert local ^ hosted == set()


def test_a_function_may_ask_who_calls_as_on_hosted_supabase(running: LocalSupabase) -> None:
    key = running.keys.publishable_key
    token = sign_up(running.url, key, "eve@example.com", PASSWORD)
    user = {"apikey": key, "authorization": f"Bearer {token}"}
    claims = jwt.decode(token, running.keys.jwt_secret, algorithms=["HS256"], audience="authenticated")

    answer = httpx2.post(f"{running.url}/rest/v1/rpc/me", headers=user, json={}, trust_env=False)

    assert answer.json() == claims["sub"]


def test_signing_up_again_signs_in_to_the_same_account_and_not_with_another_password(running: LocalSupabase) -> None:
    key = running.keys.publishable_key
    sign_up(running.url, key, "ada@example.com", PASSWORD)
    sign_up(running.url, key, "ada@example.com", PASSWORD)

    with pytest.raises(CannotStart, match=r"did not accept ada@example\.com"):
        sign_up(running.url, key, "ada@example.com", "another password")


def test_a_second_start_keeps_keys_and_data_and_takes_up_what_is_new(make: Make, project: Path) -> None:
    first = make()
    first.start()
    with psycopg.connect(first.postgres.dsn()) as connection:
        connection.execute("delete from public.notes")
    first.stop()
    second = make()
    second.start()

    assert second.keys == first.keys
    assert rows(second, apikey=second.keys.secret_key).json() == [], "an unchanged seed does not run again"

    second.stop()
    (project / "seed.sql").write_text(SEED.replace("seeded 100%", "changed"))
    (project / "migrations/20260102000000_more.sql").write_text("alter table public.notes add column at timestamptz;")
    third = make()
    third.start()

    assert rows(third, apikey=third.keys.secret_key).json() == [{"body": "changed"}]


def test_a_broken_migration_stops_the_start_and_is_quoted(make: Make, project: Path) -> None:
    (project / "migrations/20260102000000_broken.sql").write_text("create table public.half (id nothing_known);")

    with pytest.raises(CannotStart, match=r"The migrations could not be applied(.|\n)*nothing_known"):
        make().start()


def test_a_broken_seed_stops_the_start_and_leaves_nothing_half_done(make: Make, project: Path) -> None:
    (project / "seed.sql").write_text(SEED + "select broken;")
    supabase = make()

    with pytest.raises(CannotStart, match=r"seed\.sql"):
        supabase.start()
    with psycopg.connect(supabase.postgres.dsn()) as connection:
        assert connection.execute("select count(*) from public.notes").fetchone() == (0,)


def test_what_it_keeps_is_for_its_owner_alone(running: LocalSupabase, kept: Path) -> None:
    secrets = [running.keys.database_password, running.keys.jwt_secret, running.keys.secret_key]
    files = [path for path in kept.rglob("*") if path.is_file() and "data" not in path.parts]
    exposed = [
        path
        for path in files
        if any(secret in path.read_text(errors="replace") for secret in secrets)
        and stat.S_IMODE(path.stat().st_mode) != 0o600
    ]

    assert exposed == []
    assert not any(secret in repr(running.keys) for secret in secrets)


def test_its_environment_makes_good_settings(make: Make, state: Path) -> None:
    supabase = make()

    settings = read_settings(supabase.environment() | local_settings(state, {}))

    assert settings.rest_url == f"{supabase.url}/rest/v1"
    assert settings.local_key_file == str(state / "key")
    assert settings.mcp_stdio == "any"


def test_what_a_person_has_set_wins_over_the_defaults(tmp_path: Path) -> None:
    chosen = {"MCP_STDIO": "off", "KMS_KEY_ID": "alias/mine"}

    settings = local_settings(tmp_path, chosen)

    assert settings["MCP_STDIO"] == "off"
    assert "LOCAL_KEY_FILE" not in settings


def test_two_runs_cannot_share_a_folder(state: Path) -> None:
    with exclusive(state), pytest.raises(CannotStart, match="Another run is at work"), exclusive(state):
        pass
    with exclusive(state):
        pass


def test_forgetting_ends_a_database_that_a_killed_run_left(make: Make, state: Path) -> None:
    supabase = make()
    supabase.postgres.start()
    forget(state)

    assert [path.name for path in state.iterdir() if path.name != "lock"] == []
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(supabase.postgres.dsn())
