"""The guarded HTTP client of one check, which shows this target's credentials to its own origin only."""

from __future__ import annotations

import httpx2

from chalicelib.probes.certificates import client_context
from chalicelib.probes.credentials import InQuery
from chalicelib.probes.visit import Visit

USER_AGENT = "integration-system"


def guarded_client(visit: Visit) -> httpx2.AsyncClient:
    """Raises :class:`Finding`, ``misconfigured``, if a certificate or key of the target cannot be used."""
    headers = httpx2.Headers({"user-agent": USER_AGENT})
    headers.update(visit.endpoint.headers)
    headers.update(visit.shown.headers)
    return visit.guard.client(
        ssl_context=client_context(visit.target),
        headers=headers,
        auth=InQuery(visit.shown.query) if visit.shown.query else None,
        timeout=httpx2.Timeout(visit.total_s, connect=visit.connect_s),
        trace=visit.trace,
    )
