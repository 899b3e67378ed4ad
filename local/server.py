"""Chalice's local server, made fit for a browser and a benchmark, answering like the gateway that we deploy.

As it comes it waits 44 ms per kept-alive request (unbuffered writes against Nagle's algorithm), sends bodies where
HTTP has none, drops the connection on odd input, and answers unknown paths in the gateway's own format.
"""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from chalice.app import Chalice
from chalice.config import Config
from chalice.local import (
    ChaliceRequestHandler,
    CustomLocalChalice,
    LocalChalice,
    LocalDevServer,
    RouteMatcher,
    ThreadedHTTPServer,
)

from chalicelib.api import cors, problems
from chalicelib.errors import AppError, BadRequest, MethodNotAllowed, NotFound, TooLarge
from local.processes import LOOPBACK

GATEWAY_BODY_LIMIT = 10 * 1024 * 1024
NO_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
NOT_FOUND = "There is no such path. GET /openapi.json lists them all."


class Server(ThreadedHTTPServer):
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up; a traceback of everything else is for the developer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(ChaliceRequestHandler):
    default_request_version = "HTTP/1.0"  # of a first line that names none: answers to it have headers then
    wbufsize = 65536
    disable_nagle_algorithm = True
    timeout = 75  # for idle connections; a view may take as long as it likes

    def __init__(
        self, *args: Any, methods: Mapping[str, Sequence[str]], allowed_origins: Sequence[str], **kwargs: Any
    ) -> None:
        self._methods, self._allowed_origins = methods, allowed_origins
        self._routes = RouteMatcher(list(methods))
        super().__init__(*args, **kwargs)

    def _generic_handle(self) -> None:
        refusal = self._refusal()
        if refusal is None:
            super()._generic_handle()
        else:
            self._send_problem(refusal)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = do_OPTIONS = _generic_handle

    def _refusal(self) -> AppError | None:
        """What the gateway would not let through to the app. Where the body is left unread, the connection ends."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            self.close_connection = True
            return BadRequest("Send the body in one piece, with its length in Content-Length.")
        if int(length) > GATEWAY_BODY_LIMIT:
            self.close_connection = True
            return TooLarge(f"The body may have {GATEWAY_BODY_LIMIT} bytes at most.")
        try:
            self._routes.match_route(self.path)
        except ValueError:
            self.rfile.read(int(length))
            return NotFound(NOT_FOUND)
        return None

    def handle_expect_100(self) -> bool:
        """Tell a client that waits for leave to send its body at once: output is buffered here."""
        self.send_response_only(HTTPStatus.CONTINUE)
        self.end_headers()
        self.wfile.flush()
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library answers in HTML: requests that it cannot read, and unknown methods."""
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._refuse_method()
        else:
            self._send_problem(BadRequest("This is not a request in HTTP/1.1."))

    def _refuse_method(self) -> None:
        try:
            known = self._methods[self._routes.match_route(self.path).route]
        except ValueError:
            return self._send_problem(NotFound(NOT_FOUND))
        error = MethodNotAllowed("This path does not know this method; the Allow header lists those that it knows.")
        return self._send_problem(error, {"Allow": ", ".join(known)})

    def _send_problem(self, error: AppError, more: Mapping[str, str] | None = None) -> None:
        request_id = str(uuid.uuid4())
        response = problems.answer(problems.problem_of(error, request_id), error)
        origin = self.headers.get("Origin") if hasattr(self, "headers") else None
        headers = {
            **response.headers,
            **cors.headers_for(origin, self._allowed_origins),
            "X-Request-Id": request_id,
            **(more or {}),
        }
        if self.close_connection:
            headers["Connection"] = "close"
        self._send_http_response(response.status_code, headers, response.body)

    def _send_http_response(self, code: int, headers: dict[str, Any], body: str | bytes | None) -> None:
        content = body.encode() if isinstance(body, str) else body or b""
        self.send_response(code)
        if code not in NO_BODY:
            headers = {**headers, "Content-Length": str(len(content))}
        self._send_headers(headers)
        if code not in NO_BODY and self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """The app writes its own line per request, without query strings."""


class ApiServer:
    """The app, served on ``port`` from a thread until :meth:`stop`."""

    def __init__(self, app: Chalice, port: int, allowed_origins: Sequence[str]) -> None:
        # Chalice keeps the current request on the app; this gives every thread its own.
        CustomLocalChalice.__bases__ = (LocalChalice, app.__class__)
        app.__class__ = CustomLocalChalice

        methods = {path: sorted(known) for path, known in app.routes.items()}

        def handler(*args: Any, **kwargs: Any) -> Handler:
            return Handler(*args, methods=methods, allowed_origins=allowed_origins, **kwargs)

        self.url = f"http://{LOOPBACK}:{port}"
        self._server = LocalDevServer(app, Config(), LOOPBACK, port, handler_cls=handler, server_cls=Server).server
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
