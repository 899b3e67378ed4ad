"""Asking everything that we depend on whether it answers, all at once and never for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from chalicelib.services.ports import Json

WITHIN_S = 0.8


def ask_all(questions: Mapping[str, Callable[[], object]], within_s: float = WITHIN_S) -> Json:
    """``{"status": "ok" | "degraded", "checks": {name: "ok" | "down" | "slow"}}`` after ``within_s`` at the latest.

    A question is answered by returning; whatever it raises means down, and stays here.
    """
    found = dict.fromkeys(questions, "slow")

    def ask(name: str, question: Callable[[], object]) -> None:
        try:
            question()
            found[name] = "ok"
        except Exception:
            found[name] = "down"

    threads = [threading.Thread(target=ask, args=entry, daemon=True) for entry in questions.items()]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))
    checks = dict(found)  # a late thread may still write
    return {"status": "ok" if set(checks.values()) <= {"ok"} else "degraded", "checks": checks}
