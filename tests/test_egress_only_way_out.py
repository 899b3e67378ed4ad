"""The sources are read: no connection to a user's address but through the guard, no unverified TLS, no command."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([ROOT / "app.py", *(ROOT / "chalicelib").rglob("*.py")])

#: Who may use what, and why. A folder ends with a slash.
GUARD = "chalicelib/egress/"
ALLOWED = {
    "httpx.Client": "chalicelib/store/",  # speaks to Supabase, whose address the operator gives
    "http.client": "chalicelib/api/key_set.py",  # fetches Supabase's signing keys, likewise
    "subprocess": "chalicelib/probes/stdio.py",  # the runner of stdio servers
}

VERBS = ("get", "post", "put", "patch", "delete", "head", "options", "query", "request", "stream", "sse", "websocket")
CLIENTS = ("Client", "AsyncClient", "HTTPTransport", "AsyncHTTPTransport", "ASGITransport", *VERBS)
CONNECTIONS = {
    *(f"{library}.{name}" for library in ("httpx", "httpx2") for name in CLIENTS),
    *(f"socket.{name}" for name in ("socket", "create_connection", "SocketType", "fromfd")),
    *(f"asyncio.{name}" for name in ("open_connection", "open_unix_connection")),
    *(f"anyio.{name}" for name in ("connect_tcp", "connect_unix", "create_connected_udp_socket")),
    *("mcp.Client", "mcp.client.Client", "mcp.client.client.Client", "mcp.client.stdio.stdio_client"),
    *("mcp.shared._httpx_utils.create_mcp_http_client", "jwt.PyJWKClient", "asyncssh.create_connection"),
}
COMMANDS = {
    *(f"os.{name}" for name in ("system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp")),
    *(f"os.{kind}{form}" for kind in ("exec", "spawn") for form in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *("asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "anyio.run_process", "anyio.open_process"),
    *("subprocess", "pty", "multiprocessing", "subprocess_exec", "subprocess_shell"),
}
MODULES = {
    *("httpcore", "httpcore2", "http.client", "urllib.request", "urllib3", "requests", "aiohttp", "websockets"),
    *("ftplib", "smtplib", "imaplib", "poplib", "telnetlib", "xmlrpc.client", "paramiko", "websocket"),
    *("subprocess", "pty", "multiprocessing"),
}
#: Of whatever object: an event loop is seldom called by its full name.
METHODS = {"create_connection", "sock_connect", "create_datagram_endpoint", "subprocess_exec", "subprocess_shell"}
#: Calls that leave through the guard only if they are handed what the guard made.
HANDED = {
    "asyncssh.connect": "sock",
    "mcp.client.streamable_http.streamable_http_client": "http_client",
    "mcp.client.sse.sse_client": "httpx_client_factory",
}
DEAF = {"httpx.Client", "httpx2.create_ssl_context"}  # never with trust_env


def may(path: str, what: str) -> bool:
    homes = {ALLOWED.get(what), None if what in COMMANDS else GUARD} - {None}
    return any(path.startswith(home) if home.endswith("/") else path == home for home in homes)


def offences(path: str, source: str) -> Iterator[str]:
    tree = ast.parse(source)
    names = dict(_imported(tree))
    annotations = set(_annotations(tree))
    for node in ast.walk(tree):
        for what in _offences_of(node, names, path):
            if id(node) not in annotations:
                yield f"{path}:{getattr(node, 'lineno', 0)}: {what}"


def _offences_of(node: ast.AST, names: dict[str, str], path: str) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (module for module in MODULES & _modules(node) if not may(path, module))
    if isinstance(node, ast.Attribute | ast.Name):
        full = _full_name(node, names)
        yield from (name for name in (CONNECTIONS | COMMANDS) & {full} if not may(path, name))
        if full in ("ssl.CERT_NONE", "ssl._create_unverified_context", "ssl._create_stdlib_context"):
            yield full
    if isinstance(node, ast.Attribute) and node.attr in METHODS and not may(path, node.attr):
        yield node.attr
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.value.value is False:
        yield from ("check_hostname" for target in node.targets if ast.unparse(target).endswith("check_hostname"))
    if isinstance(node, ast.Call):
        yield from _offences_of_call(node, _full_name(node.func, names))


def _offences_of_call(call: ast.Call, called: str) -> Iterator[str]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    for name in ("verify", "shell"):
        value = given.get(name)
        if isinstance(value, ast.Constant) and value.value is (name == "shell"):
            yield f"{name}={value.value}"
    if called in HANDED and HANDED[called] not in given:
        yield f"{called} without {HANDED[called]}"
    trusts = given.get("trust_env")
    if called in DEAF and not (isinstance(trusts, ast.Constant) and trusts.value is False):
        yield f"{called} without trust_env=False"


def _modules(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.Import):
        named = {alias.name for alias in node.names}
    else:
        named = {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {".".join(parts[:length]) for parts in (name.split(".") for name in named) for length in (1, 2)}


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (first, first)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _full_name(node: ast.AST, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        owner = _full_name(node.value, names)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def _annotations(tree: ast.AST) -> Iterator[int]:
    """What is only named as a type connects to nothing."""
    for node in ast.walk(tree):
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(annotation, ast.AST):
                yield from (id(part) for part in ast.walk(annotation))


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.exists()], ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_source_goes_round_the_guard(path):
    assert list(offences(str(path.relative_to(ROOT)), path.read_text())) == []


def test_the_permissions_are_used():
    used = {name for path in SOURCES if path.exists() for name in ALLOWED if name.split(".")[0] in path.read_text()}

    assert used == set(ALLOWED)


BAD = {
    "a client": "import httpx2\nhttpx2.AsyncClient()",
    "a client by another name": "from httpx2 import AsyncClient as Friendly\nFriendly()",
    "a client handed on": "import httpx2\nfactory = httpx2.AsyncClient",
    "a client imported late": "def f():\n    import httpx2 as h\n    return h.get('https://a.example')",
    "a transport of its own": "import httpx2\nclass T(httpx2.AsyncHTTPTransport): ...",
    "the old library": "import httpx\nhttpx.Client(trust_env=False)",
    "the core library": "import httpcore2",
    "urllib": "from urllib import request",
    "urllib, dotted": "import urllib.request",
    "http.client": "from http.client import HTTPSConnection",
    "a socket": "import socket\nsocket.socket()",
    "a connected socket": "from socket import create_connection\ncreate_connection(('a', 1))",
    "an asyncio stream": "import asyncio\nasync def f():\n    await asyncio.open_connection('a', 1)",
    "an event loop": "async def f(loop):\n    await loop.create_connection(None, 'a', 1)",
    "an anyio stream": "import anyio\nasync def f():\n    await anyio.connect_tcp('a', 1)",
    "ssh by itself": "import asyncssh\nasync def f():\n    await asyncssh.connect('a')",
    "mcp by itself": "from mcp.client.streamable_http import streamable_http_client as s\ns('https://a.example')",
    "sse by itself": "from mcp.client.sse import sse_client\nsse_client('https://a.example')",
    "mcp's client": "import mcp\nmcp.Client('https://a.example')",
    "mcp's stdio": "from mcp.client.stdio import stdio_client\nstdio_client(None)",
    "no verification": "import httpx2\nf(verify=False)",
    "no verification in a context": "import ssl\ncontext.verify_mode = ssl.CERT_NONE",
    "no name check": "context.check_hostname = False",
    "an unverified context": "import ssl\nssl._create_unverified_context()",
    "roots of the environment": "import httpx2\nhttpx2.create_ssl_context()",
    "a command": "import subprocess",
    "a command, dotted": "from subprocess import run",
    "a shell": "f('x', shell=True)",
    "os.system": "from os import system\nsystem('x')",
    "os.exec": "import os\nos.execvp('x', ['x'])",
    "an asyncio command": "import asyncio\nasync def f():\n    await asyncio.create_subprocess_exec('x')",
    "a loop's command": "async def f(loop):\n    await loop.subprocess_exec(None, 'x')",
}


@pytest.mark.parametrize("source", BAD.values(), ids=BAD)
def test_every_way_round_is_seen(source):
    assert list(offences("chalicelib/probes/somewhere.py", source))


GOOD = {
    "types": "import httpx2\nasync def f(client: httpx2.AsyncClient) -> httpx2.Client: ...",
    "values": "import httpx2\nhttpx2.Timeout(3)\nhttpx2.Request('GET', 'https://a.example')",
    "errors": "import socket, ssl\nx = (socket.gaierror, ssl.SSLError)",
    "ssh over a checked socket": "import asyncssh\nasync def f(s):\n    await asyncssh.connect('a', sock=s)",
    "mcp over a guarded client": "from mcp.client.sse import sse_client\nsse_client('u', httpx_client_factory=f)",
    "a strict context": "import httpx2\nhttpx2.create_ssl_context(trust_env=False)",
}


@pytest.mark.parametrize("source", GOOD.values(), ids=GOOD)
def test_what_connects_to_nothing_or_through_the_guard_is_fine(source):
    assert list(offences("chalicelib/probes/somewhere.py", source)) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("chalicelib/egress/network.py", "import httpcore2, socket\nsocket.socket()"),
        ("chalicelib/probes/stdio.py", "import subprocess"),
        ("chalicelib/store/supabase.py", "import httpx\nhttpx.Client(trust_env=False)"),
        ("chalicelib/api/key_set.py", "import http.client"),
    ],
)
def test_each_permission_holds_in_its_place(path, source):
    assert list(offences(path, source)) == []
    assert list(offences("chalicelib/probes/elsewhere.py", source))


def test_the_guard_may_not_skip_verification():
    assert list(offences("chalicelib/egress/guard.py", "f(verify=False)"))
    assert list(offences("chalicelib/egress/guard.py", "import ssl\nx = ssl.CERT_NONE"))


@pytest.mark.parametrize("source", ["import subprocess", "import os\nos.system('x')", "loop.subprocess_exec(None)"])
def test_the_guard_runs_no_commands(source):
    assert list(offences("chalicelib/egress/guard.py", source))
