"""New keys, without downtime: an operator's command. `docs/key-rotation.md` tells the whole procedure.

    python -m chalicelib.jobs.rotate_keys                   wrap every data key by the current KMS (or local) key
    python -m chalicelib.jobs.rotate_keys --new-data-keys   also give every user a new data key and seal everything anew
    python -m chalicelib.jobs.rotate_keys --dry-run         change nothing; open everything and say what does not open

Killed at any point and started again, it goes on where it was. Requests and sweeps run meanwhile; whoever saves a
credential meanwhile wins. Ends with 0 when all is done, 1 when something does not open, 2 when it had to stop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from uuid import UUID

from chalicelib import wiring
from chalicelib.errors import AppError, SealError
from chalicelib.model import DataKey
from chalicelib.settings import BadSettings
from chalicelib.store.rotation import RotationStore, SealedCredential, SealedPage
from chalicelib.vault import add_local_key
from chalicelib.vault.vault import Vault

BATCH = 200
#: Calls of KMS under way at once: fast enough for a million users in an hour, far below any account's quota.
THREADS = 16
#: A request that has read a key may save under it for as long as a request can last, many times over.
GRACE_S = 3_600
#: Users who save while we look make another look necessary; they do not save all the time.
MOST_PASSES = 10

Say = Callable[[str], None]
Old = TypeVar("Old")
New = TypeVar("New")


@dataclass
class Unreadable:
    """What did not open, by id: a line for the operator each. Never holds a value."""

    data_keys: dict[UUID, str] = field(default_factory=dict)
    credentials: dict[UUID, str] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        return [*self.data_keys.values(), *self.credentials.values()]

    def credential(self, row: SealedCredential, error: SealError) -> None:
        binding = row.binding
        self.credentials[binding.credential_id] = (
            f"integration {binding.integration_id}, credential {binding.credential_type}: {error.code}"
        )

    def data_key(self, key: DataKey, error: SealError) -> None:
        self.data_keys[key.id] = f"data key {key.id} of user {key.user_id}: {error.code}"


class Rotation:
    """One run of the command. ``say`` gets a line of progress per batch."""

    def __init__(self, store: RotationStore, vault: Vault, say: Say, batch: int = BATCH) -> None:
        self._store = store
        self._vault = vault
        self._say = say
        self._batch = batch
        self.unreadable = Unreadable()

    def rehearse(self) -> None:
        """Open every credential and change nothing."""
        _, total = self._store.count()
        seen = 0
        for page in self._pages(retired=False):
            self._each(page.credentials, partial(self._opens, page))
            seen += len(page.credentials)
            self._say(f"opened {seen:,} of {total:,} credentials, {len(self.unreadable.lines):,} do not open")

    def wrap_anew(self) -> None:
        """Bring every data key under the current wrapping key. Those that are there already cost nothing."""
        total, _ = self._store.count()
        seen = changed = 0
        after: UUID | None = None
        while keys := self._store.data_keys(after, self._batch):
            after = keys[-1].id
            rewrapped = [(old, new) for old, new in self._each(keys, self._rewrapped) if old != new]
            changed += self._store.rewrap(rewrapped)
            seen += len(keys)
            self._say(f"looked at {seen:,} of {total:,} data keys, wrapped {changed:,} anew")

    def seal_anew(self) -> None:
        """Give every user a new data key and seal all credentials with it."""
        started_at = self._store.begin()
        made = 0
        after: UUID | None = None
        while keys := self._store.data_keys(after, self._batch, made_before=started_at):
            after = keys[-1].id
            made += self._store.replace(self._each(keys, lambda old: (old, self._vault.new_key(old.user_id))))
            self._say(f"made {made:,} new data keys")
        for _ in range(MOST_PASSES):
            if not self._leave_retired_keys():
                break
        self._store.finish()

    def forget(self) -> None:
        """Delete the retired keys that nothing is sealed with any more, an hour after they were retired."""
        forgotten = 0
        while now := self._store.forget_retired(GRACE_S):
            forgotten += now
        if forgotten:
            self._say(f"deleted {forgotten:,} data keys that were in use no more")

    def _leave_retired_keys(self) -> int:
        """Seal anew what is under retired keys; returns how much could be opened, whether or not it was still there."""
        seen = changed = 0
        self.unreadable.credentials.clear()  # what its owner has saved again since the last look is mended
        for page in self._pages(retired=True):
            resealed = self._each(page.credentials, partial(self._resealed, page))
            changed += self._store.reseal(resealed)
            seen += len(resealed)
            self._say(f"sealed {changed:,} credentials anew, {len(self.unreadable.lines):,} do not open")
        return seen

    def _pages(self, *, retired: bool) -> Iterable[SealedPage]:
        after: SealedCredential | None = None
        while True:
            page = self._store.credentials(after, self._batch, retired=retired)
            if not page.credentials:
                return
            after = page.credentials[-1]
            yield page

    def _each(self, items: Sequence[Old], work: Callable[[Old], New | None]) -> list[New]:
        """What ``work`` makes of each, KMS being asked in parallel; without what it could not do."""
        with ThreadPoolExecutor(THREADS) as pool:
            return [done for done in pool.map(work, items) if done is not None]

    def _opens(self, page: SealedPage, row: SealedCredential) -> bool | None:
        try:
            self._vault.open(row.encrypted_value, row.binding, page.keys)
        except SealError as error:
            self.unreadable.credential(row, error)
            return None
        return True

    def _rewrapped(self, key: DataKey) -> tuple[DataKey, DataKey] | None:
        try:
            return key, self._vault.rewrap(key)
        except SealError as error:
            self.unreadable.data_key(key, error)
            return None

    def _resealed(self, page: SealedPage, row: SealedCredential) -> tuple[SealedCredential, DataKey, str] | None:
        try:
            secret = self._vault.open(row.encrypted_value, row.binding, page.keys)
        except SealError as error:
            self.unreadable.credential(row, error)
            return None
        current = page.current.get(row.binding.user_id)
        if current is None:  # whoever saves next makes one; until then the retired key serves
            return None
        return row, current, self._vault.seal(secret, row.binding, current)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m chalicelib.jobs.rotate_keys", description=__doc__.partition(":")[0]
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="change nothing; open everything and say what does not open"
    )
    parser.add_argument(
        "--new-data-keys", action="store_true", help="also seal every credential anew, with a new key per user"
    )
    parser.add_argument(
        "--new-local-key", action="store_true", help="put a new key into LOCAL_KEY_FILE first (local runs)"
    )
    chosen = parser.parse_args(arguments)
    say = partial(print, flush=True)
    try:
        rotation = Rotation(RotationStore(wiring.supabase()), wiring.vault(), say)
        if chosen.dry_run:
            rotation.rehearse()
        else:
            _rotate(rotation, new_data_keys=chosen.new_data_keys, new_local_key=chosen.new_local_key)
    except BadSettings as error:
        say(str(error))
        return 2
    except AppError as error:
        say(f"Stopped: {error.detail} Nothing is lost: start the command again to go on.")
        return 2
    for line in rotation.unreadable.lines:
        say(f"does not open: {line}")
    say("Done." if not rotation.unreadable.lines else f"{len(rotation.unreadable.lines):,} do not open, see above.")
    return 1 if rotation.unreadable.lines else 0


def _rotate(rotation: Rotation, *, new_data_keys: bool, new_local_key: bool) -> None:
    if new_local_key:
        add_local_key(wiring.settings())
    rotation.wrap_anew()
    if new_data_keys:
        rotation.seal_anew()
    rotation.forget()


if __name__ == "__main__":
    sys.exit(main())
