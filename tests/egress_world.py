"""The outside world of the guard's tests.

:class:`World` is the network as an SSRF case describes it: names with successive answers, and servers that redirect in
turn. It opens no socket, and counts who would have been connected to. :func:`serving` and :func:`web` are real servers.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpcore2

from tests.peers.raw import Handler, Loop, Peer, Request, listening, read_request

CASES_FOLDER = Path(__file__).parent / "cases"
POLICY: dict[str, Any] = json.loads((CASES_FOLDER / "ssrf_policy.json").read_text())

Case = dict[str, Any]


def shared_cases() -> list[Case]:
    found: list[Case] = json.loads((CASES_FOLDER / "ssrf_cases.json").read_text())
    return found


#: Hops of refused redirect chains that are legitimate; every other socket in those cases is a hole.
LEGITIMATE_HOPS = {"api.example.com": "93.184.215.14", "other.example.com": "1.1.1.1"}


class World(httpcore2.AsyncNetworkBackend):
    """``opened`` lists every connection as (address, port), ``sent`` what each one was told."""

    def __init__(self, case: Case) -> None:
        self._answers = {name: list(answers) for name, answers in case.get("dns", {}).items()}
        self._locations: list[str] = list(case.get("redirects", ()))
        self._redirect_status = case.get("redirect_status", 302)
        self.final = case.get("final", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        self.opened: list[tuple[str, int]] = []
        self.sent: list[bytes] = []
        self.responses = 0

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        if host not in self._answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        answers = self._answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        # As the system would: whoever connects to a name has it resolved once more.
        address = (await self.resolve(host, port))[0] if host in self._answers else host
        self.opened.append((address, port))
        self.sent.append(b"")
        return _Served(self, len(self.sent) - 1)

    def next_response(self) -> bytes:
        self.responses += 1
        if not self._locations:
            return self.final
        location = self._locations.pop(0)
        return f"HTTP/1.1 {self._redirect_status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


class _Served(httpcore2.AsyncNetworkStream):
    def __init__(self, world: World, index: int) -> None:
        self._world = world
        self._index = index

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return self._world.next_response()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._world.sent[self._index] += buffer

    async def aclose(self) -> None:
        pass

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        return self


def holes(case: Case, opened: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """The sockets that this case forbids. Worked out from the case alone, not with the code under test."""
    if case["allowed"]:
        answers = {address for successive in case.get("dns", {}).values() for address in successive[0]}
        literal = case["url"].split("/")[2].strip("[]")
        return [entry for entry in opened if entry[0] not in answers | {literal}]
    if case["category"] != "redirect":
        return list(opened)
    port = 80 if case["url"].startswith("http:") else 443
    return [entry for entry in opened if entry not in {(address, port) for address in LEGITIMATE_HOPS.values()}]


# The interpreter's own record of connections, as a second witness beside World. A hook cannot be removed again, so
# this one stays and is idle.
_witness: list[tuple[str, int]] | None = None


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and _witness is not None:
        _witness.append(tuple(arguments[1][:2]))
        raise ConnectionRefusedError("no connection leaves this test")


sys.addaudithook(_on_event)


@contextmanager
def no_real_connection() -> Iterator[list[tuple[str, int]]]:
    """Refuses and lists every connection that this process attempts in the block, by whatever library."""
    global _witness
    _witness = []
    try:
        yield _witness
    finally:
        _witness = None


@contextmanager
def serving(loop: Loop, handler: Handler, *, tls: ssl.SSLContext | None = None) -> Iterator[Peer]:
    """A real server on loopback; a handler that is cut off at the end of the block closes its connection quietly."""

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):
            await handler(reader, writer)

    with listening(loop, closing, tls=tls) as peer:
        yield peer


@contextmanager
def web(loop: Loop, answer: Callable[[Request], bytes], *, tls: ssl.SSLContext | None = None) -> Iterator[Peer]:
    """A real HTTP server on loopback that answers every request so, and keeps them in ``requests``."""
    seen: list[Request] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await read_request(reader)) is not None:
            seen.append(request)
            writer.write(answer(request))
            await writer.drain()

    with serving(loop, serve, tls=tls) as peer:
        peer.requests = seen
        yield peer
