"""Redirects: followed within the origin, as the mcp SDK does; anywhere else, they are a finding.

A check goes to no other origin: what that one answered would prove nothing about a key that it must not be shown.
"""

from __future__ import annotations

import httpx2

from chalicelib.egress.failures import RedirectBlocked
from chalicelib.errors import Blocked
from chalicelib.probes.verdicts import BLOCKED, REDIRECTED_AWAY, TOO_MANY_REDIRECTS, Finding
from chalicelib.probes.visit import Visit
from chalicelib.services.addresses import origin_of

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
    except Blocked:
        return BLOCKED.finding(message=RedirectBlocked().detail, detail="redirect to an address that is not allowed")
    stays = following.url.origin == request.url.origin and not following.url.userinfo
    return None if stays and following.method == request.method else REDIRECTED_AWAY.finding()


def is_elsewhere(visit: Visit, url: str) -> bool:
    """Whether this URL, which the far side gave, lies outside the origin that is checked."""
    try:
        return origin_of(url) != visit.endpoint.origin
    except ValueError:
        return True
