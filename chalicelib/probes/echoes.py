"""Secrets that the far side echoes, taken out of its words before anybody reads them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from itertools import islice
from typing import Any
from urllib.parse import quote, quote_plus

#: Shorter secrets are words that may stand in any text.
SHORTEST = 4
#: So many of a secret's first characters count as the secret: a text may be cut within it, by us or by them.
HEAD = 8
#: Longer than any text that is searched for echoes.
LONGEST = 8_192
#: A text with more echoes than this is worth nothing without them, and looking for all of them costs CPU.
MOST_ECHOES = 16
_STRIDE = 16

_ALPHABETS = str.maketrans("-_", "+/")
#: What different libraries leave as it is when they percent-encode.
_LEFT_ALONE = ("", "/", "!'()*", "!'()*;,/?:@&=+$#")


class Echoes:
    """Finds secrets as they are, in another case, percent-encoded, escaped for JSON or HTML, and in base64."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {secret[:LONGEST] for secret in secrets if len(secret) >= SHORTEST}
        forms = {_folded(form) for secret in known for form in _forms(secret)}
        self._by_head: dict[str, list[str]] = {}
        for form in sorted(form for form in forms if len(form) >= SHORTEST):
            self._by_head.setdefault(form[:HEAD], []).append(form)

    def redacted(self, text: str) -> str:
        """The text with ``…`` in place of each secret, and of what begins like one for :data:`HEAD` characters.

        Only ``…`` is left of a text with more of them than :data:`MOST_ECHOES`.
        """
        folded, kept, end = _folded(text), [], 0
        spans = list(islice(self._spans(folded), MOST_ECHOES + 1))
        if len(spans) > MOST_ECHOES:
            return "…"
        for start, stop in sorted(spans):
            if start >= end:
                kept += [text[end:start], "…"]
            end = max(end, stop)
        return "".join([*kept, text[end:]])

    def redacted_in(self, value: dict[str, Any]) -> dict[str, Any]:
        """The same for every text within a JSON value, keys included. One look at the whole spares the usual case."""
        whole = _folded(json.dumps(value, ensure_ascii=False))
        return self._members(value) if any(head in whole for head in self._by_head) else value

    def _members(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {self.redacted(key): self._within(item) for key, item in value.items()}

    def _within(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.redacted(value)
        if isinstance(value, Mapping):
            return self._members(value)
        if isinstance(value, list | tuple):
            return [self._within(item) for item in value]
        return value

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        for head, forms in self._by_head.items():
            start = text.find(head)
            while start >= 0:
                stop = start + max(_shared(form, text, start) for form in forms)
                yield start, stop
                start = text.find(head, stop)


def _folded(text: str) -> str:
    """Case and the two alphabets of base64 do not matter. One character for one, so that places stay what they are."""
    return text.replace("\u0130", "i").lower().translate(_ALPHABETS)  # no other letter becomes two in lower case


def _shared(form: str, text: str, start: int) -> int:
    """How many first characters the form has in common with what begins there in the text."""
    length, most = 0, min(len(form), len(text) - start)
    while length < most and form[length : length + _STRIDE] == text[start + length : start + length + _STRIDE]:
        length += _STRIDE
    while length < most and form[length] == text[start + length]:
        length += 1
    return min(length, most)


def _forms(secret: str) -> Iterator[str]:
    data = secret.encode(errors="replace")
    yield secret
    yield from (quote(data, safe=safe) for safe in _LEFT_ALONE)
    yield quote_plus(data)
    yield escape(secret)
    yield escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
    for text in (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        yield from (text, text.replace("/", "\\/"))
    # Whatever stands before the secret, it begins at one of three places within a group of base64.
    yield from (b64encode(data[skipped:]).decode().rstrip("=") for skipped in range(3))
