"""Vaults, bindings and data keys for tests."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from chalicelib.model import Binding
from chalicelib.vault.keys import KeyProvider
from chalicelib.vault.local import LocalKeys
from chalicelib.vault.vault import Vault


def a_binding(**changes: Any) -> Binding:
    """A credential of somebody's, with whatever the test cares about."""
    binding = Binding(uuid4(), uuid4(), uuid4(), "api_key", "https://api.example.com:443", 1)
    return replace(binding, **changes)


def a_vault(folder: Path, *, environment: str = "test", app: str = "integrations") -> Vault:
    return Vault(LocalKeys(folder / "keys.json"), app=app, environment=environment)


class CountingKeys:
    """A provider that counts what it passes on, and can be made slow (``gate``) or to fail (``failure``)."""

    name = "counting"

    def __init__(self, inner: KeyProvider) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self.unwraps = 0
        self.contexts: list[dict[str, str]] = []
        self.failure: Exception | None = None
        self.gate: threading.Event | threading.Barrier | None = None

    def generate(self, context: Mapping[str, str]) -> tuple[bytes, str]:
        return self._inner.generate(context)

    def unwrap(self, wrapped: str, context: Mapping[str, str]) -> bytes:
        with self._lock:
            self.unwraps += 1
            self.contexts.append(dict(context))
        if self.gate is not None:
            self.gate.wait(30)
        if self.failure is not None:
            raise self.failure
        return self._inner.unwrap(wrapped, context)

    def rewrap(self, wrapped: str, context: Mapping[str, str]) -> str:
        return self._inner.rewrap(wrapped, context)


class Clock:
    """Time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now
