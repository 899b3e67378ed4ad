"""Commands run elsewhere: in a function of their own, with nothing worth stealing around them (``security.md`` §5).

The payload holds the opened secrets of the one integration that is checked. It goes over TLS to AWS, which keeps no
record of it; nothing here logs it, and boto3 is kept from it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any, Literal, cast
from uuid import UUID

from anyio import to_thread

from chalicelib.errors import Unavailable
from chalicelib.model import AuthMethod, CheckResult, IntegrationType, Secret, Step, Target, Verdict
from chalicelib.probes.kept import DETAIL, MESSAGE, fitting, legible, shortened

Json = dict[str, Any]
Mode = Literal["full", "bare"]

#: A cold start, the command's own end, and the way there and back. With the longest check it stays below the
#: gateway's 29 seconds.
BESIDES_S = 3.5
MOST = 1_000_000_000
#: What reading an answer raises that is none: of another shape, with infinite numbers, or nested without end.
UNREADABLE = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
_DOWN = "The place where commands are run does not answer. Try again in a moment."
_log = logging.getLogger(__name__)


def payload_of(target: Target, mode: Mode, seconds: float) -> Json:
    """All that a check needs, secrets included: for the runner's eyes only."""
    type = target.type
    return {
        "type": {
            "id": str(type.id),
            "slug": type.slug,
            "name": type.name,
            "type": type.type,
            "category": type.category,
            "config_schema": dict(type.config_schema),
            "definition": dict(type.definition),
        },
        "auth_method": target.auth_method.value,
        "config": dict(target.config),
        "secrets": {name: secret.reveal() for name, secret in target.secrets.items()},
        "capabilities": None if target.capabilities is None else dict(target.capabilities),
        "mode": mode,
        "seconds": seconds,
    }


def request_in(payload: Mapping[str, Any]) -> tuple[Target, Mode, float]:
    """What :func:`payload_of` was given. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
    type = payload["type"]
    target = Target(
        IntegrationType(**{**type, "id": UUID(type["id"])}),
        AuthMethod(payload["auth_method"]),
        payload["config"],
        {name: Secret(value) for name, value in payload["secrets"].items()},
        payload["capabilities"],
    )
    if payload["mode"] not in ("full", "bare"):
        raise ValueError("mode")
    return target, payload["mode"], float(payload["seconds"])


def answer_of(result: CheckResult) -> Json:
    return {**result.as_json(), "retry_after_s": result.retry_after_s}


def result_in(answer: Mapping[str, Any]) -> CheckResult:
    """What :func:`answer_of` was given, in bounds. Raises one of :data:`UNREADABLE` for anything else.

    A command that has taken over the function could answer in its place, so this is the far side's as well.
    """
    return CheckResult(
        verdict=Verdict(answer["verdict"]),
        response_time_ms=_whole(answer["response_time_ms"]),
        error_message=None if answer["error_message"] is None else legible(answer["error_message"], MESSAGE),
        checked_at=datetime.fromisoformat(answer["checked_at"]),
        steps=tuple(Step(**shortened(step, DETAIL)) for step in answer["steps"]),
        capabilities=None if answer["capabilities"] is None else fitting(dict(answer["capabilities"])),
        retry_after_s=None if answer["retry_after_s"] is None else _whole(answer["retry_after_s"]),
    )


def _whole(value: Any) -> int:
    """A number that every database takes."""
    return max(0, min(int(value), MOST))


class LambdaRunner:
    """A ``StdioRunner``: invokes the function of this name. Connects on first use."""

    def __init__(self, function: str) -> None:
        self._function = function

    async def __call__(self, target: Target, mode: Mode, seconds: float) -> CheckResult:
        """The function's result. Raises :class:`Unavailable` when it gives none: which is not the target's fault."""
        payload = json.dumps(payload_of(target, mode, seconds)).encode()
        return await to_thread.run_sync(partial(self._invoked, payload, seconds), abandon_on_cancel=True)

    def _invoked(self, payload: bytes, seconds: float) -> CheckResult:
        from boto3.session import Session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        logging.getLogger("botocore").setLevel(logging.INFO)  # at DEBUG it prints requests
        config = Config(connect_timeout=1, read_timeout=seconds + BESIDES_S, retries={"total_max_attempts": 1})
        try:
            answer = Session().client("lambda", config=config).invoke(FunctionName=self._function, Payload=payload)
            if "FunctionError" in answer:
                raise _no_result(answer["FunctionError"])
            return result_in(cast("Json", json.loads(answer["Payload"].read())))
        except ClientError as error:
            raise _no_result(str(error.response.get("Error", {}).get("Code"))) from None
        except (BotoCoreError, *UNREADABLE) as error:
            raise _no_result(type(error).__name__) from None


def _no_result(why: str) -> Unavailable:
    _log.warning("the stdio runner gave no result: %s", why)
    return Unavailable(_DOWN)
