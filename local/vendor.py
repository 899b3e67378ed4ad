"""A small vendor API over real HTTP: it knows one API key and says whose it is."""

from __future__ import annotations

import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from local.processes import LOOPBACK

ACCOUNT = {"account": "Demo GmbH", "plan": "team", "scopes": ["orders:read", "orders:write"]}


class Vendor:
    """Serves until :meth:`stop`. The key is taken as a bearer token or in `X-API-Key`, as vendors differ in this."""

    def __init__(self, api_key: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                given = self.headers.get("X-API-Key") or self.headers.get("Authorization", "").removeprefix("Bearer ")
                if hmac.compare_digest(given.encode(), api_key.encode()):
                    self._answer(200, ACCOUNT)
                else:
                    self._answer(401, {"error": "invalid_api_key"})

            def _answer(self, status: int, content: object) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """A vendor's log is not ours to print."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}/v1/account"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
