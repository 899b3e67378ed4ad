"""Stands between the service and PostgREST, and loses answers or refuses requests as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import httpx2

from tests.peers.raw import Loop, Peer, listening, read_request, response

#: For a request's path: pass it on, answer 503, or pass it on and lose the answer.
Whim = Callable[[str], Literal["pass", "503", "lose"]]


@contextmanager
def meddler(loop: Loop, upstream: str, whim: Whim) -> Iterator[Peer]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
            while (request := await read_request(reader)) is not None:
                mood = whim(request.path)
                if mood == "503":
                    writer.write(response(503, b'{"code": "PGRST001", "message": "Database client error"}'))
                    await writer.drain()
                    continue
                headers = {
                    name: value for name, value in request.headers.items() if name not in ("host", "content-length")
                }
                answer = await client.request(
                    request.method, upstream + request.target, headers=headers, content=request.body
                )
                if mood == "lose":
                    return
                kind = answer.headers.get("content-type", "application/json")
                writer.write(response(answer.status_code, answer.content, {"Content-Type": kind}))
                await writer.drain()

    with listening(loop, serve) as peer:
        yield peer
