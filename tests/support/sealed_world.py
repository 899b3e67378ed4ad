"""Users with sealed credentials in a database of their own, for the tests of key rotation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from chalicelib import wiring
from chalicelib.jobs.rotate_keys import GRACE_S, Rotation
from chalicelib.model import Binding, DataKey, Secret
from chalicelib.settings import read_settings
from chalicelib.store.integrations import UserStore
from chalicelib.store.rotation import RotationStore
from chalicelib.store.supabase import Supabase
from chalicelib.vault import provider_from
from chalicelib.vault.vault import Vault
from tests.support.postgres import Cluster
from tests.support.stack import Stack

PLACE = "https://api.example.com:443"
CANARY = "canary-81c0e2-of-the-rotation-tests"
Values = dict[UUID, str]


class World:
    """A database of its own with the service's vault over it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.settings = read_settings(stack.environment())
        self.supabase = Supabase(self.settings)
        self.store = RotationStore(self.supabase)
        self.provider: Any = provider_from(self.settings)
        self.said: list[str] = []
        self._connection = stack.database.connect(autocommit=True)

    def close(self) -> None:
        self._connection.close()
        self.supabase.close()

    def vault(self) -> Vault:
        """As a process that has just started has it."""
        return Vault(self.provider, app=wiring.APP_NAME, environment=self.settings.environment)

    def rotation(self, store: Any = None, batch: int = 200) -> Rotation:
        return Rotation(store or self.store, self.vault(), self.said.append, batch)

    def sql(self, statement: Any, *values: Any) -> list[tuple[Any, ...]]:
        done = self._connection.execute(statement, values)
        return done.fetchall() if done.description else []

    def a_user(self, credentials: int = 1) -> User:
        user_id, token = self.stack.new_user()
        key = self.vault().new_key(user_id)
        self.sql(
            "insert into public.user_data_keys (id, user_id, wrapped_key) values (%s, %s, %s)",
            key.id,
            user_id,
            key.wrapped,
        )
        user = User(self, user_id, Secret(token), key)
        for number in range(credentials):
            user.adds(f"{CANARY} {user_id} {number}")
        return user

    def bindings(self) -> list[tuple[Binding, str, UUID]]:
        rows = self.sql(
            "select user_id, user_integration_id, id, credential_type, destination, row_version, encrypted_value, "
            "data_key_id from public.integration_credentials order by id"
        )
        return [(Binding(*row[:6]), row[6], row[7]) for row in rows]

    def data_keys(self, *, current: bool = False) -> list[DataKey]:
        where = "where retired_at is null" if current else "where true"
        return [
            DataKey(*row) for row in self.sql(f"select id, user_id, wrapped_key from public.user_data_keys {where}")
        ]

    def values(self) -> Values:
        """Everything, opened by a fresh process."""
        vault, keys = self.vault(), self.data_keys()
        return {b.credential_id: vault.open(sealed, b, keys).reveal() for b, sealed, _ in self.bindings()}

    def all_under_current_keys(self) -> bool:
        return {key_id for *_, key_id in self.bindings()} <= {key.id for key in self.data_keys(current=True)}

    def age_retired_keys(self) -> None:
        self.sql(
            "update public.user_data_keys set retired_at = now() - make_interval(secs => %s) "
            "where retired_at is not null",
            GRACE_S + 1,
        )


class User:
    """Somebody with credentials, who can save others through the store that the API uses."""

    def __init__(self, world: World, user_id: UUID, token: Secret, key: DataKey) -> None:
        self.id = user_id
        self.integrations: list[UUID] = []
        self._world = world
        self._key = key
        self._store = UserStore(world.supabase, user_id, token)

    def adds(self, value: str) -> Binding:
        integration_id, world = uuid4(), self._world
        world.sql(
            "insert into public.user_integrations (id, user_id, integration_type_id, name) "
            "select %s, %s, id, %s from public.integration_types limit 1",
            integration_id, self.id, str(integration_id),
        )  # fmt: skip
        self.integrations.append(integration_id)
        binding = Binding(self.id, integration_id, uuid4(), "api_key", PLACE, 1)
        world.sql(
            "insert into public.integration_credentials (id, user_integration_id, user_id, credential_type, "
            "encrypted_value, data_key_id, destination) values (%s, %s, %s, %s, %s, %s, %s)",
            binding.credential_id, integration_id, self.id, "api_key",
            world.vault().seal(Secret(value), binding, self._key), self._key.id, PLACE,
        )  # fmt: skip
        return binding

    def prepares(self, value: str) -> Callable[[], None]:
        """Read and seal as a request does; the answer writes, when it is called."""
        integration_id = self.integrations[0]
        found = self._store.prepare(integration_id=integration_id, secrets=True)
        (row,) = found["credentials"]
        (current,) = (key for key in found["keys"] if key["current"])
        key = DataKey(UUID(current["id"]), self.id, current["wrapped_key"])
        binding = Binding(self.id, integration_id, UUID(row["id"]), "api_key", PLACE, row["row_version"] + 1)
        credential = {
            "id": row["id"],
            "credential_type": "api_key",
            "encrypted_value": self._world.vault().seal(Secret(value), binding, key),
            "data_key_id": current["id"],
            "row_version": binding.row_version,
            "destination": PLACE,
        }
        version = found["integration"]["config_version"]
        payload = {"expected_config_version": version, "credentials": [credential]}
        return lambda: self._store.update(integration_id, payload) and None


class Meddling:
    """The store, with something that happens right before or after one of its calls."""

    def __init__(self, store: RotationStore, at: int | str, before: bool, what: Callable[[], None]) -> None:
        self._store, self._at, self._before, self._what = store, at, before, what
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            here = self._at in (self.calls, name)
            if here and self._before:
                self._happen()
            answer = getattr(self._store, name)(*args, **kwargs)
            if here and not self._before:
                self._happen()
            return answer

        return call

    def _happen(self) -> None:
        self._at = -1
        self._what()


class Killed(BaseException):
    pass


def kill() -> None:
    raise Killed


def whole_rotation(rotation: Rotation) -> None:
    rotation.wrap_anew()
    rotation.seal_anew()
    rotation.forget()


@contextmanager
def a_world(cluster: Cluster, folder: Path) -> Iterator[World]:
    stack = Stack(cluster, folder)
    try:
        stack.start()
        world = World(stack)
        yield world
        world.close()
    finally:
        stack.stop()
