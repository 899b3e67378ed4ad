"""Secrets that the far side sends back: none is shown in an excerpt, however it is spelled there."""

from __future__ import annotations

import base64
import html
import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.probes import run_check
from chalicelib.probes.echoes import HEAD, Echoes
from tests.peers.raw import Loop, Request, background, http_server, response
from tests.peers.targets import a_prober, a_target

#: Made up, with characters that every encoding spells in its own way.
SECRET = f"sk_{secrets.token_hex(4)}-/+&\"<'>=\\ é???>>>~~~{secrets.token_hex(8)}"


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with background() as running:
        yield running


def in_base64(text: str, before: str = "") -> str:
    return base64.b64encode((before + text).encode()).decode()


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper case": str.upper,
    "lower case": str.lower,
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded as a path": quote,
    "percent-encoded by a form": quote_plus,
    "percent-encoded in lower case": lambda text: quote(text, safe="").lower(),
    "percent-encoded by a browser": lambda text: quote(text, safe="!'()*"),
    "as JSON": lambda text: json.dumps(text)[1:-1],
    "as JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "as JSON with escaped slashes": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "as HTML": html.escape,
    "as HTML with numbers": lambda text: html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    "in base64": in_base64,
    "in base64 after one character": lambda text: in_base64(text, ":"),
    "in base64 after two": lambda text: in_base64(text, "u:"),
    "in base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "with zero-width characters": lambda text: "\u200b".join(text),
    "in UTF-16": lambda text: text.encode("utf-16-le").decode("latin-1"),
}


def shown(loop: Loop, body: str, secret: str = SECRET) -> str:
    """What is told of an answer of 400 with this body, to a check with this password."""
    with http_server(loop, lambda request: response(400, body.encode())) as server:
        given = {"username": "ada", "password": secret}
        result = run_check(a_prober(), a_target("vendor", {"api_url": server.url}, method="basic", secrets=given))
    return str(result.steps[-1].detail)


def without_gaps(text: str) -> str:
    return "".join(char for char in text if char.isprintable() and not char.isspace())


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
def test_no_spelling_of_a_secret_is_quoted(loop: Loop, spelled: Callable[[str], str]) -> None:
    echo = spelled(SECRET)
    detail = shown(loop, f"You sent [{echo}] to us")

    assert "You sent [" in detail
    assert "] to us" in detail
    visible, told = (without_gaps(text) for text in (echo, detail))
    # In base64 the first characters also hold what stands before the secret.
    assert not [at for at in range(len(visible) - 5) if visible[at : at + 6] in told]


@pytest.mark.parametrize("spelled", [quote_plus, in_base64, str.upper])
@pytest.mark.parametrize("kept", [HEAD, 12, 20])
def test_nor_is_what_is_left_of_one_that_was_cut(loop: Loop, spelled: Callable[[str], str], kept: int) -> None:
    assert spelled(SECRET)[: kept - 1] not in shown(loop, f"bad key: {spelled(SECRET)[:kept]}")


def test_one_that_goes_beyond_the_end_of_an_excerpt_is_not_shown_in_part(loop: Loop) -> None:
    for room in range(120, 170, 3):
        detail = shown(loop, "x" * room + " " + SECRET)

        assert SECRET[:3] not in detail


@pytest.mark.parametrize("length", [3_000, 9_000, 60_000])
def test_a_long_secret_is_taken_out_as_a_whole(loop: Loop, length: int) -> None:
    secret = secrets.token_hex(length // 2)
    detail = shown(loop, f"<p>{secret[:4_000]}</p>bad {secret}", secret)

    assert not [at for at in range(0, length, 3) if secret[at : at + 8] in detail]


@pytest.mark.parametrize("room", range(3_990, 4_003))
def test_a_short_one_is_not_shown_in_part_where_a_page_is_cut(loop: Loop, room: int) -> None:
    page = ("<br>" + " " * 296) * 14

    assert "hun" not in shown(loop, page[:room] + "hunter2", "hunter2")


def test_a_short_secret_is_taken_out_and_a_tiny_one_is_a_word_like_any(loop: Loop) -> None:
    assert "hunter2" not in shown(loop, "not hunter2, sorry", "hunter2")
    assert "not abc" in shown(loop, "not abc, sorry", "abc")


def test_the_words_around_it_stay(loop: Loop) -> None:
    assert shown(loop, f"<b>Sorry</b>, {SECRET} is <i>no</i> key") == "HTTP 400, they say: “Sorry , … is no key”"


def test_an_echo_in_an_mcp_error_is_not_quoted(loop: Loop) -> None:
    key = secrets.token_urlsafe(24)

    def answer(request: Request) -> bytes:
        error = {"code": -32000, "message": f"no access with {quote(request.headers['authorization'].upper())}"}
        return response(
            200, json.dumps({"jsonrpc": "2.0", "id": json.loads(request.body)["id"], "error": error}).encode()
        )

    with http_server(loop, answer) as server:
        for mode in ("full", "bare"):
            config = {"protocol": "http", "url": server.url}
            target = a_target(config=config, method="api_key", secrets={"api_key": key})
            result = run_check(a_prober(), target, mode)  # type: ignore[arg-type]

            assert "no access with" in str(result.steps[-1].detail)
            assert key.lower() not in str(result.as_json()).lower()


TEXTS: Any = st.text(st.characters(exclude_categories=["Cs"]), min_size=4, max_size=30)


@settings(deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_any_secret_is_found_between_any_words(before: str, secret: str, after: str) -> None:
    assert secret not in Echoes([secret]).redacted(before + secret + after).replace("…", "")


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=3), TEXTS)
def test_what_holds_no_secret_stays_as_it_is(known: list[str], text: str) -> None:
    redacted = Echoes(known).redacted(text)

    assert redacted == text or "…" in redacted
    assert Echoes([]).redacted(text) == text


def test_what_a_vendor_says_of_an_account_holds_no_secret(loop: Loop) -> None:
    """Whoever stole a session could move the path to where the vendor echoes, and read the key from what was found."""

    key = f"sk_live_{secrets.token_hex(12)}"
    body = json.dumps({"name": f"key {key.upper()}", "mail": "ann@example.com"}).encode()
    headers = {"X-Limit": key, "X-Left": quote(key, safe="")}
    definition = {
        "proves": {"account": {"path": "mail"}, "name": {"path": "name"}},
        "rate_limit": {"limit": "X-Limit", "remaining": "X-Left"},
    }
    with http_server(loop, lambda request: response(200, body, headers)) as server:
        given = {"api_key": key, "username": "ann@example.com"}
        target = a_target("vendor", {"api_url": server.url}, method="api_key", secrets=given, definition=definition)
        result = run_check(a_prober(), target)

    assert result.success
    told = json.dumps(result.as_json(), ensure_ascii=False)
    assert key[:12] not in told.lower()
    assert "ann@example.com" in told  # who one is may be told


def test_a_text_full_of_echoes_is_left_out_at_little_cost() -> None:
    """Forty secrets of one's own that begin alike, and a server that repeats their beginning a thousand times."""
    echoes = Echoes(f"aaaaaaaa{number}<&/ '\"%" + "b" * 4_000 for number in range(40))

    assert echoes.redacted("aaaaaaaa " * 900) == "…"
    assert echoes.redacted("a" * 8_000) == "…"
    assert echoes.redacted_in({"aaaaaaaa1": ["aaaaaaaa", 1, None, "well"]}) == {"…": ["…", 1, None, "well"]}
