"""What every sentence that a check shows to a person must hold."""

from __future__ import annotations

import re

#: Words that tell at which step a check stopped.
STEPS = {
    "policy": "before connecting|address",
    "dns": "looking up",
    "tcp": "connecting",
    "tls": "tls|certificate|secure",
    "auth": "refused|forbids|knows the|sign in|sign-in|signing in",
    "protocol": "answer|speak|exchange|protocol|redirects|request|command",
    "call": "call|answer|exchange",
}
#: An imperative at the start of a sentence or of its second half.
NEXT = re.compile(
    r"(?:[.;,] |^)(?:or )?(add|ask|check|choose|connect|copy|correct|create|fill|get|give|install|save|sign in|tell|try "
    r"again|use)\b",
    re.IGNORECASE,
)


def assert_can_be_acted_on(step: str, message: str) -> None:
    assert re.search(STEPS[step], message, re.IGNORECASE), (step, message)
    assert NEXT.search(message), message
    assert message[0].isupper()
    assert message.endswith(".")
