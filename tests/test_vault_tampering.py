"""Whatever was done to a stored value, it ends in a named error that carries nothing."""

import subprocess
import sys
from base64 import b64decode, b64encode
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.errors import KeyMissing, SealError, StaleVersion
from chalicelib.model import DataKey, Secret
from chalicelib.vault.vault import Vault
from tests.support.vaults import a_binding, a_vault

NO_SUCH_KEY = b64encode(b"\1\1" + bytes(46)).decode()
CANARY = "canary-5f2b9d1c-of-the-tampering-tests"


@pytest.fixture(scope="module")
def vault(tmp_path_factory):
    return a_vault(tmp_path_factory.mktemp("vault"))


@pytest.fixture(scope="module")
def mine():
    return a_binding(row_version=12)


@pytest.fixture(scope="module")
def key(vault, mine):
    return vault.new_key(mine.user_id)


@pytest.fixture(scope="module")
def sealed(vault, mine, key):
    return vault.seal(Secret(CANARY), mine, key)


def refuses(vault: Vault, stored: object, binding, keys, error=SealError) -> SealError:
    """Opening raises ``error`` exactly, and neither its text nor its causes hold the value or its key."""
    with pytest.raises(SealError) as caught:
        vault.open(stored, binding, keys)
    assert type(caught.value) is error
    shown = f"{caught.value!r} {caught.value} {caught.value.__dict__} {caught.value.__cause__!r}"
    assert CANARY not in shown
    return caught.value


def test_every_single_bit_is_guarded(vault, mine, key, sealed):
    raw = b64decode(sealed)
    for place in range(len(raw) * 8):
        bent = bytearray(raw)
        bent[place // 8] ^= 1 << place % 8
        in_key_id = 2 <= place // 8 < 18
        refuses(vault, b64encode(bent).decode(), mine, [key], KeyMissing if in_key_id else SealError)


def test_every_single_bit_of_the_stored_text_is_guarded(vault, mine, key, sealed):
    for place in range(len(sealed) * 8):
        bent = bytearray(sealed.encode())
        bent[place // 8] ^= 1 << place % 8
        with pytest.raises(SealError):
            vault.open(bent.decode("latin-1"), mine, [key])


def test_a_bit_of_the_key_id_does_not_lead_to_another_key_of_the_same_user(vault, mine, key, sealed):
    raw = bytearray(b64decode(sealed))
    raw[2] ^= 1
    other = replace(key, id=UUID(bytes=bytes(raw[2:18])))

    refuses(vault, b64encode(raw).decode(), mine, [key, other])


def test_no_beginning_of_a_value_opens(vault, mine, key, sealed):
    raw = b64decode(sealed)
    for length in range(len(raw)):
        refuses(vault, b64encode(raw[:length]).decode(), mine, [key])
    for length in range(len(sealed)):
        refuses(vault, sealed[:length], mine, [key])


@pytest.mark.parametrize("kept", [4, 8, 12, 15])
def test_a_shortened_tag_is_no_tag(vault, mine, key, kept):
    raw = b64decode(vault.seal(Secret(""), mine, key))

    refuses(vault, b64encode(raw[: kept - 16]).decode(), mine, [key])


@pytest.mark.parametrize("more", [b"\0", b"\0" * 16, b"x" * 200])
def test_a_lengthened_value_does_not_open(vault, mine, key, sealed, more):
    refuses(vault, b64encode(b64decode(sealed) + more).decode(), mine, [key])


@pytest.mark.parametrize(
    "stored",
    [
        None, "", " ", "=", "====", "QQ", "QR==", "a", b"AQE=", 17, 1.5, [], {}, "not base64!", "\x00", "\ud800",
        "ä" * 64, CANARY, "-----BEGIN", "A" * 1_000_000, "none", NO_SUCH_KEY,
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_what_was_never_sealed_does_not_open(vault, mine, key, stored):
    refuses(vault, stored, mine, [key], KeyMissing if stored == NO_SUCH_KEY else SealError)


def test_plaintext_in_the_column_is_not_returned(vault, mine, key):
    for plain in (CANARY, b64encode(CANARY.encode()).decode(), b64encode(CANARY.encode() * 4).decode()):
        refuses(vault, plain, mine, [key])


def test_spaces_and_line_breaks_make_another_text(vault, mine, key, sealed):
    for text in (f" {sealed}", f"{sealed}\n", f"{sealed[:40]}\n{sealed[40:]}", sealed.rstrip("=") + "\n"):
        refuses(vault, text, mine, [key])


@pytest.mark.parametrize(("place", "value"), [(0, v) for v in (0, 2, 255)] + [(1, v) for v in (0, 2, 127, 255)])
def test_only_version_1_and_algorithm_1_are_known(vault, mine, key, sealed, place, value):
    raw = bytearray(b64decode(sealed))
    raw[place] = value

    refuses(vault, b64encode(raw).decode(), mine, [key])


@pytest.mark.parametrize(
    "moved",
    [
        {"integration_id": uuid4()},
        {"credential_id": uuid4()},
        {"credential_type": "refresh_token"},
        {"credential_type": "api_ke"},
        {"destination": "https://api.example.com:8443"},
        {"destination": "http://api.example.com:443"},
        {"destination": "https://attacker.example:443"},
        {"destination": ""},
        {"destination": "\ud800"},
        {"credential_type": "api_keyh", "destination": "ttps://api.example.com:443"},
        {"row_version": 11},
        {"row_version": 2**40},
    ],
    ids=str,
)
def test_a_value_opens_in_its_own_place_only(vault, mine, key, sealed, moved):
    refuses(vault, sealed, replace(mine, **moved), [key])


def test_another_users_value_does_not_open_whatever_is_forged(vault, mine, key, sealed):
    theirs = replace(mine, user_id=uuid4())
    their_key = vault.new_key(theirs.user_id)

    refuses(vault, sealed, theirs, [their_key], KeyMissing)
    refuses(vault, sealed, theirs, [their_key, key])
    refuses(vault, sealed, theirs, [replace(key, user_id=theirs.user_id)])
    refuses(vault, sealed, theirs, [replace(their_key, id=key.id)])
    refuses(vault, sealed, theirs, [DataKey(key.id, theirs.user_id, their_key.wrapped)])


def test_another_environment_or_app_with_the_same_key_file_opens_nothing(tmp_path, mine):
    here = a_vault(tmp_path)
    key = here.new_key(mine.user_id)
    sealed = here.seal(Secret(CANARY), mine, key)

    refuses(a_vault(tmp_path, environment="prod"), sealed, mine, [key])
    refuses(a_vault(tmp_path, app="other"), sealed, mine, [key])
    assert a_vault(tmp_path).open(sealed, mine, [key]).reveal() == CANARY


@pytest.mark.parametrize("back", range(1, 9))
def test_an_older_value_of_the_same_row_is_called_stale(vault, mine, key, back):
    old = vault.seal(Secret(CANARY), replace(mine, row_version=mine.row_version - back), key)

    refuses(vault, old, mine, [key], StaleVersion)


def test_a_newer_or_a_much_older_value_is_refused_as_well(vault, mine, key):
    for version in (1, 2, 3, 13, 14):
        refuses(vault, vault.seal(Secret(CANARY), replace(mine, row_version=version), key), mine, [key])


def test_the_first_version_of_a_row_has_nothing_before_it(vault, key, mine):
    unborn = vault.seal(Secret(CANARY), replace(mine, row_version=0), key)

    refuses(vault, unborn, replace(mine, row_version=1), [key])


def test_a_data_key_wrapped_for_another_purpose_is_refused(tmp_path, mine):
    from chalicelib.vault.keys import encryption_context
    from chalicelib.vault.local import LocalKeys

    vault = a_vault(tmp_path)
    right = encryption_context(app="integrations", environment="test", user_id=mine.user_id, key_id=uuid4())
    key_id = UUID(right["key_id"])
    for name in right:
        _, wrapped = LocalKeys(tmp_path / "keys.json").generate({**right, name: "other"})
        with pytest.raises(SealError):
            vault.seal(Secret(CANARY), mine, DataKey(key_id, mine.user_id, wrapped))


def test_sealing_with_another_users_key_is_a_mistake_of_ours(vault, mine):
    with pytest.raises(ValueError, match="another user"):
        vault.seal(Secret(CANARY), mine, vault.new_key(uuid4()))


@settings(deadline=None)
@given(st.text(max_size=300), st.text(max_size=40), st.text(max_size=80), st.integers(1, 2**31 - 1))
def test_every_text_comes_back_from_its_place(vault, key, mine, text, kind, destination, version):
    binding = replace(mine, credential_type=kind, destination=destination, row_version=version)
    sealed = vault.seal(Secret(text), binding, key)

    assert vault.open(sealed, binding, {key.id: key}).reveal() == text
    assert vault.open(sealed, binding, iter([key])).reveal() == text


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_two_places_never_share_an_encoding(vault, key, mine, kind, destination, other_kind, other_destination):
    here = replace(mine, credential_type=kind, destination=destination)
    there = replace(mine, credential_type=other_kind, destination=other_destination)
    sealed = vault.seal(Secret("x"), here, key)
    if here == there:
        assert vault.open(sealed, there, [key]).reveal() == "x"
    else:
        refuses(vault, sealed, there, [key])


@settings(deadline=None)
@given(
    st.binary(max_size=200) | st.text(max_size=200) | st.none() | st.integers() | st.lists(st.integers(), max_size=3)
)
def test_no_rubbish_makes_another_error(vault, key, mine, rubbish):
    with pytest.raises(SealError):
        vault.open(rubbish, mine, [key])
    if isinstance(rubbish, bytes):
        with pytest.raises(SealError):
            vault.open(b64encode(b"\x01\x01" + key.id.bytes + rubbish).decode(), mine, [key])


def test_nonces_differ_between_copies_of_one_process():
    """A restored snapshot or a fork continues from the same memory; the nonce must not come from there."""
    program = """
import os, sys, tempfile, pathlib
from chalicelib.model import Secret
from tests.support.vaults import a_binding, a_vault
folder = tempfile.TemporaryDirectory()
vault = a_vault(pathlib.Path(folder.name)); mine = a_binding(); key = vault.new_key(mine.user_id)
readers = []
for _ in range(8):
    r, w = os.pipe()
    if os.fork() == 0:
        os.write(w, "\\n".join(vault.seal(Secret("x"), mine, key) for _ in range(50)).encode() + b"\\n")
        os._exit(0)
    os.close(w); readers.append(r)
for r in readers:
    while part := os.read(r, 65536):
        sys.stdout.write(part.decode())
for _ in readers:
    os.wait()
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    nonces = [b64decode(line)[18:30] for line in run.stdout.split()]

    assert len(nonces) == 400
    assert len(set(nonces)) == 400
