"""Assembles the app; no logic."""

from __future__ import annotations

import os

from chalice.app import Chalice

from chalicelib import wiring
from chalicelib.api.apis import APIS
from chalicelib.api.edge import mount

app = Chalice(app_name="integrations", configure_logs=False)
mount(app, APIS, wiring.door)

if os.environ.get("AWS_LAMBDA_FUNCTION_NAME"):
    wiring.settings()  # a deployment with bad settings fails at its start, with all of them named
