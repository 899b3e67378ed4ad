"""What whoever watches the system gets to see: one line of JSON per event, with metrics in it. Standard library only.

AWS Lambda Powertools would write the same lines; loading it costs a cold start 25 ms or more, this module nothing.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

NAMESPACE = "IntegrationSystem"


def metrics_line(
    event: str, environment: str, figures: Mapping[str, float], units: Mapping[str, str], said: Mapping[str, Any]
) -> str:
    """A log line that CloudWatch also reads ``figures`` from, as metrics by environment and event.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    metrics = [{"Name": name, "Unit": unit} for name, unit in units.items()]
    directive = {"Namespace": NAMESPACE, "Dimensions": [["environment", "event"]], "Metrics": metrics}
    line = {
        "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]},
        "event": event,
        "environment": environment,
        **figures,
        **said,
    }
    return json.dumps(line)


class JsonLines(logging.Formatter):
    """Our own lines, which are JSON already, as they are; everything else wrapped. Never more than the type of an
    exception: its text may quote a header or a row."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if message.startswith("{"):
            return message
        line = {"event": "log", "level": record.levelname, "logger": record.name, "message": message}
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line)


def log_to_stdout() -> None:
    """Write every log line to standard output, where Lambda takes it from, instead of what Lambda has set up: its own
    handler puts words in front of each line, and CloudWatch finds no metrics behind them."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("integrations").setLevel(logging.INFO)
