"""A KMS endpoint in trouble: it answers every call with one error."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class TroubledKms:
    """``calls`` are the operations asked for, in order; ``error`` is (HTTP status, error code) of every answer."""

    def __init__(self, url: str, status: int, code: str) -> None:
        self.url = url
        self.error = (status, code)
        self.calls: list[str] = []


@contextmanager
def troubled_kms(status: int, code: str) -> Iterator[TroubledKms]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            peer.calls.append(self.headers["X-Amz-Target"].rpartition(".")[2])
            status, code = peer.error
            body = json.dumps({"__type": code, "message": "in trouble"}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    peer = TroubledKms(f"http://127.0.0.1:{server.server_port}", status, code)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield peer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
