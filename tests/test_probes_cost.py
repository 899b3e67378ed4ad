"""No far side can hold up the event loop, in which a sweep makes all its other checks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from time import perf_counter
from typing import Any

import anyio
import anyio.lowlevel
import httpcore2
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.egress.failures import ResponseTooLarge
from chalicelib.egress.guard import CHECK_BYTES, Guard
from chalicelib.egress.policy import Policy
from chalicelib.egress.transport import LEAST_MEAN_BYTES, PARTS_IN_A_ROW
from chalicelib.model import Verdict
from chalicelib.probes import run_check
from chalicelib.probes.mcp_relay import Watched
from chalicelib.probes.statuses import MAX_RETRY_AFTER_S, is_oauth_challenge, retry_after_s
from chalicelib.probes.stdio import LINES_IN_A_ROW, running
from tests.fault_table import GRACE_S, SHORT_S
from tests.peers.commands import script
from tests.peers.faults import CHUNKED, chunk, says, served, typed
from tests.peers.raw import Loop, background, response
from tests.peers.targets import a_prober, a_target

MODES = ("full", "bare")
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with background() as running_loop:
        yield running_loop


#: A charset of Python's whose decoder takes the square of what it reads.
PUNYCODE = {"Content-Type": "text/html; charset=punycode"}
HOSTILE: dict[str, tuple[Verdict, bytes]] = {
    "a challenge of 62 KB": (Verdict.AUTH_REJECTED, response(401, b"", {"WWW-Authenticate": "bearer " * 8_900})),
    "one that almost says so": (
        Verdict.AUTH_REJECTED,
        response(401, b"", {"WWW-Authenticate": "bearer error = " * 4_000}),
    ),
    "a body of brackets": (Verdict.PROTOCOL, response(400, b"<" * 10**6)),
    "a body of open tags": (Verdict.PROTOCOL, response(400, b"<a" * 500_000)),
    "a body in punycode": (Verdict.PROTOCOL, response(400, b"a-" + b"b9z" * 333_000, PUNYCODE)),
    "a page in punycode": (Verdict.PROTOCOL, response(200, b"a-" + b"b9z" * 333_000, PUNYCODE)),
    "a date without end": (Verdict.PROVIDER_DOWN, response(503, b"", {"Retry-After": "1 Jan 2020 " * 5_500})),
    "a number without end": (Verdict.PROVIDER_DOWN, response(503, b"", {"Retry-After": "1" * 60_000})),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["http", "vendor"])
@pytest.mark.parametrize(("verdict", "answer"), HOSTILE.values(), ids=HOSTILE)
def test_an_answer_made_to_be_expensive_is_judged_in_time(
    loop: Loop, kind: str, mode: Any, verdict: Verdict, answer: bytes
) -> None:
    with served(says(answer, then="close"))(loop, kind) as origin:
        config = {"api_url": origin} if kind == "vendor" else {"protocol": kind, "url": f"{origin}/http"}
        target = a_target("vendor" if kind == "vendor" else "mcp", config, method="api_key", secrets={"api_key": "key"})
        run_check(a_prober(), target, mode)  # loads what it needs
        began = perf_counter()
        result = run_check(a_prober(SHORT_S), target, mode)

    assert perf_counter() - began < SHORT_S + GRACE_S
    assert result.verdict is verdict


@pytest.mark.parametrize(
    ("challenge", "is_one"),
    [
        ('Bearer resource_metadata="https://a.example/x"', True),
        ('bearer realm="x", error="invalid_token"', True),
        ("Bearer error = invalid_token", True),
        ('Basic realm="x", Bearer resource_metadata = "y"', True),
        ('Bearer realm="x"', False),
        ("Bearer", False),
        ("", False),
        ('Basic realm="x", error="invalid_token"', False),
        ('resource_metadata="x", Bearer', False),
        ('Bearer error="insufficient_scope"', False),
        ('Bearer error="invalid_token_type"', False),
        ("ForbearerX resource_metadata=", False),
        ("bearer " + " " * 100_000 + "resource_metadata=x", False),
    ],
)
def test_a_challenge_for_a_sign_in_is_known_by_what_it_says_early(challenge: str, is_one: bool) -> None:
    assert is_oauth_challenge(challenge) is is_one


DATES = st.text("0123456789 ,:+-GMTJanMoFe.\t", max_size=200) | st.text(max_size=200)


@settings(deadline=None)
@given(DATES)
def test_no_wait_that_a_far_side_asks_for_is_beyond_bounds(value: str) -> None:
    seconds = retry_after_s(value)

    assert seconds is None or 1 <= seconds <= MAX_RETRY_AFTER_S


def test_a_wait_until_a_date_is_still_understood() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)

    assert 80 <= (retry_after_s(soon) or 0) <= 90


class AtOnce(httpcore2.AsyncNetworkBackend):
    """A network where the whole answer is there already: nothing has to be waited for."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def connect_tcp(self, *arguments: object, **options: object) -> httpcore2.AsyncNetworkStream:
        return httpcore2.AsyncMockStream([self._answer])


async def most_in_a_row(read: Callable[[Callable[[], None]], Awaitable[None]]) -> int:
    """How many pieces are read at most between two turns of another task. ``read`` calls back for each of them."""
    now, seen, most = 0, 0, 0

    def count() -> None:
        nonlocal now
        now += 1

    async def other() -> None:
        nonlocal seen, most
        while True:
            most, seen = max(most, now - seen), now
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await read(count)
        tasks.cancel_scope.cancel()
    return max(most, now - seen)


def test_a_body_of_tiny_parts_leaves_others_their_turn() -> None:
    parts = 10_000

    async def read(count: Callable[[], None]) -> None:
        network = AtOnce(STREAM + CHUNKED + chunk(b"x") * parts + chunk(b""))
        guard = Guard(Policy(), network=network)
        async with guard.client() as client, client.stream("GET", "http://93.184.215.14/") as answer:
            async for _ in answer.aiter_raw():
                count()

    assert anyio.run(most_in_a_row, read) <= PARTS_IN_A_ROW


@pytest.mark.parametrize("size", [1, 8, LEAST_MEAN_BYTES - 1])
def test_a_body_of_more_parts_than_its_size_needs_is_too_large(size: int) -> None:
    most = CHECK_BYTES // LEAST_MEAN_BYTES

    async def length(parts: int) -> int:
        network = AtOnce(STREAM + CHUNKED + chunk(b"x" * size) * parts + chunk(b""))
        async with Guard(Policy(), network=network).client() as client:
            return len((await client.get("http://93.184.215.14/")).content)

    assert anyio.run(length, most) == most * size
    with pytest.raises(ResponseTooLarge):
        anyio.run(length, most + 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("byte", [b"x", b"\n", b"\r"])
@pytest.mark.parametrize("kind", ["http", "sse", "vendor"])
def test_a_drip_that_comes_at_once_is_too_large(loop: Loop, kind: str, byte: bytes, mode: Any) -> None:
    with served(typed(CHUNKED, endlessly=chunk(byte) * 10_000))(loop, kind) as origin:
        config = {"api_url": origin} if kind == "vendor" else {"protocol": kind, "url": f"{origin}/{kind}"}
        result = run_check(a_prober(), a_target("vendor" if kind == "vendor" else "mcp", config), mode)

    assert result.verdict is Verdict.TOO_LARGE


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_where_to_post_is_found_however_an_event_stream_is_cut_into_parts(end: str) -> None:
    head = f": hello{end}{end}event: endpoint{end}data: /messages{end}{end}".encode()

    class Body(httpx2.AsyncByteStream):
        def __init__(self, size: int) -> None:
            self._size = size

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for at in range(0, len(head), self._size):
                yield head[at:][: self._size]

    async def told(size: int) -> list[str]:
        found: list[str] = []
        read = [part async for part in Watched(Body(size), found.append, lambda: found.append("ended"))]
        return [*found, b"".join(read).decode()]

    for size in range(1, len(head) + 1):
        assert anyio.run(told, size) == ["/messages", "ended", head.decode()]


def test_short_lines_of_a_command_leave_others_their_turn(tmp_path: Any) -> None:
    lines = 20_000

    async def read(count: Callable[[], None]) -> None:
        async with running(tuple(script(tmp_path, f"print('x\\n' * {lines}, end='')")), {}) as child:
            while await child.read_line() is not None:
                count()

    assert anyio.run(most_in_a_row, read) <= LINES_IN_A_ROW


@pytest.mark.parametrize("line", ["x\\n", "\\n", "[]\\n"])
@pytest.mark.parametrize("mode", MODES)
def test_a_command_that_floods_with_short_lines_is_too_large(tmp_path: Any, mode: Any, line: str) -> None:
    program, *arguments = script(tmp_path, f"import sys\nwhile True: sys.stdout.write('{line}' * 10_000)")
    result = run_check(a_prober(), a_target(config={"protocol": "stdio", "command": program, "args": arguments}), mode)

    assert result.verdict is Verdict.TOO_LARGE


def test_of_what_a_command_says_on_its_standard_error_the_end_is_kept(tmp_path: Any) -> None:
    async def last_words() -> str:
        text = "import sys; sys.stderr.write('x' * 1_000_000 + 'the end')"
        async with running(tuple(script(tmp_path, text)), {}) as child:
            await child.exit_status()
            return child.last_words

    words = anyio.run(last_words)
    assert words.endswith("xthe end")
    assert len(words) == 4_096
