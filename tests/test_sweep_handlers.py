"""What AWS starts: the schedule, the workers of the queue and the upkeep, as Lambda and SQS call them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from chalice.app import Chalice
from moto import mock_aws

from chalicelib import wiring
from chalicelib.errors import AppError, Unavailable
from chalicelib.jobs import handlers
from chalicelib.jobs.tickets import TICKET, is_ticket
from chalicelib.store.sweeps import SweepStore
from tests.peers.field import Field
from tests.peers.kms import troubled_kms
from tests.support.app import environment
from tests.support.postgres import ROOT
from tests.support.sweeping import World

REGION = "eu-central-1"
SETTINGS = {"CHECK_INTERVAL_S": "86400", "SWEEP_BATCH": "10", "SWEEP_PER_HOST": "50"}


#: What EventBridge sends every minute.
TICK = {
    "version": "0", "id": "89d1a02d-5ec7-412e-82f5-13505f849b41", "detail-type": "Scheduled Event",
    "source": "aws.events", "account": "123456789012", "time": "2026-12-30T18:44:49Z", "region": REGION,
    "resources": ["arn:aws:events:eu-central-1:123456789012:rule/sweep"], "detail": {},
}  # fmt: skip


class Context:
    """Of a function that may run for a minute."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@contextmanager
def deployed(world: World, **more: str) -> Iterator[None]:
    with environment({**world.stack.environment(), **SETTINGS, **more}):
        yield


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


class Queue:
    """SQS as moto has it, with a queue for dead letters; and the mapping that calls the worker, as Lambda's does."""

    def __init__(self) -> None:
        self._sqs = boto3.client("sqs", region_name=REGION)
        self.dead = self._sqs.create_queue(QueueName="dead")["QueueUrl"]
        arn = self._sqs.get_queue_attributes(QueueUrl=self.dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3})
        self.url = self._sqs.create_queue(
            QueueName="sweeps", Attributes={"RedrivePolicy": policy, "VisibilityTimeout": "0"}
        )["QueueUrl"]

    def put(self, *bodies: str) -> None:
        for body in bodies:
            self._sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def bodies(self, url: str | None = None) -> list[str]:
        found = self._sqs.receive_message(QueueUrl=url or self.url, MaxNumberOfMessages=10, VisibilityTimeout=0)
        return [message["Body"] for message in found.get("Messages", ())]

    def drain(self) -> None:
        """Hand out batches until the queue is empty; what the worker did not report as failed is deleted."""
        while messages := self._sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=5).get("Messages"):
            records = [
                {"messageId": one["MessageId"], "receiptHandle": one["ReceiptHandle"], "body": one["Body"]}
                for one in messages
            ]
            answer = handlers.work({"Records": records}, Context())
            failed = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
            for record in records:
                if record["messageId"] not in failed:
                    self._sqs.delete_message(QueueUrl=self.url, ReceiptHandle=record["receiptHandle"])


@pytest.fixture
def queue() -> Iterator[Queue]:
    with mock_aws():
        yield Queue()


def test_without_a_queue_the_schedule_checks_by_itself_and_says_what_it_did(
    world: World, servers: Field, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = world.add(servers.at("/ok/{n}"), 12)
    ids += world.add(servers.at("/503"), 2)

    with deployed(world):
        handlers.sweep(TICK, Context())

    assert world.metrics() == dict.fromkeys(ids, 1)
    (line,) = said(capsys)
    figures = {name: line[name] for name in ("event", "environment", "due", "claimed", "checked", "recorded", "postponed",
                                             "verdict_ok", "verdict_provider_down", "round_trips", "kms_calls")}  # fmt: skip
    assert figures == {
        "event": "sweep", "environment": "test", "due": 14, "claimed": 14, "checked": 14, "recorded": 14, "postponed": 0,
        "verdict_ok": 12, "verdict_provider_down": 2, "round_trips": 4, "kms_calls": 0,
    }  # fmt: skip
    assert line["lag_s"] >= 1
    assert line["duration_s"] > 0
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
    assert all(isinstance(line[metric["Name"]], int | float) for metric in directive["Metrics"])
    assert all(isinstance(line[name], str) for names in directive["Dimensions"] for name in names)
    assert isinstance(line["_aws"]["Timestamp"], int)


def test_a_database_that_is_away_fails_the_function_so_that_lambda_counts_it(world: World) -> None:
    with deployed(world, SUPABASE_REST_URL="http://127.0.0.1:9"), pytest.raises(Unavailable):
        handlers.sweep(TICK, Context())


def test_with_a_queue_there_is_a_ticket_for_each_batch_and_workers_do_the_rest(
    world: World, servers: Field, queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = world.add(servers.at("/ok/{n}"), 34)

    with deployed(world, SWEEP_QUEUE_URL=queue.url):
        handlers.sweep(TICK, Context())
        tickets = queue.bodies()
        assert world.metrics() == {}
        queue.drain()

    assert tickets == [TICKET] * 4
    assert world.metrics() == dict.fromkeys(ids, 1)
    first, *workers = said(capsys)
    assert {name: first[name] for name in ("event", "due", "tickets")} == {"event": "tickets", "due": 34, "tickets": 4}
    assert sum(line["recorded"] for line in workers) == 34


def test_nothing_due_puts_no_ticket(world: World, queue: Queue) -> None:
    with deployed(world, SWEEP_QUEUE_URL=queue.url):
        handlers.sweep(TICK, Context())

    assert queue.bodies() == []


@pytest.mark.parametrize("code", ["OverLimit", "ServiceUnavailable"])
def test_where_the_queue_takes_no_tickets_the_schedule_does_the_work(
    world: World, servers: Field, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    ids = world.add(servers.at("/ok/{n}"), 12)

    with (
        troubled_kms(400, code) as sqs,
        deployed(world, SWEEP_QUEUE_URL=f"{sqs.url}/123456789012/sweeps", AWS_ENDPOINT_URL=sqs.url),
    ):
        handlers.sweep(TICK, Context())

    assert sqs.calls
    assert world.metrics() == dict.fromkeys(ids, 1)
    assert [line["event"] for line in said(capsys)] == ["tickets", "sweep"]


POISON = ["not json", "{}", '{"ticket": "sweep"}', '{"ticket": "sweep", "version": 2}', "[" * 100_000, '"sweep"']


@pytest.mark.parametrize("body", POISON)
def test_only_a_ticket_is_a_ticket(body: str) -> None:
    assert is_ticket(TICKET)
    assert not is_ticket(body)


def test_a_poison_message_ends_among_the_dead_letters_and_the_others_are_done(
    world: World, servers: Field, queue: Queue
) -> None:
    ids = world.add(servers.at("/ok/{n}"), 40)
    queue.put(TICKET, "poison", TICKET, TICKET, TICKET)

    with deployed(world, SWEEP_QUEUE_URL=queue.url):
        queue.drain()

    assert queue.bodies(queue.dead) == ["poison"]
    assert queue.bodies() == []
    assert world.metrics() == dict.fromkeys(ids, 1)


def test_tickets_that_could_not_be_worked_on_come_back(world: World) -> None:
    records = [{"messageId": name, "receiptHandle": "r", "body": TICKET} for name in ("a", "b")]

    with deployed(world, SUPABASE_REST_URL="http://127.0.0.1:9"):
        answer = handlers.work({"Records": records}, _Hurried())

    assert answer == {"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "b"}]}


def test_what_nobody_can_read_fails_the_function_and_brings_the_tickets_back(
    world: World, servers: Field, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Unreadable(SweepStore):
        def claim(self, limit: int, lease_s: int) -> Any:
            found = super().claim(limit, lease_s)
            return json.loads("[" * 100_000) if found["checks"] else found

    monkeypatch.setattr(wiring, "sweep_store", lambda: Unreadable(world.supabase))
    world.add(servers.at("/ok/{n}"), 3)

    with deployed(world):
        answer = handlers.work({"Records": [{"messageId": "a", "receiptHandle": "r", "body": TICKET}]}, Context())
        world.end_leases()
        with pytest.raises(AppError):
            handlers.sweep(TICK, Context())

    assert answer == {"batchItemFailures": [{"itemIdentifier": "a"}]}
    assert [line["failure"] for line in said(capsys)] == ["claim_unreadable"] * 2


class _Hurried:
    def get_remaining_time_in_millis(self) -> int:
        return 24_000


def test_stale_and_doubled_tickets_are_harmless(world: World, servers: Field, queue: Queue) -> None:
    ids = world.add(servers.at("/ok/{n}"), 3)
    queue.put(*[TICKET] * 12)

    with deployed(world, SWEEP_QUEUE_URL=queue.url):
        queue.drain()

    assert world.metrics() == dict.fromkeys(ids, 1)
    assert queue.bodies(queue.dead) == []


def registered(env: Mapping[str, str]) -> dict[str, str]:
    """Handler strings by name, as `chalice deploy` finds them."""
    code = (
        "import app, json\n"
        "print(json.dumps({source.name: source.handler_string for source in app.app.event_sources} | "
        "{'queue': getattr(source, 'queue', None) for source in app.app.event_sources if hasattr(source, 'queue')}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=dict(env), capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_the_app_registers_the_schedules_and_the_worker_only_where_there_is_a_queue() -> None:
    small = {"sweep": "chalicelib.jobs.handlers.sweep", "upkeep": "chalicelib.jobs.handlers.upkeep"}
    large = {**small, "work": "chalicelib.jobs.handlers.work", "queue": "sweeps"}

    assert registered({}) == small
    assert registered({"SWEEP_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/sweeps"}) == large


def test_the_schedules_are_every_minute_and_every_hour() -> None:
    app = Chalice("tried")
    app.register_blueprint(handlers.schedules)

    assert {source.name: source.schedule_expression for source in app.event_sources} == {
        "sweep": "rate(1 minute)", "upkeep": "rate(1 hour)",
    }  # fmt: skip


def test_workers_start_and_sweep_without_the_api(world: World, servers: Field) -> None:
    """As Lambda imports it: the module by itself; then one event of each kind."""
    ids = world.add(servers.at("/ok/{n}"), 3)
    code = f"""
import sys, json
from chalicelib.jobs import handlers
class Context:
    def get_remaining_time_in_millis(self): return 60_000
before = sorted(sys.modules)
handlers.sweep({TICK!r}, Context())
handlers.work({{"Records": [{{"messageId": "a", "receiptHandle": "r", "body": {TICKET!r}}}]}}, Context())
handlers.upkeep({TICK!r}, Context())
print(json.dumps([before, sorted(sys.modules)]))
"""
    env = {**world.stack.environment(), **SETTINGS}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    at_start, in_the_end = (set(names) for names in json.loads(done.stdout.splitlines()[-1]))
    assert world.metrics() == dict.fromkeys(ids, 1)
    foreign = {name for name in in_the_end if name.startswith("chalicelib.api")}
    assert foreign | in_the_end & {"app", "mcp", "asyncssh", "boto3"} == set()
    assert not at_start & {"anyio", "httpx", "httpx2", "postgrest", "cryptography", "tenacity"}
