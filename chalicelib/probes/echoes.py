"""Secrets that the far side echoes, taken out of its words before anybody reads them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from html import escape
from urllib.parse import quote, quote_plus

#: Shorter secrets are words that may stand in any text.
SHORTEST = 4
#: So many of a secret's first characters count as the secret: a text may be cut within it, by us or by them.
HEAD = 8
#: Longer than any text that is searched for echoes.
LONGEST = 8_192

_ALPHABETS = str.maketrans("-_", "+/")
#: What different libraries leave as it is when they percent-encode.
_LEFT_ALONE = ("", "/", "!'()*", "!'()*;,/?:@&=+$#")


class Echoes:
    """Finds secrets as they are, in another case, percent-encoded, escaped for JSON or HTML, and in base64."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {secret[:LONGEST] for secret in secrets if len(secret) >= SHORTEST}
        forms = {_folded(form) for secret in known for form in _forms(secret)}
        self._forms = sorted(form for form in forms if len(form) >= SHORTEST)

    def redacted(self, text: str) -> str:
        """The text with ``…`` in place of each secret, and of what begins like one for :data:`HEAD` characters."""
        folded, kept, end = _folded(text), [], 0
        for start, stop in sorted(span for form in self._forms for span in _spans(form, folded)):
            if start >= end:
                kept += [text[end:start], "…"]
            end = max(end, stop)
        return "".join([*kept, text[end:]])


def _folded(text: str) -> str:
    """Case and the two alphabets of base64 do not matter. One character for one, so that places stay what they are."""
    return text.replace("\u0130", "i").lower().translate(_ALPHABETS)  # no other letter becomes two in lower case


def _spans(form: str, text: str) -> Iterator[tuple[int, int]]:
    start = text.find(form[:HEAD])
    while start >= 0:
        stop = start + _shared(form, text[start : start + len(form)])
        yield start, stop
        start = text.find(form[:HEAD], stop)


def _shared(one: str, other: str) -> int:
    """How many first characters the two have in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))


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
