"""Redirects: followed within the origin, as the mcp SDK does; anywhere else, they are a finding.

A check goes to no other origin: what that one answered would prove nothing about a key that it must not be shown.
"""

from __future__ import annotations

from urllib.parse import urljoin

import httpx2

from chalicelib.egress.failures import RedirectBlocked
from chalicelib.errors import Blocked
from chalicelib.probes.verdicts import BLOCKED, REDIRECTED_AWAY, TOO_MANY_REDIRECTS, Finding
from chalicelib.probes.visit import Visit
from chalicelib.services.addresses import origin_of

MOST = 3
LONGEST = 2_048


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


def within_origin(visit: Visit, reference: str) -> str | None:
    """The URL that the far side means, seen from the one that is checked; None if it lies outside its origin.

    None also for what is no URL, or longer than any: a far side may give a megabyte of it.
    """
    if len(reference) > LONGEST:
        return None
    try:
        url = urljoin(visit.endpoint.url or "", reference)
        return url if origin_of(url) == visit.endpoint.origin else None
    except ValueError:
        return None
