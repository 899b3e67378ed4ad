"""What wakes somebody up. `docs/operations.md` says what each alarm means and what to do.

Said once, in the members that CloudFormation and CloudWatch's own API share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chalicelib.watch import NAMESPACE
from deploy.stage import API, WORKER, Json, Stage

#: Errors of a function within five minutes that are more than bad luck.
ERRORS = {API: 5, "sweep": 3, WORKER: 5, "upkeep": 1, "rotate": 1, "stdio_runner": 5}
LAG_S = 900
KEY_ERRORS = "key_errors"
#: Lines that the key provider logs: whatever KMS refused or did not answer.
KEY_ERROR_PATTERN = '{ $.logger = "chalicelib.vault.kms" }'
KEY_USERS = (API, "sweep", WORKER, "rotate")

NameOf = Callable[[str], Any]


def alarms_of(stage: Stage, name_of: NameOf, dead_letters: Any) -> dict[str, Json]:
    """By a short name. ``name_of`` gives a function's name in AWS, ``dead_letters`` is that of the queue."""
    found: dict[str, Json] = {}
    for function in stage.functions:
        dimensions = {"FunctionName": name_of(function)}
        found[f"{function}-errors"] = _alarm("AWS/Lambda", "Errors", dimensions, ERRORS[function])
        found[f"{function}-throttles"] = _alarm("AWS/Lambda", "Throttles", dimensions, 1, periods=3)
    gateway = {"ApiName": stage.app, "Stage": stage.option("api_gateway_stage")}
    found["api-5xx"] = _alarm("AWS/ApiGateway", "5XXError", gateway, 5)
    found["dead-letters"] = _alarm(
        "AWS/SQS", "ApproximateNumberOfMessagesVisible", {"QueueName": dead_letters}, 1, statistic="Maximum"
    )
    for event in ("sweep", "tickets"):
        said = {"environment": stage.environment["APP_ENV"], "event": event}
        found[f"{event}-lag"] = _alarm(NAMESPACE, "lag_s", said, LAG_S, statistic="Maximum", periods=3)
    found["sweep-silent"] = _alarm("AWS/Lambda", "Invocations", {"FunctionName": name_of("sweep")}, 1) | {
        "ComparisonOperator": "LessThanThreshold",
        "TreatMissingData": "breaching",
    }
    found["key-errors"] = _alarm(NAMESPACE, f"{KEY_ERRORS}_{stage.name}", {}, 1)
    topic = stage.option("alarm_topic_arn")
    for name, alarm in found.items():
        alarm["AlarmName"] = f"{stage.prefix}-{name}"
        alarm["AlarmDescription"] = f"docs/operations.md, Alarms: {name}"
        alarm["AlarmActions"] = [topic] if topic else []
    return found


def _alarm(
    namespace: str, metric: str, dimensions: Json, at_least: float, *, statistic: str = "Sum", periods: int = 1
) -> Json:
    return {
        "Namespace": namespace,
        "MetricName": metric,
        "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
        "Statistic": statistic,
        "Period": 300,
        "EvaluationPeriods": periods,
        "Threshold": at_least,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
    }


def key_error_metric(stage: Stage) -> Json:
    """How CloudWatch counts the lines of :data:`KEY_ERROR_PATTERN`, in the camel case of CloudFormation."""
    return {"MetricNamespace": NAMESPACE, "MetricName": f"{KEY_ERRORS}_{stage.name}", "MetricValue": "1"}
