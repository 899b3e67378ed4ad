"""Redirects by hand: few, each checked by the transport, and nothing secret carried to another origin."""

from __future__ import annotations

from collections.abc import Collection

import httpx2

from chalicelib.egress.transport import REDIRECTED_FROM

#: All that another origin gets to see. A list of what is harmless, not of what is secret: nobody forgets to extend it.
HARMLESS_HEADERS = ("accept", "accept-encoding", "accept-language", "user-agent")


async def send_following(
    client: httpx2.AsyncClient, request: httpx2.Request, max_redirects: int, secret_params: Collection[str]
) -> httpx2.Response:
    """The final response, its body read. With ``max_redirects=0`` a redirect itself is the response.

    Raises ``httpx2.TooManyRedirects`` after more than ``max_redirects``, ``httpx2.RemoteProtocolError`` for one to no
    readable address, else what the transport raises.
    """
    hops, left = 0, False
    while True:
        auth = None if left else httpx2.USE_CLIENT_DEFAULT
        response = await client.send(request, stream=True, auth=auth, follow_redirects=False)
        following = response.next_request
        if max_redirects == 0 or not response.has_redirect_location:
            await response.aread()
            return response
        await response.aclose()
        if following is None:
            raise httpx2.RemoteProtocolError("a redirect to no readable address", request=request)
        hops += 1
        if hops > max_redirects:
            raise httpx2.TooManyRedirects("too many redirects", request=request)
        if following.url.origin != request.url.origin:
            following, left = _without_credentials(request, following, secret_params), True
        elif "cookie" in request.headers:
            following.headers["cookie"] = request.headers["cookie"]
        following.extensions = {**request.extensions, REDIRECTED_FROM: request.url}
        request = following


def _without_credentials(
    request: httpx2.Request, following: httpx2.Request, secret_params: Collection[str]
) -> httpx2.Request:
    """A request to another origin: no credential, no cookie and no body; none echoed in the query either."""
    secrets = {value for name, value in request.url.params.multi_items() if name in secret_params}
    kept = [
        (name, value)
        for name, value in following.url.params.multi_items()
        if name not in secret_params and value not in secrets
    ]
    url = following.url
    if len(kept) != len(url.params.multi_items()):
        url = url.copy_with(params=kept)
    headers = {name: request.headers[name] for name in HARMLESS_HEADERS if name in request.headers}
    return httpx2.Request(following.method, url, headers=headers)
