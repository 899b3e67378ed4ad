"""Which browsers may read our answers. Chalice's own CORS knows one origin; we allow several, each echoed by name.

No cookies are used, so credentials stay off. ``Vary`` is on every answer: caches must not serve one site's to another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

ALLOWED_HEADERS = "authorization, content-type, idempotency-key, if-none-match, x-request-id"
EXPOSED_HEADERS = "etag, retry-after, x-request-id"
PREFLIGHT_LASTS_S = 7200  # the longest that Chrome honours


def headers_for(origin: str | None, allowed: Sequence[str]) -> dict[str, str]:
    """The headers of an answer to a page of this origin."""
    if origin is None or origin not in allowed:
        return {"Vary": "Origin"}
    return {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": EXPOSED_HEADERS,
    }


def preflight_headers(origin: str | None, allowed: Sequence[str], methods: Iterable[str]) -> dict[str, str]:
    """The headers of an answer to ``OPTIONS``; without permission for an origin that is not allowed."""
    headers = headers_for(origin, allowed)
    if "Access-Control-Allow-Origin" in headers:
        headers |= {
            "Access-Control-Allow-Methods": ", ".join(sorted(methods)),
            "Access-Control-Allow-Headers": ALLOWED_HEADERS,
            "Access-Control-Max-Age": str(PREFLIGHT_LASTS_S),
        }
    return headers
