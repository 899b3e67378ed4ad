"""Assembles the app; no logic."""

from __future__ import annotations

from chalice.app import Chalice

from chalicelib import wiring
from chalicelib.api.apis import APIS
from chalicelib.api.edge import mount
from chalicelib.jobs import handlers, rotation, stdio_runner

app = Chalice(app_name="integrations", configure_logs=False)
mount(app, APIS, wiring.door)
app.register_blueprint(handlers.schedules)
app.register_blueprint(rotation.functions)
app.register_blueprint(stdio_runner.functions)
if handlers.queue_name():
    app.register_blueprint(handlers.queue)

wiring.start()
