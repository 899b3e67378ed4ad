"""A small vendor API on loopback: knows one key, answers any status on request, and remembers all that it was sent."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Self

from tests.support.canary import CANARY

GOOD_KEY = CANARY  # nothing that any test prints may show it


class Vendor:
    """``/503`` answers 503, and so on; every other path answers 200 to the good key as bearer and 401 to others."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        remembered = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                remembered.append(f"{self.requestline}\n{self.headers}")
                last = self.path.rpartition("/")[2]
                status = int(last) if last.isdigit() else self._judged()
                body = b'{"ok": true}' if status == 200 else b'{"error": "no"}'
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _judged(self) -> int:
                return 200 if self.headers["Authorization"] == f"Bearer {GOOD_KEY}" else 401

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def everything(self) -> str:
        return "\n".join(self.requests)

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
