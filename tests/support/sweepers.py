"""A process that makes sweepers: each is a fork of it that sweeps until it is killed. Forking spares the start-up.

    python -m tests.support.sweepers < commands

For every line of input one sweeper begins; its process id is printed. The line "reap" waits for all that were killed.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial

import anyio

from chalicelib import wiring
from chalicelib.jobs.sweep import Sweep
from tests.support.sweeping import LIMITS, a_prober


def sweep_for_ever() -> None:
    limits = replace(LIMITS, batch=20, total_s=1.5, lease_s=3)
    while True:
        sweep = Sweep(
            store=wiring.sweep_store(),
            vault=wiring.vault(),
            checker=a_prober(),
            tokens=wiring.token_refresher(),
            limits=limits,
        )
        anyio.run(partial(sweep.run, 30.0))


def main() -> None:
    children: list[int] = []
    for line in sys.stdin:
        if line.strip() == "reap":
            for child in children:
                os.waitpid(child, 0)
            children.clear()
            print("reaped", flush=True)
            continue
        child = os.fork()
        if child == 0:
            sweep_for_ever()
        children.append(child)
        print(child, flush=True)


if __name__ == "__main__":
    main()
