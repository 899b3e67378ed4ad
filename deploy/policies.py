"""The policy files of `.chalice/`, with the names of one deployment put in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.stage import CONFIG, Json, Stage

_PLACE = re.compile(r"\$\{(\w+)\}")
TRACES = "WriteTraces"

#: What a placeholder stands for: text, or, where CloudFormation fills it in, one of its expressions.
Names = Mapping[str, Any]


def policy_of(stage: Stage, function: str, names: Names) -> Json:
    """The rights of one function. Those for traces are left out where nobody traces."""
    file = CONFIG.with_name(stage.option("iam_policy_file", function))
    policy = json.loads(file.read_text())
    traced = stage.option("xray", function, False)
    policy["Statement"] = [each for each in policy["Statement"] if traced or each["Sid"] != TRACES]
    filled: Json = _filled(policy, names)
    return filled


def _filled(value: Any, names: Names) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, names) for each in value]
    if not isinstance(value, str):
        return value
    whole = _PLACE.fullmatch(value)
    if whole:
        return names[whole[1]]
    text = _PLACE.sub(lambda place: str(names[place[1]]), value)
    return {"Fn::Sub": text} if "${" in text else text


def names_of(
    stage: Stage, function: str, *, partition: str, region: str, account: str, kms_keys: Sequence[str], runner: Any
) -> Names:
    return {
        "APP_ENV": stage.environment["APP_ENV"],
        "STAGE": stage.name,
        "PARTITION": partition,
        "REGION": region,
        "ACCOUNT": account,
        "FUNCTION": stage.function_name(function),
        "QUEUE": stage.queue,
        "KMS_KEY_ARNS": list(kms_keys),
        "STDIO_RUNNER_ARN": runner,
    }
