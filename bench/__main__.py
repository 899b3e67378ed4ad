"""`make bench`, all of it, in some ten minutes; `make bench ARGS=vault` one part.

`make bench ARGS=--full`: the database at a million rows, the sweep in more rounds.
"""

from __future__ import annotations

import sys

PARTS = ("vault", "egress", "api", "cold_start", "served", "fuzz", "catalogue", "sweep", "database")
#: Parts that do more with `--full`.
LARGE = ("sweep", "database")


def main(arguments: list[str]) -> int:
    full = "--full" in arguments
    chosen = [name for name in arguments if not name.startswith("--")] or list(PARTS)
    unknown = sorted(set(chosen) - set(PARTS))
    if unknown:
        print(f"There is no bench {', '.join(unknown)}. There are: {', '.join(PARTS)}.", file=sys.stderr)
        return 2
    for name in chosen:
        print(f"== {name}", flush=True)
        part = __import__(f"bench.{name}", fromlist=["report"])
        part.report(full) if name in LARGE else part.report()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
