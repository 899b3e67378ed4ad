"""`make clean`: forget what local runs have stored."""

from __future__ import annotations

import shutil
import sys

from local.processes import CannotStart
from local.state import DEMO_STATE, STATE, exclusive, forget


def main() -> int:
    try:
        with exclusive(STATE), exclusive(DEMO_STATE):
            forget(DEMO_STATE)
            forget(STATE)
            shutil.rmtree(STATE)
    except CannotStart as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
