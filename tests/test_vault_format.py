"""The sealed format by itself, below the vault's other walls: what the associated data alone guards."""

import random
from base64 import b64decode, b64encode
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chalicelib.errors import SealError
from chalicelib.vault.sealing import domain_of, open_bytes, parse, seal_bytes, strict_base64
from tests.support.vaults import a_binding

CIPHER = AESGCM(bytes(range(32)))
KEY_ID = UUID(int=7)
MINE = a_binding(row_version=5)
DOMAIN = domain_of("integrations", "test")


def text_of(plaintext: bytes = b"value") -> str:
    return b64encode(seal_bytes(plaintext, CIPHER, KEY_ID, MINE, DOMAIN)).decode()


def test_the_layout_is_the_one_that_is_written_down():
    raw = seal_bytes(b"value", CIPHER, KEY_ID, MINE, DOMAIN)

    assert raw[:2] == b"\x01\x01"
    assert raw[2:18] == KEY_ID.bytes
    assert len(raw) == 2 + 16 + 12 + len(b"value") + 16
    assert open_bytes(parse(b64encode(raw).decode()), CIPHER, MINE, DOMAIN) == b"value"


def test_the_associated_data_is_the_one_that_is_written_down():
    """Each part behind its length: domain, environment, alg, key, user, integration, credential, type, place, version."""
    sealed = parse(text_of())
    parts = [
        b"integrations.credential.v1", b"test", b"\x01", KEY_ID.bytes, MINE.user_id.bytes, MINE.integration_id.bytes,
        MINE.credential_id.bytes, b"api_key", b"https://api.example.com:443", (5).to_bytes(8, "big"),
    ]  # fmt: skip

    associated = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    assert CIPHER.decrypt(sealed.nonce, sealed.body, associated) == b"value"
    with pytest.raises(InvalidTag):
        CIPHER.decrypt(sealed.nonce, sealed.body, b"".join(parts))


@pytest.mark.parametrize("part", ["user_id", "integration_id", "credential_id"])
def test_ids_are_guarded_even_under_one_and_the_same_key(part):
    with pytest.raises(SealError):
        open_bytes(parse(text_of()), CIPHER, replace(MINE, **{part: uuid4()}), DOMAIN)


def test_the_name_of_the_key_is_guarded_even_under_one_and_the_same_key():
    renamed = parse(text_of())._replace(key_id=uuid4())

    with pytest.raises(SealError):
        open_bytes(renamed, CIPHER, MINE, DOMAIN)


@pytest.mark.parametrize("domain", [domain_of("integrations", "prod"), domain_of("other", "test"), b""])
def test_app_and_environment_are_guarded_even_under_one_and_the_same_key(domain):
    with pytest.raises(SealError):
        open_bytes(parse(text_of()), CIPHER, MINE, domain)


@pytest.mark.parametrize("length", range(1, 7))
def test_every_other_spelling_of_the_same_base64_is_refused(length):
    """The last character may have bits that no byte uses: a lax decoder would not notice that they were flipped."""
    text = text_of(b"v" * length)
    body = text.rstrip("=")
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/":
        other = body[:-1] + last + text[len(body) :]
        if other != text:
            with pytest.raises(SealError):
                open_bytes(parse(other), CIPHER, MINE, DOMAIN)
    for other in (body + "=" * (3 - len(text) + len(body)), body if body != text else text + "=", text + "===="):
        with pytest.raises(SealError):
            parse(other)


def test_strict_base64_takes_only_what_it_would_write_itself():
    assert strict_base64("QUJD") == b"ABC"
    assert strict_base64("") == b""
    for text in ("QUI", "QUJ=", "QUJD\n", " QUJD", "QR==", "QUJ-", "QUJ_", "ÄÄÄÄ", "QQ=Q"):
        assert strict_base64(text) is None


def test_nonces_come_from_the_system_and_from_no_generator_with_a_state():
    nonces = set()
    for _ in range(10):
        random.seed(1)
        nonces.add(b64decode(text_of())[18:30])

    assert len(nonces) == 10
