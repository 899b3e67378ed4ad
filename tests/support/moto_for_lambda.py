"""A moto server on which a Chalice app can be deployed and run: `python -m tests.support.moto_for_lambda PORT FOLDER`.

moto 5.2 lacks five things that AWS has; each is patched here, and nowhere in the product:

* the import of a REST API takes Swagger 2.0, with or without a description;
* Lambda runs the function's zip, in a process instead of a container;
* SQS hands batches to functions, and takes partial failures back;
* a metric filter that is put again replaces the one of its name;
* logs of functions can be read from `FOLDER/logs`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from moto.apigateway.models import APIGatewayBackend
from moto.awslambda.models import LambdaFunction, lambda_backends
from moto.logs.metric_filters import MetricFilters
from moto.server import main
from moto.sqs.models import Queue, sqs_backends

from tests.support.functions import Execution, TimedOut, unpacked

ACCOUNT = "123456789012"
POLL_S = 0.1

folder = Path()
endpoint = ""


def accept_swagger() -> None:
    import_api, put_api = APIGatewayBackend.import_rest_api, APIGatewayBackend.put_rest_api

    def as_openapi_3(document: dict[str, Any]) -> dict[str, Any]:
        changed = {name: value for name, value in document.items() if name != "swagger"}
        return {**changed, "openapi": "3.0.1", "info": {"description": "", **document["info"]}}

    def import_rest_api(self: Any, api_doc: dict[str, Any], fail_on_warnings: bool) -> Any:
        return import_api(self, as_openapi_3(api_doc), fail_on_warnings)

    def put_rest_api(self: Any, function_id: str, api_doc: dict[str, Any], *how: Any, **options: Any) -> Any:
        return put_api(self, function_id, as_openapi_3(api_doc), *how, **options)

    APIGatewayBackend.import_rest_api = import_rest_api  # type: ignore[method-assign]
    APIGatewayBackend.put_rest_api = put_rest_api  # type: ignore[method-assign]


def run_zips() -> None:
    def invoke(function: Any, event: Any = None) -> tuple[str, bool, str]:
        event = json.loads(event) if isinstance(event, str) else event
        task = unpacked(function.code_bytes, folder / "tasks")
        environment = {
            "AWS_LAMBDA_FUNCTION_NAME": function.function_name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size),
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.run_time}",
            "AWS_REGION": function.region,
            "AWS_DEFAULT_REGION": function.region,
            "AWS_ACCESS_KEY_ID": "ASIAFUNCTION",
            "AWS_SECRET_ACCESS_KEY": "of-the-role",
            "AWS_SESSION_TOKEN": "of-the-session",
            "AWS_ENDPOINT_URL": endpoint,
            **function.environment_vars,
        }
        execution = Execution(task, function.handler, environment, float(function.timeout))
        try:
            answer = execution.invoke(event)
        except TimedOut as error:
            answer = {"error": {"errorType": "Sandbox.Timedout", "errorMessage": str(error)}}
        finally:
            execution.close()
            with (folder / "logs" / function.function_name).open("a") as log:
                log.write(execution.log)
        failed = "error" in answer
        return json.dumps(answer["error"] if failed else answer["result"]), failed, execution.log

    LambdaFunction._invoke_lambda = invoke  # type: ignore[method-assign]


def hand_out_batches() -> None:
    def add_message(queue: Any, message: Any) -> None:
        with queue._messages_lock:
            queue._messages.append(message)
            queue._messages_lock.notify_all()

    Queue.add_message = add_message  # type: ignore[method-assign]

    def poll() -> None:
        while True:
            time.sleep(POLL_S)
            for region, backend in list(lambda_backends[ACCOUNT].items()):
                for mapping in list(backend._event_source_mappings.values()):
                    hand_out(region, backend, mapping)

    threading.Thread(target=poll, daemon=True).start()


def hand_out(region: str, backend: Any, mapping: Any) -> None:
    queues, name = sqs_backends[ACCOUNT][region], mapping.event_source_arn.rpartition(":")[2]
    if name not in queues.queues or not mapping.enabled:
        return
    visibility = queues.queues[name].visibility_timeout
    messages = queues.receive_message(name, mapping.batch_size, 0, visibility)
    if not messages:
        return
    records = [
        {
            "messageId": message.id,
            "receiptHandle": message.receipt_handle,
            "body": message.body,
            "attributes": {"ApproximateReceiveCount": str(message.approximate_receive_count)},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": mapping.event_source_arn,
            "awsRegion": region,
        }
        for message in messages
    ]
    result, failed, _ = backend.get_function(mapping.function_arn, None)._invoke_lambda({"Records": records})
    returned = json.loads(result) if not failed else {}
    partial = "ReportBatchItemFailures" in (mapping.function_response_types or [])
    kept = {each["itemIdentifier"] for each in (returned or {}).get("batchItemFailures", [])} if partial else set()
    for message in messages:
        if not failed and message.id not in kept:
            queues.delete_message(name, message.receipt_handle)


def replace_filters() -> None:
    add_filter = MetricFilters.add_filter

    def put(self: Any, filter_name: str, filter_pattern: str, log_group_name: str, transformations: Any) -> None:
        self.delete_filter(filter_name, log_group_name)
        add_filter(self, filter_name, filter_pattern, log_group_name, transformations)

    MetricFilters.add_filter = put  # type: ignore[method-assign]


if __name__ == "__main__":
    port, folder = sys.argv[1], Path(sys.argv[2])
    endpoint = f"http://127.0.0.1:{port}"
    (folder / "logs").mkdir()
    os.environ["MOTO_PORT"] = port
    accept_swagger()
    run_zips()
    hand_out_batches()
    replace_filters()
    main(["-p", port])
