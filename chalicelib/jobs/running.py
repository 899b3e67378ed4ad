"""A sweep from an ordinary function, and what it tells whoever watches the system."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio

from chalicelib import wiring
from chalicelib.errors import AppError
from chalicelib.jobs.sweep import Progress, Summary
from chalicelib.watch import metrics_line

#: Names of metrics and their units, as CloudWatch knows them.
UNITS = {
    "due": "Count",
    "claimed": "Count",
    "checked": "Count",
    "recorded": "Count",
    "postponed": "Count",
    "dropped": "Count",
    "lag_s": "Seconds",
    "duration_s": "Seconds",
    "round_trips": "Count",
    "kms_calls": "Count",
}


def run_sweep(
    budget_s: float, *, most: int | None = None, due: int | None = None, progress: Progress = lambda _: None
) -> Summary:
    """Sweep for at most ``budget_s`` seconds, in an event loop of its own; claim at most ``most`` integrations.

    ``due`` is what was counted before, if it was. A sweep that claims no more than that ends when this is done, and
    leaves to the next one what fails meanwhile and is soon due again.

    Raises nothing that may pass by itself: see ``Summary.failure``.
    """
    vault = wiring.vault()
    unwraps = vault.unwraps
    sweep = wiring.sweep(progress)
    sweep.summary.due = due
    with _fewer_collections():
        summary = anyio.run(partial(sweep.run, budget_s, most=most))
    summary.kms_calls = vault.unwraps - unwraps
    return summary


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Hundreds of checks under way are nobody's garbage, and looking through them again and again costs a sweep 5 % of
    its CPU (`bench/sweep.py`).
    """
    before = gc.get_threshold()
    gc.set_threshold(20_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def sweep_line(summary: Summary, environment: str) -> str:
    """One line of JSON: a structured log and, by CloudWatch's embedded metric format, its metrics."""
    figures: dict[str, Any] = {name: round(value, 3) for name in UNITS if (value := getattr(summary, name)) is not None}
    by_verdict = {f"verdict_{verdict}": count for verdict, count in sorted(summary.verdicts.items())}
    units = {name: UNITS[name] for name in figures} | dict.fromkeys(by_verdict, "Count")
    failure = {"failure": summary.failure.code} if summary.failure else {}
    return metrics_line("sweep", environment, figures | by_verdict, units, failure)


def tickets_line(due: int, oldest: datetime | None, taken: int, environment: str) -> str:
    lag_s = round((datetime.now(UTC) - oldest).total_seconds(), 3) if oldest else 0.0
    figures = {"due": due, "tickets": taken, "lag_s": lag_s}
    return metrics_line("tickets", environment, figures, {"due": "Count", "tickets": "Count", "lag_s": "Seconds"}, {})


def raise_failure(summary: Summary) -> None:
    """Let whoever started the sweep know that it could not do its work: Lambda counts this and tries again."""
    failure: AppError | None = summary.failure
    if failure is not None:
        raise failure
