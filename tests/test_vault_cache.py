"""Data keys are unwrapped rarely, once at a time, and not kept for long."""

import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from uuid import uuid4

import pytest

from chalicelib.errors import SealError, Unavailable
from chalicelib.model import Secret
from chalicelib.vault.local import LocalKeys
from chalicelib.vault.vault import Vault
from tests.support.vaults import Clock, CountingKeys, a_binding


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def provider(tmp_path):
    return CountingKeys(LocalKeys(tmp_path / "keys.json"))


@pytest.fixture
def vault(provider, clock):
    return Vault(provider, app="integrations", environment="test", clock=clock)


@pytest.fixture
def another_process(provider, clock):
    """A vault over the same keys with nothing in its cache."""
    return lambda: Vault(provider, app="integrations", environment="test", clock=clock)


def stored(vault, binding=None):
    """One credential at rest: what it is bound to, its owner's key and the sealed text."""
    binding = binding or a_binding()
    key = vault.new_key(binding.user_id)
    return binding, key, vault.seal(Secret("value"), binding, key)


def test_a_key_just_made_is_not_unwrapped(vault, provider):
    binding, key, sealed = stored(vault)

    vault.open(sealed, binding, [key])

    assert provider.unwraps == 0


def test_the_context_is_rebuilt_from_the_request(vault, another_process, provider):
    binding, key, sealed = stored(vault)

    another_process().open(sealed, binding, [key])

    assert provider.contexts == [
        {
            "app": "integrations",
            "env": "test",
            "purpose": "credential",
            "user_id": str(binding.user_id),
            "key_id": str(key.id),
        }
    ]


def test_10000_credentials_of_100_users_make_100_unwraps(vault, another_process, provider):
    rows = []
    for _ in range(100):
        owner = uuid4()
        key = vault.new_key(owner)
        for _ in range(100):
            binding = a_binding(user_id=owner)
            rows.append((binding, key, vault.seal(Secret("value"), binding, key)))
    random.Random(7).shuffle(rows)
    keys = {key.id: key for _, key, _ in rows}
    sweep = another_process()

    assert all(sweep.open(sealed, binding, keys).reveal() == "value" for binding, _, sealed in rows)
    assert provider.unwraps == 100


def test_50_threads_that_want_one_key_unwrap_it_once(vault, another_process, provider):
    binding, key, sealed = stored(vault)
    crowd = another_process()
    provider.gate = threading.Event()
    ready = threading.Barrier(51)

    def open_it():
        ready.wait(30)
        return crowd.open(sealed, binding, [key]).reveal()

    with ThreadPoolExecutor(50) as pool:
        opened = [pool.submit(open_it) for _ in range(50)]
        ready.wait(30)
        provider.gate.set()

        assert [each.result(30) for each in opened] == ["value"] * 50
    assert provider.unwraps == 1


def test_users_do_not_wait_for_each_others_keys(vault, another_process, provider):
    first, second = stored(vault), stored(vault)
    both = another_process()
    provider.gate = threading.Barrier(2)  # both are inside the provider at once, or it breaks
    with ThreadPoolExecutor(2) as pool:
        opened = [pool.submit(both.open, sealed, binding, [key]) for binding, key, sealed in (first, second)]

        assert [each.result(30).reveal() for each in opened] == ["value"] * 2


def test_a_failed_unwrap_reaches_everybody_who_waited_and_is_tried_anew_by_the_next(
    vault, another_process, provider, monkeypatch
):
    binding, key, sealed = stored(vault)
    crowd = another_process()
    provider.gate, provider.failure = threading.Event(), Unavailable("no")
    waiting = threading.Semaphore(0)

    class Announced(Future):
        def result(self, timeout=None):
            waiting.release()
            return super().result(timeout)

    monkeypatch.setattr("chalicelib.vault.cache.Future", Announced)
    with ThreadPoolExecutor(8) as pool:
        opened = [pool.submit(crowd.open, sealed, binding, [key]) for _ in range(8)]
        for _ in range(7):
            assert waiting.acquire(timeout=30)
        provider.gate.set()
        assert all(isinstance(each.exception(30), Unavailable) for each in opened)
    assert provider.unwraps == 1
    provider.failure = None

    assert crowd.open(sealed, binding, [key]).reveal() == "value"


def test_a_key_serves_300_seconds(vault, provider, clock):
    binding, key, sealed = stored(vault)
    clock.now += 299.9
    vault.open(sealed, binding, [key])
    assert provider.unwraps == 0
    clock.now += 0.1

    vault.open(sealed, binding, [key])

    assert provider.unwraps == 1


def test_use_does_not_make_a_key_live_longer(vault, provider, clock):
    binding, key, sealed = stored(vault)
    for _ in range(7):
        clock.now += 50
        vault.open(sealed, binding, [key])

    assert provider.unwraps == 1


def test_a_key_serves_1000_uses_sealing_included(vault, another_process, provider):
    binding, key, sealed = stored(vault)
    worker = another_process()
    for _ in range(500):
        worker.open(sealed, binding, [key])
        worker.seal(Secret("other"), binding, key)
    assert provider.unwraps == 1

    worker.open(sealed, binding, [key])

    assert provider.unwraps == 2


def test_256_keys_stay_and_the_one_not_used_for_longest_goes(vault, another_process, provider):
    rows = [stored(vault) for _ in range(257)]
    worker = another_process()
    for binding, key, sealed in rows[:256]:
        worker.open(sealed, binding, [key])
    worker.open(rows[0][2], rows[0][0], [rows[0][1]])  # now the second is the oldest
    worker.open(rows[256][2], rows[256][0], [rows[256][1]])
    assert provider.unwraps == 257

    worker.open(rows[0][2], rows[0][0], [rows[0][1]])
    assert provider.unwraps == 257
    worker.open(rows[1][2], rows[1][0], [rows[1][1]])
    assert provider.unwraps == 258


def test_keys_past_their_time_do_not_stay_in_memory(vault, clock):
    for _ in range(20):
        stored(vault)
    clock.now += 300
    stored(vault)

    assert len(vault._cache._entries) == 1


def test_another_users_question_misses_the_cache_and_gets_nothing(vault, provider):
    binding, key, sealed = stored(vault)
    stranger = replace(binding, user_id=uuid4())

    with pytest.raises(SealError):
        vault.open(sealed, stranger, [replace(key, user_id=stranger.user_id)])

    assert provider.unwraps == 1
    assert provider.contexts[0]["user_id"] == str(stranger.user_id)


def test_a_key_of_another_user_is_not_even_unwrapped(vault, another_process, provider):
    binding, key, sealed = stored(vault)

    with pytest.raises(SealError):
        another_process().open(sealed, replace(binding, user_id=uuid4()), [key])

    assert provider.unwraps == 0


def test_an_altered_wrapped_key_misses_the_cache(vault, another_process, provider):
    binding, key, sealed = stored(vault)
    wrapped = ("A" if key.wrapped[40] != "A" else "B").join((key.wrapped[:40], key.wrapped[41:]))

    with pytest.raises(SealError):
        vault.open(sealed, binding, [replace(key, wrapped=wrapped)])

    assert provider.unwraps == 1


def test_cached_users_go_on_while_the_key_service_is_away_until_their_keys_age_out(
    vault, another_process, provider, clock
):
    known, unknown = stored(vault), stored(another_process())
    provider.failure = Unavailable("The key service is busy.", 5)

    clock.now += 299
    assert vault.open(known[2], known[0], [known[1]]).reveal() == "value"
    assert vault.seal(Secret("new"), known[0], known[1])
    with pytest.raises(Unavailable):
        vault.open(unknown[2], unknown[0], [unknown[1]])
    with pytest.raises(Unavailable):
        vault.seal(Secret("new"), unknown[0], unknown[1])
    clock.now += 1
    with pytest.raises(Unavailable):
        vault.open(known[2], known[0], [known[1]])


def test_one_vault_serves_many_threads(vault, provider):
    rows = [stored(vault) for _ in range(16)]

    def work(seed: int) -> int:
        order = random.Random(seed)
        for _ in range(300):
            binding, key, sealed = order.choice(rows)
            assert vault.open(sealed, binding, [key]).reveal() == "value"
            again = vault.seal(Secret(f"value {seed}"), binding, key)
            assert vault.open(again, binding, [key]).reveal() == f"value {seed}"
        return 1

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(work, range(16))) == 16
    # 14,400 uses of 16 keys, 1,000 a time
    assert provider.unwraps <= 16
