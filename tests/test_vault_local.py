"""The local key file: made once, kept private, and missed loudly."""

import fcntl
import json
import multiprocessing
import os
import stat
from base64 import b64decode, b64encode
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

import pytest

from chalicelib.errors import KeyMissing, SealError, Unavailable
from chalicelib.model import Secret
from chalicelib.settings import BadSettings
from chalicelib.vault.local import LocalKeys
from tests.support.vaults import a_binding, a_vault

CONTEXT = {"app": "integrations", "env": "test", "user_id": "1"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "er" / "keys.json"


@pytest.fixture
def keys(path):
    return LocalKeys(path)


def test_the_file_is_made_with_its_folders_when_a_key_is_first_asked_for(keys, path):
    assert not path.parent.exists()

    plaintext, wrapped = keys.generate(CONTEXT)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["keys.json"]
    assert len(plaintext) == 32
    assert keys.unwrap(wrapped, CONTEXT) == plaintext


def test_a_loose_umask_does_not_loosen_the_file(keys, path):
    before = os.umask(0)
    try:
        keys.generate(CONTEXT)
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_outlives_the_process_and_every_data_key_differs(keys, path):
    made = [keys.generate(CONTEXT) for _ in range(20)]

    assert len({plaintext for plaintext, _ in made}) == 20
    assert all(LocalKeys(path).unwrap(wrapped, CONTEXT) == plaintext for plaintext, wrapped in made)


def _generate(path: str) -> tuple[bytes, str]:
    return LocalKeys(path).generate(CONTEXT)


def test_processes_that_start_together_agree_on_one_file(keys, path):
    with ProcessPoolExecutor(8, mp_context=multiprocessing.get_context("spawn")) as pool:
        made = list(pool.map(_generate, [str(path)] * 32))

    assert len(json.loads(path.read_text())["keys"]) == 1
    assert all(keys.unwrap(wrapped, CONTEXT) == plaintext for plaintext, wrapped in made)


def test_whoever_makes_the_file_waits_for_another_who_is_at_it(keys, path):
    path.parent.mkdir(parents=True)
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(keys.generate, CONTEXT)
        with pytest.raises(TimeoutError):
            made.result(0.3)
        assert not path.exists()
        os.close(folder)

        plaintext, wrapped = made.result(30)
    assert keys.unwrap(wrapped, CONTEXT) == plaintext


def test_a_wrapped_key_opens_with_its_context_only(keys):
    _, wrapped = keys.generate(CONTEXT)
    for wrong in ({}, {**CONTEXT, "user_id": "2"}, {**CONTEXT, "more": ""}, {"app": "integrations", "env": "test"}):
        with pytest.raises(SealError):
            keys.unwrap(wrapped, wrong)


def test_every_bit_of_a_wrapped_key_is_guarded(keys):
    _, wrapped = keys.generate(CONTEXT)
    raw = b64decode(wrapped)
    for place in range(len(raw) * 8):
        bent = bytearray(raw)
        bent[place // 8] ^= 1 << place % 8
        with pytest.raises(SealError):
            keys.unwrap(b64encode(bent).decode(), CONTEXT)
    for length in range(len(wrapped)):
        with pytest.raises(SealError):
            keys.unwrap(wrapped[:length], CONTEXT)


def test_a_lost_file_is_said_to_be_lost_and_is_not_made_anew_by_reading(tmp_path):
    vault, mine = a_vault(tmp_path), a_binding()
    key = vault.new_key(mine.user_id)
    sealed = vault.seal(Secret("value"), mine, key)
    (tmp_path / "keys.json").unlink()

    with pytest.raises(KeyMissing, match="LOCAL_KEY_FILE names was lost or replaced"):
        a_vault(tmp_path).open(sealed, mine, [key])
    assert not (tmp_path / "keys.json").exists()


def test_a_replaced_file_is_said_to_be_replaced(tmp_path):
    vault, mine = a_vault(tmp_path), a_binding()
    key = vault.new_key(mine.user_id)
    sealed = vault.seal(Secret("value"), mine, key)
    (tmp_path / "keys.json").unlink()
    LocalKeys(tmp_path / "keys.json").generate(CONTEXT)

    with pytest.raises(KeyMissing, match="lost or replaced"):
        a_vault(tmp_path).open(sealed, mine, [key])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "null",
        "not json",
        "\x00\xff",
        '{"keys": []}',
        '{"keys": {"id": 1}}',
        '{"keys": [{"id": "x", "key": "QUJD"}]}',
        '{"keys": [{"id": "8f4f3f0e-3f67-4a5e-9f54-0b8b9a3f1c11", "key": "QUJD"}]}',
    ],
)
def test_a_damaged_file_stops_everything_and_is_left_as_it_is(keys, path, content):
    _, wrapped = keys.generate(CONTEXT)
    path.write_text(content)

    for attempt in (lambda: keys.unwrap(wrapped, CONTEXT), lambda: keys.generate(CONTEXT), keys.add_key):
        with pytest.raises(Unavailable, match="damaged"):
            attempt()
    assert path.read_text() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(keys, path, mode):
    _, wrapped = keys.generate(CONTEXT)
    path.chmod(mode)

    for attempt in (lambda: keys.unwrap(wrapped, CONTEXT), lambda: keys.generate(CONTEXT)):
        with pytest.raises(Unavailable, match="chmod 600"):
            attempt()


def test_a_path_that_cannot_be_used_is_said_so(tmp_path):
    (tmp_path / "file").write_text("in the way")

    for keys in (LocalKeys(tmp_path / "file" / "keys.json"), LocalKeys(tmp_path)):
        with pytest.raises(Unavailable, match="LOCAL_KEY_FILE"):
            keys.generate(CONTEXT)


def test_the_local_file_is_refused_on_lambda(path, monkeypatch):
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "api")

    with pytest.raises(BadSettings, match="refused on Lambda"):
        LocalKeys(path)


def test_a_new_key_in_the_file_wraps_and_the_old_ones_still_unwrap(keys, path):
    old_plaintext, old = keys.generate(CONTEXT)
    keys.add_key()
    new_plaintext, new = keys.generate(CONTEXT)

    assert [entry["id"] for entry in json.loads(path.read_text())["keys"]] == [_wrapping_id(new), _wrapping_id(old)]
    assert keys.unwrap(old, CONTEXT) == old_plaintext
    assert keys.unwrap(new, CONTEXT) == new_plaintext
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rewrapping_moves_to_the_newest_key_and_stops_there(keys):
    plaintext, old = keys.generate(CONTEXT)
    assert keys.rewrap(old, CONTEXT) == old
    keys.add_key()

    moved = keys.rewrap(old, CONTEXT)

    assert _wrapping_id(moved) != _wrapping_id(old)
    assert keys.unwrap(moved, CONTEXT) == plaintext
    assert keys.rewrap(moved, CONTEXT) == moved
    with pytest.raises(SealError):
        keys.rewrap(old, {**CONTEXT, "user_id": "2"})


def test_a_key_that_kms_wrapped_is_not_taken_for_damage(tmp_path):
    vault, mine = a_vault(tmp_path), a_binding()
    key = vault.new_key(mine.user_id)
    foreign = replace(key, wrapped=b64encode(b"K1\0\1a" + bytes(80)).decode())

    with pytest.raises(KeyMissing, match="was not sealed with the local key file"):
        vault.seal(Secret("value"), mine, foreign)


def _wrapping_id(wrapped: str) -> str:
    return str(UUID(bytes=b64decode(wrapped)[2:18]))
