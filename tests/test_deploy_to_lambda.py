"""One stage from nothing to nothing: deployed to an AWS on this machine, used as it was deployed, updated, removed.

The tests share one account and run in the order that they stand in.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from typing import Any

import httpx2
import pytest

from tests.peers.mcp_servers import everything
from tests.support.lambda_world import STAGE, LambdaWorld, lambda_world
from tests.support.rows import add_integration, add_type, one, schedule
from tests.support.stack import Stack

DEADLINE_S = 30
API_KEY = secrets.token_hex(16)
FUNCTIONS = ("", "-sweep", "-work", "-upkeep", "-rotate", "-stdio_runner")
POISON = json.dumps({"not": "a ticket"})


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LambdaWorld]:
    with lambda_world(stack, tmp_path_factory.mktemp("lambda")) as world:
        yield world


@pytest.fixture(scope="module")
def deployed(world: LambdaWorld) -> CompletedProcess[str]:
    world.make_key_and_parameter()
    return world.up()


@pytest.fixture(scope="module")
def user(world: LambdaWorld, stack: Stack) -> Iterator[httpx2.Client]:
    """Somebody at a browser, before the deployed API."""
    _, token = stack.new_user()
    headers = {"Authorization": f"Bearer {token}", "Origin": "https://app.example.com"}
    with httpx2.Client(base_url=world.gateway.url, headers=headers, timeout=DEADLINE_S, trust_env=False) as client:
        yield client


def configuration(world: LambdaWorld, function: str) -> dict[str, Any]:
    found: dict[str, Any] = world.client("lambda").get_function_configuration(
        FunctionName=f"integrations-{STAGE}{function}"
    )
    return found


def policy(world: LambdaWorld, function: str) -> list[dict[str, Any]]:
    role = configuration(world, function)["Role"].rpartition("/")[2]
    iam = world.client("iam")
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    statements: list[dict[str, Any]] = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"][
        "Statement"
    ]
    return statements


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_without_key_and_secret_nothing_is_made_and_what_to_do_is_said(world: LambdaWorld) -> None:
    refused = world.up()

    assert refused.returncode == 1
    assert "there is no parameter /integrations/dev/supabase-secret-key" in refused.stderr
    assert "aws ssm put-parameter" in refused.stderr
    assert world.client("lambda").list_functions()["Functions"] == []


def test_a_stage_is_deployed_checked_and_its_address_told(world: LambdaWorld, deployed: CompletedProcess[str]) -> None:
    assert deployed.returncode == 0, deployed.stderr
    assert "Health: database ok, sign_in ok, keys ok" in deployed.stdout
    assert "answers at https://" in deployed.stdout
    assert world.secret_key not in deployed.stdout + deployed.stderr
    assert {each["FunctionName"] for each in world.client("lambda").list_functions()["Functions"]} == {
        f"integrations-{STAGE}{function}" for function in FUNCTIONS
    }


@pytest.mark.usefixtures("deployed")
def test_no_function_holds_a_secret_and_the_runner_of_commands_holds_nothing(world: LambdaWorld) -> None:
    for function in FUNCTIONS:
        variables = configuration(world, function).get("Environment", {}).get("Variables", {})
        assert world.secret_key not in variables.values()
        assert (variables == {}) == (function == "-stdio_runner")


@pytest.mark.usefixtures("deployed")
def test_each_function_may_do_its_work_and_nothing_else(world: LambdaWorld) -> None:
    allowed = {
        function: {action for each in policy(world, function) if each["Effect"] == "Allow" for action in each["Action"]}
        for function in FUNCTIONS
    }
    always = {"logs:CreateLogStream", "logs:PutLogEvents", "ssm:GetParameters"}

    assert allowed == {
        "": always | {"kms:GenerateDataKey", "kms:Decrypt", "lambda:InvokeFunction"},
        "-sweep": always | {"kms:Decrypt", "sqs:SendMessage"},
        "-work": always | {"kms:Decrypt", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"},
        "-upkeep": always,
        "-rotate": always | {"kms:GenerateDataKey", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo"},
        "-stdio_runner": set(),
    }
    assert [each["Effect"] for each in policy(world, "-stdio_runner")] == ["Deny"]


@pytest.mark.usefixtures("deployed")
def test_keys_serve_only_this_stages_credentials_and_rights_name_what_they_are_for(world: LambdaWorld) -> None:
    for function in FUNCTIONS[:-1]:
        for statement in policy(world, function):
            resources = statement["Resource"]
            assert "*" not in ([resources] if isinstance(resources, str) else resources)
            assert "${" not in json.dumps(statement)
            if any(action.startswith("kms:") for action in statement["Action"]):
                context = statement["Condition"]["StringEquals"]
                assert context == {
                    "kms:EncryptionContext:app": "integrations",
                    "kms:EncryptionContext:env": STAGE,
                    "kms:EncryptionContext:purpose": "credential",
                }


@pytest.mark.usefixtures("deployed")
def test_a_request_goes_through_the_deployed_api_to_the_database(user: httpx2.Client) -> None:
    body = {
        "integration_type": "custom-vendor", "name": "mine", "auth_method": "api_key", "test": True,
        "connection_config": {"api_url": "https://127.0.0.1/"}, "credentials": {"api_key": API_KEY},
    }  # fmt: skip
    refused = user.post("/integrations", json=body)
    made = user.post("/integrations", json=body | {"connection_config": {"api_url": "https://api.invalid/"}})

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
    assert made.status_code == 201, made.text
    assert made.json()["test_result"]["verdict"] == "network"
    assert made.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert [each["name"] for each in user.get("/integrations").json()["items"]] == ["mine"]
    assert user.get(f"/integrations/{uuid.uuid4()}").status_code == 404


@pytest.mark.usefixtures("deployed")
def test_a_command_runs_in_its_own_function_and_its_result_reaches_the_user(
    world: LambdaWorld, user: httpx2.Client, stack: Stack
) -> None:
    fixed = {"mcp": {"protocol": "stdio", "command": everything(), "args": ["stdio"]}}
    slug = f"command-{uuid.uuid4().hex}"
    with stack.database.connect() as connection:
        add_type(connection, slug=slug, definition=json.dumps(fixed), auth_methods=["none"])

    made = user.post("/integrations", json={"integration_type": slug, "name": "command", "test": True})

    assert made.status_code == 201, made.text
    assert made.json()["test_result"]["verdict"] == "ok"
    assert made.json()["test_result"]["capabilities"]["server"]["name"] == "mcp-servers/everything"


@pytest.mark.usefixtures("deployed")
def test_every_minute_what_is_due_is_checked_by_workers(world: LambdaWorld, stack: Stack) -> None:
    user_id, _ = stack.new_user()
    with stack.database.connect() as connection:
        vendor = one(connection, "select id from public.integration_types where slug = 'custom-vendor'")
        config = json.dumps({"api_url": "https://api.invalid/"})
        integration = add_integration(
            connection, user_id, vendor, connection_config=config, is_connected=True, status="connected"
        )
        schedule(connection, integration, user_id)

    started = world.fire("rate(1 minute)")

    def recorded() -> bool:
        with stack.database.connect() as connection:
            count = "select count(*) from public.integration_health_metrics where user_integration_id = %s"
            return bool(one(connection, count, [integration]) == 1)

    assert started == [f"integrations-{STAGE}-sweep"]
    assert eventually(recorded), world.log("-sweep") + world.log("-work")


@pytest.mark.usefixtures("deployed")
def test_a_poisonous_message_ends_among_the_dead_letters_and_its_batch_is_done(world: LambdaWorld) -> None:
    sqs = world.client("sqs")
    queue, dead = (sqs.get_queue_url(QueueName=f"integrations-{STAGE}-sweep{end}")["QueueUrl"] for end in ("", "-dead"))
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "0"})  # it comes back at once
    ticket = json.dumps({"ticket": "sweep", "version": 1})
    batch = [{"Id": str(n), "MessageBody": body} for n, body in enumerate((ticket, POISON, ticket))]
    sqs.send_message_batch(QueueUrl=queue, Entries=batch)

    def left(url: str) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(map(int, found.values()))

    assert eventually(lambda: left(dead) == 1 and left(queue) == 0), world.log("-work")
    assert [each["Body"] for each in sqs.receive_message(QueueUrl=dead)["Messages"]] == [POISON]


@pytest.mark.usefixtures("deployed")
def test_every_hour_the_upkeep_runs(world: LambdaWorld) -> None:
    assert world.fire("rate(1 hour)") == [f"integrations-{STAGE}-upkeep"]
    assert '"event": "upkeep"' in world.log("-upkeep")


@pytest.mark.usefixtures("deployed")
def test_keys_are_rotated_by_invoking_a_function(world: LambdaWorld) -> None:
    assert world.invoke("-rotate", {"arguments": ["--dry-run"]}) == {"exit_status": 0}
    assert "opened 1 of 1 credentials, 0 do not open" in world.log("-rotate")


@pytest.mark.usefixtures("deployed")
def test_every_line_of_every_function_is_json_without_secrets(world: LambdaWorld) -> None:
    spoken = {function: world.log(function).splitlines() for function in ("", "-sweep", "-work", "-upkeep")}

    assert all(spoken.values())
    for line in (line for lines in spoken.values() for line in lines):
        assert json.loads(line)["event"]
        assert API_KEY not in line
        assert world.secret_key not in line


@pytest.mark.usefixtures("deployed")
def test_nothing_wrote_into_the_code_that_it_ran_from(world: LambdaWorld) -> None:
    (task,) = (world.files / "tasks").iterdir()

    assert not [path for path in task.rglob("*") if path.stat().st_mode & 0o222]


@pytest.mark.usefixtures("deployed")
def test_logs_have_their_retention_and_alarms_their_thresholds(world: LambdaWorld) -> None:
    groups = world.client("logs").describe_log_groups()["logGroups"]
    alarms = world.client("cloudwatch").describe_alarms()["MetricAlarms"]

    assert {each["logGroupName"]: each["retentionInDays"] for each in groups} == {
        f"/aws/lambda/integrations-{STAGE}{function}": 90 if function == "-rotate" else 14 for function in FUNCTIONS
    }
    assert {each["AlarmName"].removeprefix(f"integrations-{STAGE}-") for each in alarms} >= {
        "api_handler-errors", "work-throttles", "dead-letters", "sweep-lag", "sweep-silent", "key-errors", "api-5xx",
    }  # fmt: skip


@pytest.mark.usefixtures("deployed")
def test_whoever_deploys_meanwhile_is_asked_to_wait(world: LambdaWorld) -> None:
    s3, bucket = world.client("s3"), f"integrations-deployments-123456789012-{world.client('s3').meta.region_name}"
    s3.put_object(Bucket=bucket, Key="integrations/dev.lock", Body=b"ada on laptop")
    refused = world.up()
    s3.delete_object(Bucket=bucket, Key="integrations/dev.lock")

    assert refused.returncode == 1
    assert "ada on laptop is deploying this stage" in refused.stderr


@pytest.mark.usefixtures("deployed")
def test_a_second_deployment_updates_and_mends_a_handler_that_has_moved(
    world: LambdaWorld, user: httpx2.Client
) -> None:
    world.client("lambda").update_function_configuration(
        FunctionName=f"integrations-{STAGE}-work", Handler="chalicelib.jobs.elsewhere.work"
    )
    mapping = world.client("lambda").list_event_source_mappings()["EventSourceMappings"]

    again = world.up(CHECK_INTERVAL_S="600")

    assert again.returncode == 0, again.stderr
    assert "work -> chalicelib.jobs.handlers.work" in again.stdout
    assert configuration(world, "-work")["Handler"] == "chalicelib.jobs.handlers.work"
    assert configuration(world, "")["Environment"]["Variables"]["CHECK_INTERVAL_S"] == "600"
    assert len(world.client("apigateway").get_rest_apis()["items"]) == 1
    after = world.client("lambda").list_event_source_mappings()["EventSourceMappings"]
    assert [each["UUID"] for each in after] == [each["UUID"] for each in mapping]
    assert [each["FunctionResponseTypes"] for each in after] == [["ReportBatchItemFailures"]]
    assert user.get("/integrations").status_code == 200


@pytest.mark.usefixtures("deployed")
def test_without_the_record_of_what_was_deployed_no_second_api_is_made(world: LambdaWorld) -> None:
    refused = world.up(DEPLOY_STATE_BUCKET="some-other-bucket")

    assert refused.returncode == 1
    assert "would make a second API" in refused.stderr
    assert len(world.client("apigateway").get_rest_apis()["items"]) == 1


@pytest.mark.usefixtures("deployed")
def test_a_removed_stage_leaves_only_logs_and_what_was_made_by_hand(world: LambdaWorld) -> None:
    removed = world.deploy("down")

    assert removed.returncode == 0, removed.stderr
    assert world.client("lambda").list_functions()["Functions"] == []
    assert world.client("lambda").list_event_source_mappings()["EventSourceMappings"] == []
    assert world.client("apigateway").get_rest_apis()["items"] == []
    assert world.client("iam").list_roles()["Roles"] == []
    assert world.client("events").list_rules()["Rules"] == []
    assert "QueueUrls" not in world.client("sqs").list_queues()
    assert world.client("cloudwatch").describe_alarms()["MetricAlarms"] == []
    assert world.client("logs").describe_metric_filters()["metricFilters"] == []
    assert [each["Name"] for each in world.client("s3").list_buckets()["Buckets"]] == ["some-other-bucket"]
    assert len(world.client("logs").describe_log_groups()["logGroups"]) == len(FUNCTIONS)
    assert world.client("kms").list_aliases()["Aliases"]


@pytest.mark.usefixtures("deployed")
def test_removing_what_is_not_there_is_no_error(world: LambdaWorld) -> None:
    assert world.deploy("down").returncode == 0
