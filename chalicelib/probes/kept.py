"""What may be kept of the far side's words and values: small, plain JSON that any parser and any database takes.

PostgreSQL's ``jsonb`` refuses ``\\u0000`` and lone surrogates, JSON knows no NaN and no Infinity, and Python reads all
of them from a body: one such value in a result, and the result cannot be recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

TEXT, KEY, DETAIL, MESSAGE = 200, 60, 300, 1_000
#: Beyond what 64 bits hold, most readers of JSON are wrong or fail.
LARGEST_INTEGER = 2**64 - 1
#: Of everything that is kept of one connection, as compact JSON in UTF-8.
MOST_BYTES = 96 * 1024


def legible(text: str, length: int = TEXT) -> str:
    """The text on one line and not longer than this; a space for every character that cannot be printed."""
    text = text[:length]
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def shortened(value: Any, length: int = TEXT, *, items: int = 50, members: int = 20, depth: int = 1) -> Any:
    """A value of the far side as it may be kept: few, short and legible texts, finite numbers, little nesting.

    Lists and objects within more than ``depth`` - 1 others are left out, and a number that JSON or 64 bits cannot hold
    becomes None.
    """
    if isinstance(value, str):
        return legible(value, length)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= LARGEST_INTEGER else None
    if isinstance(value, float):
        return value if isfinite(value) else None

    def inner(item: Any) -> Any:
        return shortened(item, length, items=items, members=members, depth=depth - 1)

    if isinstance(value, list | tuple):
        return [inner(item) for item in value[:items] if depth > 1 or not _nested(item)]
    if isinstance(value, Mapping):
        kept = list(value.items())[:members]
        return {legible(str(key), KEY): inner(item) for key, item in kept if depth > 1 or not _nested(item)}
    return None


def _nested(value: Any) -> bool:
    return isinstance(value, list | tuple | Mapping)


def fitting(capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """Capabilities as they may be stored: plain throughout, and smaller than :data:`MOST_BYTES`.

    Were they larger, the largest members are left out, one after the other. Each probe keeps to bounds of its own, so
    that nothing useful is lost here.
    """
    kept: dict[str, Any] = shortened(capabilities, 4_096, items=2_000, members=100, depth=6)
    while size_of(kept) >= MOST_BYTES:
        del kept[max(kept, key=lambda name: size_of(kept[name]))]
    return kept


def size_of(value: Any) -> int:
    """How many bytes this is as compact JSON in UTF-8."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
