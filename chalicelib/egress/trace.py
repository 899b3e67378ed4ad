"""What happened on the way: timed steps, and what each response said before any library read it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from chalicelib.model import Step

#: A far side can make the mcp SDK reconnect as often as it likes: only the last ones are kept.
KEPT = 100


@dataclass(frozen=True)
class Answer:
    """The head of one response. The texts are the far side's: strip and shorten them before showing them."""

    method: str
    status: int
    content_type: str
    www_authenticate: str | None
    retry_after: str | None


@dataclass
class Trace:
    """Filled by the guard during one check. One trace per check, never shared.

    ``steps`` holds each name once, in order of first appearance; a later failure replaces an earlier success, so that
    the step at fault is the one with ``ok=False``. ``answers`` and ``failures`` (exceptions of the transport) are
    oldest first; they are here even when a library turned them into something else. ``left_origin`` says that a
    redirect led to another origin, where no credential was shown: what that one answers proves nothing about it.
    """

    steps: list[Step] = field(default_factory=list)
    answers: deque[Answer] = field(default_factory=lambda: deque(maxlen=KEPT))
    failures: deque[Exception] = field(default_factory=lambda: deque(maxlen=KEPT))
    left_origin: bool = False
    server_certificate: bytes | None = None  # DER, of the last TLS connection

    @contextmanager
    def step(self, name: str, detail: str | None = None) -> Iterator[None]:
        """Times the block as a step; it failed if the block raises, cancellation included."""
        began = perf_counter()
        try:
            yield
        except BaseException:
            self.note(name, ok=False, began=began, detail=detail)
            raise
        self.note(name, ok=True, began=began)

    def note(self, name: str, *, ok: bool, began: float, detail: str | None = None) -> None:
        """Records a step that began at ``began`` (``time.perf_counter()``) and ends now."""
        step = Step(name, ok, round((perf_counter() - began) * 1000), detail)
        known = next((index for index, earlier in enumerate(self.steps) if earlier.name == name), None)
        if known is None:
            self.steps.append(step)
        elif not ok:
            self.steps[known] = step
