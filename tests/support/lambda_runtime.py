"""Runs in a function's own process: loads the handler from the unpacked zip, and serves events one after the other.

Standard library only, and a Python without any package of ours: what the zip lacks is missing here too. Reads a line of
JSON per event from one descriptor, writes one per answer to another; standard output and error are the log.
"""

import importlib
import json
import logging
import os
import sys
import time
import traceback
import uuid


class Context:
    def __init__(self, timeout_s):
        self._ends = time.monotonic() + timeout_s
        self.aws_request_id = str(uuid.uuid4())
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = "$LATEST"
        self.invoked_function_arn = (
            f"arn:aws:lambda:{os.environ['AWS_REGION']}:123456789012:function:{self.function_name}"
        )
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = f"/aws/lambda/{self.function_name}"
        self.log_stream_name = "stream"

    def get_remaining_time_in_millis(self):
        return int((self._ends - time.monotonic()) * 1000)


def serve(events, answers, timeout_s):
    logging.basicConfig(format="[%(levelname)s]\t%(asctime)s\t%(message)s", stream=sys.stdout)  # as Lambda does
    handler = None
    for line in events:
        try:
            if handler is None:  # a failing start fails every event, and is tried again
                module, _, name = os.environ["_HANDLER"].rpartition(".")
                handler = getattr(importlib.import_module(module), name)
            answer = {"result": json.loads(json.dumps(handler(json.loads(line), Context(timeout_s))))}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": {"errorType": type(error).__name__, "errorMessage": str(error)}}
        sys.stdout.flush()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.path.insert(0, os.environ["LAMBDA_TASK_ROOT"])
    serve(os.fdopen(int(sys.argv[1])), os.fdopen(int(sys.argv[2]), "w"), float(sys.argv[3]))
