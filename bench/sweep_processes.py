"""The processes of `bench.sweep`: the servers, and whoever asks them. Apart, so that a worker imports what it needs."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import ssl
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.peers.certificates import Pair

HOSTS = 1_000
ANSWERS_AFTER_S = 0.1
AT_ONCE = 64
RESULT = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "bench", "version": "1"}}


def host_of(number: int) -> str:
    return f"s{number % HOSTS}.bench.test"


@dataclass(frozen=True)
class Work:
    seconds: float
    cpu_s: float
    peak_mb: float
    ok: int
    said: str


# Servers.


def serve(pipe: Connection, pair: Pair) -> None:
    """MCP servers behind one port. Told True, every twentieth host hangs and every twentieth drips, until told False."""
    from tests.peers.certificates import server_context

    troubled = False

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            await reader.readexactly(int(head.partition("content-length:")[2].partition("\r\n")[0]))
            assert "authorization: bearer key-of-" in head
            number = int(head.partition("host: s")[2].partition(".")[0])
            await asyncio.sleep(ANSWERS_AFTER_S)
            if troubled and number % 20 == 0:
                await asyncio.sleep(3600)
            if troubled and number % 20 == 1:
                await _drip(writer)
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": RESULT}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                         b"Content-Length: %d\r\n\r\n%b" % (len(body), body))  # fmt: skip
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def forever() -> None:
        nonlocal troubled
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context(pair), backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        loop = asyncio.get_running_loop()
        while True:
            (troubled,) = await loop.run_in_executor(None, pipe.recv)
            pipe.send(troubled)

    asyncio.run(forever())


async def _drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.2)


# Whoever asks them.


def work(pipe: Connection, settings: dict[str, str], authority: str, port: int) -> None:
    """Answers "bare" and "sweep" with what came of it."""
    os.environ.update(settings)
    guard = _guard(authority)
    while question := pipe.recv():
        cpu, began = time.process_time(), time.perf_counter()
        ok, said = _bare(guard, port) if question == ("bare",) else _sweep(guard)
        took, spent = time.perf_counter() - began, time.process_time() - cpu
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        pipe.send(Work(took, spent, peak_mb, ok, said))


def _guard(authority: str) -> Any:
    """The product's guard, which knows the names of the bench and trusts its authority."""
    from chalicelib.egress.guard import Guard
    from chalicelib.egress.policy import Policy

    context = ssl.create_default_context(cadata=authority)

    class Trusting(Guard):
        def client(self, **options: Any) -> Any:
            return super().client(**{**options, "ssl_context": context})

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    return Trusting(Policy(allow=("127.0.0.0/8",)), resolver=resolve)


def _sweep(guard: Any) -> tuple[int, str]:
    from chalicelib import wiring
    from chalicelib.jobs.running import run_sweep
    from chalicelib.probes.check import Prober

    wiring.prober = lambda: Prober(guard, mcp_stdio="off", connect_s=3, total_s=10)
    summary = run_sweep(300, most=5_000)
    said = f"{summary.round_trips} round trips, {summary.kms_calls} unwraps, {dict(summary.verdicts)}"
    assert summary.recorded == summary.claimed, summary
    return summary.verdicts["ok"], said


def _bare(guard: Any, port: int) -> tuple[int, str]:
    from chalicelib.probes.mcp_wire import opening

    message, _ = opening("handshake")
    headers = {"accept": "application/json, text/event-stream", "authorization": "Bearer key-of-nobody"}

    async def check(number: int) -> None:
        async with guard.client(headers=headers) as client:
            request = client.build_request("POST", f"https://{host_of(number)}:{port}/mcp", json=message)
            response = await guard.send(client, request, deadline_s=10)
        assert json.loads(response.content)["result"] == RESULT

    async def all_of_them() -> None:
        left = iter(range(5_000))

        async def worker() -> None:
            for number in left:
                await check(number)

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))

    asyncio.run(all_of_them())
    return 5_000, ""
