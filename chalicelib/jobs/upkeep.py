"""What has to be put in order from time to time. Every part may be repeated, cut off, and done by two at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from chalicelib import wiring
from chalicelib.errors import AppError

#: Credentials that one call tells of; there are as many calls as it takes.
AT_ONCE = 10_000


def run_upkeep(say: Callable[[str], None]) -> None:
    """Do all parts; say in one line of JSON what was done. Raises the first failure when all have had their turn."""
    read, store = wiring.settings(), wiring.upkeep_store()
    parts: dict[str, Callable[[], Any]] = {
        "dropped": lambda: store.drop_history(read.metrics_days, read.logs_days),
        "expiries_told": lambda: sum(iter(lambda: store.note_expiries(AT_ONCE), 0)),
        "forgotten": store.forget_old,
    }
    done: dict[str, Any] = {}
    failures: list[AppError] = []
    for name, part in parts.items():
        try:
            done[name] = part()
        except AppError as error:
            done[name] = error.code
            failures.append(error)
    say(json.dumps({"event": "upkeep", "environment": read.environment, **done}))
    if failures:
        raise failures[0]
