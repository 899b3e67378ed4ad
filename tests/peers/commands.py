"""Commands that speak MCP on their standard output, or misbehave there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Speaks just enough MCP, and tells what it was given in the place of its version. ``{telling}`` is an expression.
TALKER = """
import json, os, sys
def tell(): return {telling}
for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "initialize":
        result = {{"protocolVersion": "2025-06-18", "capabilities": {{}},
                   "serverInfo": {{"name": "talker", "version": json.dumps(tell())}}}}
        print(json.dumps({{"jsonrpc": "2.0", "id": message["id"], "result": result}}), flush=True)
    elif "id" in message:
        error = {{"code": -32601, "message": "unknown"}}
        print(json.dumps({{"jsonrpc": "2.0", "id": message["id"], "error": error}}), flush=True)
"""


def script(folder: Path, text: str, name: str = "server.py") -> list[str]:
    """The command line that runs this Python text; -S spares a test what it does not use."""
    file = folder / name
    file.write_text(text)
    return [sys.executable, "-S", str(file)]


def alive(word: str) -> list[str]:
    """Command lines of other processes that hold this word."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in text and entry.parent.name != str(os.getpid()):
            found.append(text)
    return found
