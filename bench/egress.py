"""What the guard costs per connection, and how many checks a core makes with and without. `python -m bench.egress`"""

from __future__ import annotations

import asyncio
import multiprocessing
import ssl
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import httpcore2
import httpx2

from chalicelib.egress.guard import Guard
from chalicelib.egress.policy import Policy
from tests.peers.certificates import Authority, Pair, server_context

AT_ONCE = 64
CHECKS = 512  # per round
ROUNDS = 7
ANSWERS_AFTER_S = 0.1
CONNECTIONS = 3_000
TARGET = 0.85

Check = Callable[[], Awaitable[httpx2.Response]]

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


def serve(pair: Pair, port_to: Connection) -> None:
    """A TLS server in a process of its own, so that its work is not counted as ours."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(ANSWERS_AFTER_S)
        writer.write(ANSWER)
        await writer.drain()
        writer.transport.abort()

    async def forever() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context(pair), backlog=512)
        port_to.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


@contextmanager
def serving(pair: Pair) -> Iterator[int]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(pair, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


async def many(check: Check) -> None:
    left = iter(range(CHECKS))

    async def worker() -> None:
        for _ in left:
            response = await check()
            assert response.status_code == 200

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


def measured(check: Check) -> tuple[float, float]:
    """Checks per second, and CPU microseconds per check."""
    cpu, began = time.process_time(), time.perf_counter()
    asyncio.run(many(check))
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    return CHECKS / took, cpu / CHECKS * 1e6


def checks_per_second() -> None:
    authority = Authority()
    context = ssl.create_default_context(cadata=authority.pem)
    guard = Guard(Policy(allow=("127.0.0.0/8", "::1/128")))
    with serving(authority.issue("localhost")) as port:
        url = f"https://localhost:{port}/"

        async def bare() -> httpx2.Response:
            async with httpx2.AsyncClient(verify=context, trust_env=False, timeout=10) as client:
                return await client.get(url)

        async def guarded() -> httpx2.Response:
            async with guard.client(ssl_context=context) as client:
                return await guard.send(client, client.build_request("GET", url), deadline_s=10)

        measured(bare), measured(guarded)  # the first ones import and warm up
        # By turns, so that both meet the same machine; the middle of the ratios counts.
        rounds = [(measured(bare), measured(guarded)) for _ in range(ROUNDS)]
    for index, name in enumerate(("bare httpx2", "through the guard")):
        speed = statistics.median(pair[index][0] for pair in rounds)
        cpu = statistics.median(pair[index][1] for pair in rounds)
        print(f"{name:>18}: {speed:6.0f} checks/s, {cpu:5.0f} µs of CPU each")
    ratio = statistics.median(guarded[0] / bare[0] for bare, guarded in rounds)
    print(f"             ratio: {ratio:.2f} (target: at least {TARGET})")


class Instant(httpcore2.AsyncNetworkBackend):
    """A network that answers from memory: what is left to measure is the way there."""

    async def connect_tcp(self, *arguments: object, **options: object) -> httpcore2.AsyncNetworkStream:
        return httpcore2.AsyncMockStream([ANSWER])


async def resolve(host: str, port: int) -> list[str]:
    return ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]


async def microseconds(check: Callable[[], Awaitable[object]]) -> float:
    began = time.process_time()
    for _ in range(CONNECTIONS):
        await check()
    return (time.process_time() - began) / CONNECTIONS * 1e6


class Unguarded(httpx2.AsyncHTTPTransport):
    """httpx2's own transport on the same network."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(verify=context)
        self._pool = httpcore2.AsyncConnectionPool(ssl_context=context, network_backend=Instant())


async def cost_per_connection() -> None:
    url, policy = "http://api.example.com/mcp", Policy()
    guard = Guard(policy, resolver=resolve, network=Instant())
    context = ssl.create_default_context()

    async def bare() -> None:
        async with httpx2.AsyncClient(transport=Unguarded(context), trust_env=False) as client:
            await client.get(url)

    async def guarded() -> None:
        async with guard.client(ssl_context=context) as client:
            await client.get(url)

    async def rules() -> None:
        policy.check_answers(policy.check_url(url), await resolve("api.example.com", 443))

    await microseconds(bare), await microseconds(guarded)
    rounds = [(await microseconds(bare), await microseconds(guarded), await microseconds(rules)) for _ in range(5)]
    without, with_guard, judging = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"one connection and request in memory: {without:.0f} µs bare, {with_guard:.0f} µs guarded")
    print(f"cost of the guard per connection: {with_guard - without:.0f} µs, of which the rules {judging:.0f} µs")


def report() -> None:
    print(f"{AT_ONCE} checks at once, each on a new TLS connection to a server that answers after 100 ms:")
    checks_per_second()
    asyncio.run(cost_per_connection())


if __name__ == "__main__":
    report()
