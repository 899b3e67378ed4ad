"""Cursors come back as they went, and from nowhere else."""

from __future__ import annotations

import base64
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.api import cursors
from chalicelib.errors import BadRequest
from chalicelib.model import Secret

KEY = cursors.derive_key(Secret(secrets.token_urlsafe(32)))
VALUES = ["2026-01-02T03:04:05.678901+00:00", "8f14e45f-ceea-467f-a8d2-3f0a4f7e0001", -0.5, 3, None, "Ünïted ✓"]


def refused(text: str, scope: str = "list") -> bool:
    with pytest.raises(BadRequest) as refusal:
        cursors.decode(text, scope, KEY)
    return refusal.value.code == "bad_cursor"


@given(st.lists(st.text(max_size=20) | st.integers() | st.none() | st.booleans(), max_size=5), st.text(max_size=20))
def test_values_come_back_for_the_same_list(values: list[str | int | bool | None], scope: str) -> None:
    assert cursors.decode(cursors.encode(values, scope, KEY), scope, KEY) == values


def test_a_cursor_of_another_list_or_another_deployment_is_refused() -> None:
    text = cursors.encode(VALUES, "list", KEY)

    assert cursors.decode(text, "list", KEY) == VALUES
    assert refused(text, "list:else")
    with pytest.raises(BadRequest):
        cursors.decode(text, "list", cursors.derive_key(Secret(secrets.token_urlsafe(32))))


def test_no_character_can_be_changed_added_or_dropped() -> None:
    text = cursors.encode(VALUES, "list", KEY)

    assert all(refused(text[:at] + ("A" if char != "A" else "B") + text[at + 1 :]) for at, char in enumerate(text))
    assert all(refused(other) for other in (text + "A", text[:-1], text + "=", text + "\n", " " + text, text + "!"))


@pytest.mark.parametrize(
    "text", ["", "A", "AAAA", "null", "é", "A" * 1025, base64.b64encode(bytes(16)).decode() + "[]"]
)
def test_what_was_never_a_cursor_is_refused(text: str) -> None:
    assert refused(text)


def test_scopes_and_values_cannot_run_into_each_other() -> None:
    sealed = base64.urlsafe_b64decode(cursors.encode(["x"], "list", KEY) + "===")
    tag, payload = sealed[:16], sealed[16:]

    assert refused(base64.urlsafe_b64encode(tag + payload[1:]).rstrip(b"=").decode(), "list[")


def test_the_longest_name_in_any_script_fits() -> None:
    values = [1, "\N{FAMILY}" * 100, "8f14e45f-ceea-467f-a8d2-3f0a4f7e0001"]

    assert cursors.decode(cursors.encode(values, "list", KEY), "list", KEY) == values


def test_values_too_long_to_come_back_are_not_given_out() -> None:
    with pytest.raises(ValueError, match="too long"):
        cursors.encode(["x" * 1_024], "list", KEY)


def test_a_signed_text_longer_than_any_that_we_give_out_is_not_read() -> None:
    payload = b'["' + b"x" * 1_024 + b'"]'
    tag = cursors._tag(payload, "list", KEY)

    assert refused(base64.urlsafe_b64encode(tag + payload).rstrip(b"=").decode())


def test_the_key_does_not_show_the_secret_that_it_comes_from() -> None:
    secret = secrets.token_urlsafe(32)

    assert cursors.derive_key(Secret(secret)) == cursors.derive_key(Secret(secret))
    assert secret.encode() not in cursors.derive_key(Secret(secret))
