"""A stage as CloudFormation: Chalice's template, and the merge template with what it lacks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from chalice.cli.factory import CLIFactory
from chalice.package import PackageOptions, create_app_packager

from deploy.alarms import KEY_ERROR_PATTERN, KEY_USERS, alarms_of, key_error_metric
from deploy.aws import DAY_S, GATEWAY_ANSWERS, GATEWAY_HEADERS, redrive, visibility_s
from deploy.build import BUILDS, build
from deploy.policies import names_of
from deploy.project import configured
from deploy.stage import API, STDIO_RUNNER, WORKER, CannotDeploy, Json, Stage

QUEUE, DEAD_LETTERS = "SweepQueue", "SweepDeadLetters"
#: What Chalice calls the functions in its template.
LOGICAL = {API: "APIHandler", "stdio_runner": "StdioRunner"}


def package(stage: Stage) -> Path:
    """Write template and zip into `.chalice/build/<stage>-package/out`; returns the template's path. Needs no AWS."""
    keys = stage.kms_keys
    if not all(":key/" in key for key in keys):
        raise CannotDeploy("A template cannot look up what an alias points to: give KMS_KEY_ID as the key's ARN.")
    os.environ.setdefault("AWS_DEFAULT_REGION", keys[0].split(":")[3])  # Chalice asks for one, and calls nothing
    name = f"{stage.name}-package"
    project = build(name, stage.architecture)
    where = {"partition": "${AWS::Partition}", "region": "${AWS::Region}", "account": "${AWS::AccountId}"}
    runner = {"Fn::GetAtt": [LOGICAL[STDIO_RUNNER], "Arn"]}
    names = {each: names_of(stage, each, **where, kms_keys=keys, runner=runner) for each in stage.functions}
    # Names that only CloudFormation knows; the app needs the queue's name when it registers its handlers.
    environment = {
        **stage.environment,
        "SWEEP_QUEUE_URL": {"Ref": QUEUE},
        "STDIO_RUNNER_FUNCTION": {"Ref": LOGICAL[STDIO_RUNNER]},
    }
    config = configured(stage, project, environment, names, f"https://sqs.invalid/0/{stage.queue}")
    merge = project / ".chalice" / "merge.json"
    merge.write_text(json.dumps(merge_template(stage), indent=2))
    out = BUILDS / name / "out"
    options: PackageOptions = CLIFactory(str(project)).create_package_options()
    packager = create_app_packager(config, options, "cloudformation", "json", str(merge))
    packager.package_app(config, str(out), stage.name)
    return out / "sam.json"


def merge_template(stage: Stage) -> Json:
    """Queues, partial batches, log groups, the gateway's own answers, alarms."""
    resources: Json = {**_queues(stage), **_gateway_answers()}
    for function in stage.functions:
        logical, name = _logical(function), stage.function_name(function)
        # The name that policies and log groups know it by: CloudFormation would choose another.
        resources[logical] = {"Properties": {"FunctionName": name}}
        resources[f"{logical}Log"] = _log_group(name, stage.option("log_retention_in_days", function))
        if function in KEY_USERS:
            resources[f"{logical}KeyErrors"] = _key_errors(stage, f"{logical}Log")
    resources[_logical(WORKER)]["Properties"]["Events"] = {"WorkSqsEventSource": {"Properties": _batches(stage)}}
    alarms = alarms_of(stage, lambda each: {"Ref": _logical(each)}, {"Fn::GetAtt": [DEAD_LETTERS, "QueueName"]})
    for name, alarm in alarms.items():
        resources[_camel(name) + "Alarm"] = {"Type": "AWS::CloudWatch::Alarm", "Properties": alarm}
    return {"Resources": resources}


def _queues(stage: Stage) -> Json:
    dead = {"QueueName": stage.dead_letters, "MessageRetentionPeriod": 14 * DAY_S, "SqsManagedSseEnabled": True}
    queue = {
        "QueueName": stage.queue,
        "MessageRetentionPeriod": DAY_S,
        "VisibilityTimeout": visibility_s(stage),
        "RedrivePolicy": redrive({"Fn::GetAtt": [DEAD_LETTERS, "Arn"]}),
        "SqsManagedSseEnabled": True,
    }
    kept = {"Type": "AWS::SQS::Queue", "DeletionPolicy": "Delete", "UpdateReplacePolicy": "Delete"}
    return {DEAD_LETTERS: {**kept, "Properties": dead}, QUEUE: {**kept, "Properties": queue}}


def _batches(stage: Stage) -> Json:
    """How the worker takes messages."""
    most = stage.option("worker_concurrency")
    return {
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        **({"ScalingConfig": {"MaximumConcurrency": most}} if most else {}),
    }


def _gateway_answers() -> Json:
    return {
        f"Gateway{kind.title().replace('_', '')}": {
            "Type": "AWS::ApiGateway::GatewayResponse",
            "Properties": {
                "RestApiId": {"Ref": "RestAPI"},
                "ResponseType": kind,
                "ResponseParameters": GATEWAY_HEADERS,
            },
        }
        for kind in GATEWAY_ANSWERS
    }


def _log_group(function_name: str, days: int | None) -> Json:
    properties: Json = {"LogGroupName": f"/aws/lambda/{function_name}"}
    if days:
        properties["RetentionInDays"] = days
    kept = {"DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain"}
    return {"Type": "AWS::Logs::LogGroup", **kept, "Properties": properties}


def _key_errors(stage: Stage, log_group: str) -> Json:
    properties: Json = {
        "LogGroupName": {"Ref": log_group},
        "FilterPattern": KEY_ERROR_PATTERN,
        "MetricTransformations": [key_error_metric(stage)],
    }
    return {"Type": "AWS::Logs::MetricFilter", "Properties": properties}


def _logical(function: str) -> Any:
    return LOGICAL.get(function, _camel(function))


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.replace("_", "-").split("-"))
