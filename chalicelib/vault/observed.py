"""How the key provider did when it was last asked: for a health check that must neither wait for KMS nor pay for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from chalicelib.errors import Unavailable
from chalicelib.vault.keys import KeyProvider

#: An older failure says nothing about now.
RECENT_S = 60.0


class ObservedKeys:
    """A ``KeyProvider`` that passes everything on, and remembers whether the last call found it there."""

    def __init__(self, inner: KeyProvider, clock: Callable[[], float]) -> None:
        self._inner = inner
        self._clock = clock
        self._failed_at: float | None = None

    @property
    def name(self) -> str:
        return self._inner.name

    def generate(self, context: Mapping[str, str]) -> tuple[bytes, str]:
        with self._observing():
            return self._inner.generate(context)

    def unwrap(self, wrapped: str, context: Mapping[str, str]) -> bytes:
        with self._observing():
            return self._inner.unwrap(wrapped, context)

    def rewrap(self, wrapped: str, context: Mapping[str, str]) -> str:
        with self._observing():
            return self._inner.rewrap(wrapped, context)

    def require(self) -> None:
        """Raise :class:`Unavailable` if the last call did, a minute ago at most. Asks nobody."""
        failed_at = self._failed_at
        if failed_at is not None and self._clock() - failed_at < RECENT_S:
            raise Unavailable("The key service did not answer when it was last asked.")

    @contextmanager
    def _observing(self) -> Iterator[None]:
        try:
            yield
        except Unavailable:
            self._failed_at = self._clock()
            raise
        self._failed_at = None
