"""What is refused before a deployment touches anything, and how each refusal says what to mend."""

from __future__ import annotations

import json
import re
import secrets
import sys
from pathlib import Path
from typing import Any

import pytest

from chalicelib import settings
from chalicelib.settings import Settings
from deploy import stage as stages
from deploy.__main__ import main
from deploy.build import GLIBC
from deploy.policies import policy_of
from deploy.stage import CONFIG, PYTHONS, CannotDeploy, check, read_stage

PLACES = ("config", "made", "local", "when deployed")
SHELL = {"SUPABASE_URL": "https://project.supabase.co", "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x"}


def refusal(shell: dict[str, str], stage: str = "dev", file: Path = CONFIG) -> str:
    with pytest.raises(CannotDeploy) as refused:
        check(read_stage(stage, shell, file))
    return str(refused.value)


def changed_config(tmp_path: Path, **changes: Any) -> Path:
    config = json.loads(CONFIG.read_text())
    config["stages"]["dev"]["settings"] |= changes
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    return file


@pytest.mark.parametrize("stage", ["dev", "prod"])
def test_a_stage_starts_with_a_project_and_its_publishable_key(stage: str) -> None:
    check(read_stage(stage, SHELL))


def test_everything_that_is_missing_is_named_at_once() -> None:
    told = refusal({})

    assert "SUPABASE_URL is missing" in told
    assert "SUPABASE_PUBLISHABLE_KEY is missing" in told
    assert "stage dev" in told


def test_settings_that_lambda_must_not_have_are_refused() -> None:
    assert "MCP_STDIO=any" in refusal({**SHELL, "MCP_STDIO": "any"})
    assert "loopback" in refusal({**SHELL, "EGRESS_ALLOW": "127.0.0.0/8"})
    assert "https" in refusal({**SHELL, "SUPABASE_URL": "http://project.supabase.co"})


def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    secret = f"sb_secret_{secrets.token_hex(8)}"
    file = changed_config(tmp_path, SUPABASE_SECRET_KEY=secret, SUPABASE_SECRET_KEY_PARAMETER="")

    told = refusal(SHELL, file=file)

    assert "SUPABASE_SECRET_KEY would be readable" in told
    assert secret not in told


def test_a_parameter_that_the_functions_may_not_read_is_refused() -> None:
    assert "/integrations/dev/* only" in refusal({**SHELL, "SUPABASE_SECRET_KEY_PARAMETER": "/integrations/prod/key"})


def test_the_shell_does_not_rename_the_environment_that_credentials_are_sealed_in() -> None:
    assert read_stage("prod", {**SHELL, "APP_ENV": "development"}).environment["APP_ENV"] == "prod"


def test_the_shell_changes_what_the_file_lists_and_nothing_else() -> None:
    stage = read_stage("dev", {**SHELL, "CHECK_INTERVAL_S": "600", "LOCAL_KEY_FILE": "/tmp/key"})

    assert stage.environment["CHECK_INTERVAL_S"] == "600"
    assert "LOCAL_KEY_FILE" not in stage.environment


def test_a_stage_that_does_not_exist_is_told_which_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--stage", "prd"]) == 1
    assert "There are: dev, prod." in capsys.readouterr().err


def test_arm_is_the_default_and_the_other_machine_a_setting() -> None:
    assert read_stage("prod", SHELL).architecture == "arm64"
    assert read_stage("prod", {**SHELL, "LAMBDA_ARCHITECTURE": "x86_64"}).architecture == "x86_64"
    assert "arm64, x86_64" in refusal({**SHELL, "LAMBDA_ARCHITECTURE": "riscv64"})


def test_a_python_that_lambda_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "sys", type("", (), {"version_info": (3, 19, 0)}))

    assert "This is Python 3.19, which Lambda does not have" in refusal(SHELL)
    assert sys.version_info[:2] in PYTHONS
    assert set(GLIBC) == set(PYTHONS)


def test_every_function_has_its_limits_and_a_policy_of_its_own() -> None:
    stage = read_stage("prod", SHELL)
    files = [stage.option("iam_policy_file", function) for function in stage.functions]

    assert len(set(files)) == len(files) == len(list(CONFIG.parent.glob("policy-*.json")))
    for function in stage.functions:
        assert stage.option("lambda_memory_size", function)
        assert stage.option("lambda_timeout", function)
        assert stage.option("log_retention_in_days", function)
    assert stage.option("lambda_timeout", "api_handler") == 29, "no answer after that reaches anybody"


def test_a_setting_that_exists_is_a_setting_that_can_be_deployed() -> None:
    listed = json.loads(CONFIG.read_text())["stages"]["prod"]["settings"].keys()
    local_only = {"local_key_file", "jwt_issuer_optional", "kms_endpoint_url"}
    made = {"on_lambda", "sweep_queue_url", "stdio_runner_function"}
    renamed = {
        "supabase_secret_key": "SUPABASE_SECRET_KEY_PARAMETER", "jwt_secret": "SUPABASE_JWT_SECRET_PARAMETER",
        "rest_url": "SUPABASE_REST_URL", "jwks_url": "SUPABASE_JWKS_URL", "jwt_issuer": "SUPABASE_JWT_ISSUER",
        "environment": "APP_ENV",
    }  # fmt: skip
    wanted = {renamed.get(name, name.upper()) for name in Settings.__dataclass_fields__.keys() - local_only - made}

    assert set(listed) == wanted


def test_every_setting_is_explained() -> None:
    source = Path(settings.__file__).read_text()
    read = set(re.findall(r'(?:text|url|number|_flag|_list|_key)\((?:reader, )?"([A-Z_]+)"', source))
    table = (CONFIG.parents[1] / "docs/operations.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| `") and line.rstrip(" |").endswith(PLACES)]
    explained = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row.split("|")[1])}

    assert len(read) > 25
    assert explained == read | {f"{name}_PARAMETER" for name in settings.SECRETS}


@pytest.mark.parametrize("traced", [False, True])
def test_rights_for_traces_are_there_only_where_they_are_switched_on(traced: bool) -> None:
    stage = read_stage("dev", SHELL)
    stage.config["stages"]["dev"]["xray"] = traced
    names = dict.fromkeys(
        ("APP_ENV", "STAGE", "PARTITION", "REGION", "ACCOUNT", "FUNCTION", "QUEUE", "KMS_KEY_ARNS", "STDIO_RUNNER_ARN"),
        "x",
    )
    actions = [action for each in policy_of(stage, "api_handler", names)["Statement"] for action in each["Action"]]

    assert ("xray:PutTraceSegments" in actions) == traced
