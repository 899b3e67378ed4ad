"""What the app adds to a query: `GET /integrations` against the same call made directly to PostgREST, in turns."""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from local.api import serve
from local.processes import free_port
from tests.support.app import environment
from tests.support.postgres import Cluster
from tests.support.stack import Stack

ROWS = 50
ROUNDS = 300

FILL = """
insert into public.user_integrations (user_id, integration_type_id, name, auth_method, status, is_connected, last_verdict, connection_config)
select %(user)s, t.id, 'integration ' || n, 'none', 'connected', true, 'ok', '{"api_url": "https://api.example.com/v1"}'
from public.integration_types t, generate_series(1, 50) n where t.slug = 'custom-vendor';
insert into public.integration_health_hourly (user_id, user_integration_id, starts_at, checks, failures, success_ms)
select user_id, id, date_trunc('hour', now()) - h * interval '1 hour', 12, 1, array[31, 35, 48, 59, 64, 73, 88, 91, 120, 240, 260]
from public.user_integrations, generate_series(0, 23) h where user_id = %(user)s;
"""


def milliseconds(call: Callable[[], httpx.Response]) -> float:
    started = time.perf_counter()
    response = call()
    spent = (time.perf_counter() - started) * 1000
    assert response.status_code == 200
    return spent


def report() -> None:
    logging.disable(logging.INFO)  # the app's line per request would drown the figures
    cluster = Cluster()
    cluster.start()
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(cluster, Path(folder))
        stack.start()
        try:
            with environment(stack.environment()):
                _compare(stack)
        finally:
            stack.stop()
            cluster.stop()


def _compare(stack: Stack) -> None:
    user_id, token = stack.new_user()
    with stack.database.connect(autocommit=True) as connection:
        for statement in FILL.split(";\n")[:2]:
            connection.execute(statement, {"user": user_id})  # type: ignore[arg-type]
        connection.execute("analyze")
    port = free_port()
    server = serve(port)
    signed_in = {"Authorization": f"Bearer {token}"}
    with httpx.Client(headers=signed_in) as browser, httpx.Client(headers=signed_in) as direct:
        app_url = f"http://127.0.0.1:{port}/integrations?limit={ROWS}"
        rpc_url, body = f"{stack.postgrest.url}/rpc/list_integrations", {"p_limit": ROWS}
        assert len(json.loads(browser.get(app_url).content)["items"]) == ROWS
        ours, theirs = [], []
        for turn in range(ROUNDS + 30):
            pair = milliseconds(lambda: browser.get(app_url)), milliseconds(lambda: direct.post(rpc_url, json=body))
            if turn >= 30:
                ours.append(pair[0])
                theirs.append(pair[1])
    server.stop()
    app_ms, direct_ms = statistics.median(ours), statistics.median(theirs)
    print(f"GET /integrations, {ROWS} rows, {ROUNDS} times each by turns (wanted: at most 1.5 times)")
    print(f"  through the app {app_ms:.2f} ms, PostgREST directly {direct_ms:.2f} ms: {app_ms / direct_ms:.2f} times")


if __name__ == "__main__":
    report()
