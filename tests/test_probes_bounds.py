"""Whatever the far side sends, a check stays small: measured in a process of its own, after it has done good checks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.fault_table import FLOODS, KEY, MODES
from tests.peers.commands import TALKER, script
from tests.peers.mcp_servers import sdk_server
from tests.peers.raw import Loop, background, listening
from tests.peers.ssh import USER, VERSION, says, ssh_server
from tests.peers.vendor import vendor_server

MOST_MB = 50

#: Reads targets from its input, checks all of them, and prints the verdicts and by how much its memory peak has grown.
CHECKER = """
import json, resource, sys
from chalicelib.probes import run_check
from tests.peers.targets import a_prober, a_target

def check(target, mode):
    return run_check(a_prober(5), a_target(**target), mode).verdict.value

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

good, bad = json.load(sys.stdin)
warm = [check(*case) for case in good]
before = peak()
found = [check(*case) for case in bad]
print(json.dumps([warm, found, peak() - before]))
"""

Described = dict[str, Any]


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with background() as running:
        yield running


def described(kind: str, origin: str) -> Described:
    how: Described = {"method": "api_key", "secrets": {"api_key": KEY}}
    if kind == "vendor":
        return {"kind": "vendor", "config": {"api_url": f"{origin}/v1/me"}, **how}
    return {"config": {"protocol": kind, "url": f"{origin}/{'mcp' if kind == 'http' else kind}"}, **how}


def command(folder: Path, text: str, name: str) -> Described:
    program, *arguments = script(folder, text, name)
    return {"config": {"protocol": "stdio", "command": program, "args": arguments}}


def ssh(port: int, key: asyncssh.SSHKey) -> Described:
    given = {"username": USER, "private_key": key.export_private_key().decode()}
    config = {"host": "127.0.0.1", "port": port}
    return {"kind": "custom", "config": config, "method": "ssh_key", "secrets": given}


def origin(url: str) -> str:
    return url.rsplit("/", 1)[0]


def test_no_flood_makes_a_check_grow(loop: Loop, tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    with ExitStack() as stack:
        good = [
            described("http", origin(stack.enter_context(sdk_server("http")).url)),
            described("sse", origin(stack.enter_context(sdk_server("sse")).url)),
            described("vendor", stack.enter_context(vendor_server(loop, lambda headers, query: True)).url),
            command(tmp_path, TALKER.format(telling="0"), "good.py"),
            ssh(stack.enter_context(ssh_server(loop, [key], {USER: key})).port, key),
        ]
        bad = [
            described(kind, stack.enter_context(fault.opened(loop, kind)))
            for fault in FLOODS.values()
            if not fault.waits
            for kind in fault.kinds
        ]
        bad.append(command(tmp_path, "while True: print('x' * 65536)", "lines.py"))
        bad.append(command(tmp_path, "import sys\nwhile True: sys.stdout.write('x' * 65536)", "line.py"))
        for handler in (says(VERSION, endlessly=b"\xff" * 65_536), says(endlessly=b"w" * 65_536)):
            bad.append(ssh(stack.enter_context(listening(loop, handler)).port, key))
        done = subprocess.run(
            [sys.executable, "-c", CHECKER],
            input=json.dumps([[(target, mode) for target in part for mode in MODES] for part in (good, bad)]),
            capture_output=True,
            text=True,
            timeout=100,
            cwd=Path(__file__).parents[1],
            check=False,
        )

    assert done.returncode == 0, done.stderr
    warm, found, grown = json.loads(done.stdout)
    assert set(warm) == {"ok"}
    assert grown < MOST_MB
    assert found.count("too_large") == len(found) - 4
