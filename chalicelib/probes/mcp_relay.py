"""Between the SDK's session and the network: notices what the SDK would drop, to wait for it for ever (``mcp.md``)."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING

import httpx2

from chalicelib.egress.trace import KEPT

#: Where servers write it; should one write it otherwise, the SDK still posts to no other origin, but waits in silence.
_ENDPOINT = re.compile(rb"event: ?endpoint\r?\ndata: ?([^\r\n]*)(\r?\n)?")
LONGEST_HEAD = 8_192

if TYPE_CHECKING:
    from mcp.client._transport import ReadStream, WriteStream
    from mcp.shared.message import SessionMessage
    from mcp_types import RequestId


class Outbox:
    """A write stream that remembers which requests were sent."""

    def __init__(self, inner: WriteStream[SessionMessage]) -> None:
        self._inner = inner
        self.sent: list[RequestId] = []

    async def send(self, item: SessionMessage, /) -> None:
        from mcp_types import JSONRPCRequest

        if isinstance(item.message, JSONRPCRequest):
            self.sent.append(item.message.id)
        await self._inner.send(item)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Outbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Inbox:
    """A read stream that reports answers to nothing (``LookupError``) and what the transport could not read."""

    def __init__(
        self, inner: ReadStream[SessionMessage | Exception], outbox: Outbox, report: Callable[[Exception], None]
    ) -> None:
        self._inner = inner
        self._outbox = outbox
        self._report = report

    @property
    def last_context(self) -> object:
        return getattr(self._inner, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        return self._checked(await self._inner.receive())

    def _checked(self, item: SessionMessage | Exception) -> SessionMessage | Exception:
        from mcp_types import JSONRPCError, JSONRPCResponse

        if isinstance(item, Exception):
            self._report(item)
        elif isinstance(item.message, JSONRPCError) and item.message.id is None and self._outbox.sent:
            # "I could not even read your request's id": it can only be about the last one.
            item.message.id = self._outbox.sent[-1]
        elif isinstance(item.message, JSONRPCResponse | JSONRPCError) and item.message.id not in self._outbox.sent:
            self._report(LookupError("unknown id"))
        return item

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        return self._checked(await self._inner.__anext__())

    async def __aenter__(self) -> Inbox:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._inner.__aexit__(kind, error, trace)


class Failures(deque[Exception]):
    """Failures of the transport, reported as they come: the SDK logs those of an SSE connection and does nothing."""

    def __init__(self, report: Callable[[Exception], None]) -> None:
        super().__init__(maxlen=KEPT)
        self._report = report

    def append(self, error: Exception, /) -> None:
        super().append(error)
        self._report(error)


class Watched(httpx2.AsyncByteStream):
    """The body of an event stream. Tells where it wants messages posted, and that the far side has ended it."""

    def __init__(self, inner: object, endpoint: Callable[[str], None], ended: Callable[[], None]) -> None:
        assert isinstance(inner, httpx2.AsyncByteStream)
        self._inner = inner
        self._endpoint = endpoint
        self._ended = ended

    async def __aiter__(self) -> AsyncIterator[bytes]:
        head = b""
        async for part in self._inner:
            if len(head) < LONGEST_HEAD:
                head += part
                if b"\n" in part or len(head) >= LONGEST_HEAD:  # else no line has ended since the last look
                    head = self._look(head)
            yield part
        self._ended()

    def _look(self, head: bytes) -> bytes:
        found = _ENDPOINT.search(head)
        if found is None or (found[2] is None and len(head) < LONGEST_HEAD):
            return head
        self._endpoint(found[1].decode(errors="replace"))
        return b" " * LONGEST_HEAD

    async def aclose(self) -> None:
        await self._inner.aclose()
