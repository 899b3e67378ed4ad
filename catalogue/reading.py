"""YAML files with the line of every value, so that a mistake can be shown where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Place = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class Mistake:
    """Something to correct; ``message`` says what to write instead."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


class Mistakes(Exception):
    """All that is wrong with some files, in order."""

    def __init__(self, found: Iterable[Mistake]) -> None:
        self.found = sorted(set(found))
        super().__init__("\n".join(map(str, self.found)))


@dataclass(frozen=True)
class Source:
    """One file as it was read. ``lines`` knows the line of each value; of a mapping's entry, the line of its key."""

    file: str
    stem: str
    data: Any
    lines: Mapping[Place, int] = field(repr=False, compare=False)

    def line(self, place: Iterable[str | int]) -> int:
        """The line of this value, or of the nearest one around it."""
        wanted = tuple(place)
        while wanted and wanted not in self.lines:
            wanted = wanted[:-1]
        return self.lines.get(wanted, 1)

    def mistake(self, place: Iterable[str | int], message: str) -> Mistake:
        return Mistake(self.file, self.line(place), message)


class _Loader(yaml.SafeLoader):
    """The plain scalars of YAML 1.2 only: in YAML 1.1 ``on`` and ``no`` are booleans, and days are dates."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as PyYAML declares it


for _tag, _pattern, _first in (
    ("bool", r"true|false", ["t", "f"]),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"-?(?:0|[1-9][0-9]*)", list("-0123456789")),
    ("float", r"-?(?:0|[1-9][0-9]*)\.[0-9]+", list("-0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def read(path: Path, shown_as: str) -> Source:
    """Read one YAML file. Raises :class:`Mistakes` if it is not YAML, or names a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            mistakes: list[Mistake] = []
            lines: dict[Place, int] = {}
            if node is not None:
                _walk(node, (), node.start_mark.line + 1, lines, mistakes, shown_as)
            if mistakes:
                raise Mistakes(mistakes)
            data = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except UnicodeDecodeError:
        raise Mistakes([Mistake(shown_as, 1, "the file is not UTF-8 text: save it as UTF-8")]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "unreadable"
        advice = (
            "put a text in quotes if it holds ': ' or ' #', a comma inside {} or [], or begins with a special character"
        )
        line = mark.line + 1 if mark else 1
        raise Mistakes([Mistake(shown_as, line, f"this is not YAML ({problem}): {advice}")]) from None
    return Source(shown_as, path.stem, data, lines)


def _walk(
    node: yaml.Node, place: Place, line: int, lines: dict[Place, int], mistakes: list[Mistake], file: str
) -> None:
    lines[place] = line
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            _walk(child, (*place, index), child.start_mark.line + 1, lines, mistakes, file)
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            here, key_line = (*place, str(key.value)), key.start_mark.line + 1
            if here in lines:
                message = f"'{key.value}' stands here a second time (first in line {lines[here]}): keep one of them"
                mistakes.append(Mistake(file, key_line, message))
            _walk(child, here, key_line, lines, mistakes, file)
