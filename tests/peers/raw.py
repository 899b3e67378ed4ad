"""Small asyncio servers in one background loop: each connection is handed to a coroutine that may do anything."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Loop:
    """An event loop in a thread of its own, for servers that outlive the loop of the code under test."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="peers", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=20)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)
        self.loop.close()


@dataclass(frozen=True)
class Request:
    """What a server was asked: enough to prove what reached it, and what did not."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass
class Peer:
    """A listening server. ``connections`` counts those accepted; ``requests`` are those read as HTTP."""

    host: str
    port: int
    tls: bool
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"


@contextmanager
def listening(
    loop: Loop, handler: Handler, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[Peer]:
    """Serve until the block ends; connections still open then are cut. ``host`` 0.0.0.0 answers to all of 127.0.0.0/8."""
    peer = Peer("127.0.0.1", 0, tls is not None)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connections += 1
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        try:
            with suppress(
                ConnectionError,
                asyncio.CancelledError,
                asyncio.IncompleteReadError,
                asyncio.LimitOverrunError,
                ssl.SSLError,
            ):
                await handler(reader, writer)
        finally:
            writer.transport.abort()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(accept, host, 0, ssl=tls, limit=2**20, backlog=1024)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # the loop's turn to close what was aborted

    server = loop.run(start())
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        loop.run(stop(server))


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """One HTTP/1.1 request with a counted body, or None when the other side has closed."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, target, headers, body)


def response(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """A whole HTTP/1.1 response."""
    lines = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    head = f"HTTP/1.1 {status} Status\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode("latin-1") + b"\r\n" + body


def http_server(loop: Loop, answer: Callable[[Request], bytes], *, tls: ssl.SSLContext | None = None) -> Any:
    """A keep-alive HTTP server whose every answer is ``answer(request)``; it records what it was asked."""
    seen: list[Request] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await read_request(reader)) is not None:
            seen.append(request)
            writer.write(answer(request))
            await writer.drain()

    @contextmanager
    def running() -> Iterator[Peer]:
        with listening(loop, serve, tls=tls) as peer:
            peer.requests = seen
            yield peer

    return running()


@contextmanager
def background() -> Iterator[Loop]:
    """A loop for servers, stopped when the block ends."""
    loop = Loop()
    try:
        yield loop
    finally:
        loop.close()
