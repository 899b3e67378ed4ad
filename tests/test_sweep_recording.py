"""Results on their way into the database: whatever a far side sends, each integration's result gets there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import anyio
import pytest
from anyio import to_thread

from chalicelib.errors import Invalid, Unavailable
from chalicelib.jobs.recorder import MOST_BYTES, PATIENCE_S, Recorder
from tests.peers.field import Field
from tests.support import rows
from tests.support.sweeping import World, a_prober


def nested(depth: int) -> Any:
    found: Any = "far side"
    for _ in range(depth):
        found = [found]
    return found


UNSTORABLE = {
    "NUL in a text": {"error_message": "far\x00side"},
    "half a surrogate pair": {"error_message": "far side \ud800"},
    "NUL in a name": {"capabilities": {"far\x00side": 1}},
    "NaN": {"capabilities": {"far side": float("nan")}},
    "infinity": {"capabilities": {"far side": float("-inf")}},
    "nested too deep": {"capabilities": {"tools": nested(100_000)}},
    "no JSON": {"capabilities": {"far side": {1, 2}}},
}


class Odd:
    """Finds something odd at addresses that say so, and elsewhere what there is."""

    def __init__(self, found: dict[str, Any]) -> None:
        self._prober = a_prober()
        self._found = found

    async def check(self, target: Any, **options: Any) -> Any:
        result = await self._prober.check(target, **options)
        return replace(result, **self._found) if "odd" in target.config["api_url"] else result


@pytest.mark.parametrize("found", UNSTORABLE.values(), ids=UNSTORABLE)
def test_a_result_that_cannot_be_stored_becomes_one_that_can_and_keeps_no_other_out(
    world: World, servers: Field, found: dict[str, Any]
) -> None:
    ids = world.add(servers.at("/ok"), 11)
    (odd,) = world.add(servers.at("/odd"), capabilities='{"known": true}')

    summary = world.sweep(prober=Odd(found), per_host=20)

    assert (summary.checked, summary.recorded, summary.failure) == (12, 12, None)
    assert summary.verdicts == {"ok": 11, "protocol": 1}
    assert world.metrics() == dict.fromkeys([*ids, odd], 1)
    assert set(world.verdicts(ids)) == {"ok"}
    row = world.row(odd)
    assert (row["last_verdict"], row["status"], row["consecutive_failures"]) == ("protocol", "connected", 1)
    assert "cannot be stored" in row["last_error"]
    assert row["capabilities"] == {"known": True}
    assert "far" not in json.dumps([row["last_error"], rows.logs(world.db, odd)])


def test_a_server_that_goes_on_like_this_is_in_error_after_three_times(world: World, servers: Field) -> None:
    (odd,) = world.add(servers.at("/odd"))
    seen = []
    for _ in range(3):
        world.make_due([odd])
        world.sweep(prober=Odd(UNSTORABLE["NaN"]))
        seen.append(world.row(odd)["status"])

    assert seen == ["connected", "connected", "error"]
    (steps,) = [more["steps"] for event, _, more in rows.logs(world.db, odd) if event == "error"]
    assert steps == [{"ok": False, "ms": 0, "name": "protocol", "detail": "answer that cannot be stored"}]


class Database:
    """Refuses what ``refuses`` says, and keeps the rest."""

    def __init__(self, refuses: Callable[[Any], bool] = lambda _: False) -> None:
        self._refuses = refuses
        self.calls: list[list[Any]] = []
        self.dropped: list[Any] = []
        self.news = threading.Event()

    def record(self, results: Sequence[Any], dropped: Sequence[Any]) -> list[str]:
        if any(map(self._refuses, results)):
            raise Invalid("no")
        self.calls.append(list(results))
        self.dropped += dropped
        self.news.set()
        return [str(result) for result in results]

    @property
    def kept(self) -> list[Any]:
        return [result for call in self.calls for result in call]


def recorded(
    database: Database, results: Sequence[Any], *, size: int = 500, plain: Any = "plain", dropped: Sequence[Any] = ()
) -> Recorder:
    async def main() -> Recorder:
        recorder = Recorder(database.record, size)
        for lease in dropped:
            recorder.drop(lease)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recorder.run, perf_counter() + 60)
            for result in results:
                recorder.add(partial(_same, result), partial(_same, plain))
            recorder.close()
        return recorder

    return anyio.run(main)


def _same(value: Any) -> Any:
    return value


def test_no_call_carries_more_than_a_few_megabytes() -> None:
    database = Database()
    large = ["x" * 1_000_000 + str(n) for n in range(23)]

    recorder = recorded(database, large)

    assert [len(call) for call in database.calls] == [4, 4, 4, 4, 4, 3]
    assert max(len(json.dumps(call)) for call in database.calls) <= MOST_BYTES
    assert database.kept == large
    assert recorder.round_trips == 6


def test_one_that_is_too_large_for_any_call_goes_alone() -> None:
    database = Database()

    recorded(database, ["a", "x" * (MOST_BYTES + 1), "b", "c"])

    assert [len(call) for call in database.calls] == [1, 1, 2]


def test_small_results_fill_batches_by_number() -> None:
    database = Database()

    recorded(database, list(range(25)), size=10)

    assert [len(call) for call in database.calls] == [10, 10, 5]


def test_what_fills_a_call_is_written_without_waiting_for_more() -> None:
    database = Database()

    async def main() -> None:
        recorder = Recorder(database.record, 500)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recorder.run, perf_counter() + 60)
            for _ in range(5):
                recorder.add(lambda: "x" * 1_000_000, lambda: "plain")  # type: ignore[arg-type, return-value]
            assert await to_thread.run_sync(database.news.wait, PATIENCE_S / 2)
            recorder.close()

    anyio.run(main)

    assert [len(call) for call in database.calls] == [4, 1]


def test_where_the_plain_result_is_refused_too_that_is_told_and_the_others_are_kept() -> None:
    database = Database(refuses=lambda result: result in (7, "plain"))

    recorder = recorded(database, list(range(20)), dropped=["lease"])

    assert isinstance(recorder.failure, Invalid)
    assert sorted(database.kept) == [n for n in range(20) if n != 7]
    assert (recorder.recorded, database.dropped) == (19, ["lease"])


def test_many_refused_ones_each_become_plain_and_what_was_dropped_stays_dropped() -> None:
    database = Database(refuses=lambda result: result != "plain" and int(result) % 3 == 0)

    recorder = recorded(database, list(range(20)), dropped=["lease"])

    assert recorder.failure is None
    assert database.kept.count("plain") == 7
    assert (recorder.recorded, database.dropped) == (20, ["lease"])


def test_a_database_that_is_away_makes_nothing_plain() -> None:
    class Away(Database):
        def record(self, results: Sequence[Any], dropped: Sequence[Any]) -> list[str]:
            if not self.calls:
                self.calls.append([])
                raise Unavailable("away")
            return super().record(results, dropped)

    database = Away()

    recorder = recorded(database, ["a", "b"])

    assert (database.calls, recorder.failure, recorder.round_trips) == ([[], ["a", "b"]], None, 2)
