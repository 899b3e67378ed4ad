"""The app on this machine: the settings of a local run, and the app served with them."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from chalicelib.settings import BadSettings, read_settings
from local.processes import StopRequest
from local.server import ApiServer

DEFAULTS = {
    "APP_ENV": "local",
    "MCP_STDIO": "any",  # a developer's own machine runs the developer's own commands
    "EGRESS_ALLOW": "127.0.0.0/8,::1/128",
    "ALLOWED_ORIGINS": "http://localhost:5173,http://localhost:3000",
}


def local_settings(state: Path, chosen: Mapping[str, str]) -> dict[str, str]:
    """What is set for a local run, where ``chosen`` does not say otherwise."""
    settings = {name: chosen.get(name, default) for name, default in DEFAULTS.items()}
    if "KMS_KEY_ID" not in chosen:
        settings["LOCAL_KEY_FILE"] = chosen.get("LOCAL_KEY_FILE", str(state / "key"))
    return settings


def serve(port: int) -> ApiServer:
    """Serve `app.py` with the settings in the environment. Raises :class:`BadSettings` naming all that are wrong."""
    allowed_origins = read_settings().allowed_origins
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    logging.getLogger("integrations").setLevel(logging.INFO)  # Lambda does both by itself
    return ApiServer(importlib.import_module("app").app, port, allowed_origins)


def main() -> int:
    stopping = StopRequest()
    try:
        server = serve(int(sys.argv[1]))
    except BadSettings as problem:
        print(problem, file=sys.stderr)
        return 1
    stopping.wait()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
