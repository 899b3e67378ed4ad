"""Resolving once, checking every answer, and connecting to what was checked: the only sockets to users' addresses."""

# ruff: noqa: ASYNC109 - the timeout parameters are httpcore's interface

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import httpcore2

from chalicelib.egress.failures import ResponseTooLarge
from chalicelib.egress.policy import ParsedTarget, Policy
from chalicelib.egress.trace import Trace
from chalicelib.errors import Blocked

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
Connected = TypeVar("Connected")

MAX_HEAD_BYTES = 64 * 1024
MAX_ATTEMPTS = 8

#: The checked target of the request at hand: httpcore tells a backend only host and port, and the rules need more.
current_target: ContextVar[ParsedTarget] = ContextVar("current_target")


async def system_resolver(host: str, port: int) -> list[str]:
    """All addresses of a name, as the system orders them. Raises ``socket.gaierror``.

    Not ``loop.getaddrinfo``: a stalled lookup would hold up the end of ``asyncio.run``, long after the deadline. The
    limiter is its own for each lookup, so that stalled ones do not make others wait.
    """
    lookup = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await anyio.to_thread.run_sync(lookup, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def checked_addresses(policy: Policy, resolver: Resolver, target: ParsedTarget, trace: Trace) -> Sequence[str]:
    """The addresses to connect to, all of them allowed. Raises :class:`Blocked` or ``socket.gaierror``."""
    if target.is_literal:
        return [target.host]
    began = perf_counter()
    try:
        answers = await resolver(target.host, target.port)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
    except BaseException:
        trace.note("dns", ok=False, began=began)
        raise
    with trace.step("policy"):
        policy.check_answers(target, answers)
    # Only now: of a name that is refused, nobody learns whether it resolved.
    trace.note("dns", ok=True, began=began)
    return answers


async def first_to_answer(
    addresses: Sequence[str], connect: Callable[[str], Awaitable[Connected]], within_s: float
) -> Connected:
    """Connects to one address after the other, each with its share of the time left. Raises the last failure."""
    ends = anyio.current_time() + within_s
    tried = addresses[:MAX_ATTEMPTS]
    for index, address in enumerate(tried):
        share = (ends - anyio.current_time()) / (len(tried) - index)
        try:
            with anyio.fail_after(share):
                return await connect(address)
        except (OSError, httpcore2.NetworkError, httpcore2.TimeoutException):
            if index == len(tried) - 1:
                raise
    raise ValueError("no addresses to try")


async def connected_socket(address: str, port: int) -> socket.socket:
    """A non-blocking TCP socket, connected to a literal address."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """httpcore's network, with the checks in between. ``network`` only ever sees literal, checked addresses."""

    def __init__(
        self,
        policy: Policy,
        resolver: Resolver,
        network: httpcore2.AsyncNetworkBackend,
        connect_s: float,
        trace: Trace,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._network = network
        self._connect_s = connect_s
        self._trace = trace

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        target = current_target.get()
        if (target.host, target.port) != (host, port):
            raise Blocked()
        within_s = self._connect_s if timeout is None else min(timeout, self._connect_s)
        try:
            return await self._connect(target, within_s)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout("no connection in time") from error
        except OSError as error:
            raise httpcore2.ConnectError("no connection") from error

    async def _connect(self, target: ParsedTarget, within_s: float) -> httpcore2.AsyncNetworkStream:
        ends = anyio.current_time() + within_s
        with anyio.fail_after(within_s):
            addresses = await checked_addresses(self._policy, self._resolver, target, self._trace)
        with self._trace.step("tcp"):
            stream = await first_to_answer(
                addresses,
                lambda address: self._network.connect_tcp(address, target.port),
                ends - anyio.current_time(),
            )
        return CheckedStream(stream, self._trace)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        raise Blocked()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class CheckedStream(httpcore2.AsyncNetworkStream):
    """A connection that bounds the head of every response, times TLS, and is closed whatever interrupts it."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, trace: Trace) -> None:
        self._stream = stream
        self._trace = trace
        self._head_bytes: int | None = 0  # None once the head of the response is complete

    def head_is_complete(self) -> None:
        self._head_bytes = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._head_bytes is None:
            return await self._stream.read(max_bytes, timeout)
        left = MAX_HEAD_BYTES - self._head_bytes
        if left <= 0:
            raise ResponseTooLarge()
        data = await self._stream.read(min(max_bytes, left), timeout)
        self._head_bytes += len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._head_bytes = 0
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        with self._trace.step("tls"):
            try:
                stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
            except BaseException:
                # httpcore closes on errors, but not when a deadline cancels the handshake.
                with anyio.CancelScope(shield=True):
                    await self._stream.aclose()
                raise
        found = stream.get_extra_info("ssl_object")
        if found is not None:
            self._trace.server_certificate = found.getpeercert(binary_form=True)
        return CheckedStream(stream, self._trace)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
