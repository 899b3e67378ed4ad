"""Unwrapped data keys, in this process and nowhere else."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chalicelib.model import DataKey

MAX_KEYS = 256
MAX_AGE_S = 300.0
MAX_USES = 1_000


class _Entry:
    __slots__ = ("cipher", "expires_at", "uses_left")

    def __init__(self, cipher: AESGCM, expires_at: float) -> None:
        self.cipher = cipher
        self.expires_at = expires_at
        self.uses_left = MAX_USES


class KeyCache:
    """Least recently used first out. An entry serves 300 s or 1,000 uses; a key that is wanted by many threads at once
    is unwrapped by one of them.

    Entries are found by owner, id and wrapped text together: another user's question never meets them.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[DataKey, _Entry] = OrderedDict()
        self._under_way: dict[DataKey, Future[None]] = {}
        self.loads = 0  # how often a key had to be unwrapped

    def put(self, key: DataKey, plaintext: bytes) -> None:
        """Keep a key that was just made or unwrapped."""
        cipher = AESGCM(plaintext)
        with self._lock:
            now = self._clock()
            for old in [old for old, entry in self._entries.items() if entry.expires_at <= now]:
                del self._entries[old]
            self._entries[key] = _Entry(cipher, now + MAX_AGE_S)
            self._entries.move_to_end(key)
            if len(self._entries) > MAX_KEYS:
                self._entries.popitem(last=False)

    def get(self, key: DataKey, unwrap: Callable[[], bytes]) -> AESGCM:
        """The cipher of a key; ``unwrap`` is called if it is not here. What that raises reaches everyone waiting."""
        while True:
            with self._lock:
                cipher = self._use(key)
                if cipher is not None:
                    return cipher
                waiting_for = self._under_way.get(key)
                if waiting_for is None:
                    mine = self._under_way[key] = Future()
            if waiting_for is not None:
                waiting_for.result()
                continue
            self._load(key, unwrap, mine)

    def _use(self, key: DataKey) -> AESGCM | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.uses_left == 0 or self._clock() >= entry.expires_at:
            del self._entries[key]
            return None
        entry.uses_left -= 1
        self._entries.move_to_end(key)
        return entry.cipher

    def _load(self, key: DataKey, unwrap: Callable[[], bytes], done: Future[None]) -> None:
        try:
            self.put(key, unwrap())
        except BaseException as error:
            self._settle(key)
            done.set_exception(error)
            raise
        self._settle(key)
        done.set_result(None)

    def _settle(self, key: DataKey) -> None:
        with self._lock:
            self.loads += 1
            del self._under_way[key]
