"""Whatever the far side sends: bounded in bytes, in memory and in time."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpcore2
import httpx2
import pytest

from chalicelib.egress.failures import ResponseTooLarge, causes
from chalicelib.egress.guard import CHECK_BYTES, Guard
from chalicelib.egress.network import MAX_HEAD_BYTES
from chalicelib.egress.policy import Policy
from chalicelib.egress.trace import KEPT, Trace
from tests.egress_world import serving, web
from tests.peers.certificates import Authority, server_context
from tests.peers.raw import Handler, Loop, read_request, response

MIB = 1024 * 1024
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.close()


class Metered(httpcore2.AnyIOBackend):
    """Counts the bytes that the guard takes off the wire."""

    def __init__(self) -> None:
        self.taken = 0

    async def connect_tcp(self, *arguments: object, **options: object) -> httpcore2.AsyncNetworkStream:
        stream = await super().connect_tcp(*arguments, **options)  # type: ignore[arg-type]
        read = stream.read

        async def counted(max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
            data = await read(max_bytes, timeout)
            self.taken += len(data)
            return data

        stream.read = counted  # type: ignore[method-assign]
        return stream


def sends(*parts: bytes, endlessly: bytes = b"", pause_s: float = 0) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for part in parts:
            writer.write(part)
        await writer.drain()
        while endlessly:
            writer.write(endlessly)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return handler


@asynccontextmanager
async def asking(url: str, network: Metered, trace: Trace) -> AsyncIterator[Callable[[float], object]]:
    guard = Guard(Policy(allow=("127.0.0.0/8",)), network=network)
    async with guard.client(trace=trace) as client:
        yield lambda deadline_s: guard.send(client, client.build_request("GET", url), deadline_s=deadline_s)


def fetch(loop: Loop, handler: Handler, *, deadline_s: float = 5) -> tuple[httpx2.Response | Exception, Metered, Trace]:
    network, trace = Metered(), Trace()

    async def once(url: str) -> httpx2.Response | Exception:
        async with asking(url, network, trace) as ask:
            try:
                return await ask(deadline_s)
            except Exception as error:
                return error

    with serving(loop, handler) as peer:
        return asyncio.run(once(peer.url)), network, trace


CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

FLOODS = {
    "10 MB in many headers": sends(HEAD + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(10_000))),
    "10 MB in one header": sends(HEAD + b"X: " + b"x" * 10 * MIB),
    "endless headers": sends(HEAD, endlessly=b"X: " + b"x" * 8000 + b"\r\n"),
    "endless interim responses": sends(endlessly=b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 100),
    "an endless status line": sends(b"HTTP/1.1 200 ", endlessly=b"x" * 10_000),
    "200 MB announced": sends(HEAD + b"Content-Length: 209715200\r\n\r\n", endlessly=b"x" * 65_536),
    "endless chunks": sends(CHUNKED, endlessly=CHUNK),
    "an endless body": sends(HEAD + b"Connection: close\r\n\r\n", endlessly=b"x" * 65_536),
    "a body one byte too long": sends(HEAD + b"Connection: close\r\n\r\n" + b"x" * (CHECK_BYTES + 1)),
}


@pytest.mark.parametrize("handler", FLOODS.values(), ids=FLOODS)
def test_a_flood_is_refused_after_little_was_read(loop, handler):
    ended, network, trace = fetch(loop, handler)

    assert isinstance(ended, ResponseTooLarge)
    assert network.taken <= CHECK_BYTES + 3 * 65_536
    assert list(trace.failures) == [ended]


@pytest.mark.parametrize("name", [name for name in FLOODS if "header" in name or "interim" in name or "status" in name])
def test_the_head_of_a_response_has_a_bound_of_its_own(loop, name):
    _, network, _ = fetch(loop, FLOODS[name])

    assert network.taken <= MAX_HEAD_BYTES


ENDLESS_HEAD = FLOODS["endless headers"]


def test_the_second_head_on_a_connection_is_bounded_like_the_first(loop):
    async def good_then_bad(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(response(200, b"{}"))
        await ENDLESS_HEAD(reader, writer)

    network = Metered()

    async def twice(url: str) -> None:
        async with asking(url, network, Trace()) as ask:
            await ask(5)
            with pytest.raises(ResponseTooLarge):
                await ask(5)

    with serving(loop, good_then_bad) as peer:
        asyncio.run(twice(peer.url))

    assert peer.connections == 1
    assert network.taken <= MAX_HEAD_BYTES + 1000


def test_heads_are_bounded_under_tls_too(loop):
    authority = Authority()
    trusting = ssl.create_default_context(cadata=authority.pem)

    async def once(url: str) -> None:
        guard = Guard(Policy(allow=("127.0.0.0/8",)))
        async with guard.client(ssl_context=trusting) as client:
            with pytest.raises(ResponseTooLarge):
                await guard.send(client, client.build_request("GET", url), deadline_s=5)

    with serving(loop, ENDLESS_HEAD, tls=server_context(authority.issue())) as peer:
        asyncio.run(once(peer.url))


def test_an_announced_flood_is_refused_before_its_body_is_read(loop):
    ended, network, trace = fetch(loop, FLOODS["200 MB announced"])

    assert isinstance(ended, ResponseTooLarge)
    assert network.taken <= 2 * 65_536
    # The status was seen all the same: a refusal with a huge page is still a refusal.
    assert trace.answers[-1].status == 200


def test_large_but_bearable_responses_pass(loop):
    many = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(50))
    body = b"x" * CHECK_BYTES

    ended, _, trace = fetch(loop, sends(HEAD + many + b"Content-Length: %d\r\n\r\n" % len(body) + body))

    assert isinstance(ended, httpx2.Response)
    assert ended.content == body
    assert not trace.failures


def test_every_response_of_a_connection_has_a_head_of_its_own(loop):
    headers = {"X": "x" * 40_000}

    async def three_times(url: str) -> int:
        guard = Guard(Policy(allow=("127.0.0.0/8",)))
        async with guard.client() as client:
            for _ in range(3):
                await guard.send(client, client.build_request("GET", url), deadline_s=5)
        return peer.connections

    with web(loop, lambda request: response(200, b"x" * 100_000, headers)) as peer:
        assert asyncio.run(three_times(peer.url)) == 1


def encoded(body: bytes, coding: str, times: int = 1) -> Handler:
    head = HEAD + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (coding.encode(), len(body))
    return sends(head + body)


def test_identity_is_asked_for_and_compressed_answers_are_understood_all_the_same(loop):
    for coding, body in [("gzip", gzip.compress(b"hello")), ("deflate", zlib.compress(b"hello"))]:
        ended, _, _ = fetch(loop, encoded(body, coding))
        assert isinstance(ended, httpx2.Response)
        assert ended.text == "hello"
        assert ended.request.headers["accept-encoding"] == "identity"


def bomb(layers: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join(packer.compress(bytes(MIB)) for _ in range(200)) + packer.flush()
    for _ in range(layers - 1):
        body = gzip.compress(body)
    return body


@pytest.mark.parametrize("layers", [1, 2])
def test_a_compressed_bomb_costs_little_memory(loop, layers):
    handler = encoded(bomb(layers), ", ".join(["gzip"] * layers))
    fetch(loop, handler)

    tracemalloc.start()
    try:
        ended, _, _ = fetch(loop, handler)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(ended, ResponseTooLarge)
    assert peak < 16 * MIB


def test_broken_compression_is_an_error_of_the_far_side(loop):
    ended, _, trace = fetch(loop, encoded(b"not gzip at all", "gzip"))

    assert isinstance(ended, httpx2.DecodingError)
    assert list(trace.failures) == [ended]


DRIPS = {
    "of the status line": sends(b"HTTP/1.1 200 ", endlessly=b"x", pause_s=0.05),
    "of headers": sends(HEAD, endlessly=b"X: y\r\n", pause_s=0.05),
    "of a body": sends(HEAD + b"Content-Length: 1000\r\n\r\n", endlessly=b"x", pause_s=0.05),
    "of chunks": sends(CHUNKED, endlessly=b"1\r\nx\r\n", pause_s=0.05),
}


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1024):
        pass


@pytest.mark.parametrize("handler", [*DRIPS.values(), silent], ids=[*DRIPS, "of nothing"])
def test_a_drip_does_not_outlive_the_total_deadline(loop, handler):
    began = time.monotonic()
    ended, _, _ = fetch(loop, handler, deadline_s=0.4)

    assert isinstance(ended, TimeoutError)
    assert time.monotonic() - began < 0.9


CUTS = {
    "before the head": (sends(b""), httpx2.RemoteProtocolError),
    "within the head": (sends(HEAD), httpx2.RemoteProtocolError),
    "within the body": (sends(HEAD + b"Content-Length: 10\r\n\r\nabc"), httpx2.RemoteProtocolError),
    "no http": (sends(b"SSH-2.0-OpenSSH_9.6\r\n"), httpx2.RemoteProtocolError),
}


@pytest.mark.parametrize(("handler", "kind"), CUTS.values(), ids=CUTS)
def test_a_connection_cut_short_is_an_error_that_says_so(loop, handler, kind):
    ended, _, trace = fetch(loop, handler)

    assert isinstance(ended, (kind, httpx2.ReadError))
    assert list(trace.failures) == [ended]


def test_what_the_far_side_said_is_noted_though_libraries_lose_it(loop):
    from mcp import ClientSession, MCPError
    from mcp.client.streamable_http import streamable_http_client

    trace = Trace()

    async def initialize(url: str) -> None:
        guard = Guard(Policy(allow=("127.0.0.0/8",)))
        async with (
            guard.client(trace=trace) as client,
            streamable_http_client(url, http_client=client) as (reading, writing),
            ClientSession(reading, writing) as session,
        ):
            await session.initialize()

    said = {"WWW-Authenticate": 'Bearer realm="x"', "Retry-After": "120", "Content-Type": "Text/HTML; charset=utf-8"}
    with web(loop, lambda request: response(401, b"no", said)) as peer, pytest.raises(ExceptionGroup) as caught:
        asyncio.run(initialize(peer.url))

    assert [str(cause) for cause in causes(caught.value) if isinstance(cause, MCPError)] == [
        "Server returned an error response"
    ]
    answer = trace.answers[0]
    assert (answer.method, answer.status, answer.content_type) == ("POST", 401, "text/html")
    assert (answer.www_authenticate, answer.retry_after) == ('Bearer realm="x"', "120")


def test_a_trace_keeps_little_however_long_the_far_side_talks():
    trace = Trace()
    for number in range(10 * KEPT):
        trace.failures.append(ValueError(number))
        with trace.step("tcp"):
            pass

    assert len(trace.failures) == KEPT
    assert len(trace.steps) == 1


def test_a_trace_shows_each_step_once_and_its_failure_above_all():
    trace = Trace()
    for name, fails in [("dns", False), ("tcp", False), ("dns", True), ("tcp", False), ("dns", False)]:
        try:
            with trace.step(name):
                if fails:
                    raise ValueError
        except ValueError:
            pass

    assert [(step.name, step.ok) for step in trace.steps] == [("dns", False), ("tcp", True)]


def test_causes_walks_groups_causes_and_contexts_once_each():
    inner = OSError("inner")
    try:
        try:
            raise inner
        except OSError:
            raise ValueError("outer") from None
    except ValueError as outer:
        group = ExceptionGroup("two", [outer, ExceptionGroup("nested", [outer])])
    inner.__context__ = group  # a cycle

    assert sorted(type(cause).__name__ for cause in causes(group)) == [
        "ExceptionGroup",
        "ExceptionGroup",
        "OSError",
        "ValueError",
    ]
