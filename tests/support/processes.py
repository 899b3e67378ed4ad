"""Looking at processes from outside."""

from __future__ import annotations

import time

import psutil

DEADLINE_S = 10


def ends(process: psutil.Process) -> bool:
    """Whether it is gone soon; or waits only for a parent to take note of it, who is not ours to choose."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False
