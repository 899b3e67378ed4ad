"""Redirects of an MCP endpoint: followed within its origin, as the SDK does; anywhere else, they are a finding."""

from __future__ import annotations

import httpx2

from chalicelib.errors import Blocked
from chalicelib.probes.verdicts import BLOCKED, REDIRECTED_AWAY, TOO_MANY_REDIRECTS, Finding
from chalicelib.probes.visit import Visit

MOST = 3


async def same_place(visit: Visit, client: httpx2.AsyncClient, request: httpx2.Request) -> httpx2.Response:
    """The final response, its body not yet read. Raises :class:`Finding` for a redirect that is not followed."""
    for _ in range(MOST + 1):
        response = await client.send(request, stream=True, follow_redirects=False)
        following = response.next_request
        if following is None:
            return response
        await response.aclose()
        unfollowed = away(visit, request, following)
        if unfollowed:
            raise unfollowed
        request = following
    raise TOO_MANY_REDIRECTS.finding()


def away(visit: Visit, request: httpx2.Request, following: httpx2.Request) -> Finding | None:
    """None if this redirect may be followed: same origin, same method, no user name of its own."""
    try:
        visit.guard.policy.check_url(str(following.url))
    except Blocked as error:
        return BLOCKED.finding(message=error.detail, detail="redirect to an address that is not allowed")
    stays = following.url.origin == request.url.origin and not following.url.userinfo
    return None if stays and following.method == request.method else REDIRECTED_AWAY.finding()
