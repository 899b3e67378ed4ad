"""For test modules that try the migrations on the newest and on the oldest Postgres: ``database = on_both_versions()``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.postgres import Database


def on_both_versions() -> Any:
    """A fixture that takes the place of ``database`` in the module that assigns it to that name."""

    @pytest.fixture(scope="module", params=["cluster", "oldest_cluster"], ids=["newest", "oldest"])
    def database(request: pytest.FixtureRequest) -> Iterator[Database]:
        database: Database = request.getfixturevalue(request.param).migrated_database()
        yield database
        database.drop()

    return database
