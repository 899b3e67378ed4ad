"""The CloudFormation output: complete, valid, small enough, and with what Chalice leaves out."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from deploy.package import package
from deploy.stage import CannotDeploy, read_stage

SHELL = {
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x",
    "KMS_KEY_ID": "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555",
}
MOST_BYTES = 20_000_000


@pytest.fixture(scope="module")
def packaged() -> Path:
    """The template; packaging loads the app as it is deployed, which this process must not keep."""
    script = "import sys; from deploy.__main__ import main; sys.exit(main(['package', '--stage', 'prod']))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        env={"PATH": "/usr/bin:/bin", **SHELL},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1].rpartition(" ")[2])


@pytest.fixture(scope="module")
def resources(packaged: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(packaged.read_text())["Resources"]
    return found


def of_type(resources: dict[str, Any], type: str) -> dict[str, Any]:
    return {name: each["Properties"] for name, each in resources.items() if each["Type"] == f"AWS::{type}"}


def test_cfn_lint_finds_nothing(packaged: Path) -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run(
        [linter, packaged, "--regions", "eu-central-1", "us-east-1"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_all_functions_have_the_names_that_their_rights_and_logs_speak_of(resources: dict[str, Any]) -> None:
    names = {each["FunctionName"] for each in of_type(resources, "Serverless::Function").values()}
    logs = {each["LogGroupName"] for each in of_type(resources, "Logs::LogGroup").values()}

    assert names == {
        f"integrations-prod{end}" for end in ("", "-sweep", "-work", "-upkeep", "-rotate", "-stdio_runner")
    }
    assert logs == {f"/aws/lambda/{name}" for name in names}


def test_what_a_worker_hands_back_is_not_lost(resources: dict[str, Any]) -> None:
    source = resources["Work"]["Properties"]["Events"]["WorkSqsEventSource"]["Properties"]
    queues = of_type(resources, "SQS::Queue")

    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert queues["SweepQueue"]["RedrivePolicy"]["maxReceiveCount"] == 5
    assert queues["SweepQueue"]["VisibilityTimeout"] == 6 * resources["Work"]["Properties"]["Timeout"]


def test_browsers_may_read_what_the_gateway_answers_by_itself(resources: dict[str, Any]) -> None:
    answers = of_type(resources, "ApiGateway::GatewayResponse").values()

    assert {each["ResponseType"] for each in answers} == {"DEFAULT_4XX", "DEFAULT_5XX"}
    assert all("gatewayresponse.header.Access-Control-Allow-Origin" in each["ResponseParameters"] for each in answers)


def test_somebody_is_told_of_errors_throttles_dead_letters_lag_and_keys(resources: dict[str, Any]) -> None:
    watched = {(each["Namespace"], each["MetricName"]) for each in of_type(resources, "CloudWatch::Alarm").values()}

    assert watched == {
        ("AWS/Lambda", "Errors"), ("AWS/Lambda", "Throttles"), ("AWS/Lambda", "Invocations"),
        ("AWS/ApiGateway", "5XXError"), ("AWS/SQS", "ApproximateNumberOfMessagesVisible"),
        ("IntegrationSystem", "lag_s"), ("IntegrationSystem", "key_errors_prod"),
    }  # fmt: skip
    documented = (Path(__file__).parents[1] / "docs/operations.md").read_text()
    for alarm in of_type(resources, "CloudWatch::Alarm").values():
        name = alarm["AlarmDescription"].rpartition(" ")[2]
        kind = name if not name.endswith(("-errors", "-throttles")) else name.rpartition("-")[2]
        assert f"`{kind}`" in documented or f"`{name}`" in documented, name


def test_the_runner_of_commands_gets_no_setting_and_no_right(resources: dict[str, Any]) -> None:
    assert "Environment" not in resources["StdioRunner"]["Properties"]
    (policy,) = resources["StdioRunnerRole"]["Properties"]["Policies"]
    assert [each["Effect"] for each in policy["PolicyDocument"]["Statement"]] == ["Deny"]


def test_the_zip_is_small_and_every_module_in_it_is_compiled(packaged: Path) -> None:
    archive = packaged.with_name("deployment.zip")
    with zipfile.ZipFile(archive) as packed:
        names = set(packed.namelist())

    assert archive.stat().st_size <= MOST_BYTES
    assert "app.py" in names
    version = f"cpython-{sys.version_info[0]}{sys.version_info[1]}"
    for name in names:
        if name.endswith(".py"):
            folder, _, file = name.rpartition("/")
            assert f"{folder}/__pycache__/{file[:-3]}.{version}.pyc".lstrip("/") in names
    assert not {name for name in names if name.startswith(("tests/", "deploy/", "local/", "bench/", "moto/"))}


def test_an_alias_cannot_be_packaged() -> None:
    with pytest.raises(CannotDeploy, match="ARN"):
        package(read_stage("prod", {**SHELL, "KMS_KEY_ID": "alias/integrations-prod"}))
