"""What generated requests find: schemathesis with all its checks, on every operation of the published document."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

from tests.support.fuzz import fuzz, fuzzed_world
from tests.support.postgres import Cluster
from tests.support.stack import Stack

EXAMPLES = 300


def report() -> None:
    logging.disable(logging.INFO)  # the app's line per request would drown the figures
    cluster = Cluster()
    cluster.start()
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(cluster, Path(folder))
        try:
            stack.start()
            with fuzzed_world(stack) as world:
                began = time.monotonic()
                outcome = fuzz(world, Path(folder), examples=EXAMPLES)
        finally:
            stack.stop()
            cluster.stop()
    if outcome.failures:
        print(outcome.output)
    found = "; ".join(f"{title}: {', '.join(operations)}" for title, operations in outcome.failures.items())
    print(f"{outcome.requests:,} requests in {time.monotonic() - began:.0f} s: {found or 'nothing found'}")


if __name__ == "__main__":
    report()
