"""Finding every process that a command has started, also those that left its group to outlive it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def descendants(leader: int, mark: bytes) -> set[int]:
    """Processes of the leader's session, below it, or carrying ``mark`` in their environment; without the leader."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in PROC.iterdir() if PROC.is_dir() else ():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        with suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            state, parents[pid], session = fields[0], int(fields[1]), int(fields[3])
            if state != "Z" and (session == leader or mark in (entry / "environ").read_bytes()):
                found.add(pid)
    while below := {pid for pid, parent in parents.items() if parent in found | {leader}} - found:
        found |= below
    return found - {leader, os.getpid()}


def kill_all(leader: int, mark: bytes, number: signal.Signals) -> None:
    """Signals the leader's group and every descendant. What is already gone is no error."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)
    for pid in descendants(leader, mark):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
