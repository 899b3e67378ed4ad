"""What a person forgets, asked from the catalog; on the newest and the oldest Postgres."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.conftest import Connection
from tests.support.postgres import PROJECT, ROOT, Database, run_script
from tests.support.privileges import wrong_privileges
from tests.support.rows import column
from tests.support.versions import on_both_versions

SUPABASE_CLI = ROOT / "node_modules/@supabase/cli-linux-x64/bin/supabase"


database = on_both_versions()


def test_the_privileges_are_exactly_those_that_are_listed(db: Connection) -> None:
    """Default privileges of Supabase open everything in `public`: whoever forgets to revoke is found here."""
    assert wrong_privileges(db) == []


def test_every_table_of_public_has_row_level_security(db: Connection) -> None:
    unprotected = column(
        db,
        "select relname from pg_class where relnamespace = 'public'::regnamespace "
        "and relkind in ('r', 'p') and not relrowsecurity",
    )

    assert unprotected == []


def test_no_partition_stands_in_public(db: Connection) -> None:
    """A partition has neither the policies nor the security of its parent."""
    partitions = column(
        db, "select relnamespace::regnamespace::text from pg_class where relispartition and relkind = 'r'"
    )

    assert len(partitions) >= 27
    assert set(partitions) == {"private"}


def test_every_policy_names_one_command_and_its_roles_and_permits(db: Connection) -> None:
    policies = db.execute(
        "select tablename, policyname, cmd, roles::text[], permissive from pg_policies where schemaname = 'public'"
    ).fetchall()

    assert policies
    for policy in policies:
        _, _, command, roles, permissive = policy
        assert command in {"SELECT", "INSERT", "UPDATE", "DELETE"}, policy
        assert roles in (["authenticated"], ["anon"]), policy
        assert permissive == "PERMISSIVE", policy


def test_every_policy_asks_who_is_there_once_per_query(db: Connection) -> None:
    """`(select auth.uid())` is evaluated once, `auth.uid()` for every row."""
    texts = column(db, "select concat_ws(' ', qual, with_check) from pg_policies where schemaname = 'public'")

    asked = [text for text in texts if "auth." in text]
    assert len(asked) >= 12
    for text in asked:
        assert text.count("auth.") == text.count("( SELECT auth.uid() AS uid)"), text


def test_no_policy_believes_what_users_write_about_themselves(db: Connection) -> None:
    texts = column(db, "select concat_ws(' ', qual, with_check) from pg_policies")

    assert [text for text in texts if "user_metadata" in text] == []


def test_every_view_runs_as_whoever_asks(db: Connection) -> None:
    views = column(
        db,
        "select oid::regclass::text from pg_class where relnamespace in ('public'::regnamespace, "
        "'private'::regnamespace) and (relkind = 'm' or relkind = 'v' "
        "and not coalesce('security_invoker=true' = any(reloptions), false))",
    )

    assert views == []


def test_functions_with_their_owners_rights_are_out_of_clients_reach(db: Connection) -> None:
    """Those in `public`; in `private`, which no API exposes, the list of privileges says which ones help clients."""
    reachable = column(
        db,
        "select p.oid::regprocedure::text from pg_proc p, unnest(array['anon', 'authenticated']) as role "
        "where prosecdef and pronamespace = 'public'::regnamespace and has_function_privilege(role, p.oid, 'execute')",
    )

    assert reachable == []


def test_every_function_resolves_names_by_nobodys_search_path(db: Connection) -> None:
    loose = column(
        db,
        """select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = pronamespace
           where nspname in ('public', 'private') and not coalesce('search_path=""' = any(proconfig), false)""",
    )

    assert loose == []


def test_every_foreign_key_is_indexed(db: Connection) -> None:
    """Else a deletion scans the child table. A unique index on a part of the key serves as well."""
    unindexed = column(
        db,
        """select conrelid::regclass || ': ' || conname from pg_constraint c
           where contype = 'f' and connamespace in ('public'::regnamespace, 'private'::regnamespace) and not exists (
             select from pg_index i where indrelid = conrelid and indpred is null and indisvalid
               and (indkey::int2[])[0:cardinality(conkey) - 1] <@ conkey
               and ((indkey::int2[])[0:cardinality(conkey) - 1] @> conkey or indisunique))""",
    )

    assert unindexed == []


def test_every_owner_column_leads_an_index(db: Connection) -> None:
    """Every policy but those of the small catalogue filters on `user_id`."""
    unindexed = column(
        db,
        """select attrelid::regclass::text from pg_attribute a join pg_class c on c.oid = attrelid
           where attname = 'user_id' and relkind in ('r', 'p') and relnamespace in (
             'public'::regnamespace, 'private'::regnamespace)
           and not exists (select from pg_index i where indrelid = attrelid and indkey[0] = attnum and indpred is null)""",
    )

    assert unindexed == []


def test_every_child_of_an_integration_belongs_to_its_owner_by_a_composite_key(db: Connection) -> None:
    children = column(
        db,
        "select attrelid::regclass::text from pg_attribute a join pg_class c on c.oid = attrelid "
        "where attname = 'user_integration_id' and relkind in ('r', 'p') and not relispartition",
    )
    bound = column(
        db,
        "select conrelid::regclass::text from pg_constraint where contype = 'f' and conparentid = 0 "
        "and pg_get_constraintdef(oid) like 'FOREIGN KEY (user_integration_id, user_id) REFERENCES "
        "user_integrations(id, user_id)%%CASCADE'",
    )

    assert len(children) >= 6
    assert sorted(children) == sorted(bound)


def test_only_integrations_are_published_to_browsers(db: Connection) -> None:
    published = db.execute("select pubname::text, schemaname || '.' || tablename from pg_publication_tables").fetchall()

    assert published == [("supabase_realtime", "public.user_integrations")]


def test_every_table_says_what_a_row_is(db: Connection) -> None:
    silent = column(
        db,
        "select oid::regclass::text from pg_class where relkind in ('r', 'p') and not relispartition "
        "and relnamespace in ('public'::regnamespace, 'private'::regnamespace) and obj_description(oid, 'pg_class') is null",
    )

    assert silent == []


def test_the_five_tables_have_the_columns_that_were_promised(db: Connection) -> None:
    promised = {
        "integration_types": "id name slug type category description icon_type is_active config_schema created_at "
        "updated_at",
        "user_integrations": "id user_id integration_type_id name is_connected connection_config auth_method status "
        "last_tested_at last_error connected_at created_at updated_at",
        "integration_credentials": "id user_integration_id credential_type encrypted_value expires_at last_rotated_at "
        "created_at",
        "integration_logs": "id user_integration_id event_type message metadata created_at",
        "integration_health_metrics": "id user_integration_id response_time_ms success error_message checked_at "
        "created_at verdict source",
    }

    for table, names in promised.items():
        there = column(db, "select attname::text from pg_attribute where attrelid = %s::regclass", [f"public.{table}"])
        assert set(names.split()) <= set(there), table


def test_each_migration_applies_in_a_session_of_its_own(database: Database) -> None:
    """As when they are pushed one by one: nothing may rest on what another file has loaded or set."""
    fresh = database.cluster.bare_database()
    for file in sorted((PROJECT / "migrations").glob("*.sql")):
        with fresh.connect(autocommit=True) as connection:
            run_script(connection, file)

    with fresh.connect() as connection:
        there = column(connection, "select to_regclass('public.user_integrations') is not null")
    fresh.drop()
    assert there == [True]


def test_the_advisors_of_supabase_find_nothing(database: Database, tmp_path: Path) -> None:
    assert _advice(database, tmp_path) == []


def test_the_advisors_of_supabase_would_find_an_open_table(database: Database, tmp_path: Path) -> None:
    other = database.cluster.migrated_database()
    with other.connect() as connection:
        connection.execute("create table public.forgotten (id int primary key)")

    found = _advice(other, tmp_path)

    other.drop()
    assert [advice["name"] for advice in found] == ["rls_disabled_in_public"]


def _advice(database: Database, folder: Path) -> list[dict[str, str]]:
    target = f"--remote={database.dsn('supabase_admin')}?sslmode=disable"
    done = subprocess.run(
        [SUPABASE_CLI, "db", "advisors", "--level", "warn", "--output-format", "json", target],
        cwd=folder,
        env={"HOME": str(folder), "SUPABASE_TELEMETRY_DISABLED": "1", "DO_NOT_TRACK": "1"},
        capture_output=True,
        timeout=120,
        check=True,
    )
    found: list[dict[str, str]] = json.loads(done.stdout)["results"]
    return found
