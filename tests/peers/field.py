"""A field of servers behind one port: every path behaves as it says, and what was asked is counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl

from tests.peers.raw import Loop, Peer, Request, listening, read_request, response


class Field:
    """``/ok``, ``/401``, ``/503``, ``/429?retry_after=7``, ``/hang``, ``/drip`` and ``/cut``; with ``?ms=100`` after a while.
    ``/bearer/x`` lets in who shows the token x.

    ``instead`` replaces a path's behaviour by another's from now on.
    """

    def __init__(self, peer: Peer) -> None:
        self.url = peer.url
        self.port = peer.port
        self.asked: Counter[str] = Counter()
        self.at_once = 0
        self.most_at_once = 0
        self.instead: dict[str, str] = {}

    def at(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


@contextmanager
def field(loop: Loop) -> Iterator[Field]:
    made: list[Field] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here = made[0]
        here.at_once += 1
        here.most_at_once = max(here.most_at_once, here.at_once)
        try:
            while (request := await read_request(reader)) is not None:
                here.asked[request.target] += 1
                await _answer(here, request, writer)
        finally:
            here.at_once -= 1

    with listening(loop, serve, host="0.0.0.0") as peer:
        made.append(Field(peer))
        yield made[0]


async def _answer(here: Field, request: Request, writer: asyncio.StreamWriter) -> None:
    query = dict(parse_qsl(request.target.partition("?")[2]))
    behaviour = here.instead.get(request.path, request.path).strip("/").partition("/")[0]
    await asyncio.sleep(float(query.get("ms", 0)) / 1000)
    if behaviour == "hang":
        await asyncio.sleep(3600)
    elif behaviour == "drip":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.2)
    elif behaviour == "bearer":
        shown = request.headers.get("authorization", "")
        writer.write(response(200 if shown == f"Bearer {request.path.rpartition('/')[2]}" else 401, b"{}"))
        await writer.drain()
    elif behaviour == "cut":
        writer.transport.abort()
    else:
        status = int(behaviour) if behaviour.isdigit() else 200
        more = {"Retry-After": query["retry_after"]} if "retry_after" in query else {}
        writer.write(response(status, b'{"ok": true}', more))
        await writer.drain()
