"""Between the SDK's session and its transport: notices what the session would drop and wait for, for ever."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

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
