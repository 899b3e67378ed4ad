"""API Gateway in front of deployed functions: finds the route in the API as it was deployed, and invokes its function."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.events import request_event

_FUNCTION = re.compile(r"function:([^/]+)/invocations")


class Gateway:
    """Serves the only REST API that ``apigateway`` knows. Starts before there is one."""

    def __init__(self, apigateway: Any, functions: Any) -> None:
        self._apigateway = apigateway
        self._functions = functions
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                status, headers, body = gateway.answer(
                    self.command, self.path, dict(self.headers), self.rfile.read(length).decode()
                )
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        url = urlsplit(target)
        found = self._route(method, url.path)
        if found is None:
            return 403, {}, b'{"message": "Missing Authentication Token"}'
        resource, function, parameters = found
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        event = request_event(method, url.path, resource=resource, query=query, path_parameters=parameters or None)
        event |= {"headers": headers, "multiValueHeaders": {name: [value] for name, value in headers.items()}}
        event["body"] = body or None
        done = self._functions.invoke(FunctionName=function, Payload=json.dumps(event))
        if "FunctionError" in done:
            return 502, {}, b'{"message": "Internal server error"}'
        answer = json.loads(done["Payload"].read())
        given = {name: values[0] for name, values in answer.get("multiValueHeaders", {}).items()}
        return answer["statusCode"], {**given, **answer["headers"]}, answer["body"].encode()

    def _route(self, method: str, path: str) -> tuple[str, str, dict[str, str]] | None:
        """Resource, function and path parameters; a literal part wins over a parameter."""
        (api,) = self._apigateway.get_rest_apis()["items"]
        resources = self._apigateway.get_resources(restApiId=api["id"], limit=500, embed=["methods"])["items"]
        parts = path.strip("/").split("/")
        for resource in sorted(resources, key=lambda each: each["path"].count("{")):
            wanted = resource["path"].strip("/").split("/")
            pairs = list(zip(wanted, parts, strict=False))
            fits = len(wanted) == len(parts) and all(a == b or a.startswith("{") for a, b in pairs)
            integration = resource.get("resourceMethods", {}).get(method, {}).get("methodIntegration")
            function = _FUNCTION.search((integration or {}).get("uri", ""))
            if fits and function:
                return resource["path"], function[1], {a.strip("{}"): b for a, b in pairs if a.startswith("{")}
        return None
