"""Deployed zips, executed as Lambda does it: unpacked, read-only, by a Python that knows nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RUNTIME = Path(__file__).with_name("lambda_runtime.py")
PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"


def unpacked(code: bytes, folder: Path) -> Path:
    """The zip's content in a folder of its own, which nobody may write to."""
    task = folder / hashlib.sha256(code).hexdigest()[:16]
    if not task.exists():
        with zipfile.ZipFile(io.BytesIO(code)) as packed:
            packed.extractall(task)
        for path in [task, *task.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
    return task


class TimedOut(Exception):
    """The function's limit was over; its process is gone."""


class Execution:
    """One execution environment: a process that serves one event at a time, warm after the first."""

    def __init__(self, task: Path, handler: str, environment: Mapping[str, str], timeout_s: float) -> None:
        events, self._events = os.pipe()
        self._answers, answers = os.pipe()
        self._timeout_s = timeout_s
        self.log = ""
        inside = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "en_US.UTF-8", "TZ": ":UTC", **environment}
        self._process = subprocess.Popen(
            # No site-packages, no variables of Python's, no bytecode written.
            [PYTHON, "-ISB", RUNTIME, str(events), str(answers), str(timeout_s)],
            env={**inside, "_HANDLER": handler, "LAMBDA_TASK_ROOT": str(task)},
            cwd=task,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(events, answers),
            start_new_session=True,
        )
        os.close(events)
        os.close(answers)
        self._in, self._out = os.fdopen(self._events, "w"), os.fdopen(self._answers)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def invoke(self, event: Any) -> dict[str, Any]:
        """``{"result": …}`` or ``{"error": {"errorType", "errorMessage"}}``. Raises :class:`TimedOut`."""
        timer = threading.Timer(self._timeout_s, self._kill)
        timer.start()
        try:
            self._in.write(json.dumps(event) + "\n")
            self._in.flush()
            line = self._out.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise TimedOut(f"the function has ended or timed out: {self.log[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        for end in (self._in, self._out):
            end.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log += line.decode(errors="replace")

    def _kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
