"""``python -m catalogue [compile | check]``: what CONTRIBUTING.md tells about."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from catalogue.checking import mistakes_in
from catalogue.compiling import Row, compiled
from catalogue.reading import Mistake, Mistakes, Source, read
from catalogue.seeding import seed_sql

FOLDER = Path(__file__).parent
SEED_FILE = FOLDER.parent / "supabase" / "seed.sql"


def rows_of(folder: Path) -> list[Row]:
    """Every entry of a folder, checked and compiled. Raises :class:`Mistakes` that names all that is wrong."""
    mistakes: list[Mistake] = []
    sources: list[Source] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            source = read(path, _shown(path))
        except Mistakes as wrong:
            mistakes += wrong.found
            continue
        mistakes += mistakes_in(source)
        sources.append(source)
    mistakes += [Mistake(_shown(path), 1, f"rename it to {path.stem}.yaml") for path in sorted(folder.glob("*.yml"))]
    if mistakes:
        raise Mistakes(mistakes)
    return [compiled(source.data) for source in sources]


def _shown(path: Path) -> str:
    return os.path.relpath(path)


def summary(rows: Sequence[Row]) -> str:
    """How many entries there are: by type, category and auth method."""
    counts = {
        "type": Counter(row.type for row in rows),
        "category": Counter(row.category for row in rows),
        "auth method": Counter(method for row in rows for method in row.auth_methods),
    }
    lines = [f"{len(rows)} integration types"]
    for what, found in counts.items():
        lines.append(f"  by {what}: " + ", ".join(f"{name} {count}" for name, count in sorted(found.items())))
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m catalogue", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["compile", "check"], default="compile")
    chosen = parser.parse_args(arguments)
    try:
        rows = rows_of(FOLDER)
    except Mistakes as wrong:
        print(*wrong.found, sep="\n", file=sys.stderr)
        return 1
    text = seed_sql(rows)
    if chosen.command == "check":
        if not SEED_FILE.exists() or SEED_FILE.read_text(encoding="utf-8") != text:
            print(f"{_shown(SEED_FILE)} is out of date: run `make catalogue`", file=sys.stderr)
            return 1
    else:
        SEED_FILE.write_text(text, encoding="utf-8")
    print(summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
