"""Running a command as an MCP server: the only module that starts processes (``security.md`` §5).

A command gets a session of its own, a temporary home, a minimal path and no variable of ours. Its output is capped.
Whatever it does, it and all that it started are gone, and its home removed, within two seconds of the check's end.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

import anyio
import anyio.lowlevel

from chalicelib.model import Verdict
from chalicelib.probes.process_tree import descendants, kill_all
from chalicelib.probes.verdicts import Finding

MOST_BYTES = 4 * 1024 * 1024
LONGEST_LINE = 1024 * 1024
#: A line costs some 50 µs however short it is, and a full buffer of short ones holds a million, with no pause in
#: between. So the shortest counts as this many bytes, and after so many lines others get their turn.
LEAST_LINE, LINES_IN_A_ROW = 64, 64
STDERR_BYTES = 4_096
SAFE_PATH = "/usr/local/bin:/usr/bin:/bin"
MARK = "INTEGRATION_CHECK"

#: After its input is closed, a command has this long to leave, then as long again after SIGTERM.
GRACE_S = 0.4
LAST_WORDS_S = 0.1
POLL_S = 0.02


class Child:
    """A running command: lines out of it, lines into it. ``last_words`` is the end of its standard error."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self._process = process
        self._mark = f"{MARK}={mark}".encode()
        self._stderr = b""
        self._tasks: list[asyncio.Task[None]] = []
        self._transports: list[asyncio.BaseTransport] = []
        self._read, self._lines = 0, 0

    async def start(self) -> None:
        process, loop = self._process, asyncio.get_running_loop()
        self._out, errors = asyncio.StreamReader(LONGEST_LINE), asyncio.StreamReader()
        for reader, pipe in ((self._out, process.stdout), (errors, process.stderr)):
            transport, _ = await loop.connect_read_pipe(partial(asyncio.StreamReaderProtocol, reader), pipe)
            self._transports.append(transport)
        self._in, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, process.stdin)
        self._tasks.append(asyncio.create_task(self._keep_last_words(errors)))

    async def _keep_last_words(self, errors: asyncio.StreamReader) -> None:
        while data := await errors.read(65_536):
            self._stderr = (self._stderr + data)[-STDERR_BYTES:]

    @property
    def last_words(self) -> str:
        return self._stderr.decode(errors="replace")

    async def exit_status(self) -> int | None:
        """Of a command that has closed its output; None if it lives on all the same. Its last words are in then."""
        await self._exited(GRACE_S)
        # What it started may hold its standard error open.
        await asyncio.wait(self._tasks, timeout=LAST_WORDS_S)
        return self._process.poll()

    async def _exited(self, within_s: float) -> None:
        with anyio.move_on_after(within_s):
            # Not a wait in a thread: a thread that waits for a process that never ends is never gone.
            while self._process.poll() is None:  # noqa: ASYNC110
                await anyio.sleep(POLL_S)

    def write_line(self, line: bytes) -> None:
        """Hands over one line; what the command does not read stays in our buffer, which is small."""
        self._in.write(line + b"\n")

    async def read_line(self) -> bytes | None:
        """The next line without its end, or None when the command has closed its output. Raises :class:`Finding`."""
        try:
            line = await self._out.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            line = end.partial
        except asyncio.LimitOverrunError:
            raise _flood() from None
        self._read, self._lines = self._read + max(len(line), LEAST_LINE), self._lines + 1
        if self._read > MOST_BYTES:
            raise _flood()
        if self._lines % LINES_IN_A_ROW == 0:
            await anyio.lowlevel.checkpoint()
        return line.rstrip(b"\r\n") if line else None

    async def end(self) -> None:
        """Ends the command and all that it started: politely, then by force. Never takes two seconds."""
        if not self._in.is_closing():
            self._in.abort()
        leader = self._process.pid
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                kill_all(leader, self._mark, number)
            if await self._gone(leader):
                break
        else:
            # Something forks faster than it is found: strike until nothing is left.
            with anyio.move_on_after(GRACE_S):
                while not await self._gone(leader, 0):
                    kill_all(leader, self._mark, signal.SIGKILL)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for transport in self._transports:
            transport.close()

    async def _gone(self, leader: int, within_s: float = GRACE_S) -> bool:
        ends = anyio.current_time() + within_s
        while True:
            if self._process.poll() is not None and not descendants(leader, self._mark):
                return True
            await anyio.sleep(POLL_S)
            if anyio.current_time() >= ends:
                return False


@asynccontextmanager
async def running(command: tuple[str, ...], env: Mapping[str, str]) -> AsyncIterator[Child]:
    """The command, running until the block ends. Raises :class:`Finding`, ``misconfigured``, if it cannot start."""
    home = mkdtemp(prefix="integration-check-")
    try:
        child = _started(command, env, home)
        try:
            await child.start()
            yield child
        finally:
            with anyio.CancelScope(shield=True):
                await child.end()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _started(command: tuple[str, ...], env: Mapping[str, str], home: str) -> Child:
    program = shutil.which(command[0], path=os.pathsep.join((os.environ.get("PATH", ""), SAFE_PATH)))
    if program is None:
        raise _not_runnable("was not found")
    mark = str(uuid4())
    # Scripts look for their interpreter, such as node, next to themselves.
    path = os.pathsep.join((str(Path(program).absolute().parent), SAFE_PATH))
    environment = {**env, "PATH": path, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", MARK: mark}
    try:
        process = subprocess.Popen(  # noqa: S603 - no shell; whether commands may run at all was asked before
            [program, *command[1:]],
            executable=program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=home,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError):
        raise _not_runnable("cannot be started") from None
    return Child(process, mark)


def _not_runnable(why: str) -> Finding:
    message = f"Starting the command failed: the program {why}. Install it on this machine, or correct the command."
    return Finding(Verdict.MISCONFIGURED, "protocol", message, detail=f"program {why}")


def _flood() -> Finding:
    message = "The command writes more than a check may read (4 MiB). Check that its standard output holds only MCP."
    return Finding(Verdict.TOO_LARGE, "protocol", message, detail="output too large")
