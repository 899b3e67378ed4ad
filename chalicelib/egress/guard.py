"""The guard: the only way out to addresses that users gave (``security.md`` §1)."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Collection
from functools import cache

import anyio
import httpcore2
import httpx2

from chalicelib.egress.network import (
    CheckedBackend,
    Resolver,
    checked_addresses,
    connected_socket,
    first_to_answer,
    system_resolver,
)
from chalicelib.egress.policy import Policy
from chalicelib.egress.redirects import send_following
from chalicelib.egress.trace import Trace
from chalicelib.egress.transport import GuardedTransport

CHECK_BYTES = 1_048_576

# httpx2 logs every URL at level info, and an API key may stand in its query.
logging.getLogger("httpx2").setLevel(logging.WARNING)


@cache
def shared_ssl_context() -> ssl.SSLContext:
    """The system's roots, loaded once per process: a context of its own would cost each client 19 ms."""
    return httpx2.create_ssl_context(trust_env=False)


class Guard:
    """Makes clients and sockets that reach checked addresses only. Holds no connection: clients belong to a loop.

    ``resolver`` answers ``(host, port)`` with all addresses of a name; ``network`` connects to literal addresses.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        resolver: Resolver | None = None,
        connect_s: float = 3.0,
        network: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        self.policy = policy
        self._resolver = resolver or system_resolver
        self._connect_s = connect_s
        self._network = network or httpcore2.AnyIOBackend()

    def client(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        max_bytes: int = CHECK_BYTES,
        headers: httpx2.Headers | dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
        trace: Trace | None = None,
    ) -> httpx2.AsyncClient:
        """A client for one destination: HTTP/1.1, no proxies, no redirects, every body at most ``max_bytes``.

        Its first request settles the origin; any other is refused, save by :meth:`send`. It raises ``Blocked``,
        ``ResponseTooLarge`` and httpx2's exceptions; ``causes`` finds what is inside those. ``timeout`` is per read:
        put every exchange under a total deadline. ``trace`` is filled on the way.
        """
        context = ssl_context or shared_ssl_context()
        if not context.check_hostname:  # which in turn requires that certificates are verified
            raise ValueError("an SSL context must verify certificates and names")
        known = httpx2.Headers({"accept-encoding": "identity"})
        known.update(headers)
        return httpx2.AsyncClient(
            transport=self.transport(context, max_bytes, trace or Trace()),
            headers=known,
            auth=auth,
            timeout=timeout or httpx2.Timeout(30.0, connect=self._connect_s),
            trust_env=False,
            follow_redirects=False,
            max_redirects=self.policy.rules.max_redirects,
        )

    def transport(self, context: ssl.SSLContext, max_bytes: int, trace: Trace) -> httpx2.AsyncBaseTransport:
        backend = CheckedBackend(self.policy, self._resolver, self._network, self._connect_s, trace)
        return GuardedTransport(self.policy, backend, context, max_bytes, trace)

    async def send(
        self,
        client: httpx2.AsyncClient,
        request: httpx2.Request,
        *,
        deadline_s: float,
        max_redirects: int | None = None,
        secret_params: Collection[str] = (),
    ) -> httpx2.Response:
        """The response with its body, within a total deadline; redirects are followed by hand, 3 at most.

        When a redirect changes the origin, the body, ``secret_params`` of the query and all but a few harmless headers
        stay behind (``Trace.left_origin`` then says so). Raises ``TimeoutError`` when the deadline passes,
        ``httpx2.TooManyRedirects``, and whatever the client raises.
        """
        allowed = self.policy.rules.max_redirects if max_redirects is None else max_redirects
        with anyio.fail_after(deadline_s):
            return await send_following(client, request, allowed, secret_params)

    async def open_tcp(self, host: str, port: int, *, trace: Trace | None = None) -> socket.socket:
        """A connected, non-blocking socket, for ``asyncssh.connect(sock=…)``; the caller closes it.

        Raises ``Blocked``, ``TimeoutError`` or an ``OSError`` (``socket.gaierror`` if the name does not resolve).
        """
        trace = trace or Trace()
        with trace.step("policy"):
            target = self.policy.check_host_port(host, port)
        ends = anyio.current_time() + self._connect_s
        with anyio.fail_after(self._connect_s):
            addresses = await checked_addresses(self.policy, self._resolver, target, trace)
        with trace.step("tcp"):
            return await first_to_answer(
                addresses, lambda address: connected_socket(address, target.port), ends - anyio.current_time()
            )
