"""Real MCP servers: the official npm one as a process, and the SDK's own in a thread, behind any kind of lock."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp_types import (
    ListPromptsResult,
    ListResourcesResult,
    ListToolsResult,
    PaginatedRequestParams,
    Prompt,
    Resource,
    Tool,
)

from tests.peers.certificates import Authority, Pair, pem_files

ROOT = Path(__file__).parents[2]

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

#: Judges a request by its headers (lower case) and query: None lets it in, else status, headers and body.
Lock = Callable[[dict[str, str], dict[str, str]], "tuple[int, dict[str, str], bytes] | None"]


def everything() -> str:
    """The official test server, installed by ``npm ci``."""
    found = os.environ.get("MCP_SERVER_EVERYTHING", str(ROOT / "node_modules/.bin/mcp-server-everything"))
    if not Path(found).exists():
        raise FileNotFoundError(f"{found} is missing: run `npm ci` first")
    return str(Path(found).resolve())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def everything_over(transport: str) -> Iterator[str]:
    """The official server over ``streamableHttp`` or ``sse``; gives its URL once it accepts connections."""
    port = free_port()
    environment = {"PATH": os.environ["PATH"], "PORT": str(port)}
    process = subprocess.Popen(
        ["node", everything(), transport],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await_port(port, process)
        yield f"http://127.0.0.1:{port}/{'sse' if transport == 'sse' else 'mcp'}"
    finally:
        process.kill()
        process.wait()


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 20
    while time.monotonic() < ends and process.poll() is None:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("the server did not start")


@dataclass
class Served:
    """A running SDK server. ``seen`` holds the headers of every request that reached it, locked out or not."""

    url: str
    seen: list[dict[str, str]] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)


def sample_server(tools: int = 2) -> MCPServer:
    server = MCPServer("sample", version="1.2.3", log_level="CRITICAL")

    def tool(number: int) -> Callable[[int], int]:
        def add(value: int) -> int:
            return value + number

        return add

    for number in range(tools):
        server.add_tool(tool(number), name=f"add_{number}", description=f"Adds {number}")

    @server.resource("note://one")
    def note() -> str:
        return "one"

    @server.prompt()
    def greet() -> str:
        return "hello"

    return server


def paged_server(tools: Sequence[Tool], *, page: int, others: int = 0) -> Server[Any]:
    """Gives its tools, and so many resources and prompts, in pages of that size."""

    def cut(items: Sequence[Any], params: PaginatedRequestParams | None) -> tuple[list[Any], str | None]:
        start = int(params.cursor) if params and params.cursor else 0
        end = start + page
        return list(items[start:end]), str(end) if end < len(items) else None

    async def list_tools(context: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
        items, cursor = cut(tools, params)
        return ListToolsResult(tools=items, next_cursor=cursor)

    async def list_resources(context: Any, params: PaginatedRequestParams | None) -> ListResourcesResult:
        items, cursor = cut([Resource(uri=f"note://{number}", name="note") for number in range(others)], params)
        return ListResourcesResult(resources=items, next_cursor=cursor)

    async def list_prompts(context: Any, params: PaginatedRequestParams | None) -> ListPromptsResult:
        items, cursor = cut([Prompt(name=f"ask_{number}") for number in range(others)], params)
        return ListPromptsResult(prompts=items, next_cursor=cursor)

    return Server(
        "paged",
        version="1",
        on_list_tools=list_tools,
        on_list_resources=list_resources,
        on_list_prompts=list_prompts,
    )


@contextmanager
def sdk_server(
    protocol: str = "http",
    *,
    lock: Lock | None = None,
    certificate: Pair | None = None,
    clients_of: Authority | None = None,
    legacy_only: bool = False,
    json_response: bool = False,
    server: MCPServer | Server[Any] | None = None,
    moved_from: str | None = None,
) -> Iterator[Served]:
    """The SDK's server over ``http`` (both eras, or ``legacy_only``) or ``sse``, optionally locked and with TLS.

    Whoever asks at the path ``moved_from`` is redirected.
    """
    server = server or sample_server()
    if protocol == "sse" and isinstance(server, MCPServer):
        app: App = server.sse_app()
    else:
        app = server.streamable_http_app(json_response=json_response)
    port = free_port()
    scheme = "https" if certificate else "http"
    served = Served(f"{scheme}://127.0.0.1:{port}/{'sse' if protocol == 'sse' else 'mcp'}")
    with _certificates(certificate, clients_of) as options:
        locked = _locked(_moved(app, moved_from, served.url), lock, served, legacy_only)
        config = uvicorn.Config(
            locked, host="127.0.0.1", port=port, log_config=None, ws="none", timeout_graceful_shutdown=1, **options
        )
        runner = uvicorn.Server(config)
        thread = threading.Thread(target=runner.run, daemon=True)
        thread.start()
        while not runner.started:
            time.sleep(0.01)
        try:
            yield served
        finally:
            runner.should_exit = True
            thread.join(timeout=10)


@contextmanager
def _certificates(certificate: Pair | None, clients_of: Authority | None) -> Iterator[dict[str, Any]]:
    if certificate is None:
        yield {}
        return
    with (
        pem_files(certificate) as (cert_file, key_file),
        pem_files(Pair(clients_of.pem if clients_of else "", "")) as (
            ca_file,
            _,
        ),
    ):
        options: dict[str, Any] = {"ssl_certfile": cert_file, "ssl_keyfile": key_file}
        if clients_of:
            options |= {"ssl_ca_certs": ca_file, "ssl_cert_reqs": ssl.CERT_REQUIRED}
        yield options


def _moved(app: App, old_path: str | None, url: str) -> App:
    async def redirecting(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != old_path:
            await app(scope, receive, send)
            return
        headers = [(b"location", url.encode())]
        await send({"type": "http.response.start", "status": 307, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return redirecting


def _locked(app: App, lock: Lock | None, served: Served, legacy_only: bool) -> App:
    async def gate(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        served.seen.append(headers)
        served.methods.append(scope["method"])
        refusal = lock(headers, query) if lock else None
        if refusal is None and legacy_only and headers.get("mcp-protocol-version") == "2026-07-28":
            refusal = (400, {"content-type": "text/plain"}, b"Bad Request: unsupported protocol version")
        if refusal is None:
            await app(scope, receive, send)
            return
        status, extra, body = refusal
        raw = [(name.encode(), value.encode()) for name, value in extra.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return gate
