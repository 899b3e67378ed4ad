"""All routes there are."""

from __future__ import annotations

from chalicelib.api import catalogue, checks, credentials, history, integrations, system

APIS = (system.api, catalogue.api, integrations.api, checks.api, credentials.api, history.api)
