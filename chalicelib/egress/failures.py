"""What an exchange can end with, and how to find it in what libraries wrap around it."""

from __future__ import annotations

from collections.abc import Iterator

from chalicelib.errors import Blocked


class ResponseTooLarge(Exception):
    """The far side sent more than a check may read: headers, body, or body once decoded."""


class RedirectBlocked(Blocked):
    """A redirect leads where no request may follow: from https to http, or a library's own hop to another origin."""

    code = "redirect_blocked"

    def __init__(self) -> None:
        super().__init__(
            "The server sends us on to another address that cannot be used here. "
            "Ask its operator for its final https address, and save that."
        )


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, everything inside exception groups, and all their causes and contexts, each once, outermost first.

    httpcore drops ``__cause__`` on its way out and the mcp SDK nests exception groups, so a ``socket.gaierror``,
    ``ssl.SSLCertVerificationError``, ``ConnectionRefusedError`` or ``Blocked`` is found only by walking all of these.
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
        waiting += [inner for inner in (current.__cause__, current.__context__) if inner is not None]
