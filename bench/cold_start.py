"""Cold starts: from the first line of Python in the unpacked zip to the first answer, beside a floor without our code.

The floor is what no API of this kind can do without: Chalice's runtime, pydantic, PyJWT and one httpx client, with one
route that fetches the signing keys, verifies the caller's ES256 token, asks PostgREST the same question and presents a
model. Fresh processes by turns, the fastest of eleven each.
"""

from __future__ import annotations

import json
import logging
import subprocess
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
from moto.server import ThreadedMotoServer

from bench.packed import on_lambda, packed, stack_with_integrations
from chalicelib.jobs.tickets import TICKET
from tests.support.events import queue_event, request_event
from tests.support.functions import PYTHON, unpacked
from tests.support.rows import add_integration, one, schedule
from tests.support.stack import Stack
from tests.support.vendor import Vendor

PROCESSES = 11
WANTED = 1.3
PARAMETER = "/integrations/bench/supabase-secret-key"

API = """
import app
answer = app.app(event, context)
assert answer["statusCode"] == 200, answer
"""
#: Everything that the API does besides for its first answer: the floor.
FLOOR = """
import httpx, jwt, pydantic
from chalice.app import Chalice, Response

class Answer(pydantic.BaseModel):
    items: list[dict]
    next_cursor: str | None
    counts: dict[str, dict[str, int]]

app = Chalice("floor", configure_logs=False)
client = httpx.Client(trust_env=False)

@app.route("/integrations")
def list_integrations():
    token = app.current_request.headers["authorization"].removeprefix("Bearer ")
    keys = {key["kid"]: jwt.PyJWK(key) for key in client.get(env["SUPABASE_JWKS_URL"]).json()["keys"]}
    jwt.decode(token, keys[jwt.get_unverified_header(token)["kid"]], ["ES256"], audience="authenticated")
    headers = {"apikey": env["SUPABASE_PUBLISHABLE_KEY"], "Authorization": "Bearer " + token}
    found = client.post(env["SUPABASE_REST_URL"] + "/rpc/list_integrations", json={"p_limit": 50}, headers=headers)
    shown = Answer(items=found.json()["items"], next_cursor=None, counts=found.json()["counts"])
    return Response(shown.model_dump_json(), {"Content-Type": "application/json"})

answer = app(event, context)
assert answer["statusCode"] == 200, answer
"""
WORKER = """
from chalicelib.jobs import handlers
assert handlers.work(event, context) == {"batchItemFailures": []}
"""
RUNTIME = """
import time; began = time.perf_counter()
import json, os, sys
env = os.environ
class context:
    get_remaining_time_in_millis = staticmethod(lambda: 60_000)
    aws_request_id = "bench"
event = json.loads(env.pop("EVENT"))
sys.path.insert(0, env["LAMBDA_TASK_ROOT"])
out, sys.stdout = sys.stdout, sys.stderr
{code}
print((time.perf_counter() - began) * 1000, file=out, flush=True)
"""


def milliseconds(task: Path, code: str, event: Any, settings: Mapping[str, str]) -> float:
    environment = {**settings, "EVENT": json.dumps(event), "LAMBDA_TASK_ROOT": str(task), "PATH": "/usr/bin:/bin"}
    script = RUNTIME.replace("{code}", code)
    done = subprocess.run([PYTHON, "-ISB", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def fastest(runs: Mapping[str, Any]) -> dict[str, float]:
    """Of each kind of run the fastest, all by turns so that they meet the same machine."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(PROCESSES):
        for name, run in runs.items():
            best[name] = min(best[name], run())
    return best


def report() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # moto tells each request
    archive = packed()
    weigh(archive)
    with (
        stack_with_integrations() as (stack, user_id, token, folder),
        parameter_store(stack) as store,
        Vendor() as vendor,
    ):
        task = unpacked(archive.read_bytes(), folder)
        settings, request = on_lambda(stack), request_event("GET", "/integrations", token=token)
        kept = {name: value for name, value in settings.items() if name != "SUPABASE_SECRET_KEY"} | store
        local = stack.environment()
        due = _due(stack, user_id, vendor.url)
        best = fastest(
            {
                "floor": lambda: milliseconds(task, FLOOR, request, settings),
                "api": lambda: milliseconds(task, API, request, settings),
                "api, secret from the Parameter Store": lambda: milliseconds(task, API, request, kept),
                "worker": lambda: due() or milliseconds(task, WORKER, queue_event([TICKET]), local),
            }
        )
    ratio = best["api"] / best["floor"]
    print(f"From the first line of Python to the first answer, fastest of {PROCESSES} fresh processes, precompiled:")
    for name, spent in best.items():
        print(f"  {name:38} {spent:6.0f} ms")
    print(f"  the API takes {ratio:.2f} times the floor (wanted: at most {WANTED})")


def weigh(archive: Path) -> None:
    """The zip's size, and the heaviest packages in it."""
    heavy: Counter[str] = Counter()
    with zipfile.ZipFile(archive) as contents:
        unzipped = sum(each.file_size for each in contents.infolist())
        for each in contents.infolist():
            heavy[each.filename.partition("/")[0]] += each.compress_size
    print(f"The zip: {archive.stat().st_size / 1e6:.1f} MB, unpacked {unzipped / 1e6:.0f} MB (wanted: at most 20 MB)")
    print("  " + ", ".join(f"{name} {size / 1e6:.2f}" for name, size in heavy.most_common(10)))


@contextmanager
def parameter_store(stack: Stack) -> Iterator[dict[str, str]]:
    """The settings of a function whose secret is kept there."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    url = f"http://{host}:{port}"
    client = boto3.client(
        "ssm", "eu-central-1", endpoint_url=url, aws_access_key_id="bench", aws_secret_access_key="bench"
    )
    client.put_parameter(Name=PARAMETER, Value=stack.environment()["SUPABASE_SECRET_KEY"], Type="SecureString")
    try:
        yield {**keys, "AWS_ENDPOINT_URL": url, "SUPABASE_SECRET_KEY_PARAMETER": PARAMETER}
    finally:
        server.stop()


def _due(stack: Stack, user_id: UUID, vendor_url: str) -> Callable[[], None]:
    """Makes one integration due, as often as it is called."""
    with stack.database.connect() as connection:
        type_id = one(connection, "select id from public.integration_types where slug = 'custom-vendor'")
        config = json.dumps({"api_url": vendor_url})
        how = {"connection_config": config, "is_connected": True, "status": "connected"}
        integration = add_integration(connection, user_id, type_id, **how)
        schedule(connection, integration, user_id)

    def make_due() -> None:
        with stack.database.connect() as connection:
            connection.execute(
                "update public.integration_schedule set next_check_at = now() - interval '1 second'"
                " where user_integration_id = %s",
                [integration],
            )

    return make_due


if __name__ == "__main__":
    report()
