"""`make demo`: the product's main job on real servers. Its ports and folder are its own: it runs beside `make run`."""

from __future__ import annotations

import secrets
import shutil
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx2

from local.accounts import DEMO_EMAIL, sign_up
from local.api import local_settings
from local.journey import Case, NotAsExpected, Visitor, visit
from local.processes import CannotStart, Child, Stopped, StopRequest, bare_environment, free_port, listens
from local.state import DEMO_STATE, exclusive, forget
from local.supabase import NODE_MODULES, ROOT, LocalSupabase
from local.vendor import Vendor

EVERYTHING = NODE_MODULES / "@modelcontextprotocol/server-everything/dist/index.js"


def say(text: str) -> None:
    print(text, flush=True)


def main(state: Path = DEMO_STATE) -> int:
    """Return 0 only if all came out as expected. Nothing is left running, nothing is kept."""
    stopping, began = StopRequest(), time.monotonic()
    mistakes = ["It was stopped before its end."]
    try:
        with ExitStack() as started, suppress(Stopped):
            started.enter_context(exclusive(state))
            forget(state)  # of a demo that was killed
            started.callback(shutil.rmtree, state)
            started.callback(forget, state)
            mistakes = _show(state, started, stopping)
    except (CannotStart, NotAsExpected) as problem:
        mistakes = [str(problem)]
    except httpx2.HTTPError as error:
        mistakes = [f"The API did not answer: {type(error).__name__}"]
    if mistakes:
        print("Not as expected:", *(f"  - {mistake}" for mistake in mistakes), sep="\n", file=sys.stderr)
        return 1
    say(f"All came out as expected, in {time.monotonic() - began:.0f} s.")
    return 0


def _show(state: Path, started: ExitStack, stopping: StopRequest) -> list[str]:
    say("Starting Postgres, Supabase, the API, two MCP servers and a vendor ...")
    supabase = LocalSupabase(state, free_port())
    started.callback(supabase.stop)
    supabase.start()
    stopping.check()
    api_url = _start_api(state, supabase, started)
    cases = _cases(state, started)
    stopping.check()
    keys = supabase.keys
    token = sign_up(supabase.url, keys.publishable_key, DEMO_EMAIL, keys.demo_password)
    say(f"Signed up {DEMO_EMAIL} through Supabase Auth.\n")
    with Visitor(api_url, token) as visitor:
        return visit(visitor, cases, say)


def _start_api(state: Path, supabase: LocalSupabase, started: ExitStack) -> str:
    port = free_port()
    api = Child(
        "The API",
        [sys.executable, "-m", "local.api", str(port)],
        log=state / "logs/api.log",
        env=bare_environment() | local_settings(state, {}) | supabase.environment(),
        cwd=ROOT,
    )
    started.callback(api.stop)
    api.wait_until(lambda: listens(port))
    return f"http://127.0.0.1:{port}"


def _cases(state: Path, started: ExitStack) -> list[Case]:
    """The official MCP server over each transport, and a vendor with the right key and with a wrong one."""
    http = _start_everything("streamableHttp", state, started)
    sse = _start_everything("sse", state, started)
    node = shutil.which("node") or "node"
    right, wrong = f"demo_{secrets.token_hex(16)}", f"demo_{secrets.token_hex(16)}"
    vendor = Vendor(right)
    started.callback(vendor.stop)
    return [
        Case("Everything over HTTP", "mcp-custom", {"protocol": "http", "url": f"{http}/mcp"}, "ok"),
        Case("Everything over SSE", "mcp-custom", {"protocol": "sse", "url": f"{sse}/sse"}, "ok"),
        Case(
            "Everything over stdio",
            "mcp-custom",
            {"protocol": "stdio", "command": node, "args": [str(EVERYTHING), "stdio"]},
            "ok",
        ),
        Case("Vendor, right key", "custom-vendor", {"api_url": vendor.url}, "ok", "api_key", {"api_key": right}),
        Case(
            "Vendor, wrong key",
            "custom-vendor",
            {"api_url": vendor.url},
            "auth_rejected",
            "api_key",
            {"api_key": wrong},
        ),
    ]


def _start_everything(transport: str, state: Path, started: ExitStack) -> str:
    port = free_port()
    server = Child(
        f"The MCP server ({transport})",
        ["node", EVERYTHING, transport],
        log=state / f"logs/{transport}.log",
        env=bare_environment() | {"PORT": str(port)},
    )
    started.callback(server.stop)
    server.wait_until(lambda: listens(port))
    return f"http://127.0.0.1:{port}"


if __name__ == "__main__":
    sys.exit(main())
