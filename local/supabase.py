"""Supabase on this machine without Docker: Postgres, and `@supabase/lite` for `/rest/v1` and `/auth/v1`."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tomllib
from pathlib import Path

import psycopg

from local.keys import Keys, load_keys
from local.postgres import Postgres
from local.processes import LOOPBACK, CannotStart, Child, bare_environment, last_lines, listens, open_private

ROOT = Path(__file__).resolve().parent.parent
NODE_MODULES = ROOT / "node_modules"
ROLES = Path(__file__).with_name("supabase_roles.sql")
LITE = NODE_MODULES / "@supabase/lite/dist/cli/index.js"


def settings_for(url: str, keys: Keys) -> dict[str, str]:
    """The app's settings for a local Supabase at this address."""
    return {
        "SUPABASE_URL": url,
        "SUPABASE_PUBLISHABLE_KEY": keys.publishable_key,
        "SUPABASE_SECRET_KEY": keys.secret_key,
        "SUPABASE_JWT_SECRET": keys.jwt_secret,
        "SUPABASE_JWT_ISSUER_OPTIONAL": "true",  # lite's tokens name no issuer
    }


class LocalSupabase:
    """Everything it keeps lies in ``state``. ``project`` has `config.toml`, `migrations` and `seed.sql`."""

    def __init__(self, state: Path, port: int, project: Path = ROOT / "supabase") -> None:
        state.mkdir(parents=True, exist_ok=True)
        state.chmod(0o711)  # root's Postgres, another user, passes through; the files in it are private
        self.url = f"http://{LOOPBACK}:{port}"
        self.keys = load_keys(state / "keys.json")
        self.postgres = Postgres(state / "postgres", password=self.keys.database_password)
        self._port, self._project = port, project
        self._workdir, self._logs = state / "lite", state / "logs"
        quiet = {"LITE_TELEMETRY": "0", "DO_NOT_TRACK": "1", "NO_COLOR": "1"}
        self._environment = bare_environment() | quiet | {"HOME": str(self._workdir)}  # else it makes ~/.lite
        self._lite: Child | None = None

    def start(self) -> None:
        """Start the database, bring its schema and catalogue up to date, and serve it."""
        self.postgres.start()
        self._write_config(self.postgres.dsn())
        self._prepare_roles()
        self._migrate()
        self._prepare_roles()
        try:
            self._seed()
        except psycopg.Error as error:
            raise CannotStart(f"The catalogue could not be loaded from seed.sql: {error}") from error
        self._write_config(self.postgres.dsn(user="authenticator"))
        # --no-admin: by default a request from this machine without any key would run as service_role.
        self._lite = Child(
            "Supabase",
            ["node", LITE, "start", "--no-admin"],
            log=self._logs / "supabase.log",
            env=self._environment,
            cwd=self._workdir,
        )
        self._lite.wait_until(lambda: listens(self._port))

    def stop(self) -> None:
        if self._lite is not None:
            self._lite.stop()
        self.postgres.stop()

    def environment(self) -> dict[str, str]:
        """The app's settings for this Supabase."""
        return settings_for(self.url, self.keys)

    def _write_config(self, dsn: str) -> None:
        """The project's config.toml, with what only lite knows: a driver, a database and keys."""
        config = tomllib.loads((self._project / "config.toml").read_text())
        config["api"]["port"] = self._port
        config["db"] |= {"driver": "postgres", "url": dsn}
        config["auth"] |= {
            "jwt_secret": self.keys.jwt_secret,
            "publishable_key": self.keys.publishable_key,
            "secret_key": self.keys.secret_key,
        }
        folder = self._workdir / "supabase"
        with open_private(folder / "config.json") as file:
            file.write(json.dumps(config, indent=2).encode())
        migrations = folder / "migrations"
        migrations.unlink(missing_ok=True)
        migrations.symlink_to(self._project / "migrations")

    def _migrate(self) -> None:
        log = self._logs / "migrations.log"
        with open_private(log) as output:
            done = subprocess.run(
                ["node", str(LITE), "migration", "up"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                cwd=self._workdir,
                env=self._environment,
                start_new_session=True,  # Ctrl-C must not cut off a migration
            )
        if done.returncode != 0:
            raise CannotStart(f"The migrations could not be applied.\n{last_lines(log)}")

    def _prepare_roles(self) -> None:
        script = ROLES.read_text().replace("{password}", self.keys.database_password)
        with psycopg.connect(self.postgres.dsn()) as connection:
            connection.execute(script.encode())

    def _seed(self) -> None:
        """Run seed.sql once and whenever it has changed; it and the record of it land together or not at all."""
        path, seed = "supabase/seed.sql", (self._project / "seed.sql").read_bytes()
        digest = hashlib.sha256(seed).hexdigest()
        with psycopg.connect(self.postgres.dsn()) as connection:
            known = connection.execute("select hash from supabase_migrations.seed_files where path = %s", [path])
            if known.fetchone() == (digest,):
                return
            connection.execute(seed)
            connection.execute(
                "insert into supabase_migrations.seed_files (path, hash) values (%s, %s) "
                "on conflict (path) do update set hash = excluded.hash",
                [path, digest],
            )
