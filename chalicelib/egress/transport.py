"""The transport under every client for users' addresses: each request is checked, each response counted and noted."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager, nullcontext

import anyio.lowlevel
import httpcore2
import httpx2

from chalicelib.egress.failures import RedirectBlocked, ResponseTooLarge
from chalicelib.egress.network import CheckedBackend, CheckedStream, current_target
from chalicelib.egress.policy import ParsedTarget, Policy
from chalicelib.egress.trace import Answer, Trace

#: Request extension, set by ``redirects.py`` alone: the URL whose redirect led to this request.
REDIRECTED_FROM = "egress.redirected_from"
MAX_CONNECTIONS = 10

#: A part of a body costs some 25 µs however small it is, and 64 KiB that arrive at once may hold 10,000 of them with no
#: pause in between. So parts must have this many bytes on average, were the body as large as it may be, and after so
#: many of them others get their turn.
LEAST_MEAN_BYTES, PARTS_IN_A_ROW = 64, 64


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Serves one client, and through it one destination: the origin of its first request.

    A request to another origin is refused unless it follows a redirect by ``redirects.py``, which takes the
    credentials off first. So no library above (the mcp SDK follows some redirects itself) can carry them away.
    """

    def __init__(
        self, policy: Policy, backend: CheckedBackend, ssl_context: ssl.SSLContext, max_bytes: int, trace: Trace
    ) -> None:
        self._policy = policy
        self._max_bytes = max_bytes
        self._trace = trace
        self._home: str | None = None
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context, max_connections=MAX_CONNECTIONS, network_backend=backend
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            with self._trace.step("policy"):
                target = self._policy.check_url(str(request.url))
                self._check_origin(target, request)
            return await self._exchange(request, target)
        except Exception as error:
            self._trace.failures.append(error)
            raise

    def _check_origin(self, target: ParsedTarget, request: httpx2.Request) -> None:
        if self._home is None:
            self._home = target.origin
        if target.origin == self._home:
            return
        came_from: httpx2.URL | None = request.extensions.get(REDIRECTED_FROM)
        if came_from is None or (came_from.scheme == "https" and target.scheme != "https"):
            raise RedirectBlocked()
        self._trace.left_origin = True

    async def _exchange(self, request: httpx2.Request, target: ParsedTarget) -> httpx2.Response:
        token = current_target.set(target)
        try:
            with _as_httpx2(request):
                response = await self._pool.handle_async_request(_as_httpcore2(request, target))
        finally:
            current_target.reset(token)
        connection = response.extensions.get("network_stream")
        if isinstance(connection, CheckedStream):
            connection.head_is_complete()
        headers = httpx2.Headers(response.headers)
        self._trace.answers.append(_answer(request.method, response.status, headers))
        return self._bounded(request, response, headers)

    def _bounded(
        self, request: httpx2.Request, response: httpcore2.Response, headers: httpx2.Headers
    ) -> httpx2.Response:
        """The response with a body that cannot exceed the cap, neither as sent nor as decoded."""
        declared = headers.get("content-length", "")
        expected = int(declared) if declared.isdecimal() and request.method != "HEAD" else 0
        parts = _counted(response.aiter_stream(), self._max_bytes, expected)
        if headers.get("content-encoding", "identity") != "identity":
            # We asked for identity; whoever compresses all the same is decoded here, where decoded bytes are counted.
            body = _Body(parts, response.aclose)
            encoded = httpx2.Response(response.status, headers=headers, stream=body, request=request)
            parts = _counted(encoded.aiter_bytes(), self._max_bytes)
            for name in ("content-encoding", "content-length"):
                headers.pop(name, None)
        body = _Body(self._watched(parts, request), response.aclose)
        bounded = httpx2.Response(response.status, headers=headers, stream=body, extensions=response.extensions)
        # Not the charset that the far side names: Python's codecs hold some that take the square of a body's length
        # (punycode) and some that unpack it without any bound (zlib).
        bounded.encoding = "utf-8"
        return bounded

    async def _watched(self, parts: AsyncIterator[bytes], request: httpx2.Request) -> AsyncGenerator[bytes]:
        try:
            with _as_httpx2(request):
                async with _closing(parts):
                    async for part in parts:
                        yield part
        except Exception as error:
            self._trace.failures.append(error)
            raise

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx2.AsyncByteStream):
    def __init__(self, parts: AsyncGenerator[bytes], close: Callable[[], Awaitable[None]]) -> None:
        self._parts = parts
        self._close = close

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts

    async def aclose(self) -> None:
        await self._close()


async def _counted(parts: AsyncIterator[bytes], limit: int, expected: int = 0) -> AsyncGenerator[bytes]:
    """The same parts; raises as soon as they are more than ``limit`` bytes, or at once if more are announced.

    It also raises for more parts than such a body reasonably has.
    """
    total, number = expected if expected > limit else 0, 0
    async with _closing(parts):
        async for part in parts:
            total, number = total + len(part), number + 1
            if total > limit or number > limit // LEAST_MEAN_BYTES:
                raise ResponseTooLarge()
            yield part
            if number % PARTS_IN_A_ROW == 0:
                await anyio.lowlevel.checkpoint()


def _closing(parts: AsyncIterator[bytes]) -> AbstractAsyncContextManager[object]:
    return aclosing(parts) if isinstance(parts, AsyncGenerator) else nullcontext()


@contextmanager
def _as_httpx2(request: httpx2.Request) -> Iterator[None]:
    """httpcore's exceptions under the names that httpx2's users know; ours pass through."""
    try:
        yield
    except (
        httpcore2.TimeoutException,
        httpcore2.NetworkError,
        httpcore2.ProtocolError,
        httpcore2.UnsupportedProtocol,
    ) as error:
        known: type[httpx2.RequestError] = getattr(httpx2, type(error).__name__)
        raise known(str(error), request=request) from error


def _as_httpcore2(request: httpx2.Request, target: ParsedTarget) -> httpcore2.Request:
    url = httpcore2.URL(
        scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=request.url.raw_path
    )
    extensions = dict(request.extensions)
    if target.host.endswith("."):
        # A server name in TLS never has the final dot of an absolute name (RFC 6066 §3), nor has any certificate.
        extensions["sni_hostname"] = target.host.removesuffix(".")
    assert isinstance(request.stream, AsyncIterable)
    return httpcore2.Request(
        request.method, url, headers=request.headers.raw, content=request.stream, extensions=extensions
    )


def _answer(method: str, status: int, headers: httpx2.Headers) -> Answer:
    return Answer(
        method,
        status,
        headers.get("content-type", "").partition(";")[0].strip().lower()[:100],
        _shortened(headers.get("www-authenticate")),
        _shortened(headers.get("retry-after")),
    )


def _shortened(value: str | None) -> str | None:
    return None if value is None else value[:1_000]
