"""What the system says about itself. Open to everybody."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from chalicelib import wiring
from chalicelib.api.answers import Health, JsonDocument
from chalicelib.api.edge import Api

api = Api()


@api.get("/health", answers=Health, open=True)
def get_health() -> object:
    """Whether everything that we depend on answers; within a second, whatever is down"""
    return wiring.health()


@api.get("/openapi.json", answers=JsonDocument, open=True, etag=True)
def get_openapi() -> object:
    """This document"""
    return json.loads(_document())


@cache
def _document() -> str:
    from chalicelib.api.apis import APIS
    from chalicelib.api.openapi import document

    described: dict[str, Any] = document(route for api in APIS for route in api.routes)
    return json.dumps(described)
