"""`make sweep`: check everything that is due, now, and say how it goes. `make run` does the same every minute."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from chalicelib import wiring
from chalicelib.errors import AppError
from chalicelib.jobs.running import run_sweep
from chalicelib.jobs.sweep import Summary
from chalicelib.settings import BadSettings
from local.api import local_settings
from local.keys import load_keys
from local.processes import LOOPBACK, listens
from local.state import STATE
from local.supabase import settings_for

SUPABASE_PORT = 54321
EVERY_S = 60.0
#: As long as a hosted function has.
BACKGROUND_S = 45.0
#: A local sweep goes on until nothing is due; this is only an end for one that cannot get there.
LONGEST_S = 6 * 3600.0
COUNTED = 1_000_000
NOTHING_RUNS = "Nothing runs here. Start `make run` in another terminal, or set SUPABASE_URL and its keys."

Say = Callable[[str], None]


class Progress:
    """Says every few seconds how far a sweep is: on one line of a terminal, or on a line each."""

    def __init__(self, say: Say, *, terminal: bool, every_s: float = 5.0) -> None:
        self._say = say
        self._terminal = terminal
        self._every_s = 0.5 if terminal else every_s
        self._began = self._said_at = time.monotonic()

    def __call__(self, summary: Summary) -> None:
        now = time.monotonic()
        if now - self._said_at >= self._every_s:
            self._said_at = now
            self._say(("\r\033[K" if self._terminal else "") + progress_line(summary, now - self._began))


def progress_line(summary: Summary, elapsed_s: float) -> str:
    """Done, failing, rate and time left; more may become due meanwhile than was counted."""
    done = summary.checked + summary.postponed + summary.dropped
    rate = done / elapsed_s if elapsed_s else 0.0
    left = max(0, (summary.due or 0) - done)
    time_left = f"{left / rate:,.0f} s left" if rate else "time left unknown"
    of = max(done, summary.due or 0)
    return f"{done:,} of {of:,} done, {_failing(summary):,} failing, {rate:,.0f} a second, {time_left}"


def _failing(summary: Summary) -> int:
    return summary.checked - summary.verdicts["ok"]


def summary_lines(summary: Summary) -> list[str]:
    """What a person wants to know in the end."""
    took_s, failing = summary.duration_s, _failing(summary)
    rate = summary.checked / took_s if took_s else 0.0
    lines = [
        f"Checked {summary.checked:,} in {took_s:.1f} s, {rate:,.0f} a second; {failing:,} failing.",
        *(f"  {verdict:<16}{count:>9,}" for verdict, count in summary.verdicts.most_common()),
        f"Recorded {summary.recorded:,}, still due {summary.postponed:,}. The oldest was {summary.lag_s:,.0f} s late.",
        f"{summary.round_trips:,} round trips to the database, {summary.kms_calls:,} keys unwrapped.",
    ]
    if summary.failure:
        lines.append(f"Not all could be claimed or recorded: {summary.failure.detail} The rest is still due.")
    return lines


def sweep_now(say: Say, *, terminal: bool) -> int:
    """One sweep of all that is due; 0 if everything could be claimed and recorded."""
    due, _ = wiring.sweep_store().count_due(COUNTED)
    if not due:
        say("Nothing is due.\n")
        return 0
    progress = Progress(say if terminal else _lines(say), terminal=terminal)
    summary = run_sweep(LONGEST_S, due=due, most=due, progress=progress)
    say(("\r\033[K" if terminal else "") + "\n".join(summary_lines(summary)) + "\n")
    return 1 if summary.failure else 0


def _lines(say: Say) -> Say:
    return lambda text: say(text + "\n")


class Sweeps:
    """Sweeps every minute from a thread, until :meth:`stop`; says a line for each that found something due."""

    def __init__(self, say: Say, every_s: float = EVERY_S) -> None:
        self._say = say
        self._every_s = every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeps", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more sweeps. One that is under way is left behind: what it has not recorded is due again."""
        self._stopped.set()
        self._thread.join(timeout=1)

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            summary = run_sweep(BACKGROUND_S)
            if summary.failure:
                self._say(f"Sweep: {summary.failure.detail}")
            if summary.checked:
                self._say(f"Sweep: {summary.checked:,} checked, {_failing(summary):,} failing.")


def main(state: Path = STATE, supabase_port: int = SUPABASE_PORT) -> int:
    def say(text: str) -> None:
        print(text, end="", flush=True)

    os.environ.update(local_settings(state, os.environ))
    if "SUPABASE_URL" not in os.environ:
        if not listens(supabase_port):
            print(NOTHING_RUNS, file=sys.stderr)
            return 1
        os.environ.update(settings_for(f"http://{LOOPBACK}:{supabase_port}", load_keys(state / "keys.json")))
    try:
        say(f"Sweeping {urlsplit(wiring.settings().supabase_url).netloc} …\n")
        return sweep_now(say, terminal=sys.stdout.isatty())
    except (BadSettings, AppError) as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("\nStopped. What was not recorded is still due.\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
