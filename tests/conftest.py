"""The few things that tests share. What is started here is stopped, also on Ctrl-C and SIGTERM."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn

import psycopg
import pytest

from tests.peers.field import Field, field
from tests.peers.raw import Loop, background
from tests.support.postgres import OLDEST_PROGRAMS, Cluster, Database, add_user
from tests.support.rows import add_integration, add_type
from tests.support.stack import Stack
from tests.support.sweeping import World, a_world

Connection = psycopg.Connection[Any]
AsUser = Callable[[uuid.UUID], AbstractContextManager[Connection]]
AsRole = Callable[[str], AbstractContextManager[Connection]]


def pytest_configure() -> None:
    """Let SIGTERM end the run as Ctrl-C does: with the fixtures torn down."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background has begun without it
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running server of the newest Postgres that a package gives."""
    yield from _running(Cluster())


@pytest.fixture(scope="session")
def oldest_cluster() -> Iterator[Cluster]:
    """The same on the oldest Postgres that we promise to work on."""
    yield from _running(Cluster(OLDEST_PROGRAMS))


def _running(cluster: Cluster) -> Iterator[Cluster]:
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[Database]:
    """A fresh database with all migrations and the seed, for one test module."""
    database = cluster.migrated_database()
    yield database
    database.drop()


@pytest.fixture
def db(database: Database) -> Iterator[Connection]:
    """A connection as the owner of the schema, inside a transaction that is undone after the test."""
    with database.connect() as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def owner(db: Connection) -> uuid.UUID:
    """Somebody who has an account."""
    return add_user(db)


@pytest.fixture
def mine(db: Connection, owner: uuid.UUID) -> uuid.UUID:
    """An integration of theirs, on no schedule."""
    return add_integration(db, owner, add_type(db))


@pytest.fixture
def as_role(db: Connection) -> AsRole:
    """``with as_role("service_role") as db``: the block runs in that role, inside a savepoint."""
    return lambda role: _acting(db, role, {"role": role})


@pytest.fixture
def as_user(db: Connection) -> AsUser:
    """``with as_user(user_id) as db``: the block runs as that signed-in user, inside a savepoint."""
    return lambda user_id: _acting(db, "authenticated", {"role": "authenticated", "sub": str(user_id)})


@contextmanager
def _acting(db: Connection, role: str, claims: dict[str, str]) -> Iterator[Connection]:
    with db.transaction():
        _become(db, role, json.dumps(claims))
        yield db
        _become(db, "none", "")


def _become(db: Connection, role: str, claims: str) -> None:
    db.execute("select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)", [role, claims])


@pytest.fixture(scope="module")
def stack(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Postgres, PostgREST and an issuer of tokens on a fresh database, for one test module."""
    stack = Stack(cluster, tmp_path_factory.mktemp("stack"))
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    """An event loop beside the test, for the servers that it asks."""
    with background() as loop:
        yield loop


@pytest.fixture
def servers(loop: Loop) -> Iterator[Field]:
    """HTTP servers by path: ``servers.at("/503")``."""
    with field(loop) as servers:
        yield servers


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    """A database whose integrations a sweep checks."""
    with a_world(stack) as world:
        yield world
