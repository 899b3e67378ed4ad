"""Where a local run keeps its things, and who may use them at a time."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.postgres import Postgres
from local.processes import CannotStart
from local.supabase import ROOT

STATE = ROOT / ".local"
DEMO_STATE = STATE / "demo"
LOCK = "lock"


@contextmanager
def exclusive(state: Path) -> Iterator[None]:
    """Hold ``state`` for this process; raise :class:`CannotStart` if another one holds it."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / LOCK).open("w")
    except PermissionError:
        raise CannotStart(f"{state} belongs to another user: an earlier run was that user's. Remove it.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(f"Another run is at work in {state}. Stop it first (Ctrl-C in its terminal).") from None
        yield


def forget(state: Path) -> None:
    """Empty ``state``, after ending a database that a killed run has left there. Only for who holds it."""
    database = state / "postgres"
    if database.exists():
        Postgres(database, password="").remove()
    for path in state.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
