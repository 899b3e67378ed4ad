"""``python -m catalogue [compile | check | import FILE… | own FOLDER]``: what CONTRIBUTING.md tells about."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from catalogue.checking import mistakes_in
from catalogue.compiling import Row, compiled
from catalogue.importing import Draft, drafts_from
from catalogue.reading import Mistake, Mistakes, Source, read
from catalogue.seeding import own_types_sql, seed_sql

FOLDER = Path(__file__).parent
SEED_FILE = FOLDER.parent / "supabase" / "seed.sql"
OWN_FILE = "own-types.sql"


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


def own_rows_of(folder: Path) -> list[Row]:
    """A team's own entries. Raises :class:`Mistakes`, also for a name that our catalogue has already."""
    rows = rows_of(folder)
    if not rows:
        raise Mistakes([Mistake(_shown(folder), 1, "there is no entry here: add a file such as acme.yaml")])
    taken = {row.slug for row in rows} & {path.stem for path in FOLDER.glob("*.yaml")}
    if taken:
        advice = "the catalogue has an entry of this name already: give the file and the slug another"
        raise Mistakes([Mistake(_shown(folder / f"{slug}.yaml"), 1, advice) for slug in taken])
    return [replace(row, source="custom") for row in rows]


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


def compile_all(chosen: argparse.Namespace) -> None:
    """Write supabase/seed.sql, or with ``check`` only compare it."""
    rows = rows_of(FOLDER)
    text = seed_sql(rows)
    if chosen.command != "check":
        SEED_FILE.write_text(text, encoding="utf-8")
    elif not SEED_FILE.exists() or SEED_FILE.read_text(encoding="utf-8") != text:
        raise Mistakes([Mistake(_shown(SEED_FILE), 1, "this is out of date: run `make catalogue`")])
    print(summary(rows))


def import_all(chosen: argparse.Namespace) -> None:
    """Turn server.json files into entries to review; a file that exists is never overwritten."""
    drafts: list[Draft] = []
    for path in chosen.files:
        drafts += drafts_from(path, _shown(path), local=chosen.local)
    for draft in drafts:
        target = chosen.into / f"{draft.entry['slug']}.yaml"
        if target.exists():
            print(f"{_shown(target)} exists already: compare the two by hand", file=sys.stderr)
            continue
        target.write_text(draft.text(), encoding="utf-8")
        print(f"{_shown(target)} is to review:")
        print(*(f"  - {note}" for note in draft.notes), sep="\n")
        print(*(f"  {mistake}" for mistake in mistakes_in(read(target, _shown(target)))), sep="\n")


def write_own(chosen: argparse.Namespace) -> None:
    """Compile a folder of private entries to SQL for a team's own database."""
    rows = own_rows_of(chosen.folder)
    target = chosen.folder / OWN_FILE
    target.write_text(own_types_sql(rows), encoding="utf-8")
    print(summary(rows))
    print(f"{_shown(target)} is written. Run it with psql, or as a migration of your own, as often as you like.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m catalogue", description=__doc__)
    parser.set_defaults(command="compile", run=compile_all)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("compile", help=compile_all.__doc__)
    commands.add_parser("check", help="is supabase/seed.sql up to date?")
    importing = commands.add_parser("import", help=import_all.__doc__)
    importing.add_argument("files", nargs="+", type=Path, metavar="server.json")
    importing.add_argument("--into", type=Path, default=FOLDER, help="the folder of the new files")
    importing.add_argument("--local", action="store_true", help="prefer the package that is run to the remote server")
    importing.set_defaults(run=import_all)
    own = commands.add_parser("own", help=write_own.__doc__)
    usual = os.environ.get("CATALOGUE_FOLDER")
    own.add_argument("folder", nargs="?" if usual else None, type=Path, default=usual, help="or CATALOGUE_FOLDER")
    own.set_defaults(run=write_own)
    return parser


def main(arguments: Sequence[str]) -> int:
    chosen = _parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except Mistakes as wrong:
        print(*wrong.found, sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
