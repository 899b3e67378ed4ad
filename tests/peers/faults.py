"""Far sides that misbehave, each in one way, as any kind of server: MCP over HTTP or SSE, or a vendor's API.

Most faults strike before the kinds differ. Those inside an answer are put where each kind gives its answers.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
import warnings
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal

from tests.peers.certificates import Pair, server_context
from tests.peers.raw import Handler, Loop, Request, listening, read_request, response

Kind = Literal["http", "sse", "vendor"]
#: What a server does on each connection, which may depend on what it should be.
Serve = Callable[[str], Handler]
#: Something at an address: gives its origin while it is open.
Opened = Callable[[Loop, str], AbstractContextManager[str]]

MIB = 1024 * 1024
HEAD = b"HTTP/1.1 200 OK\r\n"
JSON_HEAD = HEAD + b"Content-Type: application/json\r\n"
STREAM_HEAD = HEAD + b"Content-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "' + b"x" * 500 + b'"}}\n\n'


def served(serve: Serve, *, tls: ssl.SSLContext | None = None, called_https: bool = False) -> Opened:
    @contextmanager
    def opened(loop: Loop, kind: str) -> Iterator[str]:
        with listening(loop, serve(kind), tls=tls) as peer:
            yield peer.url.replace("http:", "https:") if called_https else peer.url

    return opened


@contextmanager
def nothing_listens(loop: Loop, kind: str) -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@contextmanager
def black_hole(loop: Loop, kind: str) -> Iterator[str]:
    """A full queue of connections: the kernel drops every further attempt without a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            for filler in fillers:
                filler.close()


def alerting(context: ssl.SSLContext) -> Opened:
    """TLS that ends a failed handshake with the alert that says why: asyncio's servers leave that out."""

    @contextmanager
    def opened(loop: Loop, kind: str) -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=_shake_hands, args=(listener, context))
            thread.start()
            try:
                yield f"https://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()

    return opened


def _shake_hands(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        sock.settimeout(2)
        with (
            context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) as connection,
            suppress(OSError),
        ):
            with suppress(ssl.SSLError):
                connection.do_handshake()
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4_096):
                pass  # else closing would reset the connection, and overtake the alert


def answers(status: int, body: bytes = b"{}", **headers: str) -> Serve:
    """The same to every request; underscores in header names stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return on_request(lambda writer, request: _written(writer, response(status, body, named)))


async def _written(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)


def on_request(action: Callable[[asyncio.StreamWriter, Request], Awaitable[None]]) -> Serve:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await read_request(reader)) is not None:
            await action(writer, request)
            await writer.drain()

    return lambda kind: handler


def says(*parts: bytes, endlessly: bytes = b"", pause_s: float = 0, then: str = "stay") -> Serve:
    """Raw bytes to every request, then ``stay``, ``close`` or ``reset``."""

    async def action(writer: asyncio.StreamWriter, request: Request) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        while endlessly:
            writer.write(endlessly)
            await writer.drain()
            await asyncio.sleep(pause_s)
        await leave(writer, then)

    return on_request(action)


def typed(*parts: bytes, **how: Any) -> Serve:
    """Like :func:`says`, after a head with the content type that each kind expects."""
    first, *rest = parts
    return lambda kind: says((STREAM_HEAD if kind == "sse" else JSON_HEAD) + first, *rest, **how)(kind)


async def leave(writer: asyncio.StreamWriter, how: str) -> None:
    if how == "stay":
        await asyncio.sleep(60)
    if how == "close":
        writer.close()  # not before all is sent, which a slow reader takes a while for
        return
    if how == "reset":
        await asyncio.sleep(0.05)  # a reset overtakes what was written just before
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


def greets(words: bytes, then: str = "stay") -> Serve:
    """Answers whatever comes with these words, TLS included."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(words)
        await leave(writer, then)

    return lambda kind: handler


def unheard(then: str) -> Serve:
    """Accepts a connection and reads nothing."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await leave(writer, then)

    return lambda kind: handler


def redirects(location: str, status: int = 307) -> Serve:
    """``{same}`` in the location is the path that was asked for."""

    async def action(writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(response(status, b"", {"Location": location.replace("{same}", request.path)}))

    return on_request(action)


def replies(reply: Callable[[Any], Any]) -> Serve:
    """``reply(id)``, as bytes or JSON, to every JSON-RPC request; to a vendor's request as it is."""

    def data(request_id: Any) -> bytes:
        value = reply(request_id)
        return value if isinstance(value, bytes) else json.dumps(value).encode()

    return lambda kind: _event_stream(data) if kind == "sse" else _posts(data)


def _posts(data: Callable[[Any], bytes]) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await read_request(reader)) is not None:
            asked = json.loads(request.body or b'{"id": 0}')
            writer.write(response(200, data(asked["id"])) if "id" in asked else response(202))

    return handler


def _event_stream(data: Callable[[Any], bytes]) -> Handler:
    """HTTP+SSE: one connection listens, others post, and what they asked is answered on the first."""
    listeners: list[asyncio.StreamWriter] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await read_request(reader)) is not None:
            if request.method == "GET":
                listeners.append(writer)
                writer.write(STREAM_HEAD + b"\r\nevent: endpoint\ndata: /messages/%d\n\n" % len(listeners))
                continue
            asked = json.loads(request.body)
            writer.write(response(202))
            if "id" in asked:
                listener = listeners[int(request.path.rpartition("/")[2]) - 1]
                listener.write(b"event: message\ndata: " + data(asked["id"]) + b"\n\n")

    return handler


def posts_meet(words: bytes = b"", then: str = "stay") -> Serve:
    """HTTP+SSE: the stream is opened as it should be; whoever posts hears these words and what comes ``then``."""

    async def action(writer: asyncio.StreamWriter, request: Request) -> None:
        if request.method == "GET":
            writer.write(STREAM_HEAD + b"\r\nevent: endpoint\ndata: /messages\n\n")
            return
        writer.write(words)
        await leave(writer, then)

    return on_request(action)


def events(*, endlessly: bool = False, pause_s: float = 0, chunked: bool = False, then: str = "stay") -> Serve:
    """An event stream with a notification, or with many, and never an answer."""

    async def action(writer: asyncio.StreamWriter, request: Request) -> None:
        if request.path == "/messages":
            writer.write(response(202))
            return
        frame = chunk if chunked else bytes
        writer.write(STREAM_HEAD + (CHUNKED if chunked else b"\r\n") + frame(b"event: endpoint\ndata: /messages\n\n"))
        while True:
            writer.write(frame(EVENT))
            await writer.drain()
            await asyncio.sleep(pause_s)
            if not endlessly:
                await leave(writer, then)

    return on_request(action)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def gzip_bomb(size: int = 200 * MIB) -> bytes:
    """What unpacks to so many zeros."""
    packer = zlib.compressobj(9, wbits=31)
    piece = bytes(MIB)
    return b"".join(packer.compress(piece) for _ in range(size // MIB)) + packer.flush()


def outdated(pair: Pair) -> ssl.SSLContext:
    """A server that speaks no more than TLS 1.1."""
    context = server_context(pair)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python calls these versions outdated: that is the point
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return context
