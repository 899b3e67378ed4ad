"""A secret that all tests use and nothing may show. `python -m tests.support.canary LOG…` searches what a run printed."""

from __future__ import annotations

import sys
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote

CANARY = "canary+5e1f/0c7ab2d94d6e8f03"


def forms(secret: str = CANARY) -> set[str]:
    """The secret as it is, URL encoded, and as it looks inside base64 at each of three alignments."""
    raw = secret.encode()
    inside = {b64encode(b"\0" * shift + raw + b"\0" * 3).decode()[4:-8] for shift in (1, 2)}
    return {secret, quote(secret, safe=""), b64encode(raw).decode().rstrip("=")[:-2], *inside}


def found_in(text: str, secret: str = CANARY) -> list[str]:
    return sorted(form for form in forms(secret) if form in text)


def main(logs: list[str]) -> int:
    leaks = [log for log in logs if found_in(Path(log).read_text(errors="replace"))]
    for log in leaks:
        print(f"A secret was printed: search {log} for the canary of tests/support/canary.py.", file=sys.stderr)
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
