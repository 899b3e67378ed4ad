"""The function that runs one command of the catalogue: no secrets in its environment, a role that allows nothing.

Deployed as ``chalicelib.jobs.stdio_runner.run_command``, a name that stays: a redeploy never changes a handler. It
knows no setting; what it may do is written here. What arrives and what it returns: ``chalicelib/probes/stdio_remote``.
"""

from __future__ import annotations

from typing import Any

from chalice.app import Blueprint

from chalicelib import wiring
from chalicelib.watch import log_to_stdout

PR_SET_DUMPABLE = 4

functions = Blueprint(__name__)


@functions.lambda_function(name="stdio_runner")
def run_command(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Check the target of ``event``, whose endpoint must be a command that its type fixes."""
    from chalicelib.probes.check import run_check
    from chalicelib.probes.stdio_remote import answer_of, request_in
    from chalicelib.services.endpoints import endpoint_of

    log_to_stdout()
    _hide_memory()
    target, mode, seconds = request_in(event)
    if endpoint_of(target.type, target.config).kind != "stdio":
        raise ValueError("this function connects to nothing")
    return answer_of(run_check(wiring.command_prober(seconds), target, mode))


def _hide_memory() -> None:
    """A command runs as the same user as this function, which has held other users' secrets: it may not look into
    ``/proc`` for them (prctl(2)). Programs that are started get their own setting back."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


wiring.loaded()
