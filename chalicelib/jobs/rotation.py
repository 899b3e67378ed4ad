"""The rotation of keys as a function: for whoever has the right to invoke it, and no key, database or laptop to do it.

Deployed as ``chalicelib.jobs.rotation.rotate``, a name that stays. `docs/key-rotation.md` says when and how.
"""

from __future__ import annotations

from typing import Any

from chalice.app import Blueprint

from chalicelib import wiring

functions = Blueprint(__name__)


@functions.lambda_function(name="rotate")
def rotate(event: dict[str, Any], _context: object) -> dict[str, int]:
    """Run ``python -m chalicelib.jobs.rotate_keys`` with ``event["arguments"]``; ``exit_status`` is the command's.

    Its lines are in the function's log. Cut off by its time limit, it loses nothing: invoke it again.
    """
    from chalicelib.jobs.rotate_keys import main

    return {"exit_status": main([str(each) for each in event.get("arguments", [])])}


wiring.start()
