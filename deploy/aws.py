"""What Chalice does not make, or makes wrong: put in order before and after it. Every step may be repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import boto3
from botocore.exceptions import ClientError

from deploy.alarms import KEY_ERROR_PATTERN, KEY_USERS, alarms_of, key_error_metric
from deploy.stage import WORKER, CannotDeploy, Json, Stage

#: A message that failed five times is poison.
MOST_RECEIVES = 5
DAY_S = 24 * 3600
SETTLING_S = 120
#: Answers that API Gateway makes by itself. They hold nothing of anybody's, so every origin may read them.
GATEWAY_ANSWERS = ("DEFAULT_4XX", "DEFAULT_5XX")
GATEWAY_HEADERS = {
    "gatewayresponse.header.Access-Control-Allow-Origin": "'*'",
    "gatewayresponse.header.Access-Control-Allow-Headers": "'Authorization,Content-Type,Idempotency-Key'",
}


def redrive(dead_letters_arn: Any) -> Json:
    return {"deadLetterTargetArn": dead_letters_arn, "maxReceiveCount": MOST_RECEIVES}


def visibility_s(stage: Stage) -> int:
    """Six times the worker's limit, as AWS advises: a message must not come back while it is worked on."""
    return 6 * int(stage.option("lambda_timeout", WORKER))


class Aws:
    """The account and region that the stage lives in."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._session = boto3.session.Session()
        self.region = self._session.region_name
        if not self.region:
            raise CannotDeploy("Say where to: set AWS_REGION, or a region in your AWS profile.")
        identity = self._client("sts").get_caller_identity()
        self.account: str = identity["Account"]
        self.partition: str = identity["Arn"].split(":")[1]

    def _client(self, service: str) -> Any:
        return self._session.client(service, region_name=self.region)  # type: ignore[call-overload]

    def s3(self) -> Any:
        return self._client("s3")

    def arn(self, service: str, name: str) -> str:
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{name}"

    def check_parameters(self) -> None:
        """Raise :class:`CannotDeploy` naming what is not in the Parameter Store, or there in plain text."""
        kept = self.stage.parameters
        if not kept:
            return
        answer = self._client("ssm").get_parameters(Names=sorted(kept.values()))
        problems = [f"there is no parameter {name}" for name in answer["InvalidParameters"]]
        problems += [
            f"parameter {each['Name']} is a {each['Type']}, not a SecureString"
            for each in answer["Parameters"]
            if each["Type"] != "SecureString"
        ]
        if problems:
            how = "aws ssm put-parameter --type SecureString --name NAME --value file:///dev/stdin"
            raise CannotDeploy(f"In {self.region}, {'; '.join(problems)}.\nTo put one there: {how}")

    def kms_key_arns(self) -> list[str]:
        """Of all keys that the settings name. Raises :class:`CannotDeploy` for one that cannot be used."""
        kms, arns = self._client("kms"), []
        for key_id in self.stage.kms_keys:
            try:
                found = kms.describe_key(KeyId=key_id)["KeyMetadata"]
            except ClientError as error:
                raise CannotDeploy(
                    f"KMS in {self.region} does not know {key_id} ({error.response['Error']['Code']}). To make it:\n"
                    "  aws kms create-key --query KeyMetadata.KeyId --output text\n"
                    f"  aws kms create-alias --alias-name alias/{self.stage.prefix} --target-key-id THE-ID"
                ) from None
            if found["KeyState"] != "Enabled":
                raise CannotDeploy(f"The KMS key {key_id} is {found['KeyState']}: enable it, or take it out.")
            arns.append(str(found["Arn"]))
        return arns

    def make_queues(self) -> str:
        """The queue of the sweep and its dead letters, as they should be; returns the queue's URL."""
        dead = self._queue(self.stage.dead_letters, {"MessageRetentionPeriod": str(14 * DAY_S)})
        dead_arn = self.arn("sqs", dead.rpartition("/")[2])
        attributes = {
            "MessageRetentionPeriod": str(DAY_S),
            "VisibilityTimeout": str(visibility_s(self.stage)),
            "RedrivePolicy": json.dumps(redrive(dead_arn)),
        }
        return self._queue(self.stage.queue, attributes)

    def _queue(self, name: str, attributes: Mapping[str, str]) -> str:
        sqs, wanted = self._client("sqs"), {**attributes, "SqsManagedSseEnabled": "true"}
        try:
            url: str = sqs.get_queue_url(QueueName=name)["QueueUrl"]
            sqs.set_queue_attributes(QueueUrl=url, Attributes=wanted)
        except sqs.exceptions.QueueDoesNotExist:
            url = sqs.create_queue(QueueName=name, Attributes=wanted)["QueueUrl"]
        return url

    def delete_queues(self) -> None:
        sqs = self._client("sqs")
        for name in (self.stage.queue, self.stage.dead_letters):
            with suppress(sqs.exceptions.QueueDoesNotExist):
                sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=name)["QueueUrl"])

    def deployed_functions(self) -> list[str]:
        """The stage's functions that exist, whoever made them."""
        client, found = self._client("lambda"), []
        for function in self.stage.functions:
            with suppress(client.exceptions.ResourceNotFoundException):
                client.get_function_configuration(FunctionName=self.stage.function_name(function))
                found.append(function)
        return found

    def mend_handlers(self, wanted: Mapping[str, str]) -> list[str]:
        """Point functions to where their code is now, which a redeploy leaves undone; returns those that had moved."""
        client, mended = self._client("lambda"), []
        for function, handler in wanted.items():
            name = self.stage.function_name(function)
            if client.get_function_configuration(FunctionName=name)["Handler"] != handler:
                client.get_waiter("function_updated_v2").wait(FunctionName=name)
                client.update_function_configuration(FunctionName=name, Handler=handler)
                mended.append(f"{function} -> {handler}")
        return mended

    def set_partial_batches(self) -> None:
        """Without it the messages that a worker hands back would be taken for done, and lost."""
        client, source = self._client("lambda"), self.arn("sqs", self.stage.queue)
        name = self.stage.function_name(WORKER)
        listed = client.list_event_source_mappings(EventSourceArn=source)["EventSourceMappings"]
        mappings = [each for each in listed if each["FunctionArn"].split(":")[6] == name]
        if not mappings:
            raise CannotDeploy(f"{name} does not listen to {self.stage.queue}: deploy again.")
        most = self.stage.option("worker_concurrency")
        for mapping in mappings:
            _wait_until_settled(client, mapping["UUID"])
            client.update_event_source_mapping(
                UUID=mapping["UUID"],
                FunctionResponseTypes=["ReportBatchItemFailures"],
                ScalingConfig={"MaximumConcurrency": most} if most else {},
            )

    def keep_logs(self) -> None:
        """Log groups with their retention, and the count of key errors in them. Functions may not make groups."""
        logs = self._client("logs")
        for function in self.stage.functions:
            name = self.stage.function_name(function)
            group = f"/aws/lambda/{name}"
            with suppress(logs.exceptions.ResourceAlreadyExistsException):
                logs.create_log_group(logGroupName=group)
            days = self.stage.option("log_retention_in_days", function)
            if days:
                logs.put_retention_policy(logGroupName=group, retentionInDays=days)
            if function in KEY_USERS:
                metric = key_error_metric(self.stage)
                logs.put_metric_filter(
                    logGroupName=group,
                    filterName=name,
                    filterPattern=KEY_ERROR_PATTERN,
                    metricTransformations=[{name[0].lower() + name[1:]: value for name, value in metric.items()}],
                )

    def set_alarms(self) -> None:
        cloudwatch = self._client("cloudwatch")
        for alarm in alarms_of(self.stage, self.stage.function_name, self.stage.dead_letters).values():
            cloudwatch.put_metric_alarm(**alarm)

    def delete_watching(self) -> None:
        names = [alarm["AlarmName"] for alarm in alarms_of(self.stage, str, "").values()]
        self._client("cloudwatch").delete_alarms(AlarmNames=names)
        logs = self._client("logs")
        for function in KEY_USERS:
            with suppress(logs.exceptions.ResourceNotFoundException):
                name = self.stage.function_name(function)
                logs.delete_metric_filter(logGroupName=f"/aws/lambda/{name}", filterName=name)

    def open_gateway_answers(self, rest_api_id: str) -> None:
        """Let browsers read what the gateway answers by itself. Each import of the API forgets it."""
        gateway = self._client("apigateway")
        for kind in GATEWAY_ANSWERS:
            gateway.put_gateway_response(restApiId=rest_api_id, responseType=kind, responseParameters=GATEWAY_HEADERS)
        gateway.create_deployment(restApiId=rest_api_id, stageName=self.stage.option("api_gateway_stage"))


def _wait_until_settled(client: Any, mapping_id: str) -> None:
    """AWS refuses to change a mapping that it is still making or changing; there is no waiter for that."""
    ends = time.monotonic() + SETTLING_S
    while client.get_event_source_mapping(UUID=mapping_id)["State"] in ("Creating", "Enabling", "Updating"):
        if time.monotonic() > ends:
            raise CannotDeploy("The worker's queue is not ready after two minutes: deploy again.")
        time.sleep(2)
