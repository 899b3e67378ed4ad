"""`GET /integrations` at 16 at once through the zip as it is deployed, against PostgREST asked without us.

As on Lambda there is one process per request under way, warm, and each serves one event at a time. PostgREST alone is
asked by as many processes of the same kind, which hold nothing but the standard library's HTTP client.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.packed import ROWS, on_lambda, packed, stack_with_integrations
from tests.support.events import request_event
from tests.support.functions import Execution, unpacked

AT_ONCE = 16
SECONDS = 10.0

DIRECT = """
import http.client, json, os
from urllib.parse import urlsplit

connection = http.client.HTTPConnection(urlsplit(os.environ["SUPABASE_REST_URL"]).netloc)

def handle(event, context):
    headers = {"Authorization": event["headers"]["Authorization"], "Content-Type": "application/json"}
    connection.request("POST", "/rpc/list_integrations", json.dumps({"p_limit": 50}), headers)
    response = connection.getresponse()
    return {"statusCode": response.status, "body": response.read().decode()}
"""


def report() -> None:
    with stack_with_integrations() as (stack, _, token, folder), tempfile.TemporaryDirectory() as direct:
        Path(direct, "direct.py").write_text(DIRECT)
        settings, event = on_lambda(stack), request_event("GET", "/integrations", token=token)
        task = unpacked(packed().read_bytes(), folder)
        ours = _measured(task, "app.app", settings, event)
        theirs = _measured(Path(direct), "direct.handle", settings, event)
    print(f"GET /integrations, {ROWS} rows, {AT_ONCE} at once for {SECONDS:g} s, all on this machine:")
    for name, (per_second, middle, p99) in {"the deployed zip": ours, "PostgREST alone": theirs}.items():
        print(f"  {name:16} {per_second:6.0f} requests per second, p50 {middle:5.1f} ms, p99 {p99:5.1f} ms")
    print(f"  {ours[0] / theirs[0]:.2f} of what PostgREST alone gives")


def _measured(task: Path, handler: str, settings: Mapping[str, str], event: Any) -> tuple[float, float, float]:
    """Requests per second, and the middle and the 99th percentile of milliseconds."""
    executions = [Execution(task, handler, settings, timeout_s=29) for _ in range(AT_ONCE)]
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda each: _asked(each, event), executions))  # the cold start
            began = time.perf_counter()
            each_spent = list(pool.map(lambda each: _asked_for(each, event, began + SECONDS), executions))
            seconds = time.perf_counter() - began
    finally:
        for execution in executions:
            execution.close()
    spent = sorted(ms for one in each_spent for ms in one)
    return len(spent) / seconds, statistics.median(spent), spent[int(len(spent) * 0.99)]


def _asked_for(execution: Execution, event: Any, until: float) -> list[float]:
    spent = []
    while time.perf_counter() < until:
        spent.append(_asked(execution, event))
    return spent


def _asked(execution: Execution, event: Any) -> float:
    began = time.perf_counter()
    answer = execution.invoke(event)
    spent = (time.perf_counter() - began) * 1000
    assert answer["result"]["statusCode"] == 200, answer
    return spent


if __name__ == "__main__":
    report()
