"""Programs that we start, and nothing of them left when we stop."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

LOOPBACK = "127.0.0.1"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CannotStart(Exception):
    """Something that a local run needs did not come up. The message is for the person at the keyboard."""


class Stopped(Exception):
    """Somebody asked us to stop while we were still at work."""


class StopRequest:
    """Turns Ctrl-C, SIGTERM and SIGHUP into a question that we ask at safe points.

    A signal never cuts off a start half way, so whatever was started is also known to those who stop it.
    Handlers are set explicitly: a shell script's background job inherits an ignored SIGINT.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: self._asked.set())

    def check(self) -> None:
        if self._asked.is_set():
            raise Stopped

    def wait(self) -> None:
        self._asked.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def require_free(port: int, needed_by: str) -> None:
    """Raise :class:`CannotStart` if somebody listens on ``port`` already."""
    if listens(port):
        raise CannotStart(
            f"Port {port} is taken, and {needed_by} needs it.\n"
            f"Stop the program that listens there (`lsof -i :{port}` or `ss -ltnp` names it), then try again."
        )


def bare_environment() -> dict[str, str]:
    """What a program needs to be found and to run, and nothing else of the person's environment."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}


def open_private(path: Path) -> BinaryIO:
    """An empty file that only its owner can read, open for writing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))


def last_lines(log: Path, count: int = 20) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"The end of {log}:", *(f"  {line}" for line in lines[-count:])])


class Child:
    """A program in a process group of its own: it and whatever it starts are ended together.

    Its output goes to ``log``, readable by the owner only, since programs print their keys.
    """

    grace_s = 10.0

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._name, self._log = name, log
        with open_private(log) as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, is_ready: Callable[[], bool], *, seconds: float = 30) -> None:
        """Return once ``is_ready()``; raise :class:`CannotStart` with the end of the log if that does not happen."""
        deadline = time.monotonic() + seconds
        while not is_ready():
            exit_status = self._process.poll()
            if exit_status is not None:
                raise CannotStart(f"{self._name} ended with status {exit_status}.\n{last_lines(self._log)}")
            if time.monotonic() > deadline:
                raise CannotStart(f"{self._name} did not answer within {seconds:g} s.\n{last_lines(self._log)}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the whole group, kindly at first."""
        atexit.unregister(self.stop)
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=self.grace_s)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
