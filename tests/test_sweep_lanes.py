"""Places for checks: bounded everywhere, never blocked by servers that only keep us waiting, and none ever lost."""

from __future__ import annotations

import random
import time

import anyio
import anyio.lowlevel
import pytest

from chalicelib.jobs.lanes import Lanes
from tests.peers.field import Field
from tests.support.sweeping import World


class Watch:
    """Holds places, and knows how many are held."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.held = 0
        self.most = 0
        self.done: list[object] = []
        self.expected = 0
        self.reached = anyio.Event()  # when as many as expected are held

    async def hold(self, name: object, host: str, seconds: float) -> None:
        async with self.lanes.place(host):
            self.held += 1
            self.most = max(self.most, self.held)
            if self.held == self.expected:
                self.reached.set()
            try:
                await anyio.sleep(seconds)
                self.done.append(name)
            finally:
                self.held -= 1


def left(watch: Watch) -> tuple[int, int]:
    """Free places at work and in the slow lane."""
    return watch.lanes.work_left, watch.lanes.slow_left


def test_no_more_than_the_places_at_work_while_nobody_is_slow() -> None:
    async def main() -> Watch:
        watch = Watch(Lanes(work=4, slow=100, per_host=100, patience_s=10))
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(watch.hold, number, "host", 0.01)
        return watch

    watch = anyio.run(main)

    assert (watch.most, len(watch.done)) == (4, 40)
    assert left(watch) == (4, 100)


def test_no_more_than_its_share_for_one_host_and_others_do_not_wait_for_it() -> None:
    async def main() -> Watch:
        watch = Watch(Lanes(work=10, slow=0, per_host=2, patience_s=10))
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(watch.hold, number, "crowded", 0.05)
            await anyio.lowlevel.checkpoint()
            tasks.start_soon(watch.hold, "other", "quiet", 0)
        return watch

    watch = anyio.run(main)

    assert watch.most <= 3
    assert watch.done[0] == "other"
    assert watch.done[1:] == list(range(20))


def test_whoever_only_waits_moves_aside_and_the_slow_lane_is_bounded_too() -> None:
    async def main() -> tuple[int, int, Watch]:
        watch = Watch(Lanes(work=2, slow=5, per_host=100, patience_s=0.05))
        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(watch.hold, number, "host", 30)
            await anyio.sleep(0.5)
            held = watch.held
            tasks.cancel_scope.cancel()
        return held, watch.most, watch

    held, most, watch = anyio.run(main)

    assert (held, most) == (7, 7)  # five in the slow lane, and two that found no room there
    assert left(watch) == (2, 5)


def test_a_place_that_gets_free_in_the_slow_lane_goes_to_whoever_waited_longest_for_it() -> None:
    async def main() -> Watch:
        watch = Watch(Lanes(work=1, slow=1, per_host=100, patience_s=0.02))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.hold, "slow", "host", 0.2)
            await anyio.sleep(0.1)
            tasks.start_soon(watch.hold, "slower", "host", 0.6)
            await anyio.sleep(0.05)
            tasks.start_soon(watch.hold, "quick", "host", 0)
        return watch

    assert anyio.run(main).done == ["slow", "quick", "slower"]


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_cancelled_whenever_no_place_is_lost(seed: int) -> None:
    pick = random.Random(seed)

    async def one(watch: Watch, number: int) -> None:
        with anyio.move_on_after(pick.choice([0.001, 0.01, 0.02, 0.03, 1])):
            await watch.hold(number, pick.choice("abc"), pick.choice([0, 0.005, 0.0199, 0.02, 0.0201, 0.04]))

    async def main() -> Watch:
        watch = Watch(Lanes(work=5, slow=3, per_host=4, patience_s=0.02))
        async with anyio.create_task_group() as tasks:
            for number in range(300):
                tasks.start_soon(one, watch, number)
                if number % 20 == 0:
                    await anyio.sleep(pick.choice([0, 0.005]))
        return watch

    watch = anyio.run(main)

    assert left(watch) == (5, 3)
    assert (watch.held, watch.lanes.held, watch.lanes.at_hosts) == (0, 0, 0)
    assert watch.most <= 8
    assert watch.done


def test_while_the_loop_itself_is_late_nobody_is_let_in_besides() -> None:
    """Checks that wait for our CPU would only wait longer."""

    async def main() -> tuple[int, int]:
        watch = Watch(Lanes(work=3, slow=50, per_host=100, patience_s=0.2))
        watch.expected = 50
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(watch.hold, number, "host", 3600)
            for _ in range(6):
                time.sleep(0.5)  # noqa: ASYNC251 - as work that takes all of the CPU
                await anyio.lowlevel.checkpoint()
            busy = watch.most
            with anyio.move_on_after(30):
                await watch.reached.wait()
            idle = watch.held
            tasks.cancel_scope.cancel()
        return busy, idle

    assert anyio.run(main) == (3, 50)


def test_servers_that_hang_do_not_hold_up_the_others(world: World, servers: Field) -> None:
    """Twice as many servers hang as there are places at work, and they are due first."""
    hanging = [world.add(servers.at("/hang", host=f"127.0.1.{n}"))[0] for n in range(16)]
    well = world.add(servers.at("/ok"), 40)
    world.db.execute("update integration_schedule set next_check_at = now() - interval '1 hour' "
                     "where user_integration_id = any(%s::uuid[])", [hanging])  # fmt: skip

    world.sweep(work=8, per_host=8, total_s=5.0)

    assert set(world.verdicts(hanging)) == {"timeout"}
    assert set(world.verdicts(well)) == {"ok"}
    finished = world.db.execute(
        "select max(checked_at) filter (where verdict = 'ok') < "
        "min(checked_at + response_time_ms * interval '1 ms') filter (where verdict = 'timeout') "
        "from integration_health_metrics"
    ).fetchone()
    assert finished == (True,)


def test_one_host_is_never_asked_by_more_than_its_share_at_once(world: World, servers: Field) -> None:
    world.add(servers.at("/ok?ms=30"), 50)

    summary = world.sweep(per_host=8)

    assert summary.verdicts == {"ok": 50}
    assert 2 <= servers.most_at_once <= 8
